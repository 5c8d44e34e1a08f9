"""Globs that match no file of the project, and globs that can't be read."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from symmetra_mcp.audit.findings import Finding, Shape, concerned, listed
from symmetra_mcp.scopes import glob_problem, matches_any

if TYPE_CHECKING:
    from symmetra_mcp.types import Rule

MAX_FILES = 50_000
"""Files of a folder that are looked at; where there are more, no glob is called dead."""
_SKIPPED = frozenset({".git", ".hg", ".svn", "node_modules", ".venv", "venv", "__pycache__"})

_FOLDER = re.compile(r"/?[^*/]+/")
"""Begins with the name of a folder."""


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
    """Globs that can't be read, and those that no file matches, each with the rules that they limit.

    A list such as `*.js, *.jsx` may well name files that are not there yet. So of a list that matches something, only
    globs that name a folder are told.

    Args:
        rules: The rules.
        files: Files by project; a project whose folder is not known here has none.
    """
    limited: defaultdict[tuple[str, tuple[str, ...]], list[Rule]] = defaultdict(list)
    for rule in rules:
        for globs in dict.fromkeys(scope.globs for scope in rule.scopes if scope.globs):
            limited[rule.project_id, globs].append(rule)
    findings: list[Finding] = []
    for (project_id, globs), found in sorted(limited.items(), key=lambda item: item[0]):
        findings += [
            _finding(
                "unreadable",
                f"the glob {pattern!r} can't be read: {problem}",
                "correct it in the file that states the rule",
                found,
            )
            for pattern in globs
            if (problem := glob_problem(pattern))
        ]
        if project_id in files:
            findings += _dead(globs, files[project_id], found)
    return findings


def _dead(globs: Sequence[str], files: ProjectFiles, rules: Sequence[Rule]) -> Iterator[Finding]:
    included = [glob for glob in globs if not glob.startswith("!") or glob.startswith("!(")]
    if not files.complete or not files.paths or not included:
        return
    dead = [glob for glob in included if not glob_problem(glob) and not matches_any(glob, files.paths)]
    none = f"none of the {len(files.paths):,} files of the project"
    if len(dead) == len(included):
        which = (
            f"the glob {dead[0]!r} matches" if len(dead) == 1 else f"the globs {listed(list(map(repr, dead)))} match"
        )
        step = "correct it, or delete its rules where what they were about is gone"
        yield _finding("matches-nothing", f"{which} {none}", step, rules)
        return
    for glob in dead:
        if _FOLDER.match(glob):
            step = "correct it, or take it out of the list"
            yield _finding("matches-nothing", f"the glob {glob!r}, of several, matches {none}", step, rules)


def _finding(shape: Shape, about: str, next_step: str, rules: Sequence[Rule]) -> Finding:
    return Finding(
        kind="globs",
        shape=shape,
        about=about,
        next_step=next_step,
        rules=tuple(concerned(rule) for rule in rules),
    )
