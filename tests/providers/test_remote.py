"""Packing, retries, refused texts and counting, against an API that does what a test tells it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import anyio
import cohere
import cohere.core.api_error
import cohere.errors
import httpx
import httpx2
import numpy as np
import openai
import pytest

from symmetra_mcp.errors import (
    InputRefusedError,
    InvalidEmbeddingError,
    ProviderError,
    ProviderUnavailableError,
    QuotaExceededError,
    RateLimitError,
    SpendingLimitError,
)
from symmetra_mcp.providers import cohere as cohere_module
from symmetra_mcp.providers import openai as openai_module
from symmetra_mcp.providers import remote
from symmetra_mcp.providers.remote import (
    BATCH_ATTEMPTS,
    BATCH_TEXTS,
    BATCH_TOKENS,
    QUERY_ATTEMPTS,
    RemoteProvider,
    Reply,
    VendorApi,
    VendorLimits,
)
from symmetra_mcp.spaces import EmbeddingSpace
from symmetra_mcp.tokens import estimate_model_tokens
from symmetra_mcp.types import InputType

pytestmark = pytest.mark.anyio

SPACE = EmbeddingSpace("vendor", "m", 4)
LIMITS = VendorLimits(texts=10_000, input_tokens=100, request_tokens=100_000)
DOWN = ProviderUnavailableError("vendor is down", provider="vendor")
Answer = Callable[[Sequence[str]], ProviderError | None]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_BACKOFF_S", 0.0)
    monkeypatch.setattr("symmetra_mcp.providers.breaker.FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("symmetra_mcp.providers.breaker.LONGEST_PAUSE_S", 0.002)


def vector(text: str) -> np.ndarray:
    numbers = np.random.default_rng(sum(text.encode("utf-8", "replace"))).standard_normal(4)
    return np.asarray(numbers / np.linalg.norm(numbers), np.float32)


class Api(VendorApi):
    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[tuple[list[str], InputType, float]] = []
        self.closed = 0

    async def request(self, texts: Sequence[str], input_type: InputType, timeout_s: float) -> Reply:
        self.requests.append((list(texts), input_type, timeout_s))
        await anyio.lowlevel.checkpoint()
        error = self.answer(texts)
        if error is not None:
            raise error
        return Reply(np.stack([vector(text) for text in texts]), tokens=10 * len(texts))

    async def aclose(self) -> None:
        self.closed += 1


class Meter:
    price_usd_per_million = 1.0

    def __init__(self, refuse_after: int = 10**9) -> None:
        self.told: list[str] = []
        self.refuse_after = refuse_after

    async def reserve(self, input_type: InputType, texts: int, tokens: int) -> Any:
        if len(self.told) >= self.refuse_after:
            raise SpendingLimitError("limit", provider="vendor", spent_usd=1, limit_usd=1)
        self.told.append(f"reserve {input_type} {texts}")
        return len(self.told)

    async def settle(self, reservation: Any, tokens: int) -> None:
        self.told.append(f"settle {tokens}")

    async def cancel(self, reservation: Any) -> None:
        self.told.append("cancel")


class Provider(RemoteProvider):
    def __init__(self, answer: Answer = lambda texts: None, **options: Any) -> None:
        super().__init__(options.pop("space", SPACE), options.pop("limits", LIMITS), random=Random(1), **options)
        self.api = Api(answer)

    async def _open_api(self) -> VendorApi:
        return self.api


def failing(times: int, error: ProviderError = DOWN) -> Answer:
    left = [times]

    def answer(texts: Sequence[str]) -> ProviderError | None:
        left[0] -= 1
        return error if left[0] >= 0 else None

    return answer


async def test_texts_are_packed_and_come_back_in_order() -> None:
    provider = Provider()
    texts = [f"text {number}" for number in range(1000)]
    embeddings = await provider.embed_documents(texts)
    np.testing.assert_allclose(embeddings.vectors, np.stack([vector(text) for text in texts]), atol=1e-6)
    assert [len(texts) for texts, _, _ in provider.api.requests] == [BATCH_TEXTS] * 3 + [1000 - 3 * BATCH_TEXTS]
    assert embeddings.tokens == 10_000


async def test_no_request_passes_the_vendors_limits() -> None:
    provider = Provider(limits=VendorLimits(texts=7, input_tokens=100, request_tokens=100))
    await provider.embed_documents([f"word {number} " * 5 for number in range(40)])
    sizes = [len(texts) for texts, _, _ in provider.api.requests]
    assert max(sizes) <= 7
    assert all(provider._estimate(texts) <= 90 or len(texts) == 1 for texts, _, _ in provider.api.requests)
    assert sum(sizes) == 40


async def test_requests_are_filled_before_the_next_is_begun() -> None:
    provider = Provider(limits=VendorLimits(texts=10_000, input_tokens=10_000, request_tokens=100_000))
    texts = [f"{number} " + "word " * 1000 for number in range(120)]
    await provider.embed_documents(texts)
    tokens = sum(map(estimate_model_tokens, texts))
    assert tokens > 3 * BATCH_TOKENS
    assert len(provider.api.requests) <= tokens / BATCH_TOKENS * 1.1 + 1


async def test_one_text_of_a_call_is_somebodys_question_and_has_seconds() -> None:
    provider = Provider(query_timeout_s=2.0)
    await provider.embed_query("question")
    await provider.embed_documents(["document"])
    assert [(side, timeout_s <= 2.0) for _, side, timeout_s in provider.api.requests] == [
        ("query", True),
        ("document", True),
    ]


@pytest.mark.parametrize("size", [1, 5])
async def test_a_failure_that_passes_is_tried_again(size: int) -> None:
    provider = Provider(failing(1))
    assert len((await provider.embed_documents(["text"] * size)).vectors) == size
    assert len(provider.api.requests) == 2


@pytest.mark.slow
async def test_tries_have_an_end() -> None:
    provider = Provider(failing(10**9))
    with pytest.raises(ProviderUnavailableError):
        await provider.embed_query("text")
    assert len(provider.api.requests) == QUERY_ATTEMPTS
    provider = Provider(failing(10**9))
    with pytest.raises(ProviderUnavailableError):
        await provider.embed_documents(["a", "b"])
    assert len(provider.api.requests) == BATCH_ATTEMPTS


async def test_an_answer_that_is_no_embedding_is_asked_for_once_more() -> None:
    provider = Provider(failing(10**9, InvalidEmbeddingError("nonsense", provider="vendor")))
    with pytest.raises(InvalidEmbeddingError):
        await provider.embed_documents(["a", "b"])
    assert len(provider.api.requests) == 2


@pytest.mark.parametrize("wait_s", [86_400.0, 121.0])
async def test_a_vendor_that_asks_for_a_long_pause_is_told_and_not_waited_for(wait_s: float) -> None:
    error = RateLimitError("slow down", provider="vendor", retry_after_s=wait_s)
    provider = Provider(failing(10**9, error))
    with pytest.raises(RateLimitError) as caught:
        await provider.embed_documents(["a", "b"])
    assert (len(provider.api.requests), caught.value.retry_after_s) == (1, wait_s)


async def test_a_query_does_not_wait_longer_than_it_has() -> None:
    provider = Provider(failing(1, RateLimitError("slow down", provider="vendor", retry_after_s=60)))
    with pytest.raises(RateLimitError):
        await provider.embed_query("text")
    assert len(provider.api.requests) == 1


async def test_retries_are_a_tenth_of_the_requests_at_most() -> None:
    turn = [0]

    def every_other(texts: Sequence[str]) -> ProviderError | None:
        turn[0] += 1
        return DOWN if turn[0] % 2 else None

    provider = Provider(every_other)
    answered = 0
    for number in range(100):
        try:
            await provider.embed_query(f"text {number}")
            answered += 1
        except ProviderUnavailableError:
            provider.try_again()
    assert len(provider.api.requests) <= 100 + remote.RETRY_ALLOWANCE + 100 * remote.RETRIES_PER_SUCCESS + 1
    assert answered > 10


async def test_batches_outlast_an_outage_that_answers_of_earlier_requests_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = [0]

    def every_other(texts: Sequence[str]) -> ProviderError | None:
        turn[0] += 1
        return DOWN if turn[0] % 2 else None

    provider = Provider(every_other)
    monkeypatch.setattr(provider, "_pause_s", lambda error, attempt: 0.0)
    monkeypatch.setattr(remote, "OUT_OF_RETRIES_PAUSE_S", 0.01)
    for number in range(int(remote.RETRY_ALLOWANCE) * 3):
        await provider.embed_documents([f"text {number}", "another"])
    assert provider.breaker.state == "closed"


async def test_a_provider_that_is_down_is_left_alone() -> None:
    provider = Provider(failing(10**9))
    with pytest.raises(ProviderUnavailableError):
        await provider.embed_query("one")
    provider.breaker._pause_s = 60.0
    with pytest.raises(ProviderUnavailableError):
        await provider.embed_query("two")
    asked = len(provider.api.requests)
    for _ in range(10):
        with pytest.raises(ProviderUnavailableError, match=r"vendor is down \(asked again in \d+ s\)"):
            await provider.embed_query("three")
    assert len(provider.api.requests) == asked


def refusing(*bad: str, about: Any = "text") -> Answer:
    def answer(texts: Sequence[str]) -> ProviderError | None:
        if any(word in text for word in bad for text in texts):
            return InputRefusedError("vendor refused a text", provider="vendor", about=about)
        return None

    return answer


async def test_a_refused_text_is_found_among_many() -> None:
    provider = Provider(refusing("poison"))
    texts = [f"text {number}" for number in range(300)]
    texts[271] = "poison"
    with pytest.raises(InputRefusedError, match=r"text 272 of the call") as caught:
        await provider.embed_documents(texts)
    assert caught.value.index == 271
    assert "poison" not in str(caught.value)


async def test_a_request_refused_as_a_whole_is_not_taken_apart() -> None:
    provider = Provider(refusing("text", about="request"))
    with pytest.raises(InputRefusedError):
        await provider.embed_documents(["text"] * 50)
    assert len(provider.api.requests) == 1


@pytest.mark.parametrize("size", [1, 3])
async def test_a_text_that_is_refused_as_too_long_is_embedded_as_its_head(size: int) -> None:
    def answer(texts: Sequence[str]) -> ProviderError | None:
        if max(map(len, texts)) > 200:
            return InputRefusedError("too long", provider="vendor", about="length")
        return None

    provider = Provider(answer, limits=VendorLimits(texts=10, input_tokens=10_000, request_tokens=100_000))
    await provider.embed_documents(["word " * 200] * size)
    assert 100 < len(provider.api.requests[-1][0][-1]) <= 200


async def test_a_text_longer_than_the_model_reads_is_sent_as_its_head() -> None:
    provider = Provider()
    await provider.embed_query("word " * 5000)
    (sent,) = provider.api.requests[0][0]
    assert "word " * 80 in sent
    assert len(sent) < 1000


@pytest.mark.parametrize(
    ("vectors", "problem"),
    [
        pytest.param(np.full((1, 4), np.nan, np.float32), "not finite", id="nan"),
        pytest.param(np.zeros((1, 4), np.float32), "zero vector", id="zero"),
        pytest.param(np.ones((1, 4), np.float32), "length 2", id="not-unit"),
        pytest.param(np.ones((1, 3), np.float32), "shape", id="short"),
        pytest.param(np.ones((2, 4), np.float32) / 2, "shape", id="too-many"),
    ],
)
async def test_what_is_no_embedding_is_refused(
    vectors: np.ndarray, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Provider()

    async def request(*_: Any) -> Reply:
        return Reply(vectors)

    monkeypatch.setattr(provider.api, "request", request)
    with pytest.raises(InvalidEmbeddingError, match=problem):
        await provider.embed_query("text")


async def test_vectors_of_a_server_that_promises_no_length_are_normalized(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Provider(exact_unit_length=False)

    async def request(*_: Any) -> Reply:
        return Reply(np.array([[3, 0, 4, 0]], np.float32))

    monkeypatch.setattr(provider.api, "request", request)
    np.testing.assert_allclose((await provider.embed_query("text")).vectors, [[0.6, 0, 0.8, 0]])


async def test_requests_are_counted_before_they_are_sent_and_corrected_after() -> None:
    meter = Meter()
    await Provider(meter=meter).embed_documents(["a", "b"])
    assert meter.told == ["reserve document 2", "settle 20"]


async def test_a_refused_request_costs_nothing_and_a_lost_one_may_have() -> None:
    meter = Meter()
    with pytest.raises(QuotaExceededError):
        await Provider(failing(1, QuotaExceededError("empty", provider="vendor")), meter=meter).embed_query("a")
    assert meter.told == ["reserve query 1", "cancel"]
    meter = Meter()
    await Provider(failing(1), meter=meter).embed_query("a")
    assert meter.told == ["reserve query 1", "reserve query 1", "settle 10"]


async def test_a_spending_limit_stops_a_run_and_nothing_more_is_sent() -> None:
    provider = Provider(meter=Meter(refuse_after=1), limits=VendorLimits(texts=1, input_tokens=100, request_tokens=100))
    with pytest.raises(SpendingLimitError):
        await provider.embed_documents([f"text {number}" for number in range(100)])
    assert len(provider.api.requests) <= 1


async def test_a_closed_provider_opens_again() -> None:
    provider = Provider()
    await provider.embed_query("a")
    await provider.aclose()
    await provider.aclose()
    await provider.embed_query("a")
    assert provider.api.closed == 1


# The SDKs' errors: each has one of ours, and none slips through as the SDK's own


def kinds_of(error: type[Exception]) -> list[type[Exception]]:
    return [error, *(each for kind in error.__subclasses__() for each in kinds_of(kind))]


def of_openai() -> list[Exception]:
    request = httpx2.Request(
        "POST", "https://api.openai.com/v1/embeddings", headers={"Authorization": "Bearer sk-Canary"}
    )
    made: list[Exception] = [
        openai.APITimeoutError(request),
        openai.APIConnectionError(request=request),
        openai.APIResponseValidationError(httpx2.Response(200, request=request), None),
        openai.OpenAIError("sk-Canary"),
        ValueError("sk-Canary"),
        RuntimeError("sk-Canary"),
        UnicodeEncodeError("ascii", "sk-Canaryä", 0, 1, "no"),
    ]
    for status in (301, 400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529):
        response = httpx2.Response(status, request=request, json={"error": {"message": "sk-Canary"}})
        made.append(openai.AsyncOpenAI(api_key="k")._make_status_error_from_response(response))
    kinds = {type(error) for error in made}
    known = kinds_of(openai.APIError)
    missing = [each for each in known if not any(issubclass(kind, each) for kind in kinds)]
    assert all("Webhook" in each.__name__ or "OAuth" in each.__name__ for each in missing), missing
    return made


def of_cohere() -> list[Exception]:
    made: list[Exception] = [
        httpx.ConnectError("Canary"),
        httpx.ReadTimeout("Canary"),
        httpx.RemoteProtocolError("Canary"),
        httpx.LocalProtocolError("Illegal header value b'Bearer Canary'"),
        ValueError("Canary"),
        RuntimeError("Canary"),
    ]
    made += [
        cohere.core.api_error.ApiError(status_code=status, headers={"x": "Canary"}, body={"message": "Canary"})
        for status in (200, 302, 400, 401, 402, 403, 404, 408, 413, 422, 429, 498, 499, 500, 501, 502, 503, 504, None)
    ]
    for name in cohere.errors.__all__:
        made.append(getattr(cohere.errors, name)(body="Canary"))
    return made


@pytest.mark.parametrize("error", of_openai(), ids=repr)
def test_every_error_of_openais_sdk_is_one_of_ours(error: Exception) -> None:
    mapped = openai_module._mapped(error, SPACE)
    assert isinstance(mapped, ProviderError)
    assert "Canary" not in str(mapped)


@pytest.mark.parametrize("error", of_cohere(), ids=lambda error: type(error).__name__)
def test_every_error_of_coheres_sdk_is_one_of_ours(error: Exception) -> None:
    mapped = cohere_module._mapped(error, SPACE)
    assert isinstance(mapped, ProviderError)
    assert "Canary" not in str(mapped)
