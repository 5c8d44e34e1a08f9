"""The bundled model: what it refuses to load, when it loads, and how texts reach it."""

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from symmetra_mcp.errors import ProviderNotInstalledError, ProviderUnavailableError
from symmetra_mcp.providers import local
from symmetra_mcp.providers.local import (
    DATA_DIRECTORY,
    MAX_INPUT_TOKENS,
    MAX_PASSAGE_TOKENS,
    MODEL_FILE,
    MODEL_SHA256,
    TOKENIZER_FILE,
    LocalProvider,
)
from symmetra_mcp.spaces import EmbeddingSpace

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def provider() -> LocalProvider:
    return LocalProvider()


@pytest.fixture
def data_copy(tmp_path: Path) -> Path:
    for name in (MODEL_FILE, TOKENIZER_FILE):
        shutil.copy(DATA_DIRECTORY / name, tmp_path / name)
    return tmp_path


def embed(provider: LocalProvider, *texts: str) -> NDArray[np.float32]:
    return asyncio.run(provider.embed_documents(texts)).vectors


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY, check=True)


def test_it_names_itself(provider: LocalProvider) -> None:
    assert provider.space == EmbeddingSpace("local", "all-MiniLM-L6-v2", 384)
    assert provider.max_input_tokens == 256
    assert provider.weights_digest == MODEL_SHA256


def test_importing_and_constructing_it_imports_no_library_of_the_model() -> None:
    done = run_python(
        "import sys\n"
        "from symmetra_mcp.providers.local import LocalProvider\n"
        "LocalProvider()\n"
        "print({'numpy', 'onnxruntime', 'tokenizers', 'torch'} & set(sys.modules))"
    )

    assert done.stdout.strip() == "set()"


def test_counting_tokens_loads_the_tokenizer_alone() -> None:
    done = run_python(
        "import sys\n"
        "from symmetra_mcp.providers.local import LocalProvider\n"
        "LocalProvider().count_tokens('a rule')\n"
        "print({'numpy', 'onnxruntime', 'torch'} & set(sys.modules))"
    )

    assert done.stdout.strip() == "set()"


def test_nothing_is_written_to_stdout_or_stderr() -> None:
    done = run_python(
        "import asyncio\n"
        "from symmetra_mcp.providers.local import LocalProvider\n"
        "asyncio.run(LocalProvider().embed_documents(['a', 'b']))"
    )

    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("name", [MODEL_FILE, TOKENIZER_FILE])
def test_a_flipped_byte_is_refused(data_copy: Path, name: str) -> None:
    flip_a_byte(data_copy / name)

    with pytest.raises(ProviderUnavailableError) as refusal:
        embed(LocalProvider(data_directory=data_copy), "a rule")

    pinned = {MODEL_FILE: local.MODEL_SHA256, TOKENIZER_FILE: local.TOKENIZER_SHA256}[name]
    message = str(refusal.value)
    assert str(data_copy / name) in message
    assert pinned[:12] in message
    assert pinned not in message
    assert "pip install --force-reinstall symmetra-mcp" in message
    assert (refusal.value.provider, refusal.value.model) == ("local", "all-MiniLM-L6-v2")


@pytest.mark.parametrize("name", [MODEL_FILE, TOKENIZER_FILE])
def test_a_truncated_file_is_refused(data_copy: Path, name: str) -> None:
    with (data_copy / name).open("r+b") as file:
        file.truncate(1000)

    with pytest.raises(ProviderUnavailableError, match="is damaged or not ours"):
        embed(LocalProvider(data_directory=data_copy), "a rule")


@pytest.mark.parametrize("name", [MODEL_FILE, TOKENIZER_FILE])
def test_a_missing_file_is_refused(data_copy: Path, name: str) -> None:
    (data_copy / name).unlink()

    with pytest.raises(ProviderUnavailableError, match=r"can't be read \(No such file or directory\): reinstall with"):
        embed(LocalProvider(data_directory=data_copy), "a rule")


def test_bulk_is_refused_with_the_same_error_as_one_text(data_copy: Path) -> None:
    flip_a_byte(data_copy / MODEL_FILE)

    with pytest.raises(ProviderUnavailableError, match="is damaged or not ours"):
        embed(LocalProvider(data_directory=data_copy), "a rule", "another rule")


def test_a_reinstalled_file_is_used_without_a_restart(data_copy: Path) -> None:
    provider = LocalProvider(data_directory=data_copy)
    flip_a_byte(data_copy / MODEL_FILE)
    with pytest.raises(ProviderUnavailableError):
        embed(provider, "a rule")

    flip_a_byte(data_copy / MODEL_FILE)
    assert embed(provider, "a rule").shape == (1, 384)


