"""What the rooms of symmetra-mcp hand each other: rules, where they come from, where they apply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

InputType = Literal["query", "document"]
"""The two sides of retrieval: models with an asymmetric interface embed them differently."""

UsagePurpose = Literal["query", "document", "rerank"]
"""What a vendor was asked for: a vector of either side, or an order."""

Priority = Literal["low", "medium", "high", "critical"]
PRIORITIES: tuple[Priority, ...] = ("low", "medium", "high", "critical")
CATEGORIES = (
    "architecture",
    "security",
    "performance",
    "testing",
    "ai-ml",
    "ux",
    "devops",
    "data",
)
"""The categories of the starter rules. Any other text is a category too."""

ScopeMode = Literal["everywhere", "files", "on_request", "manual"]
"""Where a rule applies: everywhere in its project; to files that match its globs; when its description
fits the task (Cursor's agent-requested); when a person names it. The last two are searched like `everywhere`."""


class RuleKey(NamedTuple):
    """What identifies a rule: ids are unique inside a project."""

    project_id: str
    rule_id: str


@dataclass(frozen=True, slots=True)
class Scope:
    """Which files a rule is about.

    Attributes:
        mode: How its author means it to be found; globs limit it in every mode.
        globs: POSIX globs relative to the project's root, braces and `**` allowed, `!` negates.
        raw: The scope as the file wrote it, for people.
        always: Marked by its author as always applying (`alwaysApply: true` and the like).
    """

    mode: ScopeMode = "everywhere"
    globs: tuple[str, ...] = ()
    raw: str = ""
    always: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """One place in a file that states a rule.

    Attributes:
        path: POSIX path relative to the project's root.
        line_start: First line, counted from 1; 0 when unknown.
        line_end: Last line, inclusive.
        format: The dialect, such as `cursor-mdc` or `agents-md`.
        heading_path: Headings above the rule, outermost first.
        scope: Where this statement of the rule applies.
    """

    path: str
    line_start: int = 0
    line_end: int = 0
    format: str = "native"
    heading_path: tuple[str, ...] = ()
    scope: Scope = field(default_factory=Scope)

    def __str__(self) -> str:
        return f"{self.path}:{self.line_start}" if self.line_start else self.path


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a team, small enough to be handed to an assistant whole.

    Attributes:
        guidance: What to do, as Markdown.
        rationale: Why, or empty.
        category: One of `CATEGORIES`, or any text of the team's.
        tech_stacks: Lower-case names such as `python`, `react`; empty for all.
        contexts: `ide-assistant`, `agent`, `desktop-app`; empty for all.
        sources: Every place that states it; the first is the one it takes its title and category from.
    """

    project_id: str
    rule_id: str
    title: str
    guidance: str
    rationale: str = ""
    category: str = ""
    priority: Priority = "medium"
    tech_stacks: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()

    @property
    def key(self) -> RuleKey:
        """What identifies this rule."""
        return RuleKey(self.project_id, self.rule_id)

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """Where it applies: anywhere that one of its sources applies."""
        return tuple(dict.fromkeys(source.scope for source in self.sources)) or (Scope(),)

    @property
    def heading_path(self) -> tuple[str, ...]:
        """Headings above its first source."""
        return self.sources[0].heading_path if self.sources else ()


Stage = Literal["read", "write", "embed", "index", "vectors", "compare", "ask"]
ProgressCallback = Callable[[Stage, int, int], None]
"""Called on the event loop's thread with what is being done, how many are done, and of how many."""

Detail = str | int | float | bool | None
ComponentStatus = Literal["healthy", "degraded", "unhealthy"]


@dataclass(frozen=True, slots=True)
class ComponentHealth:
    """One part's state, with figures and, where something is wrong, the next step."""

    status: ComponentStatus
    details: Mapping[str, str | int | float | bool | None] = field(
        default_factory=dict[str, "str | int | float | bool | None"]
    )
    problem: str = ""
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The state of every part; `status` is the worst that still allows an answer."""

    status: ComponentStatus
    components: Mapping[str, ComponentHealth]
    notices: tuple[str, ...] = ()
