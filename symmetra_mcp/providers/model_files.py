"""A local model's files: where they are, and what they tell of its space and limit without being loaded."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from symmetra_mcp.errors import ProviderNotInstalledError, ProviderUnavailableError
from symmetra_mcp.spaces import EmbeddingSpace

PROVIDER = "local"

SETTING = "SYMMETRA_EMBEDDING_MODEL"
"""Which variable names a model, where nothing else is said."""

INSTALL = '`pip install "symmetra-mcp[local]"`'

DEFAULT_OWNER = "sentence-transformers"
"""Whose model a name without an owner is, as in the library."""

VARIANT_DIGITS = 12

WHOLE_FILE_BYTES = 32 * 1024 * 1024
"""Up to here a file is hashed whole, in 30 ms: every config, prompt and tokenizer, and small weights."""

SAMPLED_BLOCKS = 256
SAMPLED_BLOCK_BYTES = 4096
"""Of larger files. Blocks 0.4 % of the file apart also meet a training run that changed one layer out of many, where
few large blocks could all lie in frozen ones."""

_EXAMPLES = {SETTING: "BAAI/bge-small-en-v1.5", "SYMMETRA_RERANK_MODEL": "cross-encoder/ms-marco-MiniLM-L6-v2"}
_HUB_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_UNREAD = re.compile(r"\.|checkpoint-|(?:onnx|openvino|eval|__pycache__)$|.*\.md$", re.IGNORECASE)
_KEEPS_DIMENSIONS = {"Normalize", "LayerNorm", "Dropout"}


@dataclass(frozen=True, slots=True)
class Source:
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


def find(model: str, *, setting: str = SETTING) -> Source:
    """Look a model up: a folder if there is one, as the library does, else the Hugging Face cache.

    Args:
        model: A folder, or a name.
        setting: The variable that names it, for messages.

    Raises:
        ProviderNotInstalledError: It is a name, and what reads the cache is not installed.
        ProviderUnavailableError: It is a path, and there is no model at it; or the cache can't be read.
    """
    folder = Path(os.path.abspath(os.path.expanduser(model)))
    if folder.is_dir():
        if not any((folder / file).is_file() for file in ("modules.json", "config.json")):
            raise unavailable(
                model,
                "is a folder without a model (neither `modules.json` nor `config.json`): give the folder that "
                f"sentence-transformers saved, in `{setting}`",
            )
        return Source(folder.name or "model", folder, is_complete=True)
    if folder.exists() or not is_hub_name(model):
        raise unavailable(
            model,
            f"is not there: {folder} is no folder. Give an existing one, or a name such as `{_EXAMPLES[setting]}`, in "
            f"`{setting}`",
        )
    return _find_in_cache(model if "/" in model else f"{DEFAULT_OWNER}/{model}")


def is_hub_name(model: str) -> bool:
    """Whether it could be a name on the hub, rather than a path."""
    return _HUB_NAME.fullmatch(model) is not None


def _find_in_cache(name: str) -> Source:
    try:
        hub = import_module("huggingface_hub")
    except ImportError as error:
        raise not_installed(name, error) from error
    try:
        modules = hub.try_to_load_from_cache(name, "modules.json")
        found = modules if isinstance(modules, str) else hub.try_to_load_from_cache(name, "config.json")
    except (OSError, ValueError) as error:  # a name the hub can't have, a cache that can't be read
        raise unavailable(name, f"can't be looked up in the cache ({error}): check its name") from error
    if not isinstance(found, str):
        return Source(name)
    folder = Path(found).parent
    # Neither found nor known to be absent: of the files of a model in the cache, this one has yet to be asked for.
    return Source(name, folder, revision=folder.name, is_complete=modules is not None)


def space_of_files(source: Source) -> EmbeddingSpace | None:
    """The space as far as files tell it without loading the model.

    Raises:
        ProviderUnavailableError: A file of a folder can't be read.
    """
    if source.folder is None or not source.is_complete:
        return None
    dimensions = _dimensions(source.folder)
    return space(source, dimensions) if dimensions else None


def space(source: Source, dimensions: int) -> EmbeddingSpace:
    """The space of a model whose dimensions are known; its variant is the revision, or a digest of a folder's files.

    Raises:
        ProviderUnavailableError: The model has no files on this machine, or one of them can't be read.
    """
    if source.revision is not None:
        variant = source.revision[:VARIANT_DIGITS]
    elif source.folder is not None:
        variant = _contents_digest(source.folder)
    else:
        raise unavailable(source.name, "left no files in the Hugging Face cache: make `HF_HOME` a writable folder")
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
        raise unavailable(folder.name, f"can't be read ({error.strerror}: {error.filename})") from error
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


def max_input_tokens(folder: Path) -> int | None:
    """The limit by the model's files: its own, or else the lower one of tokenizer and network."""
    own = plausible_limit(_fields(folder / "sentence_bert_config.json").get("max_seq_length"))
    limits = [
        plausible_limit(_fields(folder / "tokenizer_config.json").get("model_max_length")),
        plausible_limit(_fields(folder / "config.json").get("max_position_embeddings")),
    ]
    return own or min((limit for limit in limits if limit), default=None)


def plausible_limit(value: Any) -> int | None:
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


def unavailable(model: str, problem: str) -> ProviderUnavailableError:
    """The error for a model that can't be had or run; `problem` goes on after its name."""
    return ProviderUnavailableError(f"the local model {model!r} {problem}", provider=PROVIDER, model=model)


def not_installed(model: str, error: ImportError) -> ProviderNotInstalledError:
    """The error for a model whose library, or something that it needs, is not installed."""
    return ProviderNotInstalledError(
        f"the local model {model!r} needs sentence-transformers, which can't be imported ({error}): {INSTALL}",
        provider=PROVIDER,
        model=model,
    )
