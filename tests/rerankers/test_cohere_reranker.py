"""Cohere's re-ranking through its real SDK, on a loopback vendor: what can go wrong, and what it costs."""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopback import Fault, LoopbackVendor, relevance

from symmetra_mcp.config import load_settings
from symmetra_mcp.errors import (
    InputRefusedError,
    InvalidRankingError,
    ProviderAuthError,
    ProviderError,
    ProviderUnavailableError,
    QuotaExceededError,
    RateLimitError,
    SpendingLimitError,
)
from symmetra_mcp.metering import RerankMeter
from symmetra_mcp.rerankers import cohere as module
from symmetra_mcp.rerankers.cohere import DEFAULT_MODEL, CohereReranker
from symmetra_mcp.usage import UsageLog, UsageRow

pytestmark = pytest.mark.anyio

KEY = "Canary7Key-plugh-9876543210"
PARTS_OF_KEY = ("Canary7", "plugh", "76543210", "Q2FuYXJ5")
QUERY = "where do secrets belong"
DOCUMENTS = ["Name migrations after what they change.", "Secrets belong in a vault.", "x\ud800y", "Pin dependencies."]
SENT = [text.replace("\ud800", "\ufffd") for text in DOCUMENTS]

REFUSED_KEY = (ProviderAuthError, "refused the key", 1)
DOWN = (ProviderUnavailableError, "failed to answer", 2)
BROKEN = (ProviderUnavailableError, "can't be reached", 2)
REDIRECTED = (ProviderUnavailableError, "redirect", 2)
SILENT = (ProviderUnavailableError, "did not answer", 2)
NO_NUMBER = (InvalidRankingError, "no number", 2)
OTHERS = (InvalidRankingError, "not of the documents, each once", 2)
COUNT = (InvalidRankingError, "results for 4 documents", 2)
EXPECTED: dict[Fault, tuple[type[ProviderError], str, int]] = {
    Fault.RATE_LIMIT: (RateLimitError, "fewer requests", 2),
    Fault.SERVER_ERROR: DOWN,
    Fault.UNAVAILABLE: DOWN,
    Fault.HTML_BAD_GATEWAY: DOWN,
    Fault.QUOTA: (QuotaExceededError, "used up", 1),
    Fault.WRONG_KEY: REFUSED_KEY,
    Fault.FORBIDDEN: REFUSED_KEY,
    Fault.ECHO_KEY: (InputRefusedError, "refused a text", 1),
    Fault.REDIRECT: REDIRECTED,
    Fault.REDIRECT_FOUND: REDIRECTED,
    Fault.REDIRECT_ELSEWHERE: REDIRECTED,
    Fault.HANG: SILENT,
    Fault.STALL: SILENT,
    Fault.HALF_CLOSED: BROKEN,
    Fault.RESET: BROKEN,
    Fault.GARBAGE: (InvalidRankingError, "no JSON", 2),
    Fault.SHORT: NO_NUMBER,
    Fault.QUARTER: NO_NUMBER,
    Fault.NAN: (InvalidRankingError, "not finite", 2),
    Fault.INFINITE: (InvalidRankingError, "not finite", 2),
    Fault.DUPLICATE_INDEX: OTHERS,
    Fault.UNKNOWN_INDEX: OTHERS,
    Fault.MISSING_ROW: COUNT,
    Fault.EMPTY_DATA: COUNT,
}
"""What a lasting fault comes to, and after how many requests."""
UNTOLD = {
    Fault.ZERO: "a score may be 0",
    Fault.NOT_UNIT: "the order is the same",
    Fault.LONG: "an answer has one number a document",
    Fault.FLOAT_LISTS: "likewise",
    Fault.OTHER_MODEL: "answers do not name the model",
}
UNHURT = {Fault.SHUFFLED}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def running() -> Iterator[LoopbackVendor]:
    with LoopbackVendor(fault_retry_after_s=0.01, cohere_retry_after="both") as vendor:
        yield vendor


@pytest.fixture
def vendor(running: LoopbackVendor) -> LoopbackVendor:
    running.reset()
    return running


