from __future__ import annotations

import asyncio
import base64
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cohere
import httpx
import numpy as np
import openai
import pytest
from loopback import Fault, LoopbackVendor, embed, expected_vector
from loopback.cohere_wire import whole_numbers

from loopback_tests.conftest import KEY, Post

SMALL = "text-embedding-3-small"
LIGHT = "embed-english-light-v3.0"
TEXTS = ["Close files with a context manager", "Ünïcode: 日本語 🙂", "!!!", "close FILES with a context manager"]


def rows(answer: Any) -> np.ndarray:
    return np.array([item.embedding for item in answer.data], np.float32)


def expected(texts: list[str], model: str, dimensions: int, input_type: str | None = None) -> np.ndarray:
    return np.stack([expected_vector(text, model, dimensions, input_type) for text in texts])


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}], ids=["sdk-base64", "float"])
def test_openai_answers_with_the_expected_vector_of_every_text(openai_client: openai.OpenAI, options: Any) -> None:
    answer = openai_client.embeddings.create(model=SMALL, input=TEXTS, dimensions=384, **options)
    assert np.array_equal(rows(answer), expected(TEXTS, SMALL, 384))
    assert answer.model == SMALL
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 9 + 7 + 1 + 9


def test_openai_without_dimensions_answers_at_the_model_s_own_length(openai_client: openai.OpenAI) -> None:
    for model, dimensions in ((SMALL, 1536), ("text-embedding-3-large", 3072), ("text-embedding-ada-002", 1536)):
        answer = openai_client.embeddings.create(model=model, input="one text")
        assert np.array_equal(rows(answer), expected(["one text"], model, dimensions))


def test_openai_takes_token_ids_as_texts_of_their_numbers(openai_client: openai.OpenAI) -> None:
    answer = openai_client.embeddings.create(model=SMALL, input=[[1, 22], [333]], dimensions=8)
    assert np.array_equal(rows(answer), expected(["1 22", "333"], SMALL, 8))
    assert answer.usage.prompt_tokens == 3


def test_async_clients_of_both_sdks_get_the_expected_vectors(vendor: LoopbackVendor) -> None:
    async def both() -> tuple[Any, Any]:
        async with (
            openai.AsyncOpenAI(api_key=KEY, base_url=vendor.openai_base_url, max_retries=0) as client,
            httpx.AsyncClient() as http,
        ):
            other = cohere.AsyncClientV2(KEY, base_url=vendor.cohere_base_url, httpx_client=http)
            return await asyncio.gather(
                client.embeddings.create(model=SMALL, input=TEXTS, dimensions=384),
                other.embed(model=LIGHT, input_type="search_query", texts=TEXTS, embedding_types=["base64"]),
            )

    one, two = asyncio.run(both())
    assert np.array_equal(rows(one), expected(TEXTS, SMALL, 384))
    decoded = np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in two.embeddings.base64])
    assert np.array_equal(decoded, expected(TEXTS, LIGHT, 384, "search_query"))


