"""The best rules of a search in the order of a re-ranker, or, where that fails, as they were.

A store finds; a re-ranker reads what was found beside the question, and only orders it. What is preferred (the project
in hand, its tech stacks) weighs the same as before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from symmetra_mcp.errors import ProviderError
from symmetra_mcp.passages import passage_body

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.rerankers.base import Reranker
    from symmetra_mcp.stores.base import Candidate, Matches


@dataclass(frozen=True, slots=True)
class Reranking:
    """A re-ranker, and how much it reads.

    Attributes:
        reranker: Orders.
        candidates: How many of the best rules it reads.
    """

    reranker: Reranker
    candidates: int


@dataclass(frozen=True, slots=True)
class Reranked:
    """What a store found, in order.

    Attributes:
        found: Candidates best first.
        by: The re-ranker whose order it is; empty where it is the store's.
        degraded: Why it is the store's though there is a re-ranker; else empty.
    """

    found: Matches
    by: str = ""
    degraded: str = ""


async def rerank(reranking: Reranking | None, query: str, found: Matches) -> Reranked:
    """Order what a store found.

    Args:
        reranking: `None` leaves everything as it is.
        query: The question.
        found: What the store found, best first.
    """
    if reranking is None or len(found.candidates) < 2:
        return Reranked(found)
    head, tail = found.candidates[: reranking.candidates], found.candidates[reranking.candidates :]
    try:
        scores = await reranking.reranker.rerank(query, [_text(candidate) for candidate in head])
    except ProviderError as exc:
        return Reranked(found, degraded=f"the rules are not re-ranked: {exc}")
    ordered = _ordered(head, scores)
    lowest = ordered[-1].score
    rest = tuple(replace(candidate, score=min(candidate.score, lowest)) for candidate in tail)
    return Reranked(replace(found, candidates=(*ordered, *rest)), by=str(reranking.reranker))


def _text(candidate: Candidate) -> str:
    """The rule's title and the passage of it that comes nearest."""
    rule = candidate.rule
    body = passage_body(rule, candidate.passage) if candidate.passage else rule.guidance
    return f"{rule.title}\n{body}"


def _ordered(candidates: tuple[Candidate, ...], scores: NDArray[np.float32]) -> tuple[Candidate, ...]:
    """By the re-ranker's score as a share of the best, plus what each is preferred by; equals stay as they were."""
    best = max(float(scores.max()), 1e-9)
    scored = [
        replace(candidate, score=max(float(score), 0.0) / best + candidate.score - candidate.relevance)
        for candidate, score in zip(candidates, scores, strict=True)
    ]
    return tuple(sorted(scored, key=lambda candidate: -candidate.score))
