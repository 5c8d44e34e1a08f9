"""Queries embedded once: in memory, on disk for the next start, and one request for the same query asked twice at once.

Everything that decides a vector is in its key: the space, the side and the text. A row says by its checksum whether it
is the one that was written. A file that can't be used costs requests, never a search.

Shared state: several servers open one file. Each looks before every use whether the file is still the one it opened;
whoever finds it damaged deletes it, and the others begin the next one with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import threading
import time
import unicodedata
import zlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar
from typing_extensions import override

from symmetra_mcp.errors import InvalidEmbeddingError
from symmetra_mcp.providers.base import EmbeddingProvider, Embeddings, checked

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
EVICTED_TO = 15 / 16
"""Share of the cap that is left when it was reached, so that not every write has to delete."""
EVICTED_AT_ONCE = 8
ROW_OVERHEAD_BYTES = 32_768
"""More than a row takes beside its vector, pages of the table and of its two indexes that split included."""
TOUCH_AFTER_S = 3600
"""How old the note of a row's last use may get: a read then seldom has to write."""
BUSY_TIMEOUT_S = 0.1
"""How long another process is waited for: a search would sooner have its query embedded again."""
PAUSE_S = 5.0
"""How long a file that can't be used is left alone."""

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS query_vectors ("
    "key BLOB PRIMARY KEY, space TEXT NOT NULL, used INTEGER NOT NULL, crc INTEGER NOT NULL, vector BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS query_vectors_by_use ON query_vectors (used)",
)
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = OFF",  # a row that a power cut loses is a miss
    "PRAGMA wal_autocheckpoint = 250",
    "PRAGMA journal_size_limit = 1000000",
    "PRAGMA cell_size_check = ON",
)
_PRIMARY_CODE = 0xFF
_UNUSABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOMEM,
    }
)
"""Errors that another file in the same place would meet too. Any other says that this file is damaged: a changed byte
can take away a column or make the file read-only, so there is no list of those."""

# A lane of its own, so that a lookup neither fills anyio's common threads nor waits for them. One for each event loop,
# since a limiter belongs to the loop that made it.
_lane: RunVar[anyio.CapacityLimiter] = RunVar("symmetra_mcp.providers.cache.lane")


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What decides a vector, as a digest, and the space that the vector has to be of.

    Attributes:
        digest: 32 bytes over space, side and text.
        space: The space of the vector.
    """

    digest: bytes
    space: EmbeddingSpace


def cache_key(space: EmbeddingSpace, input_type: InputType, text: str) -> CacheKey:
    """The key of one side of one text in one space. Texts that `normalized_text` makes equal share it."""
    digest = hashlib.blake2b(digest_size=32)
    for part in (space.space_id, input_type, normalized_text(text)):
        # JSON can carry lone surrogates, which UTF-8 refuses.
        encoded = part.encode("utf-8", "surrogatepass")
        # Lengths go first, as parts run together could be those of another key.
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
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
        self._file = _CacheFile(path, max_bytes) if path is not None else None
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
        return _decoded(blob, key.space)

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
            self._memory[key.digest] = _encoded(embeddings)
            self._memory.move_to_end(key.digest)
            while len(self._memory) > self._memory_entries:
                self._memory.popitem(last=False)

    async def store(self, key: CacheKey, embeddings: Embeddings) -> None:
        """Keep a vector of shape `(1, key.space.dimensions)` in the file, if it can be written now."""
        if self._file is not None:
            await _in_lane(partial(self._file.write, key, _encoded(embeddings)))

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

    @override
    async def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        return await self._inner.embed_documents(texts)

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
            self.cache.remember(key, answer)
            self._start(self.cache.store(key, answer))  # whoever waits need not wait for the disk
        return answer

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


class _CacheFile:
    """The SQLite file. Never raises for what is wrong with it. Threads take turns."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.problem = ""
        self._path = path
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._resting_until_s = 0.0

    def read(self, key: CacheKey) -> Embeddings | None:
        return self._run(partial(_read, key=key))

    def write(self, key: CacheKey, blob: bytes) -> None:
        self._run(partial(_write, key=key, blob=blob, max_bytes=self._max_bytes))

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        with self._lock:
            if time.monotonic() < self._resting_until_s:
                return None
            try:
                result = self._run_on_sound_file(work)
            except (sqlite3.Error, OSError) as exc:
                self._disconnect()
                self._resting_until_s = time.monotonic() + PAUSE_S
                self.problem = (
                    f"the query cache {str(self._path)!r} can't be used, so vectors of queries are kept in memory "
                    f"alone: {exc}. Free or repair its folder, or set `SYMMETRA_QUERY_CACHE` to `0`"
                )
                return None
            self.problem = ""
            return result

    def _run_on_sound_file(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return work(self._connected())
        except sqlite3.Error as exc:
            if getattr(exc, "sqlite_errorcode", 0) & _PRIMARY_CODE in _UNUSABLE:
                raise
            self._delete()
        return work(self._connected())

    def _connected(self) -> sqlite3.Connection:
        """The connection to the file that has the name now, which another process may have begun anew."""
        if self._connection is not None and self._identity == _identity_of(self._path):
            return self._connection
        self._disconnect()
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            # By us, for its mode; SQLite gives it to the files beside it. Only where there is none: closing a second
            # handle would free the locks that another connection of this process holds.
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        self._identity = _identity_of(self._path)
        self._connection = sqlite3.connect(
            self._path, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None
        )
        for statement in (*_PRAGMAS, *_SCHEMA):
            self._connection.execute(statement)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _delete(self) -> None:
        """Delete the file, unless another process was quicker."""
        self._disconnect()
        if _identity_of(self._path) == self._identity:
            # The file itself last: SQLite would apply a log that it finds beside a new one.
            for suffix in ("-wal", "-shm", ""):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)