def test_a_model_that_the_runtime_cannot_read_is_an_error_of_ours(
    data_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data_copy / MODEL_FILE).write_bytes(b"no model")
    monkeypatch.setattr(local, "_verified", lambda path, _: path)

    with pytest.raises(ProviderUnavailableError, match="could not be loaded: InvalidProtobuf") as refusal:
        embed(LocalProvider(data_directory=data_copy), "a rule")
    assert refusal.value.__cause__ is not None


def test_a_failing_batch_is_an_error_of_ours_and_no_group() -> None:
    provider = LocalProvider()
    embed(provider, "a rule")

    class FailingSession:
        def run(self, *_: object) -> list[Any]:
            raise MemoryError("bad allocation")

    assert provider._model is not None
    provider._model._session = FailingSession()

    with pytest.raises(ProviderUnavailableError, match="failed to embed: MemoryError: bad allocation") as refusal:
        embed(provider, *(f"rule {n}" for n in range(40)))
    assert isinstance(refusal.value.__cause__, MemoryError)


def test_a_library_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(ProviderNotInstalledError, match=r"import of onnxruntime halted.*--force-reinstall"):
        embed(LocalProvider(), "a rule")


def test_wrong_numbers_of_a_vector_fail_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    (sentence, numbers), *others = local.GOLDEN
    monkeypatch.setattr(local, "GOLDEN", ((sentence, (numbers[0] + 0.05, *numbers[1:])), *others))

    with pytest.raises(ProviderUnavailableError, match=r"wrong vectors on this machine's CPU \(a known sentence has"):
        embed(LocalProvider(), "a rule")


def test_wrong_distances_fail_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GOLDEN_COSINES", (local.GOLDEN_COSINES[0] + 0.01, *local.GOLDEN_COSINES[1:]))

    with pytest.raises(ProviderUnavailableError, match="known sentences lie at the wrong distances"):
        embed(LocalProvider(), "a rule")


def test_numbers_that_are_not_finite_fail_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local._Model, "run", lambda _, ids: np.full((len(ids), 384), np.nan, np.float32))

    with pytest.raises(ProviderUnavailableError, match="has cosine nan"):
        embed(LocalProvider(), "a rule")


def test_concurrent_first_calls_load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    verified = local._verified

    def recorded(path: Path, sha256: str) -> Path:
        loads.append(path.name)
        return verified(path, sha256)

    monkeypatch.setattr(local, "_verified", recorded)
    provider = LocalProvider()

    def from_another_thread() -> None:
        asyncio.run(provider.embed_query("a query"))

    async def from_one_loop() -> None:
        await asyncio.gather(
            provider.warm_up(),
            provider.embed_documents(["a", "b", "c"]),
            *(provider.embed_query(f"query {n}") for n in range(10)),
        )

    threads = [threading.Thread(target=from_another_thread) for _ in range(3)]
    for thread in threads:
        thread.start()
    asyncio.run(from_one_loop())
    for thread in threads:
        thread.join()

    assert sorted(loads) == [MODEL_FILE, TOKENIZER_FILE]


def test_a_cancelled_bulk_stops_and_leaves_the_provider_usable(provider: LocalProvider) -> None:
    async def cancelled() -> NDArray[np.float32]:
        await provider.warm_up()
        bulk = asyncio.create_task(provider.embed_documents(["a rule of some length " * 40] * 400))
        await asyncio.sleep(0)
        await provider.embed_query("a query runs beside it")
        assert not bulk.done()
        bulk.cancel()
        with pytest.raises(asyncio.CancelledError):
            await bulk
        return (await provider.embed_documents(["a", "b", "c"])).vectors

    np.testing.assert_allclose(asyncio.run(cancelled()), embed(provider, "a", "b", "c"), atol=1e-5)


@pytest.mark.slow
def test_the_event_loop_turns_while_texts_are_embedded(provider: LocalProvider) -> None:
    async def turns_during_bulk() -> int:
        bulk = asyncio.create_task(provider.embed_documents(["a rule of some length " * 40] * 16))
        turns = 0
        while not bulk.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert asyncio.run(turns_during_bulk()) > 100


def test_the_same_text_gives_the_same_bytes(provider: LocalProvider) -> None:
    text = "Every pull request needs a review by somebody who did not write it."

    assert embed(provider, text).tobytes() == embed(LocalProvider(), text).tobytes()


