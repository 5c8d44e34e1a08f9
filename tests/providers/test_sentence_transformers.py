"""Models run by sentence-transformers, without it: a stand-in for the library records how it is called."""

import asyncio
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from symmetra_mcp.errors import ProviderError, ProviderNotInstalledError, ProviderUnavailableError
from symmetra_mcp.providers import model_files
from symmetra_mcp.providers import sentence_transformers as module
from symmetra_mcp.providers.sentence_transformers import SentenceTransformersProvider
from symmetra_mcp.spaces import EmbeddingSpace

REPOSITORY = Path(__file__).resolve().parents[2]
COMMIT = "5c38ec7c405ec4b44b94cc5a9bb96e735b38267a"
POOLING = {"word_embedding_dimension": 4, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def write_model(folder: Path, **files: Any) -> Path:
    """A model's folder: `a__b="..."` writes the file `a/b.json`."""
    content = {
        "modules": modules("Transformer", "Pooling", "Normalize"),
        "config": {"hidden_size": 4, "max_position_embeddings": 512},
        "config_sentence_transformers": {"prompts": {"query": "query: ", "document": ""}},
        "sentence_bert_config": {"max_seq_length": 256},
        "1_Pooling__config": POOLING,
    } | files
    for name, value in content.items():
        if value is not None:
            path = folder / (name.replace("__", "/") + ".json")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(value), "utf-8")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    return folder


