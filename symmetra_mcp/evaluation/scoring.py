"""Runs scored: by kind of question, over all, and one against another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from symmetra_mcp.evaluation.measures import (
    Estimate,
    Floats,
    answered_at_kept,
    auroc,
    bootstrap,
    mean,
    ndcg_at,
    randomization_p,
    recall_at,
    reciprocal_rank_at,
)
from symmetra_mcp.evaluation.questions import Question
from symmetra_mcp.evaluation.runs import Ranked, Run

RECALL_CUT = 5
RANKING_CUT = 10
RECALL, NDCG, MRR = f"recall@{RECALL_CUT}", f"nDCG@{RANKING_CUT}", f"MRR@{RANKING_CUT}"
SILENT_ANSWERABLE, SILENT_UNANSWERABLE = "silent, answerable", "silent, no rule"
"""Shares answered with nothing."""
ALL = "ALL"
UNNAMED = "questions"
"""How questions are called that name no kind."""
_NO_ANSWER = "none"


@dataclass(frozen=True, slots=True)
class RankingScore:
    """How well answerable questions were answered."""

    kind: str
    n: int
    recall_at_5: Estimate
    ndcg_at_10: Estimate
    mrr_at_10: Estimate


@dataclass(frozen=True, slots=True)
class SilenceScore:
    """How well questions that no rule answers were told from the others.

    Attributes:
        silent: Share of them answered with nothing.
        auroc: How often an answerable question had the higher confidence; `None` where confidence is not known.
        answered_at_95: Share of them above the confidence that 95 % of the answerable questions reach.
    """

    kind: str
    n: int
    silent: Estimate
    auroc: Estimate | None
    answered_at_95: Estimate | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything measured of a run.

    Attributes:
        rankings: By kind of answerable question, the last one over all; empty where none is answerable.
        silences: By kind of question that no rule answers, the last one over all; empty where every one is answerable.
        silent_answerable: Share of answerable questions that were answered with nothing.
        latency_p50_ms: Median time of a search; `None` where the run does not tell.
        latency_p95_ms: Time in which 19 of 20 were done.
    """

    rankings: tuple[RankingScore, ...]
    silences: tuple[SilenceScore, ...]
    silent_answerable: Estimate | None
    latency_p50_ms: Estimate | None
    latency_p95_ms: Estimate | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure of two runs over the same questions.

    Attributes:
        difference: `after` minus `before`.
        p: How often chance alone makes a difference as large; `None` for measures that no single question has.
        higher: Questions whose figure is higher after than before.
        lower: Questions whose figure is lower.
    """

    measure: str
    before: float
    after: float
    difference: Estimate
    p: float | None
    higher: int | None
    lower: int | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A question that was not answered as expected.

    Attributes:
        expected: Rule ids with the places at which they came, counted from 1; `None` for one that did not come.
        first: The rule that came first, or empty where the question was answered with nothing.
    """

    question: Question
    expected: tuple[tuple[str, int | None], ...]
    first: str


def evaluate(questions: Sequence[Question], run: Run) -> Evaluation:
    """Score a run that has an entry for each question."""
    answerable = [question for question in questions if question.answerable]
    unanswerable = [question for question in questions if not question.answerable]
    confidences = _confidences(answerable, run)
    latencies = _column([ranked.latency_ms for ranked in run.values() if ranked.latency_ms is not None])
    return Evaluation(
        rankings=tuple(_ranking(kind, group, run) for kind, group in _by_kind(answerable, UNNAMED)),
        silences=tuple(_silence(kind, group, run, confidences) for kind, group in _by_kind(unanswerable, _NO_ANSWER)),
        silent_answerable=bootstrap(mean, _silent(answerable, run)) if answerable else None,
        latency_p50_ms=bootstrap(_median, latencies) if len(latencies) else None,
        latency_p95_ms=bootstrap(_p95, latencies) if len(latencies) else None,
    )


