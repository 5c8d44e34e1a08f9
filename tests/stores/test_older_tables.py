"""The older Symmetra's database, adopted: nothing of it is changed or lost, and its programs go on working."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import psycopg
import pytest
from supabase import Client, PostgrestAPIError
from supabase_stack.project import Project, install

from symmetra_mcp.reembed import complete_space
from symmetra_mcp.stores.base import MatchQuery
from symmetra_mcp.stores.supabase import SupabaseStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import Rule, RuleKey

Connect = Callable[[Project], Client]
OLDER_TYPES = """
create extension if not exists vector with schema extensions;
create type public.rule_category as enum
  ('architecture', 'security', 'performance', 'testing', 'ai-ml', 'ux', 'devops', 'data');
create type public.rule_priority as enum ('low', 'medium', 'high', 'critical');
create type public.rule_context as enum ('ide-assistant', 'agent', 'desktop-app');
"""
OLDER_TABLE = """
create table public.rules (
  id uuid primary key default gen_random_uuid(), rule_id text not null unique, title text not null,
  guidance text not null, rationale text, category public.rule_category not null,
  priority public.rule_priority not null default 'medium',
  contexts public.rule_context[] default '{ide-assistant}', tech_stacks text[] default '{}',
  keywords text[] default '{}', project_id text, embedding extensions.vector(384),
  created_at timestamptz default now(), updated_at timestamptz default now());
create view public.urgent_rules as select rule_id, title from public.rules where priority = 'critical';
alter table public.rules enable row level security;
create policy everyone_reads on public.rules for select using (true);
grant all on public.rules to service_role;
grant select on public.rules to anon, authenticated;
"""
OLDER_SEARCH = """
create function public.match_rules(
  query_embedding extensions.vector(384), match_threshold double precision default 0.7, match_count int default 5)
returns table (rule_id text, title text, guidance text, category public.rule_category, similarity double precision)
language sql stable set search_path = public, extensions as $$
  select r.rule_id, r.title, r.guidance, r.category, 1 - (r.embedding <=> query_embedding) from rules as r
  where r.embedding is not null and 1 - (r.embedding <=> query_embedding) > match_threshold
  order by r.embedding <=> query_embedding limit match_count
$$;
grant execute on function public.match_rules to service_role, authenticated, anon;
"""
OLDER_ROWS = """
insert into public.rules (rule_id, title, guidance, rationale, category, priority, contexts, tech_stacks, keywords,
    project_id, embedding)
  select 'rule-' || i, 'Title ' || i, 'Guidance number ' || i, case when i % 3 > 0 then 'Because ' || i end,
    (enum_range(null::public.rule_category))[1 + i % 8], (enum_range(null::public.rule_priority))[1 + i % 4],
    case i % 3 when 0 then null when 1 then '{agent,desktop-app}'::public.rule_context[] else '{}' end,
    case when i % 4 > 0 then array['Python', 'fastapi'] end, case when i % 5 > 0 then array['Key ' || i, 'rule'] end,
    case when i % 2 > 0 then 'shop' end,
    case when i % 6 > 0 then (
      select array_agg(sin(i * n)) from generate_series(1, 384) as n)::extensions.vector end
  from generate_series(1, 30) as i;
"""
CHECKSUM = "select count(*), md5(string_agg(r::text, '|' order by r::text)) from public.rules as r"
A_QUERY = "[" + ",".join(str(round((n % 7 - 3) / 10, 1)) for n in range(384)) + "]"
ANSWERS = f"select * from public.match_rules('{A_QUERY}', -1, 12)"


def as_owner(project: Project, *statements: str) -> None:
    with psycopg.connect(project.db_url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@pytest.fixture
def older(bare_project: Project) -> Project:
    """The older system's database, before our schema came."""
    as_owner(bare_project, OLDER_TYPES, OLDER_TABLE, OLDER_SEARCH, OLDER_ROWS, "notify pgrst, 'reload schema'")
    return bare_project


@pytest.fixture
def adopted(older: Project) -> Iterator[Project]:
    """The older system's database with our schema beside it, whose own indexes agree whatever a test did."""
    install(older.db_url)
    yield older
    assert older.execute("select public.symmetra_verify()") == [("",)]


def ours(project: Project) -> dict[str, Rule]:
    """Every rule, as our store reads it."""

    async def read() -> list[Rule]:
        store = SupabaseStore(project.address())
        await store.open()
        try:
            return await store.list_rules()
        finally:
            await store.aclose()

    return {rule.rule_id: rule for rule in anyio.run(read)}


