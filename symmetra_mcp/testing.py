"""Fakes for tests of code that uses symmetra-mcp: no model, no network, answers that depend on the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from typing_extensions import override

from symmetra_mcp.providers.base import EmbeddingProvider
from symmetra_mcp.spaces import EmbeddingSpace
from symmetra_mcp.words import term_hash, terms

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.types import InputType


class FakeProvider(EmbeddingProvider):
    """Embeds a text as the sum of one fixed vector a word: texts that share words are similar, so ranking is real.

    Attributes:
        failure: Raised by every call while it is set.
        embedded: Every text embedded so far, in order.
    """

    def __init__(self, model: str = "words", dimensions: int = 64) -> None:
        self._space = EmbeddingSpace("fake", model, dimensions)
        self.failure: Exception | None = None
        self.embedded: list[str] = []

    @property
    @override
    def space(self) -> EmbeddingSpace:
        return self._space

    @property
    @override
    def max_input_tokens(self) -> int:
        return 256

    @override
    async def _embed(self, texts: Sequence[str], input_type: InputType) -> NDArray[np.float32]:
        import numpy as np

        if self.failure is not None:
            raise self.failure
        self.embedded += texts
        return np.stack([self._vector(text) for text in texts])

    def _vector(self, text: str) -> NDArray[np.float32]:
        import numpy as np

        words = [f"{self._space.model} {term}" for term in terms(text)] or [self._space.model]
        summed = sum(np.random.default_rng(term_hash(word)).standard_normal(self._space.dimensions) for word in words)
        return np.asarray(summed / np.linalg.norm(summed), np.float32)
