from __future__ import annotations

import math

import pytest

from symmetra_mcp.providers.cohere import cohere_space
from symmetra_mcp.providers.local import SPACE
from symmetra_mcp.providers.openai import openai_space
from symmetra_mcp.providers.prices import PRICES, cost_usd, price_of
from symmetra_mcp.spaces import EmbeddingSpace


def listed(space: EmbeddingSpace, *, override: float | None = None) -> float | None:
    return price_of(space.provider, space.model, override=override, variant=space.variant)


def test_the_table_holds_the_list_prices() -> None:
    assert {key: price.usd_per_million_tokens for key, price in PRICES.items()} == {
        ("openai", "text-embedding-3-small"): 0.02,
        ("openai", "text-embedding-3-large"): 0.13,
        ("cohere", "embed-v4.0"): 0.12,
        ("cohere", "embed-v5.0-pro"): 0.12,
        ("cohere", "embed-v5.0-fast"): 0.08,
    }


def test_every_price_names_its_page_and_day() -> None:
    for price in PRICES.values():
        assert price.source.startswith("https://")
        assert price.read.year >= 2026


def test_the_default_openai_model_has_a_price() -> None:
    assert listed(openai_space()) == 0.02


def test_a_model_without_list_price_is_unknown_rather_than_free() -> None:
    assert listed(cohere_space()) is None
    assert price_of("openai", "text-embedding-9", override=None) is None


def test_the_local_model_is_free_whatever_price_is_set_for_vendors() -> None:
    assert listed(SPACE) == 0.0
    assert listed(SPACE, override=0.5) == 0.0


@pytest.mark.parametrize("space", [openai_space(), cohere_space()], ids=["listed", "unlisted"])
@pytest.mark.parametrize("override", [0.01, 0.0], ids=["cheaper", "free"])
def test_the_users_own_price_wins(space: EmbeddingSpace, override: float) -> None:
    assert listed(space, override=override) == override


def test_the_list_price_does_not_hold_for_another_server() -> None:
    elsewhere = openai_space(base_url="http://localhost:11434/v1")
    assert listed(elsewhere) is None
    assert listed(elsewhere, override=0.03) == 0.03


def test_cost_is_tokens_times_price_for_a_million() -> None:
    cost = cost_usd(10_000_000, 0.02)
    assert cost is not None
    assert math.isclose(cost, 0.20)
    assert cost_usd(0, 0.02) == 0.0
    assert cost_usd(10_000_000, 0.0) == 0.0


def test_cost_at_an_unknown_price_is_unknown() -> None:
    assert cost_usd(10, None) is None
