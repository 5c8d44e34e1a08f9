"""Vectors as rows of a file: capped in size, begun anew when damaged, each row checked by its checksum when read.

Shared state: several servers open one file. Each looks before every use whether the file is still the one it opened;
whoever finds it damaged deletes it, and the others begin the next one with it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from symmetra_mcp.errors import InvalidEmbeddingError
from symmetra_mcp.providers.base import Embeddings, checked

if TYPE_CHECKING:
    from symmetra_mcp.spaces import EmbeddingSpace

T = TypeVar("T")

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


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What decides a vector, as a digest, and the space that the vector has to be of.

    Attributes:
        digest: 32 bytes over space, side and text.
        space: The space of the vector.
    """

    digest: bytes
    space: EmbeddingSpace


class CacheFile:
    """The SQLite file. Never raises for what is wrong with it. Threads take turns.

    Attributes:
        problem: Why the file is not in use, with the next step; empty where it is.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Prepare; nothing is opened.

        Args:
            path: The file; made with its folder at first use.
            max_bytes: Size that it does not pass.
        """
        self.problem = ""
        self._path = path
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._resting_until_s = 0.0

    def read(self, key: CacheKey) -> Embeddings | None:
        """The vector of a key, of shape `(1, key.space.dimensions)`; `None` where it is not there or not sound."""
        return self._run(partial(_read, key=key))

    def write(self, key: CacheKey, blob: bytes) -> None:
        """Keep a vector that is `encoded`, if the file can be written now."""
        self._run(partial(_write, key=key, blob=blob, max_bytes=self._max_bytes))

    def close(self) -> None:
        """Close the connection; a later call opens it again. Safe to call twice."""
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
        return checked(decoded(blob, key.space).vectors, 1, key.space)
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


def encoded(embeddings: Embeddings) -> bytes:
    """The vectors as bytes: float32, little-endian on every machine."""
    return embeddings.vectors.astype("<f4").tobytes()


def decoded(blob: bytes, space: EmbeddingSpace) -> Embeddings:
    """One vector from its bytes, of shape `(1, space.dimensions)`: its own for every caller, who may change it."""
    import numpy as np

    return Embeddings(np.frombuffer(blob, "<f4").astype(np.float32).reshape(1, -1), space)


def _identity_of(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of the same name, or `None` where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
