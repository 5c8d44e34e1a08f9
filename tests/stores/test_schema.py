"""The schema's transaction in a real Postgres: killed, run at once by several, run twice, run by the wrong role."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from supabase_stack.postgres import Server

from symmetra_mcp.errors import ConfigError, SchemaError, StoreAccessError, StoreError, StoreUnavailableError
from symmetra_mcp.stores import schema as schema_module
from symmetra_mcp.stores.schema import (
    WAITING,
    Migration,
    exported_files,
    install_body,
    install_script,
    migrations,
    public_access_sql,
)
from symmetra_mcp.stores.schema_database import server_error
from symmetra_mcp.stores.schema_direct import DirectDatabase
from symmetra_mcp.stores.schema_index import build_index, check_can_build, spaces_to_index
from symmetra_mcp.stores.schema_install import (
    Applied,
    IndexAdvice,
    SchemaStatus,
    apply_migrations,
    check_server,
    read_status,
)

SECRET = "owner-password"
COUNTED = """
create table if not exists symmetra.runs (file int);
insert into symmetra.runs values ({number});
"""
TINY = (
    Migration(1, "tables", COUNTED.format(number=1)),
    Migration(2, "functions", COUNTED.format(number=2) + "create or replace function symmetra.two() returns int\n"
    "language sql as $$ select 2 $$;\n-- a comment without an end"),
)  # fmt: skip
FIXED_PUBLIC_READ = "grant usage on schema symmetra to anon;"


@pytest.fixture
def name(server: Server) -> str:
    return server.create_database()


@pytest.fixture
def database(server: Server, name: str) -> Iterator[DirectDatabase]:
    with DirectDatabase(server.url(name, "owner", SECRET)) as database:
        yield database


def runs(server: Server, name: str) -> list[int]:
    with server.connect(name) as connection:
        if connection.execute("select to_regclass('symmetra.runs')").fetchone() == (None,):
            return []
        return [row[0] for row in connection.execute("select file from symmetra.runs order by 1")]


def recorded(server: Server, name: str) -> list[int]:
    with server.connect(name) as connection:
        if connection.execute("select to_regclass('symmetra.schema_migrations')").fetchone() == (None,):
            return []
        return [row[0] for row in connection.execute("select version from symmetra.schema_migrations order by 1")]


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def whole_text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


# What is shipped


def test_the_packaged_migrations_are_numbered_from_one_without_a_gap() -> None:
    found = migrations()
    assert [migration.version for migration in found] == list(range(1, len(found) + 1))
    assert all("commit;" not in migration.sql.lower() for migration in found)


def test_the_packaged_schema_is_installed_by_a_role_that_is_no_superuser(
    database: DirectDatabase, server: Server, name: str
) -> None:
    applied = apply_migrations(database, migrations())
    assert applied.labels == tuple(migration.label for migration in migrations())
    after = read_status(database, migrations())
    assert (after.version, after.missing, after.problem) == (len(migrations()), (), "")
    assert (after.pgvector != "", after.public_read, after.user, after.owner) == (True, False, "owner", "owner")
    with server.connect(name) as connection:
        (version,) = connection.execute("select symmetra.schema_version()").fetchone() or (None,)
    assert version == len(migrations())


def test_the_packaged_script_runs_twice_and_keeps_public_reading(
    database: DirectDatabase, server: Server, name: str
) -> None:
    script = install_script(migrations(), public_read=True)
    with server.connect(name, "owner") as connection:
        connection.execute(script.encode())
        connection.execute(script.encode())
        connection.execute(install_script(migrations()).encode())
    status = read_status(database, migrations())
    assert (status.problem, status.public_read) == ("", True)
    assert apply_migrations(database, migrations()).labels == ()
    with server.connect(name) as connection:
        reads = "select has_table_privilege('anon', 'symmetra.rules', 'select')"
        assert connection.execute(reads).fetchone() == (True,)
        apply_migrations(database, migrations(), repair=True)
        assert connection.execute(reads).fetchone() == (True,)
        assert apply_migrations(database, migrations(), public_read=False).public_read is False
        assert connection.execute(reads).fetchone() == (False,)
    assert read_status(database, migrations()).public_read is False


def test_exported_files_install_the_same_in_their_order(database: DirectDatabase, server: Server, name: str) -> None:
    files = exported_files(migrations())
    assert next(iter(files)) == "20261123000001_symmetra_tables.sql"
    assert sorted(files) == list(files)
    with server.connect(name, "owner") as connection:
        for text in files.values():
            connection.execute(text.encode())
    assert read_status(database, migrations()).problem == ""


# One transaction


def test_only_what_is_missing_is_installed(database: DirectDatabase, server: Server, name: str) -> None:
    assert apply_migrations(database, TINY[:1]).labels == ("0001_tables",)
    assert apply_migrations(database, TINY).labels == ("0002_functions",)
    assert apply_migrations(database, TINY).labels == ()
    assert runs(server, name) == [1, 2]


def test_a_dry_run_tells_and_changes_nothing(database: DirectDatabase, server: Server, name: str) -> None:
    applied = apply_migrations(database, TINY, dry_run=True, public_read=True)
    assert (applied.labels, applied.dry_run, applied.public_read) == (("0001_tables", "0002_functions"), True, True)
    assert recorded(server, name) == []
    with server.connect(name) as connection:
        assert connection.execute("select to_regnamespace('symmetra')").fetchone() == (None,)


def test_a_failing_file_leaves_nothing_of_the_others(database: DirectDatabase, server: Server, name: str) -> None:
    broken = (*TINY, Migration(3, "broken", "select symmetra.no_such_function();"))
    with pytest.raises(
        SchemaError, match=r"no_such_function\(\) does not exist \(SQLSTATE 42883\)\. Nothing was changed"
    ):
        apply_migrations(database, broken)
    assert (recorded(server, name), runs(server, name)) == ([], [])
    assert apply_migrations(database, TINY).version == 2  # the connection is usable again


@pytest.mark.parametrize("number", [2, 4])
def test_several_at_once_install_each_file_once(server: Server, name: str, number: int) -> None:
    slow = (replace(TINY[0], sql=TINY[0].sql + "select pg_sleep(0.3);"), TINY[1])

    def install(_: int) -> Applied:
        with DirectDatabase(server.url(name, "owner", SECRET)) as database:
            return apply_migrations(database, slow)

    with ThreadPoolExecutor(number) as pool:
        applied = list(pool.map(install, range(number)))
    assert runs(server, name) == [1, 2]
    assert sorted(one.labels for one in applied) == [()] * (number - 1) + [("0001_tables", "0002_functions")]


def test_waiting_for_another_is_told_and_ends_with_it(server: Server, name: str) -> None:
    told: list[str] = []
    lock = "(hashtext('symmetra-mcp:migrate'))"
    with (
        server.connect(name) as holder,
        DirectDatabase(server.url(name), on_notice=told.append) as database,
        ThreadPoolExecutor(1) as pool,
    ):
        holder.execute(f"select pg_advisory_lock{lock}")
        assert read_status(database, TINY).is_locked
        waiting = pool.submit(apply_migrations, database, TINY)
        until(lambda: WAITING in told, "waiting is told while it waits")
        assert not waiting.done()
        holder.execute(f"select pg_advisory_unlock{lock}")
        assert waiting.result(60).labels == ("0001_tables", "0002_functions")
        assert not read_status(database, TINY).is_locked


@pytest.mark.slow
def test_a_lock_that_is_never_given_back_is_an_error(
    server: Server, name: str, database: DirectDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_module, "LOCK_TIMEOUT_S", 1)
    with server.connect(name) as holder:
        holder.execute("select pg_advisory_lock(hashtext('symmetra-mcp:migrate'))")
        with pytest.raises(StoreUnavailableError, match="another schema change, or a long transaction, held a lock"):
            apply_migrations(database, TINY)
    assert recorded(server, name) == []


PROGRAM = """
import sys
from symmetra_mcp.stores.schema import Migration
from symmetra_mcp.stores.schema_direct import DirectDatabase
from symmetra_mcp.stores.schema_install import apply_migrations
slow = Migration(2, "slow", "select pg_sleep(600);")
apply_migrations(DirectDatabase(sys.argv[1]), (Migration(1, "tables", sys.argv[2]), slow))
"""


def sleeping(server: Server, name: str) -> int | None:
    with server.connect("postgres") as connection:
        found = connection.execute(
            "select pid from pg_stat_activity where datname = %s and wait_event = 'PgSleep'", [name]
        ).fetchone()
    return found[0] if found else None


@pytest.mark.slow
def test_killed_in_the_middle_leaves_nothing_and_can_be_run_again(
    server: Server, name: str, database: DirectDatabase
) -> None:
    arguments = [sys.executable, "-c", PROGRAM, server.url(name, "owner", SECRET), TINY[0].sql]
    with subprocess.Popen(arguments) as process:
        until(lambda: sleeping(server, name), "the slow file is reached")
        os.kill(process.pid, signal.SIGKILL)
    assert (recorded(server, name), runs(server, name)) == ([], [])
    assert apply_migrations(database, TINY).labels == (
        "0001_tables",
        "0002_functions",
    )  # waits for the server to notice
    assert runs(server, name) == [1, 2]


def test_a_connection_cut_in_the_middle_leaves_nothing(server: Server, name: str, database: DirectDatabase) -> None:
    slow = (TINY[0], Migration(2, "slow", "select pg_sleep(600);"))
    with ThreadPoolExecutor(1) as pool:
        installing = pool.submit(apply_migrations, database, slow)
        until(lambda: sleeping(server, name), "the slow file is reached")
        with server.connect("postgres") as connection:
            connection.execute(f"select pg_terminate_backend({sleeping(server, name)})")
        with pytest.raises(StoreUnavailableError, match=r"closed the connection\. .* all of it was made or nothing"):
            installing.result(60)
    assert (recorded(server, name), runs(server, name)) == ([], [])
    assert apply_migrations(database, TINY).version == 2


@pytest.mark.slow
def test_a_statement_that_takes_too_long_is_told(
    server: Server, name: str, database: DirectDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_module, "STATEMENT_TIMEOUT_S", 1)
    with pytest.raises(StoreUnavailableError, match="took longer than the server lets it, and nothing was changed"):
        apply_migrations(database, (Migration(1, "slow", "select pg_sleep(600);"),))
    assert recorded(server, name) == []


# What is recorded


def test_a_database_that_is_newer_is_left_alone(server: Server, name: str, database: DirectDatabase) -> None:
    apply_migrations(database, TINY)
    status = read_status(database, TINY[:1])
    assert [found.state for found in status.migrations] == ["installed", "unknown"]
    for repair in (False, True):
        with pytest.raises(SchemaError, match=r"newer than this symmetra-mcp knows: upgrade symmetra-mcp"):
            apply_migrations(database, TINY[:1], repair=repair)
    with pytest.raises(SchemaError, match=r"newer than this symmetra-mcp knows \(version 1\): upgrade symmetra-mcp"):
        database.run(install_body(TINY[:1], repair=True))
    with server.connect(name) as connection, pytest.raises(psycopg.Error, match="upgrade symmetra-mcp"):
        connection.execute(install_script(TINY[:1]).encode())
    assert runs(server, name) == [1, 2]


def test_a_changed_file_is_refused_by_name_and_repaired_on_request(
    server: Server, name: str, database: DirectDatabase
) -> None:
    apply_migrations(database, TINY)
    changed = (TINY[0], replace(TINY[1], sql=TINY[1].sql.replace("select 2", "select 3")))
    assert "0002_functions" in read_status(database, changed).problem
    for attempt in (lambda: apply_migrations(database, changed), lambda: database.run(install_body(changed))):
        with pytest.raises(SchemaError, match=r"other text than this symmetra-mcp has: 0002_functions\. .*--repair"):
            attempt()
    assert apply_migrations(database, changed, repair=True).labels == ("0001_tables", "0002_functions")
    assert database.query("select symmetra.two() as two") == [{"two": 3}]
    assert read_status(database, changed).problem == ""
    assert runs(server, name) == [1, 1, 2, 2]


def test_a_damaged_schema_is_told_and_repaired(database: DirectDatabase) -> None:
    apply_migrations(database, migrations())
    database.execute("drop function symmetra.index_advice() cascade")
    database.execute("create function symmetra.index_advice() returns int language sql as $$ select 1 / 0 $$")
    assert read_status(database, migrations()).indexes == ()
    database.execute("drop function symmetra.index_advice()")
    assert apply_migrations(database, migrations(), repair=True).labels == tuple(one.label for one in migrations())
    assert database.query("select count(*) as n from symmetra.index_advice()") == [{"n": 0}]


def test_line_ends_do_not_change_a_checksum() -> None:
    assert Migration(1, "a", "x\r\ny\r\n").checksum == Migration(1, "a", "x\ny\n").checksum
    assert Migration(1, "a", "x\ny\n").checksum != Migration(1, "a", "x\nz\n").checksum


def test_a_text_that_holds_our_quotation_is_quoted_otherwise(database: DirectDatabase) -> None:
    tricky = Migration(1, "tricky", "do $symmetra0$ begin perform $symmetra1$x$symmetra1$; end $symmetra0$;")
    assert apply_migrations(database, (tricky,)).labels == ("0001_tricky",)


def test_the_printed_script_completes_a_partly_installed_database(
    server: Server, name: str, database: DirectDatabase
) -> None:
    apply_migrations(database, TINY[:1])
    with server.connect(name, "owner") as connection:
        connection.execute(install_script(TINY).encode())
        connection.execute(install_script(TINY).encode())
    assert read_status(database, TINY).problem == ""


def test_the_version_table_is_closed_to_everybody_else(server: Server, name: str, database: DirectDatabase) -> None:
    apply_migrations(database, TINY)
    with server.connect(name) as connection:
        rights = (
            "select has_schema_privilege(r, 'symmetra', 'usage') "
            "or has_table_privilege(r, 'symmetra.schema_migrations', 'select')"
        )
        for role in ("anon", "authenticated"):
            assert connection.execute(f"{rights} from (values ('{role}')) as t (r)").fetchone() == (False,)
        table = "select relrowsecurity from pg_class where oid = 'symmetra.schema_migrations'::regclass"
        assert connection.execute(table).fetchone() == (True,)


def test_clients_of_the_api_are_told_that_the_schema_changed(
    server: Server, name: str, database: DirectDatabase
) -> None:
    with server.connect(name) as listener:
        listener.execute("listen pgrst")
        apply_migrations(database, TINY)
        told = [notice.payload for notice in listener.notifies(timeout=30, stop_after=1)]
    assert told == ["reload schema"]


# Who may, and where


def test_a_role_that_may_not_install_is_told_who_may(server: Server, name: str, database: DirectDatabase) -> None:
    with server.connect(name) as connection:
        connection.execute(
            "do $$ begin create role stranger login password 'stranger-password'; "
            "exception when duplicate_object then null; end $$"
        )
    url = server.url(name, "stranger", "stranger-password")
    with DirectDatabase(url) as stranger, pytest.raises(StoreAccessError, match="Connect as 'postgres'"):
        apply_migrations(stranger, TINY)
    apply_migrations(database, TINY[:1])
    with DirectDatabase(url) as stranger, pytest.raises(StoreAccessError, match=r"schema_migrations|permission denied"):
        apply_migrations(stranger, TINY)


def test_an_extension_that_only_the_platform_may_create_is_named(server: Server) -> None:
    name = server.create_database()
    with server.connect(name) as connection:
        connection.execute("drop extension vector")
    create = Migration(1, "vector", "create extension if not exists vector with schema extensions;")
    with (
        DirectDatabase(server.url(name, "owner", SECRET)) as database,
        pytest.raises(StoreAccessError, match="Enable the extension `vector` in the dashboard"),
    ):
        apply_migrations(database, (create,))


STATUS = SchemaStatus(
    place="the database at h:1", project_ref="", server_version="17.6", server_number=170006, user="postgres", owner="",
    may_install=True, pgvector="0.8.0", pgvector_available="0.8.0", public_read=False, is_locked=False, migrations=(),
    indexes=(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"server_version": "14.9", "server_number": 140009}, SchemaError, r"PostgreSQL 14\.9, .* needs 15 or newer"),
        ({"pgvector": "", "pgvector_available": ""}, SchemaError, "has no extension `vector`"),
        ({"pgvector": "0.6.2"}, SchemaError, "pgvector 0.6.2, .* run `alter extension vector update`"),
        ({"pgvector": "", "pgvector_available": "0.6.2"}, SchemaError, "pgvector 0.6.2, .* upgrade the server's"),
        ({"may_install": False, "owner": "admin"}, StoreAccessError, "belongs to 'admin'. Connect as 'admin'"),
    ],
)
def test_a_server_that_can_not_hold_the_schema_is_refused(
    change: dict[str, Any], kind: type[StoreError], message: str
) -> None:
    check_server(STATUS)
    check_server(replace(STATUS, pgvector="0.10.1"))
    with pytest.raises(kind, match=message):
        check_server(replace(STATUS, **change))


def test_a_wrong_password_is_told_without_it(server: Server, name: str) -> None:
    with (
        DirectDatabase(server.url(name, "owner", "wr0ng-secret")) as database,
        pytest.raises(StoreAccessError, match="refuses the user's name or the password") as caught,
    ):
        read_status(database, TINY)
    text = whole_text(caught.value)
    assert "wr0ng-secret" not in text
    assert "127.0.0.1" in str(caught.value)
    assert "owner" not in str(caught.value)


def test_a_host_where_nothing_listens_is_told_without_the_password(server: Server) -> None:
    url = "postgresql://someone:s3cret-word@127.0.0.1:1/postgres"
    with (
        DirectDatabase(url) as database,
        pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:1 can't be connected to: nothing listens") as caught,
    ):
        database.query("select 1")
    assert "s3cret-word" not in whole_text(caught.value)
    assert "someone" not in whole_text(caught.value)


def test_a_missing_database_is_told(server: Server) -> None:
    with (
        DirectDatabase(server.url("nowhere")) as database,
        pytest.raises(StoreUnavailableError, match="no database of this name"),
    ):
        database.query("select 1")


def test_a_host_with_an_ipv6_address_alone_leads_to_the_session_pooler(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object, **parameters: object) -> None:
        assert parameters["sslmode"] == "require"
        raise psycopg.OperationalError("connection failed: Network is unreachable, password=hunter2")

    monkeypatch.setattr(psycopg, "connect", connect)
    database = DirectDatabase("postgresql://postgres:hunter2@db.abcdefghijklmnopqrst.supabase.co:5432/postgres")
    with pytest.raises(StoreUnavailableError, match=r"IPv6 address alone.*session pooler") as caught:
        database.query("select 1")
    assert "hunter2" not in whole_text(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://postgres:p@ss-word@host:5432/postgres",
        "postgresql://postgres:pass/word@host:5432/postgres",
        "postgresql://postgres:pass#word@host:5432/postgres",
        "postgresql://postgres:pass?word@host:5432/postgres",
        "postgresql://postgres:pass%word@host:5432/postgres",
        "postgresql://postgres:pass word@host:5432/postgres",
        "postgresql://postgres.ref:[YOUR-PASSWORD]@host:5432/postgres",
        "https://abcdefghijklmnopqrst.supabase.co/?pass-word",
        "host=h password='pass-word",
        "pass-word",
    ],
)
def test_what_is_no_connection_string_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError, match="`SYMMETRA_DB_URL`") as caught:
        DirectDatabase(url)
    text = str(caught.value)
    assert not any(part in text for part in ("ss-word", "word@", "pass-word", "@host"))
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "ref", "pooler"),
    [
        ("postgresql://postgres:x@db.abcdefghijklmnopqrst.supabase.co:5432/postgres", "abcdefghijklmnopqrst", False),
        ("postgres://postgres.abcdefghijklmnopqrst:x@aws-0-eu-west-1.pooler.supabase.com:6543/postgres",
         "abcdefghijklmnopqrst", True),
        ("host=127.0.0.1 port=5432 user=postgres.abcdefghijklmnopqrst password=x", "", False),
        ("postgresql://postgres:a%40b%2Fc@localhost/postgres", "", False),
    ],
)  # fmt: skip
def test_the_project_is_read_from_a_connection_string(url: str, ref: str, pooler: bool) -> None:
    database = DirectDatabase(url)
    assert (database.project_ref, database.is_transaction_pooler) == (ref, pooler)
    assert "abcdefghij" not in database.place or "db." in database.place


@pytest.mark.parametrize(
    ("state", "message", "kind", "told"),
    [
        ("42501", "permission denied for schema public", StoreAccessError, "Connect as `postgres`"),
        ("42501", 'permission denied to create extension "vector"', StoreAccessError, "dashboard"),
        ("0A000", 'extension "vector" is not available', SchemaError, "pgvector 0.7 or newer"),
        ("42704", 'role "service_role" does not exist', SchemaError, "no database of Supabase"),
        ("25006", "cannot execute CREATE SCHEMA in a read-only transaction", StoreAccessError, "read-only"),
        ("53300", "too many connections", StoreUnavailableError, "too many connections"),
        ("57P01", "terminating connection", StoreUnavailableError, "run the command again"),
        ("42601", "syntax error\nLINE 1: secret text", SchemaError, r"syntax error \(SQLSTATE 42601\)"),
    ],
)
def test_a_refusal_of_the_server_names_the_next_step(
    state: str, message: str, kind: type[StoreError], told: str
) -> None:
    error = server_error(state, message, "the database at h:1")
    assert type(error) is kind
    with pytest.raises(kind, match=told):
        raise error
    assert "secret text" not in str(error)


# Indexes

INDEX_SCHEMA = Migration(
    1,
    "index",
    """
