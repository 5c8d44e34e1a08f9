from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loopback import Fault, LoopbackVendor, expected_vector

from symmetra_mcp.config import load_settings
from symmetra_mcp.embedding_config import (
    EmbeddingBackend,
    EmbeddingManager,
    generate_batch_embeddings,
    generate_embedding,
    get_embedding_manager,
)
from symmetra_mcp.errors import ConfigError, ProviderAuthError, SpendingLimitError
from symmetra_mcp.usage import FILE_NAME, UsageLog

TEXTS = ["Send every payment with an idempotency key.", "Never log a card number.", "Name migrations by their date."]


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackVendor]:
    """OpenAI and Cohere on this machine, with a key of each."""
    with LoopbackVendor() as vendor:
        for name, value in {
            "OPENAI_API_KEY": "sk-test",
            "OPENAI_BASE_URL": vendor.openai_base_url,
            "COHERE_API_KEY": "co-test",
            "CO_API_URL": vendor.cohere_base_url,
        }.items():
            monkeypatch.setenv(name, value)
        yield vendor


@pytest.fixture(autouse=True)
def _own_manager() -> Iterator[None]:
    """No test sees the manager of another: it is one for the process."""
    get_embedding_manager.cache_clear()
    yield
    if get_embedding_manager.cache_info().currsize:
        get_embedding_manager().close()
    get_embedding_manager.cache_clear()


def is_close(vector: list[float], text: str, model: str, input_type: str | None = None) -> bool:
    return bool(np.allclose(vector, expected_vector(text, model, 384, input_type), atol=1e-5))


@pytest.mark.parametrize(
    ("backend", "model", "sides"),
    [
        (None, "text-embedding-3-small", (None, None)),
        (EmbeddingBackend.AUTO, "text-embedding-3-small", (None, None)),
        (EmbeddingBackend.COHERE, "embed-english-light-v3.0", ("search_query", "search_document")),
        ("cohere", "embed-english-light-v3.0", ("search_query", "search_document")),
    ],
)
@pytest.mark.usefixtures("vendor")
def test_the_chosen_backend_embeds_queries_and_documents(
    backend: EmbeddingBackend | str | None, model: str, sides: tuple[str | None, str | None]
) -> None:
    manager = EmbeddingManager(backend)
    query, document = sides
    assert is_close(manager.generate_embedding(TEXTS[0]), TEXTS[0], model, query)
    assert is_close(manager.generate_embedding(TEXTS[0], input_type="document"), TEXTS[0], model, document)
    batch = manager.generate_batch_embeddings(TEXTS)
    assert all(is_close(vector, text, model, document) for vector, text in zip(batch, TEXTS, strict=True))
    asked = manager.generate_batch_embeddings(TEXTS[:2], input_type="query")
    assert all(is_close(vector, text, model, query) for vector, text in zip(asked, TEXTS[:2], strict=True))
    manager.close()


def test_a_batch_is_few_requests(vendor: LoopbackVendor) -> None:
    manager = EmbeddingManager(EmbeddingBackend.OPENAI)
    assert len(manager.generate_batch_embeddings([f"rule {number}" for number in range(60)])) == 60
    assert vendor.stats.requests == 1
    manager.close()


def test_no_texts_are_no_request(vendor: LoopbackVendor) -> None:
    manager = EmbeddingManager()
    assert manager.generate_batch_embeddings([]) == []
    assert vendor.stats.requests == 0
    manager.close()


def test_vectors_are_plain_numbers_that_json_takes() -> None:
    manager = EmbeddingManager(EmbeddingBackend.LOCAL)
    vector = manager.generate_embedding("vector database architecture")
    assert len(json.loads(json.dumps(vector))) == 384
    assert sum(number * number for number in vector) == pytest.approx(1, abs=1e-3)
    manager.close()


def test_one_text_is_no_batch() -> None:
    with pytest.raises(TypeError, match="use generate_embedding"):
        EmbeddingManager(EmbeddingBackend.LOCAL).generate_batch_embeddings("not a list")


def test_an_unknown_backend_is_refused_with_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"`SYMMETRA_EMBEDDING_BACKEND`: .*'openai', 'cohere' or 'local'"):
        EmbeddingManager("ollama")


def test_the_backend_is_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EmbeddingManager().backend is EmbeddingBackend.AUTO
    monkeypatch.setenv("SYMMETRA_EMBEDDING_BACKEND", "local")
    assert EmbeddingManager().backend is EmbeddingBackend.LOCAL
    assert EmbeddingManager(EmbeddingBackend.COHERE).backend is EmbeddingBackend.COHERE


def test_a_query_asked_twice_is_one_request(vendor: LoopbackVendor) -> None:
    manager = EmbeddingManager()
    assert manager.generate_embedding(TEXTS[0]) == manager.generate_embedding(TEXTS[0])
    assert vendor.stats.requests == 1
    manager.close()


