from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from symmetra_mcp.errors import InputRefusedError, ProviderUnavailableError, VerificationError
from symmetra_mcp.passages import content_hash
from symmetra_mcp.probes import probe_passages
from symmetra_mcp.providers.base import Embeddings
from symmetra_mcp.reembed import ReembedReport, complete_space
from symmetra_mcp.schemas import reembed_answer
from symmetra_mcp.stores.base import MatchQuery, SpaceStatus
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.text import reembed_text
from symmetra_mcp.types import Rule, RuleKey, Stage

pytestmark = pytest.mark.anyio

PAGE_SIZE = FakeProvider().page_texts
PROBES = {probe.text for probe in probe_passages()}


class CountingProvider(FakeProvider):
    """Counts the rules' own texts, and fails from a call on where it is told to."""

    def __init__(self, model: str = "words", fails_at_text: int | None = None) -> None:
        super().__init__(model)
        self.fails_at_text = fails_at_text
        self.texts: list[str] = []

    async def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        of_rules = [text for text in texts if text not in PROBES]
        if self.fails_at_text is not None and len(self.texts) + len(of_rules) > self.fails_at_text:
            raise ProviderUnavailableError("the connection broke", provider="fake")
        self.texts += of_rules
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
        new.space, embedded=1, missing=0, passages=PAGE_SIZE + 1, switched_from=old.space, probed=12
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


class Overtaken(CountingProvider):
    """Rules are written while it embeds, as often as it is told to."""

    def __init__(self, store: SqliteStore, late: list[Rule]) -> None:
        super().__init__("new")
        self.store, self.late = store, late

    async def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        if not PROBES.issuperset(texts) and self.late:
            await self.store.upsert_rules([self.late.pop()])
        return await super().embed_documents(texts)


async def test_rules_that_came_in_behind_a_run_are_in_the_space_at_the_switch(store: SqliteStore) -> None:
    old = CountingProvider("old")
    await store.upsert_rules(rules(2))
    await complete_space(store, old)
    first = min(content_hash(text) for text in texts(2))
    behind = (f"Behind {i}." for i in count())
    late = [next(text for text in behind if content_hash(f"Late. {text}") < first) for _ in range(3)]
    new = Overtaken(store, [Rule("shop", f"late{i}", "Late", text) for i, text in enumerate(late)])
    report = await complete_space(store, new)
    assert report == ReembedReport(
        new.space, embedded=5, missing=0, passages=5, switched_from=old.space, probed=report.probed
    )
    assert len(new.texts) == 5


async def test_a_run_that_rules_outgrow_again_and_again_ends_and_searches_stay(store: SqliteStore) -> None:
    old = CountingProvider("old")
    await store.upsert_rules(rules(2))
    await complete_space(store, old)
    new = Overtaken(store, [Rule("shop", "changing", "Changing", f"Version {i}.") for i in range(100)])
    report = await complete_space(store, new)
    assert report.switched_from is None
    assert await store.active_space() == old.space
    new.late.clear()
    assert (await complete_space(store, new)).switched_from == old.space


async def test_a_rule_written_between_the_check_and_the_switch_is_embedded_first(store: SqliteStore) -> None:
    old = CountingProvider("old")
    await store.upsert_rules(rules(2))
    await complete_space(store, old)

    class Late(CountingProvider):
        async def embed_query(self, text: str) -> Embeddings:
            await store.upsert_rules([Rule("shop", "late", "Late", "Written during the check.")])
            return await super().embed_query(text)

    new = Late("new")
    report = await complete_space(store, new)
    assert (report.embedded, report.missing, report.switched_from) == (3, 0, old.space)


async def test_the_first_space_serves_searches_while_it_fills(store: SqliteStore) -> None:
    provider = CountingProvider(fails_at_text=PAGE_SIZE)
    await store.upsert_rules(rules(2 * PAGE_SIZE))
    with pytest.raises(ProviderUnavailableError):
        await complete_space(store, provider)
    vector = (await provider.embed_query("Guidance 1")).vectors[0]
    matches = await store.match(MatchQuery("Guidance 1", vector, provider.space))
    assert (matches.considered, matches.unembedded) == (2 * PAGE_SIZE, PAGE_SIZE)


