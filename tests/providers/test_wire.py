from __future__ import annotations

import base64
import time
from email.utils import formatdate

import numpy as np
import pytest

from symmetra_mcp.errors import InvalidEmbeddingError
from symmetra_mcp.providers.pace import RateState
from symmetra_mcp.providers.wire import (
    decode_vectors,
    duration_s,
    is_loopback,
    plain_name,
    rate_state,
    request_id,
    retry_after_s,
)
from symmetra_mcp.spaces import EmbeddingSpace

SPACE = EmbeddingSpace("openai", "m", 3)


def encoded(*numbers: float) -> str:
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


def test_base64_and_lists_of_numbers_are_read_alike() -> None:
    vectors = decode_vectors([encoded(1, 2, 3), [1, 2.0, 3]], SPACE)
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[1, 2, 3], [1, 2, 3]]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(encoded(1, 2), id="short"),
        pytest.param(encoded(1, 2, 3, 4), id="long"),
        pytest.param([1, 2], id="short-list"),
        pytest.param("AAAA", id="no-whole-numbers"),
        pytest.param("not base64!", id="no-base64"),
        pytest.param(None, id="null"),
        pytest.param(["a", "b", "c"], id="texts"),
        pytest.param([[1], [2], [3]], id="nested"),
        pytest.param({"0": 1}, id="object"),
        pytest.param([1, None, 3], id="hole"),
    ],
)
def test_anything_else_is_no_embedding(row: object) -> None:
    if row == [1, None, 3]:
        assert np.isnan(decode_vectors([row], SPACE)).any()  # refused with every number that is not finite
        return
    with pytest.raises(InvalidEmbeddingError, match="nothing of it was used"):
        decode_vectors([row], SPACE)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6ms", 0.006),
        ("1s", 1),
        ("6m0s", 360),
        ("1h2m3.5s", 3723.5),
        ("0s", 0),
        ("", None),
        ("soon", None),
        ("5", None),
    ],
)
def test_durations_are_read_as_openai_writes_them(text: str, seconds: float | None) -> None:
    assert duration_s(text) == (None if seconds is None else pytest.approx(seconds))


def test_rate_headers_are_read_where_they_make_sense() -> None:
    headers = {
        "x-ratelimit-limit-tokens": "1000000",
        "x-ratelimit-remaining-tokens": "999000",
        "x-ratelimit-reset-tokens": "60ms",
        "x-ratelimit-limit-requests": "many",
        "x-ratelimit-remaining-requests": "1",
    }
    assert rate_state(headers, "tokens") == RateState(1e6, 999_000, 0.06)
    assert rate_state(headers, "requests") is None
    assert rate_state({}, "tokens") is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "9"}, 9),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
def test_the_vendors_pause_is_read_where_it_makes_sense(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


def test_the_vendors_pause_may_be_a_date() -> None:
    assert retry_after_s({"retry-after": formatdate(time.time() + 30, usegmt=True)}) == pytest.approx(30, abs=2)
    assert retry_after_s({"retry-after": formatdate(time.time() - 30, usegmt=True)}) == 0


@pytest.mark.parametrize("value", ["Bearer sk-Canary", "sk-Canary", "", None, 7, "x" * 60, "a-b", "req_<script>"])
def test_what_may_be_a_secret_is_not_repeated(value: object) -> None:
    assert (plain_name(value), request_id(value)) == ("", "")


def test_codes_and_request_ids_are_repeated() -> None:
    assert plain_name("invalid_api_key") == "invalid_api_key"
    assert request_id("req_0123456789abcdef") == "req_0123456789abcdef"


def test_this_machine_is_told_from_others() -> None:
    assert all(map(is_loopback, ("http://localhost:1/v1", "http://127.0.0.1", "http://[::1]:8080")))
    assert not any(map(is_loopback, ("https://api.openai.com", "http://192.168.0.1", "")))
