"""Every fault, as the SDKs see it."""

from __future__ import annotations

import base64
import json
from typing import Any

import cohere
import httpx
import numpy as np
import openai
import pytest
from cohere.core.api_error import ApiError
from loopback import Fault, LoopbackVendor, expected_vector

from loopback_tests.conftest import KEY, Post

SMALL = "text-embedding-3-small"
LIGHT = "embed-english-light-v3.0"
TEXTS = ["one rule", "another rule", "a third", "the fourth of them"]
SHORT_TIMEOUT_S = 0.3

REFUSALS = {
    Fault.RATE_LIMIT: (openai.RateLimitError, cohere.TooManyRequestsError, 429),
    Fault.SERVER_ERROR: (openai.InternalServerError, cohere.InternalServerError, 500),
    Fault.UNAVAILABLE: (openai.InternalServerError, cohere.ServiceUnavailableError, 503),
    Fault.HTML_BAD_GATEWAY: (openai.InternalServerError, ApiError, 502),
    Fault.QUOTA: (openai.RateLimitError, cohere.TooManyRequestsError, 429),
    Fault.WRONG_KEY: (openai.AuthenticationError, cohere.UnauthorizedError, 401),
    Fault.FORBIDDEN: (openai.PermissionDeniedError, cohere.ForbiddenError, 403),
    Fault.ECHO_KEY: (openai.BadRequestError, cohere.BadRequestError, 400),
}
BROKEN = {
    Fault.HANG: (openai.APITimeoutError, httpx.ReadTimeout),
    Fault.STALL: (openai.APITimeoutError, httpx.ReadTimeout),
    Fault.HALF_CLOSED: (openai.APIConnectionError, httpx.RemoteProtocolError),
    Fault.RESET: (openai.APIConnectionError, httpx.ReadError),
    Fault.GARBAGE: (json.JSONDecodeError, ApiError),
}


def ask_openai(client: openai.OpenAI, texts: list[str] = TEXTS) -> Any:
    return client.embeddings.create(
        model=SMALL, input=texts, dimensions=384, encoding_format="base64", timeout=SHORT_TIMEOUT_S
    )


def ask_cohere(client: cohere.ClientV2, texts: list[str] = TEXTS) -> Any:
    return client.embed(
        model=LIGHT,
        input_type="search_document",
        texts=texts,
        embedding_types=["base64"],
        request_options={"timeout_in_seconds": SHORT_TIMEOUT_S},  # type: ignore[typeddict-item]
    )


def decoded(rows: list[str]) -> list[np.ndarray]:
    return [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]


def openai_vectors() -> list[np.ndarray]:
    return [expected_vector(text, SMALL, 384) for text in TEXTS]


def cohere_vectors() -> list[np.ndarray]:
    return [expected_vector(text, LIGHT, 384, "search_document") for text in TEXTS]


