"""The embedded store's file: opened, migrated, and set aside when it is damaged.

Rules may be private, so only its user can read what is created here; modes of what is there are somebody's choice.
Several servers open one file at once. Whatever changes the file as a whole (switching to WAL, migrating, setting it
aside) happens under a lock file beside it, which the operating system frees when its holder dies.
"""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from symmetra_mcp.errors import SchemaError, StoreError, StoreUnavailableError

BUSY_TIMEOUT_S = 30.0
"""How long a writer waits for another process's transaction; ours last milliseconds."""
LOCK_TIMEOUT_S = 60.0
"""How long an opening process waits for another that opens or migrates."""

MIGRATIONS = (
    """
    CREATE TABLE rules (
        rule_no INTEGER PRIMARY KEY,
        project_id TEXT NOT NULL,
        rule_id TEXT NOT NULL,
        title TEXT NOT NULL,
        guidance TEXT NOT NULL,
        rationale TEXT NOT NULL,
        category TEXT NOT NULL,
        priority TEXT NOT NULL,
        tech_stacks TEXT NOT NULL,
        contexts TEXT NOT NULL,
        keywords TEXT NOT NULL,
        sources TEXT NOT NULL,
        scopes TEXT NOT NULL,
        terms BLOB NOT NULL,
        updated_at TEXT NOT NULL,
        UNIQUE (project_id, rule_id)
    ) STRICT;
    CREATE TABLE passages (
        rule_no INTEGER NOT NULL REFERENCES rules (rule_no) ON DELETE CASCADE,
        ordinal INTEGER NOT NULL,
        content_hash TEXT NOT NULL,
        text TEXT NOT NULL,
        PRIMARY KEY (rule_no, ordinal)
    ) STRICT;
    CREATE INDEX passages_by_hash ON passages (content_hash);
    CREATE TABLE spaces (
        space_id TEXT PRIMARY KEY,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        dimensions INTEGER NOT NULL,
        normalized INTEGER NOT NULL,
        active INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        created_at TEXT NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX one_active_space ON spaces (active) WHERE active = 1;
    CREATE TABLE vectors (
        space_id TEXT NOT NULL REFERENCES spaces (space_id) ON DELETE CASCADE,
        content_hash TEXT NOT NULL,
        vector BLOB NOT NULL,
        PRIMARY KEY (space_id, content_hash)
    ) STRICT;
    CREATE TABLE notes (name TEXT PRIMARY KEY, text TEXT NOT NULL) STRICT;
    CREATE TABLE revisions (name TEXT PRIMARY KEY, revision INTEGER NOT NULL) STRICT;
    INSERT INTO revisions (name, revision) VALUES ('rules', 0);
    """,
    "ALTER TABLE spaces ADD COLUMN variant TEXT NOT NULL DEFAULT '';",
    """
    ALTER TABLE spaces ADD COLUMN left_at TEXT NOT NULL DEFAULT '';
    CREATE TABLE refusals (
        space_id TEXT NOT NULL REFERENCES spaces (space_id) ON DELETE CASCADE,
        content_hash TEXT NOT NULL,
        reason TEXT NOT NULL,
        PRIMARY KEY (space_id, content_hash)
    ) STRICT;
    """,
)
"""Append-only: the schema's version is the number of scripts that ran."""

_PRIVATE_FOLDER = 0o700
_PRIVATE_FILE = 0o600
_PRIMARY_CODE = 0xFF
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_NO_SPACE = frozenset({sqlite3.SQLITE_FULL})
_UNWRITABLE = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class DamagedFileError(StoreError):
    """The file is no readable database. Answered by setting it aside, so users meet it as a notice only."""


