"""Who may do what in a team's store: decided by the database, for every table and function that there is."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from supabase_stack.project import Project

from symmetra_mcp.errors import RuleNotFoundError, StoreAccessError
from symmetra_mcp.reembed import complete_space
from symmetra_mcp.stores.base import MatchQuery
from symmetra_mcp.stores.schema import migrations
from symmetra_mcp.stores.schema_direct import DirectDatabase
from symmetra_mcp.stores.schema_install import apply_migrations
from symmetra_mcp.stores.supabase import SupabaseStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import Rule, RuleKey, Scope, Source

pytestmark = pytest.mark.anyio

READING = {
    "match_rules",
    "symmetra_changes",
    "symmetra_count_passages",
    "symmetra_missing_passages",
    "symmetra_projects",
    "symmetra_refusals",
    "symmetra_rules",
    "symmetra_sizes",
    "symmetra_spaces",
    "symmetra_status",
    "symmetra_unprepared",
    "symmetra_vectors",
    "symmetra_without_vector",
}
"""What a key that reads may call."""
SHOP_ALONE = {"app_metadata": {"symmetra_projects": ["shop"]}}
ALL_TABLES = "select tablename::text from pg_tables where schemaname = 'symmetra' order by 1"
OUR_FUNCTIONS = """
select p.oid::regprocedure::text, p.proname::text, n.nspname::text, p.prosecdef, coalesce(p.proconfig, '{}'),
  has_function_privilege('anon', p.oid, 'execute'), has_function_privilege('authenticated', p.oid, 'execute')
from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
where n.nspname = 'symmetra' or (n.nspname = 'public' and (p.proname ~ '^symmetra_' or p.proname = 'match_rules'))
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def rule(rule_id: str, project_id: str) -> Rule:
    scope = Scope("files", (f"{project_id}/**",))
    return Rule(project_id, rule_id, rule_id, f"Guidance of {project_id}.", sources=(Source("a.md", scope=scope),))


@pytest.fixture
async def filled(project: Project) -> Project:
    writer = SupabaseStore(project.address())
    await writer.open()
    await writer.upsert_rules([rule("one", "shop"), rule("two", "shop"), rule("other", "blog")])
    await writer.set_note("note", "kept")
    await complete_space(writer, FakeProvider())
    await writer.aclose()
    return project


async def opened(project: Project, key: str) -> SupabaseStore:
    store = SupabaseStore(project.address(key))
    await store.open()
    return store


def refused(project: Project, statement: str, role: str, claims: str = "") -> str:
    """SQLSTATE of what a role may not do, or empty."""
    with project.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        connection.execute(f"set local role {role}".encode())
        try:
            connection.execute(statement.encode())
        except psycopg.Error as error:
            return error.sqlstate or "?"
    return ""


@pytest.mark.slow
async def test_no_reading_role_writes_any_table(filled: Project) -> None:
    tables = [name for (name,) in filled.execute(ALL_TABLES)]
    assert len(tables) > 15
    for role in ("anon", "authenticated"):
        for table in tables:
            for statement in ("insert into {} default values", "delete from {}", "truncate {}"):
                assert refused(filled, statement.format(f"symmetra.{table}"), role) == "42501", (role, table, statement)
            columns = filled.execute(
                "select column_name::text from information_schema.columns where table_schema = 'symmetra' "
                "and table_name = %s limit 1",
                table,
            )
            update = f"update symmetra.{table} set {columns[0][0]} = {columns[0][0]}"
            assert refused(filled, update, role) == "42501", (role, table)


async def test_a_reading_role_may_call_what_reads_and_nothing_else(filled: Project) -> None:
    functions = filled.execute(OUR_FUNCTIONS)
    public = {name: (anon, member) for _, name, schema, _, _, anon, member in functions if schema == "public"}
    assert {name for name, (_, member) in public.items() if member} == READING
    assert not any(anon for anon, _ in public.values())
    own = {name for _, name, schema, _, _, _, member in functions if schema == "symmetra" and member}
    assert not own & {"write_rules", "register_space", "next_revision", "adopt_older_rules", "carry_over"}