def compare(questions: Sequence[Question], before: Run, after: Run) -> tuple[Difference, ...]:
    """What changed from one run to another, measure by measure, question by question."""
    answerable = [question for question in questions if question.answerable]
    unanswerable = [question for question in questions if not question.answerable]
    differences = []
    if answerable:
        first, second = _ranking_rows(answerable, before), _ranking_rows(answerable, after)
        differences = [_paired(name, first[:, i], second[:, i]) for i, name in enumerate((RECALL, NDCG, MRR))]
    for name, group in (
        (SILENT_ANSWERABLE, answerable),
        (SILENT_UNANSWERABLE, unanswerable),
    ):
        if group:
            differences.append(_paired(name, _silent(group, before), _silent(group, after)))
    pairs = [(_confidences(group, before), _confidences(group, after)) for group in (answerable, unanswerable)]
    if all(one is not None and two is not None for one, two in pairs):
        positive, negative = (np.column_stack([one, two]) for one, two in pairs if one is not None and two is not None)
        differences += [_unpaired("AUROC", positive, negative)]
    return tuple(differences)


def failures(questions: Sequence[Question], run: Run) -> list[Failure]:
    """Questions of which an expected rule was not among the first five, or that no rule answers and one did."""
    found = []
    for question in questions:
        ids = run[question.question_id].rule_ids
        expected = tuple((rule_id, ids.index(rule_id) + 1 if rule_id in ids else None) for rule_id in question.grades)
        late = any(place is None or place > RECALL_CUT for _, place in expected)
        if late or (ids and not question.answerable):
            found.append(Failure(question, expected, ids[0] if ids else ""))
    return found


def _by_kind(questions: Sequence[Question], unnamed: str) -> list[tuple[str, Sequence[Question]]]:
    """Each kind's questions, then all of them; nothing where there is none."""
    kinds: dict[str, list[Question]] = {}
    for question in questions:
        kinds.setdefault(question.kind or unnamed, []).append(question)
    return [*sorted(kinds.items()), (ALL, questions)] if questions else []


def _ranking(kind: str, questions: Sequence[Question], run: Run) -> RankingScore:
    rows = _ranking_rows(questions, run)
    return RankingScore(kind, len(questions), *(bootstrap(mean, column) for column in rows.T))


def _ranking_rows(questions: Sequence[Question], run: Run) -> Floats:
    """Recall, nDCG and reciprocal rank of each question, a row each."""
    rows = []
    for question in questions:
        ids, grades = run[question.question_id].rule_ids, question.grades
        rows.append(
            (
                recall_at(ids, grades, RECALL_CUT),
                ndcg_at(ids, grades, RANKING_CUT),
                reciprocal_rank_at(ids, grades, RANKING_CUT),
            )
        )
    return np.asarray(rows, np.float64)


def _silence(kind: str, questions: Sequence[Question], run: Run, answerable: Floats | None) -> SilenceScore:
    unanswerable = _confidences(questions, run)
    silent = bootstrap(mean, _silent(questions, run))
    if answerable is None or unanswerable is None:
        return SilenceScore(kind, len(questions), silent, None, None)
    return SilenceScore(
        kind,
        len(questions),
        silent,
        bootstrap(auroc, answerable, unanswerable),
        bootstrap(answered_at_kept, answerable, unanswerable),
    )


def _silent(questions: Sequence[Question], run: Run) -> Floats:
    return _column([float(not run[question.question_id].results) for question in questions])


def _confidences(questions: Sequence[Question], run: Run) -> Floats | None:
    """The confidence of each answer, lowest where an answer has none; `None` where the run knows of none at all."""
    if not questions or not any(ranked.confidence is not None for ranked in run.values()):
        return None
    return _column([_confidence(run[question.question_id]) for question in questions])


def _confidence(ranked: Ranked) -> float:
    return -math.inf if ranked.confidence is None else ranked.confidence


def _paired(measure: str, before: Floats, after: Floats) -> Difference:
    differences = after - before
    return Difference(
        measure,
        mean(before),
        mean(after),
        bootstrap(mean, differences),
        randomization_p(differences),
        int((differences > 0).sum()),
        int((differences < 0).sum()),
    )


def _unpaired(measure: str, positive: Floats, negative: Floats) -> Difference:
    """AUROC, which no single question has; the columns are before and after."""

    def gain(drawn: Floats, others: Floats) -> float:
        return auroc(drawn[:, 1], others[:, 1]) - auroc(drawn[:, 0], others[:, 0])

    before, after = (auroc(positive[:, i], negative[:, i]) for i in (0, 1))
    return Difference(measure, before, after, bootstrap(gain, positive, negative), None, None, None)


def _column(values: Sequence[float]) -> Floats:
    return np.asarray(values, np.float64)


def _median(sample: Floats) -> float:
    return float(np.quantile(sample, 0.5))


def _p95(sample: Floats) -> float:
    return float(np.quantile(sample, 0.95))
