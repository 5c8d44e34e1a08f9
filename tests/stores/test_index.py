"""The index against a reference that is plain loops: exact, whatever the path through it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from symmetra_mcp.fusion import PROJECT_PREFERENCE, STACK_PREFERENCE, fuse, prefer
from symmetra_mcp.spaces import EmbeddingSpace
from symmetra_mcp.stores.base import MatchQuery, RuleFilter
from symmetra_mcp.stores.index import IndexedRules, IndexHit, IndexMatches, RuleIndex
from symmetra_mcp.stores.rows import encode_scopes
from symmetra_mcp.types import PRIORITIES, Scope
from symmetra_mcp.words import Bm25, Field, count_terms

DIMENSIONS = 16
SPACE = EmbeddingSpace("fake", "random", DIMENSIONS)
WORDS = tuple(f"word{i}" for i in range(30))
STACKS = ((), ("python",), ("python", "react"), ("go",))
NOTHING = IndexMatches(hits=[], considered=0, out_of_scope=0, best_similarity=None, background=None, unembedded=0)
SCOPES = (Scope(), Scope("files", ("src/**",)), Scope("files", ("*.md",)))


@dataclass
class Sample:
    """A rule as the reference sees it."""

    number: int
    project: str
    category: str
    priority: str
    stacks: tuple[str, ...]
    scope: Scope
    text: str
    vectors: NDArray[np.float32]


def unit(random: np.random.Generator, count: int) -> NDArray[np.float32]:
    vectors = random.standard_normal((count, DIMENSIONS)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def samples(random: np.random.Generator, count: int, most_passages: int, share_embedded: float = 0.8) -> list[Sample]:
    numbers = np.sort(random.choice(10 * count, count, replace=False))
    return [
        Sample(
            number=int(number),
            project="rare" if random.random() < 0.1 else f"project{random.integers(3)}",
            category=str(random.choice(["Security", "security", "testing", ""])),
            priority=str(random.choice(PRIORITIES)),
            stacks=STACKS[random.integers(len(STACKS))],
            scope=SCOPES[random.integers(len(SCOPES))],
            text=" ".join(random.choice(WORDS, random.integers(1, 12))),
            vectors=unit(random, int(random.integers(1, most_passages + 1)) if random.random() < share_embedded else 0),
        )
        for number in numbers
    ]


def index_of(rules: list[Sample]) -> RuleIndex:
    counts = [len(each.vectors) for each in rules]
    return RuleIndex(
        IndexedRules(
            rule_numbers=[each.number for each in rules],
            project_ids=[each.project for each in rules],
            categories=[each.category for each in rules],
            priorities=[each.priority for each in rules],
            tech_stacks=[json.dumps(each.stacks) for each in rules],
            scopes=[encode_scopes([each.scope]) for each in rules],
            terms=[count_terms([Field(each.text, 1.0)]).to_bytes() for each in rules],
        ),
        passage_rules=np.repeat([each.number for each in rules], counts).astype(np.int64),
        passage_ordinals=np.concatenate([np.empty(0, np.int32), *(np.arange(n, dtype=np.int32) for n in counts)]),
        vectors=np.concatenate([np.empty((0, DIMENSIONS), np.float32), *(each.vectors for each in rules)]),
    )


def passes(each: Sample, rule_filter: RuleFilter) -> bool:
    return (
        (not rule_filter.project_ids or each.project in rule_filter.project_ids)
        and each.project not in rule_filter.excluded_project_ids
        and (not rule_filter.category or each.category.lower() == rule_filter.category.lower())
        and PRIORITIES.index(each.priority) >= PRIORITIES.index(rule_filter.min_priority)  # type: ignore[arg-type]
        and (not rule_filter.tech_stacks or not each.stacks or bool({*each.stacks} & {*rule_filter.tech_stacks}))
    )


def applies(scope: Scope, path: str) -> bool:
    if not path or not scope.globs:
        return True
    return path.startswith("src/") if scope.globs == ("src/**",) else path.endswith(".md")


def expected(rules: list[Sample], query: MatchQuery) -> IndexMatches:
    """What a match should find, rule by rule."""
    passing = [each for each in rules if passes(each, query.rule_filter)]
    kept = [each for each in passing if applies(each.scope, query.rule_filter.path)]
    if not kept:
        return replace(NOTHING, out_of_scope=len(passing))
    all_scores = Bm25([count_terms([Field(each.text, 1.0)]).to_bytes() for each in rules]).scores(query.text.split())[0]
    words = np.asarray([all_scores[rules.index(each)] for each in kept], np.float32)
    wanted = {*query.preferred_tech_stacks}
    preferences = [
        (np.asarray([bool({*each.stacks} & wanted) for each in kept]), STACK_PREFERENCE),
        (
            np.asarray([bool(wanted and each.stacks and not {*each.stacks} & wanted) for each in kept]),
            -STACK_PREFERENCE,
        ),
        (np.asarray([each.project in query.preferred_project_ids for each in kept]), PROJECT_PREFERENCE),
    ]
    cosines: list[list[float]] = []
    similarities = None
    if query.vector is not None:
        cosines = [[math.fsum(vector * query.vector) for vector in each.vectors] for each in kept]
        similarities = np.asarray([max(each, default=-math.inf) for each in cosines], np.float32)
    relevance = fuse(similarities, words)
    scores = prefer(relevance, preferences)
    order = sorted(range(len(kept)), key=lambda position: (-scores[position], position))
    if similarities is None:
        order = [position for position in order if words[position] > 0]
    embedded = [] if similarities is None else [max(each) for each in cosines if each]
    return IndexMatches(
        hits=[
            IndexHit(
                rule_number=kept[position].number,
                score=pytest.approx(float(scores[position]), abs=1e-4),
                relevance=pytest.approx(float(relevance[position]), abs=1e-4),
                similarity=(pytest.approx(max(cosines[position]), abs=1e-5) if cosines and cosines[position] else None),
                words=tuple(sorted({*query.text.split()} & {*kept[position].text.split()})),
                passage=int(np.argmax(cosines[position])) if cosines and len(cosines[position]) > 1 else -1,
                matched_glob=kept[position].scope.globs[0]
                if query.rule_filter.path and kept[position].scope.globs
                else "",
            )
            for position in order[: query.limit]
        ],
        considered=len(kept),
        out_of_scope=len(passing) - len(kept),
        best_similarity=pytest.approx(max(embedded), abs=1e-5) if embedded else None,
        background=None,
        unembedded=0 if similarities is None else len(kept) - len(embedded),
    )


def with_sorted_words(matches: IndexMatches) -> IndexMatches:
    return replace(matches, hits=[replace(hit, words=tuple(sorted(hit.words))) for hit in matches.hits])


FILTERS = [
    pytest.param(RuleFilter(), id="all-rows"),
    pytest.param(RuleFilter(project_ids=("rare",)), id="few-rows"),
    pytest.param(RuleFilter(excluded_project_ids=("project0",)), id="excluded"),
    pytest.param(RuleFilter(category="SECURITY", min_priority="high"), id="category-and-priority"),
    pytest.param(RuleFilter(tech_stacks=("react", "go")), id="stacks"),
    pytest.param(RuleFilter(path="src/a.py"), id="path"),
    pytest.param(RuleFilter(path="x.rs", project_ids=("rare",)), id="few-rows-of-path"),
    pytest.param(RuleFilter(project_ids=("nowhere",)), id="no-rows"),
]


@pytest.mark.parametrize("rule_filter", FILTERS)
@pytest.mark.parametrize("meaning", [True, False], ids=["hybrid", "words"])
@pytest.mark.parametrize("most_passages", [1, 4], ids=["one-passage-each", "several-passages"])
@pytest.mark.parametrize("seed", range(2))
def test_matches_are_those_of_plain_loops(
    rule_filter: RuleFilter, meaning: bool, most_passages: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    rules = samples(random, 150, most_passages)
    index = index_of(rules)
    for limit in (1, 7, 500):
        query = MatchQuery(
            text=" ".join(dict.fromkeys(random.choice(WORDS, 4))),
            vector=unit(random, 1)[0] if meaning else None,
            space=SPACE,
            rule_filter=rule_filter,
            preferred_tech_stacks=("go",),
            preferred_project_ids=("project1",),
            limit=limit,
        )
        assert with_sorted_words(index.match(query)) == expected(rules, query)


@pytest.mark.parametrize("most_passages", [1, 5], ids=["one-passage-each", "several-passages"])
def test_picking_rows_first_finds_what_the_whole_product_finds(most_passages: int) -> None:
    random = np.random.default_rng(7)
    index = index_of(samples(random, 300, most_passages, share_embedded=0.5))
    vector = unit(random, 1)[0]
    every = index._similarities(vector, np.arange(300))
    for rows in (np.arange(300), np.arange(0, 300, 10), np.asarray([0]), np.asarray([299]), np.asarray([3, 4, 250])):
        np.testing.assert_allclose(index._similarities(vector, rows), every[rows], atol=1e-6)
        np.testing.assert_allclose(index._similarities_of_few(vector, rows), every[rows], atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_rules_without_any_vector_match_by_words(count: int) -> None:
    random = np.random.default_rng(count)
    rules = samples(random, count, 1, share_embedded=0)
    matches = index_of(rules).match(MatchQuery(rules[0].text, unit(random, 1)[0], SPACE))
    assert (matches.best_similarity, matches.unembedded, matches.considered) == (None, count, count)
    assert [hit.similarity for hit in matches.hits] == [None] * count


def test_an_index_of_no_rules_answers_nothing() -> None:
    index = index_of([])
    assert index.match(MatchQuery("word1")) == NOTHING
    assert index.match(MatchQuery("word1", np.ones(DIMENSIONS, np.float32), SPACE)) == NOTHING
    assert index.match(MatchQuery("word1", rule_filter=RuleFilter(path="a", project_ids=("p",)))) == NOTHING


def sample(number: int, text: str, **fields: Any) -> Sample:
    plain: dict[str, Any] = {
        "project": "p", "category": "", "priority": "medium", "stacks": (), "scope": Scope(),
        "vectors": np.empty((0, DIMENSIONS), np.float32),
    }  # fmt: skip
    return Sample(number=number, text=text, **plain | fields)


def test_rules_that_fit_alike_keep_their_order() -> None:
    matches = index_of([sample(number, "same words") for number in (2, 5, 9)]).match(MatchQuery("words", limit=2))
    assert [hit.rule_number for hit in matches.hits] == [2, 5]


def test_a_rule_of_an_unknown_priority_counts_as_medium() -> None:
    index = index_of([sample(1, "words", priority="urgent")])
    passing = [
        priority
        for priority in PRIORITIES
        if index.match(MatchQuery("words", rule_filter=RuleFilter(min_priority=priority))).hits
    ]
    assert passing == ["low", "medium"]


def test_matched_words_are_those_of_the_query_the_weightiest_first() -> None:
    rules = [sample(1, "common rarely"), *(sample(number, "common") for number in range(2, 9))]
    matches = index_of(rules).match(MatchQuery("Common things: RARELY absent, rarely"))
    assert matches.hits[0].words == ("RARELY", "Common")
