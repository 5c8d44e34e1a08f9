"""The gateway of the tests: what it claims of PostgREST and of Supabase's API gateway, as supabase-py meets it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from postgrest import APIError
from supabase import Client
from supabase_stack.example import call, get, names, post, refusal
from supabase_stack.gateway import Fault
from supabase_stack.keys import PUBLISHABLE_KEY
from supabase_stack.project import Project
from supabase_stack.real import REAL_PROJECT

pytestmark = pytest.mark.skipif(all(REAL_PROJECT.values()), reason="about the gateway of the tests' own")


def test_a_call_runs_as_the_keys_role_with_the_settings_of_postgrest(
    filled: Project, connect: Callable[..., Client]
) -> None:
    told = {
        "service_role": call(connect(filled), "whoami"),
        "anon": call(connect(filled, PUBLISHABLE_KEY), "whoami"),
        "authenticated": call(connect(filled, filled.token("authenticated", sub="u1")), "whoami"),
    }
    assert {role: each["role"] for role, each in told.items()} == {role: role for role in told}
    assert {each["timeout"] for each in (told["service_role"], told["authenticated"])} == {"8s"}
    assert told["anon"]["timeout"] == "3s"
    assert told["anon"]["path"] == '"public", "public", "extensions"'
    assert (told["anon"]["method"], told["anon"]["url"]) == ("POST", "/rpc/whoami")
    assert told["anon"]["agent"].startswith("python-httpx")
    assert told["authenticated"]["claims"] == {"role": "authenticated", "sub": "u1"}
    assert [seen.role for seen in filled.faulty.requests] == list(told)


def test_row_security_and_grants_are_the_databases(filled: Project, connect: Callable[..., Client]) -> None:
    user, anon = connect(filled, filled.token("authenticated", sub="u1")), connect(filled, PUBLISHABLE_KEY)
    assert [row["id"] for row in user.table("things").select("id").order("id").execute().data] == [1, 3]
    other = {"id": 4, "owner": "u2"}
    assert refusal(filled, user.table("things").insert(other).execute) == (403, "42501")
    assert refusal(filled, anon.table("things").select("id").execute) == (403, "42501")
    assert refusal(filled, connect(filled).rpc("closed", {}).execute) == (403, "42501")
    assert user.table("things").update({"note": "z"}).eq("id", 2).execute().data == []


def test_stable_functions_and_reads_run_in_read_only_transactions(filled: Project, client: Client) -> None:
    assert call(client, "whoami")["read_only"] == "on"
    assert refusal(filled, client.rpc("write_quietly", {"id": 9}).execute) == (405, "25006")
    assert refusal(filled, client.table("writing").select("n").execute) == (405, "25006")
    call(client, "write_thing", id=9, name="nine")
    assert set(names(filled)) == {1, 2, 3, 9}


def test_a_functions_own_statement_timeout_holds_for_its_call(filled: Project, client: Client) -> None:
    assert refusal(filled, client.rpc("hasty", {}).execute) == (500, "57014")
    assert call(client, "whoami")["timeout"] == "8s"


def test_an_error_undoes_all_of_its_request(filled: Project, client: Client) -> None:
    with pytest.raises(APIError) as caught:
        call(client, "write_and_fail", id=9, state="P0001")
    assert caught.value.json() == {"code": "P0001", "message": "broken off", "details": "a detail", "hint": "a hint"}
    assert filled.faulty.requests[-1].status == 400
    late = client.table("things").insert({"id": 8, "parent": 77})
    assert refusal(filled, late.execute) == (409, "23503"), "refused at the commit"
    many = client.table("things").update({"note": "all"}).gte("id", 1).single()
    assert refusal(filled, many.execute) == (406, "PGRST116")
    assert filled.execute("select id, note from public.things order by id") == [(1, None), (2, "x"), (3, "y")]


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("PT422", 422),
        ("PT409", 409),
        ("23505", 409),
        ("23514", 400),
        ("25006", 405),
        ("21000", 500),
        ("40001", 500),
        ("42501", 403),
        ("42P17", 500),
        ("53300", 503),
        ("53400", 500),
        ("08006", 503),
        ("57014", 500),
        ("57P01", 503),
        ("28000", 403),
        ("22000", 400),
        ("P0002", 500),
        ("XX000", 500),
        ("PTXYZ", 500),
    ],
)
def test_errors_have_the_status_of_their_sqlstate(filled: Project, state: str, status: int) -> None:
    answer = post(filled, "rpc/write_and_fail", {"id": 9, "state": state})
    assert (answer.status_code, answer.json()["code"]) == (status, state)
    assert answer.headers["Proxy-Status"] == f"PostgREST; error={state}"


def test_a_statement_that_takes_too_long_is_ended(filled: Project, client: Client) -> None:
    filled.faulty.faults.append(Fault("nap", statement="set local statement_timeout = '20ms'"))
    assert refusal(filled, client.rpc("nap", {"s": 5}).execute) == (500, "57014")


def test_a_connection_that_the_database_ends_is_replaced(filled: Project, client: Client) -> None:
    assert refusal(filled, client.rpc("die", {}).execute) == (503, "57P01")
    assert call(client, "say") == "hellohello"
    filled.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = 'authenticator'")
    assert refusal(filled, client.rpc("say", {}).execute)[0] == 503, "the pool did not know"
    assert call(client, "say") == "hellohello"


def test_arguments_go_by_name_and_results_come_in_their_shape(filled: Project, client: Client) -> None:
    assert call(client, "say") == "hellohello"
    assert call(client, "say", word="x", times=3) == "xxx"
    assert call(client, "say", times=1) == "hello"
    assert call(client, "say", word=None) is None
    assert call(client, "as_jsonb", given={"a": [1, None, "é"]}) == {"a": [1, None, "é"]}
    assert call(client, "length_of", v=[1, 0.5]) == call(client, "length_of", v="[1, 0.5]") == 2
    assert call(client, "numbers", n=3) == [1, 2, 3]
    assert call(client, "numbers", n=0) == []
    assert call(client, "rows_of", n=2) == [{"id": 1, "name": "n1"}, {"id": 2, "name": "n2"}]
    assert call(client, "one_row") == {"id": 7}
    assert client.rpc("rows_of", {"n": 1}).single().execute().data == {"id": 1, "name": "n1"}
    assert refusal(filled, client.rpc("rows_of", {"n": 2}).single().execute) == (406, "PGRST116")
    answer = post(filled, "rpc/write_thing", {"id": 9, "name": "nine"})
    assert (answer.status_code, answer.content) == (204, b"")


def test_what_no_function_takes_and_what_two_take_is_refused(filled: Project, client: Client) -> None:
    with pytest.raises(APIError) as caught:
        call(client, "say", word="x", again=1)
    assert caught.value.json() == {
        "code": "PGRST202",
        "message": "Could not find the function public.say(again, word) in the schema cache",
        "details": "Searched for the function public.say with parameters again, word or with a single unnamed "
        "json/jsonb parameter, but no matches were found in the schema cache.",
        "hint": None,
    }
    assert filled.faulty.requests[-1].status == 404
    assert refusal(filled, client.rpc("numbers", {}).execute) == (404, "PGRST202"), "an argument without a default"
    with pytest.raises(APIError) as caught:
        call(client, "doubled", a=1)
    assert (filled.faulty.requests[-1].status, caught.value.code) == (300, "PGRST203")
    assert "public.doubled(a => integer), public.doubled(a => text)" in str(caught.value.message)
    assert "renaming" in str(caught.value.hint)


def test_the_schema_cache_is_old_until_the_database_says_so(
    bare_project: Project, connect: Callable[..., Client]
) -> None:
    client, reload = connect(bare_project), "notify pgrst, 'reload schema'"
    calling = client.rpc("late", {}).execute
    reading = client.table("late_table").select("id").execute
    bare_project.execute("create function public.late() returns int language sql as 'select 1'")
    bare_project.execute("create table public.late_table as select 1 as id")
    bare_project.execute("grant select on public.late_table to service_role")
    assert refusal(bare_project, calling) == (404, "PGRST202")
    assert refusal(bare_project, reading) == (404, "PGRST205")
    bare_project.execute("notify pgrst, 'reload config'")
    assert refusal(bare_project, calling) == (404, "PGRST202")
    bare_project.execute(reload)
    assert (calling().data, reading().data) == (1, [{"id": 1}])
    bare_project.execute("drop function public.late(); drop table public.late_table")
    assert refusal(bare_project, calling) == (404, "42883")
    assert refusal(bare_project, reading) == (404, "42P01")
    bare_project.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where query = 'select'")
    assert refusal(bare_project, calling) == (404, "PGRST202"), "who listens again has read the schema again"
    bare_project.execute("create function public.late() returns int language sql as 'select 2'")
    bare_project.execute(reload)
    assert calling().data == 2


def test_keys_that_do_not_hold_are_refused_as_the_platform_refuses_them(
    filled: Project, connect: Callable[..., Client]
) -> None:
    def told(key: str) -> tuple[int, str | None, str | None]:
        with pytest.raises(APIError) as caught:
            call(connect(filled, key), "say")
        return filled.faulty.requests[-1].status, caught.value.code, caught.value.message

    assert told("sb_secret_unknown") == (401, None, "Invalid API key")
    assert told(filled.token("service_role", exp=1)) == (401, "PGRST303", "JWT expired")
    assert told("no-token") == (401, "PGRST301", "Expected 3 parts in JWT; got 1")
    assert told("a.b") == (401, "PGRST301", "Expected 3 parts in JWT; got 2")
    foreign = filled.token("service_role", secret="another-secret-of-at-least-32-characters!")
    assert told(foreign) == (401, "PGRST301", "No suitable key or wrong key type")
    assert told(filled.token("nobody"))[:2] == (401, "22023")
    assert told(filled.token("postgres"))[:2] == (403, "42501")
    without = httpx.post(f"{filled.url}/rest/v1/rpc/say", json={}, trust_env=False)
    assert (without.status_code, without.json()["message"]) == (401, "No API key found in request")
    assert "code" not in without.json()
    assert "Proxy-Status" not in without.headers
    user = post(filled, "rpc/whoami", {}, authorization=f"Bearer {filled.token('authenticated')}").json()
    assert user["role"] == "authenticated", "a signed-in user's token counts, not the key before it"


def test_only_the_schema_public_is_served(filled: Project, client: Client) -> None:
    for work in (client.schema("private").rpc("say", {}), client.schema("private").table("things").select("id")):
        with pytest.raises(APIError) as caught:
            work.execute()
        assert (filled.faulty.requests[-1].status, caught.value.code) == (406, "PGRST106")
        assert caught.value.hint == "Only the following schemas are exposed: public"


@pytest.mark.parametrize(
    "ask",
    [
        lambda c: c.rpc("say", {}, get=True),
        lambda c: c.rpc("write_and_fail", {"id": 9, "state": "PGRST"}),
        lambda c: c.rpc("rows_of", {"n": 2}).eq("id", 1),
        lambda c: c.rpc("rows_of", {"n": 2}, count="exact"),
        lambda c: c.table("things").select("id", count="exact"),
        lambda c: c.table("things").select("id, parent(id)"),
        lambda c: c.table("things").select("id::text"),
        lambda c: c.table("things").select("id").or_("id.eq.1,id.eq.2"),
        lambda c: c.table("things").select("id").text_search("name", "x"),
        lambda c: c.table("things").select("id").csv(),
        lambda c: c.table("things").select("id").explain(),
        lambda c: c.table("things").update({"note": "x"}).eq("id", 1).max_affected(1),
        lambda c: c.table("things").insert([{}]),
    ],
    ids=[
        "get",
        "raise",
        "filter",
        "rpc-count",
        "count",
        "embedding",
        "cast",
        "or",
        "fts",
        "csv",
        "explain",
        "max-affected",
        "empty",
    ],
)
def test_what_the_gateway_does_not_know_is_refused_and_not_passed_over(
    filled: Project, client: Client, ask: Callable[[Client], Any]
) -> None:
    with pytest.raises(APIError, match="this gateway knows no"):
        ask(client).execute()
    assert filled.faulty.requests[-1].status == 501
    assert set(names(filled)) == {1, 2, 3}


def test_the_wire_is_refused_where_supabase_py_would_not_go(filled: Project) -> None:
    assert get(filled, "things", range="0-1").status_code == 501
    assert get(filled, "things?id=eq.1&limit=1", "DELETE").status_code == 501
    assert get(filled, "things?id=eq.1", "PUT").status_code == 501
    assert get(filled, "").status_code == 501
    assert get(filled, "things?id=in.(" + "1," * 9000 + "1)").status_code == 414
    head = get(filled, "nothing", "HEAD")
    assert (head.status_code, head.content) == (404, b"")
    assert head.headers["Proxy-Status"] == "PostgREST; error=PGRST205"
    assert set(names(filled)) == {1, 2, 3}


def test_faults_happen_where_they_are_asked_to(filled: Project, connect: Callable[..., Client]) -> None:
    gateway, client = filled.faulty, connect(filled)

    def write(id: int) -> str:
        try:
            call(client, "write_thing", id=id, name=f"n{id}")
        except httpx.TransportError as error:
            return type(error).__name__
        except APIError as error:
            return f"{gateway.requests[-1].status} {error.message}"
        return "done"

    gateway.faults.append(Fault("write_thing", cut="before"))
    assert (write(10), write(11)) == ("RemoteProtocolError", "done")
    gateway.faults.append(Fault("write_thing", cut="after", skip=1))
    assert (write(12), write(13), write(14)) == ("done", "RemoteProtocolError", "done")
    gateway.faults.append(Fault("write", times=2, status=540, body=b'{"message": "Project paused"}'))
    assert (write(15), write(16), write(17)) == ("540 Project paused", "540 Project paused", "done")
    gateway.faults.append(Fault("write_thing", statement="select pg_terminate_backend(pg_backend_pid())"))
    assert (write(18)[:3], write(19)) == ("503", "done")
    assert set(names(filled)) == {1, 2, 3, 11, 12, 13, 14, 17, 19}
    gateway.faults[:] = [Fault("numbers", times=-1, cut="half")]
    for _ in range(2):
        with pytest.raises(httpx.RemoteProtocolError):
            call(client, "numbers", n=100)
    assert call(client, "say") == "hellohello", "another path goes well"
    gateway.faults[:] = [Fault(status=429, headers={"Retry-After": "7", "Content-Type": "text/html"}, body=b"<p>")]
    answer = post(filled, "rpc/say", {})
    assert (answer.status_code, answer.headers["Retry-After"], answer.text) == (429, "7", "<p>")
    assert answer.headers.get_list("Content-Type") == ["text/html"]
    assert gateway.count("write_thing") == 10
    assert gateway.count() == len(gateway.requests) == 14


def test_a_slow_answer_comes_late_and_its_work_is_done(filled: Project, connect: Callable[..., Client]) -> None:
    filled.faulty.faults.append(Fault(delay_s=0.3))
    with pytest.raises(httpx.ReadTimeout):
        call(connect(filled, timeout_s=0.05), "write_thing", id=9, name="late")
    started = time.monotonic()
    while 9 not in names(filled):
        assert time.monotonic() - started < 20


def test_a_gateway_stops_and_comes_back_where_it_was(bare_project: Project, connect: Callable[..., Client]) -> None:
    gateway, client, url = bare_project.faulty, connect(bare_project), bare_project.url
    bare_project.execute("create function public.say() returns int language sql as 'select 1'")
    assert refusal(bare_project, client.rpc("say", {}).execute) == (404, "PGRST202")
    gateway.stop()
    with pytest.raises(httpx.TransportError):
        call(client, "say")
    with pytest.raises(httpx.ConnectError):
        call(client, "say")
    gateway.start()
    assert (gateway.url, call(client, "say")) == (url, 1)
    assert gateway.count("say") == 2
