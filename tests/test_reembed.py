from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest

from symmetra_mcp.errors import ProviderUnavailableError
from symmetra_mcp.passages import content_hash
from symmetra_mcp.probes import probe_passages
from symmetra_mcp.providers.base import Embeddings
from symmetra_mcp.reembed import ReembedReport, complete_space
from symmetra_mcp.stores.base import MatchQuery, SpaceStatus
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import Rule, RuleKey, Stage

pytestmark = pytest.mark.anyio

PAGE_SIZE = FakeProvider().page_texts
PROBES = {probe.text for probe in probe_passages()}


class CountingProvider(FakeProvider):
    """Counts the rules' own texts, and fails from a call on where it is told to."""

    def __init__(self, model: str = "words", fails_at_text: int | None = None) -> None:
        super().__init__(model)
        self.fails_at_text = fails_at_text

    @property
    def texts(self) -> list[str]:
        """Texts of rules embedded so far."""
        return [text for text in self.embedded if text not in PROBES]

    async def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        after = len(self.texts) + sum(text not in PROBES for text in texts)
        if self.fails_at_text is not None and after > self.fails_at_text:
            raise ProviderUnavailableError("the connection broke", provider="fake")
        return await super().embed_documents(texts)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path)
    await store.open()
    yield store
    await store.aclose()


def rules(number: int, text: str = "Guidance") -> list[Rule]:
    return [Rule("shop", f"r{i:04}", "Title", f"{text} {i}.") for i in range(number)]


def texts(number: int, text: str = "Guidance") -> list[str]:
    return [f"Title. {text} {i}." for i in range(number)]


async def statuses(store: SqliteStore) -> dict[str, SpaceStatus]:
    return {status.space.model: status for status in await store.space_statuses()}


async def test_a_first_run_embeds_every_text_and_makes_the_space_active(store: SqliteStore) -> None:
    provider = CountingProvider()
    await store.upsert_rules([*rules(3), Rule("blog", "same", "Title", "Guidance 0.")])
    report = await complete_space(store, provider)
    assert report == ReembedReport(provider.space, embedded=3, missing=0, passages=3)
    assert sorted(provider.texts) == texts(3)
    assert await store.active_space() == provider.space


async def test_a_second_run_embeds_nothing(store: SqliteStore) -> None:
    await store.upsert_rules(rules(3))
    await complete_space(store, CountingProvider())
    again = CountingProvider()
    assert await complete_space(store, again) == ReembedReport(again.space, embedded=0, missing=0, passages=3)
    assert again.embedded == []


async def test_only_what_is_new_or_changed_is_embedded(store: SqliteStore) -> None:
    await store.upsert_rules(rules(3))
    await complete_space(store, CountingProvider())
    provider = CountingProvider()
    await store.delete_rules([RuleKey("shop", "r0000")])
    await store.upsert_rules([Rule("shop", "r0001", "Title", "Changed."), Rule("shop", "new", "Title", "New.")])
    report = await complete_space(store, provider)
    assert report == ReembedReport(provider.space, embedded=2, missing=0, passages=3)
    assert sorted(provider.embedded) == ["Title. Changed.", "Title. New."]


async def test_a_store_without_rules_is_complete(store: SqliteStore) -> None:
    provider = CountingProvider()
    assert await complete_space(store, provider) == ReembedReport(provider.space, 0, 0, 0)


async def test_a_run_that_failed_half_way_goes_on_where_it_stopped(store: SqliteStore) -> None:
    many = 3 * PAGE_SIZE
    await store.upsert_rules(rules(many))
    failing = CountingProvider(fails_at_text=2 * PAGE_SIZE)
    with pytest.raises(ProviderUnavailableError, match="the connection broke"):
        await complete_space(store, failing)
    assert (await statuses(store))["words"] == SpaceStatus(failing.space, True, many, missing=PAGE_SIZE)
    repaired = CountingProvider()
    report = await complete_space(store, repaired)
    assert report == ReembedReport(repaired.space, embedded=PAGE_SIZE, missing=0, passages=many)
    assert sorted([*failing.texts, *repaired.texts]) == sorted(texts(many))


async def test_a_dry_run_counts_and_writes_nothing(store: SqliteStore) -> None:
    await store.upsert_rules(rules(2))
    provider = CountingProvider()
    assert await complete_space(store, provider, dry_run=True) == ReembedReport(
        provider.space, embedded=0, missing=2, passages=2, dry_run=True
    )
    assert (provider.embedded, await store.space_statuses(), await store.active_space()) == ([], [], None)
    await complete_space(store, provider)
    await store.upsert_rules(rules(3))
    provider.embedded.clear()
    assert (await complete_space(store, provider, dry_run=True)).missing == 1
    assert (await complete_space(store, provider, dry_run=True, force=True)).missing == 3
    assert provider.embedded == []


async def test_force_embeds_what_has_a_vector_too(store: SqliteStore) -> None:
    many = PAGE_SIZE + 5
    await store.upsert_rules(rules(many))
    await complete_space(store, CountingProvider())
    provider = CountingProvider()
    report = await complete_space(store, provider, force=True)
    assert report == ReembedReport(provider.space, embedded=many, missing=0, passages=many)
    assert sorted(provider.texts) == sorted(texts(many))


