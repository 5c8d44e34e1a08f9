"""Which files below a path are rule files: one pass over the folders, links followed only inside the root."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from symmetra_mcp.errors import RuleFileError
from symmetra_mcp.ingest.decode import decode
from symmetra_mcp.ingest.dialects import MARKDOWN, NATIVE, Dialect, base_of, dialect_of
from symmetra_mcp.ingest.model import Skipped
from symmetra_mcp.ingest.native import DATA_SUFFIXES
from symmetra_mcp.ingest.parse import IMPORT_LINE

_PRUNED_WORDS = """
.git .hg .svn node_modules bower_components .venv venv virtualenv site-packages __pycache__ .tox .nox
.mypy_cache .ruff_cache .pytest_cache .hypothesis .eggs dist build out target vendor third_party .next .nuxt
.svelte-kit .turbo .parcel-cache .cache .gradle .idea .terraform .dart_tool Pods DerivedData coverage htmlcov
.yarn .pnpm-store .direnv
"""
PRUNED = frozenset(_PRUNED_WORDS.split())
"""Folders that hold what tools made or fetched; rule files in them belong to others."""
_DOT_FOLDERS = re.compile(r"(?:^|/)\.(?:cursor|claude|github|windsurf|clinerules|roo|kiro|symmetra|ruler)(?:/|$)")
_ROOT_MARKERS = re.compile(r"/(?:\.cursor|\.claude|\.github|\.windsurf|\.clinerules|\.roo|\.kiro|\.symmetra)(?:/.*)?$")
_NOT_RULES = re.compile(r"^(?:readme|changelog|contributing|license|licence|code_of_conduct|security|authors)\b", re.I)
_PATH_LINE = re.compile(r"^[\w@./+() -]{1,300}\.\w{1,12}$")
_UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control and direction characters, which could rewrite a terminal, and bytes of a name that are not UTF-8."""
_MAX_LINK_BYTES = 400
_MAX_IMPORT_DEPTH = 5


@dataclass(frozen=True, slots=True)
class RuleFile:
    """A file to read.

    Attributes:
        path: POSIX path relative to the root.
        location: Where it lies on the disk.
        base: The folder, relative to the root, that its rules are about.
    """

    path: str
    location: Path
    dialect: Dialect
    base: str


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found.

    Attributes:
        files: By path; no file twice, however many links name it.
        links: Paths that only point to another rule file, with the file they point to.
        skipped: Paths that could not be read or followed, and why.
    """

    root: Path
    files: tuple[RuleFile, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    skipped: tuple[Skipped, ...] = ()


@dataclass(slots=True)
class _Search:
    """What a search has gathered so far. `found` and `links` are keyed by paths relative to the root."""

    root: Path
    found: dict[str, RuleFile] = field(default_factory=dict)
    links: dict[str, Path] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    followed: set[str] = field(default_factory=set)

    def relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path != self.root else ""


def project_root(path: Path) -> Path:
    """The project of a path: the nearest folder with `.git`, else the one that holds its dot folder, else itself."""
    place = Path(os.path.abspath(path))
    folder = place if place.is_dir() else place.parent
    for candidate in (folder, *folder.parents):
        if (candidate / ".git").exists():
            return candidate
    marker = _ROOT_MARKERS.search(folder.as_posix())
    return Path(folder.as_posix()[: marker.start()] or "/") if marker else folder


def discover(paths: Sequence[Path], root: Path) -> Discovery:
    """Every rule file at or below `paths`.

    Raises:
        RuleFileError: A path does not exist, lies outside the root, or is a file of a kind that holds no rules.
    """
    search = _Search(Path(os.path.realpath(root)))
    for path in paths:
        _search_path(search, path)
    _resolve_links(search)
    _follow_text(search)
    files = tuple(search.found[path] for path in sorted(search.found))
    links = tuple(sorted((path, search.relative(target)) for path, target in search.links.items()))
    skipped = tuple(Skipped(path, reason) for path, reason in sorted(search.skipped.items()))
    return Discovery(search.root, files, links, skipped)


def _search_path(search: _Search, path: Path) -> None:
    place = _placed(search, path)
    if place.is_dir():
        before = len(search.found) + len(search.links)
        _walk(search, place)
        if before == len(search.found) + len(search.links) and not (place / ".git").exists():
            _walk(search, place, any_markdown=True)
    elif place.is_file():
        relative = search.relative(place)
        dialect = dialect_of(relative) or _named_dialect(relative)
        if dialect is None:
            raise RuleFileError(f"{path} is no rule file: name a .md, .mdc, .yaml, .json or .jsonl file, or a folder")
        _add(search, place, dialect)
    else:
        raise RuleFileError(f"{path} does not exist, or is neither a file nor a folder")


def _placed(search: _Search, path: Path) -> Path:
    """The path below the root, its own last part not resolved, since a link is known by its own name."""
    absolute = Path(os.path.abspath(path))
    if not os.path.lexists(absolute):
        raise RuleFileError(f"{path} does not exist")
    place = Path(os.path.realpath(absolute.parent)) / absolute.name if absolute.name else absolute
    if absolute.is_dir():
        place = Path(os.path.realpath(absolute))
    if not place.is_relative_to(search.root):
        raise RuleFileError(f"{path} lies outside the project root {search.root}")
    return place


def _named_dialect(path: str) -> Dialect | None:
    """The dialect of a file that someone named, whose path says nothing."""
    if path.endswith(DATA_SUFFIXES):
        return NATIVE
    return MARKDOWN if path.endswith((".md", ".markdown", ".txt")) else None


def _walk(search: _Search, top: Path, *, any_markdown: bool = False) -> None:
    pending = [top]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as exc:
            search.skipped[search.relative(folder)] = f"the folder can't be read: {exc.strerror}"
            continue
        if folder != top and any(entry.name == "pyvenv.cfg" for entry in entries):
            continue
        pending += [Path(entry.path) for entry in reversed(entries) if _enters(search, entry)]
        for entry in entries:
            _consider(search, entry, any_markdown=any_markdown)


def _enters(search: _Search, entry: os.DirEntry[str]) -> bool:
    """Whether to walk into a folder; a linked one is walked once, and only inside the root."""
    try:
        if not entry.is_dir():
            return False
    except OSError:
        return False
    relative = search.relative(Path(entry.path))
    inside_rules = _DOT_FOLDERS.search(relative.rpartition("/")[0])
    if entry.name in (".git", "node_modules") or (entry.name in PRUNED and not inside_rules):
        return False
    if not entry.is_symlink():
        return True
    target = os.path.realpath(entry.path)
    if not Path(target).is_relative_to(search.root):
        search.skipped[relative] = "the link leads out of the project root"
        return False
    if Path(entry.path).is_relative_to(target) or target in search.followed:
        return False
    search.followed.add(target)
    return True


def _consider(search: _Search, entry: os.DirEntry[str], *, any_markdown: bool) -> None:
    relative = search.relative(Path(entry.path))
    dialect = dialect_of(relative)
    if dialect is None and any_markdown and entry.name.endswith(".md") and not _NOT_RULES.match(entry.name):
        dialect = MARKDOWN
    if dialect is None:
        return
    try:
        is_file = entry.is_file()
    except OSError as exc:
        search.skipped[relative] = f"can't be read: {exc.strerror}"
        return
    if is_file:
        _add(search, Path(entry.path), dialect)
    elif entry.is_symlink() and not entry.is_dir():
        search.skipped[relative] = "the link leads nowhere"
    elif not entry.is_dir():
        search.skipped[relative] = "neither a file nor a folder"


def _shown(path: str) -> str:
    """A path whose name can't be stored or shown as it is, so that it can."""
    return path.encode("unicode_escape").decode("ascii")


