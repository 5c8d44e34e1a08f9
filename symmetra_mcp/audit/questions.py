"""Which rules are asked for, and which of them are surely found: working that out is cheaper than searching."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from symmetra_mcp.passages import passages, rule_terms
from symmetra_mcp.probes import QUANTILE, probe_passages
from symmetra_mcp.search import DEFAULT_LIMIT, DEFAULT_MAX_TOKENS
from symmetra_mcp.tokens import estimate_tokens
from symmetra_mcp.words import MAX_QUERY_TERMS, Bm25, query_terms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from symmetra_mcp.audit.corpus import Corpus, Vectors
    from symmetra_mcp.audit.pairs import Pair
    from symmetra_mcp.types import Rule, RuleKey

MAX_ASKED = 600
"""Rules asked for unless all are wanted: the bundled model embeds a few hundred titles a second."""
_OVERHEAD = 60
"""Tokens of a hit beside its guidance, as `search` counts them."""
_EQUAL = 1e-4
_SENTENCE = re.compile(r"(?<=[^\W\d_]{2}[.!?])\s+|\n|[\u3002\uff01\uff1f]")
_MARKS = re.compile(r"^[\s>#*+\-\u2022\d.)\[\]]+|[*_`]{1,3}")
_LONGEST_QUESTION = 300


def title_question(rule: Rule) -> str:
    """What somebody asks who knows what the rule is about."""
    return rule.title.strip() or rule.rule_id


def sentence_question(rule: Rule) -> str:
    """The first sentence of its guidance, without its markup."""
    first = next((part for part in _SENTENCE.split(rule.guidance) if _MARKS.sub("", part).strip()), "")
    return _MARKS.sub("", first).strip()[:_LONGEST_QUESTION] or title_question(rule)


def hardest_first(corpus: Corpus, pairs: Iterable[Pair]) -> list[int]:
    """Positions of the rules, those first that others crowd most: near in meaning, and holding their words."""
    crowd: defaultdict[int, list[float]] = defaultdict(list)
    for pair in pairs:
        near = pair.similarity or 0.0
        crowd[pair.one].append(near + pair.held[0])
        crowd[pair.other].append(near + pair.held[1])
    crowding = {row: sum(sorted(near, reverse=True)[:DEFAULT_LIMIT]) for row, near in crowd.items()}
    return sorted(range(len(corpus.rules)), key=lambda row: (-crowding.get(row, 0.0), row))


class Pool:
    """The rules that one search looks through, to tell which of them surely answer a question.

    Whatever meaning and words weigh, a rule stands behind another one only where that is nearer or holds more of the
    question's words. So a rule that fewer than five others pass in the one or the other is among the first five. It is
    handed out, too, where it reaches the cosine below which nothing applies and all of these fit the budget.
    """

    def __init__(self, rules: Sequence[Rule], vectors: Vectors) -> None:
        """Take what is searched.

        Args:
            rules: All of them, other projects' that are searched along too.
            vectors: Of every passage, and of the probes as far as there are any.
        """
        self._position: Mapping[RuleKey, int] = {rule.key: row for row, rule in enumerate(rules)}
        self._sizes = np.asarray([estimate_tokens(rule.guidance) + _OVERHEAD for rule in rules])
        self._words = Bm25([rule_terms(rule).to_bytes() for rule in rules])
        own = [[vectors.get(passage.content_hash) for passage in passages(rule)] for rule in rules]
        self._starts = np.cumsum([0, *(len(each) for each in own[:-1])])
        known = [vector for each in own for vector in each if vector is not None]
        self._complete = bool(known) and len(known) == sum(map(len, own))
        self._vectors = np.stack(known) if self._complete else np.empty((0, 0), np.float32)
        probes = [vectors[probe.content_hash] for probe in probe_passages() if probe.content_hash in vectors]
        self._background = -1.0
        if self._complete and probes:
            self._background = float(np.quantile(self._cosines(np.stack(probes)).max(axis=1), QUANTILE))

    def surely_found(self, rules: Sequence[Rule], texts: Sequence[str], asked: NDArray[np.float32]) -> list[bool]:
        """Whether each question surely finds its rule.

        Args:
            rules: A rule for each question.
            texts: The questions.
            asked: Their vectors, shape `(n, dimensions)`.
        """
        if not self._complete:
            return [False] * len(rules)
        found = zip(rules, texts, self._cosines(asked), strict=True)
        return [self._is_found(self._position[rule.key], text, cosines) for rule, text, cosines in found]

    def _cosines(self, asked: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.maximum.reduceat(asked @ self._vectors.T, self._starts, axis=1)

    def _is_found(self, own: int, text: str, cosines: NDArray[np.float32]) -> bool:
        words, _ = self._words.scores(query_terms(text, MAX_QUERY_TERMS))
        ahead = (cosines > cosines[own] - _EQUAL) | (words > words[own] * (1 - _EQUAL))
        return bool(
            cosines[own] > self._background + _EQUAL
            and ahead.sum() <= DEFAULT_LIMIT
            and self._sizes[ahead].sum() <= DEFAULT_MAX_TOKENS
        )
