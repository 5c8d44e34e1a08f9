"""What every re-ranker is, and the one place that times it, checks its answer, and leaves it alone when it is down."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio

from symmetra_mcp.errors import (
    InputRefusedError,
    InvalidRankingError,
    ProviderError,
    ProviderUnavailableError,
    SpendingLimitError,
)
from symmetra_mcp.providers.breaker import CircuitBreaker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = NDArray[np.float32]

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Reranker(ABC):
    """Scores documents against a question, by reading each of them together with it.

    A model implements `_rerank`. Constructors do no I/O: models are loaded and connections opened at first use or by
    `warm_up`.

    Attributes:
        provider: `cohere` or `local`.
        model: The model's name.
        timeout_s: Seconds that a search waits for it.
        breaker: After failures in a row it is not asked for a while, so that not every search waits.
    """

    def __init__(self, provider: str, model: str, *, timeout_s: float) -> None:
        self.provider = provider
        self.model = model
        self.timeout_s = timeout_s
        self.breaker = CircuitBreaker()

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"

    @abstractmethod
    async def _rerank(self, query: str, documents: Sequence[str]) -> Scores:
        """Score documents, in their order; the caller checks the answer, and cancels what takes too long."""

    async def _prepare(self) -> None:  # noqa: B027 - a hook that a re-ranker may leave as it is
        """Do what is no part of answering, and short: its time does not count."""

    def _silence(self) -> str:
        """What it means that no answer came in time, after the model's name."""
        return f"did not answer within {self.timeout_s:g} s"

    async def rerank(self, query: str, documents: Sequence[str]) -> Scores:
        """How well each document fits a question.

        Args:
            query: The question.
            documents: What may answer it.

        Returns:
            Shape `(len(documents),)`, float32, in the order of the documents: 0 to 1, the higher the better.

        Raises:
            ProviderError: It could not answer in time, or answered with something that is no ranking.
        """
        import numpy as np

        if not documents:
            return np.empty(0, np.float32)
        tries = self.breaker.state != "closed"
        if not self.breaker.allows():
            raise self.breaker.left_alone()
        try:
            await self._prepare()
            with anyio.fail_after(self.timeout_s):
                scores = await self._rerank(_sendable(query), [_sendable(document) for document in documents])
            self._check(scores, len(documents))
        except TimeoutError:
            error = ProviderUnavailableError(f"{self} {self._silence()}", provider=self.provider, model=self.model)
            self.breaker.failed(error)
            raise error from None
        except ProviderError as exc:
            if _lies_with_the_vendor(exc):
                self.breaker.failed(exc)
            raise
        finally:
            if tries:
                self.breaker.released()
        self.breaker.succeeded()
        return np.ascontiguousarray(scores, dtype=np.float32)

    async def warm_up(self) -> None:  # noqa: B027 - a hook that a re-ranker may leave as it is
        """Do now what the first call would do: load the model, open the connection. Safe to call twice.

        Raises:
            ProviderError: It can't be done.
        """

    def try_again(self) -> None:
        """Ask at the next call, even where failures would have it left alone for a while."""
        self.breaker.half_open()

    async def aclose(self) -> None:  # noqa: B027 - a hook that a re-ranker may leave as it is
        """Release what `warm_up` took. Safe to call twice."""

    def invalid(self, problem: str) -> InvalidRankingError:
        """An answer that is no ranking."""
        return InvalidRankingError(f"{self} answered with {problem}", provider=self.provider, model=self.model)

    def _check(self, scores: Scores, count: int) -> None:
        import numpy as np

        if scores.shape != (count,):
            raise self.invalid(f"scores of shape {scores.shape} where {(count,)} was asked for")
        if not np.isfinite(scores).all():
            raise self.invalid("scores that are not finite")


def _sendable(text: str) -> str:
    """A text that can be sent and tokenized: JSON can carry half a surrogate pair, UTF-8 can't."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def _lies_with_the_vendor(error: ProviderError) -> bool:
    """Whether another question would fail as well."""
    if isinstance(error, InputRefusedError):
        return error.about == "request"
    return not isinstance(error, SpendingLimitError)
