"""The dialects of rule files: which paths they have, and where they say that their rules apply.

A dialect is a row of `DIALECTS`. All of them share one reader of scope, since they differ only in the names of keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from symmetra_mcp.ingest.frontmatter import Frontmatter
from symmetra_mcp.ingest.globs import folder_globs, normalize_globs, parse_globs
from symmetra_mcp.types import Scope, ScopeMode

_GLOB_KEYS = ("globs", "applyTo", "paths", "fileMatchPattern", "glob")


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of rule file.

    Attributes:
        pattern: Matches `/` + a file's POSIX path relative to the root.
        glob_key: The frontmatter key of its file patterns.
        mode_key: The frontmatter key that names how it applies, whose values `modes` maps.
        unscoped: The mode of a file that has frontmatter but neither patterns nor a description.
        folder_scoped: Whether a file in a folder is about that folder.
    """

    name: str
    pattern: re.Pattern[str]
    glob_key: str = ""
    mode_key: str = ""
    modes: Mapping[str, ScopeMode] = field(default_factory=dict[str, ScopeMode])
    unscoped: ScopeMode = "everywhere"
    folder_scoped: bool = True


def _row(name: str, pattern: str, **fields: object) -> Dialect:
    return Dialect(name, re.compile(pattern), **fields)  # type: ignore[arg-type]  # the rows below are the only callers


_TRIGGERS: Mapping[str, ScopeMode] = {
    "always_on": "everywhere", "always": "everywhere", "model_decision": "on_request", "auto": "on_request",
    "manual": "manual", "glob": "files", "filematch": "files",
}  # fmt: skip
_ALWAYS = frozenset({"always_on", "always"})

NATIVE = _row(
    "native",
    r"/\.symmetra/rules/.*\.(?:yaml|yml|json|jsonl|md)$|/symmetra-rules\.(?:yaml|yml|json|jsonl)$",
    glob_key="globs",
    folder_scoped=False,
)
MARKDOWN = _row("markdown", r"(?!)", glob_key="globs", folder_scoped=False)
"""A Markdown file that someone named as a rule file; no path implies it."""

DIALECTS: tuple[Dialect, ...] = (
    NATIVE,
    _row("cursor-mdc", r"/\.cursor/rules/.*\.(?:mdc|md)$|\.mdc$", glob_key="globs", unscoped="manual"),
    _row("cursorrules", r"/\.cursorrules$"),
    _row("agents-md", r"/AGENTS(?:\.override)?\.md$"),
    _row("claude-md", r"/CLAUDE(?:\.local)?\.md$"),
    _row("gemini-md", r"/GEMINI\.md$"),
    _row("claude-rules", r"/\.claude/rules/.*\.md$", glob_key="paths"),
    _row("copilot-repository", r"/\.github/copilot-instructions\.md$"),
    _row("copilot-instructions", r"\.instructions\.md$", glob_key="applyTo", unscoped="manual"),
    _row("windsurfrules", r"/\.windsurfrules$"),
    _row("windsurf-rules", r"/\.windsurf/rules/.*\.md$", glob_key="globs", mode_key="trigger", modes=_TRIGGERS),
    _row("clinerules", r"/\.clinerules$"),
    _row("cline-rules", r"/\.clinerules/(?!(?:.*/)?(?:workflows|hooks|skills)/).*\.(?:md|txt)$", glob_key="paths"),
    _row("roorules", r"/\.roorules(?:-[\w-]+)?$"),
    _row("roo-rules", r"/\.roo/rules(?:-[\w-]+)?/.*\.(?:md|xml|txt)$"),
    _row(
        "kiro-steering", r"/\.kiro/steering/.*\.md$", glob_key="fileMatchPattern", mode_key="inclusion", modes=_TRIGGERS
    ),
)

_ANYWHERE = frozenset({"cursor-mdc", "copilot-instructions"})
"""Dialects whose files are also kept in collections, where the folder they lie in says nothing about their scope."""


def dialect_of(path: str) -> Dialect | None:
    """The dialect of a POSIX path relative to the root, or `None` when it is no rule file."""
    return next((dialect for dialect in DIALECTS if dialect.pattern.search("/" + path)), None)


def base_of(path: str, dialect: Dialect) -> str:
    """The folder that a file's rules are about: the one that holds it, or its dot folder; empty for the root."""
    if not dialect.folder_scoped:
        return ""
    folders = path.split("/")[:-1]
    dotted = next((number for number, folder in enumerate(folders) if folder.startswith(".")), None)
    if dotted is None and dialect.name in _ANYWHERE:
        return ""
    return "/".join(folders[:dotted])


def scope_of(dialect: Dialect, front: Frontmatter, path: str, base: str) -> Scope:
    """Where the rules of a file apply, by its dialect, its frontmatter and its folder."""
    if dialect.name in ("roo-rules", "roorules"):
        return _roo_scope(path, base)
    key, patterns = _patterns(dialect, front)
    word = front.text(dialect.mode_key).lower().replace("-", "_") if dialect.mode_key else ""
    always = front.is_true("alwaysApply") or front.is_true("always") or word in _ALWAYS
    mode: ScopeMode = dialect.modes.get(word) or _implied_mode(dialect, front, patterns, always)
    globs = normalize_globs(() if always or mode != "files" else patterns, base)
    if mode in ("files", "everywhere"):
        mode = "files" if globs else "everywhere"
    return Scope(mode, globs, _raw(front, dialect, key), always)


def _patterns(dialect: Dialect, front: Frontmatter) -> tuple[str, tuple[str, ...]]:
    for key in (dialect.glob_key, *_GLOB_KEYS):
        patterns = parse_globs(front.get(key)) if key else ()
        if patterns:
            return key, patterns
    return "", ()


def _implied_mode(dialect: Dialect, front: Frontmatter, patterns: tuple[str, ...], always: bool) -> ScopeMode:
    if patterns and not always:
        return "files"
    if always or not front.present or dialect.unscoped == "everywhere":
        return "everywhere"
    return "on_request" if front.text("description") else dialect.unscoped


def _raw(front: Frontmatter, dialect: Dialect, glob_key: str) -> str:
    keys = (glob_key, "alwaysApply", dialect.mode_key, "excludeAgent")
    written = ((key, front.raw_value(key)) for key in dict.fromkeys(keys) if key)
    return "; ".join(f"{key}: {value}" for key, value in written if value)[:500]


def _roo_scope(path: str, base: str) -> Scope:
    """Roo names the mode that rules are for in the folder's name."""
    named = re.search(r"(?:^|/)\.roo/?rules-([\w-]+)", path)
    globs = folder_globs(base)
    if not named:
        return Scope("files" if globs else "everywhere", globs)
    return Scope("files" if globs else "on_request", globs, f"mode: {named[1]}")
