"""What vendors ask for embeddings: one dated table of list prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType

LOCAL_PROVIDERS = frozenset({"local"})
"""Providers that compute on this machine, so that nobody sends a bill."""

_OPENAI = "https://developers.openai.com/api/docs/models/"
_COHERE = "https://cohere.com/pricing"
_READ = date(2026, 11, 22)


@dataclass(frozen=True, slots=True)
class Price:
    """A list price.

    Attributes:
        usd_per_million_tokens: US dollars for a million tokens of input, without discounts for batches.
        source: The page that names it.
        read: When that page was read.
    """

    usd_per_million_tokens: float
    source: str
    read: date


PRICES: Mapping[tuple[str, str], Price] = MappingProxyType(
    {
        ("openai", "text-embedding-3-small"): Price(0.02, f"{_OPENAI}text-embedding-3-small", _READ),
        ("openai", "text-embedding-3-large"): Price(0.13, f"{_OPENAI}text-embedding-3-large", _READ),
        ("cohere", "embed-v4.0"): Price(0.12, _COHERE, _READ),
        ("cohere", "embed-v5.0-pro"): Price(0.12, _COHERE, _READ),
        ("cohere", "embed-v5.0-fast"): Price(0.08, _COHERE, _READ),
    }
)
"""Prices by provider and model. Cohere's v3 models are sold without a list price, so they are not here."""


def price_of(provider: str, model: str, *, override: float | None, variant: str = "") -> float | None:
    """What a million tokens cost.

    Args:
        provider: The vendor's name, such as `openai`.
        model: The vendor's id of the model.
        override: The user's own price in US dollars for a million tokens, which wins over the list price.
        variant: The variant of the embedding space. Where it names another server than the vendor's own, the list
            price does not hold.

    Returns:
        US dollars for a million tokens: 0 for a local model, `None` where no price is known.
    """
    if provider in LOCAL_PROVIDERS:
        return 0.0
    if override is not None:
        return override
    price = None if variant else PRICES.get((provider, model))
    return None if price is None else price.usd_per_million_tokens


def cost_usd(tokens: int, price: float | None) -> float | None:
    """What so many tokens cost in US dollars, or `None` where the price is not known.

    Args:
        tokens: Tokens of input.
        price: US dollars for a million of them.
    """
    return None if price is None else tokens * price / 1_000_000
