"""What an audit finds, and its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from symmetra_mcp.types import Rule

Kind = Literal["duplicates", "contradictions", "long", "vague", "unfound", "globs"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Shape = Literal[
    "exact",
    "near",
    "opposed",
    "reversed",
    "numbers",
    "alternatives",
    "too-long",
    "not-embedded-whole",
    "few-words",
    "outranked",
    "below-threshold",
    "over-budget",
    "matches-nothing",
    "unreadable",
]
"""What exactly it is, inside its kind."""


@dataclass(frozen=True, slots=True)
class Concerned:
    """A rule that a finding is about.

    Attributes:
        text: The sentence concerned, or its whole guidance.
        places: Every `path:line` that states it.
    """

    project_id: str
    rule_id: str
    title: str
    text: str
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a person should look at.

    Attributes:
        about: What is the matter, in a sentence.
        next_step: What to do about it.
        similarity: Cosine of the rules concerned, the lowest of a group; `None` where none was compared.
    """

    kind: Kind
    shape: Shape
    about: str
    next_step: str
    rules: tuple[Concerned, ...]
    similarity: float | None = None


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Everything that an audit found.

    Attributes:
        rules: How many rules were looked at.
        kinds: What was looked for.
        space: Where meaning was compared; empty where words alone were.
        notes: What was not looked at, and why.
    """

    rules: int
    kinds: tuple[Kind, ...]
    space: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[Kind, int]:
        """How many findings there are of each kind that was looked for."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in self.kinds}

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the complete texts."""
        return {
            "rules": self.rules,
            "space": self.space or None,
            "notes": list(self.notes),
            "counts": self.counts,
            "findings": [asdict(finding) for finding in self.findings],
        }


def concerned(rule: Rule, text: str = "") -> Concerned:
    """A rule as findings name it, with the sentence concerned instead of its guidance where one is given."""
    places = tuple(dict.fromkeys(str(source) for source in rule.sources))
    return Concerned(rule.project_id, rule.rule_id, rule.title, text or rule.guidance, places)


def listed(names: Sequence[str], shown: int = 4) -> str:
    """Names in a sentence; the first ones where there are many."""
    head = list(names[:shown])
    if len(names) > shown:
        return f"{', '.join(head)} and {len(names) - shown} more"
    return " and ".join([", ".join(head[:-1]), head[-1]]) if len(head) > 1 else "".join(head)
