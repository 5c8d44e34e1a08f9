"""What an evaluation found, as scripts read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from symmetra_mcp.evaluation.scoring import Difference, Evaluation, Failure


@dataclass(frozen=True, slots=True)
class Scored:
    """One configuration's answers, scored.

    Attributes:
        name: What the configuration is called.
        space: Where meaning was compared, or empty.
        degraded: How many answers were degraded, by the reason.
    """

    name: str
    space: str
    evaluation: Evaluation
    degraded: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """For scripts."""
        evaluation = asdict(self.evaluation)
        return {"name": self.name, "space": self.space, "degraded": dict(self.degraded), **evaluation}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs over the same questions, measure by measure."""

    before: str
    after: str
    measures: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that an evaluation tells.

    Attributes:
        rules: How many rules were searched.
        left_out: Queries that were not asked, having neither a judgment nor a kind.
        runs: The settings as they are, then another configuration where one was asked for.
        failures: Of the first run; only for a team's own questions.
    """

    rules: int
    questions: int
    left_out: int
    runs: tuple[Scored, ...]
    comparisons: tuple[Comparison, ...] = ()
    failures: tuple[Failure, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "rules": self.rules,
            "questions": self.questions,
            "left_out": self.left_out,
            "runs": [scored.to_dict() for scored in self.runs],
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "failures": [
                {
                    "place": failure.question.place,
                    "question": failure.question.text,
                    "expected": [{"rule_id": rule_id, "rank": rank} for rule_id, rank in failure.expected],
                    "first": failure.first or None,
                }
                for failure in self.failures
            ],
        }