def modules(*kinds: str) -> list[dict[str, Any]]:
    return [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "", "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]


def write_cached(cache: Path, name: str, *, commit: str = COMMIT, **files: Any) -> Path:
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return write_model(repository / "snapshots" / commit, **files)


def unit(text: str) -> NDArray[np.float32]:
    vector = np.array([len(text) + 1, *(text.encode()[:3] + b"\0\0\0")[:3]], np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


class Library(ModuleType):
    """Stands in for the package `sentence_transformers`; its models are as the test sets `make`."""

    def __init__(self) -> None:
        super().__init__("sentence_transformers")
        self.opened: list[tuple[str, dict[str, Any]]] = []
        self.make: Callable[[str, dict[str, Any]], Any] = lambda location, options: Model()

    def SentenceTransformer(self, location: str, **options: Any) -> Any:
        self.opened.append((location, options))
        return self.make(location, options)


class Model:
    modalities: Sequence[str] = ["text"]
    max_seq_length: float | None = 128

    def __init__(self, dimensions: int = 4) -> None:
        self.dimensions = dimensions
        self.calls: list[tuple[str, list[Any]]] = []
        self.computing = threading.Lock()

    def get_embedding_dimension(self) -> int:
        return self.dimensions

    def encode_query(self, inputs: list[Any], **options: Any) -> NDArray[np.float32]:
        return self.encode("query", inputs, options)

    def encode_document(self, inputs: list[Any], **options: Any) -> NDArray[np.float32]:
        return self.encode("document", inputs, options)

    def encode(self, side: str, inputs: list[Any], options: dict[str, Any]) -> NDArray[np.float32]:
        assert self.computing.acquire(blocking=False), "two batches at once"
        try:
            assert options["normalize_embeddings"] is True
            assert options["show_progress_bar"] is False
            self.calls.append((side, inputs))
            return np.stack([self.vector(text) for text in inputs])
        finally:
            self.computing.release()

    def vector(self, text: Any) -> NDArray[np.float32]:
        return unit(text)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *args, **options: None)
    return tmp_path / "hub"


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = Library()
    quiet = SimpleNamespace(disable_progress_bar=lambda: None, set_verbosity_error=lambda: None)
    for name, stand_in in {
        "sentence_transformers": library,
        "transformers": ModuleType("transformers"),
        "transformers.utils": ModuleType("transformers.utils"),
        "transformers.utils.logging": quiet,
    }.items():
        monkeypatch.setitem(sys.modules, name, stand_in)  # type: ignore[arg-type]
    return library


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tuned")


def documents(provider: SentenceTransformersProvider, *texts: str) -> NDArray[np.float32]:
    return asyncio.run(provider.embed_documents(texts)).vectors


def query(provider: SentenceTransformersProvider, text: str) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = asyncio.run(provider.embed_query(text)).vectors[0]
    return vectors


def variant(folder: Path) -> str:
    return SentenceTransformersProvider(str(folder)).space.variant


def test_constructing_one_imports_no_heavy_library() -> None:
    program = (
        "import sys\n"
        "from symmetra_mcp.providers.sentence_transformers import SentenceTransformersProvider\n"
        "SentenceTransformersProvider('BAAI/bge-small-en-v1.5')\n"
        "print({'torch', 'transformers', 'sentence_transformers', 'huggingface_hub', 'numpy'} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY, check=True)

    assert done.stdout.strip() == "set()"


def test_missing_library_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # type: ignore[arg-type]
    provider = SentenceTransformersProvider(str(folder))

    for call in (provider.warm_up(), provider.embed_query("a"), provider.embed_documents(["a", "b"])):
        with pytest.raises(ProviderNotInstalledError, match=r'`pip install "symmetra-mcp\[local\]"`'):
            asyncio.run(call)


def test_space_of_a_folder_needs_no_library(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # type: ignore[arg-type]

    space = SentenceTransformersProvider(str(folder)).space

    assert space == EmbeddingSpace("local", "tuned", 4, variant=space.variant)
    assert len(bytes.fromhex(space.variant)) == 6


@pytest.mark.parametrize(
    ("files", "dimensions"),
    [
        ({}, 4),
        ({"1_Pooling__config": POOLING | {"pooling_mode_max_tokens": True}}, 8),
        ({"1_Pooling__config": {"word_embedding_dimension": 4}}, 4),
        ({"1_Pooling__config": {"embedding_dimension": 6, "pooling_mode": "cls"}}, 6),
        ({"1_Pooling__config": {"embedding_dimension": 6, "pooling_mode": ["cls", "mean"]}}, 12),
        (
            {
                "modules": modules("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize"),
                "2_Dense__config": {"in_features": 4, "out_features": 3},
            },
            3,
        ),
        ({"modules": None, "config": {"hidden_size": 5}}, 5),
        ({"config_sentence_transformers": {"truncate_dim": 2}}, 2),
        ({"config_sentence_transformers": {"truncate_dim": None}}, 4),
    ],
    ids=["mean", "two-modes", "no-mode", "new-key", "new-list", "dense", "bare-network", "truncated", "not-truncated"],
)
def test_dimensions_are_read_off_the_folder(
    tmp_path: Path, library: Library, files: dict[str, Any], dimensions: int
) -> None:
    folder = write_model(tmp_path / "model", **files)

    assert SentenceTransformersProvider(str(folder)).space.dimensions == dimensions
    assert not library.opened


@pytest.mark.parametrize(
    "files",
    [
        {"modules": modules("Router")},
        {"modules": modules("StaticEmbedding", "Normalize")},
        {"modules": modules("Transformer", "Pooling"), "1_Pooling__config": None},
        {"modules": None, "config": {"dim": 768}},
        {"modules": None, "config": {"hidden_size": 768, "projection_dim": 512}},
    ],
    ids=["router", "static", "no-pooling-config", "other-key", "projection"],
)
def test_model_is_loaded_where_its_files_do_not_tell_the_dimensions(
    tmp_path: Path, library: Library, files: dict[str, Any]
) -> None:
    library.make = lambda location, options: Model(7)
    folder = write_model(tmp_path / "model", **files)
    provider = SentenceTransformersProvider(str(folder))

    assert provider.space.dimensions == 7
    assert provider.space.variant == variant(folder)


def test_space_does_not_depend_on_where_the_folder_lies(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "tuned")

    assert SentenceTransformersProvider(str(copy)).space == SentenceTransformersProvider(f"{folder}/").space


def test_relative_and_home_paths_are_folders_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    space = SentenceTransformersProvider(str(folder)).space

    for path in ("tuned", "./tuned", "~/tuned", "tuned/../tuned"):
        assert SentenceTransformersProvider(path).space == space


@pytest.mark.parametrize("file", ["model.safetensors", "config_sentence_transformers.json", "1_Pooling/config.json"])
def test_a_file_replaced_in_place_makes_another_space(folder: Path, file: str) -> None:
    before = variant(folder)
    content = bytearray((folder / file).read_bytes())
    content[-3] ^= 1
    (folder / file).write_bytes(content)

    assert variant(folder) != before


def test_a_changed_layer_of_large_weights_makes_another_space(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "WHOLE_FILE_BYTES", 1024)
    weights = folder / "model.safetensors"
    content = bytearray(20_000_000)
    weights.write_bytes(content)
    before = variant(folder)
    content[11_000_000:11_100_000] = b"\1" * 100_000  # half a percent
    weights.write_bytes(content)

    assert variant(folder) != before


@pytest.mark.parametrize("file", ["README.md", ".git/HEAD", "checkpoint-500/model.safetensors", "onnx/model.onnx"])
def test_files_that_change_no_vector_leave_the_space_alone(folder: Path, file: str) -> None:
    before = variant(folder)
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text("something else")

    assert variant(folder) == before


def test_renamed_weights_make_another_space(folder: Path) -> None:
    before = variant(folder)
    (folder / "model.safetensors").rename(folder / "model2.safetensors")

    assert variant(folder) != before


def test_named_model_has_the_revision_in_the_cache_as_variant(cache: Path, library: Library) -> None:
    write_cached(cache, "BAAI/bge-small-en-v1.5")

    space = SentenceTransformersProvider("BAAI/bge-small-en-v1.5").space

    assert space == EmbeddingSpace("local", "BAAI/bge-small-en-v1.5", 4, variant=COMMIT[:12])
    assert not library.opened


def test_name_without_an_owner_is_one_of_the_librarys_own(cache: Path) -> None:
    write_cached(cache, "sentence-transformers/paraphrase-MiniLM-L3-v2")

    space = SentenceTransformersProvider("paraphrase-MiniLM-L3-v2").space

    assert space.model == "sentence-transformers/paraphrase-MiniLM-L3-v2"


def test_cached_model_is_opened_by_path_without_the_network(cache: Path, library: Library) -> None:
    folder = write_cached(cache, "owner/name")

    asyncio.run(SentenceTransformersProvider("owner/name", device="cpu").warm_up())

    assert library.opened == [
        (
            str(folder),
            {
                "device": "cpu",
                "trust_remote_code": False,
                "model_kwargs": {"dtype": "float32"},
                "local_files_only": True,
            },
        )
    ]


def test_model_is_downloaded_by_name_into_the_cache_where_it_is_looked_for(cache: Path, library: Library) -> None:
    def make(location: str, options: dict[str, Any]) -> Model:
        write_cached(cache, location)
        return Model()

    library.make = make
    asyncio.run(SentenceTransformersProvider("owner/name").warm_up())

    assert library.opened == [
        (
            "owner/name",
            {
                "device": None,
                "trust_remote_code": False,
                "model_kwargs": {"dtype": "float32"},
                "revision": None,
                "cache_folder": str(cache),
            },
        )
    ]


def test_folder_is_opened_by_path_without_the_network(folder: Path, library: Library) -> None:
    asyncio.run(SentenceTransformersProvider(str(folder)).warm_up())

    [(location, options)] = library.opened
    assert location == str(folder)
    assert options["local_files_only"] is True
    assert options["trust_remote_code"] is False


def test_download_that_broke_off_is_finished_at_the_same_revision(cache: Path, library: Library) -> None:
    folder = write_cached(cache, "owner/name")

    def make(location: str, options: dict[str, Any]) -> Model:
        if location == str(folder):
            raise OSError("no file named model.safetensors")
        return Model()

    library.make = make
    asyncio.run(SentenceTransformersProvider("owner/name").warm_up())

    assert [(location, options.get("revision")) for location, options in library.opened] == [
        (str(folder), None),
        ("owner/name", COMMIT),
    ]


def test_cache_that_another_program_filled_in_part_is_not_taken_for_the_model(cache: Path, library: Library) -> None:
    write_cached(cache, "owner/name", modules=None)

    asyncio.run(SentenceTransformersProvider("owner/name").warm_up())

    assert [location for location, _ in library.opened] == ["owner/name"]


def test_model_known_to_be_a_bare_network_is_opened_without_the_network(cache: Path, library: Library) -> None:
    folder = write_cached(cache, "owner/name", modules=None)
    absent = cache / "models--owner--name" / ".no_exist" / COMMIT
    absent.mkdir(parents=True)
    (absent / "modules.json").touch()

    asyncio.run(SentenceTransformersProvider("owner/name").warm_up())

    assert [location for location, _ in library.opened] == [str(folder)]


def test_downloaded_model_is_in_the_space_of_the_revision_that_came(cache: Path, library: Library) -> None:
    def make(location: str, options: dict[str, Any]) -> Model:
        write_cached(cache, location)
        return Model()

    library.make = make
    provider = SentenceTransformersProvider("owner/name")
    asyncio.run(provider.warm_up())

    assert provider.space == EmbeddingSpace("local", "owner/name", 4, variant=COMMIT[:12])


def test_model_that_the_hub_does_not_give_is_not_asked_for_file_by_file(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: Any, **options: Any) -> None:
        raise ConnectionError("Network is unreachable\nand more")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)

    with pytest.raises(ProviderUnavailableError) as caught:
        asyncio.run(SentenceTransformersProvider("owner/name").embed_query("a"))

    assert str(caught.value) == (
        "the local model 'owner/name' could not be downloaded (ConnectionError: Network is unreachable): "
        "check the name, connect to the network once so that 'owner/name' can be downloaded, or give a model's folder "
        "in `SYMMETRA_EMBEDDING_MODEL`"
    )
    assert not library.opened


def test_download_that_fails_half_way_says_what_to_do(library: Library) -> None:
    def make(location: str, options: dict[str, Any]) -> Model:
        raise OSError("connection reset")

    library.make = make

    with pytest.raises(ProviderUnavailableError, match="connect to the network once") as caught:
        asyncio.run(SentenceTransformersProvider("owner/name").embed_query("a"))
    assert "could not be downloaded (OSError: connection reset)" in str(caught.value)


def test_folder_that_can_not_be_loaded_says_what_to_do(folder: Path, library: Library) -> None:
    def make(location: str, options: dict[str, Any]) -> Model:
        raise ValueError("header too large")

    library.make = make

    with pytest.raises(ProviderUnavailableError, match="save it again or give another model") as caught:
        asyncio.run(SentenceTransformersProvider(str(folder)).warm_up())
    assert [options["local_files_only"] for _, options in library.opened] == [True]
    assert "could not be loaded (ValueError: header too large)" in str(caught.value)


def test_path_without_a_model_is_refused_with_the_path(
    tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)

    for path in (str(tmp_path / "missing"), "./missing", "file"):
        with pytest.raises(ProviderUnavailableError, match="is no folder") as caught:
            _ = SentenceTransformersProvider(path).space
        assert str(tmp_path / Path(path).name) in str(caught.value)
        assert "SYMMETRA_EMBEDDING_MODEL" in str(caught.value)
    with pytest.raises(ProviderUnavailableError, match="folder without a model"):
        asyncio.run(SentenceTransformersProvider(str(tmp_path)).warm_up())
    assert not library.opened


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 256),
        ({"sentence_bert_config": {}, "tokenizer_config": {"model_max_length": 384}}, 384),
        ({"sentence_bert_config": None, "tokenizer_config": {"model_max_length": 10**30}}, 512),
        ({"sentence_bert_config": {"max_seq_length": None}, "config": {"max_position_embeddings": 8192}}, 8192),
        ({"sentence_bert_config": None, "config": {}}, 512),
    ],
    ids=["own", "tokenizer", "network", "long", "unknown"],
)
def test_limit_of_tokens_is_read_off_the_folder(tmp_path: Path, files: dict[str, Any], limit: int) -> None:
    assert SentenceTransformersProvider(str(write_model(tmp_path / "model", **files))).max_input_tokens == limit