def test_cohere_answers_in_every_type_and_lower_cases_the_texts(cohere_client: cohere.ClientV2) -> None:
    types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    answer = cohere_client.embed(model=LIGHT, input_type="search_document", texts=TEXTS, embedding_types=types)
    vectors = expected(TEXTS, LIGHT, 384, "search_document")
    assert np.array_equal(np.array(answer.embeddings.float_, np.float32), vectors)
    assert answer.embeddings.base64 == [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
    for name in ("int8", "uint8", "binary", "ubinary"):
        assert getattr(answer.embeddings, name) == [whole_numbers(name, vector) for vector in vectors]
    assert answer.texts == [text.lower() for text in TEXTS]
    assert answer.meta.api_version.version == "2"
    assert answer.meta.billed_units.input_tokens == 26


def test_whole_numbers_hold_the_signs_and_sizes_of_a_vector() -> None:
    vector = np.array([1, -1, 0.5, 0, -0.5, 0.25, -0.25, 0.1], np.float32)
    assert whole_numbers("int8", vector) == [127, -127, 64, 0, -64, 32, -32, 13]
    assert whole_numbers("uint8", vector) == [255, 1, 192, 128, 64, 160, 96, 141]
    assert whole_numbers("ubinary", vector) == [0b10100101]
    assert whole_numbers("binary", vector) == [0b10100101 - 128]


def test_cohere_s_later_models_answer_at_the_length_that_is_chosen(cohere_client: cohere.ClientV2) -> None:
    answer = cohere_client.embed(
        model="embed-v4.0", input_type="search_query", texts=["a"], embedding_types=["float"], output_dimension=256
    )
    assert np.array_equal(
        np.array(answer.embeddings.float_, np.float32), expected(["a"], "embed-v4.0", 256, "search_query")
    )


@pytest.mark.parametrize(("truncate", "kept"), [("END", "head"), ("START", "tail")])
def test_cohere_reads_what_truncation_leaves_of_a_long_text(
    cohere_client: cohere.ClientV2, truncate: str, kept: str
) -> None:
    long = "head " * 500 + "tail " * 500
    answer = cohere_client.embed(
        model=LIGHT, input_type="search_query", texts=[long], embedding_types=["float"], truncate=truncate
    )
    vector = np.array(answer.embeddings.float_[0], np.float32)
    assert np.array_equal(vector, expected_vector(long, LIGHT, 384, "search_query", truncate=truncate))
    assert answer.meta.billed_units.input_tokens == 512
    assert vector @ expected_vector(kept, LIGHT, 384, "search_query") > 0.8


def test_vectors_are_unit_and_rank_by_shared_words() -> None:
    query = expected_vector("close open files", LIGHT, 384, "search_query")
    close = expected_vector("Files: close them", LIGHT, 384, "search_document")
    far = expected_vector("Name tests by outcome", LIGHT, 384, "search_document")
    assert query @ close > 0.3 > abs(query @ far) + 0.1
    assert np.allclose([query @ query, close @ close, far @ far], 1, atol=1e-6)


def test_sides_of_one_text_are_close_and_models_are_not() -> None:
    sides = [expected_vector("Close files", LIGHT, 384, side) for side in ("search_query", "search_document")]
    other = expected_vector("Close files", "embed-multilingual-light-v3.0", 384, "search_document")
    assert sides[0] @ sides[1] == pytest.approx(0.9, abs=0.05)
    assert abs(sides[1] @ other) < 0.2


def test_the_two_models_of_cohere_s_fifth_generation_share_a_space() -> None:
    pro, fast = (expected_vector("a", f"embed-v5.0-{name}", 512, "search_query") for name in ("pro", "fast"))
    assert np.array_equal(pro, fast)


def test_texts_of_equal_words_have_vectors_of_their_own() -> None:
    vectors = expected(["read then write", "write then read", "Read then write"], SMALL, 384)
    assert len(np.unique(vectors, axis=0)) == 3


def test_a_row_is_the_same_bit_for_bit_in_any_batch() -> None:
    batch = [f"rule {number} of many words" for number in range(50)]
    assert np.array_equal(embed(batch, SMALL, 384, None), expected(batch, SMALL, 384))


def test_vectors_by_table_are_expected_too(vendor: LoopbackVendor, openai_client: openai.OpenAI) -> None:
    vendor.configure(vectors="table")
    answer = openai_client.embeddings.create(model=SMALL, input=TEXTS, dimensions=64)
    assert np.array_equal(rows(answer), np.stack([expected_vector(t, SMALL, 64, kind="table") for t in TEXTS]))


def test_models_are_listed_and_found(vendor: LoopbackVendor, openai_client: openai.OpenAI) -> None:
    vendor.configure(extra_models={"nomic-embed-text": 768})
    assert {model.id for model in openai_client.models.list()} >= {SMALL, "nomic-embed-text"}
    assert openai_client.models.retrieve(SMALL).id == SMALL
    with pytest.raises(openai.NotFoundError) as caught:
        openai_client.models.retrieve("text-embedding-9")
    assert caught.value.code == "model_not_found"


def test_a_server_s_own_model_answers_at_its_length(vendor: LoopbackVendor, openai_client: openai.OpenAI) -> None:
    vendor.configure(extra_models={"nomic-embed-text": 768})
    answer = openai_client.embeddings.create(model="nomic-embed-text", input=["a"])
    assert np.array_equal(rows(answer), expected(["a"], "nomic-embed-text", 768))


def test_requests_are_counted_and_kept_with_their_headers(
    vendor: LoopbackVendor, openai_client: openai.OpenAI, cohere_client: cohere.ClientV2
) -> None:
    openai_client.embeddings.create(model=SMALL, input=["a", "b"], dimensions=8)
    cohere_client.embed(model=LIGHT, input_type="search_query", texts=["c"], embedding_types=["float"])
    with pytest.raises(openai.BadRequestError):
        openai_client.embeddings.create(model=SMALL, input=[""])
    stats = vendor.stats
    assert (stats.requests, stats.ok, stats.texts, stats.tokens) == (3, 2, 3, 3)
    assert stats.by_status == {200: 2, 400: 1}
    assert [(kept.path, kept.status) for kept in stats.recent] == [
        ("/v1/embeddings", 200),
        ("/v2/embed", 200),
        ("/v1/embeddings", 400),
    ]
    assert all(kept.headers["authorization"] == f"Bearer {KEY}" for kept in stats.recent)
    assert stats.recent[0].body["input"] == ["a", "b"]
    vendor.reset()
    assert (vendor.stats.requests, list(vendor.stats.recent)) == (0, [])
    assert stats.requests == 3


def test_only_the_last_requests_are_kept(vendor: LoopbackVendor, openai_client: openai.OpenAI) -> None:
    vendor.configure(recent_requests=2)
    for text in "abc":
        openai_client.embeddings.create(model=SMALL, input=text, dimensions=8)
    assert [kept.body["input"] for kept in vendor.stats.recent] == ["b", "c"]


def test_answers_are_compressed_where_set_and_accepted(vendor: LoopbackVendor, post: Post) -> None:
    body = {"model": SMALL, "input": ["a"], "dimensions": 8}
    vendor.configure(gzip=True)
    compressed = post("/v1/embeddings", body)
    plain = post("/v1/embeddings", body, **{"accept-encoding": "identity"})
    assert (compressed.headers.get("content-encoding"), plain.headers.get("content-encoding")) == ("gzip", None)
    assert compressed.json() == plain.json()


def test_latency_passes_before_the_answer(vendor: LoopbackVendor, post: Post) -> None:
    vendor.configure(latency_s=0.05, latency_sigma=0.0, latency_per_token_s=0.01)
    answer = post("/v1/embeddings", {"model": SMALL, "input": "12345678", "dimensions": 8})
    assert int(answer.headers["openai-processing-ms"]) >= 70


def test_an_outage_refuses_connections_and_ends_on_the_same_port(
    vendor: LoopbackVendor, openai_client: openai.OpenAI
) -> None:
    openai_client.embeddings.create(model=SMALL, input="a", dimensions=8)
    port = vendor.port
    vendor.down = True
    assert vendor.down
    with pytest.raises(openai.APIConnectionError):
        openai_client.embeddings.create(model=SMALL, input="a", dimensions=8)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    vendor.down = False
    openai_client.embeddings.create(model=SMALL, input="a", dimensions=8)
    assert (vendor.port, vendor.stats.ok) == (port, 2)


def test_nothing_is_left_after_the_end() -> None:
    before = threading.active_count()
    with LoopbackVendor() as vendor, socket.create_connection(("127.0.0.1", vendor.port)) as idle:
        vendor.stop()
        assert idle.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", vendor.port))
    assert threading.active_count() == before


def test_a_taken_port_is_refused_at_the_start(vendor: LoopbackVendor) -> None:
    with pytest.raises(OSError, match="in use"):
        LoopbackVendor(port=vendor.port).start()


def test_a_failure_of_the_vendor_s_own_is_raised_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopback.wire.embed", None)
    vendor = LoopbackVendor()
    vendor.start()
    answer = httpx.post(
        f"{vendor.openai_base_url}/embeddings",
        json={"model": SMALL, "input": "a"},
        headers={"authorization": f"Bearer {KEY}"},
    )
    assert answer.status_code == 500
    with pytest.raises(TypeError):
        vendor.stop()


def test_another_process_sets_faults_and_settings_over_http(vendor: LoopbackVendor, post: Post) -> None:
    rule = {"fault": "server_error", "times": 1, "target": "query"}
    assert post("/_ctl", {"faults": [rule], "latency_sigma": 0.5}).json()["latency_sigma"] == 0.5
    body = {"model": SMALL, "input": "a", "dimensions": 8}
    assert [post("/v1/embeddings", body).status_code for _ in range(2)] == [500, 200]
    counted = httpx.get(f"{vendor.url}/_stats").json()
    assert counted["by_fault"] == {"server_error": 1}
    assert counted["by_status"] == {"500": 1, "200": 1}
    assert [kept["path"] for kept in counted["recent"]] == ["/v1/embeddings", "/v1/embeddings"]
    post("/_reset", {})
    assert vendor.stats.requests == 0


@pytest.mark.parametrize(
    "change",
    [{"latency": 1}, {"vectors": "best"}, {"faults": [{"fault": "rain"}]}, {"faults": [{}]}],
    ids=["name", "value", "fault", "no-fault"],
)
def test_control_refuses_what_it_does_not_know(post: Post, change: dict[str, Any]) -> None:
    assert post("/_ctl", change).status_code == 400


def test_the_command_serves_until_it_is_terminated() -> None:
    command = [sys.executable, "-W", "error", "-m", "loopback", "--openai-requests-per-minute", "none", "--keys", KEY]
    folder = Path(__file__).resolve().parents[1]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("ready ").strip()
        answers = [
            httpx.post(
                f"{url}/v1/embeddings",
                content=json.dumps({"model": SMALL, "input": "a", "dimensions": 8}),
                headers={"authorization": f"Bearer {key}"},
            )
            for key in (KEY, "sk-other")
        ]
        process.terminate()
        _, complaints = process.communicate(timeout=10)
    assert [answer.status_code for answer in answers] == [200, 401]
    assert "x-ratelimit-limit-requests" not in answers[0].headers
    assert np.array_equal(
        np.array(answers[0].json()["data"][0]["embedding"], np.float32), expected_vector("a", SMALL, 8)
    )
    assert (process.returncode, complaints) == (0, "")


def test_requests_at_once_are_counted_and_limited(vendor: LoopbackVendor) -> None:
    vendor.configure(max_concurrency=3)
    vendor.inject(Fault.HANG, times=3)

    async def crowd() -> int:
        async with httpx.AsyncClient(
            base_url=vendor.openai_base_url, headers={"authorization": f"Bearer {KEY}"}, timeout=10
        ) as http:

            def send() -> Any:
                return http.post("/embeddings", json={"model": SMALL, "input": "a", "dimensions": 8})

            hanging = [asyncio.create_task(send()) for _ in range(3)]
            await asyncio.to_thread(vendor.wait_until, lambda stats: stats.in_flight == 3)
            refused = await send()
            for task in hanging:
                task.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)
            await asyncio.to_thread(vendor.wait_until, lambda stats: stats.in_flight == 0)
            assert (await send()).status_code == 200
            return int(refused.status_code)

    assert asyncio.run(crowd()) == 503
    assert vendor.stats.max_in_flight == 4
