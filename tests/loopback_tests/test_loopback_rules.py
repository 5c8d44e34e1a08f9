"""What the vendor refuses by the rules of the real ones: keys, bodies, limits."""

from __future__ import annotations

import math
from email.utils import parsedate_to_datetime
from typing import Any

import cohere
import openai
import pytest
from loopback import Fault, LoopbackVendor
from loopback.limits import TokenBucket, duration

from loopback_tests.conftest import KEY, Post

SMALL = "text-embedding-3-small"
LIGHT = "embed-english-light-v3.0"
INVALID = "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference."
LIMIT_HEADERS = {
    f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset") for kind in ("requests", "tokens")
}


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("change", "status", "code", "message"),
    [
        ({"input": []}, 400, None, INVALID),
        ({"input": ["a", ""]}, 400, None, INVALID),
        ({"input": ""}, 400, None, INVALID),
        ({"input": None}, 400, None, INVALID),
        ({"input": ["a"] * 2049}, 400, None, INVALID),
        (
            {"input": ["a", "b" * 32_769]},
            400,
            None,
            "This model's maximum context length is 8192 tokens, however you requested 8193 tokens (8193 in your "
            "prompt; 0 for the completion). Please reduce your prompt; or completion length.",
        ),
        (
            {"input": ["b" * 4_000] * 301},
            400,
            "max_tokens_per_request",
            "Requested 301000 tokens, max 300000 tokens per request",
        ),
        ({"dimensions": 1537}, 400, None, "less than or equal to 1536"),
        ({"dimensions": 0}, 400, None, "0 is less than the minimum of 1 - 'dimensions'"),
        ({"dimensions": 1.5}, 400, None, "1.5 is not of type 'integer' - 'dimensions'"),
        (
            {"model": "text-embedding-ada-002", "dimensions": 384},
            400,
            None,
            "This model does not support specifying dimensions.",
        ),
        ({"encoding_format": "hex"}, 400, None, "'hex' is not one of ['base64', 'float'] - 'encoding_format'"),
        ({"truncate": "END"}, 400, None, "Unrecognized request argument supplied: truncate"),
        (
            {"model": LIGHT},
            404,
            "model_not_found",
            f"The model `{LIGHT}` does not exist or you do not have access to it.",
        ),
    ],
    ids=[
        "none",
        "empty-text",
        "empty-string",
        "null",
        "too-many",
        "too-long",
        "too-much",
        "dimensions-above",
        "dimensions-0",
        "dimensions-fraction",
        "dimensions-fixed",
        "encoding",
        "field",
        "model",
    ],
)
def test_openai_refuses(post: Post, change: dict[str, Any], status: int, code: str | None, message: str) -> None:
    answer = post("/v1/embeddings", {"model": SMALL, "input": ["a"], **change})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], set(error)) == (status, code, {"message", "type", "param", "code"})
    assert message in error["message"]


def test_openai_takes_the_most_that_it_says(post: Post) -> None:
    for texts in (["a"] * 2048, ["b" * 32_768], ["b" * 4_000] * 300):
        assert post("/v1/embeddings", {"model": SMALL, "input": texts, "dimensions": 1}).status_code == 200


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"texts": []}, 400, "invalid request: texts must be provided"),
        (
            {"texts": ["a"] * 97},
            400,
            "invalid request: total number of texts must be at most 96 - received 97",
        ),
        (
            {"input_type": None},
            400,
            "invalid request: valid input_type must be provided with the provided model",
        ),
        ({"embedding_types": ["float16"]}, 400, "embedding_types"),
        ({"truncate": "MIDDLE"}, 400, "truncate"),
        ({"truncate": "NONE", "texts": ["b" * 2_049]}, 400, "too many tokens"),
        ({"output_dimension": 256}, 400, "output_dimension"),
        ({"model": "embed-v4.0", "output_dimension": 384}, 400, "output_dimension"),
        ({"model": SMALL}, 404, f"model '{SMALL}' not found"),
    ],
    ids=["none", "too-many", "no-side", "type", "truncate", "too-long", "fixed", "not-offered", "model"],
)
def test_cohere_refuses(post: Post, change: dict[str, Any], status: int, message: str) -> None:
    body = {"model": LIGHT, "texts": ["a"], "input_type": "search_query", "embedding_types": ["base64"], **change}
    answer = post("/v2/embed", body)
    assert (answer.status_code, set(answer.json())) == (status, {"id", "message"})
    assert message in answer.json()["message"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v2/embed"])
@pytest.mark.parametrize("body", [["a"], "a"], ids=["list", "string"])
def test_a_body_that_is_no_object_is_refused(post: Post, path: str, body: object) -> None:
    assert post(path, body).status_code == 400


def test_half_a_surrogate_pair_is_refused(post: Post) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/embeddings": {"model": SMALL, "input": ["\ud83d"]},
        "/v2/embed": {"model": LIGHT, "texts": ["\ud83d"], "input_type": "search_query"},
    }
    assert [post(path, body).status_code for path, body in bodies.items()] == [400, 400]


