"""A cross-encoder on this machine, run by sentence-transformers.

The library is the extra `[local]`. Importing it and loading a model takes seconds, so both happen in a worker thread,
and go on there while searches answer without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from typing_extensions import override

from symmetra_mcp.providers import model_files
from symmetra_mcp.providers.model_library import library_errors, opened, other_model
from symmetra_mcp.rerankers.base import Reranker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = NDArray[np.float32]

DEFAULT_MODEL = "cross-encoder/ms-marco-MiniLM-L6-v2"
SETTING = "SYMMETRA_RERANK_MODEL"
_HEADS = ("ForSequenceClassification", "ForCausalLM")
BATCH_DOCUMENTS = 8
"""Documents that are read in one go: between two, it is seen that nobody waits any more."""


class LocalReranker(Reranker):
    """A cross-encoder of sentence-transformers inside this process.

    Code that comes with a model is never run. Nothing goes over the network but the download of a model that is named
    and is not in the Hugging Face cache (`HF_HOME`), at first use.
    """

    def __init__(self, model: str = DEFAULT_MODEL, *, timeout_s: float = 2.0, device: str | None = None) -> None:
        """Prepare; nothing is imported or read.

        Args:
            model: A folder that holds a cross-encoder, or a name.
            timeout_s: Seconds that a call may take; loading goes on beyond them.
            device: Where to compute, such as `cpu` or `cuda:1`. Default: the library chooses.
        """
        # A folder by its own name: where it lies is nobody's business.
        shown = model if model_files.is_hub_name(model) else PurePath(model).name
        super().__init__(model_files.PROVIDER, shown, timeout_s=timeout_s)
        self._place = model
        self._device = device
        self._loading = Lock()
        self._computing = Lock()
        self._loaded: Any = None

    @override
    async def warm_up(self) -> None:
        await to_thread.run_sync(self._model, abandon_on_cancel=True)

    @override
    async def aclose(self) -> None:
        self._loaded = None

    @override
    def _silence(self) -> str:
        if self._loaded is None:
            return "is still being loaded"
        return (
            f"took longer than {self.timeout_s:g} s: raise `SYMMETRA_RERANK_TIMEOUT`, or lower "
            "`SYMMETRA_RERANK_CANDIDATES`"
        )

    @override
    async def _rerank(self, query: str, documents: Sequence[str]) -> Scores:
        given_up = Event()
        try:
            return await to_thread.run_sync(self._scores, query, documents, given_up, abandon_on_cancel=True)
        finally:
            given_up.set()  # the thread can't be stopped from outside

    def _scores(self, query: str, documents: Sequence[str], given_up: Event) -> Scores:
        import numpy as np

        model = self._model()
        scores = np.full(len(documents), np.nan, np.float32)
        # By length, as padding is computed too.
        order = sorted(range(len(documents)), key=lambda row: -len(documents[row]))
        with self._computing:
            for start in range(0, len(order), BATCH_DOCUMENTS):
                if given_up.is_set():
                    break
                rows = order[start : start + BATCH_DOCUMENTS]
                scores[rows] = self._batch(model, query, [documents[row] for row in rows])
        return scores

    def _batch(self, model: Any, query: str, documents: Sequence[str]) -> Scores:
        import numpy as np

        pairs: list[Any] = [(query, document) for document in documents]
        if list(model.modalities) != ["text"]:  # such a model would open a text that is a path, or fetch an address
            pairs = [({"text": query}, {"text": document}) for document in documents]
        with library_errors(self.model, "failed to read the rules", other_model(SETTING), may_quote_texts=True):
            logits = np.asarray(
                # The model's own activation differs between models; the scale should not.
                model.predict(pairs, batch_size=len(pairs), show_progress_bar=False, activation_fn=_as_they_are),
                np.float64,
            )
        if logits.shape != (len(pairs),):
            raise self.invalid(
                f"scores of shape {logits.shape} for {len(pairs)} rules, so it is no re-ranker: give a cross-encoder "
                f"with one output in `{SETTING}`"
            )
        with np.errstate(over="ignore"):
            return np.asarray(1 / (1 + np.exp(-logits)), np.float32)

    def _model(self) -> Any:
        with self._loading:
            if self._loaded is None:
                model = opened(self._place, self._open, setting=SETTING)
                self._check_head(model)
                self._loaded = model
            return self._loaded

    def _check_head(self, model: Any) -> None:
        """Refuse a model without an output for relevance: the library makes one up, of random numbers."""
        folder = model_files.find(self._place, setting=SETTING).folder
        names = getattr(model.config, "architectures", None) or []
        trained = any(name.endswith(_HEADS) for name in names)
        if not trained and not (folder is not None and (folder / "modules.json").is_file()):
            raise model_files.unavailable(
                self._place,
                f"is no cross-encoder ({', '.join(names) or 'of unknown kind'}): give one in `{SETTING}`",
            )

    def _open(self, library: Any, location: str, **options: Any) -> Any:
        return library.CrossEncoder(
            location,
            device=self._device,
            trust_remote_code=False,
            # Half precision, as many are saved in, is slow on CPUs.
            model_kwargs={"dtype": "float32"},
            **options,
        )


def _as_they_are(logits: Any) -> Any:
    return logits
