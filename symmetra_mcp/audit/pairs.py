"""Pairs of rules that are near each other, and how near "near" is among these rules."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from symmetra_mcp.project import SHARED_PROJECT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from symmetra_mcp.audit.corpus import Corpus

_NEIGHBORS = 24
"""Nearest rules of each that are looked at."""
_BLOCK = 512
_RARE_TERMS = 10
"""Terms of a rule, the rarest, by which rules without vectors are brought together."""
_COMMONEST = 200
"""Rules that hold a term at most for it to bring them together."""
SAME_WORDS = 0.5
"""Agreement of words from which two rules talk of the same things."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rules, by position, `one < other`, that an assistant may be handed together.

    Attributes:
        similarity: Cosine; `None` where one of them has no vector.
        agreement: Share of their words, weighted, that they have in common.
        held: Share of the words of `one`, weighted, that `other` holds, and the other way round.
    """

    one: int
    other: int
    similarity: float | None
    agreement: float
    held: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Nearness:
    """How near a pair is, where 0 is as near as different rules usually are and 1 is the same text.

    Every model has its own cosine for "related": one gives neighbors 0.6, another 0.9. So the scale is taken from the
    rules themselves: its zero is the median cosine of a rule with its nearest one that uses other words, its one is a
    cosine of 1. A model that shifts or stretches its cosines shifts the scale alike, and repeats, whose words agree, do
    not move it, however many there are.

    Attributes:
        usual: That median; `None` where there are no two such rules.
    """

    usual: float | None

    def of(self, similarity: float | None) -> float | None:
        """Place of a cosine on the scale; `None` where there is no scale."""
        if similarity is None or self.usual is None:
            return None
        return (similarity - self.usual) / max(1 - self.usual, 1e-6)


def near_pairs(corpus: Corpus, tell: Callable[[int, int], None] | None = None) -> list[Pair]:
    """The pairs worth a look: each rule with its nearest ones.

    Args:
        corpus: The rules.
        tell: Hears how many rules of how many are compared.
    """
    similarities = dict[tuple[int, int], float | None]()
    for pair, similarity in _by_meaning(corpus, tell):
        similarities[pair] = similarity
    for pair in _by_words(corpus):
        similarities.setdefault(pair, None)
    weights = [corpus.weight(own) for own in corpus.terms]
    return [
        _pair(corpus, weights, one, other, similarities[one, other])
        for one, other in sorted(similarities)
        if corpus.may_meet(one, other)
    ]


def _pair(corpus: Corpus, weights: Sequence[float], one: int, other: int, similarity: float | None) -> Pair:
    common = corpus.weight(corpus.terms[one] & corpus.terms[other])
    union = weights[one] + weights[other] - common
    held = (common / weights[one] if weights[one] else 0.0, common / weights[other] if weights[other] else 0.0)
    return Pair(one, other, similarity, common / union if union else 0.0, held)


def nearness(pairs: list[Pair]) -> Nearness:
    """The scale of these pairs."""
    best: dict[int, float] = {}
    for pair in pairs:
        if pair.similarity is not None and pair.agreement < SAME_WORDS:
            for rule in (pair.one, pair.other):
                best[rule] = max(best.get(rule, -1.0), pair.similarity)
    return Nearness(float(np.median(list(best.values()))) if best else None)


def _by_meaning(corpus: Corpus, tell: Callable[[int, int], None] | None) -> Iterator[tuple[tuple[int, int], float]]:
    """Nearest rules by cosine, project by project: rules of two projects never meet, but for the shared ones."""
    of_project: defaultdict[str, list[int]] = defaultdict(list)
    for row in np.flatnonzero(corpus.embedded):
        of_project[corpus.rules[row].project_id].append(int(row))
    shared = of_project.get(SHARED_PROJECT, [])
    total, done = int(corpus.embedded.sum()), 0
    for project_id, rows in of_project.items():
        others = np.asarray(rows if project_id == SHARED_PROJECT else rows + shared)
        for start in range(0, len(rows), _BLOCK):
            block = np.asarray(rows[start : start + _BLOCK])
            yield from _nearest(corpus.meaning, block, others)
            done += len(block)
            if tell is not None:
                tell(done, total)


def _nearest(
    meaning: NDArray[np.float32], block: NDArray[np.int64], others: NDArray[np.int64]
) -> Iterator[tuple[tuple[int, int], float]]:
    cosines = meaning[block] @ meaning[others].T
    cosines[block[:, None] == others[None, :]] = -2
    count = min(_NEIGHBORS, len(others) - 1)
    if count < 1:
        return
    nearest = np.argpartition(cosines, -count, axis=1)[:, -count:]
    for row, columns, values in zip(block, nearest, np.take_along_axis(cosines, nearest, 1), strict=True):
        for column, value in zip(others[columns], values, strict=True):
            one, other = sorted((int(row), int(column)))
            yield (one, other), float(value)


def _by_words(corpus: Corpus) -> Iterator[tuple[int, int]]:
    """Pairs that share rare words, for rules that have no vector."""
    bare = {int(row) for row in np.flatnonzero(~corpus.embedded)}
    if not bare:
        return
    frequency = corpus.document_frequency
    holders: defaultdict[str, list[int]] = defaultdict(list)
    for row, own in enumerate(corpus.terms):
        for term in own:
            if 1 < frequency[term] <= _COMMONEST:
                holders[term].append(row)
    for row in sorted(bare):
        rarest = sorted((term for term in corpus.terms[row] if term in holders), key=lambda term: frequency[term])
        common = Counter(other for term in rarest[:_RARE_TERMS] for other in holders[term] if other != row)
        for other, _ in common.most_common(_NEIGHBORS):
            yield (row, other) if row < other else (other, row)