@pytest.mark.parametrize(
    ("query", "wanted", "unlike"),
    [
        ("how do I store passwords", "Hash credentials with argon2 before saving them.", "Name tests after outcomes."),
        ("slow database queries", "Add an index for every column used in a WHERE clause.", "Use four spaces."),
        ("component naming in React", "React components are written in PascalCase.", "Rotate the API keys monthly."),
        ("what to log", "Write structured log lines, without personal data.", "Prefer flexbox to floats."),
    ],
)
def test_what_is_meant_lies_closer_than_what_is_not(
    provider: LocalProvider, query: str, wanted: str, unlike: str
) -> None:
    asked = asyncio.run(provider.embed_query(query)).vectors[0]
    similarities = embed(provider, wanted, unlike) @ asked

    assert similarities[0] > similarities[1] + 0.1


def test_offsets_cover_the_words_of_the_whole_text(provider: LocalProvider) -> None:
    text = "Naïve caching (memoisation) \ud800 is 漢字!"

    pieces = [text[start:end] for start, end in provider.token_offsets(text)]

    assert pieces == ["Naïve", "ca", "ching", "(", "memo", "isation", ")", "is", "漢", "字", "!"]


def test_tokens_are_counted_beyond_what_the_model_reads(provider: LocalProvider) -> None:
    assert provider.count_tokens("") == 0
    assert provider.count_tokens("rule " * 1000) == 1000
    assert len(provider.token_offsets("rule " * 1000)) == 1000


def test_a_passage_of_the_longest_length_is_read_to_its_end(provider: LocalProvider) -> None:
    passage = ["rule"] * (MAX_PASSAGE_TOKENS - 1)

    full, other_end, cut = embed(provider, *(" ".join([*passage, *end]) for end in (["a"], ["b"], ["a", "b"])))

    assert full @ other_end < 0.9999
    assert full @ cut > 0.99999


def whole_text_head(tokenizer: local._Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer._encode(text).ids
    return ids if len(ids) <= MAX_INPUT_TOKENS else [*ids[: MAX_INPUT_TOKENS - 1], ids[-1]]


@pytest.mark.parametrize(
    "text",
    [
        "a rule about input validation. " * 500,
        " " * 30_000 + "late words " * 500,
        "x" * 20_000 + " " + "late words " * 500,
        "漢字" * 5_000,
        "a" + "\u0301" * 20_000 + " late words" * 500,
        "!" * 252 + " " * 1_791 + "[MASK] is cut in two" * 100,
        "word " * 253 + "u" * 3_000 + " end" * 100,
        "word " * 253 + "x\u0301" * 50 + " " + "end " * 5_000,
        "\ud800" * 5_000 + "late words " * 500,
    ],
    ids=[
        "words",
        "spaces",
        "long-word",
        "no-spaces",
        "accents",
        "special",
        "last-word-cut",
        "last-accents",
        "surrogates",
    ],
)
@pytest.mark.parametrize("first_cut", [600, 1_000, 2_048])
def test_tokenising_a_part_gives_the_tokens_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, text: str, first_cut: int
) -> None:
    monkeypatch.setattr(local, "FIRST_CUT", first_cut)
    tokenizer = local._Tokenizer.load(DATA_DIRECTORY)

    assert tokenizer.head(text).tolist() == whole_text_head(tokenizer, text)


def test_of_a_long_text_only_the_start_is_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = local._Tokenizer.load(DATA_DIRECTORY)
    tokenised: list[int] = []
    encode = tokenizer._encode

    def recorded(text: str) -> Any:
        tokenised.append(len(text))
        return encode(text)

    monkeypatch.setattr(tokenizer, "_encode", recorded)

    assert len(tokenizer.head("a rule about input. " * 50_000)) == MAX_INPUT_TOKENS
    assert tokenised == [local.FIRST_CUT]


@pytest.mark.parametrize(
    "lengths", [[2], [256] * 9, [2] * 20, [3, 256, 17, 40, 40, 41, 5, 9, 128, 2]], ids=["one", "long", "short", "mixed"]
)
def test_batches_hold_every_row_once_and_stay_small(lengths: Sequence[int]) -> None:
    batches = local._batches(lengths)

    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(len(batch) <= local.BATCH_TEXTS for batch in batches)
    assert all(len(batch) * max(lengths[row] for row in batch) <= local.BATCH_TOKENS for batch in batches)
    assert [lengths[row] for batch in batches for row in batch] == sorted(lengths, reverse=True)


def test_nothing_is_written_to_the_users_home(tmp_path: Path) -> None:
    code = (
        "import anyio; from symmetra_mcp.providers.local import LocalProvider; "
        "print(anyio.run(LocalProvider().embed_query, 'hello').vectors.shape)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}

    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "(1, 384)"
    assert list(tmp_path.rglob("*")) == []