def test_what_is_embedded_is_counted(vendor: LoopbackVendor) -> None:
    manager = EmbeddingManager()
    manager.generate_batch_embeddings(TEXTS)
    manager.close()
    log = UsageLog(load_settings().data_folder / FILE_NAME)
    (row,) = log.month_totals()
    log.close()
    assert (row.requests, row.texts, row.tokens) == (1, 3, vendor.stats.tokens)


def test_the_spending_limit_holds(vendor: LoopbackVendor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMMETRA_EMBEDDING_PRICE", "0.02")
    monkeypatch.setenv("SYMMETRA_SPENDING_LIMIT", "0")
    manager = EmbeddingManager()
    with pytest.raises(SpendingLimitError):
        manager.generate_embedding(TEXTS[0])
    assert vendor.stats.requests == 0
    manager.close()


def test_the_rule_store_is_not_opened(vendor: LoopbackVendor, data_dir: Path) -> None:
    manager = EmbeddingManager()
    manager.generate_batch_embeddings(TEXTS)
    manager.close()
    assert vendor.stats.requests == 1
    assert not (data_dir / "symmetra.db").exists()


def test_a_refused_key_raises_and_gives_no_vector(vendor: LoopbackVendor) -> None:
    manager = EmbeddingManager()
    vendor.inject(Fault.WRONG_KEY, times=None)
    with pytest.raises(ProviderAuthError, match="OPENAI_API_KEY"):
        manager.generate_batch_embeddings(TEXTS)
    manager.close()


def test_a_closed_manager_opens_again(vendor: LoopbackVendor) -> None:
    manager = EmbeddingManager()
    for number in (1, 2):
        assert len(manager.generate_batch_embeddings(TEXTS)) == 3
        assert vendor.stats.requests == number
        manager.close()


@pytest.mark.usefixtures("vendor")
def test_async_code_has_the_same_and_the_plain_calls_work_inside_a_running_loop() -> None:
    async def run() -> tuple[list[float], list[float], list[float]]:
        manager = EmbeddingManager()
        single = await manager.generate_embedding_async(TEXTS[0])
        (of_batch,) = await manager.generate_batch_embeddings_async(TEXTS[:1])
        blocking = manager.generate_embedding(TEXTS[0])
        await manager.aclose()
        manager.close()
        return single, of_batch, blocking

    single, of_batch, blocking = asyncio.run(run())
    assert is_close(single, TEXTS[0], "text-embedding-3-small")
    assert is_close(of_batch, TEXTS[0], "text-embedding-3-small")
    assert single == blocking


@pytest.mark.usefixtures("vendor")
def test_the_functions_use_one_manager_for_the_process() -> None:
    assert get_embedding_manager() is get_embedding_manager()
    assert generate_embedding(TEXTS[0]) == get_embedding_manager().generate_embedding(TEXTS[0])
    assert len(generate_batch_embeddings(TEXTS)) == 3


def test_the_provider_info_names_what_embeds_and_asks_nobody(vendor: LoopbackVendor) -> None:
    info = EmbeddingManager(EmbeddingBackend.COHERE).get_provider_info()
    server = vendor.url.removeprefix("http://")
    assert info == {
        "backend": "cohere",
        "provider": "cohere",
        "model": "embed-english-light-v3.0",
        "dimensions": 384,
        "space": f"cohere/embed-english-light-v3.0@384+{server}",
        "max_input_tokens": 512,
        "available": {
            "openai": "key is set",
            "cohere": "key is set",
            "local": "bundled model, needs no key and no network",
        },
    }
    assert list(vendor.stats.recent) == []


def test_the_provider_info_says_why_a_provider_is_not_available() -> None:
    info = EmbeddingManager().get_provider_info()
    assert (info["backend"], info["provider"]) == ("auto", "local")
    assert info["available"]["openai"] == "`OPENAI_API_KEY` is not set"
    assert info["available"]["cohere"] == "`COHERE_API_KEY` is not set"


_FORKED = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of what this program is about
from symmetra_mcp.embedding_config import generate_embedding
codes = []
for number in range(8):
    generate_embedding(f"query {number}")  # which a thread goes on to write to the cache's file
    child = os.fork()
    if not child:
        os.close(0)
        after = generate_embedding("two")
        sys.exit(0 if len(after) == 384 else 3)
    _, status = os.waitpid(child, 0)
    codes.append(os.waitstatus_to_exitcode(status))
print(codes)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.usefixtures("vendor")
def test_a_forked_process_embeds_and_ends() -> None:
    done = subprocess.run([sys.executable, "-c", _FORKED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (f"{[0] * 8}\n", "", 0)


def test_importing_the_names_loads_no_sdk() -> None:
    program = (
        "import sys, symmetra_mcp.embedding_config, symmetra_mcp.cloud_vector_search\n"
        "print(sorted({'openai', 'cohere', 'numpy', 'onnxruntime', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
