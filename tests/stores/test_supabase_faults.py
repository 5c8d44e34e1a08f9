"""What goes wrong between a machine and its team's database: what the user sees, and that nothing is lost."""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from supabase_stack.gateway import Fault, Gateway
from supabase_stack.keys import SECRET_KEY
from supabase_stack.project import Project, install

from symmetra_mcp.errors import SchemaError, StoreAccessError, StoreError, StoreUnavailableError
from symmetra_mcp.reembed import complete_space
from symmetra_mcp.stores import supabase
from symmetra_mcp.stores.base import MatchQuery
from symmetra_mcp.stores.supabase import SupabaseStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import Rule, RuleKey

pytestmark = pytest.mark.anyio

TOO_SLOW = "set local statement_timeout = '1ms'; select pg_sleep(1)"
JSON = b'{"message":"told"}'
RELOAD = "notify pgrst, 'reload schema'"
END = "select pg_terminate_backend(pg_backend_pid())"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def project(emptied_project: Project) -> Project:
    """One database for all of them: no fault may leave anything behind that another would meet."""
    return emptied_project


@pytest.fixture
async def store(project: Project) -> AsyncIterator[SupabaseStore]:
    made = SupabaseStore(project.address())
    await filled(made)
    yield made
    await made.aclose()


async def filled(store: SupabaseStore) -> None:
    await store.open()
    await store.upsert_rules([rule("one"), rule("two")])
    await complete_space(store, FakeProvider())


def rule(rule_id: str) -> Rule:
    return Rule("shop", rule_id, rule_id.capitalize(), f"Do {rule_id}.")


async def match(store: SupabaseStore) -> Any:
    provider = FakeProvider()
    vector = (await provider.embed_query("one")).vectors[0]
    return [each.rule.rule_id for each in (await store.match(MatchQuery("one", vector, provider.space))).candidates]


async def listed(store: SupabaseStore) -> Any:
    return [each.rule_id for each in await store.list_rules()]


async def write(store: SupabaseStore) -> Any:
    await store.upsert_rules([rule("new")])


async def put(store: SupabaseStore) -> Any:
    provider = FakeProvider()
    await store.put_vectors(["a"], await provider.embed_documents(["a"]))


EACH_CALL = [
    pytest.param(match, id="match"),
    pytest.param(write, id="write"),
    pytest.param(listed, id="list", marks=pytest.mark.slow),
    pytest.param(put, id="put", marks=pytest.mark.slow),
]

LASTING = [
    pytest.param(Fault(status=429, body=JSON, headers={"Retry-After": "0"}), "too many requests", id="429"),
    pytest.param(Fault(status=429, body=b"slow down"), "too many requests", id="429-text"),
    pytest.param(Fault(status=502, body=b"<h1>Bad Gateway</h1>"), "can't be reached", id="502-html"),
    pytest.param(Fault(status=503, body=JSON), "can't be reached", id="503"),
    pytest.param(Fault(status=520, body=b"error code: 520"), "can't be reached", id="520"),
    pytest.param(Fault(status=540, body=JSON), "is paused", id="540-paused"),
    pytest.param(Fault(status=544, body=JSON), "took too long", id="544"),
    pytest.param(Fault(cut="before"), "can't be reached", id="cut"),
    pytest.param(Fault(cut="half"), "can't be reached", id="half-an-answer"),
    pytest.param(Fault(statement=END), "can't be reached", id="connection-ended"),
    pytest.param(
        Fault(statement="set local statement_timeout = '1ms'; select pg_sleep(1)"),
        "took too long",
        id="statement-timeout",
    ),
    pytest.param(Fault(statement="do $$ begin raise disk_full; end $$"), "disk is full", id="disk-full"),
    pytest.param(Fault(statement="do $$ begin raise read_only_sql_transaction; end $$"), "read-only", id="read-only"),
]
PASSING = [
    each
    for each in LASTING
    if each.id in {"429", "503", "520", "502-html", "cut", "half-an-answer", "connection-ended"}
]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symmetra_mcp.stores.supabase_client._FIRST_PAUSE_S", 0.01)