def test_loaded_models_own_limit_of_tokens_counts(folder: Path) -> None:
    provider = SentenceTransformersProvider(str(folder))
    asyncio.run(provider.warm_up())

    assert provider.max_input_tokens == 128


def test_model_without_a_limit_of_tokens_keeps_the_folders(folder: Path, library: Library) -> None:
    model = Model()
    model.max_seq_length = float("inf")
    library.make = lambda location, options: model
    provider = SentenceTransformersProvider(str(folder))
    asyncio.run(provider.warm_up())

    assert provider.max_input_tokens == 256


@pytest.fixture
def model(library: Library) -> Model:
    model = Model()
    library.make = lambda location, options: model
    return model


@pytest.fixture
def provider(folder: Path, model: Model) -> SentenceTransformersProvider:
    return SentenceTransformersProvider(str(folder))


def test_each_side_is_encoded_as_the_model_wants_it(provider: SentenceTransformersProvider, model: Model) -> None:
    query(provider, "a")
    documents(provider, "b")

    assert model.calls == [("query", ["a"]), ("document", ["b"])]


def test_vectors_of_many_batches_come_in_the_order_of_the_texts(
    provider: SentenceTransformersProvider, model: Model
) -> None:
    texts = [f"{n:03} " + "x" * (n * 37 % 101) for n in range(100)]

    np.testing.assert_allclose(documents(provider, *texts), np.stack([unit(text) for text in texts]), atol=1e-6)
    assert [len(inputs) for _, inputs in model.calls] == [32, 32, 32, 4]


