"""The project in hand: where it is, what it is called, and whether its rule files changed."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from symmetra_mcp.errors import ConfigError, RuleFileError
from symmetra_mcp.ingest.discover import discover, project_root

if TYPE_CHECKING:
    from symmetra_mcp.config import Settings

SHARED_PROJECT = "shared"
"""Rules imported under this name count in every project."""
STARTER_PROJECT = "starter"
"""The rules that symmetra-mcp brings along."""
_TOP_LEVEL_MARKS = (
    ".cursor",
    ".cursorrules",
    "AGENTS.md",
    "CLAUDE.md",
    "GEMINI.md",
    ".claude",
    ".windsurfrules",
    ".windsurf",
    ".clinerules",
    ".roo",
    ".roorules",
    ".kiro",
    ".symmetra",
    "symmetra-rules.yaml",
    "symmetra-rules.yml",
    "symmetra-rules.json",
    "symmetra-rules.jsonl",
)


@dataclass(frozen=True, slots=True)
class RuleFolder:
    """Rule files that share a root.

    Attributes:
        root: What their paths and globs are relative to.
        project_id: Their project in the store.
        paths: Files and folders to read.
    """

    root: Path
    project_id: str
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Project:
    """The folder that is worked in, and the rules that count there.

    Attributes:
        root: What the path of a file in hand is relative to.
        project_id: Its name in the store.
        folders: What is read by itself; empty when that is turned off.
    """

    root: Path
    project_id: str
    folders: tuple[RuleFolder, ...]

    @property
    def project_ids(self) -> tuple[str, ...]:
        """The projects in the store whose rules count here, the starter rules aside."""
        return tuple(dict.fromkeys([self.project_id, *(folder.project_id for folder in self.folders), SHARED_PROJECT]))


def project_id_of(root: Path, *, shared_store: bool = False) -> str:
    """A name for a folder: its own, and six digits that tell two folders of one name apart.

    In a team's store its own name alone: the project lies in another place on each machine.
    """
    name = re.sub(r"[^a-z0-9]+", "-", root.name.lower()).strip("-")[:40] or "project"
    if shared_store:
        return name
    digest = hashlib.sha256(str(root.resolve()).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{name}-{digest[:6]}"


def project_in_hand(settings: Settings, *, shared_store: bool = False) -> Project | None:
    """The project that the working folder belongs to.

    Args:
        settings: Name the folder, and what is read.
        shared_store: Rules are kept in a team's store: what one machine has checked out is written there only where
            `SYMMETRA_RULES` says so.

    Returns:
        `None` where the folder is no project: the home folder, the root of a disk, a folder with neither `.git` nor a
        rule file or folder at its top. Nothing is searched for below such a folder, as it may hold everything that its
        user owns.

    Raises:
        ConfigError: `SYMMETRA_PROJECT_DIR` names no folder.
        RuleFileError: `SYMMETRA_RULES` names a path that does not exist.
    """
    if settings.project_dir is not None and not settings.working_folder.is_dir():
        raise ConfigError(
            f"`SYMMETRA_PROJECT_DIR` names {str(settings.working_folder)!r}, which is no folder: set it to the "
            "project's folder, or leave it out"
        )
    root = project_root(settings.working_folder)
    project_id = settings.project or project_id_of(root, shared_store=shared_store)
    if settings.rules:
        return Project(root, project_id, tuple(_named_folders(settings, root, project_id, shared_store)))
    if not _is_project(root):
        return None
    reads_itself = settings.rules is None and not shared_store
    return Project(root, project_id, (RuleFolder(root, project_id, (root,)),) if reads_itself else ())


def rule_files(folder: RuleFolder) -> list[Path]:
    """Every rule file there: a walk through its folders."""
    return [file.location for file in discover(folder.paths, folder.root).files]


def files_digest(paths: Sequence[Path]) -> str:
    """Changes whenever one of these files is added, removed or written."""
    digest = hashlib.sha256()
    for path in paths:
        with suppress(OSError):
            stat = path.stat()
            digest.update(f"{path}\0{stat.st_mtime_ns}\0{stat.st_size}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _named_folders(settings: Settings, root: Path, project_id: str, shared_store: bool) -> Iterator[RuleFolder]:
    """What `SYMMETRA_RULES` names: inside the project it belongs to it, outside to a project of its own."""
    by_root: dict[Path, list[Path]] = {}
    for name in settings.rules or ():
        path = Path(os.path.abspath(settings.working_folder / Path(name).expanduser()))
        if not path.exists():
            raise RuleFileError(f"`SYMMETRA_RULES` names {str(path)!r}, which does not exist")
        by_root.setdefault(root if path.is_relative_to(root) else project_root(path), []).append(path)
    for own_root, paths in by_root.items():
        own_id = project_id if own_root == root else project_id_of(own_root, shared_store=shared_store)
        yield RuleFolder(own_root, own_id, tuple(paths))


def _is_project(root: Path) -> bool:
    if root == Path.home() or root == Path(root.anchor):
        return False
    return any((root / mark).exists() for mark in (".git", ".github", *_TOP_LEVEL_MARKS))