@pytest.mark.parametrize("call", EACH_CALL)
@pytest.mark.parametrize(("fault", "told"), LASTING)
@pytest.mark.slow
async def test_a_lasting_fault_is_told_and_the_store_works_again_after_it(
    store: SupabaseStore,
    project: Project,
    quick: None,
    caplog: pytest.LogCaptureFixture,
    fault: Fault,
    told: str,
    call: Callable[[SupabaseStore], Awaitable[Any]],
) -> None:
    caplog.set_level(logging.DEBUG)
    project.faulty.faults = [replace(fault, times=-1)]
    with pytest.raises(StoreUnavailableError) as caught:
        await call(store)
    message = str(caught.value)
    assert told in message
    assert project.url in message
    everything = message + repr(caught.value) + "".join(traceback.format_exception(caught.value)) + caplog.text
    for part in (SECRET_KEY, SECRET_KEY[:18], SECRET_KEY[-6:]):
        assert part not in everything
    project.faulty.faults = []
    assert (await match(store))[:2] == ["one", "two"]
    await call(store)
    assert project.execute("select public.symmetra_verify()") == [("",)]


@pytest.mark.parametrize("call", EACH_CALL)
@pytest.mark.parametrize(("fault", "told"), PASSING)
async def test_a_passing_fault_is_not_noticed(
    store: SupabaseStore,
    project: Project,
    quick: None,
    fault: Fault,
    told: str,
    call: Callable[[SupabaseStore], Awaitable[Any]],
) -> None:
    project.faulty.faults = [replace(fault)]
    await call(store)
    project.faulty.faults = []
    assert project.execute("select public.symmetra_verify()") == [("",)]


@pytest.mark.parametrize("cut", ["after", "half"])
async def test_a_write_whose_answer_got_lost_is_stored_once(
    store: SupabaseStore, project: Project, quick: None, cut: Any
) -> None:
    project.faulty.faults = [Fault("write_rules", cut=cut)]
    await write(store)
    assert await listed(store) == ["new", "one", "two"]


async def test_a_deletion_whose_answer_got_lost_is_not_repeated_and_told(
    store: SupabaseStore, project: Project, quick: None
) -> None:
    project.faulty.faults = [Fault("delete_rules", cut="after")]
    with pytest.raises(StoreUnavailableError, match="not known whether the last change was made"):
        await store.delete_rules([RuleKey("shop", "one")])
    assert project.faulty.count("symmetra_delete_rules") == 1
    assert await store.delete_rules([RuleKey("shop", "one")]) == 0


async def test_nobody_listening_is_told_and_the_same_store_goes_on_when_somebody_does(
    store: SupabaseStore, project: Project, quick: None
) -> None:
    project.faulty.stop()
    with pytest.raises(StoreUnavailableError, match="Nothing was changed"):
        await write(store)
    with pytest.raises(StoreUnavailableError, match="can't be reached"):
        await match(store)
    project.faulty.start()
    assert await match(store) == ["one", "two"]


async def test_a_server_that_says_nothing_costs_its_deadline(
    store: SupabaseStore, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supabase, "SEARCH_DEADLINE_S", 0.3)
    project.faulty.faults = [Fault(delay_s=2.0)]
    with pytest.raises(StoreUnavailableError, match="can't be reached"):
        await match(store)
    assert await listed(store) == ["one", "two"]


@pytest.mark.parametrize("fault", [Fault(status=413, body=b""), Fault(status=544, body=JSON)], ids=["413", "544"])
async def test_a_batch_that_is_too_much_at_once_is_halved(
    store: SupabaseStore, project: Project, quick: None, fault: Fault
) -> None:
    provider = FakeProvider()
    texts = [f"text {number}" for number in range(40)]
    project.faulty.faults = [replace(fault, path="put_vectors", times=2)]
    await store.put_vectors(texts, await provider.embed_documents(texts))
    assert await store.without_vector(provider.space, texts) == set()
    assert len(await store.get_vectors(provider.space, texts)) == 40


