"""The double of the Management API: what Supabase's answers in the same place."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx
import pytest
from supabase_stack.management import REF, TOKEN, Answer, Api, management_api
from supabase_stack.postgres import Server

PATH = f"/v1/projects/{REF}/database/query"


@pytest.fixture
def api(server: Server) -> Iterator[Api]:
    with management_api(server.url(server.create_database())) as api:
        yield api


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False) as client:
        yield client


def ask(client: httpx.Client, sql: str, path: str = PATH) -> httpx.Response:
    return client.post(path, json={"query": sql})


def test_rows_come_with_status_201(client: httpx.Client) -> None:
    answer = ask(client, "select 1 as one, 'two' as two union all select 3, null order by 1")
    assert (answer.status_code, answer.json()) == (201, [{"one": 1, "two": "two"}, {"one": 3, "two": None}])


def test_several_statements_answer_with_the_rows_of_the_last_one_that_has_any(client: httpx.Client, api: Api) -> None:
    assert ask(client, "begin; select 1 as a; select 2 as b; commit;").json() == [{"b": 2}]
    api.only_last_statement = True
    assert ask(client, "begin; select 1 as a; commit;").json() == []
    assert ask(client, "select 1 as a; select 2 as b;").json() == [{"b": 2}]


def test_each_call_has_a_connection_of_its_own_as_the_administrator(client: httpx.Client) -> None:
    ask(client, "set application_name = 'kept'; create temporary table scratch (id int);")
    found = ask(client, "select current_user, to_regclass('scratch'), current_setting('application_name') as name")
    assert found.json() == [{"current_user": "postgres", "to_regclass": None, "name": ""}]


def test_a_failed_transaction_changes_nothing_and_tells_the_servers_reason(client: httpx.Client) -> None:
    answer = ask(client, "begin; create table public.half (id int); select * from public.missing; commit;")
    assert answer.status_code == 400
    assert answer.json()["message"].startswith('Failed to run sql query: ERROR:  42P01: relation "public.missing"')
    assert ask(client, "select to_regclass('public.half') as half").json() == [{"half": None}]


def test_a_wrong_token_and_another_project_are_refused_before_anything_is_run(client: httpx.Client, api: Api) -> None:
    client.headers["Authorization"] = "Bearer sbp_wrong"
    assert ask(client, "create table public.made (id int)").status_code == 401
    client.headers["Authorization"] = f"Bearer {TOKEN}"
    elsewhere = ask(client, "create table public.made (id int)", PATH.replace(REF, "z" * 20))
    assert (elsewhere.status_code, elsewhere.json()) == (404, {"message": "Project not found"})
    assert api.queries == []
    assert api.run("select to_regclass('public.made') as made") == [{"made": None}]


@pytest.mark.parametrize(("runs_first", "made"), [(False, None), (True, "made")])
def test_an_answer_given_instead_comes_once_and_hides_what_was_done(
    client: httpx.Client, api: Api, runs_first: bool, made: str | None
) -> None:
    api.answers.append(Answer(429, headers={"Retry-After": "7"}, runs_first=runs_first))
    refused = ask(client, "create table public.made (id int)")
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "7")
    assert ask(client, "select to_regclass('public.made')::text as made").json() == [{"made": made}]


def test_a_connection_that_breaks_off_after_the_work_leaves_it_done(client: httpx.Client, api: Api) -> None:
    api.answers.append(Answer(0, runs_first=True))
    with pytest.raises(httpx.RemoteProtocolError):
        ask(client, "create table public.made (id int)")
    assert ask(client, "select to_regclass('public.made')::text as made").json() == [{"made": "made"}]


def test_nothing_serves_or_runs_when_it_has_ended(server: Server) -> None:
    before = threading.active_count()
    with management_api(server.url("postgres")) as api:
        url = api.url
    assert threading.active_count() == before
    with pytest.raises(httpx.ConnectError), httpx.Client(trust_env=False) as client:
        client.get(url)
