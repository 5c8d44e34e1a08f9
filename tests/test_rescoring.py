from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmetra_mcp.rescoring import CANDIDATES, GRAM, LETTERS_WEIGHT, VOTE_WEIGHT, rescore, shared_letters
from symmetra_mcp.stores.base import Candidate
from symmetra_mcp.types import Rule


def candidate(
    rule_id: str, text: str, relevance: float, *, bonus: float = 0.0, stacks: tuple[str, ...] = ()
) -> Candidate:
    rule = Rule("shop", rule_id, text, text, tech_stacks=stacks)
    return Candidate(rule, relevance + bonus, relevance, 0.5, (), "", "")


def ids(candidates: tuple[Candidate, ...]) -> list[str]:
    return [each.rule.rule_id for each in candidates]


def cosines(query: str, texts: list[str]) -> list[float]:
    """The formula, text by text."""

    def grams(text: str) -> Counter[str]:
        padded = f" {' '.join(text.split())} "
        windows = (padded[i : i + GRAM] for i in range(len(padded) - GRAM + 1))
        return Counter(window for window in windows if " " not in window[1:-1])

    counted = [grams(text) for text in texts]
    found = Counter(gram for counts in counted for gram in counts)

    def weights(counts: Counter[str]) -> dict[str, float]:
        return {
            gram: (1 + math.log(count)) * math.log1p(len(texts) / (found[gram] + 0.5)) for gram, count in counts.items()
        }

    def length(weighed: dict[str, float]) -> float:
        return math.sqrt(sum(weight * weight for weight in weighed.values()))

    asked = weights(grams(query))
    return [
        sum(weight * asked.get(gram, 0.0) for gram, weight in weighed.items())
        / max(length(weighed) * length(asked), 1e-9)
        for weighed in map(weights, counted)
    ]


def test_letters_are_compared_by_the_formula() -> None:
    texts = ["universal newlines in subprocess", "newline at the end of a file", "hash passwords", "universal newlines"]
    expected = cosines("universalnewlines subprocess", texts)
    best = max(expected)
    assert shared_letters("universalnewlines subprocess", texts).tolist() == pytest.approx(
        [cosine / best for cosine in expected], rel=1e-5
    )


def test_the_worst_of_many_is_worth_nothing_and_that_of_few_something() -> None:
    few = [f"retry payments number{i}" for i in range(5)]
    many = [*few, *(f"retry payments shop{i}" for i in range(CANDIDATES))]
    assert shared_letters("retry payments", few).min() > 0.5
    assert shared_letters("retry payments", many).min() == 0


@given(st.text(max_size=40), st.lists(st.text(max_size=60), min_size=1, max_size=8))
def test_any_texts_can_be_compared(query: str, texts: list[str]) -> None:
    shared = shared_letters(query, texts)
    assert shared.shape == (len(texts),)
    assert ((shared >= 0) & (shared <= 1 + 1e-6)).all()


def test_a_rule_that_writes_the_words_joined_goes_before_one_that_fits_alike() -> None:
    found = (
        candidate("other", "close every file that was opened", 0.6),
        candidate("joined", "avoid the universalnewlines argument", 0.6),
    )
    ordered = rescore("subprocess.run(universal_newlines=True)", found, vote=False)
    assert ids(ordered) == ["joined", "other"]
    assert ordered[0].relevance == pytest.approx((1 - LETTERS_WEIGHT) * 0.6 + LETTERS_WEIGHT)


def test_what_a_rule_was_preferred_by_stays() -> None:
    found = (candidate("a", "retry payments", 0.5, bonus=0.25), candidate("b", "retry payments", 0.5, bonus=-0.1))
    ordered = rescore("retry payments", found, vote=False)
    assert [each.score - each.relevance for each in ordered] == pytest.approx([0.25, -0.1])


def test_rules_of_the_stack_that_most_have_go_first_and_general_ones_with_them() -> None:
    found = (
        candidate("python", "handle errors", 0.6, stacks=("python",)),
        *(candidate(f"rust{i}", "handle errors", 0.58, stacks=("rust",)) for i in range(3)),
        candidate("general", "handle errors", 0.58),
    )
    assert ids(rescore("handle errors", found, vote=True))[-1] == "python"
    assert ids(rescore("handle errors", found, vote=False))[0] == "python"
    voted = {each.rule.rule_id: each.score - each.relevance for each in rescore("handle errors", found, vote=True)}
    assert voted["rust0"] == voted["general"] > voted["python"]
    assert max(voted.values()) < VOTE_WEIGHT


@pytest.mark.parametrize("number", [0, 1])
def test_fewer_than_two_stay_as_they_are(number: int) -> None:
    found = (candidate("a", "retry payments", 0.5),)[:number]
    assert rescore("retry", found, vote=True) == found


def test_equals_keep_their_order() -> None:
    found = tuple(replace(candidate("a", "retry payments", 0.5), rule=Rule("s", name, "t", "t")) for name in "cab")
    assert ids(rescore("t", found, vote=True)) == ["c", "a", "b"]
