"""Queries embedded once: in memory, on disk for the next start, and one request for the same query asked twice at once.

Everything that decides a vector is in its key: the space, the side and the text. A file that can't be used costs
requests, never a search.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar
from typing_extensions import override

from symmetra_mcp.providers.base import EachEmbedded, EmbeddingProvider, Embeddings
from symmetra_mcp.providers.cache_file import CacheFile, CacheKey, decoded, encoded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.types import InputType

T = TypeVar("T")

FILE_NAME = "query_cache.db"
MAX_BYTES = 64_000_000
"""Some thirty thousand vectors of 384 numbers. SQLite's write-ahead log beside it takes one megabyte more."""
MEMORY_ENTRIES = 512

# A lane of its own, so that a lookup neither fills anyio's common threads nor waits for them. One for each event loop,
# since a limiter belongs to the loop that made it.
_lane: RunVar[anyio.CapacityLimiter] = RunVar("symmetra_mcp.providers.cache.lane")


def cache_key(space: EmbeddingSpace, input_type: InputType, text: str) -> CacheKey:
    """The key of one side of one text in one space. Texts that `normalized_text` makes equal share it."""
    digest = hashlib.blake2b(digest_size=32)
    for part in (space.space_id, input_type, normalized_text(text)):
        # JSON can carry lone surrogates, which UTF-8 refuses.
        part_bytes = part.encode("utf-8", "surrogatepass")
        # Lengths go first, as parts run together could be those of another key.
        digest.update(len(part_bytes).to_bytes(8, "little") + part_bytes)
    return CacheKey(digest.digest(), space)


def normalized_text(text: str) -> str:
    """The text without differences that nobody sees: Unicode NFC, LF line ends, no white space around it.

    Case stays, as models tell `us` from `US`.
    """
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n")).strip()


class VectorCache:
    """Vectors by key: the last used in memory, more in a file.

    The file is opened at first use, in a worker thread, and again at the next use after `aclose`. One that can't be
    used is left alone for some seconds, while memory serves. Threads and event loops may share a cache.

    Attributes:
        hits: Lookups that found a vector.
        misses: Lookups that found none.
    """

    def __init__(
        self, path: Path | None = None, *, max_bytes: int = MAX_BYTES, memory_entries: int = MEMORY_ENTRIES
    ) -> None:
        """Name the file.

        Args:
            path: The SQLite file, such as `query_cache.db` in the data folder; without one, memory alone.
            max_bytes: Size that the file does not pass.
            memory_entries: Vectors in memory.
        """
        self.hits = 0
        self.misses = 0
        self._file = CacheFile(path, max_bytes) if path is not None else None
        self._memory: OrderedDict[bytes, bytes] = OrderedDict()
        self._memory_entries = memory_entries
        self._memory_lock = threading.Lock()

    @property
    def problem(self) -> str:
        """Why the file is not in use, with the next step; empty where it is, or where there is none."""
        return self._file.problem if self._file is not None else ""

    def recall(self, key: CacheKey) -> Embeddings | None:
        """Look in memory alone. Counts a hit; a miss is counted by `load`, which comes next."""
        with self._memory_lock:
            blob = self._memory.get(key.digest)
            if blob is None:
                return None
            self._memory.move_to_end(key.digest)
            self.hits += 1
        return decoded(blob, key.space)

    async def load(self, key: CacheKey) -> Embeddings | None:
        """Look in the file. What is found there is in memory from then on.

        Returns:
            `vectors` of shape `(1, key.space.dimensions)`, which the caller may change, or `None`.
        """
        found = await _in_lane(partial(self._file.read, key)) if self._file is not None else None
        with self._memory_lock:
            self.hits += found is not None
            self.misses += found is None
        if found is not None:
            self.remember(key, found)
        return found

    def remember(self, key: CacheKey, embeddings: Embeddings) -> None:
        """Keep a vector of shape `(1, key.space.dimensions)` in memory."""
        with self._memory_lock:
            self._memory[key.digest] = encoded(embeddings)
            self._memory.move_to_end(key.digest)
            while len(self._memory) > self._memory_entries:
                self._memory.popitem(last=False)

    async def store(self, key: CacheKey, embeddings: Embeddings) -> None:
        """Keep a vector of shape `(1, key.space.dimensions)` in the file, if it can be written now."""
        if self._file is not None:
            await _in_lane(partial(self._file.write, key, encoded(embeddings)))

    async def aclose(self) -> None:
        """Close the file. Safe to call twice."""
        if self._file is not None:
            with anyio.CancelScope(shield=True):
                await _in_lane(self._file.close)