async def test_progress_is_told_after_every_request(store: SqliteStore) -> None:
    heard: list[tuple[Stage, int, int]] = []
    many = PAGE_SIZE + 1
    await store.upsert_rules(rules(many))
    await complete_space(store, CountingProvider(), on_progress=lambda *told: heard.append(told))
    half = CountingProvider().request_texts
    assert heard == [("embed", half, many), ("embed", 2 * half, many), ("embed", many, many)]


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


# Verification


class Wrong(CountingProvider):
    """Answers documents with something else than it was asked for."""

    def __init__(self, spoil: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__("new")
        self.spoil: Callable[[np.ndarray], np.ndarray] | None = spoil

    async def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        embeddings = await super().embed_documents(texts)
        return replace(embeddings, vectors=self.spoil(embeddings.vectors)) if self.spoil else embeddings


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda rows: np.roll(rows, 1, axis=0), id="rows-mixed-up"),
        pytest.param(lambda rows: np.roll(rows, 7, axis=1), id="another-model"),
        pytest.param(lambda rows: np.repeat(rows[:1], len(rows), axis=0), id="one-vector-for-all"),
    ],
)
async def test_searches_do_not_switch_to_a_space_that_fails_its_check(store: SqliteStore, spoil: Any) -> None:
    old, new = CountingProvider("old"), Wrong(spoil)
    await store.upsert_rules([Rule("shop", f"r{i}", "Title", f"word{i} thing{i} case{i}") for i in range(40)])
    await complete_space(store, old)
    with pytest.raises(VerificationError, match=r"searches stay where they were.*migrate --force") as caught:
        await complete_space(store, new)
    assert caught.value.space == new.space
    assert await store.active_space() == old.space
    new.spoil = None
    report = await complete_space(store, new, force=True)
    assert (report.switched_from, report.embedded) == (old.space, 40)


