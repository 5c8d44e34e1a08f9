"""What every provider behind a network has in common: requests packed, paced, retried, checked, counted.

A vendor's module implements `VendorApi`: one request, its answer as vectors, its errors as ours. The vendors' SDKs send
the requests, and their own retries are off: two layers of retries multiply, and neither SDK tells an empty account from
a busy minute.
"""

from __future__ import annotations

import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from anyio.lowlevel import RunVar
from typing_extensions import override

from symmetra_mcp.errors import (
    InputRefusedError,
    InvalidEmbeddingError,
    ProviderAuthError,
    ProviderError,
    ProviderUnavailableError,
    QuotaExceededError,
    RateLimitError,
)
from symmetra_mcp.providers.base import EachEmbedded, EmbeddingProvider, Embeddings, checked
from symmetra_mcp.providers.breaker import CircuitBreaker
from symmetra_mcp.providers.pace import WIDEST_WINDOW, Pace, RateState
from symmetra_mcp.spans import embedding_span
from symmetra_mcp.tokens import estimate_model_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.types import InputType

    Vectors = NDArray[np.float32]

BATCH_TEXTS = 256
BATCH_TOKENS = 30_000
"""A tenth of what OpenAI takes: a failed request wastes little, and few are needed at once to reach any limit."""
PAGE_TEXTS = 2048
"""Eight batches in flight between two commits; a killed run pays for a fifth of a cent again."""
BATCH_TIMEOUT_S = 60.0
QUERY_ATTEMPTS = 2
BATCH_ATTEMPTS = 8
SHORTEST_ATTEMPT_S = 0.25
"""What must be left of a query's time for another try."""
FIRST_BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 8.0
LONGEST_WAIT_S = 120.0
"""A vendor that asks for a longer wait is told to the user instead of waited for."""
LONGEST_OUTAGE_S = 45.0
"""How long batches wait for a provider that is down, the next pause included: clients give a tool call a minute, and a
run that ends is resumed by the next."""
RETRY_ALLOWANCE = 10.0
RETRIES_PER_SUCCESS = 0.1
"""Retries are at most a tenth of the requests, and ten: a vendor in trouble is not asked twice as often."""
OUT_OF_RETRIES_PAUSE_S = 5.0
"""How long a batch waits for its next try when that allowance is used up; nobody waits for a single batch."""
SLOW_FACTOR = 6
"""Deviations by which an answer may be slower than usual."""
SHORTEST_TIMEOUT_S = 1.5
"""What a first try of a query waits at least."""
SHORTEST_HEAD = 64
"""Characters from which a text that is refused as too long is not cut again."""
MEMORY = 0.8
"""What an older answer weighs beside the next, where the vendor's count of tokens corrects the estimate."""
LEAST_LEARNT, MOST_LEARNT = 0.5, 4.0
"""How far it may correct it: there are servers that count 1 for every text."""
_LENGTH_TOLERANCE = 0.01
"""How far from 1 the length of a vendor's unit vector may be: Cohere's are off by 0.0003, text in a wrong
encoding or a mixed-up row by far more."""

_TALKATIVE = ("openai", "cohere", "httpx", "httpx2", "httpcore", "httpcore2", "hpack", "h2")
_BLANK = "-"
"""Sent for a text of white space, which vendors refuse; every blank text has this one vector."""
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_numbers = count()
_billed: ContextVar[list[int]] = ContextVar("symmetra_mcp.providers.remote.billed")
"""Tokens billed for the running call."""
_refused: ContextVar[dict[int, str]] = ContextVar("symmetra_mcp.providers.remote.refused")
"""Why texts of the running call were refused, by position, where it goes on without them."""


@dataclass(frozen=True, slots=True)
class VendorLimits:
    """What a vendor takes.

    Attributes:
        texts: Texts in a request.
        input_tokens: Tokens of one text.
        request_tokens: Tokens of a request.
        requests_per_minute: Requests a minute, where it is known beforehand.
        tokens_per_minute: Tokens a minute, likewise.
        inputs_per_minute: Texts a minute, likewise.
        cuts_long_texts: Whether the vendor reads the head of a text that is too long, rather than refuse it.
    """

    texts: int
    input_tokens: int
    request_tokens: int
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    inputs_per_minute: float | None = None
    cuts_long_texts: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """A vendor's answer to one request.

    Attributes:
        vectors: Shape `(texts, dimensions)`, float32, in the order of the texts, as they came.
        tokens: What the vendor bills, or `None` where it does not say.
        request_rate: What is left of the requests, where it says.
        token_rate: What is left of the tokens, where it says.
    """

    vectors: Vectors
    tokens: int | None = None
    request_rate: RateState | None = None
    token_rate: RateState | None = None