def test_lone_surrogates_do_not_reach_the_library(provider: SentenceTransformersProvider, model: Model) -> None:
    query(provider, "a\udfffb")

    assert model.calls == [("query", ["a\ufffdb"])]


def test_text_that_a_model_makes_nothing_of_has_a_vector(
    provider: SentenceTransformersProvider, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "vector", lambda text: unit(text) if text.strip() else np.zeros(4, np.float32))

    vectors = documents(provider, "a", "", " \n")

    np.testing.assert_allclose(vectors, np.stack([unit("a"), unit("."), unit(".")]), atol=1e-6)


def test_text_that_is_an_images_address_stays_a_text(
    provider: SentenceTransformersProvider, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "modalities", ["text", "image"])
    monkeypatch.setattr(model, "vector", lambda given: unit(given["text"]))

    query(provider, "https://example.com/logo.png")

    assert model.calls == [("query", [{"text": "https://example.com/logo.png"}])]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("not enough memory: 2 GB\nat 0x1"), "(RuntimeError: not enough memory: 2 GB)"),
        (MemoryError(), "(MemoryError)"),
        (ValueError("can't read 'secret text'"), "(ValueError)"),
        (KeyError("secret text"), "(KeyError)"),
    ],
    ids=["runtime", "memory", "value", "key"],
)
def test_errors_of_the_library_are_ours_and_quote_no_text(
    provider: SentenceTransformersProvider,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
) -> None:
    def fail(text: Any) -> NDArray[np.float32]:
        raise error

    monkeypatch.setattr(model, "vector", fail)

    with pytest.raises(ProviderUnavailableError) as caught:
        query(provider, "secret text")
    assert str(caught.value) == (
        f"the local model {provider._name!r} failed to embed {reason}; if it stays so, save it again or give another "
        "model in `SYMMETRA_EMBEDDING_MODEL`"
    )


