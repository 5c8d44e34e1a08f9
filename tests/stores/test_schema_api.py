"""The schema by the Management API: the same transaction, and every way in which the API refuses."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from supabase_stack.management import REF, TOKEN, Answer, Api, management_api
from supabase_stack.postgres import Server

from symmetra_mcp.errors import ConfigError, SchemaError, StoreAccessError, StoreError, StoreUnavailableError
from symmetra_mcp.stores.schema import Migration, migrations
from symmetra_mcp.stores.schema_api import ManagementApi
from symmetra_mcp.stores.schema_install import apply_migrations, read_status

TINY = (
    Migration(
        1, "tables", "create table if not exists symmetra.runs (file int); insert into symmetra.runs values (1);"
    ),
    Migration(2, "more", "insert into symmetra.runs values (2);"),
)


@pytest.fixture
def api(server: Server) -> Iterator[Api]:
    with management_api(server.url(server.create_database())) as api:
        yield api


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def database(api: Api, waits: list[float]) -> Iterator[ManagementApi]:
    with ManagementApi(TOKEN, REF, api_url=api.url, sleep=waits.append) as database:
        yield database


def runs(api: Api) -> list[int]:
    found = api.run("select to_regclass('symmetra.runs') is not null as there")
    return [row["file"] for row in api.run("select file from symmetra.runs order by 1")] if found[0]["there"] else []


def test_the_packaged_schema_is_installed(database: ManagementApi) -> None:
    assert apply_migrations(database, migrations()).labels == tuple(one.label for one in migrations())
    status = read_status(database, migrations())
    assert (status.problem, status.place) == ("", f"the Supabase project {REF}")
    assert apply_migrations(database, migrations()).labels == ()


@pytest.mark.parametrize("only_last_statement", [False, True])
def test_what_was_installed_is_told_whichever_rows_come_back(
    database: ManagementApi, api: Api, only_last_statement: bool
) -> None:
    api.only_last_statement = only_last_statement
    assert apply_migrations(database, TINY).labels == ("0001_tables", "0002_more")
    assert runs(api) == [1, 2]


def test_a_change_is_one_call_and_one_transaction(database: ManagementApi, api: Api) -> None:
    with pytest.raises(SchemaError, match=r"no_such_table.*SQLSTATE 42P01.*Nothing was changed"):
        apply_migrations(database, (*TINY, Migration(3, "broken", "select * from no_such_table;")))
    assert runs(api) == []
    changing = [query for query in api.queries if "insert into" in query]
    assert len(changing) == 1
    assert changing[0].startswith("begin;")
    assert changing[0].endswith("commit;")


def test_several_at_once_install_each_file_once(api: Api) -> None:
    slow = (Migration(1, "tables", TINY[0].sql + "select pg_sleep(0.3);"), TINY[1])

    def install(_: int) -> int:
        with ManagementApi(TOKEN, REF, api_url=api.url) as database:
            return len(apply_migrations(database, slow).labels)

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(install, range(4))) == [0, 0, 0, 2]
    assert runs(api) == [1, 2]


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (Answer(401), StoreAccessError, "refuses the token in `SUPABASE_ACCESS_TOKEN`"),
        (Answer(403), StoreAccessError, "may not change the Supabase project .* the right to read and write"),
        (Answer(404), StoreAccessError, "there is no Supabase project .* can see"),
        (Answer(500), StoreUnavailableError, "answers 500. Nothing was changed: run the command again"),
        (Answer(302, b"", {"Location": "http://127.0.0.1:9/"}), StoreUnavailableError, "answers 302"),
        (Answer(200, b"<html>"), StoreUnavailableError, "can't be read"),
        (Answer(200, b'{"rows": 1}'), StoreUnavailableError, "can't be read"),
        (Answer(544, b"<html>"), StoreUnavailableError, "answers 544"),
        (Answer(0), StoreUnavailableError, "gave no whole answer"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else None,
)
def test_a_refusal_names_the_next_step_and_never_the_token(
    database: ManagementApi, api: Api, answer: Answer, kind: type[StoreError], message: str
) -> None:
    api.answers.append(answer)
    with pytest.raises(kind, match=message) as caught:
        read_status(database, TINY)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


def test_a_cut_after_the_work_is_told_as_all_or_nothing(database: ManagementApi, api: Api) -> None:
    status = read_status(database, TINY)
    api.answers.append(Answer(0, runs_first=True))
    with pytest.raises(StoreUnavailableError, match="all of it was made or nothing: run the command again"):
        apply_migrations(database, TINY, status=status)
    assert apply_migrations(database, TINY).labels == ()
    assert runs(api) == [1, 2]


def test_one_call_too_many_is_made_again_when_the_api_says(
    database: ManagementApi, api: Api, waits: list[float]
) -> None:
    api.answers += [Answer(429, headers={"Retry-After": "7"}), Answer(429, b"")]
    assert read_status(database, TINY).version == 0
    assert waits == [7.0, 5.0]


@pytest.mark.parametrize("after", ["7", "3600"])
def test_too_many_calls_end_in_an_error(database: ManagementApi, api: Api, waits: list[float], after: str) -> None:
    api.answers += [Answer(429, headers={"Retry-After": after})] * 3
    with pytest.raises(StoreUnavailableError, match="takes no more calls for now; nothing was changed"):
        read_status(database, TINY)
    assert waits == ([7.0, 7.0] if after == "7" else [])


def test_an_api_that_is_not_there_is_told_without_the_token() -> None:
    with (
        ManagementApi(TOKEN, REF, api_url="http://127.0.0.1:1") as database,
        pytest.raises(StoreUnavailableError, match="can't be connected to; nothing was changed") as caught,
    ):
        database.query("select 1")
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("ref", ["", "abc", "ABCDEFGHIJKLMNOPQRST", "abcdefghijklmnopqrst/../x"])
def test_letters_that_are_no_project_are_refused(ref: str) -> None:
    with pytest.raises(ConfigError, match="20 lower-case letters"):
        ManagementApi(TOKEN, ref)
