"""What an evaluation found, laid out for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from rich.console import Group
from rich.table import Table
from rich.text import Text

from symmetra_mcp.evaluation.scoring import MRR, NDCG, RANKING_CUT, RECALL
from symmetra_mcp.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from symmetra_mcp.evaluation.measures import Estimate
    from symmetra_mcp.evaluation.outcome import Comparison, Outcome, Scored
    from symmetra_mcp.evaluation.scoring import Evaluation, Failure

_Score = TypeVar("_Score")
_QUESTION_CHARACTERS = 70
_SURE = 0.05


def outcome_tables(outcome: Outcome) -> RenderableType:
    """Everything that was found."""
    parts: list[RenderableType] = [Text(_asked(outcome))]
    for scored in outcome.runs:
        parts += [Text(), *_run(scored, named=len(outcome.runs) > 1)]
    for comparison in outcome.comparisons:
        parts += [Text(), *_comparison(comparison)]
    if outcome.failures:
        parts += [Text(), Text(f"Not answered as expected ({len(outcome.failures)}):", style="bold")]
        parts += [Text(failure_line(failure)) for failure in outcome.failures]
    return Group(*parts)


def failure_line(failure: Failure) -> str:
    """What was expected of a question, where that came, and what came first."""
    words = " ".join(failure.question.text.split())
    shown = words if len(words) <= _QUESTION_CHARACTERS else words[: _QUESTION_CHARACTERS - 1] + "…"
    wanted = ", ".join(f"{rule_id} ({_place(place)})" for rule_id, place in failure.expected) or "no rule"
    answered = f"first came {failure.first}" if failure.first else "answered with nothing"
    return f"{failure.question.place}: {shown!r}: expected {wanted}; {answered}"


def _place(place: int | None) -> str:
    return f"not among {RANKING_CUT}" if place is None else f"came at rank {place}"


def _asked(outcome: Outcome) -> str:
    left_out = f"; {outcome.left_out} queries without a judgment left out" if outcome.left_out else ""
    return f"{counted(outcome.questions, 'question')} over {counted(outcome.rules, 'rule')}{left_out}"


def _run(scored: Scored, *, named: bool) -> list[RenderableType]:
    evaluation = scored.evaluation
    where = scored.space or "words only"
    parts: list[RenderableType] = [Text(f"{scored.name} ({where})" if named else f"Searched in {where}", style="bold")]
    if evaluation.rankings:
        parts.append(_rankings(evaluation))
    if evaluation.silences:
        parts += [Text(), _silences(evaluation)]
    if (silent := evaluation.silent_answerable) is not None:
        parts.append(Text(f"Answerable, answered with nothing: {silent.value:.4f} ({_interval(silent)})"))
    if evaluation.latency_p50_ms is not None and evaluation.latency_p95_ms is not None:
        p50, p95 = evaluation.latency_p50_ms.value, evaluation.latency_p95_ms.value
        parts.append(Text(f"Latency: p50 {p50:.1f} ms, p95 {p95:.1f} ms", style="dim"))
    parts += [
        Text(f"Degraded: {counted(number, 'answer')}: {reason}", style="yellow")
        for reason, number in scored.degraded.items()
    ]
    return parts


def _shown(scores: Sequence[_Score]) -> Sequence[_Score]:
    """Without the last one, which is over all, where there is one kind alone: it would say the same."""
    return scores[:1] if len(scores) == 2 else scores


def _rankings(evaluation: Evaluation) -> Table:
    table = _table("Kind", "n", RECALL, NDCG, MRR)
    for score in _shown(evaluation.rankings):
        measures = (score.recall_at_5, score.ndcg_at_10, score.mrr_at_10)
        table.add_row(score.kind, f"{score.n:,}", *(f"{measure.value:.4f}" for measure in measures))
    overall = evaluation.rankings[-1]
    table.add_row("  95 % interval", "", *map(_interval, (overall.recall_at_5, overall.ndcg_at_10, overall.mrr_at_10)))
    return table


def _silences(evaluation: Evaluation) -> Table:
    table = _table("No rule applies", "n", "answered with nothing", "AUROC", "answered at 95 %")
    for score in _shown(evaluation.silences):
        measures = (score.silent, score.auroc, score.answered_at_95)
        table.add_row(score.kind, f"{score.n:,}", *("-" if one is None else f"{one.value:.4f}" for one in measures))
    overall = evaluation.silences[-1]
    measures = (overall.silent, overall.auroc, overall.answered_at_95)
    table.add_row("  95 % interval", "", *("-" if one is None else _interval(one) for one in measures))
    return table


def _comparison(comparison: Comparison) -> list[RenderableType]:
    table = _table("Measure", "before", "after", "change", "95 % interval", "p", "up", "down")
    for one in comparison.measures:
        sure = "bold" if one.p is not None and one.p < _SURE else ""
        table.add_row(
            one.measure,
            f"{one.before:.3f}",
            f"{one.after:.3f}",
            Text(f"{one.difference.value:+.3f}", style=sure),
            f"{one.difference.low:+.3f} to {one.difference.high:+.3f}",
            "-" if one.p is None else f"{one.p:.4f}",
            "-" if one.higher is None else str(one.higher),
            "-" if one.lower is None else str(one.lower),
        )
    return [Text(f"Before: {comparison.before}; after: {comparison.after}", style="bold"), table]


def _table(first: str, *names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
    return table


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.3f} to {estimate.high:.3f}"
