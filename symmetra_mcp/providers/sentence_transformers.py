"""The provider for a local model of the user's choice, a fine-tuned one included, run by sentence-transformers.

The library is the extra `[local]`. Importing it takes seconds and half a gigabyte, so it is imported at the first text,
in a worker thread. The space is read off the model's files and needs neither the library nor the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Condition, RLock
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar

from symmetra_mcp.providers import model_files
from symmetra_mcp.providers.base import EmbeddingProvider
from symmetra_mcp.providers.local import LONE_SURROGATE
from symmetra_mcp.providers.model_library import library_errors, opened, other_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.providers.base import Embeddings
    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.types import InputType

    Vectors = NDArray[np.float32]

OTHER_MODEL = other_model("SYMMETRA_EMBEDDING_MODEL")

DEFAULT_MAX_INPUT_TOKENS = 512
"""Where neither the model nor its files say: what most of the models read that have a limit."""

BATCH_TEXTS = 32
"""Texts that are encoded in one go; a query waits for one batch at most."""

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
                    self._space = model_files.space_of_files(model_files.find(self._name))
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
            folder = model_files.find(self._name).folder
            limit = folder and model_files.max_input_tokens(folder)
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
            library_errors(self._name, "failed to embed", OTHER_MODEL, may_quote_texts=True),
        ):
            vectors = _encoded(model, clean, input_type)
            # Models without a token of their own around each text make nothing of an empty one.
            nothing = ~vectors.any(axis=1)
            if nothing.any():
                vectors[nothing] = _encoded(model, ["."], input_type)[0]
        if vectors.shape != (len(texts), self.space.dimensions):
            raise model_files.unavailable(
                self._name,
                f"answered with vectors of shape {vectors.shape} where {(len(texts), self.space.dimensions)} was "
                "expected: its files don't fit together, save or download it again",
            )
        return vectors

    def _loaded_model(self) -> Any:
        with self._lock:
            if self._model is None:
                if self._space is None:
                    self._space = model_files.space_of_files(model_files.find(self._name))
                model = opened(self._name, self._open)
                with library_errors(self._name, "could not be loaded", OTHER_MODEL):
                    dimensions = model.get_embedding_dimension() or _encoded(model, ["."], "document").shape[1]
                    limit = model_files.plausible_limit(model.max_seq_length)
                # Looked up again: a download has filled the cache, and files may have been replaced since `space` was
                # read. Vectors of the new weights must not be stored as the old ones'.
                space = model_files.space(model_files.find(self._name), dimensions)
                if self._space is not None and space != self._space:
                    raise model_files.unavailable(
                        self._name,
                        f"is not the one it was when this process started ({self._space}, now {space}): restart, "
                        "then run `symmetra-mcp reembed`",
                    )
                self._space = space
                self._max_input_tokens = limit or self._max_input_tokens
                self._model = model
            return self._model

    def _open(self, library: Any, location: str, **options: Any) -> Any:
        return library.SentenceTransformer(
            location,
            device=self._device,
            trust_remote_code=False,
            # Half precision, as many are saved in, is slow on CPUs and differs between devices.
            model_kwargs={"dtype": "float32"},
            **options,
        )


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


def _encoded(model: Any, texts: Sequence[str], input_type: InputType) -> Vectors:
    import numpy as np

    # Models for images too would take a text that is a path or an address for an image, and open or fetch it.
    inputs = list(texts) if list(model.modalities) == ["text"] else [{"text": text} for text in texts]
    encode = model.encode_query if input_type == "query" else model.encode_document
    vectors = encode(
        inputs, batch_size=BATCH_TEXTS, show_progress_bar=False, convert_to_numpy=True, normalize_embeddings=True
    )
    return np.array(vectors, np.float32)


def _lane(lane: RunVar[anyio.CapacityLimiter]) -> anyio.CapacityLimiter:
    """The running event loop's limiter for one kind of work."""
    limiter = lane.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(1)
        lane.set(limiter)
    return limiter
