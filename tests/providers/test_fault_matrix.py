"""Everything a vendor can do wrong, through the real SDKs: what the caller hears, and that nothing wrong comes back."""

from __future__ import annotations

import asyncio
import io
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from loopback import Fault, LoopbackVendor, expected_vector

from symmetra_mcp.errors import (
    InputRefusedError,
    InvalidEmbeddingError,
    ProviderAuthError,
    ProviderError,
    ProviderUnavailableError,
    QuotaExceededError,
    RateLimitError,
)
from symmetra_mcp.providers import remote
from symmetra_mcp.providers.cohere import CohereProvider
from symmetra_mcp.providers.openai import OpenAIProvider
from symmetra_mcp.providers.remote import RemoteProvider

KEYS = {"openai": "sk-Canary7Key-xyzzy-9876543210", "cohere": "Canary7Key-plugh-9876543210"}
PARTS_OF_KEYS = ("Canary7", "xyzzy", "plugh", "76543210", "Q2FuYXJ5")
TEXTS = [f"Rule {number}: store every secret number {number} outside the code." for number in range(300)]

SIZES = ["query", pytest.param("batch", marks=pytest.mark.slow)]

MAKERS: dict[str, Callable[[LoopbackVendor], RemoteProvider]] = {
    "openai": lambda vendor: OpenAIProvider(KEYS["openai"], base_url=vendor.openai_base_url, query_timeout_s=2.0),
    "cohere": lambda vendor: CohereProvider(
        KEYS["cohere"], base_url=vendor.cohere_base_url, query_timeout_s=2.0, inputs_per_minute=1e6
    ),
}


def each(faults: Iterable[Fault]) -> list[Any]:
    """Parameters of a test; those that wait for an answer that doesn't come are slow."""
    slow = {Fault.HANG, Fault.STALL, Fault.RATE_LIMIT}
    return [pytest.param(fault, id=str(fault), marks=[pytest.mark.slow] * (fault in slow)) for fault in faults]


@dataclass(frozen=True)
class Expected:
    """What a lasting fault comes to; `None` where the right vectors come all the same."""

    error: type[ProviderError] | None
    says: str = ""
    retried: bool = True


REFUSED_KEY = Expected(ProviderAuthError, "refused the key", retried=False)
DOWN = Expected(ProviderUnavailableError, "failed to answer")
BROKEN = Expected(ProviderUnavailableError, "can't be reached")
SILENT = Expected(ProviderUnavailableError, "did not answer")
NO_JSON = Expected(InvalidEmbeddingError, "no JSON|no list of embeddings")
WRONG_LENGTH = Expected(InvalidEmbeddingError, "numbers where 384 were asked for")
REDIRECTED = Expected(ProviderUnavailableError, "redirect")
FINE = Expected(None)

EXPECTED: dict[Fault, Expected] = {
    Fault.RATE_LIMIT: Expected(RateLimitError, "fewer requests"),
    Fault.SERVER_ERROR: DOWN,
    Fault.UNAVAILABLE: DOWN,
    Fault.HTML_BAD_GATEWAY: DOWN,
    Fault.QUOTA: Expected(QuotaExceededError, "used up", retried=False),
    Fault.WRONG_KEY: REFUSED_KEY,
    Fault.FORBIDDEN: REFUSED_KEY,
    Fault.ECHO_KEY: Expected(InputRefusedError, "refused a text", retried=False),
    Fault.REDIRECT: REDIRECTED,
    Fault.REDIRECT_FOUND: REDIRECTED,
    Fault.REDIRECT_ELSEWHERE: REDIRECTED,
    Fault.HANG: SILENT,
    Fault.STALL: SILENT,
    Fault.HALF_CLOSED: BROKEN,
    Fault.RESET: BROKEN,
    Fault.GARBAGE: NO_JSON,
    Fault.SHORT: WRONG_LENGTH,
    Fault.LONG: WRONG_LENGTH,
    Fault.NAN: Expected(InvalidEmbeddingError, "not finite"),
    Fault.INFINITE: Expected(InvalidEmbeddingError, "not finite"),
    Fault.ZERO: Expected(InvalidEmbeddingError, "zero vector"),
    Fault.NOT_UNIT: Expected(InvalidEmbeddingError, "length 3"),
    Fault.SHUFFLED: FINE,
    Fault.DUPLICATE_INDEX: Expected(InvalidEmbeddingError, "embeddings for|in no order"),
    Fault.UNKNOWN_INDEX: Expected(InvalidEmbeddingError, "in no order|no list of embeddings"),
    Fault.MISSING_ROW: Expected(InvalidEmbeddingError, "embeddings"),
    Fault.EMPTY_DATA: Expected(InvalidEmbeddingError, "embeddings"),
    Fault.OTHER_MODEL: Expected(InvalidEmbeddingError, "another model"),
    Fault.FLOAT_LISTS: FINE,
    Fault.QUARTER: Expected(InvalidEmbeddingError, "numbers where 384 were asked for|no vector"),
}
"""For OpenAI; `expected_of` says where Cohere's wire format differs."""

UNTOLD_BY_COHERE = {
    Fault.SHUFFLED: "its answers carry no index: the order of the vectors is the vendor's word",
    Fault.DUPLICATE_INDEX: "the same",
    Fault.UNKNOWN_INDEX: "the same",
    Fault.OTHER_MODEL: "its answers do not name the model",
}
UNTOLD_OF_ONE_TEXT = {Fault.UNKNOWN_INDEX, Fault.OTHER_MODEL}


def expected_of(vendor_name: str, fault: Fault, size: str) -> Expected:
    if fault is Fault.DUPLICATE_INDEX and size == "query":
        return EXPECTED[fault]  # two rows for one text
    return EXPECTED[fault]


