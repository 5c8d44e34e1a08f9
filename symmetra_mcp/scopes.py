"""Does a rule apply to a file: globs as the rule files of editors mean them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from wcmatch import glob
from wcmatch._wcparse import PatternLimitException  # wcmatch raises it and exports it nowhere else

if TYPE_CHECKING:
    from symmetra_mcp.types import Scope

_FLAGS = glob.GLOBSTAR | glob.BRACE | glob.DOTGLOB | glob.NEGATE | glob.NEGATEALL | glob.FORCEUNIX | glob.EXTGLOB
_MAX_EXPANSIONS = 256
_ANYTHING = re.compile("")
_FILE_URI = re.compile(r"file:(?://([^/?#]*))?(/[^?#]*)", re.IGNORECASE)
_DRIVE = re.compile(r"/?([A-Za-z]):")

TECH_STACKS_BY_SUFFIX: dict[str, tuple[str, ...]] = {
    ".astro": ("astro",),
    ".c": ("c",),
    ".cc": ("cpp",),
    ".cpp": ("cpp",),
    ".cs": ("csharp",),
    ".css": ("css",),
    ".cts": ("typescript",),
    ".cxx": ("cpp",),
    ".dart": ("dart",),
    ".ex": ("elixir",),
    ".exs": ("elixir",),
    ".go": ("go",),
    ".h": ("c", "cpp"),
    ".hpp": ("cpp",),
    ".html": ("html",),
    ".ipynb": ("python",),
    ".java": ("java",),
    ".js": ("javascript",),
    ".jsx": ("javascript", "react"),
    ".kt": ("kotlin",),
    ".kts": ("kotlin",),
    ".less": ("css",),
    ".lua": ("lua",),
    ".mjs": ("javascript",),
    ".mts": ("typescript",),
    ".php": ("php",),
    ".ps1": ("powershell",),
    ".py": ("python",),
    ".pyi": ("python",),
    ".rb": ("ruby",),
    ".rs": ("rust",),
    ".scala": ("scala",),
    ".bash": ("shell", "bash"),
    ".scss": ("css", "scss"),
    ".sh": ("shell", "bash"),
    ".sol": ("solidity",),
    ".sql": ("sql",),
    ".svelte": ("svelte", "javascript", "typescript"),
    ".swift": ("swift",),
    ".tf": ("terraform",),
    ".ts": ("typescript",),
    ".tsx": ("typescript", "react"),
    ".vue": ("vue", "javascript", "typescript"),
    ".zig": ("zig",),
}
"""Tech stacks that a file's suffix tells, in the names that rules use."""

_TECH_STACKS_BY_NAME: dict[str, tuple[str, ...]] = {
    "dockerfile": ("docker",),
    "docker-compose.yml": ("docker",),
    "docker-compose.yaml": ("docker",),
    "compose.yaml": ("docker",),
    "go.mod": ("go",),
    "cargo.toml": ("rust",),
    "pyproject.toml": ("python",),
    "requirements.txt": ("python",),
    "package.json": ("javascript", "typescript"),
    "tsconfig.json": ("typescript",),
    "gemfile": ("ruby",),
    "pom.xml": ("java",),
    "build.gradle": ("java", "kotlin"),
}


def plain_path(path: str) -> str:
    """A path without the dress of a `file://` address, in which some clients name files; any other as it is.

    A drive or a server makes it a Windows path, whichever system this is.
    """
    address = _FILE_URI.match(path)
    if address is None:
        return path
    host, local = unquote(address[1] or ""), unquote(address[2])
    if _DRIVE.fullmatch(host):
        return host + local
    if host and host.lower() != "localhost":
        return str(PureWindowsPath(f"//{host}{local}"))
    return local[1:] if _DRIVE.match(local) else local


def relative_path(path: str, root: str = "") -> str:
    """A path as globs see it: POSIX, relative to the project's root.

    Args:
        path: Absolute, relative or Windows path of a file, or its `file://` address.
        root: The project's root; an absolute `path` outside it is kept whole, without its leading slash.
    """
    path = plain_path(path)
    windows = "\\" in path or bool(re.match(r"[A-Za-z]:", path))
    posix = PureWindowsPath(path).as_posix() if windows else path
    base = PureWindowsPath(root).as_posix().rstrip("/") if root else ""
    inside = posix.casefold().startswith(f"{base}/".casefold()) if windows else posix.startswith(f"{base}/")
    if base and inside:
        posix = posix[len(base) + 1 :]
    parts: list[str] = []
    for part in PurePosixPath(posix).parts:
        if part == "..":
            del parts[-1:]
        elif part not in ("/", "."):
            parts.append(part)
    return "/".join(parts)


def matching_glob(scopes: Sequence[Scope], path: str) -> str | None:
    """Which glob makes a rule apply to a file.

    Args:
        scopes: Where the rule applies; any of them suffices.
        path: As `relative_path` gives it.

    Returns:
        The glob; an empty string for a rule that no glob limits; `None` when the rule is about other files.
    """
    unlimited = False
    for scope in scopes:
        if not scope.globs:
            unlimited = True
            continue
        matched = _matching(scope.globs, path)
        if matched is not None:
            return matched
    return "" if unlimited else None


def matches_any(pattern: str, paths: Iterable[str]) -> bool:
    """Whether a glob matches one of these paths at least, given as `relative_path` gives them."""
    return any(_matches(pattern, path) for path in paths)


def glob_problem(pattern: str) -> str:
    """Why a glob can't be read as it was meant, or an empty string."""
    if _compiled(pattern.removeprefix("!")) == (_ANYTHING,):
        return "it is no pattern, or stands for too many"
    for opening, closing in ("{}", "[]", "()"):
        if pattern.replace(f"\\{opening}", "").count(opening) != pattern.replace(f"\\{closing}", "").count(closing):
            return f"{opening!r} and {closing!r} are not in pairs"
    return ""


def tech_stacks_of(path: str) -> tuple[str, ...]:
    """The tech stacks that a file's name tells, or none."""
    name = PurePosixPath(path.replace("\\", "/")).name.lower()
    by_name = _TECH_STACKS_BY_NAME.get(name)
    if by_name is None and name.startswith("dockerfile"):
        by_name = ("docker",)
    return by_name or TECH_STACKS_BY_SUFFIX.get(PurePosixPath(name).suffix, ())


@lru_cache(maxsize=4096)
def _matching(globs: tuple[str, ...], path: str) -> str | None:
    positive = [pattern for pattern in globs if not _excludes(pattern)]
    excluded = [pattern[1:] for pattern in globs if _excludes(pattern)]
    if any(_matches(pattern, path) for pattern in excluded if _compiled(pattern) != (_ANYTHING,)):
        return None
    if not positive:
        return globs[0]
    return next((pattern for pattern in positive if _matches(pattern, path)), None)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> tuple[re.Pattern[str], ...]:
    try:
        included, _ = glob.translate(_anywhere(pattern), flags=_FLAGS, limit=_MAX_EXPANSIONS)
        return tuple(re.compile(expression) for expression in included)
    except (ValueError, re.error, PatternLimitException):
        return (_ANYTHING,)  # a rule must not vanish because its glob can't be read


def _excludes(pattern: str) -> bool:
    return pattern.startswith("!") and not pattern.startswith("!(")  # `!(a|b)` is an extended glob


def _anywhere(pattern: str) -> str:
    return pattern.removeprefix("/") if "/" in pattern else f"**/{pattern}"


def _matches(pattern: str, path: str) -> bool:
    return any(expression.match(path) for expression in _compiled(pattern))
