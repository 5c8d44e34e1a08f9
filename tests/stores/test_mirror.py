"""The copy of a team's store on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from supabase_stack.gateway import Fault
from supabase_stack.project import Project

from symmetra_mcp.errors import StoreAccessError, StoreUnavailableError
from symmetra_mcp.passages import passages
from symmetra_mcp.providers.select import ProviderChoice
from symmetra_mcp.reembed import complete_space
from symmetra_mcp.search import SearchRequest, search
from symmetra_mcp.stores import mirror
from symmetra_mcp.stores.base import MatchQuery
from symmetra_mcp.stores.mirror import MirroredStore
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.stores.supabase import SupabaseStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import Rule, RuleKey

pytestmark = pytest.mark.anyio

RULES = [Rule("shop", f"r{number}", f"Title {number}", f"Guidance {number} of tables.") for number in range(6)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symmetra_mcp.stores.supabase_client._FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(mirror, "LEFT_ALONE_S", 0.0)


def mirrored(project: Project, place: Path, key: str = "") -> MirroredStore:
    return MirroredStore(SupabaseStore(project.address(key)), SqliteStore(place / "copy"))


@pytest.fixture
async def store(project: Project, tmp_path: Path) -> AsyncIterator[MirroredStore]:
    made = mirrored(project, tmp_path)
    await made.open()
    await made.upsert_rules(RULES)
    await complete_space(made, FakeProvider())
    yield made
    await made.aclose()


async def query(text: str = "guidance 3 of tables") -> MatchQuery:
    provider = FakeProvider()
    return MatchQuery(text, (await provider.embed_query(text)).vectors[0], provider.space)


def ranked(matches: Any) -> list[tuple[str, float]]:
    return [(each.rule.rule_id, round(each.score, 5)) for each in matches.candidates]


async def test_the_copy_answers_like_the_store_and_says_what_it_is(store: MirroredStore, project: Project) -> None:
    await store.keep_copy()
    before = await store.match(await query())
    assert (before.degraded, store.trouble) == ("", "")
    project.faulty.stop()
    after = await store.match(await query())
    assert ranked(after) == ranked(before)
    assert after.background == pytest.approx(before.background, abs=1e-5)
    assert "Supabase can't be reached" in after.degraded
    assert "The answer is from the copy of 20" in after.degraded
    assert await store.list_rules() == RULES
    answer = await search(store, ProviderChoice(FakeProvider()), SearchRequest("guidance 3 of tables"))
    assert (answer.hits[0].rule.rule_id, "copy" in answer.degraded) == ("r3", True)
    project.faulty.start()
    assert ((await store.match(await query())).degraded, store.trouble) == ("", "")


async def test_the_copy_follows_what_changes_and_asks_for_nothing_else(store: MirroredStore, project: Project) -> None:
    await store.keep_copy()
    assert not store.copy_is_stale
    await store.upsert_rules([replace(RULES[0], guidance="Rewritten."), Rule("shop", "new", "New", "Brand new.")])
    await store.delete_rules([RuleKey("shop", "r5")])
    provider = FakeProvider()
    await complete_space(store, provider)
    await store.match(await query())
    assert store.copy_is_stale
    project.faulty.requests.clear()
    await store.keep_copy()
    assert project.faulty.count("symmetra_rules") == 0
    assert project.faulty.count("symmetra_vectors") == 1
    assert not store.copy_is_stale
    there = await store.list_rules()
    project.faulty.stop()
    assert await store.list_rules() == there
    texts = [passage.content_hash for each in there for passage in passages(each)]
    copied = await store._copy.get_vectors(provider.space, texts)
    assert len(copied) == len(texts)


async def test_a_machine_that_starts_while_the_store_is_down_answers_from_its_copy(
    store: MirroredStore, project: Project, tmp_path: Path
) -> None:
    await store.keep_copy()
    await store.aclose()
    project.faulty.stop()
    started = mirrored(project, tmp_path)
    await started.open()
    assert (await started.match(await query())).candidates[0].rule.rule_id == "r3"
    assert await started.active_space() == FakeProvider().space
    project.faulty.start()
    assert (await started.match(await query())).degraded == ""
    await started.aclose()


async def test_without_a_copy_an_outage_is_an_error_and_no_empty_answer(store: MirroredStore, project: Project) -> None:
    project.faulty.stop()
    with pytest.raises(StoreUnavailableError, match="can't be reached"):
        await store.match(await query())
    with pytest.raises(StoreUnavailableError):
        await store.list_rules()


async def test_writing_needs_the_store_and_loses_nothing(store: MirroredStore, project: Project) -> None:
    await store.keep_copy()
    project.faulty.stop()
    with pytest.raises(StoreUnavailableError, match="Nothing was changed"):
        await store.upsert_rules([Rule("shop", "new", "New", "New.")])
    project.faulty.start()
    assert await store.list_rules() == RULES


async def test_a_refused_key_is_no_outage(store: MirroredStore, project: Project, tmp_path: Path) -> None:
    await store.keep_copy()
    await store.aclose()
    refused = mirrored(project, tmp_path, "sb_secret_revoked")
    with pytest.raises(StoreAccessError):
        await refused.open()
    await refused.aclose()


async def test_another_database_at_the_same_address_begins_the_copy_anew(
    store: MirroredStore, project: Project
) -> None:
    await store.keep_copy()
    project.execute("update symmetra.state set store_id = gen_random_uuid()")
    await store.delete_rules([each.key for each in RULES[:4]])
    project.execute("delete from symmetra.removed_rules; update symmetra.state set revision = 1")
    await store._team.match(await query())
    await store.keep_copy()
    project.faulty.stop()
    assert await store.list_rules() == RULES[4:]


async def test_a_copy_that_broke_off_is_completed(store: MirroredStore, project: Project) -> None:
    project.faulty.faults = [Fault("symmetra_vectors", times=-1, status=503)]
    with pytest.raises(StoreUnavailableError):
        await store.keep_copy()
    assert store.copy_is_stale
    project.faulty.faults = []
    await store.keep_copy()
    before = ranked(await store.match(await query()))
    project.faulty.stop()
    assert ranked(await store.match(await query())) == before