def written(project: Project, *rules: Rule, delete: tuple[RuleKey, ...] = ()) -> None:
    """Write and delete through our store."""

    async def write() -> None:
        store = SupabaseStore(project.address())
        await store.open()
        try:
            await store.upsert_rules(rules)
            await store.delete_rules(delete)
        finally:
            await store.aclose()

    anyio.run(write)


def found(project: Project, text: str) -> list[tuple[str, bool]]:
    """Ids of what our search finds by words and by meaning, each with whether it has a similarity."""

    async def search() -> list[tuple[str, bool]]:
        store, provider = SupabaseStore(project.address()), FakeProvider()
        await store.open()
        try:
            await complete_space(store, provider)
            embeddings = await provider.embed_query(text)
            matches = await store.match(MatchQuery(text, embeddings.vectors[0], embeddings.space, limit=3))
            return [(match.rule.rule_id, match.similarity is not None) for match in matches.candidates]
        finally:
            await store.aclose()

    return anyio.run(search)


def older_row(project: Project, rule_id: str, columns: str) -> Any:
    rows = project.execute(f"select {columns} from public.rules where rule_id = %s", rule_id)
    return rows[0] if rows else None


def test_adopting_changes_no_row_and_no_answer(older: Project, connect: Connect) -> None:
    before, answers = older.execute(CHECKSUM), older.execute(ANSWERS)
    call = {"query_embedding": A_QUERY, "match_threshold": -1}
    through_client = connect(older).rpc("match_rules", call).execute().data
    assert before[0][0] == 30
    assert (len(answers), len(through_client)) == (12, 5)
    for _ in range(2):
        install(older.db_url)
        assert older.execute(CHECKSUM) == before
        assert older.execute(ANSWERS) == answers
        assert connect(older).rpc("match_rules", call).execute().data == through_client
        assert older.execute("select count(*) from public.urgent_rules") == [(7,)]
        assert older.execute("select count(*) from symmetra.rules") == [(30,)]
        assert older.execute("select public.symmetra_verify()") == [("",)]


def test_every_field_of_every_rule_is_carried_over(adopted: Project) -> None:
    rows = adopted.execute(
        "select rule_id, title, guidance, coalesce(rationale, ''), category::text, priority::text, "
        "coalesce(contexts::text[], '{}'), coalesce(tech_stacks, '{}'), coalesce(keywords, '{}'), "
        "coalesce(project_id, 'shared') from public.rules"
    )
    rules = ours(adopted)
    assert len(rows) == len(rules) == 30
    for rule_id, title, guidance, rationale, category, priority, contexts, stacks, keywords, project_id in rows:
        rule = rules[rule_id]
        assert (rule.project_id, rule.title, rule.guidance, rule.rationale) == (project_id, title, guidance, rationale)
        assert (rule.category, rule.priority) == (category, priority)
        assert rule.contexts == tuple(contexts)
        assert rule.tech_stacks == tuple(stack.lower() for stack in stacks)
        assert rule.keywords == tuple(keywords)


@pytest.mark.slow
def test_what_older_programs_write_is_found_by_our_search(adopted: Project, connect: Connect) -> None:
    table = connect(adopted).table("rules")
    fields = {"title": "Circuit breakers", "guidance": "Wrap flaky vendors in a circuit breaker.", "category": "devops"}
    table.insert({"rule_id": "breaker"} | fields).execute()
    assert found(adopted, "circuit breaker")[0] == ("breaker", True)
    table.upsert(
        {"rule_id": "breaker"} | fields | {"guidance": "Prefer a bulkhead.", "keywords": ["isolation"]},
        on_conflict="rule_id",
    ).execute()
    assert ours(adopted)["breaker"].keywords == ("isolation",)
    assert found(adopted, "bulkhead")[0] == ("breaker", True)
    table.update({"priority": "critical", "project_id": "shop"}).eq("rule_id", "breaker").execute()
    rule = ours(adopted)["breaker"]
    assert (rule.priority, rule.project_id) == ("critical", "shop")
    assert table.select("rule_id").eq("rule_id", "breaker").execute().data == [{"rule_id": "breaker"}]
    table.delete().eq("rule_id", "breaker").execute()
    assert "breaker" not in ours(adopted)
    assert len(ours(adopted)) == 30