def _read(connection: sqlite3.Connection, *, key: CacheKey) -> Embeddings | None:
    row = connection.execute("SELECT used, crc, vector FROM query_vectors WHERE key = ?", (key.digest,)).fetchone()
    if row is None:
        return None
    used, crc, blob = row
    embeddings = _verified(key, crc, blob)
    now_s = int(time.time())
    if embeddings is None:
        connection.execute("DELETE FROM query_vectors WHERE key = ?", (key.digest,))
    elif not isinstance(used, int) or abs(now_s - used) > TOUCH_AFTER_S:
        with suppress(sqlite3.OperationalError):  # a vector in hand is worth more than the note
            connection.execute("UPDATE query_vectors SET used = ? WHERE key = ?", (now_s, key.digest))
    return embeddings


def _verified(key: CacheKey, crc: object, blob: object) -> Embeddings | None:
    """The vector of a row, or `None` where it is not what was written under this key."""
    if not isinstance(blob, bytes) or len(blob) != 4 * key.space.dimensions or crc != _crc_of(key, blob):
        return None
    try:
        return checked(_decoded(blob, key.space).vectors, 1, key.space)
    except InvalidEmbeddingError:
        return None


def _write(connection: sqlite3.Connection, *, key: CacheKey, blob: bytes, max_bytes: int) -> None:
    room_bytes = max_bytes - len(blob) - ROW_OVERHEAD_BYTES
    if _used_bytes(connection) > room_bytes:
        _evict(connection, int(room_bytes * EVICTED_TO))
    connection.execute(
        "INSERT OR REPLACE INTO query_vectors (key, space, used, crc, vector) VALUES (?, ?, ?, ?, ?)",
        (key.digest, key.space.space_id, int(time.time()), _crc_of(key, blob), blob),
    )


def _evict(connection: sqlite3.Connection, target_bytes: int) -> None:
    """Delete the rows that were not used for longest; few at once, so that other processes can write between."""
    deleted = 1
    while deleted and _used_bytes(connection) > target_bytes:
        deleted = connection.execute(
            "DELETE FROM query_vectors WHERE rowid IN (SELECT rowid FROM query_vectors ORDER BY used, rowid LIMIT ?)",
            (EVICTED_AT_ONCE,),
        ).rowcount


def _used_bytes(connection: sqlite3.Connection) -> int:
    """Size of the file without the pages that wait to be written again."""
    pragmas = ("page_count", "freelist_count", "page_size")
    pages, unused, page_bytes = (int(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in pragmas)
    return (pages - unused) * page_bytes


def _crc_of(key: CacheKey, blob: bytes) -> int:
    """Over the key too: in a damaged index, a key can lead to another key's row."""
    return zlib.crc32(key.digest + blob)


def _encoded(embeddings: Embeddings) -> bytes:
    return embeddings.vectors.astype("<f4").tobytes()


def _decoded(blob: bytes, space: EmbeddingSpace) -> Embeddings:
    """A vector of its own for every caller, who may change it."""
    import numpy as np

    return Embeddings(np.frombuffer(blob, "<f4").astype(np.float32).reshape(1, -1), space)


def _identity_of(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of the same name, or `None` where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


async def _in_lane(work: Callable[[], T]) -> T:
    limiter = _lane.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(1)
        _lane.set(limiter)
    return await to_thread.run_sync(work, limiter=limiter)
