"""Cohere's re-ranking models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar
from typing_extensions import override

from symmetra_mcp.errors import (
    InvalidRankingError,
    ProviderAuthError,
    ProviderError,
    ProviderUnavailableError,
    QuotaExceededError,
    RateLimitError,
)
from symmetra_mcp.providers.cohere_sdk import PROVIDER, close_client, mapped_error, open_client
from symmetra_mcp.providers.remote import FIRST_BACKOFF_S, QUERY_ATTEMPTS, SHORTEST_ATTEMPT_S, quiet_libraries
from symmetra_mcp.rerankers.base import Reranker
from symmetra_mcp.tokens import cut_to_tokens, estimate_model_tokens

if TYPE_CHECKING:
    import numpy as np
    from cohere import AsyncClientV2
    from numpy.typing import NDArray

DEFAULT_MODEL = "rerank-v5.0-fast"
"""The quick one of the present generation. Source: https://docs.cohere.com/changelog/rerank-v5 (read 2026-11-28)."""
BILLED_BY_TOKENS = frozenset({"rerank-v5.0-fast", "rerank-v5.0-pro"})
"""Sold by tokens of input, as resellers list them; earlier models by searches.
Source: https://openrouter.ai/models/cohere/rerank-5-fast-20261028 (read 2026-11-28)."""
DOCUMENTS_PER_SEARCH = 100
"""One search unit is one question with up to so many documents. Source: https://cohere.com/pricing, as quoted by
https://www.developersdigest.tech/models/rerankers/cohere (read 2026-11-28)."""
MAX_QUERY_TOKENS = 1500
"""By an estimate that code can pass by a third; Cohere reads 2,048.
Source: https://docs.cohere.com/docs/reranking-best-practices (read 2026-11-28)."""
_FIRST_TRY = 2 / 3
"""Share of the time that the first try may take."""
_numbers = count()


class RerankMeter(Protocol):
    """Counts what requests cost, before they are sent."""

    async def reserve(self, documents: int, tokens: int, units: int) -> Any:
        """Count a request by its estimate.

        Raises:
            SpendingLimitError: It would pass the limit.
        """

    async def settle(self, reservation: Any, *, tokens: int | None, units: int | None) -> None:
        """Count what the vendor says instead, as far as it does."""

    async def cancel(self, reservation: Any) -> None:
        """Count nothing: the vendor refused it."""


