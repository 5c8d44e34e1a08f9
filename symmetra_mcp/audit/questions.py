"""Which rules are asked for, and which of them are surely found: working that out is cheaper than searching."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from symmetra_mcp.audit.corpus import without_code
from symmetra_mcp.ingest.blocks import plain
from symmetra_mcp.passages import passages, rule_terms
from symmetra_mcp.probes import QUANTILE, probe_passages
from symmetra_mcp.search import DEFAULT_LIMIT, DEFAULT_MAX_TOKENS
from symmetra_mcp.tokens import estimate_tokens
from symmetra_mcp.types import Rule, RuleKey
from symmetra_mcp.words import MAX_QUERY_TERMS, Bm25, query_terms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from symmetra_mcp.audit.corpus import Vectors

Words = Mapping[RuleKey, bytes]
"""`TermCounts.to_bytes` of rules."""
MAX_ASKED = 400
"""Rules asked for unless all are wanted: the bundled model embeds a few hundred titles a second."""
_OVERHEAD = 60
"""Tokens of a hit beside its guidance, as `search` counts them."""
_EQUAL = 1e-4
_SENTENCE = re.compile(r"(?<=[^\W\d_]{2}[.!?])\s+|\n|[\u3002\uff01\uff1f]")
_LONGEST_QUESTION = 300


def title_question(rule: Rule) -> str:
    """What somebody asks who knows what the rule is about."""
    return rule.title.strip() or rule.rule_id


def sentence_question(rule: Rule) -> str:
    """The first sentence of its guidance, without markup and code blocks."""
    sentences = (plain(part).strip(" .:") for part in _SENTENCE.split(without_code(rule.guidance)))
    return next((sentence for sentence in sentences if sentence), title_question(rule))[:_LONGEST_QUESTION]


def words_of(rules: Iterable[Rule]) -> Words:
    """What BM25 reads of rules."""
    return {rule.key: rule_terms(rule).to_bytes() for rule in rules}


def hardest_first(rules: Sequence[Rule], words: Words) -> list[Rule]:
    """The rules, those first that their title tells least from others.

    That is, by words alone: of how many rules of the project the title says as much or more, up to five; then by how
    few words it has. Of 5,952 rules of public repositories, no search finds 88 by title or first sentence; 70 of these
    are among the first 400.
    """
    of_project: defaultdict[str, list[Rule]] = defaultdict(list)
    for rule in rules:
        of_project[rule.project_id].append(rule)
    hardness: list[tuple[int, int, Rule]] = []
    for own in of_project.values():
        index = Bm25([words[rule.key] for rule in own])
        for row, rule in enumerate(own):
            wanted = query_terms(title_question(rule), MAX_QUERY_TERMS)
            scores, _ = index.scores(wanted)
            ahead = int((scores >= scores[row] * (1 - _EQUAL)).sum()) - 1
            hardness.append((min(ahead, DEFAULT_LIMIT), len(wanted), rule))
    return [rule for _, _, rule in sorted(hardness, key=lambda each: (-each[0], each[1]))]


class Pool:
    """The rules that one search looks through, to tell which of them surely answer a question.

    Whatever meaning and words weigh, a rule stands behind another one only where that is nearer or holds more of the
    question's words. So a rule that fewer than five others pass in the one or the other is among the first five. It is
    handed out, too, where it reaches the cosine below which nothing applies and all of these fit the budget.
    """

    def __init__(self, rules: Sequence[Rule], words: Words, vectors: Vectors) -> None:
        """Take what is searched.

        Args:
            rules: All of them, other projects' that are searched along too.
            words: Of these rules at least.
            vectors: Of every passage, and of the probes as far as there are any.
        """
        self._position: Mapping[RuleKey, int] = {rule.key: row for row, rule in enumerate(rules)}
        self._sizes = np.asarray([estimate_tokens(rule.guidance) + _OVERHEAD for rule in rules])
        self._words = Bm25([words[rule.key] for rule in rules])
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