create table if not exists symmetra.vectors (space_no int, embedding extensions.vector(3));
create or replace function symmetra.index_statement(space_no int) returns text language sql as $$
  select format('create index concurrently if not exists %I on symmetra.vectors using hnsw '
    '(embedding extensions.vector_cosine_ops) where space_no = %s', 'Space_' || space_no, space_no)
$$;
create or replace function symmetra.index_advice()
returns table (space_no int, space_id text, vectors bigint, indexed boolean, valid boolean, advised boolean)
language sql as $$
  select 1, 'local/a@3', (select count(*) from symmetra.vectors), i.indisvalid is not null,
    coalesce(i.indisvalid, false), true
  from (values (1)) as one left join pg_catalog.pg_class as c on c.relname = 'Space_1'
    left join pg_catalog.pg_index as i on i.indexrelid = c.oid
$$;
""",
)


def filled(database: DirectDatabase) -> IndexAdvice:
    apply_migrations(database, (INDEX_SCHEMA,))
    database.execute("insert into symmetra.vectors select 1, array[random(), random(), 1] from generate_series(1, 500)")
    (advice,) = read_status(database, (INDEX_SCHEMA,)).indexes
    return advice


def test_an_index_is_built_once(server: Server, name: str, database: DirectDatabase) -> None:
    with server.connect(name) as connection:
        connection.execute(f"alter database {name} set statement_timeout = '77s'")
    advice = filled(database)
    assert (advice.vectors, advice.indexed, spaces_to_index([advice])) == (500, False, [advice])
    build_index(database, advice, lambda phase, done, total: None)
    (after,) = read_status(database, (INDEX_SCHEMA,)).indexes
    assert (after.valid, spaces_to_index([after]), spaces_to_index([after], "local/a@3")) == (True, [], [])
    assert database.query("show statement_timeout") == [{"statement_timeout": "77s"}]


def test_progress_is_told_and_the_rest_of_a_killed_build_is_dropped_first(
    server: Server, name: str, database: DirectDatabase
) -> None:
    advice = filled(database)
    told: list[str] = []
    with server.connect(name) as holder, ThreadPoolExecutor(1) as pool, holder.transaction():
        holder.execute("insert into symmetra.vectors values (1, '[1,1,1]')")  # an index waits for such writers
        building = pool.submit(build_index, database, advice, lambda phase, done, total: told.append(phase))
        until(lambda: any(phase.startswith("waiting for writers") for phase in told), "the build waits for a writer")
        with (
            DirectDatabase(server.url(name, "owner", SECRET)) as second,
            pytest.raises(StoreUnavailableError, match="another `schema index` is building"),
        ):
            build_index(second, advice, lambda phase, done, total: None)
        holder.execute("select pg_terminate_backend(pid) from pg_stat_progress_create_index")
        with pytest.raises(StoreUnavailableError, match="closed the connection"):
            building.result(60)
    (left,) = read_status(database, (INDEX_SCHEMA,)).indexes
    assert (left.indexed, left.valid) == (True, False)
    build_index(database, left, lambda phase, done, total: None)
    assert read_status(database, (INDEX_SCHEMA,)).indexes[0].valid


def test_the_packaged_statement_builds_the_index_that_the_packaged_advice_sees(database: DirectDatabase) -> None:
    apply_migrations(database, migrations())
    database.execute(
        "insert into symmetra.spaces (space_id, provider, model, dimensions, normalized, variant) "
        "values ('local/a@3', 'local', 'a', 3, true, '')"
    )
    database.execute(
        "insert into symmetra.vectors select space_no, n::text, array[random(), random(), 1]::extensions.vector "
        "from symmetra.spaces, generate_series(1, 200) as n"
    )
    (advice,) = read_status(database, migrations()).indexes
    assert (advice.vectors, advice.indexed, advice.advised) == (200, False, False)
    build_index(database, advice, lambda phase, done, total: None)
    (after,) = read_status(database, migrations()).indexes
    assert (after.indexed, after.valid) == (True, True)


def test_an_index_is_not_built_over_the_transaction_pooler() -> None:
    pooler = DirectDatabase("postgresql://postgres:x@127.0.0.1:6543/postgres")
    with pytest.raises(ConfigError, match=r"session pooler \(port 5432\)"):
        check_can_build(pooler)


def test_an_unknown_space_is_refused_with_those_there_are() -> None:
    advice = IndexAdvice(1, "local/a@3", 5, indexed=False, valid=False, advised=False)
    assert spaces_to_index([advice]) == []
    assert spaces_to_index([advice], "local/a@3") == [advice]
    with pytest.raises(ConfigError, match=r"no space 'other'. It has: 'local/a@3'"):
        spaces_to_index([advice], "other")


def test_public_access_is_shipped_both_ways() -> None:
    assert "grant" in public_access_sql(public=True)
    assert "revoke" in public_access_sql(public=False)