@pytest.fixture(scope="module")
def vendor() -> Iterator[LoopbackVendor]:
    with LoopbackVendor() as vendor:
        yield vendor


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, vendor: LoopbackVendor) -> Iterator[None]:
    """Pauses and patience of a batch, shortened: what is tested is what happens, not how long it takes."""
    monkeypatch.setattr(remote, "BATCH_TIMEOUT_S", 0.5)
    monkeypatch.setattr(remote, "BATCH_ATTEMPTS", 3)
    monkeypatch.setattr(remote, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr("symmetra_mcp.providers.breaker.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("symmetra_mcp.providers.breaker.LONGEST_PAUSE_S", 0.02)
    vendor.reset()
    yield
    vendor.clear_faults()


@pytest.fixture
def everything_logged() -> Iterator[io.StringIO]:
    """Every log record of every library at its most talkative."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.setLevel(before)
    root.removeHandler(handler)


def embed(provider: RemoteProvider, size: str) -> np.ndarray:
    async def run() -> np.ndarray:
        try:
            if size == "query":
                return (await provider.embed_query(TEXTS[0])).vectors
            return (await provider.embed_documents(TEXTS)).vectors
        finally:
            await provider.aclose()

    return asyncio.run(run())


def right(provider: RemoteProvider, size: str) -> np.ndarray:
    texts = TEXTS[:1] if size == "query" else TEXTS
    side = ("search_query" if size == "query" else "search_document") if provider.space.provider == "cohere" else None
    return np.stack([expected_vector(text, provider.space.model, provider.space.dimensions, side) for text in texts])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fault", each(Fault))
@pytest.mark.parametrize("name", list(MAKERS))
def test_a_lasting_fault_is_told_and_nothing_wrong_is_returned(
    vendor: LoopbackVendor, name: str, fault: Fault, size: str, everything_logged: io.StringIO
) -> None:
    if name == "cohere" and fault in UNTOLD_BY_COHERE and size == "batch":
        pytest.skip(UNTOLD_BY_COHERE[fault])
    provider, expected = MAKERS[name](vendor), expected_of(name, fault, size)
    if name == "cohere" and fault in UNTOLD_OF_ONE_TEXT:
        pytest.skip(UNTOLD_BY_COHERE[fault])
    vendor.inject(fault, times=None)
    if expected.error is None:
        np.testing.assert_allclose(embed(provider, size), right(provider, size), atol=1e-5)
        return
    with pytest.raises(expected.error, match=expected.says) as caught:
        embed(provider, size)
    requests = vendor.stats.requests
    assert requests > 1 or not expected.retried
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=False)
    told = "".join(shown.format()) + repr(caught.value) + repr(provider) + str(vars(caught.value))
    told += everything_logged.getvalue()
    assert [part for part in PARTS_OF_KEYS if part in told] == []
    assert all(text not in str(caught.value) for text in TEXTS)
    assert list(vendor.stats.stolen) == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fault", each(fault for fault, expected in EXPECTED.items() if expected.retried))
@pytest.mark.parametrize("name", list(MAKERS))
def test_a_fault_that_passes_costs_a_retry_and_the_vectors_are_right(
    vendor: LoopbackVendor, name: str, fault: Fault, size: str
) -> None:
    if name == "cohere" and fault in UNTOLD_BY_COHERE and (size == "batch" or fault in UNTOLD_OF_ONE_TEXT):
        pytest.skip(UNTOLD_BY_COHERE[fault])
    provider = MAKERS[name](vendor)
    if fault in (Fault.HANG, Fault.STALL) and size == "query":
        provider._usual_s = provider._deviation_s = 0.0  # answers were quick so far: a second try has time
        provider._query_timeout_s = 3.0
    vendor.inject(fault, times=1)
    np.testing.assert_allclose(embed(provider, size), right(provider, size), atol=1e-5)


@pytest.mark.parametrize("fault", [Fault.SHUFFLED, Fault.FLOAT_LISTS], ids=str)
def test_rows_of_a_batch_are_read_by_their_index_and_in_either_form(vendor: LoopbackVendor, fault: Fault) -> None:
    provider = MAKERS["openai"](vendor)
    vendor.inject(fault, times=None)
    np.testing.assert_allclose(embed(provider, "batch"), right(provider, "batch"), atol=1e-5)


@pytest.mark.parametrize("name", list(MAKERS))
@pytest.mark.parametrize("size", SIZES)
def test_a_vendor_that_is_gone_is_told(vendor: LoopbackVendor, name: str, size: str) -> None:
    provider = MAKERS[name](vendor)
    vendor.down = True
    try:
        with pytest.raises(ProviderUnavailableError, match="can't be reached"):
            embed(provider, size)
    finally:
        vendor.down = False
    np.testing.assert_allclose(embed(MAKERS[name](vendor), size), right(provider, size), atol=1e-5)


@pytest.mark.parametrize("fault", [Fault.QUOTA, Fault.WRONG_KEY, Fault.FORBIDDEN], ids=str)
@pytest.mark.parametrize("name", list(MAKERS))
def test_what_no_retry_helps_is_asked_once(vendor: LoopbackVendor, name: str, fault: Fault) -> None:
    provider = MAKERS[name](vendor)
    vendor.inject(fault, times=None)
    with pytest.raises(ProviderError):
        embed(provider, "query")
    assert vendor.stats.requests == 1
    with pytest.raises(ProviderError, match="asked again in"):
        embed(provider, "query")
    assert vendor.stats.requests == 1
    vendor.clear_faults()
    provider.try_again()
    np.testing.assert_allclose(embed(provider, "query"), right(provider, "query"), atol=1e-5)