async def test_a_new_space_is_filled_beside_the_old_and_switched_to_when_complete(store: SqliteStore) -> None:
    old, new = CountingProvider("old"), CountingProvider("new", fails_at_text=PAGE_SIZE)
    await store.upsert_rules(rules(PAGE_SIZE + 1))
    await complete_space(store, old)
    with pytest.raises(ProviderUnavailableError):
        await complete_space(store, new)
    assert await store.active_space() == old.space
    vector = (await old.embed_query("Guidance 1")).vectors[0]
    assert (await store.match(MatchQuery("Guidance 1", vector, old.space))).unembedded == 0
    new.fails_at_text = None
    assert await complete_space(store, new) == ReembedReport(
        new.space, embedded=1, missing=0, passages=PAGE_SIZE + 1, switched_from=old.space
    )
    assert await store.active_space() == new.space


async def test_going_back_to_an_old_space_embeds_nothing(store: SqliteStore) -> None:
    old, new = CountingProvider("old"), CountingProvider("new")
    await store.upsert_rules(rules(3))
    await complete_space(store, old)
    await complete_space(store, new)
    old.embedded.clear()
    assert await complete_space(store, old) == ReembedReport(
        old.space, embedded=0, missing=0, passages=3, switched_from=new.space
    )
    assert (old.embedded, await store.active_space()) == ([], old.space)


async def test_a_space_that_rules_outgrew_during_the_run_is_switched_to_by_the_next(store: SqliteStore) -> None:
    old = CountingProvider("old")
    await store.upsert_rules(rules(2))
    await complete_space(store, old)
    first = min(content_hash(text) for text in texts(2))
    behind = next(text for text in (f"Behind {i}." for i in count()) if content_hash(f"Late. {text}") < first)

    class Overtaken(CountingProvider):
        async def embed_documents(self, texts: Sequence[str]) -> Embeddings:
            if not PROBES.issuperset(texts):
                await store.upsert_rules([Rule("shop", "late", "Late", behind)])
            return await super().embed_documents(texts)

    new = Overtaken("new")
    assert await complete_space(store, new) == ReembedReport(new.space, embedded=2, missing=1, passages=3)
    assert await store.active_space() == old.space
    assert await complete_space(store, new) == ReembedReport(
        new.space, embedded=1, missing=0, passages=3, switched_from=old.space
    )


async def test_the_first_space_serves_searches_while_it_fills(store: SqliteStore) -> None:
    provider = CountingProvider(fails_at_text=PAGE_SIZE)
    await store.upsert_rules(rules(2 * PAGE_SIZE))
    with pytest.raises(ProviderUnavailableError):
        await complete_space(store, provider)
    vector = (await provider.embed_query("Guidance 1")).vectors[0]
    matches = await store.match(MatchQuery("Guidance 1", vector, provider.space))
    assert (matches.considered, matches.unembedded) == (2 * PAGE_SIZE, PAGE_SIZE)


async def test_progress_is_told_after_every_page(store: SqliteStore) -> None:
    heard: list[tuple[Stage, int, int]] = []
    many = 2 * PAGE_SIZE + 1
    await store.upsert_rules(rules(many))
    await complete_space(store, CountingProvider(), on_progress=lambda *told: heard.append(told))
    assert heard == [("embed", PAGE_SIZE, many), ("embed", 2 * PAGE_SIZE, many), ("embed", many, many)]


async def test_runs_at_one_moment_embed_each_text_once(store: SqliteStore, tmp_path: Path) -> None:
    other = SqliteStore(tmp_path)
    await other.open()
    await store.upsert_rules(rules(2 * PAGE_SIZE))
    provider = CountingProvider()
    reports: list[Any] = []

    async def run(own: SqliteStore) -> None:
        reports.append(await complete_space(own, provider))

    async with anyio.create_task_group() as tasks:
        for own in (store, other, store):
            tasks.start_soon(run, own)
    assert sorted(provider.texts) == sorted(texts(2 * PAGE_SIZE))
    assert sorted(report.embedded for report in reports) == [0, 0, 2 * PAGE_SIZE]
    assert [report.missing for report in reports] == [0, 0, 0]
    await other.aclose()


async def test_a_run_that_does_not_wait_leaves_the_work_to_the_one_that_embeds(store: SqliteStore) -> None:
    await store.upsert_rules(rules(2))
    provider = CountingProvider()
    async with store.exclusive("embedding"):
        report = await complete_space(store, provider, wait=False)
    assert report == ReembedReport(provider.space, embedded=0, missing=2, passages=2)
    assert (provider.embedded, await store.active_space()) == ([], None)


async def test_the_unrelated_questions_are_embedded_once_a_space_and_count_as_no_text(store: SqliteStore) -> None:
    await store.upsert_rules(rules(2))
    provider = CountingProvider()
    await complete_space(store, provider)
    assert {text for text in provider.embedded if text in PROBES} == PROBES
    provider.embedded.clear()
    await store.upsert_rules(rules(3))
    await complete_space(store, provider)
    assert provider.embedded == ["Title. Guidance 2."]