def test_a_new_vector_of_theirs_makes_no_change_of_ours(adopted: Project, connect: Connect) -> None:
    revision = adopted.execute("select revision from symmetra.state")
    connect(adopted).table("rules").update({"embedding": A_QUERY}).eq("rule_id", "rule-1").execute()
    assert adopted.execute("select prepared from symmetra.rules where rule_id = 'rule-1'") == [(0,)]
    assert adopted.execute("select revision from symmetra.state")[0][0] - revision[0][0] <= 1


def test_a_changed_id_there_is_the_same_rule_here(adopted: Project, connect: Connect) -> None:
    number = adopted.execute("select rule_no from symmetra.rules where rule_id = 'rule-2'")
    connect(adopted).table("rules").update({"rule_id": "renamed"}).eq("rule_id", "rule-2").execute()
    assert adopted.execute("select rule_no from symmetra.rules where rule_id = 'renamed'") == number
    adopted.execute("update public.rules set id = gen_random_uuid() where rule_id = 'renamed'")
    assert adopted.execute("select rule_no from symmetra.rules where rule_id = 'renamed'") == number
    connect(adopted).table("rules").delete().eq("rule_id", "renamed").execute()
    assert "renamed" not in ours(adopted)


def test_an_emptied_table_there_takes_its_own_rules_only(adopted: Project) -> None:
    written(adopted, Rule("shop", "new", "New", "Written here."))
    as_owner(adopted, "truncate public.rules")
    assert list(ours(adopted)) == ["new"]


@pytest.mark.slow
def test_our_changes_and_removals_arrive_there(adopted: Project) -> None:
    before = ours(adopted)["rule-1"]
    changed = Rule(
        before.project_id,
        "rule-1",
        "New title",
        "New guidance",
        "New reason",
        category="testing",
        priority="low",
        tech_stacks=("go",),
        contexts=("agent",),
        keywords=("word",),
    )
    embedding = older_row(adopted, "rule-1", "embedding::text, created_at")
    written(adopted, changed, delete=(RuleKey("shared", "rule-2"),))
    columns = "title, guidance, rationale, category::text, priority::text, tech_stacks, contexts::text[], keywords"
    assert older_row(adopted, "rule-1", columns) == (
        *("New title", "New guidance", "New reason", "testing", "low"),
        *(["go"], ["agent"], ["word"]),
    )
    assert older_row(adopted, "rule-1", "embedding::text, created_at") == embedding
    assert older_row(adopted, "rule-2", "title") is None
    assert adopted.execute("select count(*) from public.rules") == [(29,)]
    assert ours(adopted)["rule-1"] == changed


def test_a_value_that_its_types_lack_stays_ours(adopted: Project, connect: Connect) -> None:
    theirs = older_row(adopted, "rule-3", "category::text, contexts::text")
    before = ours(adopted)["rule-3"]
    mine = Rule(
        *(before.project_id, "rule-3", "Ours", before.guidance),
        category="house style",
        contexts=("code-review",),
        priority="high",
    )
    written(adopted, mine)
    assert older_row(adopted, "rule-3", "category::text, contexts::text") == theirs
    assert older_row(adopted, "rule-3", "title, priority::text") == ("Ours", "high")
    assert ours(adopted)["rule-3"] == mine
    connect(adopted).table("rules").update({"guidance": "Theirs."}).eq("rule_id", "rule-3").execute()
    rule = ours(adopted)["rule-3"]
    assert (rule.guidance, rule.category, rule.contexts) == ("Theirs.", "house style", ("code-review",))
    as_owner(adopted, "select symmetra.adopt_older_rules()")  # as a later version's schema does
    assert ours(adopted)["rule-3"] == rule
    connect(adopted).table("rules").update({"category": "ux"}).eq("rule_id", "rule-3").execute()
    assert ours(adopted)["rule-3"].category == "ux"