async def test_a_vector_that_the_store_changed_keeps_searches_where_they_are(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = CountingProvider("old"), CountingProvider("new")
    await store.upsert_rules(rules(3))
    await complete_space(store, old)
    get_vectors = store.get_vectors

    async def damaged(space: Any, hashes: Sequence[str]) -> Any:
        return {key: -vector for key, vector in (await get_vectors(space, hashes)).items()}

    monkeypatch.setattr(store, "get_vectors", damaged)
    with pytest.raises(VerificationError, match="not the one that was stored"):
        await complete_space(store, new)
    assert await store.active_space() == old.space


async def test_copies_of_one_rule_pass_the_check(store: SqliteStore) -> None:
    old, new = CountingProvider("old"), CountingProvider("new")
    await store.upsert_rules([Rule("shop", f"r{i:03}", "Same", f"Say it so{'!' * i}") for i in range(60)])
    await complete_space(store, old)
    assert (await complete_space(store, new)).switched_from == old.space


# Texts that a provider does not take


class Refusing(CountingProvider):
    """Refuses texts that hold a word, naming the first of them as vendors' errors are made to."""

    async def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        for index, text in enumerate(texts):
            if "forbidden" in text:
                raise InputRefusedError("fake refused a text", provider="fake", about="text", index=index)
        return await super().embed_documents(texts)


async def test_a_refused_text_is_named_and_the_rest_is_switched_to(store: SqliteStore) -> None:
    old, new = CountingProvider("old"), Refusing("new")
    bad = [Rule("shop", f"bad{i}", "Bad", f"forbidden {i}") for i in range(3)]
    await store.upsert_rules([*rules(PAGE_SIZE), *bad])
    await complete_space(store, old)
    report = await complete_space(store, new)
    assert (report.embedded, report.missing, report.switched_from) == (PAGE_SIZE, 0, old.space)
    assert {(each.key.rule_id, each.reason) for each in report.refused} == {
        (f"bad{i}", "fake refused a text") for i in range(3)
    }
    assert set(texts(PAGE_SIZE)) <= set(new.texts)
    assert len(new.texts) == PAGE_SIZE + 1, "and one text that everybody takes"
    vector = (await new.embed_query("forbidden 1")).vectors[0]
    matches = await store.match(MatchQuery("forbidden 1", vector, new.space))
    assert "bad1" in [each.rule.rule_id for each in matches.candidates]
    assert matches.unembedded == 0


async def test_a_refused_text_is_asked_again_only_when_forced(store: SqliteStore) -> None:
    provider = Refusing()
    await store.upsert_rules([Rule("shop", "bad", "Bad", "forbidden"), *rules(1)])
    assert len((await complete_space(store, provider)).refused) == 1
    taking = CountingProvider()
    assert (await complete_space(store, taking)).embedded == 0
    report = await complete_space(store, taking, force=True)
    assert (report.embedded, report.refused) == (2, ())


async def test_a_text_that_is_refused_now_keeps_its_vector_and_is_named(store: SqliteStore) -> None:
    await store.upsert_rules([Rule("shop", "bad", "Bad", "forbidden"), *rules(1)])
    await complete_space(store, CountingProvider())
    report = await complete_space(store, Refusing(), force=True)
    assert (report.embedded, report.missing, report.refused) == (1, 0, ())
    ((beginning, reason),) = report.kept
    assert "forbidden" in beginning
    assert reason == "fake refused a text"
    assert "Not embedded again, found by the vector it had: " in reembed_text(reembed_answer(report))


async def test_searches_are_made_quick_before_they_switch_and_what_is_left_is_told(store: SqliteStore) -> None:
    old, new = CountingProvider("old"), CountingProvider("new")
    await store.upsert_rules(rules(5))
    seen: list[tuple[str, int, bool]] = []

    async def make_quick(status: SpaceStatus) -> str:
        active = await store.active_space()
        seen.append((str(status.space), status.missing, active == status.space))
        return "build an index"

    assert (await complete_space(store, old, make_quick=make_quick)).notice == "build an index"
    report = await complete_space(store, new, make_quick=make_quick)
    assert (report.switched_from, report.notice) == (old.space, "build an index")
    assert (await complete_space(store, new, make_quick=make_quick)).notice == "", "nothing is new"
    await complete_space(store, old, make_quick=make_quick)
    names = [(name, missing) for name, missing, _ in seen]
    assert names == [("fake/old@64", 0), ("fake/new@64", 0), ("fake/old@64", 0)]
    assert [active for _, _, active in seen] == [True, False, False], "the first fill has no searches to switch"


async def test_a_model_that_refuses_every_request_is_an_error(store: SqliteStore) -> None:
    class Unknown(CountingProvider):
        async def embed_documents(self, texts: Sequence[str]) -> Embeddings:
            raise InputRefusedError("fake knows no such model", provider="fake", about="request")

    await store.upsert_rules(rules(2))
    with pytest.raises(InputRefusedError, match="no such model"):
        await complete_space(store, Unknown())
    assert await store.refusals(Unknown().space) == []


async def test_a_provider_that_refuses_whatever_it_is_sent_is_ill_and_no_text_is_to_blame(store: SqliteStore) -> None:
    class Ill(CountingProvider):
        async def embed_documents(self, texts: Sequence[str]) -> Embeddings:
            if texts:
                raise InputRefusedError("fake refused a text", provider="fake", about="text", index=0)
            return await super().embed_documents(texts)

    old, ill = CountingProvider("old"), Ill("new")
    await store.upsert_rules(rules(5))
    await complete_space(store, old)
    for force in (False, True):
        with pytest.raises(InputRefusedError):
            await complete_space(store, ill, force=force)
    assert await store.refusals(ill.space) == []
    assert await store.active_space() == old.space
    assert (await complete_space(store, CountingProvider("new"), force=True)).embedded == 5


# Several requests at a time


class Concurrent(CountingProvider):
    """Answers out of order, several at a time, and remembers how much was on its way."""

    def __init__(self, model: str = "words") -> None:
        super().__init__(model)
        self.on_their_way = self.most = self.calls = 0

    @property
    def parallel_requests(self) -> int:
        return 8

    @property
    def request_texts(self) -> int:
        return 16

    async def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        self.calls += 1
        delay_s = 0.05 if self.calls % 4 == 1 else 0.005
        self.on_their_way += len(texts)
        self.most = max(self.most, self.on_their_way)
        await anyio.sleep(delay_s)
        self.on_their_way -= len(texts)
        return await super().embed_documents(texts)


async def test_requests_overlap_and_no_more_than_a_window_is_on_its_way(store: SqliteStore) -> None:
    provider = Concurrent()
    await store.upsert_rules(rules(5 * PAGE_SIZE))
    report = await complete_space(store, provider)
    assert (report.embedded, report.missing) == (5 * PAGE_SIZE, 0)
    assert sorted(provider.texts) == sorted(texts(5 * PAGE_SIZE))
    assert provider.request_texts < provider.most <= PAGE_SIZE


async def test_what_was_on_its_way_when_a_request_failed_is_kept(store: SqliteStore) -> None:
    class Failing(Concurrent):
        async def embed_documents(self, texts: Sequence[str]) -> Embeddings:
            if self.calls == 6:
                self.calls += 1
                raise ProviderUnavailableError("the connection broke", provider="fake")
            return await super().embed_documents(texts)

    provider = Failing()
    await store.upsert_rules(rules(5 * PAGE_SIZE))
    with pytest.raises(ProviderUnavailableError):
        await complete_space(store, provider)
    (status,) = await store.space_statuses()
    assert status.passages - status.missing == len(provider.texts) > 0
    await complete_space(store, Concurrent())
    assert (await store.space_statuses())[0].missing == 0


async def test_a_forced_run_that_was_cut_off_goes_on_where_it_was(store: SqliteStore) -> None:
    many = 4 * PAGE_SIZE
    await store.upsert_rules(rules(many))
    await complete_space(store, CountingProvider())
    failing = CountingProvider(fails_at_text=2 * PAGE_SIZE)
    with pytest.raises(ProviderUnavailableError):
        await complete_space(store, failing, force=True)
    again = CountingProvider()
    report = await complete_space(store, again, force=True)
    assert report.embedded == len(again.texts) <= many - 2 * PAGE_SIZE + PAGE_SIZE
    assert set(again.texts) | set(failing.texts) == set(texts(many))
    third = CountingProvider()
    assert (await complete_space(store, third, force=True)).embedded == many


@pytest.mark.slow
async def test_those_who_wait_hear_who_has_the_work_and_how_far_it_is(store: SqliteStore, tmp_path: Path) -> None:
    class Slow(CountingProvider):
        async def embed_documents(self, texts: Sequence[str]) -> Embeddings:
            await anyio.sleep(0.4)
            return await super().embed_documents(texts)

    heard: list[str] = []
    await store.upsert_rules(rules(3 * PAGE_SIZE))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(complete_space, store, Slow())
        await anyio.sleep(1.5)
        left = await complete_space(store, CountingProvider(), wait=False)
        await complete_space(store, CountingProvider(), on_wait=lambda running: heard.append(str(running)))
    assert left.running is not None
    assert (left.running.pid, left.running.total) == (os.getpid(), 3 * PAGE_SIZE)
    assert 0 < left.running.done < left.running.total
    assert all(f"(process {os.getpid()}) embeds in fake/words@64: " in line for line in heard)
    assert heard


# Plans


class Remote(CountingProvider):
    is_remote = True
    price_usd_per_million = 2.0

    def least_duration_s(self, texts: int, tokens: int) -> float:
        return texts / 10


async def test_a_plan_counts_texts_tokens_money_and_time_and_asks_nobody(store: SqliteStore) -> None:
    await store.upsert_rules(rules(20))
    provider = Remote()
    report = await complete_space(store, provider, dry_run=True)
    assert (report.missing, report.seconds, provider.embedded) == (20, 2.0, [])
    assert 60 <= report.tokens <= 160
    assert report.cost_usd == pytest.approx(report.tokens * 2 / 1_000_000)
    await complete_space(store, provider)
    assert (await complete_space(store, provider, dry_run=True)).tokens == 0
    assert (await complete_space(store, provider, dry_run=True, force=True)).tokens == report.tokens


async def test_a_plan_for_this_machine_is_timed(store: SqliteStore) -> None:
    await store.upsert_rules(rules(PAGE_SIZE * 2))
    report = await complete_space(store, CountingProvider(), dry_run=True)
    assert report.tokens == 0
    assert report.seconds is not None
    assert report.seconds > 0