def test_openai_s_401_repeats_ends_of_the_key(vendor: LoopbackVendor, openai_client: openai.OpenAI) -> None:
    vendor.configure(keys=["sk-another"])
    for call in (openai_client.models.list, lambda: openai_client.embeddings.create(model=SMALL, input="a")):
        with pytest.raises(openai.AuthenticationError) as caught:
            call()
        assert caught.value.code == "invalid_api_key"
        assert f"{KEY[:8]}{'*' * (len(KEY) - 12)}{KEY[-4:]}." in str(caught.value)


def test_cohere_s_401_says_no_more_than_that(vendor: LoopbackVendor, cohere_client: cohere.ClientV2) -> None:
    vendor.configure(keys=["another"])
    with pytest.raises(cohere.UnauthorizedError) as caught:
        cohere_client.embed(model=LIGHT, input_type="search_query", texts=["a"], embedding_types=["float"])
    assert caught.value.body == {"message": "invalid api token"}


def test_a_missing_key_is_refused(post: Post) -> None:
    openais = post("/v1/embeddings", {"model": SMALL, "input": "a"}, authorization="")
    coheres = post("/v2/embed", {"model": LIGHT, "texts": ["a"], "input_type": "search_query"}, authorization="")
    assert (openais.status_code, coheres.status_code) == (401, 401)
    assert openais.json()["error"]["message"].startswith("You didn't provide an API key.")
    assert coheres.json() == {"message": "no api key supplied"}


# Limits


