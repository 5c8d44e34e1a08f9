"""The file that counts usage: one row for a month, vendor, model and purpose, in a database that processes share."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar, cast
from uuid import uuid4

from filelock import FileLock, Timeout

from symmetra_mcp.stores.sqlite_file import first_problem, inode_of, transaction
from symmetra_mcp.types import UsagePurpose

BUSY_TIMEOUT_S = 5.0
"""How long to wait for another process; its transactions last less than a millisecond."""

_VERSION = 1
_SCHEMA = (
    "CREATE TABLE file (file_id TEXT NOT NULL) STRICT",
    """
    CREATE TABLE usage (
        month TEXT NOT NULL,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        purpose TEXT NOT NULL,
        requests INTEGER NOT NULL DEFAULT 0,
        texts INTEGER NOT NULL DEFAULT 0,
        tokens INTEGER NOT NULL DEFAULT 0,
        picodollars INTEGER NOT NULL DEFAULT 0,
        tokens_unpriced INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (month, provider, model, purpose)
    ) STRICT, WITHOUT ROWID
    """,
)
_PRIMARY_CODE = 0xFF
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
"""`SQLITE_ERROR` too: our few statements are right, so that the tables they speak of must be missing or others."""

Key = tuple[str, str, str, UsagePurpose]
"""Month, vendor, model and purpose: which row."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Counts:
    """Columns of the table, or changes to them.

    Attributes:
        requests: Requests that were billed, or may have been.
        texts: Texts in them.
        tokens: Tokens in them.
        picodollars: Cost of the tokens whose price was known.
        tokens_unpriced: Tokens whose price was not known.
    """

    requests: int = 0
    texts: int = 0
    tokens: int = 0
    picodollars: int = 0
    tokens_unpriced: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


_COLUMNS = tuple(field.name for field in fields(Counts))


class UnusableError(Exception):
    """The file can't be read or written now; the message says why and what to do."""


class UsageFile:
    """The database. Its user holds a lock around every call.

    Another process may set the file aside at any time, which leaves this one with a connection to a file of another
    name: so the file is looked up again before each use.

    Attributes:
        notice: That a damaged file was set aside, and where to; empty where none was.
    """

    def __init__(self, path: Path) -> None:
        """Prepare; nothing is opened.

        Args:
            path: The file; made with its folder when first written.
        """
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._file_id = ""
        self.notice = ""

    def read(self, action: Callable[[sqlite3.Connection], _T]) -> _T | None:
        """Run `action`, or return `None` where there is no file.

        Raises:
            UnusableError: The file can't be read.
        """
        with self._explained():
            if not self._path.exists():
                return None
            return self._again_if_damaged(lambda: action(self._opened()))

    def write(self, action: Callable[[sqlite3.Connection, str], _T]) -> _T:
        """Run `action` with the file's id in one transaction, which no other process's can come between.

        Raises:
            UnusableError: The file can't be written; nothing of the action was.
        """

        def run() -> _T:
            connection = self._opened()
            with transaction(connection):
                return action(connection, self._file_id)

        with self._explained():
            return self._again_if_damaged(run)

    def close(self) -> None:
        """Close the connection; a later call opens it again. Safe to call twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _again_if_damaged(self, run: Callable[[], _T]) -> _T:
        try:
            return run()
        except sqlite3.Error as exc:
            if not _is_damage(exc):
                raise
            self.close()  # opening checks the file, and sets it aside
            return run()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, NotImplementedError) as exc:  # the last: a file system without locks
            self.close()  # a failed COMMIT can leave its transaction open
            raise UnusableError(_explanation(self._path, exc)) from exc

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None and inode_of(self._path) == self._inode:
            return self._connection
        self.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._path.with_name(f"{self._path.name}.lock"), timeout=BUSY_TIMEOUT_S, thread_local=False)
        with lock:
            try:
                self._connection, self._file_id = _prepared(self._path)
            except sqlite3.Error as exc:
                if not _is_damage(exc):
                    raise
                self.notice = _set_aside(self._path, exc)
                self._connection, self._file_id = _prepared(self._path)
            self._inode = inode_of(self._path)
        return self._connection


def _prepared(path: Path) -> tuple[sqlite3.Connection, str]:
    """Open the file, make its tables where it is new, and check it where it is not; with its id."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # with WAL: a killed process loses nothing
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > _VERSION:
            raise OSError(f"it has schema {version}, and a newer version of symmetra-mcp made it")
        if version == 0:
            with transaction(connection):
                for statement in _SCHEMA:
                    connection.execute(statement)
                connection.execute("INSERT INTO file (file_id) VALUES (?)", (uuid4().hex,))
                connection.execute(f"PRAGMA user_version = {_VERSION}")
        problem = first_problem(connection)
        found = connection.execute("SELECT file_id FROM file").fetchone()
        connection.execute(f"SELECT month, provider, model, purpose, {', '.join(_COLUMNS)} FROM usage LIMIT 0")
        if problem or found is None:
            raise _damaged(problem or "it has no id")
        return connection, str(found[0])
    except BaseException:
        connection.close()
        raise


def _damaged(problem: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(problem)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _is_damage(exc: sqlite3.Error) -> bool:
    return _code(exc) in _DAMAGED


def _code(exc: Exception) -> int:
    return int(getattr(exc, "sqlite_errorcode", 0)) & _PRIMARY_CODE


def _set_aside(path: Path, problem: Exception) -> str:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    kept = path.with_name(f"{path.stem}.damaged-{stamp}{path.suffix}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.replace(kept.with_name(kept.name + suffix))
    return (
        f"the usage log {str(path)!r} was damaged ({problem}): it was set aside as {str(kept)!r} and a new one begun. "
        "What was spent before is not counted any more, and a spending limit starts at 0"
    )


def _explanation(path: Path, exc: Exception) -> str:
    problem = str(exc)
    if _code(exc) == sqlite3.SQLITE_FULL:
        problem = "the disk is full"
    elif isinstance(exc, Timeout) or _code(exc) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        problem = f"another process has held it for {BUSY_TIMEOUT_S:.0f} seconds"
    return (
        f"usage can't be counted in {str(path)!r}: {problem}. Free or repair it, or set `SYMMETRA_DATA_DIR` to a "
        "folder that can be written"
    )


def add_all(connection: sqlite3.Connection, changes: Mapping[Key, Counts]) -> None:
    """Add to rows, which begin at nothing; the caller holds a transaction."""
    for key, change in changes.items():
        connection.execute("INSERT OR IGNORE INTO usage (month, provider, model, purpose) VALUES (?, ?, ?, ?)", key)
        connection.execute(
            f"UPDATE usage SET {', '.join(f'{column} = {column} + ?' for column in _COLUMNS)} "
            "WHERE (month, provider, model, purpose) = (?, ?, ?, ?)",
            (*astuple(change), *key),
        )


def all_counts(connection: sqlite3.Connection) -> dict[Key, Counts]:
    """Every row, by its key."""
    rows = connection.execute(f"SELECT month, provider, model, purpose, {', '.join(_COLUMNS)} FROM usage").fetchall()
    return {cast(Key, row[:4]): Counts(*row[4:]) for row in rows}


def picodollars_of(connection: sqlite3.Connection, month: str) -> int:
    """Known cost of a month over all providers."""
    query = "SELECT coalesce(sum(picodollars), 0) FROM usage WHERE month = ?"
    return int(connection.execute(query, (month,)).fetchone()[0])
