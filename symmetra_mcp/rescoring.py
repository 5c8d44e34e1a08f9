"""A second look at the best rules that a store found: their letters, and what most of them are about.

Words are compared whole and by their stem, so `universal_newlines` is far from "universalnewlines", and "hashing" from
"hashlib". Sequences of four letters are not. Over the few rules that both lists brought up, such a comparison costs two
milliseconds and needs no index, so it is the same over every store.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.stores.base import Candidate

CANDIDATES = 60
"""Best rules that are looked at again."""
LETTERS_WEIGHT = 0.3
"""Share of common letters in the relevance, chosen together with `fusion.MEANING_WEIGHT`."""
VOTE_WEIGHT = 0.1
"""Added to a rule whose tech stack all of the best rules have, where the question tells none: most of what fits a
question about Rust is about Rust."""
VOTERS = 20
"""Best rules that tell what a question is about."""
GRAM = 4
"""Letters of a sequence."""
_LONGEST = 8_000
"""Characters of a text that are compared: more than any passage has."""
_NO_LETTERS = re.compile(r"\W+")
_BLANK = 0x20


def rescore(query: str, candidates: Sequence[Candidate], *, vote: bool) -> tuple[Candidate, ...]:
    """Order candidates by what the store found and by a second look at their texts.

    Args:
        query: The question.
        candidates: What the store found, best first.
        vote: Whether the tech stack that most have counts.

    Returns:
        The same, best first. `relevance` stays between 0 and 1; what the store preferred a rule by stays as it is.
    """
    if len(candidates) < 2:
        return tuple(candidates)
    shared = shared_letters(query, [_text(candidate) for candidate in candidates])
    rescored = [
        _with_relevance(candidate, (1 - LETTERS_WEIGHT) * candidate.relevance + LETTERS_WEIGHT * float(letters))
        for candidate, letters in zip(candidates, shared, strict=True)
    ]
    if vote:
        shares = _votes(sorted(rescored, key=lambda candidate: -candidate.relevance)[:VOTERS])
        rescored = [
            replace(candidate, score=candidate.score + VOTE_WEIGHT * _share(candidate, shares))
            for candidate in rescored
        ]
    return tuple(sorted(rescored, key=lambda candidate: -candidate.score))


def shared_letters(query: str, texts: Sequence[str]) -> NDArray[np.float32]:
    """How much of their letter sequences texts share with a query.

    Cosine of the weights `(1 + ln(count)) * idf`, a sequence's `idf` being what it is worth among these texts.

    Returns:
        Shape `(len(texts),)`: 1 for the text that shares most, 0 for the one of many that shares least.
    """
    import numpy as np

    rows, grams, counts = _grams([query, *texts])
    vocabulary, columns = np.unique(grams, return_inverse=True)
    is_query = rows == 0
    frequency = np.bincount(columns[~is_query], minlength=len(vocabulary))
    weights = (1 + np.log(counts)) * np.log1p(len(texts) / (frequency + 0.5))[columns]
    lengths = np.sqrt(np.bincount(rows, weights=weights**2, minlength=len(texts) + 1))
    asked = np.zeros(len(vocabulary))
    asked[columns[is_query]] = weights[is_query]
    products = np.bincount(rows, weights=weights * asked[columns], minlength=len(texts) + 1)
    cosines = products[1:] / np.maximum(lengths[1:] * lengths[0], 1e-9)
    lowest = float(cosines.min()) if len(texts) >= CANDIDATES else 0.0  # the worst of few is not worth nothing for that
    return np.asarray((cosines - lowest) / max(float(cosines.max()) - lowest, 1e-9), np.float32)


def _grams(texts: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.uint32], NDArray[np.int64]]:
    """The distinct letter sequences of texts: whose each is, the sequence as a number, and how often it is there.

    A blank stands at the ends of words. All texts are one array, so that their number costs no time.
    """
    import numpy as np

    plain = [f" {_NO_LETTERS.sub(' ', text[:_LONGEST].lower()).strip()} ".encode("utf-8", "replace") for text in texts]
    letters = np.frombuffer(b"".join(plain), np.uint8).astype(np.uint32)
    rows = np.repeat(np.arange(len(plain), dtype=np.uint64), [len(text) for text in plain])
    packed = letters[:-3] | letters[1:-2] << 8 | letters[2:-1] << 16 | letters[3:] << 24
    inside = (letters[1:-2] != _BLANK) & (letters[2:-1] != _BLANK)  # of one word, and so of one text
    keys, counts = np.unique((rows[:-3] << np.uint64(32) | packed)[inside], return_counts=True)
    return (keys >> np.uint64(32)).astype(np.intp), keys.astype(np.uint32), counts


def _text(candidate: Candidate) -> str:
    """What of a rule is compared: its title twice, as it says most, and its text or the passage that fits best."""
    rule = candidate.rule
    body = candidate.passage or f"{rule.guidance}\n{rule.rationale}"
    return f"{rule.title}\n{rule.title}\n{body}"


def _with_relevance(candidate: Candidate, relevance: float) -> Candidate:
    return replace(candidate, relevance=relevance, score=candidate.score - candidate.relevance + relevance)


def _votes(candidates: Sequence[Candidate]) -> dict[str, float]:
    """The share of each tech stack among the best rules, weighted by relevance."""
    votes: Counter[str] = Counter()
    for candidate in candidates:
        for stack in candidate.rule.tech_stacks:
            votes[stack] += candidate.relevance / len(candidate.rule.tech_stacks)  # type: ignore[assignment]  # Counter's stub knows whole numbers only
    total = sum(candidate.relevance for candidate in candidates)
    return {stack: votes[stack] / total for stack in votes} if total else {}


def _share(candidate: Candidate, shares: dict[str, float]) -> float:
    """The share of a rule's own tech stack; a rule that names none is of every stack."""
    stacks = candidate.rule.tech_stacks or tuple(shares)
    return max((shares.get(stack, 0.0) for stack in stacks), default=0.0)