def test_a_bucket_takes_what_it_holds_and_fills_all_the_time() -> None:
    clock = Clock()
    bucket = TokenBucket(600, capacity_s=60, clock=clock)
    assert (bucket.wait_s(600), bucket.wait_s(601)) == (0, math.inf)
    bucket.take(600)
    assert (bucket.wait_s(5), bucket.full_in_s) == (0.5, 60)
    clock.now_s += 0.5
    assert (bucket.wait_s(5), bucket.wait_s(6)) == (0, pytest.approx(0.1))
    clock.now_s += 1000
    assert bucket.level == 600


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.006, "6ms"),
        (0.0061, "7ms"),
        (1, "1s"),
        (8.64, "8.64s"),
        (86.4, "1m26.4s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def clocked(**settings: Any) -> tuple[Clock, LoopbackVendor]:
    clock = Clock()
    return clock, LoopbackVendor(clock=clock, **settings)


def openai_call(client: openai.OpenAI, vendor: LoopbackVendor, text: str) -> Any:
    at_vendor = client.with_options(base_url=vendor.openai_base_url)
    return at_vendor.embeddings.with_raw_response.create(model=SMALL, input=text, dimensions=8)


def test_openai_s_headers_tell_what_is_left(openai_of_all: openai.OpenAI) -> None:
    _, limited = clocked(openai_tokens_per_minute=60_000)
    with limited as vendor:
        headers = openai_call(openai_of_all, vendor, "b" * 400).headers
    assert {name: headers[name] for name in LIMIT_HEADERS} == {
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-reset-requests": "6ms",
        "x-ratelimit-limit-tokens": "60000",
        "x-ratelimit-remaining-tokens": "59900",
        "x-ratelimit-reset-tokens": "100ms",
    }


def test_requests_a_minute_are_limited_and_refusals_cost_nothing(openai_of_all: openai.OpenAI) -> None:
    clock, limited = clocked(openai_requests_per_minute=3)
    with limited as vendor:
        for _ in range(3):
            openai_call(openai_of_all, vendor, "a")
        for _ in range(2):
            with pytest.raises(openai.RateLimitError) as caught:
                openai_call(openai_of_all, vendor, "a")
        clock.now_s += 20
        openai_call(openai_of_all, vendor, "a")
        stats = vendor.stats
    error, headers = caught.value, caught.value.response.headers
    assert (error.code, error.type) == ("rate_limit_exceeded", "requests")
    assert error.body == {
        "message": f"Rate limit reached for {SMALL} in organization org-loopback on requests per min (RPM): Limit 3, "
        "Used 3, Requested 1. Please try again in 20s. Visit https://platform.openai.com/account/rate-limits to learn "
        "more.",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert (headers["retry-after-ms"], headers["retry-after"]) == ("20000", "20")
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert (stats.ok, stats.rejected, stats.admitted_tokens) == (4, 2, 4)


def test_tokens_a_minute_are_limited_by_a_bucket_of_the_size_that_is_set(openai_of_all: openai.OpenAI) -> None:
    clock, limited = clocked(openai_tokens_per_minute=6000, capacity_s=1)
    with limited as vendor:
        openai_call(openai_of_all, vendor, "b" * 400)
        with pytest.raises(openai.RateLimitError, match=r"tokens per min \(TPM\): Limit 6000, .* again in 500ms"):
            openai_call(openai_of_all, vendor, "b" * 200)
        with pytest.raises(openai.RateLimitError, match="Request too large") as caught:
            openai_call(openai_of_all, vendor, "b" * 404)
        clock.now_s += 0.5
        openai_call(openai_of_all, vendor, "b" * 200)
    assert (caught.value.type, caught.value.response.headers.get("retry-after")) == ("tokens", None)


def test_cohere_s_inputs_a_minute_are_limited_without_rate_headers(
    vendor: LoopbackVendor, cohere_client: cohere.ClientV2
) -> None:
    vendor.configure(cohere_inputs_per_minute=60)

    def send(count: int) -> Any:
        return cohere_client.with_raw_response.embed(
            model=LIGHT, input_type="search_document", texts=["a"] * count, embedding_types=["base64"]
        )

    headers = {name.lower(): value for name, value in send(59).headers.items()}
    with pytest.raises(cohere.TooManyRequestsError) as caught:
        send(3)
    assert headers["num_tokens"] == "59"
    refused = {name.lower() for name in caught.value.headers or {}}
    assert not {name for name in refused | set(headers) if "ratelimit" in name or name == "retry-after"}
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"] == (
        "You are past the per minute request limit, please wait and try again later."
    )
    assert vendor.stats.rejected == 1


@pytest.mark.parametrize("mode", ["both", "seconds", "date", "huge", "bad", "none"])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v2/embed"])
def test_a_429_says_when_to_come_back_in_the_way_that_is_set(
    vendor: LoopbackVendor, post: Post, path: str, mode: str
) -> None:
    vendor.configure(openai_retry_after=mode, cohere_retry_after=mode, fault_retry_after_s=1.5)
    vendor.inject(Fault.RATE_LIMIT)
    body = {"model": SMALL, "input": "a"}
    if path == "/v2/embed":
        body = {"model": LIGHT, "texts": ["a"], "input_type": "search_query"}  # type: ignore[dict-item]
    headers = post(path, body).headers
    found = (headers.get("retry-after-ms"), headers.get("retry-after"))
    if mode == "date":
        sent_s = parsedate_to_datetime(headers["date"]).timestamp()
        assert 1 <= parsedate_to_datetime(headers["retry-after"]).timestamp() - sent_s <= 3
    else:
        wanted = {"both": ("1500", "2"), "seconds": (None, "2"), "huge": (None, "86400"), "bad": (None, "soon")}
        assert found == wanted.get(mode, (None, None))


def test_the_sdk_waits_as_long_as_it_is_told(vendor: LoopbackVendor, openai_client: openai.OpenAI) -> None:
    vendor.configure(fault_retry_after_s=0.01)
    vendor.inject(Fault.RATE_LIMIT, times=2)
    openai_client.with_options(max_retries=2).embeddings.create(model=SMALL, input="a", dimensions=8)
    assert (vendor.stats.by_status, vendor.stats.rejected) == ({429: 2, 200: 1}, 0)


def test_a_new_limit_starts_with_a_full_bucket(vendor: LoopbackVendor, post: Post) -> None:
    body = {"model": SMALL, "input": "a", "dimensions": 8}
    for _ in range(2):
        vendor.configure(openai_requests_per_minute=1)
        assert [post("/v1/embeddings", body).status_code for _ in range(2)] == [200, 429]
    vendor.configure(openai_requests_per_minute=None, openai_tokens_per_minute=None)
    assert not LIMIT_HEADERS & set(post("/v1/embeddings", body).headers)