def test_dimensions_that_the_model_does_not_know_are_counted(tmp_path: Path, library: Library) -> None:
    model = Model()
    model.dimensions = 0
    library.make = lambda location, options: model
    folder = write_model(tmp_path / "model", modules=modules("Router"))

    assert SentenceTransformersProvider(str(folder)).space.dimensions == 4


def test_model_that_answers_in_another_length_is_refused(
    provider: SentenceTransformersProvider, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "vector", lambda text: np.ones(3, np.float32))

    with pytest.raises(ProviderError, match=r"\(1, 3\) where \(1, 4\)"):
        query(provider, "a")


def test_weights_replaced_after_the_space_was_read_are_not_used(
    provider: SentenceTransformersProvider, folder: Path
) -> None:
    query(provider, "a")
    (folder / "model.safetensors").write_bytes(b"other weights")
    asyncio.run(provider.aclose())

    with pytest.raises(ProviderUnavailableError, match="`symmetra-mcp reembed`"):
        query(provider, "a")


def test_closed_provider_loads_its_model_again(provider: SentenceTransformersProvider, library: Library) -> None:
    query(provider, "a")
    query(provider, "b")
    assert len(library.opened) == 1

    asyncio.run(provider.aclose())
    asyncio.run(provider.aclose())
    query(provider, "c")
    assert len(library.opened) == 2


