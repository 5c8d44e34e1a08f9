"""The provider that needs no account and no network: all-MiniLM-L6-v2, carried in the package, run by ONNX Runtime.

`tools/build_weights.py` makes the files that this module reads.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar

from symmetra_mcp.errors import ProviderNotInstalledError, ProviderUnavailableError
from symmetra_mcp.providers.base import EmbeddingProvider
from symmetra_mcp.spaces import EmbeddingSpace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession
    from tokenizers import Encoding, Tokenizer

    from symmetra_mcp.types import InputType

    Vectors = NDArray[np.float32]
    TokenIds = NDArray[np.int64]

SPACE = EmbeddingSpace("local", "all-MiniLM-L6-v2", 384)
"""Shared with sentence-transformers' float32 of the same model: over a thousand rules no cosine was below 0.9985."""

DATA_DIRECTORY = Path(__file__).resolve().parent.parent / "_data"
MODEL_FILE = "minilm-l6-v2-int8.onnx"
TOKENIZER_FILE = "tokenizer.json"
MODEL_SHA256 = "bbf86a622f883ea9193045e0775489a63f01683fa00b3ebbc73f758fc84412fb"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
"""Both printed by `tools/build_weights.py`."""

REINSTALL = "reinstall with `pip install --force-reinstall symmetra-mcp`"

MAX_INPUT_TOKENS = 256
"""What the model was trained to read, from its sentence_bert_config.json."""

MAX_PASSAGE_TOKENS = MAX_INPUT_TOKENS - 2
"""Word pieces of one text that reach the model: `[CLS]` and `[SEP]` take a place each."""

BULK_WORKERS = 2
QUERY_WORKERS = 2
BATCH_TEXTS = 8
BATCH_TOKENS = 1024
"""Padding included. Against one text at a time, batches of 8 save 15 % of the time on texts of 40 tokens and next to
nothing on texts of 100. Batches of 2,048 tokens are no faster and take 60 MB more."""

FIRST_CUT = 2_048
"""Characters to tokenise at first: 256 tokens of English or of code take half of them."""

CUT_GROWTH = 8
"""How many times more to tokenise when that was too little; large, so that few tokenisations are done twice."""

SETTLED_WORDS = 4
"""Words that must follow the last token kept before what comes after the cut is known not to matter."""

LONE_SURROGATE = re.compile("[\ud800-\udfff]")

# fmt: off
GOLDEN: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("Validate input on the server.",
     (-0.0083, -0.0174, -0.0753, -0.0691, -0.0489, -0.0042, -0.0153, -0.0317, 0.0245, -0.0285, -0.0160, 0.0219,
      0.1078, 0.0205, -0.0595, -0.0403, -0.0106, 0.0433, 0.0353, -0.1038, -0.0406, -0.0586, -0.0668, 0.0183)),
    ("Roll back the transaction when any write of it fails.",
     (-0.0086, 0.0369, -0.0281, 0.0070, -0.0612, -0.0306, 0.0013, -0.0392, 0.0401, 0.0588, 0.0903, 0.0754,
      0.0182, -0.0523, -0.0881, -0.0717, -0.0296, 0.0919, -0.0352, 0.0190, -0.0703, 0.0138, -0.0112, 0.0780)),
    ("Café, naïve façade: 漢字, [MASK]!",
     (-0.0464, 0.0412, 0.0522, -0.0045, -0.0147, 0.0192, 0.0184, -0.0563, -0.0315, -0.0165, 0.0536, -0.1153,
      -0.0154, 0.0022, 0.0670, 0.0138, 0.0343, -0.0091, 0.0561, -0.0087, 0.0012, 0.0185, 0.0414, -0.0404)),
)
# fmt: on
"""Sentences of different lengths with the first numbers of their vectors, as the shipped file gives them."""

GOLDEN_COSINES = (0.2367, -0.0473, -0.0782)
"""Between the first and second, first and third, second and third sentence: what the leading numbers leave out."""

MIN_GOLDEN_COSINE = 0.999
"""Machines that compute rightly agree to the sixth digit, so this is far from them and from noise alike."""

