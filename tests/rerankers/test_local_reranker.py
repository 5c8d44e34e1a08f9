"""The local cross-encoder without its library: a stand-in records how it is called. The real one: `tests/slow`."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from symmetra_mcp.errors import InvalidRankingError, ProviderNotInstalledError, ProviderUnavailableError
from symmetra_mcp.rerankers.local import BATCH_DOCUMENTS, LocalReranker

pytestmark = pytest.mark.anyio

QUERY = "secrets"
DOCUMENTS = ["one", "three three three", "two two"]


class Model:
    """Scores by the length of a document."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(architectures=["BertForSequenceClassification"])
        self.modalities = ["text"]
        self.pairs: list[Any] = []
        self.entered, self.may_go = threading.Event(), threading.Event()
        self.may_go.set()
        self.outputs = 1

    def predict(self, pairs: list[Any], **options: Any) -> Any:
        self.pairs += pairs
        self.entered.set()
        assert self.may_go.wait(10)
        logits = np.array([len(document) / 10 for _, document in pairs], np.float32)
        assert options["activation_fn"](logits) is logits
        return logits if self.outputs == 1 else np.stack([logits] * self.outputs, axis=1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 4}), "utf-8")
    return tmp_path


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, model: Model) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    library = ModuleType("sentence_transformers")

    def cross_encoder(location: str, **options: Any) -> Model:
        found.append((location, options))
        return model

    library.CrossEncoder = cross_encoder  # type: ignore[attr-defined]
    logs = SimpleNamespace(disable_progress_bar=lambda: None, set_verbosity_error=lambda: None)
    stand_ins = {"sentence_transformers": library, "transformers.utils.logging": logs}
    stand_ins |= {"huggingface_hub.utils": SimpleNamespace(disable_progress_bars=lambda: None)}
    for name, stand_in in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, stand_in)  # type: ignore[arg-type]
    yield found
    model.may_go.set()


async def test_scores_are_between_0_and_1_in_the_documents_order(folder: Path, model: Model, opened: list[Any]) -> None:
    scores = await LocalReranker(str(folder), timeout_s=10).rerank(QUERY, DOCUMENTS)

    expected = [1 / (1 + np.exp(-len(document) / 10)) for document in DOCUMENTS]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert [pair[0] for pair in model.pairs] == [QUERY] * 3
    ((location, options),) = opened
    assert location == str(folder)
    assert (options["local_files_only"], options["trust_remote_code"]) == (True, False)


async def test_a_missing_library_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # type: ignore[arg-type]
    with pytest.raises(ProviderNotInstalledError, match=r'pip install "symmetra-mcp\[local\]"'):
        await LocalReranker(str(folder), timeout_s=10).rerank(QUERY, DOCUMENTS)


async def test_a_slow_model_is_given_up_and_reads_no_more(folder: Path, model: Model, opened: list[Any]) -> None:
    reranker = LocalReranker(str(folder), timeout_s=0.05)
    await reranker.warm_up()
    model.may_go.clear()

    with pytest.raises(ProviderUnavailableError, match="lower `SYMMETRA_RERANK_CANDIDATES`"):
        await reranker.rerank(QUERY, ["text"] * BATCH_DOCUMENTS * 3)

    model.may_go.set()
    reranker.timeout_s = 10
    await reranker.rerank(QUERY, DOCUMENTS)  # waits for the thread that was given up
    assert len(model.pairs) == BATCH_DOCUMENTS + len(DOCUMENTS)


async def test_a_model_that_is_being_loaded_is_told_and_not_loaded_twice(
    folder: Path, model: Model, opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load = threading.Event()
    library = sys.modules["sentence_transformers"]
    make = library.CrossEncoder

    def slow(location: str, **options: Any) -> Model:
        assert may_load.wait(10)
        return make(location, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr(library, "CrossEncoder", slow)
    reranker = LocalReranker(str(folder), timeout_s=0.05)
    with pytest.raises(ProviderUnavailableError, match="is still being loaded"):
        await reranker.rerank(QUERY, DOCUMENTS)
    may_load.set()
    await reranker.warm_up()
    reranker.timeout_s = 10
    assert (await reranker.rerank(QUERY, DOCUMENTS)).shape == (3,)
    assert len(opened) == 1


async def test_a_model_of_several_outputs_is_refused(folder: Path, model: Model, opened: list[Any]) -> None:
    model.outputs = 3
    with pytest.raises(InvalidRankingError, match="it is no re-ranker"):
        await LocalReranker(str(folder), timeout_s=10).rerank(QUERY, DOCUMENTS)


async def test_a_model_without_a_trained_output_is_refused(folder: Path, model: Model, opened: list[Any]) -> None:
    model.config.architectures = ["BertModel"]
    with pytest.raises(ProviderUnavailableError, match=r"is no cross-encoder \(BertModel\)"):
        await LocalReranker(str(folder), timeout_s=10).rerank(QUERY, DOCUMENTS)


async def test_an_error_of_the_library_is_ours_and_quotes_no_rule(
    folder: Path, model: Model, opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(pairs: list[Any], **options: Any) -> Any:
        raise KeyError(pairs[0][1])

    monkeypatch.setattr(model, "predict", fail)
    with pytest.raises(ProviderUnavailableError, match="failed to read the rules") as caught:
        await LocalReranker(str(folder), timeout_s=10).rerank(QUERY, DOCUMENTS)
    assert not any(document in str(caught.value) for document in DOCUMENTS)


def test_answers_name_a_folder_without_its_path() -> None:
    assert str(LocalReranker("/models/ours")) == "local/ours"
    assert str(LocalReranker()) == "local/cross-encoder/ms-marco-MiniLM-L6-v2"
