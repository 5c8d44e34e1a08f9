"""The rules of an audit with what every check reads: their terms, weights and vectors."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from symmetra_mcp.audit.overlap import scopes_may_meet
from symmetra_mcp.passages import passages
from symmetra_mcp.project import SHARED_PROJECT
from symmetra_mcp.words import terms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from symmetra_mcp.types import Rule

_FENCE = re.compile(r"^\s*(`{3,}|~{3,}).*?(?:^\s*\1\s*$|\Z)", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")

Vectors = Mapping[str, "NDArray[np.float32]"]
"""Vectors by content hash."""


def without_code(text: str) -> str:
    """A text without its code blocks."""
    return _FENCE.sub("\n", text)


class Corpus:
    """Rules by position.

    Attributes:
        rules: The rules.
        meaning: One vector a rule, the mean of its passages', of shape `(n, dimensions)` and unit length; zeros where
            a passage has none.
        embedded: Which rules have one, shape `(n,)`.
    """

    def __init__(self, rules: Sequence[Rule], vectors: Vectors, dimensions: int = 0) -> None:
        """Take rules and vectors.

        Args:
            rules: What is looked at.
            vectors: Of their passages, as far as there are any; empty to compare words alone.
            dimensions: Length of a vector.
        """
        self.rules = list(rules)
        self.meaning = np.zeros((len(self.rules), dimensions), np.float32)
        for row, rule in enumerate(self.rules if vectors else ()):
            found = [vectors.get(passage.content_hash) for passage in passages(rule)]
            known = [vector for vector in found if vector is not None]
            if len(known) == len(found):
                mean = np.mean(known, axis=0)
                self.meaning[row] = mean / max(float(np.linalg.norm(mean)), 1e-9)
        self.embedded = self.meaning.any(axis=1)

    @cached_property
    def prose(self) -> list[str]:
        """Guidance without its code blocks: examples command nothing."""
        return [without_code(rule.guidance) for rule in self.rules]

    @cached_property
    def terms(self) -> list[frozenset[str]]:
        """Terms of each rule's prose: examples of one framework look alike, whatever they are to show."""
        return [frozenset(terms(text)) for text in self.prose]

    @cached_property
    def code(self) -> list[frozenset[str]]:
        """What each rule's prose names between backticks."""
        return [frozenset(name.strip().lower() for name in _CODE.findall(text)) for text in self.prose]

    @cached_property
    def document_frequency(self) -> Counter[str]:
        """In how many rules each term stands."""
        return Counter(term for own in self.terms for term in own)

    def weight(self, terms: Iterable[str]) -> float:
        """How much terms tell together: rare ones much, common ones little."""
        size, known = len(self.rules) + 1, self.document_frequency
        return sum(math.log1p(size / (known[term] + 1)) for term in terms)

    def agreement(self, one: frozenset[str], other: frozenset[str]) -> float:
        """Weight of the common terms as a share of all, 0 to 1."""
        union = self.weight(one | other)
        return self.weight(one & other) / union if union else 0.0

    def may_meet(self, one: int, other: int) -> bool:
        """Whether an assistant may be handed both: of one project or shared, for one kind of file and technology."""
        first, second = self.rules[one], self.rules[other]
        if first.project_id != second.project_id and SHARED_PROJECT not in (first.project_id, second.project_id):
            return False
        if first.tech_stacks and second.tech_stacks and not set(first.tech_stacks) & set(second.tech_stacks):
            return False
        return scopes_may_meet(first.scopes, second.scopes)