# Lanes of their own, so that embedding neither fills anyio's 40 common threads nor waits for them, and so that a query
# does not queue behind a re-embedding. One pair for each event loop, since a limiter belongs to the loop that made it.
_query_lane: RunVar[anyio.CapacityLimiter] = RunVar("symmetra_mcp.providers.local.query_lane")
_bulk_lane: RunVar[anyio.CapacityLimiter] = RunVar("symmetra_mcp.providers.local.bulk_lane")


class LocalProvider(EmbeddingProvider):
    """all-MiniLM-L6-v2 inside this process. English; reads the first 256 tokens of a text.

    The model takes queries and documents alike. It is loaded once, at first use or by `warm_up`, and may be shared
    between threads and event loops.
    """

    def __init__(self, *, data_directory: Path = DATA_DIRECTORY) -> None:
        self._data_directory = data_directory
        # Taken in this order: loading the model needs the tokenizer.
        self._model_lock = Lock()
        self._tokenizer_lock = Lock()
        self._model: _Model | None = None
        self._tokenizer: _Tokenizer | None = None

    @property
    def space(self) -> EmbeddingSpace:
        """The space that every vector of this provider belongs to."""
        return SPACE

    @property
    def max_input_tokens(self) -> int:
        """Tokens of one text that the model reads, `[CLS]` and `[SEP]` included."""
        return MAX_INPUT_TOKENS

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the only weights this provider accepts, to record beside the vectors it made."""
        return MODEL_SHA256

    def count_tokens(self, text: str) -> int:
        """Count the word pieces of the whole text, without `[CLS]` and `[SEP]`. Loads the tokenizer alone.

        Raises:
            ProviderError: The tokenizer can't be loaded.
        """
        return len(self.token_offsets(text))

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Where each word piece of the whole text starts and ends, in characters. Loads the tokenizer alone.

        A passage of at most `MAX_PASSAGE_TOKENS` pieces is read to its end.

        Raises:
            ProviderError: The tokenizer can't be loaded.
        """
        return self._loaded_tokenizer().offsets(text)

    def load(self) -> None:
        """Load the model now, in this thread.

        Raises:
            ProviderError: The model can't be loaded, or computes wrong numbers on this machine.
        """
        self._loaded_model()

    async def warm_up(self) -> None:
        """Load the model now, off the event loop.

        Raises:
            ProviderError: The model can't be loaded, or computes wrong numbers on this machine.
        """
        await to_thread.run_sync(self._loaded_model, limiter=_lane(_query_lane, QUERY_WORKERS))

    async def aclose(self) -> None:
        """Let go of the model's memory; a later call loads it again."""
        self._model = None
        self._tokenizer = None

    async def _embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        if len(texts) == 1:
            return await to_thread.run_sync(self._embed_one, texts[0], limiter=_lane(_query_lane, QUERY_WORKERS))
        return await self._embed_many(texts)

    def _embed_one(self, text: str) -> Vectors:
        model = self._loaded_model()
        return model.run([self._loaded_tokenizer().head(text)])

    async def _embed_many(self, texts: Sequence[str]) -> Vectors:
        """Embed batch after batch on two threads. A cancelled call ends after the batches that are being computed."""
        import numpy as np

        lane = _lane(_bulk_lane, BULK_WORKERS)
        model = await to_thread.run_sync(self._loaded_model, limiter=lane)
        tokenizer = self._loaded_tokenizer()
        ids = await to_thread.run_sync(lambda: [tokenizer.head(text) for text in texts], limiter=lane)
        vectors = np.empty((len(texts), SPACE.dimensions), np.float32)
        batches = iter(_batches([len(text_ids) for text_ids in ids]))

        async def work() -> None:
            for rows in batches:  # shared: whichever worker is free takes the next batch
                vectors[rows] = await to_thread.run_sync(model.run, [ids[row] for row in rows], limiter=lane)

        try:
            async with anyio.create_task_group() as workers:
                for _ in range(BULK_WORKERS):
                    workers.start_soon(work)
        except ExceptionGroup as group:
            raise group.exceptions[0]  # noqa: B904 - callers catch ProviderError; its own cause must stay
        return vectors

    def _loaded_model(self) -> _Model:
        with self._model_lock:
            if self._model is None:
                model = _Model.load(self._data_directory)
                _self_test(model, self._loaded_tokenizer())
                _return_freed_memory()
                self._model = model
            return self._model

    def _loaded_tokenizer(self) -> _Tokenizer:
        with self._tokenizer_lock:
            if self._tokenizer is None:
                self._tokenizer = _Tokenizer.load(self._data_directory)
            return self._tokenizer