@pytest.mark.parametrize(
    ("key", "told"),
    [
        pytest.param("sb_secret_unknown", "refused the key", id="wrong"),
        pytest.param("no-key-at-all", "knows no `sb_...` keys", id="installation-without-such-keys"),
        pytest.param("a.b.c", "refused the key", id="malformed-token"),
        pytest.param("expired", "has expired", id="expired-token"),
    ],
)
async def test_a_key_that_is_refused_is_told_without_repeating_it(project: Project, key: str, told: str) -> None:
    key = project.token("service_role", exp=1) if key == "expired" else key
    store = SupabaseStore(project.address(key))
    with pytest.raises(StoreAccessError, match=told) as caught:
        await store.open()
    assert "SYMMETRA_SUPABASE_KEY" in str(caught.value)
    assert key not in "".join(traceback.format_exception(caught.value))
    assert project.faulty.count() == 1
    await store.aclose()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(
            "drop function public.match_rules(jsonb); notify pgrst, 'reload schema'", "not found", id="function"
        ),
        pytest.param("drop function public.match_rules(jsonb)", "not found", id="function-of-a-stale-cache"),
        pytest.param("drop table symmetra.postings cascade", "not found", id="table"),
        pytest.param(
            "create function public.match_rules(request jsonb, more int default 0) returns jsonb language sql as "
            f"'select request'; {RELOAD}",
            "two functions",
            id="two-functions",
        ),
    ],
)
@pytest.mark.slow
async def test_what_the_schema_lacks_is_told_with_the_command_that_repairs_it(
    bare_project: Project, change: str, told: str
) -> None:
    install(bare_project.db_url)
    bare_project.execute(RELOAD)
    store = SupabaseStore(bare_project.address())
    await filled(store)
    bare_project.execute(change)
    with pytest.raises(SchemaError, match=told) as caught:
        await match(store)
    assert "`symmetra-mcp schema apply`" in str(caught.value)
    await store.aclose()


async def test_a_project_without_our_schema_is_told_with_the_command_that_installs_it(bare_project: Project) -> None:
    store = SupabaseStore(bare_project.address())
    with pytest.raises(SchemaError, match=r"Vector search function not found.*symmetra-mcp schema apply"):
        await store.open()
    await store.aclose()


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'"text"', b"{", b'{"rules": "many"}', b"<html>", b"\xff\xfe"],
    ids=["nothing", "list", "text", "half", "other-fields", "html", "no-text"],
)
@pytest.mark.slow
async def test_an_answer_that_is_none_of_ours_is_an_error_of_ours(
    store: SupabaseStore, project: Project, quick: None, body: bytes
) -> None:
    project.faulty.faults = [Fault("match_rules", times=-1, status=200, body=body)]
    with pytest.raises(StoreError):
        await match(store)
    project.faulty.faults = []
    assert await match(store) == ["one", "two"]


async def test_a_key_follows_no_redirect(store: SupabaseStore, project: Project) -> None:
    elsewhere = Gateway(project.faulty._dsn)
    elsewhere.start()
    project.faulty.faults = [
        Fault(status=307, headers={"Location": f"{elsewhere.url}/rest/v1/rpc/match_rules"}, times=-1)
    ]
    with pytest.raises(StoreError):
        await match(store)
    assert elsewhere.requests == []
    elsewhere.stop()


async def test_vectors_of_another_length_are_refused_by_the_database_too(
    store: SupabaseStore, project: Project
) -> None:
    space = {"space_id": "fake/words@64", "provider": "fake", "model": "words", "dimensions": 64}
    parameters = {
        "space": {**space, "normalized": True, "variant": ""},
        "vectors": [["x", "[1,0,0]"]],
        "probes": [],
        "tokens": 0,
        "request": "00000000-0000-0000-0000-000000000001",
    }
    with pytest.raises(StoreError, match="symmetra-mcp reembed"):
        await store._client.call("symmetra_put_vectors", parameters, writing=True)
    assert project.execute("select count(*) from symmetra.vectors where content_hash = 'x'") == [(0,)]