class CachingProvider(EmbeddingProvider):
    """Asks the provider it wraps for queries that it has not seen; documents pass through, as the store keeps them.

    Identical queries that meet are one request. It is cancelled when the last who waits for it is; its failure reaches
    all who wait, and nobody after them.

    Attributes:
        cache: Where the vectors are; several providers may share one.
    """

    def __init__(self, inner: EmbeddingProvider, cache: VectorCache | None = None) -> None:
        """Wrap a provider.

        Args:
            inner: Who embeds.
            cache: Where vectors are kept, closed by `aclose`; by default in memory.
        """
        self.cache = VectorCache() if cache is None else cache
        self._inner = inner
        self._space_is_known = False
        # Tasks belong to their loop, so each loop has requests of its own.
        self._requests: dict[tuple[asyncio.AbstractEventLoop, bytes], _Request] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    @override
    def space(self) -> EmbeddingSpace:
        return self._inner.space

    @property
    @override
    def max_input_tokens(self) -> int:
        return self._inner.max_input_tokens

    @property
    @override
    def page_texts(self) -> int:
        return self._inner.page_texts

    @property
    @override
    def is_remote(self) -> bool:
        return self._inner.is_remote

    @property
    @override
    def price_usd_per_million(self) -> float | None:
        return self._inner.price_usd_per_million

    @property
    @override
    def request_texts(self) -> int:
        return self._inner.request_texts

    @property
    @override
    def request_tokens(self) -> int:
        return self._inner.request_tokens

    @property
    @override
    def parallel_requests(self) -> int:
        return self._inner.parallel_requests

    @override
    def estimate_tokens(self, text: str) -> int:
        return self._inner.estimate_tokens(text)

    @override
    def least_duration_s(self, texts: int, tokens: int) -> float | None:
        return self._inner.least_duration_s(texts, tokens)

    @override
    async def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        return await self._inner.embed_documents(texts)

    @override
    async def embed_each(self, texts: Sequence[str]) -> EachEmbedded:
        return await self._inner.embed_each(texts)

    @override
    async def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        if not texts:
            return await self._inner.embed_queries(texts)
        import numpy as np

        await self._find_out_space()
        space = self._inner.space
        keys = [cache_key(space, "query", text) for text in texts]
        missing: dict[CacheKey, str] = {}
        known: dict[CacheKey, Embeddings] = {}
        for key, text in zip(keys, texts, strict=True):
            found = self.cache.recall(key) or await self.cache.load(key)
            if found is not None:
                known[key] = found
            else:
                missing[key] = normalized_text(text)
        answer = await self._inner.embed_queries(list(missing.values()))
        if answer.space != space:  # the model was changed while it was asked: what is at hand is of the former one
            return await self._inner.embed_queries(texts)
        for row, key in enumerate(missing):
            known[key] = Embeddings(answer.vectors[row : row + 1], space)
            self._keep(key, known[key])
        return Embeddings(np.concatenate([known[key].vectors for key in keys]), space, answer.tokens)

    @override
    async def embed_query(self, text: str) -> Embeddings:
        await self._find_out_space()
        key = cache_key(self._inner.space, "query", text)
        found = self.cache.recall(key)
        if found is not None:
            return found
        name = (asyncio.get_running_loop(), key.digest)
        request = self._requests.get(name)
        if request is None:
            # What shares a key has to share a vector, so the text that the key stands for is embedded.
            request = _Request(self._start(self._find(key, normalized_text(text))))
            self._requests[name] = request
            request.task.add_done_callback(lambda _: self._forget(name, request))
        answer = await self._joined(name, request)
        return Embeddings(answer.vectors.copy(), answer.space)

    @override
    async def warm_up(self) -> None:
        await self._inner.warm_up()
        await self._find_out_space()

    @override
    def try_again(self) -> None:
        self._inner.try_again()

    @override
    async def aclose(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while unfinished := [task for task in self._tasks if task.get_loop() is loop]:
                await asyncio.wait(unfinished)
            await self._inner.aclose()
        finally:
            await self.cache.aclose()

    @override
    async def _embed(self, texts: Sequence[str], input_type: InputType) -> NDArray[np.float32]:
        return await self._inner._embed(texts, input_type)

    async def _find_out_space(self) -> None:
        """Some providers read files for it, which is not for the event loop; once they have, it is at hand."""
        if not self._space_is_known:
            await to_thread.run_sync(lambda: self._inner.space)
            self._space_is_known = True

    async def _find(self, key: CacheKey, text: str) -> Embeddings:
        found = await self.cache.load(key)
        if found is not None:
            return found
        answer = await self._inner.embed_query(text)
        if answer.space == key.space:  # else the model was changed while it was asked
            self._keep(key, answer)
        return answer

    def _keep(self, key: CacheKey, embeddings: Embeddings) -> None:
        self.cache.remember(key, embeddings)
        self._start(self.cache.store(key, embeddings))  # whoever waits need not wait for the disk

    async def _joined(self, name: tuple[asyncio.AbstractEventLoop, bytes], request: _Request) -> Embeddings:
        request.waiting += 1
        try:
            # Unlike awaiting the task, which would cancel it with this caller. `shield` complains, from Python 3.14 on,
            # where a caller was cancelled and the request then fails.
            await asyncio.wait({request.task})
        finally:
            request.waiting -= 1
            if not request.waiting and not request.task.done():
                # Forgotten first, so that nobody joins what is about to end.
                self._forget(name, request)
                request.task.cancel()
        return request.task.result()

    def _forget(self, name: tuple[asyncio.AbstractEventLoop, bytes], request: _Request) -> None:
        if self._requests.get(name) is request:
            del self._requests[name]

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # asyncio logs one that nobody fetched, as when all who waited were cancelled


@dataclass(slots=True, eq=False)
class _Request:
    """One query under way, and how many wait for it."""

    task: asyncio.Task[Embeddings]
    waiting: int = 0


async def _in_lane(work: Callable[[], T]) -> T:
    limiter = _lane.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(1)
        _lane.set(limiter)
    return await to_thread.run_sync(work, limiter=limiter)
