"""Every measure against figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from symmetra_mcp.evaluation.measures import (
    answered_at_kept,
    auroc,
    bootstrap,
    mean,
    ndcg_at,
    randomization_p,
    recall_at,
    reciprocal_rank_at,
)

RANKING = ["a", "b", "c", "d", "e", "f"]


def column(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.asarray(values, np.float64)


@pytest.mark.parametrize(
    ("grades", "recall", "reciprocal_rank"),
    [({"a": 2}, 1, 1), ({"c": 1}, 1, 1 / 3), ({"e": 1, "f": 1}, 1 / 2, 1 / 5), ({"f": 1}, 0, 0), ({"x": 1}, 0, 0)],
    ids=["first", "third", "one of two below the cut", "below the cut", "not found"],
)
def test_recall_and_reciprocal_rank_look_at_the_first_five(
    grades: dict[str, int], recall: float, reciprocal_rank: float
) -> None:
    assert recall_at(RANKING, grades, 5) == recall
    assert reciprocal_rank_at(RANKING, grades, 5) == reciprocal_rank


def test_the_gain_of_ndcg_is_the_grade_and_its_ideal_the_best_order() -> None:
    found = ndcg_at(RANKING, {"b": 2, "d": 1, "x": 1}, 5)
    # 2 at rank 2, 1 at rank 4; at best 2, 1, 1
    assert found == pytest.approx((2 / math.log2(3) + 1 / math.log2(5)) / (2 + 1 / math.log2(3) + 1 / math.log2(4)))
    assert ndcg_at(["b", "d", "x"], {"b": 2, "d": 1, "x": 1}, 5) == 1
    assert ndcg_at(RANKING, {"f": 3}, 5) == 0


def test_an_ideal_is_no_longer_than_the_cut() -> None:
    assert ndcg_at(["a"], dict.fromkeys("abc", 1), 1) == 1


def test_auroc_counts_pairs_and_ties_half() -> None:
    # of 6 pairs 4 are won and 1 is tied
    assert auroc(column(0.9, 0.5, 0.4), column(0.5, 0.1)) == pytest.approx(4.5 / 6)
    assert auroc(column(-math.inf), column(-math.inf)) == 0.5


def test_the_threshold_that_keeps_most_answerable_questions_lets_some_others_through() -> None:
    answerable = column(*(n / 20 for n in range(20)))  # 0.05 is the second lowest: 95 % reach it
    assert answered_at_kept(answerable, column(0.0, 0.04, 0.05, 0.9)) == 0.5
    assert answered_at_kept(answerable, column(0.0, 0.04, 0.05, 0.9), kept=0.5) == 0.25


def test_an_interval_holds_the_mean_and_is_the_same_each_time() -> None:
    sample = column(*([0.0] * 30 + [1.0] * 70))
    estimate = bootstrap(mean, sample)
    assert estimate == bootstrap(mean, sample)
    # the binomial's own 95 % interval is 0.61 to 0.79
    assert (estimate.value, estimate.low, estimate.high) == (
        0.7,
        pytest.approx(0.61, abs=0.015),
        pytest.approx(0.79, abs=0.015),
    )
    assert bootstrap(mean, column(1, 1)).low == 1


def test_two_samples_are_drawn_apart() -> None:
    estimate = bootstrap(auroc, column(0.9, 0.8, 0.2), column(0.5, 0.1))
    assert estimate.value == pytest.approx(5 / 6)
    assert estimate.low < estimate.value < estimate.high


def test_a_difference_by_chance_is_told_from_one_that_is_none() -> None:
    assert randomization_p(column(0, 0, 0)) == 1
    # all ten the same way: of 1024 patterns of signs two are as large
    assert randomization_p(column(*[0.1] * 10)) == pytest.approx(2 / 1024, abs=0.001)
    assert randomization_p(column(0.1, -0.1, 0.1, -0.1)) == 1