@pytest.fixture
def log(tmp_path: Path) -> Iterator[UsageLog]:
    log = UsageLog(tmp_path / "usage.db", clock=lambda: datetime(2026, 11, 28, tzinfo=UTC))
    yield log
    log.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.01)


@pytest.fixture
async def reranker(vendor: LoopbackVendor) -> AsyncIterator[CohereReranker]:
    reranker = CohereReranker(KEY, base_url=vendor.cohere_base_url, timeout_s=5)
    yield reranker
    await reranker.aclose()


@pytest.fixture
def everything_logged() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler, root = logging.StreamHandler(stream), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.setLevel(before)
    root.removeHandler(handler)


def metered(log: UsageLog, vendor: LoopbackVendor, model: str, **settings: Any) -> CohereReranker:
    meter = RerankMeter(log, "cohere", model, load_settings(**settings))
    return CohereReranker(KEY, model=model, base_url=vendor.cohere_base_url, timeout_s=5, meter=meter)


def test_every_fault_is_expected_to_come_to_something() -> None:
    assert set(Fault) == {*EXPECTED, *UNTOLD, *UNHURT}


async def test_scores_come_in_the_order_of_the_documents(vendor: LoopbackVendor, reranker: CohereReranker) -> None:
    scores = await reranker.rerank(QUERY, DOCUMENTS)

    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, relevance(QUERY, SENT, DEFAULT_MODEL), atol=1e-6)
    assert int(scores.argmax()) == 1
    body = vendor.stats.recent[-1].body
    assert body == {"model": DEFAULT_MODEL, "query": QUERY, "documents": SENT}


async def test_nothing_is_sent_for_no_documents(vendor: LoopbackVendor, reranker: CohereReranker) -> None:
    assert (await reranker.rerank(QUERY, [])).shape == (0,)
    assert vendor.stats.requests == 0


async def test_a_long_question_is_cut_to_what_is_read(vendor: LoopbackVendor, reranker: CohereReranker) -> None:
    await reranker.rerank("secret " * 2800, DOCUMENTS)

    assert len(vendor.stats.recent[-1].body["query"]) <= module.MAX_QUERY_TOKENS * 4 + 2


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, id=fault, marks=[pytest.mark.slow] * (EXPECTED[fault] is SILENT)) for fault in EXPECTED],
)
async def test_a_lasting_fault_is_told_and_no_key_with_it(
    vendor: LoopbackVendor, reranker: CohereReranker, fault: Fault, everything_logged: io.StringIO
) -> None:
    error, says, requests = EXPECTED[fault]
    if fault in (Fault.HANG, Fault.STALL):
        await reranker.warm_up()
        reranker.timeout_s = 4.0  # for two requests, on a busy machine too
    vendor.inject(fault, times=None)

    with pytest.raises(error, match=says) as caught:
        await reranker.rerank(QUERY, DOCUMENTS)

    assert vendor.stats.requests == requests
    shown = traceback.TracebackException.from_exception(caught.value)
    told = "".join(shown.format()) + repr(caught.value) + repr(reranker) + str(vars(caught.value))
    told += everything_logged.getvalue()
    assert [part for part in PARTS_OF_KEY if part in told] == []
    assert not any(text in str(caught.value) for text in (QUERY, *SENT))
    assert list(vendor.stats.stolen) == []


@pytest.mark.parametrize("fault", [Fault.SERVER_ERROR, Fault.RATE_LIMIT, Fault.NAN, Fault.RESET], ids=str)
async def test_a_fault_that_passes_costs_a_retry(
    vendor: LoopbackVendor, reranker: CohereReranker, fault: Fault
) -> None:
    vendor.inject(fault)

    scores = await reranker.rerank(QUERY, DOCUMENTS)

    np.testing.assert_allclose(scores, relevance(QUERY, SENT, DEFAULT_MODEL), atol=1e-6)
    assert vendor.stats.requests == 2


async def test_results_in_any_order_are_read_by_their_index(vendor: LoopbackVendor, reranker: CohereReranker) -> None:
    vendor.inject(Fault.SHUFFLED)

    scores = await reranker.rerank(QUERY, DOCUMENTS)

    np.testing.assert_allclose(scores, relevance(QUERY, SENT, DEFAULT_MODEL), atol=1e-6)


