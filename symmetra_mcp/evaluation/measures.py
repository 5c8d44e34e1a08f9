"""Measures of ranking and of keeping silent, and how sure they are. Pure functions over numbers.

Everything that draws at random has a fixed seed: the same answers give the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

KEPT = 0.95
"""Share of answerable questions that a threshold of confidence must let through."""
_SEED = 20_260_801
_BOOTSTRAP_ROUNDS = 1000
_SHUFFLES = 10_000
_SHUFFLES_AT_ONCE = 250
_LOW, _HIGH = 0.025, 0.975
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def recall_at(ranking: Sequence[str], grades: Mapping[str, int], cut: int) -> float:
    """Share of the relevant rules that are among the first `cut`.

    Args:
        ranking: Ids, best first, none twice.
        grades: How relevant each relevant rule is, above 0; at least one.
        cut: How far down is looked.
    """
    return sum(rule_id in grades for rule_id in ranking[:cut]) / len(grades)


def ndcg_at(ranking: Sequence[str], grades: Mapping[str, int], cut: int) -> float:
    """Discounted gain of the first `cut` over that of the best possible order; the gain is the grade itself."""
    gain = _discounted([grades.get(rule_id, 0) for rule_id in ranking[:cut]])
    return gain / _discounted(sorted(grades.values(), reverse=True)[:cut])


def reciprocal_rank_at(ranking: Sequence[str], grades: Mapping[str, int], cut: int) -> float:
    """One over the place of the first relevant rule, or 0 where it is not among the first `cut`."""
    return next((1 / place for place, rule_id in enumerate(ranking[:cut], 1) if rule_id in grades), 0.0)


def auroc(answerable: Floats, unanswerable: Floats) -> float:
    """How often an answerable question has the higher confidence of two, a tie counted half; 0.5 is chance."""
    ordered = np.sort(unanswerable)
    below = np.searchsorted(ordered, answerable, "left")
    not_above = np.searchsorted(ordered, answerable, "right")
    return float((below + not_above).sum()) / (2 * len(answerable) * len(unanswerable))


def answered_at_kept(answerable: Floats, unanswerable: Floats, kept: float = KEPT) -> float:
    """Share of unanswerable questions above the confidence that `kept` of the answerable ones reach."""
    threshold = np.sort(answerable)[int((1 - kept) * len(answerable) + _ROUNDING)]
    return float(np.mean(unanswerable >= threshold))


def bootstrap(statistic: Callable[..., float], *samples: Floats) -> Estimate:
    """A statistic of some samples with the interval that drawing them anew gives.

    Args:
        statistic: Takes as many samples as are given.
        *samples: Each of one row a question, at least one; drawn independently of each other.
    """
    random = np.random.default_rng(_SEED)
    drawn = [
        statistic(*(sample[random.integers(len(sample), size=len(sample))] for sample in samples))
        for _ in range(_BOOTSTRAP_ROUNDS)
    ]
    low, high = np.quantile(drawn, (_LOW, _HIGH))
    return Estimate(float(statistic(*samples)), float(low), float(high))


def mean(sample: Floats) -> float:
    """The arithmetic mean, as a statistic for `bootstrap`."""
    return float(sample.mean())


def randomization_p(differences: Floats) -> float:
    """How often a difference of the means as large as this comes about when either answer could be either system's.

    Args:
        differences: One a question, of the two systems' measures.
    """
    random = np.random.default_rng(_SEED)
    observed = abs(float(differences.sum())) - _ROUNDING
    as_large = 0
    for _ in range(0, _SHUFFLES, _SHUFFLES_AT_ONCE):
        signs = random.integers(2, size=(_SHUFFLES_AT_ONCE, len(differences))) * 2.0 - 1
        as_large += int((np.abs(signs @ differences) >= observed).sum())
    return (as_large + 1) / (_SHUFFLES + 1)


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(place + 1) for place, gain in enumerate(gains, 1))