VARIANTS = {
    "numbers as ids": "id bigint generated always as identity primary key, rule_id text unique, contexts text[]",
    "no id": "rule_id text primary key, contexts text",
    "JSON lists": "id uuid primary key default gen_random_uuid(), rule_id text, contexts jsonb",
}
CONTEXTS = {"numbers as ids": "{agent,ci}", "no id": "agent, ci", "JSON lists": json.dumps(["agent", "ci"])}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.slow
def test_other_shapes_of_the_table_are_adopted_too(bare_project: Project, connect: Connect, variant: str) -> None:
    as_owner(
        bare_project,
        f"create table public.rules ({VARIANTS[variant]}, title text, guidance text, category text, project_id text)",
        "grant all on public.rules to service_role",
        "insert into public.rules (rule_id, title, guidance, category, contexts, project_id) values "
        f"('one', 'One', 'First.', 'Own category', '{CONTEXTS[variant]}', ' '), "
        "('two', null, null, null, null, 'shop')",
    )
    before = bare_project.execute(CHECKSUM)
    install(bare_project.db_url)
    assert bare_project.execute(CHECKSUM) == before
    assert ours(bare_project) == {
        "one": Rule("shared", "one", "One", "First.", category="Own category", contexts=("agent", "ci")),
        "two": Rule("shop", "two", "", ""),
    }
    connect(bare_project).table("rules").update({"title": "Theirs"}).eq("rule_id", "two").execute()
    assert ours(bare_project)["two"].title == "Theirs"
    written(bare_project, Rule("shared", "one", "Ours", "First."), delete=(RuleKey("shop", "two"),))
    assert bare_project.execute("select rule_id, title from public.rules") == [("one", "Ours")]
    assert bare_project.execute("select public.symmetra_verify()") == [("",)]


def test_two_rows_of_one_id_are_two_rules(bare_project: Project) -> None:
    as_owner(
        bare_project,
        "create table public.rules (id serial primary key, rule_id text, title text, guidance text)",
        "insert into public.rules (rule_id, title, guidance) values ('a', 'A', 'x'), ('a', 'B', 'y'), ('', 'C', 'z')",
    )
    install(bare_project.db_url)
    assert {rule_id: rule.title for rule_id, rule in ours(bare_project).items()} == {"a": "A", "a-2": "B", "3": "C"}
    written(bare_project, Rule("shared", "a-2", "Ours", "y"))
    assert bare_project.execute("select title from public.rules order by id") == [("A",), ("Ours",), ("C",)]
    install(bare_project.db_url)
    assert set(ours(bare_project)) == {"a", "a-2", "3"}


def test_a_table_of_another_kind_is_left_alone(bare_project: Project) -> None:
    as_owner(bare_project, "create table public.rules (id int, text text)", "insert into public.rules values (1, 'x')")
    install(bare_project.db_url)
    assert ours(bare_project) == {}
    assert bare_project.execute("select * from public.rules") == [(1, "x")]
    triggers = "select count(*) from pg_trigger where tgrelid = 'public.rules'::regclass"
    assert bare_project.execute(triggers) == [(0,)]


def test_an_older_table_restored_after_our_schema_is_adopted_when_it_is_applied_again(project: Project) -> None:
    written(project, Rule("shared", "mine", "Mine", "Written here."))
    as_owner(project, OLDER_TYPES, OLDER_TABLE, OLDER_ROWS)
    before = project.execute(CHECKSUM)
    install(project.db_url)
    assert project.execute(CHECKSUM) == before
    assert len(ours(project)) == 31
    assert project.execute("select public.symmetra_verify()") == [("",)]


def test_without_an_older_table_the_older_call_answers_in_the_active_space(project: Project, connect: Connect) -> None:
    written(project, Rule("shared", "lock", "Locks", "Hold a lock."), Rule("shared", "cache", "Caches", "Set a limit."))
    assert connect(project).rpc("match_rules", {"query_embedding": A_QUERY}).execute().data == []
    provider = FakeProvider()

    async def ask() -> tuple[list[float], list[str]]:
        store = SupabaseStore(project.address())
        await store.open()
        try:
            await complete_space(store, provider)
            embeddings = await provider.embed_query("Hold a lock.")
            query = MatchQuery("", embeddings.vectors[0], embeddings.space, limit=2)
            matches = await store.match(query)
            return embeddings.vectors[0].tolist(), [match.rule.rule_id for match in matches.candidates]
        finally:
            await store.aclose()

    vector, expected = anyio.run(ask)
    call = {"query_embedding": json.dumps(vector), "match_threshold": -1, "match_count": 2}
    rows: Any = connect(project).rpc("match_rules", call).execute().data
    assert [row["rule_id"] for row in rows] == expected
    assert rows[0]["similarity"] > rows[1]["similarity"]
    with pytest.raises(PostgrestAPIError, match=r"expected \d+ dimensions, not 3"):
        connect(project).rpc("match_rules", {"query_embedding": "[1,2,3]"}).execute()