async def test_after_failures_in_a_row_it_is_left_alone_until_somebody_asks_again(
    vendor: LoopbackVendor, reranker: CohereReranker
) -> None:
    with vendor.failing(Fault.SERVER_ERROR):
        for _ in range(3):
            with pytest.raises(ProviderUnavailableError):
                await reranker.rerank(QUERY, DOCUMENTS)
        asked = vendor.stats.requests
        with pytest.raises(ProviderUnavailableError, match="asked again in"):
            await reranker.rerank(QUERY, DOCUMENTS)
        assert vendor.stats.requests == asked
    reranker.try_again()
    assert (await reranker.rerank(QUERY, DOCUMENTS)).shape == (4,)
    assert reranker.breaker.state == "closed"


async def test_a_model_that_there_is_not_names_its_setting(vendor: LoopbackVendor) -> None:
    reranker = CohereReranker(KEY, model="rerank-v9", base_url=vendor.cohere_base_url, timeout_s=5)
    with pytest.raises(InputRefusedError, match="check `SYMMETRA_RERANK_MODEL`"):
        await reranker.rerank(QUERY, DOCUMENTS)
    await reranker.aclose()


async def test_a_missing_key_is_named_and_nobody_is_asked(vendor: LoopbackVendor) -> None:
    with pytest.raises(ProviderAuthError, match="`COHERE_API_KEY` is not set"):
        await CohereReranker("", base_url=vendor.cohere_base_url).rerank(QUERY, DOCUMENTS)
    assert vendor.stats.requests == 0


@pytest.mark.parametrize(
    ("model", "price", "cost_of"),
    [(DEFAULT_MODEL, 0.02, lambda tokens: tokens * 0.02 / 1e6), ("rerank-v4.0-fast", 2.0, lambda tokens: 0.002)],
    ids=["by-tokens", "by-searches"],
)
async def test_a_request_is_counted_by_what_the_model_is_sold_by(
    log: UsageLog, vendor: LoopbackVendor, model: str, price: float, cost_of: Callable[[int], float]
) -> None:
    reranker = metered(log, vendor, model, rerank_price=price)
    await reranker.rerank(QUERY, DOCUMENTS)
    await reranker.aclose()

    (row,) = log.month_totals()
    tokens = vendor.stats.tokens if model == DEFAULT_MODEL else row.tokens  # an estimate where it bills by searches
    assert row == UsageRow("2026-11", "cohere", model, "rerank", 1, 4, tokens, pytest.approx(cost_of(tokens)), 0)


async def test_a_refused_request_is_not_counted_and_a_lost_one_is(log: UsageLog, vendor: LoopbackVendor) -> None:
    reranker = metered(log, vendor, "rerank-v4.0-fast", rerank_price=2.0)
    vendor.inject(Fault.RESET)
    await reranker.rerank(QUERY, DOCUMENTS)
    vendor.inject(Fault.WRONG_KEY)
    with pytest.raises(ProviderAuthError):
        await reranker.rerank(QUERY, DOCUMENTS)
    await reranker.aclose()
    assert vendor.stats.requests == 3
    assert (log.month_totals()[0].requests, log.spent_usd()) == (2, pytest.approx(0.004))


async def test_the_spending_limit_stops_a_search_and_needs_a_price(log: UsageLog, vendor: LoopbackVendor) -> None:
    limited = metered(log, vendor, "rerank-v4.0-fast", rerank_price=2.0, spending_limit=0.003)
    await limited.rerank(QUERY, DOCUMENTS)
    with pytest.raises(SpendingLimitError, match="SYMMETRA_RERANK=off"):
        await limited.rerank(QUERY, DOCUMENTS)
    await limited.aclose()
    for model, unit in ((DEFAULT_MODEL, "a million tokens"), ("rerank-v3.5", "1,000 searches")):
        unpriced = metered(log, vendor, model, spending_limit=1.0)
        with pytest.raises(SpendingLimitError, match=f"set `SYMMETRA_RERANK_PRICE` to its US dollars for {unit}"):
            await unpriced.rerank(QUERY, DOCUMENTS)
        await unpriced.aclose()
    assert vendor.stats.requests == 1
