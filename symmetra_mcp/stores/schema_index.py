"""Building a space's HNSW index while everybody goes on working."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from threading import Thread

from symmetra_mcp.config import Settings
from symmetra_mcp.errors import ConfigError, SchemaError, StoreError, StoreUnavailableError
from symmetra_mcp.stores.schema_database import Row, SchemaDatabase
from symmetra_mcp.stores.schema_direct import DirectDatabase
from symmetra_mcp.stores.schema_install import IndexAdvice, read_advice
from symmetra_mcp.stores.schema_open import open_database

IndexProgress = Callable[[str, int, int], None]
"""Told the phase as Postgres names it, how much of it is done, and of how much; 0 where that is not known."""

INDEX_PAYS_FROM = 20_000
"""Vectors; the database's own advice agrees."""
_POLL_S = 1.0
_LOCK = "select pg_catalog.pg_try_advisory_lock(pg_catalog.hashtext('symmetra-mcp:index')) as locked"
_UNLOCK = "select pg_catalog.pg_advisory_unlock(pg_catalog.hashtext('symmetra-mcp:index'))"
_PROGRESS = """
select phase, coalesce(nullif(tuples_done, 0), blocks_done) as done, case when tuples_done > 0 then tuples_total
  else blocks_total end as total
from pg_catalog.pg_stat_progress_create_index where pid = {pid}
"""
_NAME = re.compile(
    r'create index concurrently (?:if not exists )?((?:"(?:[^"]|"")+")|[a-z_][a-z0-9_$]*) on ', re.IGNORECASE
)


def spaces_to_index(advice: Sequence[IndexAdvice], space_id: str = "") -> list[IndexAdvice]:
    """The spaces that need an index and have none: those it pays for, or the one that is named.

    Raises:
        ConfigError: No space has this id.
    """
    if not space_id:
        return [space for space in advice if space.advised and not space.valid]
    named = [space for space in advice if space.space_id == space_id]
    if not named:
        known = ", ".join(repr(space.space_id) for space in advice) or "none yet"
        raise ConfigError(f"the database has no space {space_id!r}. It has: {known}")
    return [space for space in named if not space.valid]


def check_can_build(database: DirectDatabase) -> None:
    """Refuse a connection that can't build an index.

    Raises:
        ConfigError: It is the pooler's that changes with every transaction.
    """
    if database.is_transaction_pooler:
        raise ConfigError(
            f"{database.place} is the transaction pooler, and an index is built over one connection that stays: set "
            "`SYMMETRA_DB_URL` to the string of the session pooler (port 5432) or of the direct connection"
        )


def index_space(settings: Settings, space_id: str, on_progress: IndexProgress) -> None:
    """Build one space's index over the connection that the settings give, unless there is one.

    Raises:
        ConfigError: None of the settings leads to a connection that can.
        StoreError: The build failed; running it again starts over.
    """
    with open_database(settings) as database:
        direct = direct_only(database)
        for space in spaces_to_index(read_advice(direct), space_id):
            build_index(direct, space, on_progress)


def direct_only(database: SchemaDatabase) -> DirectDatabase:
    """A connection as one that can build an index.

    Raises:
        ConfigError: It is none.
    """
    if not isinstance(database, DirectDatabase):
        raise ConfigError("an index is built over one connection that stays: set `SYMMETRA_DB_URL`")
    check_can_build(database)
    return database


def build_index(database: DirectDatabase, space: IndexAdvice, on_progress: IndexProgress) -> None:
    """Build one space's index. What an unfinished build left behind is dropped first.

    Raises:
        SchemaError: The database does not know how, or refuses.
        StoreUnavailableError: Another build is under way, or the connection was lost; running it again starts over.
    """
    check_can_build(database)
    rows = database.query(f"select symmetra.index_statement({int(space.space_no)}) as statement")
    statement = str(rows[0]["statement"] or "") if rows else ""
    name = _NAME.match(statement.strip())
    if name is None:
        raise SchemaError(f"{database.place} has no statement for the index of {space.space_id!r}: run `schema apply`")
    if not database.query(_LOCK)[0]["locked"]:
        raise StoreUnavailableError(
            f"{database.place}: another `schema index` is building. Wait for it: `symmetra-mcp schema status` tells"
        )
    try:
        database.execute("set statement_timeout = 0")
        if space.indexed and not space.valid:
            database.execute(f"drop index concurrently if exists symmetra.{name[1]}")
        _watched(database, statement, on_progress)
        database.query(_UNLOCK)
        database.execute("reset statement_timeout")
    except BaseException:
        database.close()  # the lock and the setting end with the connection
        raise


def _watched(database: DirectDatabase, statement: str, on_progress: IndexProgress) -> None:
    """Run a statement in a thread, and tell over a second connection how far it is."""
    pid = int(database.query("select pg_catalog.pg_backend_pid() as pid")[0]["pid"])
    failures: list[BaseException] = []

    def build() -> None:
        try:
            database.execute(statement)
        except StoreError as exc:
            failures.append(exc)

    worker = Thread(target=build, name="schema-index")
    worker.start()
    try:
        with database.another() as observer:
            while worker.is_alive():
                for row in _progress(observer, pid):
                    on_progress(str(row["phase"]), int(row["done"] or 0), int(row["total"] or 0))
                worker.join(_POLL_S)
    except BaseException:
        database.cancel()
        worker.join()
        raise
    worker.join()
    if failures:
        raise failures[0]


def _progress(observer: DirectDatabase, pid: int) -> list[Row]:
    try:
        return observer.query(_PROGRESS.format(pid=pid))
    except StoreError:  # the build goes on without being watched
        return []