async def test_functions_that_act_for_their_owner_are_few_and_look_nowhere_else(filled: Project) -> None:
    definers = {
        name: (settings, member)
        for _, name, _, definer, settings, _, member in filled.execute(OUR_FUNCTIONS)
        if definer
    }
    assert set(definers) == {"schema_version", "carry_over", "follow_older_rule", "write_back", "write_back_removal"}
    assert all(any(line.startswith("search_path=pg_catalog") for line in settings) for settings, _ in definers.values())
    assert {name for name, (_, member) in definers.items() if member} == {"schema_version"}


async def test_a_member_reads_everything_and_is_refused_every_writing_call(filled: Project) -> None:
    reader = await opened(filled, filled.token("authenticated"))
    provider = FakeProvider()
    assert not reader.may_write()
    assert await reader.count_rules() == {"blog": 1, "shop": 2}
    vector = (await provider.embed_query("guidance")).vectors[0]
    found = await reader.match(MatchQuery("guidance", vector, provider.space))
    assert (len(found.candidates), found.unembedded) == (3, 0)
    vectors = await provider.embed_documents(["a"])
    for write in (
        lambda: reader.upsert_rules([rule("new", "shop")]),
        lambda: reader.delete_rules([RuleKey("shop", "one")]),
        lambda: reader.put_vectors(["a"], vectors),
        lambda: reader.activate_space(provider.space),
        lambda: reader.set_note("a", "b"),
        lambda: reader.exclusive("import").__aenter__(),
    ):
        with pytest.raises(StoreAccessError, match="secret key"):
            await write()
    with pytest.raises(StoreAccessError):
        await reader.get_note("note")
    await reader.aclose()
    assert filled.execute("select count(*) from symmetra.rules") == [(3,)]


async def test_a_key_of_one_project_sees_that_project_alone(filled: Project) -> None:
    reader = await opened(filled, filled.token("authenticated", **SHOP_ALONE))
    provider = FakeProvider()
    assert [each.project_id for each in await reader.list_rules()] == ["shop", "shop"]
    assert await reader.count_rules() == {"shop": 2}
    with pytest.raises(RuleNotFoundError):
        await reader.get_rule(RuleKey("blog", "other"))
    vector = (await provider.embed_query("guidance of blog")).vectors[0]
    for query in (MatchQuery("blog", vector, provider.space), MatchQuery("guidance")):
        found = await reader.match(query)
        assert {each.rule.project_id for each in found.candidates} == {"shop"}
        assert found.considered == 2
    assert await reader.count_passages() == 2
    texts, _ = await reader.missing_passages(provider.space, again=True)
    assert not any("blog" in text.text for text in texts)
    other = filled.execute(
        "select content_hash from symmetra.passages join symmetra.rules using (rule_no) where project_id = 'blog'"
    )
    assert await reader.get_vectors(provider.space, [name for (name,) in other]) == {}
    assert {each.project_id for each in (await reader.changes(0, (0, 0)))["rules"]} == {"shop"}
    await reader.aclose()


@pytest.mark.parametrize("claim", ['"shop"', "{}", "[]", "[1]", "true"])
@pytest.mark.slow
async def test_a_claim_that_is_no_list_of_projects_opens_none(filled: Project, claim: str) -> None:
    import json

    token = filled.token("authenticated", app_metadata={"symmetra_projects": json.loads(claim)})
    reader = await opened(filled, token)
    assert await reader.list_rules() == []
    await reader.aclose()


async def test_the_publishable_key_reads_nothing_until_it_may(filled: Project) -> None:
    closed = SupabaseStore(filled.address(filled.publishable_key))
    with pytest.raises(StoreAccessError, match="--public-read"):
        await closed.open()
    await closed.aclose()
    for public in (True, False):
        with DirectDatabase(filled.db_url) as database:
            apply_migrations(database, migrations(), public_read=public)
        reader = SupabaseStore(filled.address(filled.publishable_key))
        if public:
            await reader.open()
            assert len((await reader.match(MatchQuery("guidance"))).candidates) == 3
            with pytest.raises(StoreAccessError):
                await reader.upsert_rules([rule("new", "shop")])
            assert refused(filled, "delete from symmetra.rules", "anon") == "42501"
        else:
            with pytest.raises(StoreAccessError):
                await reader.open()
        await reader.aclose()


def test_no_address_shows_the_tables(project: Project) -> None:
    import httpx

    headers: dict[str, Any] = {"apikey": project.key, "Accept-Profile": "symmetra"}
    with httpx.Client(base_url=project.url, trust_env=False) as client:
        answer = client.get("/rest/v1/rules", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (406, "PGRST106")
