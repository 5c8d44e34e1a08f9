"""Globs that match no file of the project, and globs that can't be read."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from symmetra_mcp.audit.findings import Finding, concerned
from symmetra_mcp.scopes import glob_problem, matching_glob
from symmetra_mcp.types import Scope

if TYPE_CHECKING:
    from symmetra_mcp.types import Rule

MAX_FILES = 50_000
"""Files of a folder that are looked at; where there are more, no glob is called dead."""
_SKIPPED = frozenset({".git", ".hg", ".svn", "node_modules", ".venv", "venv", "__pycache__"})


@dataclass(frozen=True, slots=True)
class ProjectFiles:
    """The files of a project.

    Attributes:
        paths: Relative to the root, POSIX.
        complete: Whether these are all.
    """

    root: Path
    paths: tuple[str, ...]
    complete: bool


def files_below(root: Path, limit: int = MAX_FILES) -> ProjectFiles:
    """Every file of a folder, but for those of version control, packages and environments."""
    found: list[str] = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED)
        place = Path(folder).relative_to(root).as_posix()
        found += [name if place == "." else f"{place}/{name}" for name in sorted(names)]
        if len(found) > limit:
            return ProjectFiles(root, tuple(found[:limit]), complete=False)
    return ProjectFiles(root, tuple(found), complete=True)


def glob_findings(rules: Iterable[Rule], files: Mapping[str, ProjectFiles]) -> list[Finding]:
    """Globs that no file matches or that can't be read, each with the rules that it limits.

    Args:
        rules: The rules.
        files: Files by project; a project whose folder is not known here has none.
    """
    limited: defaultdict[tuple[str, str], list[Rule]] = defaultdict(list)
    for rule in rules:
        for pattern in dict.fromkeys(glob for scope in rule.scopes for glob in scope.globs):
            limited[rule.project_id, pattern].append(rule)
    findings: list[Finding] = []
    for (project_id, pattern), found in sorted(limited.items()):
        problem = glob_problem(pattern)
        if problem:
            about = f"the glob {pattern!r} can't be read: {problem}; its rules apply to every file"
            findings.append(_finding("unreadable", about, "correct it in the file that states the rule", found))
        elif project_id in files and _matches_nothing(pattern, files[project_id]):
            about = f"the glob {pattern!r} matches none of the {len(files[project_id].paths):,} files of the project"
            step = "correct it, or delete its rules where what they were about is gone"
            findings.append(_finding("matches-nothing", about, step, found))
    return findings


def _matches_nothing(pattern: str, files: ProjectFiles) -> bool:
    if not files.complete or not files.paths or (pattern.startswith("!") and not pattern.startswith("!(")):
        return False
    scope = (Scope("files", (pattern,)),)
    return all(matching_glob(scope, path) is None for path in files.paths)


def _finding(shape: str, about: str, next_step: str, rules: list[Rule]) -> Finding:
    return Finding(
        kind="globs",
        shape="unreadable" if shape == "unreadable" else "matches-nothing",
        about=about,
        next_step=next_step,
        rules=tuple(concerned(rule) for rule in rules),
    )