def _add(search: _Search, place: Path, dialect: Dialect) -> None:
    relative = search.relative(place)
    if _UNSHOWABLE.search(relative):
        search.skipped[_shown(relative)] = "its name holds characters that can't be shown; rename it"
        return
    target = Path(os.path.realpath(place))
    if not target.is_relative_to(search.root):
        search.skipped[relative] = "the link leads out of the project root"
    elif target != place:
        search.links[relative] = target
        search.found.setdefault(relative, RuleFile(relative, place, dialect, base_of(relative, dialect)))
    else:
        search.found[relative] = RuleFile(relative, place, dialect, base_of(relative, dialect))


def _resolve_links(search: _Search) -> None:
    """Keep one of the names of each linked file: the file's own if that is a rule file's, else the first link's."""
    owners: dict[Path, str] = {}
    for path in sorted(search.links):
        target = search.links[path]
        own = search.relative(target)
        keeper = own if own in search.found else owners.setdefault(target, path)
        if keeper != path:
            del search.found[path]
        elif dialect := dialect_of(own):
            del search.found[path]  # outside the searched folders, but a rule file by its own name
            search.found[own] = RuleFile(own, target, dialect, base_of(own, dialect))
    for path in [path for path in search.links if path in search.found]:
        del search.links[path]


def _follow_text(search: _Search) -> None:
    """Follow files that only name another, as links that git checked out as text do, and `@path` lines."""
    pending = [(search.found[path], 0) for path in sorted(search.found)]
    while pending:
        file, depth = pending.pop(0)
        text = _text_for_links(file)
        if _is_path(text) and _pull(search, file, text.strip(), depth, pending):
            search.links[file.path] = _target(file, text.strip())
            del search.found[file.path]
            continue
        for line in text.split("\n") if "@" in text else ():
            named = IMPORT_LINE.match(line)
            if named:
                _pull(search, file, named[1], depth, pending)


def _text_for_links(file: RuleFile) -> str:
    """The text to look for links in; what can't be read is reported when it is parsed."""
    if file.path.endswith(DATA_SUFFIXES):
        return ""
    try:
        if not stat.S_ISREG(file.location.stat().st_mode):
            return ""
        data = file.location.read_bytes()
        if len(data) > _MAX_LINK_BYTES and b"@" not in data:
            return ""
        return decode(data).text
    except (OSError, RuleFileError):
        return ""


def _is_path(text: str) -> bool:
    line = text.strip()
    return len(line) < _MAX_LINK_BYTES and "\n" not in line and bool(_PATH_LINE.match(line)) and " " not in line


def _target(file: RuleFile, named: str) -> Path:
    return Path(os.path.realpath(file.location.parent / named))


def _pull(search: _Search, file: RuleFile, named: str, depth: int, pending: list[tuple[RuleFile, int]]) -> bool:
    """Add the file that another names, once; False when there is none inside the root."""
    if named.startswith("~") or depth >= _MAX_IMPORT_DEPTH:
        return False
    target = _target(file, named)
    if not target.is_relative_to(search.root):
        search.skipped[f"{file.path} -> {named}"] = "the import leads out of the project root"
        return False
    if not target.is_file() or target == file.location:
        return False
    relative = search.relative(target)
    if relative not in search.found and relative not in search.links:
        own = dialect_of(relative)
        if own is None and not relative.endswith((".md", ".mdc", ".txt", ".markdown")):
            return False
        pulled = RuleFile(relative, target, own or file.dialect, base_of(relative, own) if own else file.base)
        search.found[relative] = pulled
        pending.append((pulled, depth + 1))
    return relative in search.found
