"""What the team's store does beyond the contract of all stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from supabase_stack.gateway import Fault
from supabase_stack.project import Project

from symmetra_mcp.app import App
from symmetra_mcp.config import Settings, load_settings
from symmetra_mcp.errors import StoreError, StoreUnavailableError
from symmetra_mcp.passages import passages
from symmetra_mcp.probes import probe_passages
from symmetra_mcp.providers.base import Embeddings
from symmetra_mcp.providers.select import ProviderChoice
from symmetra_mcp.reembed import ReembedReport, complete_space
from symmetra_mcp.search import SearchRequest, search
from symmetra_mcp.spaces import EmbeddingSpace
from symmetra_mcp.stores import schema_index, supabase
from symmetra_mcp.stores.base import MatchQuery, RuleFilter
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.stores.supabase import SupabaseStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import Rule, Scope, Source

pytestmark = pytest.mark.anyio

WORDS = ("cache", "retry", "schema", "index", "token", "lock", "queue", "batch", "test", "deploy", "secret", "python")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(project: Project) -> AsyncIterator[SupabaseStore]:
    made = SupabaseStore(project.address())
    await made.open()
    yield made
    await made.aclose()


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


def rule(rule_id: str, guidance: str = "Do the right thing.", **fields: Any) -> Rule:
    given = {"project_id": "shop", "rule_id": rule_id, "title": rule_id.capitalize(), "guidance": guidance}
    return Rule(**given | fields)


def scoped(rule_id: str, *globs: str) -> Rule:
    return rule(rule_id, sources=(Source("AGENTS.md", scope=Scope("files", globs)),))


async def asked(provider: FakeProvider, text: str, **fields: Any) -> MatchQuery:
    embeddings = await provider.embed_query(text)
    return MatchQuery(text, embeddings.vectors[0], embeddings.space, **fields)


def verified(project: Project) -> str:
    return str(project.execute("select public.symmetra_verify()")[0][0])


def generated(count: int) -> list[Rule]:
    random = np.random.default_rng(7)
    rules = []
    for number in range(count):
        words = [str(word) for word in random.choice(WORDS, 9)]
        stacks = [(), ("python",), ("react", "javascript")][number % 3]
        rules.append(rule(f"r{number}", " ".join(words), tech_stacks=stacks, project_id=["shop", "blog"][number % 2]))
    return rules


async def test_a_search_is_one_round_trip(store: SupabaseStore, project: Project, provider: FakeProvider) -> None:
    await store.upsert_rules([rule("one"), scoped("web", "web/**")])
    await complete_space(store, provider)
    gateway = project.faulty
    in_hand = RuleFilter(path="web/a.ts")
    await store.match(await asked(provider, "right thing", rule_filter=in_hand))  # learns the globs
    for query in (
        await asked(provider, "right thing"),
        await asked(provider, "right thing", rule_filter=in_hand),
        await asked(provider, "right thing", rule_filter=RuleFilter(project_ids=("shop",), min_priority="high")),
        MatchQuery("right thing"),
    ):
        gateway.requests.clear()
        await store.match(query)
        assert [each.path for each in gateway.requests] == ["/rest/v1/rpc/match_rules"]
    await store.upsert_rules([rule("two")])
    gateway.requests.clear()
    await search(store, ProviderChoice(provider), SearchRequest("right thing", file_path="web/a.ts"))
    assert gateway.count() == 1
    await store.upsert_rules([scoped("py", "*.py")])
    gateway.requests.clear()
    await store.match(await asked(provider, "right thing", rule_filter=in_hand))
    assert gateway.count() == 2


@pytest.mark.slow
async def test_both_stores_rank_alike(store: SupabaseStore, provider: FakeProvider, tmp_path: Path) -> None:
    rules = generated(60)
    embedded = SqliteStore(tmp_path)
    await embedded.open()
    for each in (store, embedded):
        await each.upsert_rules(rules)
        await complete_space(each, provider)
    ways: list[dict[str, Any]] = [
        {},
        {"preferred_tech_stacks": ("python",)},
        {"preferred_project_ids": ("blog",), "rule_filter": RuleFilter(tech_stacks=("react",))},
    ]
    for start in range(len(WORDS) - 3):
        for way in ways:
            query = await asked(provider, " ".join(WORDS[start : start + 3]), limit=10, **way)
            ours, theirs = await store.match(query), await embedded.match(query)
            assert [each.rule for each in ours.candidates] == [each.rule for each in theirs.candidates]
            assert [each.score for each in ours.candidates] == pytest.approx(
                [each.score for each in theirs.candidates], abs=1e-5
            )
            assert [each.words for each in ours.candidates] == [each.words for each in theirs.candidates]
            assert ours.background == pytest.approx(theirs.background, abs=1e-5)
    await embedded.aclose()


@pytest.mark.slow
async def test_a_large_write_travels_in_parts_all_or_none(
    store: SupabaseStore, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supabase, "MAX_BODY_BYTES", 2_000)
    rules = [rule(f"r{number}", "word " * 50) for number in range(12)]
    gateway = project.faulty
    gateway.faults = [Fault("write_parts", times=-1, status=500, body=b"{}")]
    with pytest.raises(StoreError):
        await store.upsert_rules(rules)
    assert await store.list_rules() == []
    gateway.faults = [Fault("write_parts", cut="after")]
    await store.upsert_rules(rules)
    assert len(await store.list_rules()) == 12
    assert gateway.count("symmetra_write_part") > 2
    assert verified(project) == ""


@pytest.mark.slow
async def test_lists_go_beyond_the_thousand_rows_of_an_answer(store: SupabaseStore) -> None:
    rules = [rule(f"r{number:04}") for number in range(1_204)]
    await store.upsert_rules(rules)
    assert await store.list_rules("shop") == rules
    assert await store.count_rules() == {"shop": 1_204}


async def test_vectors_come_back_bit_for_bit(store: SupabaseStore) -> None:
    random = np.random.default_rng(3)
    vectors = (random.standard_normal((5, 1_536)) * np.float32(10) ** -random.integers(0, 30, (5, 1_536))).astype("f4")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    space = EmbeddingSpace("fake", "large", 1_536)
    hashes = [f"h{number}" for number in range(5)]
    await store.put_vectors(hashes, Embeddings(vectors, space))
    found = await store.get_vectors(space, [*hashes, "unknown"])
    assert {key: vector.tobytes() for key, vector in found.items()} == {
        key: vector.tobytes() for key, vector in zip(hashes, vectors, strict=True)
    }


async def test_tokens_are_counted_once_though_an_answer_got_lost(
    store: SupabaseStore, project: Project, provider: FakeProvider
) -> None:
    vectors = (await provider.embed_documents(["one", "two"])).vectors
    project.faulty.faults = [Fault("put_vectors", cut="after")]
    await store.put_vectors(["a", "b"], Embeddings(vectors, provider.space, tokens=70))
    assert project.faulty.count("symmetra_put_vectors") == 2
    assert project.execute("select texts, tokens from symmetra.usage") == [(2, 70)]


async def test_a_space_that_another_machine_activates_is_followed_by_the_next_search(
    store: SupabaseStore, project: Project
) -> None:
    old, new = FakeProvider("old"), FakeProvider("new", dimensions=32)
    await store.upsert_rules([rule("one"), rule("two", "Something else.")])
    await complete_space(store, old)
    elsewhere = SupabaseStore(project.address())
    await elsewhere.open()
    await complete_space(elsewhere, new)
    await elsewhere.aclose()
    project.execute("delete from symmetra.spaces where model = 'old'")
    providers = ProviderChoice(new, others=(old,))
    answer = await search(store, providers, SearchRequest("right thing"))
    assert (answer.space, answer.degraded) == (new.space, "")
    assert answer.hits[0].rule.rule_id == "one"


async def test_rules_that_another_program_wrote_are_found(store: SupabaseStore, project: Project) -> None:
    await store.upsert_rules([rule("one")])
    project.execute(
        "insert into symmetra.rules (project_id, rule_id, title, guidance, facet_no) "
        "select 'shop', 'other', 'Kubernetes', 'Set probes.', facet_no from symmetra.facets"
    )
    found = await store.match(MatchQuery("kubernetes"))
    assert [each.rule.rule_id for each in found.candidates] == ["other"]
    assert await store.count_passages() == 2
    assert verified(project) == ""


async def test_writers_at_once_neither_block_each_other_for_good_nor_miscount(
    store: SupabaseStore, project: Project
) -> None:
    other = SupabaseStore(project.address())
    await other.open()

    async def write(writer: SupabaseStore, seed: int) -> None:
        for turn in range(4):
            await writer.upsert_rules([rule(f"r{(seed + n) % 9}", f"{WORDS[(turn + n) % 9]} {seed}") for n in range(7)])
            await writer.delete_rules([rule(f"r{(seed + turn) % 9}").key])

    async with anyio.create_task_group() as tasks:
        for seed, writer in enumerate((store, other, store, other)):
            tasks.start_soon(write, writer, seed)
    await other.aclose()
    assert verified(project) == ""
    counted = project.execute("select (select count(*) from symmetra.rules), rule_count from symmetra.state")
    assert counted[0][0] == counted[0][1]


@pytest.mark.slow
async def test_a_task_of_a_dead_owner_is_taken_over_and_its_owner_is_told(
    store: SupabaseStore, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supabase, "_LEASE_S", 1)
    monkeypatch.setattr(supabase, "_RENEW_S", 0.05)

    async def work_that_is_taken_over() -> None:
        async with store.exclusive("embedding"):
            project.execute("update symmetra.leases set owner = 'another', held_until = now() + interval '1 hour'")
            await anyio.sleep(10)

    with pytest.raises(StoreUnavailableError, match="taken over"):
        await work_that_is_taken_over()
    project.execute("update symmetra.leases set held_until = now() - interval '1 second'")
    async with store.exclusive("embedding", wait=False) as held:
        assert held


async def test_the_older_call_answers_in_the_active_space(
    store: SupabaseStore, project: Project, provider: FakeProvider
) -> None:
    await store.upsert_rules([rule("one", "Pin dependencies."), rule("two", "Write docstrings.", category="testing")])
    await complete_space(store, provider)
    vector = (await provider.embed_query("docstrings")).vectors[0]
    client = store._client
    rows = await client.call(
        "match_rules", {"query_embedding": vector.tolist(), "match_threshold": -1, "match_count": 5}
    )
    assert list(rows[0]) == [
        "rule_id", "title", "guidance", "category", "priority", "contexts", "tech_stacks", "keywords", "similarity",
    ]  # fmt: skip
    assert [row["rule_id"] for row in rows] == ["two", "one"]
    best = float(vector @ provider._vector(passages(rule("two", "Write docstrings."))[0].text))
    assert rows[0]["similarity"] == pytest.approx(best, abs=1e-5)
    few = await client.call("match_rules", {"query_embedding": vector.tolist(), "match_threshold": best - 0.01})
    assert [row["rule_id"] for row in few] == ["two"]


@pytest.mark.slow
async def test_two_machines_embed_each_text_once_and_one_of_them_switches(project: Project) -> None:
    old = FakeProvider("old")
    writer = SupabaseStore(project.address())
    await writer.open()
    await writer.upsert_rules(generated(120))
    await complete_space(writer, old)
    reports: list[ReembedReport] = []
    waited: list[str] = []

    class Slow(FakeProvider):
        def __init__(self, model: str) -> None:
            super().__init__(model)
            self.documents: list[str] = []

        async def embed_documents(self, texts: Sequence[str]) -> Embeddings:
            await anyio.sleep(0.3)
            self.documents += texts
            return await super().embed_documents(texts)

    providers: list[Slow] = [Slow("new"), Slow("new")]

    async def machine(provider: FakeProvider) -> None:
        store = SupabaseStore(project.address())
        await store.open()
        reports.append(await complete_space(store, provider, on_wait=lambda running: waited.append(str(running))))
        await store.aclose()

    async with anyio.create_task_group() as tasks:
        for provider in providers:
            tasks.start_soon(machine, provider)
    probes = {probe.text for probe in probe_passages()}
    sent = [text for provider in providers for text in provider.documents if text not in probes]
    assert sorted(sent) == sorted(set(sent))
    assert sorted(report.embedded for report in reports) == [0, len(sent)]
    assert [report.switched_from for report in reports if report.switched_from] == [old.space]
    assert any("embeds in fake/new@64: " in line for line in waited)
    assert [each.space for each in await writer.space_statuses() if each.active] == [providers[0].space]
    assert verified(project) == ""
    await writer.aclose()


async def test_a_space_worth_an_index_has_it_before_searches_switch(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def app_of(model: str, **given: str) -> App:
        address = {"supabase_url": project.url, "supabase_key": project.key, "data_dir": str(tmp_path)}
        settings = load_settings(**address, **given)
        return App(settings, SupabaseStore(project.address()), ProviderChoice(FakeProvider(model)))

    def indexed() -> list[str]:
        advice = "select space_id from symmetra.index_advice() where valid order by space_id"
        return [space_id for (space_id,) in project.execute(advice)]

    built_while_active = []
    build = schema_index.index_space

    def watched(settings: Settings, space_id: str, on_progress: schema_index.IndexProgress) -> None:
        active = project.execute("select space_id from symmetra.spaces join symmetra.state on space_no = active_space")
        built_while_active.append((space_id, active[0][0]))
        build(settings, space_id, on_progress)

    monkeypatch.setattr(schema_index, "INDEX_PAYS_FROM", 10)
    monkeypatch.setattr(schema_index, "index_space", watched)
    first = app_of("first")
    try:
        await first.store.open()
        await first.store.upsert_rules([rule(f"r{number}", f"Rule number {number}.") for number in range(20)])
        report = await first.reembed()
        assert report.notice.startswith("searches are faster with an index: set `SYMMETRA_DB_URL`")
    finally:
        await first.aclose()
    second = app_of("second", db_url=project.db_url)
    try:
        report = await second.reembed()
        assert (report.switched_from, report.notice) == (FakeProvider("first").space, "")
        assert built_while_active == [("fake/second@64", "fake/first@64")]
        assert indexed() == ["fake/second@64"]
    finally:
        await second.aclose()
    third = app_of("third", db_url="postgresql://nobody@127.0.0.1:1/none")
    try:
        report = await third.reembed()
        assert report.switched_from == FakeProvider("second").space, "an index is no condition"
        assert report.notice.startswith("the index that makes searches faster was not built: ")
        assert report.notice.endswith("Run `symmetra-mcp schema index`")
    finally:
        await third.aclose()
