from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from symmetra_mcp.calibration import UNCALIBRATED, Calibration, Calibrations, calibrate, learn
from symmetra_mcp.errors import StoreUnavailableError
from symmetra_mcp.reembed import complete_space
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import Rule

SUBJECTS = ("retry", "cache", "login", "price", "queue", "index", "token", "order", "email", "image")
DEEDS = ("log", "test", "name", "check", "document", "limit")


def rules() -> list[Rule]:
    return [
        Rule("shop", f"{deed}-{subject}", f"{deed} {subject}", f"always {deed} every {subject} before it is used")
        for subject in SUBJECTS
        for deed in DEEDS
    ]


async def filled(store: SqliteStore, provider: FakeProvider, some: list[Rule]) -> None:
    await store.upsert_rules(some)
    await complete_space(store, provider)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "data")
    await store.open()
    yield store
    await store.aclose()


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(dimensions=256)


def test_a_rule_applies_where_it_is_as_unusual_for_a_chance_as_for_a_relative() -> None:
    chance = np.random.default_rng(1).normal(0.2, 0.05, 10_000)
    related = np.random.default_rng(2).normal(0.7, 0.1, 10_000)
    learnt = learn(chance, related, 9)
    threshold = float(np.quantile(chance, 0.95)) + learnt.margin
    above_chance = (threshold - chance.mean()) / chance.std()
    below_related = (related.mean() - threshold) / related.std()
    assert above_chance == pytest.approx(below_related, rel=1e-6)
    assert learnt.related == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize(("scale", "shift"), [(0.2, 0.7), (0.5, 0.0), (0.9, 0.1)])
def test_what_is_learnt_moves_with_the_models_cosines(scale: float, shift: float) -> None:
    chance = np.random.default_rng(1).normal(0.2, 0.05, 500)
    related = np.random.default_rng(2).normal(0.7, 0.1, 500)
    one, other = learn(chance, related, 9), learn(chance * scale + shift, related * scale + shift, 9)
    assert other.margin == pytest.approx(one.margin * scale, rel=1e-6)
    assert other.related == pytest.approx(one.related * scale + shift, rel=1e-6)


def test_rules_that_have_nothing_in_common_ask_no_more_than_chance() -> None:
    chance, related = np.linspace(0.1, 0.4, 90), np.linspace(0.05, 0.3, 90)
    learnt = learn(chance, related, 9)
    assert learnt.margin == 0
    assert learnt.related >= float(np.quantile(chance, 0.95))


@pytest.mark.parametrize(
    ("similarity", "word"), [(None, "low"), (0.2, "low"), (0.4, "medium"), (0.59, "medium"), (0.6, "high")]
)
def test_a_word_says_what_a_similarity_means(similarity: float | None, word: str) -> None:
    assert Calibration(0.1, 0.6, 9).confidence(similarity, 0.4) == word


def test_nothing_is_called_sure_where_nothing_is_known() -> None:
    assert UNCALIBRATED.confidence(0.99, None) == "medium"


@pytest.mark.anyio
async def test_a_completed_space_is_calibrated_and_keeps_it(store: SqliteStore, provider: FakeProvider) -> None:
    await filled(store, provider, rules())
    learnt = await Calibrations(store).of(provider.space)
    assert learnt.texts == 60
    assert learnt.margin > 0
    assert 0 < learnt.related < 1


@pytest.mark.anyio
async def test_it_is_learnt_again_when_the_rules_are_others(store: SqliteStore, provider: FakeProvider) -> None:
    await filled(store, provider, rules()[:30])
    first = await Calibrations(store).of(provider.space)
    await filled(store, provider, rules()[:32])
    assert await Calibrations(store).of(provider.space) == first
    await filled(store, provider, rules())
    assert (await Calibrations(store).of(provider.space)).texts == 60


@pytest.mark.anyio
async def test_few_rules_teach_nothing(store: SqliteStore, provider: FakeProvider) -> None:
    await filled(store, provider, rules()[:5])
    learnt = await Calibrations(store).of(provider.space)
    assert (learnt.margin, learnt.related) == (0.0, 1.0)


@pytest.mark.anyio
async def test_a_note_that_can_not_be_read_is_none_and_learnt_anew(store: SqliteStore, provider: FakeProvider) -> None:
    await filled(store, provider, rules())
    for note in ("", "{", "[1]", '{"margin": 1}'):
        await store.set_note(f"calibration {provider.space.space_id}", note)
        assert await Calibrations(store).of(provider.space) == UNCALIBRATED
    await calibrate(store, provider.space, 60)
    assert (await Calibrations(store).of(provider.space)).texts == 60


@pytest.mark.anyio
async def test_a_store_that_is_down_leaves_what_was_known(
    store: SqliteStore, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(store, provider, rules())

    async def down(name: str) -> str:
        raise StoreUnavailableError("down")

    calibrations = Calibrations(store)
    known = await calibrations.of(provider.space)
    monkeypatch.setattr(store, "get_note", down)
    assert await calibrations.of(provider.space) == known
    assert await Calibrations(store).of(provider.space) == UNCALIBRATED
    assert await calibrations.of(None) == UNCALIBRATED
