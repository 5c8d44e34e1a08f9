from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmetra_mcp.fusion import DEPTH, MEANING_WEIGHT, fuse, prefer

NO_VECTOR = -np.inf


def column(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.asarray(values, np.float32)


def test_words_alone_are_divided_by_the_best() -> None:
    np.testing.assert_allclose(fuse(None, column(4, 2, 0)), [1, 0.5, 0])


def test_no_words_and_no_meaning_is_nothing() -> None:
    np.testing.assert_array_equal(fuse(None, column(0, 0)), [0, 0])
    np.testing.assert_array_equal(fuse(column(NO_VECTOR, NO_VECTOR), column(0, 0)), [0, 0])


def test_no_rules_give_no_scores() -> None:
    assert fuse(None, column()).shape == (0,)
    assert fuse(column(), column()).shape == (0,)


def test_the_best_of_both_scores_one() -> None:
    scores = fuse(column(0.8, 0.4, 0.0), column(5, 0, 5))
    assert float(scores[0]) == pytest.approx(1)
    assert float(scores[2]) == pytest.approx(1 - MEANING_WEIGHT)
    assert 0 < float(scores[1]) < MEANING_WEIGHT


def test_a_rule_without_a_vector_scores_by_its_words() -> None:
    scores = fuse(column(0.9, NO_VECTOR, 0.3), column(0, 2, 0))
    assert float(scores[1]) == pytest.approx(1 - MEANING_WEIGHT)
    assert np.isfinite(scores).all()


def test_among_few_rules_the_worst_is_not_worth_nothing_for_being_the_worst() -> None:
    scores = fuse(column(0.8, 0.6), column(0, 0))
    assert float(scores[1]) == pytest.approx(MEANING_WEIGHT * 0.75)


def test_among_many_rules_meaning_is_stretched_over_the_nearest() -> None:
    similarities = np.linspace(0.9, 0.1, 4 * DEPTH).astype(np.float32)
    scores = fuse(similarities, np.zeros(4 * DEPTH, np.float32))
    assert float(scores[0]) == pytest.approx(MEANING_WEIGHT)
    assert float(scores[DEPTH - 2]) > 0
    np.testing.assert_allclose(scores[DEPTH - 1 :], 0, atol=1e-6)


def test_equal_cosines_divide_by_no_zero() -> None:
    similarities = np.full(2 * DEPTH, 0.5, np.float32)
    assert np.isfinite(fuse(similarities, np.zeros(2 * DEPTH, np.float32))).all()


def test_each_preference_adds_its_weight_to_those_it_prefers_and_leaves_relevance_alone() -> None:
    relevance = column(1, 0.5, 0.5, 0)
    scores = prefer(relevance, [(np.asarray([0, 1, 1, 0], np.bool_), 0.1), (np.asarray([0, 0, 1, 1], np.bool_), 0.25)])
    np.testing.assert_allclose(scores, [1, 0.6, 0.85, 0.25], atol=1e-6)
    np.testing.assert_array_equal(relevance, column(1, 0.5, 0.5, 0))
    np.testing.assert_array_equal(prefer(relevance, []), relevance)


cosines = st.floats(-1, 1, width=32) | st.just(NO_VECTOR)


@given(st.lists(st.tuples(cosines, st.floats(0, 100, width=32)), min_size=1, max_size=150))
def test_scores_lie_between_nothing_and_one_and_keep_the_order_of_what_is_better_in_both(
    rules: list[tuple[float, float]],
) -> None:
    similarities, words = column(*(rule[0] for rule in rules)), column(*(rule[1] for rule in rules))
    scores = fuse(similarities, words)
    assert (scores.shape, scores.dtype) == ((len(rules),), np.dtype(np.float32))
    assert float(scores.min()) >= 0
    assert float(scores.max()) <= 1 + 1e-5
    first = int(np.argmax(scores))
    better = (similarities > similarities[first]) & (words > words[first])
    assert not (better & (scores < scores[first] - 1e-5)).any()