def same(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return len(left) == len(right) and all(map(np.array_equal, left, right))


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_refusal_is_the_sdk_s_error_for_it(
    vendor: LoopbackVendor, openai_client: openai.OpenAI, cohere_client: cohere.ClientV2, fault: Fault
) -> None:
    openais, coheres, status = REFUSALS[fault]
    vendor.inject(fault, times=2)
    with pytest.raises(openais) as of_openai:
        ask_openai(openai_client)
    with pytest.raises(coheres) as of_cohere:
        ask_cohere(cohere_client)
    assert isinstance(of_openai.value, openai.APIStatusError)
    assert of_openai.value.status_code == of_cohere.value.status_code == status
    assert (vendor.stats.by_fault, vendor.stats.admitted_tokens) == ({fault: 2}, 0)
    assert same(decoded(ask_cohere(cohere_client).embeddings.base64), cohere_vectors())


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_answer_is_the_sdk_s_error_for_it(
    vendor: LoopbackVendor, openai_client: openai.OpenAI, cohere_client: cohere.ClientV2, fault: Fault
) -> None:
    openais, coheres = BROKEN[fault]
    vendor.inject(fault, times=2)
    with pytest.raises(openais):
        ask_openai(openai_client)
    with pytest.raises(coheres):
        ask_cohere(cohere_client)
    stats = vendor.wait_until(lambda stats: stats.in_flight == 0)
    assert (stats.by_fault, stats.ok) == ({fault: 2}, 2 if fault is Fault.GARBAGE else 0)
    assert same(decoded([row.embedding for row in ask_openai(openai_client).data]), openai_vectors())


def test_an_empty_account_is_told_from_a_busy_minute(
    vendor: LoopbackVendor, openai_client: openai.OpenAI, cohere_client: cohere.ClientV2
) -> None:
    vendor.inject(Fault.QUOTA, times=2)
    with pytest.raises(openai.RateLimitError) as of_openai:
        ask_openai(openai_client)
    with pytest.raises(cohere.TooManyRequestsError, match="limited to 1000 API calls / month"):
        ask_cohere(cohere_client)
    assert of_openai.value.code == of_openai.value.type == "insufficient_quota"
    assert "retry-after" not in of_openai.value.response.headers


def test_a_proxy_s_page_is_html_without_the_vendor_s_headers(vendor: LoopbackVendor, post: Post) -> None:
    vendor.inject(Fault.HTML_BAD_GATEWAY)
    answer = post("/v1/embeddings", {"model": SMALL, "input": "a"})
    assert answer.headers["content-type"] == "text/html"
    assert "<h1>502 Bad Gateway</h1>" in answer.text
    assert not [name for name in answer.headers if name.startswith(("x-", "openai-"))]


def test_the_key_is_echoed_in_message_code_and_headers(vendor: LoopbackVendor, post: Post) -> None:
    vendor.inject(Fault.ECHO_KEY, times=2)
    openais = post("/v1/embeddings", {"model": SMALL, "input": "a"})
    coheres = post("/v2/embed", {"model": LIGHT, "texts": ["a"], "input_type": "search_query"})
    echoed = f"Bearer {KEY}"
    assert echoed in openais.json()["error"]["message"]
    assert openais.json()["error"]["code"] == openais.headers["x-request-id"] == echoed
    assert echoed in coheres.json()["message"]
    assert coheres.headers["x-echo-authorization"] == echoed


@pytest.mark.parametrize("fault", [Fault.SHORT, Fault.LONG, Fault.QUARTER])
def test_vectors_of_another_length_are_answered_with_success(
    vendor: LoopbackVendor, openai_client: openai.OpenAI, cohere_client: cohere.ClientV2, fault: Fault
) -> None:
    length = {Fault.SHORT: 383, Fault.LONG: 385, Fault.QUARTER: 96}[fault]
    vendor.inject(fault, times=2)
    of_openai = decoded([row.embedding for row in ask_openai(openai_client).data])
    of_cohere = decoded(ask_cohere(cohere_client).embeddings.base64)
    assert [len(vector) for vector in of_openai + of_cohere] == [length] * 8
    assert np.array_equal(of_openai[0][:96], openai_vectors()[0][:96])


@pytest.mark.parametrize("fault", [Fault.NAN, Fault.INFINITE, Fault.ZERO])
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_one_row_is_spoilt_in_either_encoding(
    vendor: LoopbackVendor, openai_client: openai.OpenAI, fault: Fault, encoding: Any
) -> None:
    vendor.inject(fault)
    answer = openai_client.embeddings.create(model=SMALL, input=TEXTS, dimensions=384, encoding_format=encoding)
    rows: list[Any] = [row.embedding for row in answer.data]
    vectors = decoded(rows) if encoding == "base64" else [np.array(row, np.float32) for row in rows]
    spoilt = [
        vector for vector, whole in zip(vectors, openai_vectors(), strict=True) if not np.array_equal(vector, whole)
    ]
    assert len(spoilt) == 1
    found = {Fault.NAN: np.isnan(spoilt[0]).sum(), Fault.INFINITE: np.isinf(spoilt[0]).sum()}
    assert found.get(fault, 1) == 1
    assert fault is not Fault.ZERO or not spoilt[0].any()


def test_vectors_that_are_not_unit_are_three_times_as_long(
    vendor: LoopbackVendor, openai_client: openai.OpenAI
) -> None:
    vendor.inject(Fault.NOT_UNIT)
    rows = decoded([row.embedding for row in ask_openai(openai_client).data])
    assert np.allclose([np.linalg.norm(row) for row in rows], 3)


def test_shuffled_rows_keep_openai_s_index_and_nothing_of_cohere_s(
    vendor: LoopbackVendor, openai_client: openai.OpenAI, cohere_client: cohere.ClientV2
) -> None:
    vendor.inject(Fault.SHUFFLED, times=2)
    data = ask_openai(openai_client).data
    indexes = [row.index for row in data]
    assert indexes != sorted(indexes)
    in_order = sorted(data, key=lambda row: row.index)
    assert same(decoded([row.embedding for row in in_order]), openai_vectors())
    positional = decoded(ask_cohere(cohere_client).embeddings.base64)
    assert not same(positional, cohere_vectors())
    assert sorted(map(tuple, positional)) == sorted(map(tuple, cohere_vectors()))


def test_a_row_is_sent_twice_or_left_out(vendor: LoopbackVendor, openai_client: openai.OpenAI) -> None:
    vendor.inject(Fault.DUPLICATE_INDEX)
    vendor.inject(Fault.MISSING_ROW)
    twice = [row.index for row in ask_openai(openai_client).data]
    fewer = [row.index for row in ask_openai(openai_client).data]
    assert (len(twice), len(set(twice))) == (4, 3)
    assert (len(fewer), len(set(fewer))) == (3, 3)


def test_one_text_s_row_is_sent_twice_too(vendor: LoopbackVendor, openai_client: openai.OpenAI) -> None:
    vendor.inject(Fault.DUPLICATE_INDEX)
    assert [row.index for row in ask_openai(openai_client, ["a"]).data] == [0, 0]


def test_an_answer_without_rows_is_a_value_error_of_the_sdk_s(
    vendor: LoopbackVendor, openai_client: openai.OpenAI, cohere_client: cohere.ClientV2
) -> None:
    vendor.inject(Fault.EMPTY_DATA, times=2)
    with pytest.raises(ValueError, match="No embedding data received"):
        openai_client.embeddings.create(model=SMALL, input=TEXTS)
    assert ask_cohere(cohere_client).embeddings.base64 == []


def test_another_model_s_vectors_are_named_by_openai_alone(
    vendor: LoopbackVendor, openai_client: openai.OpenAI, cohere_client: cohere.ClientV2
) -> None:
    vendor.inject(Fault.OTHER_MODEL, times=2)
    answer = ask_openai(openai_client)
    assert answer.model == "text-embedding-other"
    others = decoded([row.embedding for row in answer.data]) + decoded(ask_cohere(cohere_client).embeddings.base64)
    for other, own in zip(others, openai_vectors() + cohere_vectors(), strict=True):
        assert abs(other @ own) < 0.3


def test_lists_of_numbers_come_though_base64_was_asked_for(
    vendor: LoopbackVendor, openai_client: openai.OpenAI, cohere_client: cohere.ClientV2
) -> None:
    vendor.inject(Fault.FLOAT_LISTS, times=2)
    rows: list[Any] = [row.embedding for row in ask_openai(openai_client).data]
    assert same([np.array(row, np.float32) for row in rows], openai_vectors())
    embeddings = ask_cohere(cohere_client).embeddings
    assert embeddings.base64 is None
    assert same([np.array(row, np.float32) for row in embeddings.float_], cohere_vectors())


@pytest.mark.parametrize(
    ("fault", "status", "method", "arrives"),
    [
        (Fault.REDIRECT, 307, "POST", True),
        (Fault.REDIRECT_FOUND, 302, "GET", True),
        (Fault.REDIRECT_ELSEWHERE, 307, "POST", False),
    ],
)
def test_a_redirect_records_what_it_led_astray(
    vendor: LoopbackVendor, post: Post, fault: Fault, status: int, method: str, arrives: bool
) -> None:
    vendor.inject(fault, times=2)
    body = {"model": SMALL, "input": "a"}
    stayed = post("/v1/embeddings", body)
    assert (stayed.status_code, vendor.stats.stolen) == (status, [])
    assert post("/v1/embeddings", body, follow_redirects=True).json() == {}
    stolen = vendor.stats.stolen[0]
    assert (stolen.method, stolen.path, stolen.elsewhere) == (method, "/_stolen", fault is Fault.REDIRECT_ELSEWHERE)
    assert (stolen.headers.get("authorization") == f"Bearer {KEY}") is arrives
    base = vendor.elsewhere_url if stolen.elsewhere else vendor.url
    assert stayed.headers["location"] == f"{base}/_stolen"


# When faults strike


def statuses(post: Post, *inputs: list[str]) -> list[int]:
    return [post("/v1/embeddings", {"model": SMALL, "input": given, "dimensions": 8}).status_code for given in inputs]


def test_a_fault_strikes_requests_of_its_size_so_many_times(vendor: LoopbackVendor, post: Post) -> None:
    vendor.inject(Fault.SERVER_ERROR, times=2, target="batch")
    vendor.inject(Fault.UNAVAILABLE, target="query")
    one, two = ["a"], ["a", "b"]
    assert statuses(post, two, one, one, two, two) == [500, 503, 200, 500, 200]


def test_faults_strike_in_the_order_they_were_injected(vendor: LoopbackVendor, post: Post) -> None:
    vendor.inject(Fault.SERVER_ERROR)
    vendor.inject(Fault.UNAVAILABLE, times=None)
    assert statuses(post, ["a"], ["a"], ["a"]) == [500, 503, 503]
    vendor.clear_faults()
    assert statuses(post, ["a"]) == [200]


def test_a_fault_lasts_as_long_as_its_block(vendor: LoopbackVendor, post: Post) -> None:
    with vendor.failing(Fault.SERVER_ERROR):
        assert statuses(post, ["a"], ["a"]) == [500, 500]
    assert statuses(post, ["a"]) == [200]


def test_faults_by_chance_are_the_same_after_every_reset(vendor: LoopbackVendor, post: Post) -> None:
    runs = []
    for _ in range(2):
        vendor.reset()
        vendor.inject(Fault.SERVER_ERROR, times=None, probability=0.5)
        runs.append(statuses(post, *[["a"]] * 20))
    assert runs[0] == runs[1]
    assert 4 <= runs[0].count(500) <= 16


def test_the_list_of_models_fails_where_it_is_named_alone(vendor: LoopbackVendor, openai_client: openai.OpenAI) -> None:
    vendor.inject(Fault.SERVER_ERROR)
    assert openai_client.models.retrieve(SMALL).id == SMALL
    vendor.inject(Fault.SERVER_ERROR, target="models")
    with pytest.raises(openai.InternalServerError):
        openai_client.models.retrieve(SMALL)


@pytest.mark.parametrize("rule", [{"times": 0}, {"probability": 0}, {"probability": 1.5}, {"target": "all"}])
def test_a_fault_that_can_t_strike_is_refused(vendor: LoopbackVendor, rule: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a fault"):
        vendor.inject(Fault.HANG, **rule)