class CohereReranker(Reranker):
    """Sends the question and the documents to Cohere, or a server that speaks its API; one retry where time is left."""

    def __init__(
        self,
        api_key: str,
        *,
        model: str = DEFAULT_MODEL,
        base_url: str = "",
        timeout_s: float = 2.0,
        meter: RerankMeter | None = None,
    ) -> None:
        """Prepare; the SDK is imported at first use.

        Args:
            api_key: Key; without one, every call says that it is missing.
            model: Id of the model.
            base_url: Server that speaks Cohere's API; empty for Cohere.
            timeout_s: Seconds that a call may take, its retry included.
            meter: Counts requests and money.
        """
        super().__init__(PROVIDER, model, timeout_s=timeout_s)
        self._api_key = api_key
        self._base_url = base_url
        self._meter = meter
        self._random = Random()
        self._client: RunVar[AsyncClientV2 | None] = RunVar(f"symmetra_mcp.rerankers.cohere.{next(_numbers)}")
        self._opening = RunVar[anyio.Lock](f"symmetra_mcp.rerankers.cohere.opening.{next(_numbers)}")

    @override
    async def warm_up(self) -> None:
        await self._connected()

    @override
    async def aclose(self) -> None:
        client = self._client.get(None)
        if client is not None:
            self._client.set(None)
            await close_client(client)

    @override
    async def _prepare(self) -> None:
        await self._connected()  # importing an SDK takes a second, once, which is no silence of the vendor

    @override
    async def _rerank(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        query = cut_to_tokens(query, MAX_QUERY_TOKENS)
        deadline = anyio.current_time() + self.timeout_s
        for attempt in range(1, QUERY_ATTEMPTS + 1):
            last = attempt == QUERY_ATTEMPTS
            left_s = max(SHORTEST_ATTEMPT_S, deadline - anyio.current_time())
            try:
                return await self._once(query, documents, left_s if last else left_s * _FIRST_TRY)
            except (ProviderUnavailableError, RateLimitError, InvalidRankingError) as exc:
                pause_s = self._pause_s(exc)
                hopeless = last or isinstance(exc, QuotaExceededError) or self.breaker.state != "closed"
                if hopeless or deadline - anyio.current_time() - pause_s < SHORTEST_ATTEMPT_S:
                    raise
                await anyio.sleep(pause_s)
        raise AssertionError("unreachable")  # the last attempt returns or raises

    async def _once(self, query: str, documents: Sequence[str], timeout_s: float) -> NDArray[np.float32]:
        """Send one request, counted."""
        client = await self._connected()
        tokens = sum(map(estimate_model_tokens, documents)) + len(documents) * estimate_model_tokens(query)
        units = 0 if self.model in BILLED_BY_TOKENS else -(-len(documents) // DOCUMENTS_PER_SEARCH)
        reservation = None if self._meter is None else await self._meter.reserve(len(documents), tokens, units)
        try:
            with anyio.fail_after(timeout_s):
                answer = await client.rerank(
                    model=self.model,
                    query=query,
                    documents=list(documents),
                    request_options={"max_retries": 0, "timeout": timeout_s},
                )
            scores = self._read(answer, len(documents))
        except TimeoutError:
            raise ProviderUnavailableError(
                f"{self} did not answer in time", provider=PROVIDER, model=self.model
            ) from None
        except Exception as exc:
            error = exc if isinstance(exc, ProviderError) else self._mapped(exc)
            if self._meter is not None and not isinstance(error, InvalidRankingError | ProviderUnavailableError):
                await self._meter.cancel(reservation)  # refused, so not billed; else it may have been
            raise error from None  # the SDK's text holds every header of the answer
        if self._meter is not None:
            billed = getattr(getattr(answer, "meta", None), "billed_units", None)
            await self._meter.settle(
                reservation, tokens=_count(billed, "input_tokens"), units=_count(billed, "search_units")
            )
        return scores

    def _read(self, answer: Any, count: int) -> NDArray[np.float32]:
        """The scores in the documents' order, out of a list that is in order of relevance."""
        import numpy as np

        results = getattr(answer, "results", None)
        if not isinstance(results, list):
            raise self.invalid("something that is no list of results")
        if len(results) != count:
            raise self.invalid(f"{len(results)} results for {count} documents")
        scores = np.full(count, np.nan, np.float32)
        for result in results:
            index, score = getattr(result, "index", None), getattr(result, "relevance_score", None)
            if type(index) is not int or not 0 <= index < count or not np.isnan(scores[index]):
                raise self.invalid("results that are not of the documents, each once")
            if type(score) not in (int, float):
                raise self.invalid("a score that is no number")
            scores[index] = np.float32(score)
        self._check(scores, count)  # here too: what is no ranking is worth a second try
        return scores

    async def _connected(self) -> AsyncClientV2:
        client = self._client.get(None)
        if client is not None:
            return client
        if not self._api_key:
            raise ProviderAuthError(
                "`COHERE_API_KEY` is not set: set it, or set `SYMMETRA_RERANK` to `off`",
                provider=PROVIDER,
                model=self.model,
            )
        lock = self._opening.get(None)
        if lock is None:
            lock = anyio.Lock()
            self._opening.set(lock)
        async with lock:
            client = self._client.get(None)
            if client is None:
                client = await to_thread.run_sync(open_client, self._api_key, self._base_url, self.model)
                quiet_libraries()
                self._client.set(client)
            return client

    def _mapped(self, error: Exception) -> ProviderError:
        return mapped_error(error, self.model, setting="SYMMETRA_RERANK_MODEL", invalid=self.invalid)

    def _pause_s(self, error: ProviderError) -> float:
        if isinstance(error, RateLimitError) and error.retry_after_s is not None:
            return error.retry_after_s * (1 + 0.1 * self._random.random())
        return self._random.random() * FIRST_BACKOFF_S


def _count(billed: Any, name: str) -> int | None:
    number = getattr(billed, name, None)
    return int(number) if isinstance(number, int | float) and 0 < number < 1e12 else None