class VendorApi(ABC):
    """One vendor's API, on one event loop: made, used and closed there."""

    @abstractmethod
    async def request(self, texts: Sequence[str], input_type: InputType, timeout_s: float) -> Reply:
        """Send one request and read its answer.

        Raises:
            ProviderError: One of its kinds; the message holds nothing of what was sent, nor the vendor's own text.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close its connections."""


class Meter(Protocol):
    """Counts what requests cost, before they are sent."""

    price_usd_per_million: float | None

    async def reserve(self, input_type: InputType, texts: int, tokens: int) -> Any:
        """Count a request by its estimate.

        Raises:
            SpendingLimitError: It would pass the limit.
        """

    async def settle(self, reservation: Any, tokens: int) -> None:
        """Count what the vendor says instead."""

    async def cancel(self, reservation: Any) -> None:
        """Count nothing: the vendor refused it."""


class _Connection:
    """What belongs to one event loop: the vendor's client and the pace of its requests."""

    def __init__(self, api: VendorApi, pace: Pace) -> None:
        self.api = api
        self.pace = pace


class RemoteProvider(EmbeddingProvider):
    """A provider behind a network.

    A vendor implements `_open_api`. Searches have seconds and one retry; batches have minutes and several. Both stop at
    once where trying again can't help: a refused key, an empty account, a refused text.
    """

    def __init__(
        self,
        space: EmbeddingSpace,
        limits: VendorLimits,
        *,
        query_timeout_s: float = 3.0,
        meter: Meter | None = None,
        exact_unit_length: bool = True,
        random: Random | None = None,
    ) -> None:
        """Prepare; nothing is imported or opened.

        Args:
            space: What it embeds into.
            limits: What the vendor takes.
            query_timeout_s: Seconds that a query may take, its retry included.
            meter: Counts tokens and money.
            exact_unit_length: Whether the vendor promises unit vectors; those of other servers are normalized.
            random: Jitter.
        """
        self._space = space
        self._limits = limits
        self._query_timeout_s = query_timeout_s
        self._meter = meter
        self._exact_unit_length = exact_unit_length
        self._random = random or Random()
        self._connection: RunVar[_Connection | None] = RunVar(f"symmetra_mcp.providers.remote.{next(_numbers)}")
        self._opening = RunVar[anyio.Lock](f"symmetra_mcp.providers.remote.opening.{next(_numbers)}")
        self._tokens_billed = self._tokens_estimated = 0.0
        self._retries_left = RETRY_ALLOWANCE
        self._usual_s: float | None = None
        self._deviation_s = 0.0
        self.breaker = CircuitBreaker()

    @property
    @override
    def space(self) -> EmbeddingSpace:
        return self._space

    @property
    @override
    def max_input_tokens(self) -> int:
        return self._limits.input_tokens

    @property
    @override
    def page_texts(self) -> int:
        return PAGE_TEXTS

    @property
    @override
    def request_texts(self) -> int:
        return min(self._limits.texts, BATCH_TEXTS)

    @property
    @override
    def request_tokens(self) -> int:
        return min(self._limits.request_tokens * 9 // 10, BATCH_TOKENS)

    @property
    @override
    def parallel_requests(self) -> int:
        return int(WIDEST_WINDOW)

    @override
    def estimate_tokens(self, text: str) -> int:
        return self._estimate([text])

    @override
    def least_duration_s(self, texts: int, tokens: int) -> float | None:
        limits = self._limits
        rates = (
            (tokens, limits.tokens_per_minute),
            (texts, limits.inputs_per_minute),
            (-(-texts // self.request_texts), limits.requests_per_minute),
        )
        known = [amount * 60 / rate for amount, rate in rates if rate]
        return max(known) if known else None

    @property
    @override
    def is_remote(self) -> bool:
        return True

    @property
    @override
    def price_usd_per_million(self) -> float | None:
        return None if self._meter is None else self._meter.price_usd_per_million

    @abstractmethod
    async def _open_api(self) -> VendorApi:
        """Import the vendor's SDK off the event loop, and make its client.

        Raises:
            ProviderNotInstalledError: The SDK is not installed.
        """

    @override
    async def warm_up(self) -> None:
        await self._connected()

    @override
    def try_again(self) -> None:
        self.breaker.half_open()

    @override
    async def aclose(self) -> None:
        connection = self._connection.get(None)
        if connection is not None:
            self._connection.set(None)
            await connection.api.aclose()

    @override
    async def _checked(self, texts: Sequence[str], input_type: InputType) -> Embeddings:
        billed = [0]
        token = _billed.set(billed)  # tasks that this call starts count into the same list
        try:
            embeddings = await super()._checked(texts, input_type)
        finally:
            _billed.reset(token)
        return replace(embeddings, tokens=billed[0])

    @override
    async def embed_each(self, texts: Sequence[str]) -> EachEmbedded:
        billed, refused = [0], dict[int, str]()
        tokens = _billed.set(billed), _refused.set(refused)
        try:
            with embedding_span(len(texts), is_remote=True) as tell:
                vectors = await self._embed_many([self._sendable(text) for text in texts], "document")
                tell(self.space, billed[0])
        finally:
            _billed.reset(tokens[0])
            _refused.reset(tokens[1])
        rows = [row for row in range(len(texts)) if row not in refused]
        embeddings = checked(vectors[rows], len(rows), self.space)
        return EachEmbedded(replace(embeddings, tokens=billed[0]), rows, refused)

    @override
    async def _embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        prepared = [self._sendable(text) for text in texts]
        if len(prepared) == 1:
            return await self._embed_one(prepared[0], input_type)
        return await self._embed_many(prepared, input_type)

    # One text: somebody waits for it, so seconds and one retry

    async def _embed_one(self, text: str, input_type: InputType) -> Vectors:
        await self._connected()  # importing an SDK takes a second, once, which is no silence of the vendor
        deadline = anyio.current_time() + self._query_timeout_s
        for attempt in range(QUERY_ATTEMPTS):
            timeout_s = max(SHORTEST_ATTEMPT_S, deadline - anyio.current_time())
            if attempt + 1 < QUERY_ATTEMPTS:
                timeout_s = min(timeout_s, self._patience_s())
            try:
                return await self._shortened(text, input_type, timeout_s)
            except (ProviderUnavailableError, RateLimitError, InvalidEmbeddingError) as exc:
                pause_s = self._pause_s(exc, attempt)
                left_s = deadline - anyio.current_time() - pause_s
                last = attempt + 1 == QUERY_ATTEMPTS or isinstance(exc, QuotaExceededError)
                if last or left_s < SHORTEST_ATTEMPT_S or self.breaker.state != "closed" or not self._may_retry():
                    raise
                await anyio.sleep(pause_s)
        raise AssertionError("unreachable")  # the last attempt returns or raises

    def _patience_s(self) -> float:
        """How long a first try may take: by what answers usually take, so that a lost one costs little."""
        if self._usual_s is None:
            return self._query_timeout_s * 2 / 3
        return max(SHORTEST_TIMEOUT_S, self._usual_s + SLOW_FACTOR * self._deviation_s)

    async def _shortened(self, text: str, input_type: InputType, timeout_s: float) -> Vectors:
        """Embed a text, or as much of its head as the vendor takes."""
        while True:
            try:
                return await self._once([text], input_type, timeout_s, patient=False)
            except InputRefusedError as exc:
                if exc.about != "length" or len(text) < SHORTEST_HEAD:
                    raise
                text = text[: len(text) * 3 // 4]

    # Many texts: minutes, several retries

    async def _embed_many(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        import numpy as np

        connection = await self._connected()
        vectors = np.empty((len(texts), self.space.dimensions), np.float32)
        batches = self._batches(texts, connection.pace)

        async def work() -> None:
            for start, batch in batches:  # shared: whichever worker is free takes the next batch
                vectors[start : start + len(batch)] = await self._embed_batch(batch, input_type, start)

        try:
            async with anyio.create_task_group() as workers:
                for _ in range(int(WIDEST_WINDOW)):
                    workers.start_soon(work)
        except ExceptionGroup as group:
            raise group.exceptions[0]  # noqa: B904 - callers catch ProviderError; its own cause must stay
        return vectors

    def _batches(self, texts: Sequence[str], pace: Pace) -> Iterator[tuple[int, Sequence[str]]]:
        """Texts in order, as many to a request as limits allow; limits are learnt while this runs."""
        most_texts = self.request_texts
        start = end = tokens = 0
        for text in texts:
            size = self._estimate([text])
            if end > start and (end - start == most_texts or tokens + size > self._batch_tokens(pace)):
                yield start, texts[start:end]
                start, tokens = end, 0
            end += 1
            tokens += size
        yield start, texts[start:end]

    def _batch_tokens(self, pace: Pace) -> int:
        most = self.request_tokens
        return min(most, pace.largest_request or most)

    async def _embed_batch(self, batch: Sequence[str], input_type: InputType, start: int) -> Vectors:
        """Embed a batch; where a text of it is refused, find out which."""
        import numpy as np

        try:
            return await self._with_retries(batch, input_type)
        except InputRefusedError as exc:
            if exc.about == "request":
                raise
            if len(batch) == 1 and exc.about == "length" and len(batch[0]) >= SHORTEST_HEAD:
                return await self._embed_batch([batch[0][: len(batch[0]) * 3 // 4]], input_type, start)
            collected = _refused.get(None)
            if len(batch) == 1 and collected is not None:
                collected[start] = str(exc)
                return np.zeros((1, self.space.dimensions), np.float32)
            if len(batch) == 1:
                raise InputRefusedError(
                    f"{exc} (text {start + 1} of the call)",
                    provider=exc.provider,
                    model=exc.model,
                    about=exc.about,
                    index=start,
                ) from None
        middle = len(batch) // 2
        halves = ((batch[:middle], start), (batch[middle:], start + middle))
        return np.concatenate([await self._embed_batch(half, input_type, at) for half, at in halves])

    async def _with_retries(self, batch: Sequence[str], input_type: InputType) -> Vectors:
        invalid = 0
        for attempt in range(BATCH_ATTEMPTS):
            try:
                return await self._once(batch, input_type, BATCH_TIMEOUT_S, patient=True)
            except (ProviderUnavailableError, RateLimitError, InvalidEmbeddingError) as exc:
                invalid += isinstance(exc, InvalidEmbeddingError)
                pause_s = self._pause_s(exc, attempt)
                hopeless = isinstance(exc, QuotaExceededError) or invalid > 1 or pause_s > LONGEST_WAIT_S
                if hopeless or attempt + 1 == BATCH_ATTEMPTS:
                    raise
                if not isinstance(exc, RateLimitError) and self.breaker.state == "closed" and not self._may_retry():
                    # Answers of requests that went out before an outage keep the breaker closed while others fail.
                    pause_s = max(pause_s, OUT_OF_RETRIES_PAUSE_S)
                await anyio.sleep(pause_s)
        raise AssertionError("unreachable")  # the last attempt returns or raises

    # One request

    async def _once(self, texts: Sequence[str], input_type: InputType, timeout_s: float, *, patient: bool) -> Vectors:
        connection = await self._connected()
        size = sum(map(estimate_model_tokens, texts))
        async with self._gate(connection.pace, size, len(texts), patient=patient):
            tokens = self._corrected(size)
            reservation = None if self._meter is None else await self._meter.reserve(input_type, len(texts), tokens)
            began = time.perf_counter()
            try:
                with anyio.fail_after(timeout_s):
                    reply = await connection.api.request(texts, input_type, timeout_s)
                vectors = self._unit(reply.vectors, len(texts))
            except TimeoutError:
                error = self._unavailable(f"did not answer within {timeout_s:.1f} s")
                self._count_failure(connection.pace, error)
                raise error from None
            except ProviderError as exc:
                self._count_failure(connection.pace, exc, tokens, len(texts))
                if self._meter is not None and not isinstance(exc, InvalidEmbeddingError | ProviderUnavailableError):
                    await self._meter.cancel(reservation)  # refused, so not billed; else it may have been
                raise
            self._count_success(connection.pace, reply, size)
            if len(texts) == 1:
                self._note_duration(time.perf_counter() - began)
            _billed.get()[0] += tokens if reply.tokens is None else reply.tokens
            if self._meter is not None and reply.tokens is not None:
                await self._meter.settle(reservation, reply.tokens)
            return vectors

    @asynccontextmanager
    async def _gate(self, pace: Pace, size: int, texts: int, *, patient: bool) -> AsyncIterator[None]:
        """Wait for the pace and for a provider that is down; without patience, be counted or refused at once."""
        if patient:
            async with pace.admitted(partial(self._corrected, size), texts):
                tries = await self._may_go()
                try:
                    yield
                finally:
                    if tries:
                        self.breaker.released()
            return
        tries = self.breaker.state != "closed"
        if not self.breaker.allows():
            raise self.breaker.left_alone()
        pace.note_sent(self._corrected(size), texts)
        try:
            yield
        finally:
            if tries:
                self.breaker.released()

    async def _may_go(self) -> bool:
        """Wait until the breaker lets this call through; `True` where it is the one that tries."""
        while True:
            tries = self.breaker.state != "closed"
            if self.breaker.allows():
                return tries
            hopeless = isinstance(self.breaker.cause, ProviderAuthError | QuotaExceededError)
            # While another call tries, the state is half open: its answer decides, however long the outage was.
            lasts = self.breaker.down_s + self.breaker.pause_left_s > LONGEST_OUTAGE_S
            if hopeless or (lasts and self.breaker.state == "open"):
                raise self.breaker.left_alone()
            await anyio.sleep(max(self.breaker.pause_left_s, SHORTEST_ATTEMPT_S))

    def _unit(self, vectors: Vectors, texts: int) -> Vectors:
        """The vectors at exactly unit length, where they come close enough to it; anything else is refused."""
        import numpy as np

        if vectors.shape != (texts, self.space.dimensions) or not np.isfinite(vectors).all():
            checked(vectors, texts, self.space)
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        if not (lengths > 0).all() or (self._exact_unit_length and (np.abs(lengths - 1) > _LENGTH_TOLERANCE).any()):
            checked(vectors, texts, self.space)
        return np.asarray(vectors / lengths[:, None], np.float32)

    def _count_failure(self, pace: Pace, error: ProviderError, tokens: int = 0, texts: int = 0) -> None:
        if isinstance(error, InputRefusedError):
            return  # the text's fault, not the provider's
        if isinstance(error, RateLimitError) and not isinstance(error, QuotaExceededError):
            pace.refused(error.retry_after_s, tokens, texts)
            return  # busy, not down
        pace.failed()
        self.breaker.failed(error)

    def _count_success(self, pace: Pace, reply: Reply, size: int) -> None:
        self.breaker.succeeded()
        pace.answered(reply.request_rate, reply.token_rate)
        self._retries_left = min(RETRY_ALLOWANCE, self._retries_left + RETRIES_PER_SUCCESS)
        if reply.tokens:  # sums, so that a batch says more than a query of three words
            self._tokens_billed = self._tokens_billed * MEMORY + reply.tokens
            self._tokens_estimated = self._tokens_estimated * MEMORY + size

    def _note_duration(self, took_s: float) -> None:
        """Follow how long answers take, as TCP follows its round trips."""
        if self._usual_s is None:
            self._usual_s, self._deviation_s = took_s, took_s / 2
        self._deviation_s += (abs(took_s - self._usual_s) - self._deviation_s) / 4
        self._usual_s += (took_s - self._usual_s) / 8

    def _may_retry(self) -> bool:
        if self._retries_left < 1:
            return False
        self._retries_left -= 1
        return True

    def _pause_s(self, error: ProviderError, attempt: int) -> float:
        """Full jitter, or the vendor's own figure and a little more, so that callers don't come back together."""
        if isinstance(error, RateLimitError) and error.retry_after_s is not None:
            return error.retry_after_s * (1 + 0.1 * self._random.random())
        return self._random.random() * min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0**attempt)

    def _estimate(self, texts: Sequence[str]) -> int:
        return self._corrected(sum(map(estimate_model_tokens, texts)))

    def _corrected(self, size: int) -> int:
        """An estimate of tokens by what the vendor counted for those of other texts."""
        learnt = self._tokens_billed / self._tokens_estimated if self._tokens_estimated else 1.0
        return max(1, int(size * min(MOST_LEARNT, max(LEAST_LEARNT, learnt))))

    def _sendable(self, text: str) -> str:
        """A text that a vendor takes: valid Unicode, not blank, not longer than the model reads."""
        text = _LONE_SURROGATE.sub("\ufffd", text)
        if not text.strip() or not text.strip("\x00"):
            return _BLANK
        return text if self._limits.cuts_long_texts else _head(text, self._limits.input_tokens)

    async def _connected(self) -> _Connection:
        connection = self._connection.get(None)
        if connection is not None:
            return connection
        lock = self._opening.get(None)
        if lock is None:
            lock = anyio.Lock()
            self._opening.set(lock)
        async with lock:
            connection = self._connection.get(None)
            if connection is None:
                api = await self._open_api()
                quiet_libraries()
                connection = _Connection(api, self._new_pace())
                self._connection.set(connection)
            return connection

    def _new_pace(self) -> Pace:
        limits = self._limits
        return Pace(
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
            inputs_per_minute=limits.inputs_per_minute,
        )

    def _unavailable(self, problem: str) -> ProviderUnavailableError:
        return ProviderUnavailableError(
            f"{self.space.provider} {problem}", provider=self.space.provider, model=self.space.model
        )


def quiet_libraries() -> None:
    """Keep the SDKs and their HTTP libraries from logging below WARNING: they write whole headers at DEBUG."""
    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))


def _head(text: str, tokens: int) -> str:
    """As much of a text's beginning as has so many tokens by estimate."""
    if len(text) <= tokens or (size := estimate_model_tokens(text)) <= tokens:
        return text
    return _head(text[: max(tokens, len(text) * tokens // size)], tokens) if len(text) > tokens else text
