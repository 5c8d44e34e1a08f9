"""The provider for a local model of the user's choice, a fine-tuned one included, run by sentence-transformers.

The library is the extra `[local]`. Importing it takes seconds and half a gigabyte, so it is imported at the first text,
in a worker thread. The space is read off the model's files and needs neither the library nor the weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Condition, RLock
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar

from symmetra_mcp.errors import ProviderNotInstalledError, ProviderUnavailableError
from symmetra_mcp.providers.base import EmbeddingProvider
from symmetra_mcp.providers.local import LONE_SURROGATE
from symmetra_mcp.spaces import EmbeddingSpace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.providers.base import Embeddings
    from symmetra_mcp.types import InputType

    Vectors = NDArray[np.float32]

PROVIDER = "local"

INSTALL = '`pip install "symmetra-mcp[local]"`'

OTHER_MODEL = "; if it stays so, save it again or give another model in `SYMMETRA_EMBEDDING_MODEL`"

DEFAULT_OWNER = "sentence-transformers"
"""Whose model a name without an owner is, as in the library."""

DEFAULT_MAX_INPUT_TOKENS = 512
"""Where neither the model nor its files say: what most of the models read that have a limit."""

BATCH_TEXTS = 32
"""Texts that are encoded in one go; a query waits for one batch at most."""

HUB_TIMEOUT_S = 10

VARIANT_DIGITS = 12

WHOLE_FILE_BYTES = 32 * 1024 * 1024
"""Up to here a file is hashed whole, in 30 ms: every config, prompt and tokenizer, and small weights."""

SAMPLED_BLOCKS = 256
SAMPLED_BLOCK_BYTES = 4096
"""Of larger files. Blocks 0.4 % of the file apart also meet a training run that changed one layer out of many, where
few large blocks could all lie in frozen ones."""

_HUB_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_UNREAD = re.compile(r"\.|checkpoint-|(?:onnx|openvino|eval|__pycache__)$|.*\.md$", re.IGNORECASE)
_KEEPS_DIMENSIONS = {"Normalize", "LayerNorm", "Dropout"}

# Lanes of their own, as in `local.py`; one worker each, since the library computes one batch at a time on all cores.
_query_lane: RunVar[anyio.CapacityLimiter] = RunVar("symmetra_mcp.providers.sentence_transformers.query_lane")
_bulk_lane: RunVar[anyio.CapacityLimiter] = RunVar("symmetra_mcp.providers.sentence_transformers.bulk_lane")


class SentenceTransformersProvider(EmbeddingProvider):
    """A sentence-transformers model inside this process.

    Queries and documents get the model's own prompts. Code that comes with a model is never run. Nothing goes over the
    network but the download of a model that is named and is not in the Hugging Face cache (`HF_HOME`), at first use;
    from then on the provider stays with the revision in the cache.

    Args:
        model: A folder that holds a model, or a name such as `BAAI/bge-small-en-v1.5`.
        device: Where to compute, such as `cpu` or `cuda:1`. Default: the library chooses.
    """

    def __init__(self, model: str, *, device: str | None = None) -> None:
        self._name = model
        self._device = device
        self._lock = RLock()
        self._turns = _Turns()
        self._space: EmbeddingSpace | None = None
        self._max_input_tokens: int | None = None
        self._model: Any = None

    @property
    def space(self) -> EmbeddingSpace:
        """The space that every vector of this provider belongs to.

        Its variant tells models of one name apart: the revision of a downloaded model, a digest of a folder's files
        (their names and contents, wherever the folder lies). Reading it takes a tenth of a second; a model whose files
        don't tell its dimensions, or that is not downloaded yet, is loaded for it. So ask in a worker thread first.

        Raises:
            ProviderError: The model can't be found, or can't be loaded where that is needed.
        """
        if self._space is None:
            with self._lock:
                if self._space is None:
                    self._space = _space_of_files(_find(self._name))
                if self._space is None:
                    self._loaded_model()
        assert self._space is not None  # as loading sets it
        return self._space

    @property
    def max_input_tokens(self) -> int:
        """Tokens of one text that the model reads; 512 as long as neither the model nor its files say.

        Raises:
            ProviderError: The model can't be found.
        """
        if self._max_input_tokens is None:
            folder = _find(self._name).folder
            limit = folder and _max_input_tokens(folder)
            if not limit:
                return DEFAULT_MAX_INPUT_TOKENS
            self._max_input_tokens = limit
        return self._max_input_tokens

    async def warm_up(self) -> None:
        """Load the model now, off the event loop; download it if it was named and is not in the cache.

        Raises:
            ProviderError: The library is missing, or the model can't be had or loaded.
        """
        await to_thread.run_sync(self._loaded_model, limiter=_lane(_query_lane))

    async def aclose(self) -> None:
        """Let go of the model's memory; a later call loads it again."""
        self._model = None

    async def _checked(self, texts: Sequence[str], input_type: InputType) -> Embeddings:
        if self._space is None:
            # The check asks for it on the event loop, which is no place to read files.
            await to_thread.run_sync(lambda: self.space, limiter=_lane(_query_lane))
        return await super()._checked(texts, input_type)

    async def _embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        import numpy as np

        lane = _lane(_query_lane if input_type == "query" else _bulk_lane)
        # By length, as padding is computed too.
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        vectors = np.empty((len(texts), self.space.dimensions), np.float32)
        for start in range(0, len(order), BATCH_TEXTS):
            rows = order[start : start + BATCH_TEXTS]
            batch = [texts[row] for row in rows]
            vectors[rows] = await to_thread.run_sync(self._encode, batch, input_type, limiter=lane)
        return vectors

    def _encode(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        model = self._loaded_model()
        # The library refuses lone surrogates, which JSON can carry.
        clean = [LONE_SURROGATE.sub("\ufffd", text) for text in texts]
        with (
            self._turns.turn(input_type),
            self._library_errors("failed to embed", OTHER_MODEL, may_quote_texts=True),
        ):
            vectors = _encoded(model, clean, input_type)
            # Models without a token of their own around each text make nothing of an empty one.
            nothing = ~vectors.any(axis=1)
            if nothing.any():
                vectors[nothing] = _encoded(model, ["."], input_type)[0]
        if vectors.shape != (len(texts), self.space.dimensions):
            raise _unavailable(
                self._name,
                f"answered with vectors of shape {vectors.shape} where {(len(texts), self.space.dimensions)} was "
                "expected: its files don't fit together, save or download it again",
            )
        return vectors

    def _loaded_model(self) -> Any:
        with self._lock:
            if self._model is None:
                if self._space is None:
                    self._space = _space_of_files(_find(self._name))
                model = self._opened()
                with self._library_errors("could not be loaded", OTHER_MODEL):
                    dimensions = model.get_embedding_dimension() or _encoded(model, ["."], "document").shape[1]
                    limit = _plausible_limit(model.max_seq_length)
                # Looked up again: a download has filled the cache, and files may have been replaced since `space` was
                # read. Vectors of the new weights must not be stored as the old ones'.
                space = _space(_find(self._name), dimensions)
                if self._space is not None and space != self._space:
                    raise _unavailable(
                        self._name,
                        f"is not the one it was when this process started ({self._space}, now {space}): restart, "
                        "then run `symmetra-mcp reembed`",
                    )
                self._space = space
                self._max_input_tokens = limit or self._max_input_tokens
                self._model = model
            return self._model

    def _opened(self) -> Any:
        library = _library(self._name)
        source = _find(self._name)
        if source.is_complete:
            try:
                with self._library_errors("could not be loaded", OTHER_MODEL):
                    # By path even what has a name: by name, the hub's client asks the network about other things.
                    return self._open(library, str(source.folder), local_files_only=True)
            except ProviderUnavailableError:
                if source.revision is None:
                    raise
                # A download that broke off: fetch the rest of the same revision.
        with self._library_errors("could not be downloaded", _download_advice(source)):
            # The library would ask for each of many files, again and again, a minute long without a network.
            hub = import_module("huggingface_hub").HfApi()
            hub.model_info(source.name, revision=source.revision, timeout=HUB_TIMEOUT_S)
            cache = import_module("huggingface_hub.constants").HF_HUB_CACHE
            return self._open(library, source.name, revision=source.revision, cache_folder=cache)

    def _open(self, library: Any, location: str, **options: Any) -> Any:
        return library.SentenceTransformer(
            location,
            device=self._device,
            trust_remote_code=False,
            # Half precision, as many are saved in, is slow on CPUs and differs between devices.
            model_kwargs={"dtype": "float32"},
            **options,
        )

    @contextmanager
    def _library_errors(self, problem: str, advice: str, *, may_quote_texts: bool = False) -> Iterator[None]:
        try:
            yield
        # A model is data that the library and those under it interpret: damaged, it makes them raise nearly anything.
        except Exception as error:
            reason = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')[:300]}"
            if may_quote_texts and not isinstance(error, RuntimeError | OSError):
                reason = type(error).__name__
            raise _unavailable(self._name, f"{problem} ({reason}){advice}") from error


class _Turns:
    """One batch at a time, queries first: a re-embedding would otherwise take its next turn before they wake."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._is_taken = False
        self._waiting_queries = 0

    @contextmanager
    def turn(self, input_type: InputType) -> Iterator[None]:
        is_query = input_type == "query"
        with self._condition:
            self._waiting_queries += is_query
            try:
                self._condition.wait_for(lambda: not self._is_taken and (is_query or not self._waiting_queries))
            finally:
                self._waiting_queries -= is_query
            self._is_taken = True
        try:
            yield
        finally:
            with self._condition:
                self._is_taken = False
                self._condition.notify_all()


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a model's files are.

    Attributes:
        name: The model's name in its space: a folder's, or the hub's, with its owner.
        folder: The files on this machine, or `None` where the model is not downloaded.
        revision: The commit that the cache holds of a named model.
        is_complete: Whether the files say how the model is built. A cache may hold a few of a model's files, for
            another program, and the library would silently build something else of them.
    """

    name: str
    folder: Path | None = None
    revision: str | None = None
    is_complete: bool = False


def _find(model: str) -> _Source:
    """Look a model up: a folder if there is one, as the library does, else the Hugging Face cache.

    Raises:
        ProviderUnavailableError: It is a path, and there is no model at it.
    """
    folder = Path(os.path.abspath(os.path.expanduser(model)))
    if folder.is_dir():
        if not any((folder / file).is_file() for file in ("modules.json", "config.json")):
            raise _unavailable(
                model,
                "is a folder without a model (neither `modules.json` nor `config.json`): give the folder that "
                "sentence-transformers saved, in `SYMMETRA_EMBEDDING_MODEL`",
            )
        return _Source(folder.name or "model", folder, is_complete=True)
    if folder.exists() or not _HUB_NAME.fullmatch(model):
        raise _unavailable(
            model,
            f"is not there: {folder} is no folder. Give an existing one, or a name such as `BAAI/bge-small-en-v1.5`, "
            "in `SYMMETRA_EMBEDDING_MODEL`",
        )
    return _find_in_cache(model if "/" in model else f"{DEFAULT_OWNER}/{model}")


def _find_in_cache(name: str) -> _Source:
    try:
        hub = import_module("huggingface_hub")
    except ImportError as error:
        raise _not_installed(name, error) from error
    try:
        modules = hub.try_to_load_from_cache(name, "modules.json")
        found = modules if isinstance(modules, str) else hub.try_to_load_from_cache(name, "config.json")
    except (OSError, ValueError) as error:  # a name the hub can't have, a cache that can't be read
        raise _unavailable(name, f"can't be looked up in the cache ({error}): check its name") from error
    if not isinstance(found, str):
        return _Source(name)
    folder = Path(found).parent
    # Neither found nor known to be absent: of the files of a model in the cache, this one has yet to be asked for.
    return _Source(name, folder, revision=folder.name, is_complete=modules is not None)


def _space_of_files(source: _Source) -> EmbeddingSpace | None:
    """The space as far as files tell it without loading the model."""
    if source.folder is None or not source.is_complete:
        return None
    dimensions = _dimensions(source.folder)
    return _space(source, dimensions) if dimensions else None


def _space(source: _Source, dimensions: int) -> EmbeddingSpace:
    if source.revision is not None:
        variant = source.revision[:VARIANT_DIGITS]
    elif source.folder is not None:
        variant = _contents_digest(source.folder)
    else:
        raise _unavailable(source.name, "left no files in the Hugging Face cache: make `HF_HOME` a writable folder")
    return EmbeddingSpace(PROVIDER, source.name, dimensions, variant=variant)


def _contents_digest(folder: Path) -> str:
    """Digest of all files that can change a vector: their relative names, sizes and contents, large files sampled.

    Documentation, hidden files, training checkpoints and other runtimes' exports are left out.

    Raises:
        ProviderUnavailableError: A file can't be read.
    """
    digest = hashlib.sha256()
    try:
        files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
        for relative in sorted(files, key=lambda relative: relative.as_posix()):
            if any(_UNREAD.match(part) for part in relative.parts):
                continue
            size = files[relative].stat().st_size
            digest.update(f"{relative.as_posix()}\0{size}\0".encode("utf-8", "surrogateescape"))
            with files[relative].open("rb") as file:
                if size <= WHOLE_FILE_BYTES:
                    digest.update(file.read())
                    continue
                for block in range(SAMPLED_BLOCKS):
                    file.seek((size - SAMPLED_BLOCK_BYTES) * block // (SAMPLED_BLOCKS - 1))
                    digest.update(file.read(SAMPLED_BLOCK_BYTES))
    except OSError as error:
        raise _unavailable(folder.name, f"can't be read ({error.strerror}: {error.filename})") from error
    return digest.hexdigest()[:VARIANT_DIGITS]


def _dimensions(folder: Path) -> int | None:
    """Length of the model's vectors by its files, where they tell it plainly."""
    dimensions = None
    modules = _json(folder / "modules.json")
    if isinstance(modules, list):
        for module in reversed(modules):
            kind = str(module.get("type")).rpartition(".")[2]
            if kind not in _KEEPS_DIMENSIONS:
                dimensions = _module_dimensions(kind, _fields(folder / str(module.get("path", "")) / "config.json"))
                break
    else:
        config = _fields(folder / "config.json")
        if "projection_dim" not in config and "embedding_dim" not in config:
            dimensions = config.get("hidden_size")
    if not isinstance(dimensions, int) or dimensions < 1:
        return None
    truncated = _fields(folder / "config_sentence_transformers.json").get("truncate_dim")
    return min(dimensions, truncated) if isinstance(truncated, int) and truncated > 0 else dimensions


def _module_dimensions(kind: str, config: dict[str, Any]) -> Any:
    if kind == "Dense":
        return config.get("out_features")
    dimensions = config.get("embedding_dimension", config.get("word_embedding_dimension"))
    if kind != "Pooling" or not isinstance(dimensions, int):
        return None
    mode = config.get("pooling_mode")
    if isinstance(mode, list):
        return dimensions * len(mode)
    # Before version 5.4 of the library, a flag for each mode; the vectors of all that are on are joined.
    flags = 0 if mode else sum(value is True for key, value in config.items() if key.startswith("pooling_mode_"))
    return dimensions * max(1, flags)


def _max_input_tokens(folder: Path) -> int | None:
    """The limit by the model's files: its own, or else the lower one of tokenizer and network."""
    own = _plausible_limit(_fields(folder / "sentence_bert_config.json").get("max_seq_length"))
    limits = [
        _plausible_limit(_fields(folder / "tokenizer_config.json").get("model_max_length")),
        _plausible_limit(_fields(folder / "config.json").get("max_position_embeddings")),
    ]
    return own or min((limit for limit in limits if limit), default=None)


def _plausible_limit(value: Any) -> int | None:
    """The value if it is a limit: tokenizers without one say 10**30, other models infinity or nothing."""
    return int(value) if isinstance(value, int | float) and 0 < value < 10**7 else None


def _json(path: Path) -> Any:
    """A JSON file's content; `None` where there is none, since of a damaged one the library says more on loading."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _fields(path: Path) -> dict[str, Any]:
    content = _json(path)
    return content if isinstance(content, dict) else {}


def _library(model: str) -> Any:
    """Import sentence-transformers, and keep it and what is under it from writing to a server's streams.

    Raises:
        ProviderNotInstalledError: It, or something it needs, is not installed.
        ProviderUnavailableError: It is, and fails to start.
    """
    try:
        import numpy  # noqa: F401 - whole and first: see `local.py`

        library = import_module("sentence_transformers")
        import_module("huggingface_hub.utils").disable_progress_bars()
        transformers_logging = import_module("transformers.utils.logging")
    except ImportError as error:
        raise _not_installed(model, error) from error
    except (OSError, RuntimeError, ValueError, AttributeError) as error:  # shared libraries, releases that don't fit
        raise _unavailable(
            model,
            f"can't be run: sentence-transformers failed to start ({type(error).__name__}: {error}). "
            f"Install it anew: {INSTALL}",
        ) from error
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    for name in ("sentence_transformers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return library


def _encoded(model: Any, texts: Sequence[str], input_type: InputType) -> Vectors:
    import numpy as np

    # Models for images too would take a text that is a path or an address for an image, and open or fetch it.
    inputs = list(texts) if list(model.modalities) == ["text"] else [{"text": text} for text in texts]
    encode = model.encode_query if input_type == "query" else model.encode_document
    vectors = encode(
        inputs, batch_size=BATCH_TEXTS, show_progress_bar=False, convert_to_numpy=True, normalize_embeddings=True
    )
    return np.array(vectors, np.float32)


def _download_advice(source: _Source) -> str:
    return (
        f": check the name, connect to the network once so that {source.name!r} can be downloaded, or give a "
        "model's folder in `SYMMETRA_EMBEDDING_MODEL`"
    )


def _unavailable(model: str, problem: str) -> ProviderUnavailableError:
    return ProviderUnavailableError(f"the local model {model!r} {problem}", provider=PROVIDER, model=model)


def _not_installed(model: str, error: ImportError) -> ProviderNotInstalledError:
    return ProviderNotInstalledError(
        f"the local model {model!r} needs sentence-transformers, which can't be imported ({error}): {INSTALL}",
        provider=PROVIDER,
        model=model,
    )


def _lane(lane: RunVar[anyio.CapacityLimiter]) -> anyio.CapacityLimiter:
    """The running event loop's limiter for one kind of work."""
    limiter = lane.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(1)
        lane.set(limiter)
    return limiter
