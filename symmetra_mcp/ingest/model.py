"""What the modules of ingest hand each other: a parsed file, the rules it states, what a person should know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from symmetra_mcp.types import Priority, Source

FlagKind = Literal["hidden-characters", "override-wording", "dangerous-command"]


@dataclass(frozen=True, slots=True)
class Flag:
    """A place in a rule file that a person should look at before an assistant reads it.

    Attributes:
        line: Counted from 1, as an editor shows it.
        excerpt: A few visible characters around the finding, on one line.
    """

    path: str
    line: int
    kind: FlagKind
    excerpt: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A path that gave no rules because it could not be read, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A rule as one place in one file states it, before it has an identity.

    Attributes:
        sources: Where it is stated; more than one only for a rule that was exported with several.
        rule_id: The id its author gave, or empty.
    """

    title: str
    guidance: str
    sources: tuple[Source, ...]
    rationale: str = ""
    category: str = ""
    priority: Priority = "medium"
    tech_stacks: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    rule_id: str = ""

    @property
    def heading_path(self) -> tuple[str, ...]:
        """Headings above it."""
        return self.sources[0].heading_path


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """One rule file after reading.

    Attributes:
        path: POSIX path relative to the project's root.
        format: The dialect, such as `cursor-mdc`.
        context: Blocks that describe rather than command; not imported.
        fragments: Bullets without a command, kept with their section rather than on their own.
        warnings: What was repaired, replaced or left out.
        problem: Why the file could not be read at all, or empty. Its former rules are then left alone.
        complete: False where a part could not be read, so that what is missing may still be stated there.
        note: Why a readable file gave no rule, or empty.
    """

    path: str
    format: str
    statements: tuple[Statement, ...] = ()
    context: int = 0
    fragments: int = 0
    warnings: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = field(default=())
    problem: str = ""
    complete: bool = True
    note: str = ""
