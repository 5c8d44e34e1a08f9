"""Texts without a vector: read ahead, embedded several requests at a time, written as they come.

No more than a window of texts is between reading and writing: that is what memory holds, whatever the number of rules,
and what a run that is killed embeds again at most.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from symmetra_mcp.errors import ProviderError
from symmetra_mcp.probes import probe_passages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.passages import Passage
    from symmetra_mcp.providers.base import EachEmbedded, EmbeddingProvider
    from symmetra_mcp.stores.base import RuleStore

_READ_AT_ONCE = 512
_GRACE_S = 5.0
"""How long requests that are on their way may take after another failed: they are paid for."""
BEGINNING_CHARACTERS = 60
"""By which a person knows a text again."""
SAMPLE_TEXTS = 64
"""Vectors that a run keeps, to compare with what the store holds at the end."""


@dataclass(frozen=True, slots=True)
class RunLimits:
    """How a run asks.

    Attributes:
        request_texts: Most texts in a request.
        request_tokens: Most tokens in a request.
        requests: Requests on their way at once; the provider's own pace may allow fewer.
        window_texts: Most texts between reading and writing.
    """

    request_texts: int
    request_tokens: int
    requests: int
    window_texts: int

    @classmethod
    def of(cls, provider: EmbeddingProvider, batch_texts: int | None = None) -> RunLimits:
        """What suits a provider.

        Args:
            provider: Embeds.
            batch_texts: Most texts in a request, where that is less than the provider takes well.

        Raises:
            ValueError: No text is too few.
        """
        if batch_texts is not None and batch_texts < 1:
            raise ValueError(f"batch_texts must be at least 1, got {batch_texts}")
        if batch_texts is None:
            return cls(provider.request_texts, provider.request_tokens, provider.parallel_requests, provider.page_texts)
        most = min(batch_texts, provider.page_texts)  # the provider divides what is too much for a request
        return cls(most, sys.maxsize, provider.parallel_requests, provider.page_texts)


@dataclass(slots=True)
class Progress:
    """What a run did so far.

    Attributes:
        embedded: Texts whose vectors are stored.
        refused: Why the provider does not take some texts, by content hash.
        beginnings: How those texts begin, by content hash.
        tokens: What the vendor billed.
        sample: Some of the vectors as the provider gave them, by content hash.
        resume_after: Every text up to this content hash is done.
    """

    embedded: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    beginnings: dict[str, str] = field(default_factory=dict)
    tokens: int = 0
    sample: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    resume_after: str = ""


@dataclass(frozen=True, slots=True)
class _Batch:
    number: int
    passages: list[Passage]


@dataclass(frozen=True, slots=True)
class _Answered:
    batch: _Batch
    each: EachEmbedded


class EmbeddingRun:
    """One pass over the texts that have no vector in the provider's space, in the order of their hashes."""

    def __init__(
        self,
        store: RuleStore,
        provider: EmbeddingProvider,
        limits: RunLimits,
        *,
        again: bool = False,
        after: str = "",
        progress: Progress | None = None,
        on_written: Callable[[Progress], Awaitable[None]] | None = None,
    ) -> None:
        """Prepare a pass.

        Args:
            store: Holds the texts, and takes the vectors.
            provider: Embeds.
            limits: How it is asked.
            again: Embed the texts that have a vector or were refused too.
            after: Content hash to go on after; empty to begin.
            progress: Counted on; by default from nothing.
            on_written: Called after every request whose vectors are stored.
        """
        self.progress = progress or Progress()
        self._store = store
        self._provider = provider
        self._limits = limits
        self._again = again
        self._after = after
        self._on_written = on_written
        self._in_flight = 0
        self._room = anyio.Event()
        self._failure: ProviderError | None = None
        self._asking = anyio.CancelScope()
        self._written: dict[int, str] = {}  # batches that are stored while an earlier one is not
        self._next_number = 0
        self._sample_every = 1

    async def run(self, expected: int = 0) -> Progress:
        """Do it.

        Args:
            expected: About how many texts there are.

        Raises:
            ProviderError: The provider failed; what came before is stored.
            StoreError: The store failed.
        """
        self._sample_every = max(1, expected // SAMPLE_TEXTS)
        to_ask, asked = anyio.create_memory_object_stream[_Batch]()
        to_write, answered = anyio.create_memory_object_stream[_Answered]()
        try:
            async with anyio.create_task_group() as tasks, to_write:
                tasks.start_soon(self._write, answered)
                with self._asking:
                    async with anyio.create_task_group() as asking:
                        asking.start_soon(self._read, to_ask)
                        for _ in range(self._limits.requests):
                            asking.start_soon(self._ask, asked.clone(), to_write.clone())
                        asked.close()
                to_write.close()
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise _only(group) from None
            raise
        if self._failure is not None:
            raise self._failure
        return self.progress

    async def _read(self, to_ask: MemoryObjectSendStream[_Batch]) -> None:
        number = 0
        async with to_ask:
            with suppress(anyio.BrokenResourceError):  # nobody asks any more: a request failed
                while self._failure is None:
                    page, self._after = await self._store.missing_passages(
                        self._provider.space, after=self._after, limit=_READ_AT_ONCE, again=self._again
                    )
                    if not page:
                        return
                    for passages in self._batches(page):
                        while self._in_flight and self._in_flight + len(passages) > self._limits.window_texts:
                            self._room = anyio.Event()
                            await self._room.wait()
                        if self._failure is not None:
                            return
                        self._in_flight += len(passages)
                        await to_ask.send(_Batch(number, passages))
                        number += 1

    def _batches(self, page: list[Passage]) -> list[list[Passage]]:
        batches: list[list[Passage]] = [[]]
        tokens = 0
        for passage in page:
            size = self._provider.estimate_tokens(passage.text)
            full = len(batches[-1]) == self._limits.request_texts or tokens + size > self._limits.request_tokens
            if batches[-1] and full:
                batches.append([])
                tokens = 0
            batches[-1].append(passage)
            tokens += size
        return batches

    async def _ask(self, asked: MemoryObjectReceiveStream[_Batch], to_write: MemoryObjectSendStream[_Answered]) -> None:
        async with asked, to_write:
            async for batch in asked:
                try:
                    each = await self._provider.embed_each([passage.text for passage in batch.passages])
                except ProviderError as exc:
                    if self._failure is None:
                        self._failure = exc
                        self._asking.deadline = anyio.current_time() + _GRACE_S
                        self._room.set()
                    return
                await to_write.send(_Answered(batch, each))

    async def _write(self, answered: MemoryObjectReceiveStream[_Answered]) -> None:
        async with answered:
            async for answer in answered:
                await self._store_answer(answer)
                if self._on_written is not None:
                    await self._on_written(self.progress)

    async def _store_answer(self, answer: _Answered) -> None:
        passages, each = answer.batch.passages, answer.each
        hashes = [passages[row].content_hash for row in each.rows]
        if hashes:
            await self._store.put_vectors(hashes, each.embeddings)
        progress = self.progress
        progress.embedded += len(hashes)
        for row, reason in each.refused.items():
            progress.refused[passages[row].content_hash] = reason
            progress.beginnings[passages[row].content_hash] = passages[row].text[:BEGINNING_CHARACTERS]
        progress.tokens += each.embeddings.tokens
        for row, content_hash in enumerate(hashes):
            if int(content_hash[-8:], 16) % self._sample_every == 0 and len(progress.sample) < SAMPLE_TEXTS:
                progress.sample[content_hash] = each.embeddings.vectors[row].copy()
        self._written[answer.batch.number] = passages[-1].content_hash
        while self._next_number in self._written:
            progress.resume_after = self._written.pop(self._next_number)
            self._next_number += 1
        self._in_flight -= len(passages)
        self._room.set()


async def embed_probes(store: RuleStore, provider: EmbeddingProvider, limits: RunLimits, *, again: bool) -> int:
    """Give the space the unrelated questions that its searches measure nearness by.

    Returns:
        Tokens billed.

    Raises:
        ProviderError: The provider failed.
        StoreError: The store failed.
    """
    probes = {probe.content_hash: probe.text for probe in probe_passages()}
    missing = sorted(probes if again else await store.without_vector(provider.space, list(probes)))
    tokens = 0
    for start in range(0, len(missing), limits.request_texts):
        page = missing[start : start + limits.request_texts]
        embeddings = await provider.embed_documents([probes[key] for key in page])
        await store.put_vectors(page, embeddings)
        tokens += embeddings.tokens
    return tokens


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception in nested groups of one."""
    exception: BaseException = group
    while isinstance(exception, BaseExceptionGroup) and len(exception.exceptions) == 1:
        exception = exception.exceptions[0]
    return exception
