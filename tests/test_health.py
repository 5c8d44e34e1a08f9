from __future__ import annotations

from pathlib import Path

import anyio

from symmetra_mcp.errors import ProviderUnavailableError
from symmetra_mcp.health import check_health
from symmetra_mcp.providers.select import ProviderChoice
from symmetra_mcp.reembed import complete_space
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import HealthReport, Rule

RULE = Rule("shop", "names", "Names", "Name every constraint.")


def health_of(
    folder: Path, *, rules: bool = True, embedded: bool = True, broken: str = "", other: str = ""
) -> HealthReport:
    async def run() -> HealthReport:
        store, provider = SqliteStore(folder), FakeProvider()
        await store.open()
        if rules:
            await store.upsert_rules([RULE])
        if embedded:
            await complete_space(store, provider)
        if broken:
            provider.failure = ProviderUnavailableError(broken, provider="fake")
        report = await check_health(store, ProviderChoice(FakeProvider(other) if other else provider), thorough=True)
        await store.aclose()
        return report

    return anyio.run(run)


def test_everything_in_order_is_healthy(tmp_path: Path) -> None:
    report = health_of(tmp_path)

    assert report.status == "healthy"
    assert report.components["rules"].details["rule_count"] == 1
    assert report.components["rules"].details["projects"] == "shop (1)"
    assert report.components["rules"].details["texts_not_embedded"] == 0
    assert report.components["embedding"].details["embedding_dimensions"] == 64
    assert report.components["store"].details["kind"] == "sqlite"


def test_an_empty_store_says_how_to_fill_it(tmp_path: Path) -> None:
    report = health_of(tmp_path, rules=False)

    assert report.status == "degraded"
    assert report.components["rules"].problem == "there are no rules"
    assert "symmetra-mcp import" in report.components["rules"].next_step


def test_a_provider_that_is_down_degrades_as_words_still_answer(tmp_path: Path) -> None:
    report = health_of(tmp_path, broken="the model file is gone")

    assert report.status == "degraded"
    assert report.components["embedding"].status == "unhealthy"
    assert report.components["embedding"].problem == "the model file is gone"


def test_rules_that_are_not_embedded_are_counted(tmp_path: Path) -> None:
    report = health_of(tmp_path, embedded=False)

    assert report.components["rules"].status == "degraded"
    assert "not embedded yet" in report.components["rules"].problem


def test_rules_of_another_space_name_the_command_that_repairs_it(tmp_path: Path) -> None:
    report = health_of(tmp_path, other="another")

    assert report.status == "degraded"
    assert "fake/words@64" in report.components["embedding"].problem
    assert "symmetra-mcp reembed" in report.components["embedding"].problem
    assert "`symmetra-mcp reembed` moves every rule to fake/another@64" in report.notices[0]


def test_a_store_that_can_not_be_read_is_unhealthy(tmp_path: Path) -> None:
    async def run() -> HealthReport:
        return await check_health(SqliteStore(tmp_path), ProviderChoice(FakeProvider()))

    report = anyio.run(run)
    assert report.status == "unhealthy"
    assert "is not open" in report.components["store"].problem