class _Tokenizer:
    """Text to word pieces. The library's own truncation is off, as `offsets` needs whole texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, directory: Path) -> _Tokenizer:
        path = _verified(directory / TOKENIZER_FILE, TOKENIZER_SHA256)
        with _installed():
            from tokenizers import Tokenizer
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls(tokenizer)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        offsets: list[tuple[int, int]] = self._encode(text).offsets[1:-1]
        return offsets

    def head(self, text: str) -> TokenIds:
        """Ids of the text's first tokens, as many as the model reads.

        No number of characters is enough for 256 tokens: spaces and accents make none, and a word of a megabyte makes
        one. So the start of the text is tokenised, and more of it only while more could change the result.
        """
        import numpy as np

        end = FIRST_CUT
        encoding = self._encode(text[:end])
        while end < len(text) and not _settled(encoding):
            end *= CUT_GROWTH
            encoding = self._encode(text[:end])
        ids = encoding.ids
        if len(ids) > MAX_INPUT_TOKENS:
            ids = [*ids[: MAX_INPUT_TOKENS - 1], ids[-1]]
        return np.array(ids, np.int64)

    def _encode(self, text: str) -> Encoding:
        # The library refuses lone surrogates, which JSON can carry. U+FFFD is as long, and its normaliser drops it.
        return self._tokenizer.encode(LONE_SURROGATE.sub("\ufffd", text))


def _settled(encoding: Encoding) -> bool:
    """Whether text after this start can no longer change the tokens that are kept.

    A word's pieces depend on that word alone, so whole words after the last one kept are enough; more than one because
    a cut through a special token such as `[MASK]` leaves two words.
    """
    words = encoding.word_ids
    if len(words) <= MAX_INPUT_TOKENS:
        return False
    last_kept, last = words[MAX_PASSAGE_TOKENS], words[-2]
    return last_kept is not None and last is not None and last - last_kept >= SETTLED_WORDS


class _Model:
    """The ONNX graph: token ids in, unit vectors out. Threads may call `run` at the same time."""

    def __init__(self, session: InferenceSession) -> None:
        self._session = session

    @classmethod
    def load(cls, directory: Path) -> _Model:
        path = _verified(directory / MODEL_FILE, MODEL_SHA256)
        # Read while the library is imported: `disable_telemetry_events` would come after it has begun.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        with _installed():
            # First, and whole: onnxruntime begins with a part of it, and where a search imports it in another thread
            # at that moment, each waits for the other until Python lets both fail, for as long as the process lives.
            import numpy  # noqa: F401
            import onnxruntime
        onnxruntime.set_default_logger_severity(4)
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # fatal: everything less arrives as an exception
        # One thread a text: a second costs twice the CPU for the same latency on a busy machine, and can stall.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        # The arena stays on: without it, bulk is no faster and its peak 65 MB higher. A memory pattern is kept for each
        # input shape, and here nearly every input has its own.
        options.enable_mem_pattern = False
        with _runtime_errors("could not be loaded"):
            # By path, since a session made of bytes keeps them (22 MB) for as long as it lives.
            return cls(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))

    def run(self, ids: Sequence[TokenIds]) -> Vectors:
        import numpy as np

        input_ids = np.zeros((len(ids), max(map(len, ids))), np.int64)
        attention_mask = np.zeros_like(input_ids)
        for row, text_ids in enumerate(ids):
            input_ids[row, : len(text_ids)] = text_ids
            attention_mask[row, : len(text_ids)] = 1
        with _runtime_errors("failed to embed"):
            (vectors,) = self._session.run(None, {"input_ids": input_ids, "attention_mask": attention_mask})
        return np.asarray(vectors, np.float32)


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Group rows of like length, as padding is computed too; longest first, so that both workers end together."""
    batches: list[list[int]] = []
    room = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not room:
            batches.append([])
            room = max(1, min(BATCH_TEXTS, BATCH_TOKENS // lengths[row]))
        batches[-1].append(row)
        room -= 1
    return batches


def _self_test(model: _Model, tokenizer: _Tokenizer) -> None:
    """Embed sentences with known vectors: faulty kernels for a CPU answer with numbers, not with errors.

    Raises:
        ProviderUnavailableError: The vectors are not the known ones.
    """
    import numpy as np

    vectors = model.run([tokenizer.head(sentence) for sentence, _ in GOLDEN])
    for vector, (_, leading) in zip(vectors, GOLDEN, strict=True):
        expected = np.array(leading, np.float32)
        actual = vector[: len(leading)]
        cosine = float(expected @ actual / (np.linalg.norm(expected) * np.linalg.norm(actual)))
        # Written so that NaN fails too.
        if not cosine >= MIN_GOLDEN_COSINE:
            raise _wrong_numbers(f"a known sentence has cosine {cosine:.4f} to its vector")
    cosines = (vectors @ vectors.T)[np.triu_indices(len(GOLDEN), k=1)]
    if not np.allclose(cosines, GOLDEN_COSINES, rtol=0, atol=1 - MIN_GOLDEN_COSINE):
        raise _wrong_numbers("known sentences lie at the wrong distances")


def _wrong_numbers(problem: str) -> ProviderUnavailableError:
    return _unavailable(
        f"ONNX Runtime computes wrong vectors on this machine's CPU ({problem}), so none are used. "
        "Try another release with `pip install --upgrade onnxruntime`"
    )


def _unavailable(message: str) -> ProviderUnavailableError:
    return ProviderUnavailableError(message, provider=SPACE.provider, model=SPACE.model)


def _verified(path: Path, sha256: str) -> Path:
    """The path, once the file there is known to be the one this version was built with.

    Raises:
        ProviderUnavailableError: The file is missing, unreadable, cut short or another one.
    """
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unavailable(f"the model file {path} can't be read ({error.strerror}): {REINSTALL}") from error
    if actual != sha256:
        raise _unavailable(
            f"the model file {path} is damaged or not ours (SHA-256 {actual[:12]}..., expected {sha256[:12]}...): "
            f"{REINSTALL}"
        )
    return path


@contextmanager
def _installed() -> Iterator[None]:
    """Map a failing import. Both libraries are installed with us, so it is the machine that can't load them."""
    try:
        yield
    except ImportError as error:
        raise ProviderNotInstalledError(
            f"the local model's libraries can't be loaded ({error}): {REINSTALL}",
            provider=SPACE.provider,
            model=SPACE.model,
        ) from error


@cache
def _onnxruntime_errors() -> tuple[type[Exception], ...]:
    """Everything ONNX Runtime raises: its own errors have no base class in common."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    members: Iterable[object] = vars(state).values()
    own = (member for member in members if isinstance(member, type) and issubclass(member, Exception))
    return (*own, RuntimeError, MemoryError)


@contextmanager
def _runtime_errors(problem: str) -> Iterator[None]:
    try:
        yield
    except _onnxruntime_errors() as error:
        raise _unavailable(f"the local model {problem}: {type(error).__name__}: {error}") from error


def _lane(lane: RunVar[anyio.CapacityLimiter], workers: int) -> anyio.CapacityLimiter:
    """The running event loop's limiter for one kind of work."""
    limiter = lane.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(workers)
        lane.set(limiter)
    return limiter


def _return_freed_memory() -> None:
    """Give back what loading took and freed: glibc would keep 55 MB of it for later."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
