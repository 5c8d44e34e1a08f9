"""The embedded store's index: an immutable copy of what search needs, in memory.

Exact at every size: one matrix product for meaning, precomputed BM25 impacts for words. It holds no rule texts; the
store reads those of the few rules that answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from symmetra_mcp.fusion import PROJECT_PREFERENCE, STACK_PREFERENCE, fuse, prefer
from symmetra_mcp.probes import QUANTILE
from symmetra_mcp.scopes import matching_glob
from symmetra_mcp.stores.rows import decode_scopes
from symmetra_mcp.types import PRIORITIES
from symmetra_mcp.words import MAX_QUERY_TERMS, Bm25, query_terms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from symmetra_mcp.stores.base import MatchQuery, RuleFilter

T = TypeVar("T")

_MAX_BACKGROUNDS = 64
"""Filters whose background is kept until the next snapshot: sessions use a handful."""
_SUBSET_SHARE = 4
"""Rows are picked out before the product when fewer than one in so many pass the filters: copying costs too."""


@dataclass(frozen=True, slots=True)
class IndexedRules:
    """Columns of the rules, in one order.

    Attributes:
        rule_numbers: The store's own row numbers.
        scopes: `encode_scopes` of each rule.
        tech_stacks: JSON lists.
        terms: `TermCounts.to_bytes` of each rule.
    """

    rule_numbers: Sequence[int]
    project_ids: Sequence[str]
    categories: Sequence[str]
    priorities: Sequence[str]
    tech_stacks: Sequence[str]
    scopes: Sequence[str]
    terms: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class IndexHit:
    """One rule found, by position.

    Attributes:
        passage: Ordinal of its best passage; -1 where it has no vector or one passage only.
    """

    rule_number: int
    score: float
    relevance: float
    similarity: float | None
    words: tuple[str, ...]
    passage: int
    matched_glob: str


@dataclass(frozen=True, slots=True)
class IndexMatches:
    """What `RuleIndex.match` found; fields as in `stores.base.Matches`."""

    hits: list[IndexHit]
    considered: int
    out_of_scope: int
    best_similarity: float | None
    background: float | None
    unembedded: int


class RuleIndex:
    """Answers searches over one snapshot of the rules. Threads may share it: only a cache of equal values changes."""

    def __init__(
        self,
        rules: IndexedRules,
        passage_rules: NDArray[np.int64],
        passage_ordinals: NDArray[np.int32],
        vectors: NDArray[np.float32],
        probes: NDArray[np.float32] | None = None,
        refused_rules: Sequence[int] = (),
    ) -> None:
        """Build the index.

        Args:
            rules: Columns, ordered by rule number.
            passage_rules: Rule number of each row of `vectors`, ascending.
            passage_ordinals: Which passage of its rule each row is.
            vectors: Shape `(passages, dimensions)`, unit length.
            probes: Vectors of unrelated questions, shape `(probes, dimensions)`, where they are known.
            refused_rules: Numbers of rules that hold a text which no vector can be had for.
        """
        self._numbers = np.asarray(rules.rule_numbers, np.int64)
        self.size = len(self._numbers)
        self._projects, self._project_names = _coded(rules.project_ids)
        self._categories, self._category_names = _coded([name.casefold() for name in rules.categories])
        self._priorities = np.fromiter(
            (PRIORITIES.index(name) if name in PRIORITIES else 1 for name in rules.priorities),
            np.int8,
            self.size,
        )
        self._stacks, stack_texts = _coded(rules.tech_stacks)
        self._stack_sets = [frozenset[str](json.loads(text)) for text in stack_texts]
        self._scopes, scope_texts = _coded(rules.scopes)
        self._scope_values = [decode_scopes(text) for text in scope_texts]
        self._bm25 = Bm25(rules.terms)
        self._vectors = vectors
        self._ordinals = passage_ordinals
        positions = np.searchsorted(self._numbers, passage_rules)
        self._embedded, self._starts, counts = np.unique(positions, return_index=True, return_counts=True)
        self._ends = self._starts + counts
        self._probes = probes
        self._refused = np.isin(self._numbers, np.asarray(refused_rules, np.int64))
        self._backgrounds: dict[RuleFilter, float | None] = {}
        self._one_passage_each = len(self._embedded) == len(vectors)

    def match(self, query: MatchQuery) -> IndexMatches:
        """Rank the rules that pass the query's filters."""
        allowed, out_of_scope, globs = self._allowed(query.rule_filter)
        rows = np.flatnonzero(allowed)
        if not len(rows):
            return IndexMatches([], 0, out_of_scope, None, None, 0)
        wanted = query_terms(query.text, MAX_QUERY_TERMS)
        word_scores = self._bm25.scores(wanted)[0][rows]
        similarities = None if query.vector is None else self._similarities(query.vector, rows)
        relevance = fuse(similarities, word_scores)
        scores = prefer(relevance, list(self._preferences(query, rows)))
        found = word_scores > 0 if similarities is None else np.ones(len(rows), np.bool_)
        order = [i for i in _best(np.where(found, scores, -np.inf), query.limit) if found[i]]
        matched = self._bm25.matched(wanted, [int(rows[i]) for i in order])
        embedded = similarities is not None and bool(np.isfinite(similarities).any())
        return IndexMatches(
            hits=[
                self._hit(
                    int(rows[i]),
                    float(scores[i]),
                    float(relevance[i]),
                    None if similarities is None else float(similarities[i]),
                    tuple(dict.fromkeys(wanted[term] for term in terms)),
                    query.vector,
                    globs,
                )
                for i, terms in zip(order, matched, strict=True)
            ],
            considered=len(rows),
            out_of_scope=out_of_scope,
            best_similarity=float(similarities.max()) if similarities is not None and embedded else None,
            background=self._background(query.rule_filter) if embedded else None,
            unembedded=0 if similarities is None else int((np.isneginf(similarities) & ~self._refused[rows]).sum()),
        )

    def _background(self, rule_filter: RuleFilter) -> float | None:
        """Cosine that unrelated questions stay below, among the rules that pass a filter, whatever the file in hand."""
        if self._probes is None or not len(self._probes):
            return None
        key = replace(rule_filter, path="")
        if key not in self._backgrounds:
            if len(self._backgrounds) >= _MAX_BACKGROUNDS:
                self._backgrounds.clear()
            rows = np.flatnonzero(self._allowed(key)[0])
            nearest = [self._similarities(probe, rows).max(initial=-np.inf) for probe in self._probes]
            known = np.isfinite(nearest).all()
            self._backgrounds[key] = float(np.quantile(nearest, QUANTILE)) if known else None
        return self._backgrounds[key]

    def _hit(
        self,
        row: int,
        score: float,
        relevance: float,
        similarity: float | None,
        words: tuple[str, ...],
        vector: NDArray[np.float32] | None,
        globs: dict[int, str],
    ) -> IndexHit:
        return IndexHit(
            rule_number=int(self._numbers[row]),
            score=score,
            relevance=relevance,
            similarity=similarity if similarity is not None and np.isfinite(similarity) else None,
            words=words,
            passage=-1 if vector is None else self._best_passage(vector, row),
            matched_glob=globs.get(int(self._scopes[row]), ""),
        )

    def _allowed(self, rule_filter: RuleFilter) -> tuple[NDArray[np.bool_], int, dict[int, str]]:
        """Rules that pass the filters, how many the path alone left out, and the glob matched by scope code."""
        allowed = np.ones(self.size, np.bool_)
        if rule_filter.project_ids:
            allowed &= _with_code(self._projects, self._project_names, set(rule_filter.project_ids).__contains__)
        if rule_filter.excluded_project_ids:
            allowed &= ~_with_code(
                self._projects, self._project_names, set(rule_filter.excluded_project_ids).__contains__
            )
        if rule_filter.category:
            allowed &= _with_code(self._categories, self._category_names, rule_filter.category.casefold().__eq__)
        if rule_filter.min_priority != "low":
            allowed &= self._priorities >= PRIORITIES.index(rule_filter.min_priority)
        if rule_filter.tech_stacks:
            wanted = {name.casefold() for name in rule_filter.tech_stacks}
            allowed &= _with_code(self._stacks, self._stack_sets, lambda stacks: not stacks or bool(stacks & wanted))
        if not rule_filter.path:
            return allowed, 0, {}
        globs = [matching_glob(scopes, rule_filter.path) for scopes in self._scope_values]
        in_scope = np.asarray([glob is not None for glob in globs] or [True], np.bool_)[self._scopes]
        left_out = int((allowed & ~in_scope).sum())
        return allowed & in_scope, left_out, {code: glob for code, glob in enumerate(globs) if glob}

    def _preferences(self, query: MatchQuery, rows: NDArray[np.intp]) -> Iterator[tuple[NDArray[np.bool_], float]]:
        if query.preferred_tech_stacks:
            wanted = {name.casefold() for name in query.preferred_tech_stacks}
            matching = _with_code(self._stacks, self._stack_sets, lambda names: bool(names & wanted))[rows]
            other = _with_code(self._stacks, self._stack_sets, lambda names: bool(names) and not names & wanted)[rows]
            yield matching, STACK_PREFERENCE
            yield other, -STACK_PREFERENCE
        if query.preferred_project_ids:
            projects = set(query.preferred_project_ids)
            yield _with_code(self._projects, self._project_names, projects.__contains__)[rows], PROJECT_PREFERENCE

    def _similarities(self, vector: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Best cosine of each rule of `rows`; `-inf` where it has no vector."""
        everything = np.full(self.size, -np.inf, np.float32)
        if not len(self._embedded):
            return everything[rows]
        if len(rows) * _SUBSET_SHARE < self.size:
            return self._similarities_of_few(vector, rows)
        cosines = self._vectors @ vector
        best = cosines if self._one_passage_each else np.maximum.reduceat(cosines, self._starts)
        everything[self._embedded] = best
        return everything[rows]

    def _similarities_of_few(self, vector: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[np.float32]:
        found = np.searchsorted(self._embedded, rows).clip(max=len(self._embedded) - 1)
        has_vector = self._embedded[found] == rows
        answer = np.full(len(rows), -np.inf, np.float32)
        starts, ends = self._starts[found[has_vector]], self._ends[found[has_vector]]
        if len(starts):
            sizes = ends - starts
            offsets = np.cumsum(sizes) - sizes
            picked = np.arange(int(sizes.sum())) - np.repeat(offsets - starts, sizes)
            answer[has_vector] = np.maximum.reduceat(self._vectors[picked] @ vector, offsets)
        return answer

    def _best_passage(self, vector: NDArray[np.float32], row: int) -> int:
        position = int(np.searchsorted(self._embedded, row))
        if position == len(self._embedded) or self._embedded[position] != row:
            return -1
        start, end = int(self._starts[position]), int(self._ends[position])
        best = int(self._ordinals[start + int(np.argmax(self._vectors[start:end] @ vector))])
        return -1 if best == 0 and end - start == 1 else best


def _coded(values: Sequence[str]) -> tuple[NDArray[np.int32], list[str]]:
    codes: dict[str, int] = {}
    coded = np.fromiter((codes.setdefault(value, len(codes)) for value in values), np.int32, len(values))
    return coded, list(codes)


def _with_code(codes: NDArray[np.int32], names: Sequence[T], wanted: Callable[[T], bool]) -> NDArray[np.bool_]:
    passing = np.asarray([bool(wanted(name)) for name in names] or [False], np.bool_)
    return np.asarray(passing[codes], np.bool_)


def _best(scores: NDArray[np.float32], limit: int) -> list[int]:
    """Positions of the highest scores, best first, ties in order."""
    if limit < len(scores):
        threshold = np.partition(scores, len(scores) - limit)[len(scores) - limit]
        candidates = np.flatnonzero(scores >= threshold)
    else:
        candidates = np.arange(len(scores))
    order = candidates[np.argsort(-scores[candidates], kind="stable")]
    return [int(position) for position in order[:limit]]