def test_concurrent_calls_load_once_and_compute_one_at_a_time(
    provider: SentenceTransformersProvider, model: Model, library: Library
) -> None:
    second = threading.Barrier(2)

    def make(location: str, options: dict[str, Any]) -> Model:
        with suppress(threading.BrokenBarrierError):
            second.wait(0.2)  # time for another call to begin loading as well
        return model

    library.make = make

    async def together() -> None:
        await asyncio.gather(
            *(provider.embed_query(f"q{n}") for n in range(20)),
            *(provider.embed_documents([f"d{n}"] * 70) for n in range(5)),
        )

    asyncio.run(together())

    assert len(library.opened) == 1


def test_no_texts_give_no_vectors(provider: SentenceTransformersProvider, library: Library) -> None:
    assert documents(provider).shape == (0, 4)
    assert not library.opened


def test_batch_leaves_its_turn_to_a_query_that_is_about_to_run() -> None:
    turns = module._Turns()
    computed = threading.Event()

    def compute() -> None:
        with turns.turn("document"):
            computed.set()

    turns._waiting_queries = 1  # woken, but another thread runs at this moment
    batch = threading.Thread(target=compute)
    batch.start()
    while not (computed.is_set() or turns._condition._waiters):  # type: ignore[attr-defined]
        computed.wait(0.001)
    assert not computed.is_set()

    with turns._condition:
        turns._waiting_queries = 0
        turns._condition.notify_all()
    batch.join()
    assert computed.is_set()


def test_query_is_answered_before_the_rest_of_a_reembedding(
    provider: SentenceTransformersProvider, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()
    computing = threading.Event()

    def vector(text: str) -> NDArray[np.float32]:
        computing.set()
        assert asked.wait(30)
        return unit(text)

    monkeypatch.setattr(model, "vector", vector)

    def until_a_query_waits() -> None:
        turns = provider._turns
        with turns._condition:
            while not turns._waiting_queries:  # nothing tells of it
                turns._condition.wait(0.001)

    async def search_during_a_reembedding() -> None:
        reembedding = asyncio.create_task(provider.embed_documents(["rule"] * 96))
        await asyncio.to_thread(computing.wait, 30)
        search = asyncio.create_task(provider.embed_query("question"))
        await asyncio.to_thread(until_a_query_waits)
        asked.set()
        await asyncio.gather(reembedding, search)

    asyncio.run(search_during_a_reembedding())

    assert [side for side, _ in model.calls] == ["document", "query", "document", "document"]
