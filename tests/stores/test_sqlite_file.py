from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing, suppress
from pathlib import Path

import pytest

from symmetra_mcp.errors import SchemaError, StoreError, StoreUnavailableError
from symmetra_mcp.stores import sqlite_file
from symmetra_mcp.stores.sqlite_file import (
    MIGRATIONS,
    DamagedFileError,
    connect,
    errors_mapped,
    first_problem,
    open_file,
    set_aside_if_damaged,
    transaction,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "store.db"


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def tables_of(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def set_version(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")


def test_opening_makes_the_folder_and_the_present_schema_in_wal_mode(path: Path) -> None:
    notices: list[str] = []
    assert open_file(path, notices) is False
    assert (version_of(path), notices) == (len(MIGRATIONS), [])
    assert tables_of(path) == {"rules", "passages", "spaces", "vectors", "refusals", "notes", "revisions"}
    with closing(connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
        assert first_problem(connection) == ""


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights than modes")
def test_only_its_user_can_read_what_is_created(path: Path) -> None:
    open_file(path, [])
    with closing(connect(path)) as connection, transaction(connection):
        connection.execute("INSERT INTO notes VALUES ('a', 'private')")
        modes = {part.name: mode_of(part) for part in path.parent.glob("store.db*") if part.suffix != ".lock"}
    assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}
    assert mode_of(path.parent) == 0o700


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights than modes")
@pytest.mark.parametrize("mode", [0o640, 0o666])
def test_modes_that_somebody_chose_stay(path: Path, mode: int) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o755)
    path.touch()
    path.chmod(mode)
    open_file(path, [])
    assert (mode_of(path), mode_of(path.parent)) == (mode, 0o755)
    path.write_bytes(b"no database " * 1000)
    assert open_file(path, []) is True
    assert (mode_of(path), version_of(path)) == (mode, len(MIGRATIONS))


def test_opening_again_changes_nothing(path: Path) -> None:
    open_file(path, [])
    before = path.read_bytes()
    assert open_file(path, []) is False
    assert path.read_bytes() == before


def test_only_migrations_that_have_not_run_are_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_file(path, [])
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE one (x)", "CREATE TABLE two (x);"))
    open_file(path, [])
    assert version_of(path) == len(MIGRATIONS) + 2
    assert {"one", "two"} < tables_of(path)


def test_a_migration_that_fails_leaves_the_schema_before_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_file(path, [])
    broken = "CREATE TABLE half (x); INSERT INTO no_such_table VALUES (1)"
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", (*MIGRATIONS, broken))
    with pytest.raises(StoreUnavailableError, match="no_such_table"):
        open_file(path, [])
    assert version_of(path) == len(MIGRATIONS)
    assert "half" not in tables_of(path)


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    open_file(path, [])
    set_version(path, len(MIGRATIONS) + 1)
    before = path.read_bytes()
    notices: list[str] = []
    with pytest.raises(SchemaError, match=r"Upgrade symmetra-mcp, or set `SYMMETRA_DATA_DIR`") as caught:
        open_file(path, notices)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert (notices, sorted(part.name for part in path.parent.glob("*damaged*"))) == ([], [])


def test_a_healthy_file_is_not_set_aside(path: Path) -> None:
    open_file(path, [])
    notices: list[str] = []
    assert set_aside_if_damaged(path, notices) is False
    assert (notices, list(path.parent.glob("*damaged*"))) == ([], [])


def test_what_was_not_yet_checkpointed_is_set_aside_with_its_file(path: Path) -> None:
    open_file(path, [])
    path.write_bytes(b"no database " * 1000)
    wal = path.with_name(path.name + "-wal")
    wal.write_bytes(b"last changes")
    assert open_file(path, []) is True
    kept = {part.name.partition(".db")[2]: part.read_bytes() for part in path.parent.glob("*damaged*")}
    assert kept[""] == b"no database " * 1000
    assert kept["-wal"] == b"last changes"


def test_a_transaction_is_written_whole_or_not_at_all(path: Path) -> None:
    open_file(path, [])
    with closing(connect(path)) as connection:
        with suppress(KeyboardInterrupt), transaction(connection):
            connection.execute("INSERT INTO notes VALUES ('a', 'lost')")
            raise KeyboardInterrupt
        with transaction(connection):
            connection.execute("INSERT INTO notes VALUES ('a', 'kept')")
        assert connection.execute("SELECT * FROM notes").fetchall() == [("a", "kept")]
        assert not connection.in_transaction


def sqlite_error(code: int, kind: type[sqlite3.Error] = sqlite3.OperationalError) -> sqlite3.Error:
    exc = kind("told by SQLite")
    exc.sqlite_errorcode = code
    return exc


@pytest.mark.parametrize(
    ("raised", "expected", "said"),
    [
        pytest.param(sqlite_error(sqlite3.SQLITE_CORRUPT), DamagedFileError, "is damaged", id="corrupt"),
        pytest.param(sqlite_error(sqlite3.SQLITE_CORRUPT_VTAB), DamagedFileError, "is damaged", id="corrupt-extended"),
        pytest.param(sqlite_error(sqlite3.SQLITE_NOTADB), DamagedFileError, "is damaged", id="not-a-database"),
        pytest.param(sqlite_error(sqlite3.SQLITE_FULL), StoreUnavailableError, "is full", id="full"),
        pytest.param(sqlite_error(sqlite3.SQLITE_READONLY_DBMOVED), StoreUnavailableError, "be written", id="moved"),
        pytest.param(sqlite_error(sqlite3.SQLITE_CANTOPEN), StoreUnavailableError, "be written", id="can't-open"),
        pytest.param(sqlite_error(sqlite3.SQLITE_BUSY), StoreUnavailableError, "busy", id="busy"),
        pytest.param(sqlite_error(sqlite3.SQLITE_BUSY_SNAPSHOT), StoreUnavailableError, "busy", id="busy-extended"),
        pytest.param(sqlite_error(sqlite3.SQLITE_LOCKED), StoreUnavailableError, "busy", id="locked"),
        pytest.param(sqlite_error(sqlite3.SQLITE_IOERR_WRITE), StoreUnavailableError, "told by SQLite", id="io"),
        pytest.param(sqlite3.ProgrammingError("closed"), StoreUnavailableError, "closed", id="without-a-code"),
        pytest.param(PermissionError(13, "denied"), StoreUnavailableError, "SYMMETRA_DATA_DIR", id="no-permission"),
        pytest.param(UnicodeEncodeError("utf-8", "secret", 3, 4, "no"), StoreError, "character 3", id="surrogate"),
    ],
)
def test_every_failure_becomes_one_of_ours_with_its_cause_in_words(
    path: Path, raised: Exception, expected: type[Exception], said: str
) -> None:
    with pytest.raises(StoreError, match=said) as caught, errors_mapped(path):
        raise raised
    assert type(caught.value) is expected
    assert "secret" not in str(caught.value)


def test_an_error_that_is_no_stores_passes_through(path: Path) -> None:
    with pytest.raises(KeyError), errors_mapped(path):
        raise KeyError("a bug")
