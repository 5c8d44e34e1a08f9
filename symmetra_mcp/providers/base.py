"""What every embedding provider is, and the one place that checks what a provider answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symmetra_mcp.errors import InputRefusedError, InvalidEmbeddingError
from symmetra_mcp.spans import embedding_span
from symmetra_mcp.tokens import estimate_model_tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.types import InputType

UNIT_LENGTH_TOLERANCE = 1e-3
"""How far from 1 the length of a normalized vector may be: float32 sums over 3,072 numbers stay well inside."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors with the space they belong to.

    Attributes:
        vectors: Shape `(n, space.dimensions)`, float32, in the order of the texts.
        space: Which vectors they may be compared with.
        tokens: What the vendor billed for them; 0 where nobody sends a bill.
    """

    vectors: NDArray[np.float32]
    space: EmbeddingSpace
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class EachEmbedded:
    """Vectors of the texts that a provider takes.

    Attributes:
        embeddings: One row for each text that was embedded.
        rows: Which texts these are, by position, ascending.
        refused: Why each of the others is not, by position.
    """

    embeddings: Embeddings
    rows: Sequence[int]
    refused: Mapping[int, str]


class EmbeddingProvider(ABC):
    """Turns texts into vectors of one space.

    A vendor implements `_embed`. Constructors do no I/O: models are loaded and connections opened at first use or by
    `warm_up`.
    """

    @property
    @abstractmethod
    def space(self) -> EmbeddingSpace:
        """The space that every vector of this provider belongs to."""

    @property
    @abstractmethod
    def max_input_tokens(self) -> int:
        """Tokens of one text that the model reads; what follows is not in the vector."""

    @property
    def page_texts(self) -> int:
        """Texts on their way between two reads of the store: what a killed run embeds again at most."""
        return 64  # some one and a half seconds of work for the bundled model

    @property
    def request_texts(self) -> int:
        """Most texts to hand over at once."""
        return self.page_texts // 2  # the next are embedded while these are written

    @property
    def request_tokens(self) -> int:
        """Most tokens to hand over at once."""
        return 1_000_000

    @property
    def parallel_requests(self) -> int:
        """Calls that may run at once; more would only wait for each other."""
        return 1

    def estimate_tokens(self, text: str) -> int:
        """Tokens that the provider counts in a text, about."""
        return estimate_model_tokens(text)

    def least_duration_s(self, texts: int, tokens: int) -> float | None:
        """Seconds that so many texts of so many tokens take at least; `None` where no limit is known.

        Args:
            texts: How many.
            tokens: Of all of them.
        """
        del texts, tokens
        return None

    @property
    def is_remote(self) -> bool:
        """Whether an embedding is a request to somebody else: it leaves the machine, and may fail for a while."""
        return False

    @property
    def price_usd_per_million(self) -> float | None:
        """US dollars for a million tokens; `None` where no price is known."""
        return 0.0

    @abstractmethod
    async def _embed(self, texts: Sequence[str], input_type: InputType) -> NDArray[np.float32]:
        """Embed `texts`, in order; the caller checks the answer."""

    async def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        """Embed rule texts for storage, in input order.

        Returns:
            `vectors` of shape `(len(texts), space.dimensions)`, float32, unit length.

        Raises:
            ProviderError: The provider could not answer, or answered with something that is no embedding.
        """
        return await self._timed(texts, "document")

    async def embed_each(self, texts: Sequence[str]) -> EachEmbedded:
        """Embed rule texts for storage; a text that the provider refuses keeps none of the others from it.

        Raises:
            ProviderError: The provider could not answer, or answered with something that is no embedding.
        """
        rows, refused = list(range(len(texts))), dict[int, str]()
        while True:
            try:
                return EachEmbedded(await self.embed_documents([texts[row] for row in rows]), rows, refused)
            except InputRefusedError as exc:
                if exc.about == "request" or exc.index is None:
                    raise
                refused[rows.pop(exc.index)] = str(exc)

    async def embed_query(self, text: str) -> Embeddings:
        """Embed one search query.

        Returns:
            `vectors` of shape `(1, space.dimensions)`, float32, unit length.

        Raises:
            ProviderError: The provider could not answer, or answered with something that is no embedding.
        """
        return await self._timed([text], "query")

    async def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        """Embed many search queries at once, in input order: none is waited for by itself.

        Returns:
            `vectors` of shape `(len(texts), space.dimensions)`, float32, unit length.

        Raises:
            ProviderError: The provider could not answer, or answered with something that is no embedding.
        """
        return await self._checked(texts, "query")

    async def warm_up(self) -> None:  # noqa: B027 - a hook that a provider may leave as it is
        """Do now what the first call would do: load the model, open the connection. Safe to call twice."""

    def try_again(self) -> None:  # noqa: B027 - a hook that a provider may leave as it is
        """Ask at the next call, even where failures would have the provider left alone for a while."""

    async def aclose(self) -> None:  # noqa: B027 - a hook that a provider may leave as it is
        """Release what `warm_up` took. Safe to call twice."""

    async def _timed(self, texts: Sequence[str], input_type: InputType) -> Embeddings:
        with embedding_span(len(texts), is_remote=self.is_remote) as tell:
            embeddings = await self._checked(texts, input_type)
            tell(embeddings.space, embeddings.tokens)
        return embeddings

    async def _checked(self, texts: Sequence[str], input_type: InputType) -> Embeddings:
        import numpy as np

        if not texts:
            return Embeddings(np.empty((0, self.space.dimensions), np.float32), self.space)
        return checked(await self._embed(texts, input_type), len(texts), self.space)


def checked(vectors: NDArray[np.float32], count: int, space: EmbeddingSpace) -> Embeddings:
    """Check an answer against what was asked for, once for all vendors.

    Args:
        vectors: What the vendor answered.
        count: How many texts were sent.
        space: The space the answer should belong to.

    Raises:
        InvalidEmbeddingError: Wrong count or length, numbers that are not finite, a zero vector, or not unit length.
    """
    import numpy as np

    def invalid(problem: str) -> InvalidEmbeddingError:
        return InvalidEmbeddingError(
            f"{space.provider} model {space.model!r} answered with {problem}; nothing of it was stored",
            provider=space.provider,
            model=space.model,
        )

    if vectors.shape != (count, space.dimensions):
        raise invalid(f"shape {vectors.shape} where {(count, space.dimensions)} was asked for")
    if not np.isfinite(vectors).all():
        raise invalid("numbers that are not finite")
    lengths = np.linalg.norm(vectors, axis=1)
    if (lengths == 0).any():
        raise invalid("a zero vector")
    if space.normalized and (np.abs(lengths - 1) > UNIT_LENGTH_TOLERANCE).any():
        raise invalid(f"vectors of length {lengths.min():.4f} to {lengths.max():.4f} where 1 was expected")
    return Embeddings(np.ascontiguousarray(vectors, dtype=np.float32), space)