@contextmanager
def errors_mapped(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, each with its next step.

    Raises:
        DamagedFileError: The file is not a database, or its pages contradict each other.
        StoreError: A text holds half of a surrogate pair, which is no character.
        StoreUnavailableError: Anything else that keeps it from being read or written now.
    """
    try:
        yield
    except sqlite3.Error as exc:
        code = getattr(exc, "sqlite_errorcode", 0) & _PRIMARY_CODE
        if code in _DAMAGED:
            raise DamagedFileError(f"the rule store {str(path)!r} is damaged: {exc}") from exc
        raise StoreUnavailableError(_explained(code, path, exc)) from exc
    except UnicodeEncodeError as exc:
        problem = f"{exc.reason} at character {exc.start}"
        raise StoreError(f"a text can't be stored or looked up: {problem}. Remove that character") from None
    except OSError as exc:
        raise StoreUnavailableError(
            f"the data folder {str(path.parent)!r} can't be used: {exc}. {_OTHER_FOLDER}"
        ) from exc


_OTHER_FOLDER = "Free or repair it, or set `SYMMETRA_DATA_DIR` to a folder that can be written"


def _explained(code: int, path: Path, exc: sqlite3.Error) -> str:
    if code in _NO_SPACE:
        return f"the disk that holds {str(path.parent)!r} is full: the last change was not stored. {_OTHER_FOLDER}"
    if code in _UNWRITABLE:
        return f"the rule store {str(path)!r} can't be written: {exc}. {_OTHER_FOLDER}"
    if code in _BUSY:
        return (
            f"the rule store {str(path)!r} was busy for {BUSY_TIMEOUT_S:.0f} seconds: another symmetra-mcp is writing. "
            "Nothing was changed; try again"
        )
    return f"the rule store {str(path)!r} failed: {exc}. Nothing of the last change was stored. {_OTHER_FOLDER}"


def lock_of(path: Path, task: str = "") -> FileLock:
    """A lock file beside the database, freed by the operating system when its holder dies."""
    suffix = f".{task}.lock" if task else ".lock"
    return FileLock(path.with_name(path.name + suffix), timeout=LOCK_TIMEOUT_S, thread_local=False)


def open_file(path: Path, notices: list[str]) -> bool:
    """Create or migrate the file, setting a damaged one aside.

    Args:
        path: The database.
        notices: Takes what the user should know.

    Returns:
        Whether a damaged file was set aside, so that rules must be read from their files again.

    Raises:
        StoreUnavailableError: The folder or file can't be used.
        SchemaError: The file was made by a newer version.
    """
    with errors_mapped(path):
        path.parent.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
        try:
            with lock_of(path):
                try:
                    _prepare(path)
                except DamagedFileError as exc:
                    _begin_anew(path, exc, notices)
                    return True
        except Timeout as exc:
            raise StoreUnavailableError(
                f"another symmetra-mcp has held {exc.lock_file!r} for {LOCK_TIMEOUT_S:.0f} seconds; try again"
            ) from exc
    return False


def set_aside_if_damaged(path: Path, notices: list[str]) -> bool:
    """Check a file that a query found damaged, and set it aside unless another process already did.

    Every connection to it must be closed.
    """
    with errors_mapped(path), lock_of(path):
        try:
            with closing(connect(path)) as connection, errors_mapped(path):
                problem = first_problem(connection)
        except DamagedFileError as exc:
            problem = str(exc)
        if problem:
            _begin_anew(path, DamagedFileError(problem), notices)
        return bool(problem)


def inode_of(path: Path) -> int:
    """What tells a file from another of the same name; 0 where there is none, and on systems without such numbers."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def first_problem(connection: sqlite3.Connection) -> str:
    """What SQLite's own check finds wrong, or an empty string."""
    row = connection.execute("PRAGMA quick_check(1)").fetchone()
    return "" if row == ("ok",) else str(row[0])


def connect(path: Path) -> sqlite3.Connection:
    """Open one connection, usable from any thread while its user holds a lock."""
    if not path.exists():
        path.touch(_PRIVATE_FILE)  # SQLite would let everybody read it; `-wal` and `-shm` get the mode of the database
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")  # with WAL: a killed process loses nothing
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Everything inside is written, or nothing is."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled back by itself
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _prepare(path: Path) -> None:
    with errors_mapped(path), closing(connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version > len(MIGRATIONS):
            raise SchemaError(
                f"the rule store {str(path)!r} has schema {version}, this version of symmetra-mcp knows "
                f"{len(MIGRATIONS)}: it was made by a newer version. Upgrade symmetra-mcp, or set "
                "`SYMMETRA_DATA_DIR` to another folder"
            )
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            _migrate(connection, partial(_run_script, connection, script), number)


def _migrate(connection: sqlite3.Connection, change: Callable[[], None], version: int) -> None:
    with transaction(connection):
        change()
        connection.execute(f"PRAGMA user_version = {version}")


def _run_script(connection: sqlite3.Connection, script: str) -> None:
    """Run statements one by one: `executescript` would commit the transaction they belong to."""
    for statement in script.split(";"):
        if statement.strip():
            connection.execute(statement)


def _begin_anew(path: Path, problem: Exception, notices: list[str]) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    notices.append(_set_aside(path, problem))
    path.touch(_PRIVATE_FILE)
    with suppress(OSError):  # not every file system has modes
        path.chmod(mode)
    _prepare(path)


def _set_aside(path: Path, problem: Exception) -> str:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    kept = path.with_name(f"{path.stem}.damaged-{stamp}{path.suffix}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.replace(kept.with_name(kept.name + suffix))
    return f"{problem}; it was set aside as {str(kept)!r} and a new store begun; rules are read from their files again"
