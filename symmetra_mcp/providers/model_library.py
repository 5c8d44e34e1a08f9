"""The library sentence-transformers, as embeddings and re-ranking need it: imported quietly, models opened, errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from symmetra_mcp.errors import ProviderUnavailableError
from symmetra_mcp.providers import model_files

HUB_TIMEOUT_S = 10


def opened(model: str, open_model: Callable[..., Any], *, setting: str = model_files.SETTING) -> Any:
    """Import the library and open a model: out of its folder or the cache, downloaded where it is in neither.

    Args:
        model: A folder, or a name.
        open_model: Gets the library, where the model is, and options of the library's own.
        setting: The variable that names the model.

    Raises:
        ProviderError: The library is missing, or the model can't be had or loaded.
    """
    library = imported_library(model)
    source = model_files.find(model, setting=setting)
    if source.is_complete:
        try:
            with library_errors(model, "could not be loaded", other_model(setting)):
                # By path even what has a name: by name, the hub's client asks the network about other things.
                return open_model(library, str(source.folder), local_files_only=True)
        except ProviderUnavailableError:
            if source.revision is None:
                raise
            # A download that broke off: fetch the rest of the same revision.
    advice = (
        f": check the name, connect to the network once so that {source.name!r} can be downloaded, or give a "
        f"model's folder in `{setting}`"
    )
    with library_errors(model, "could not be downloaded", advice):
        # The library would ask for each of many files, again and again, a minute long without a network.
        hub = import_module("huggingface_hub").HfApi()
        hub.model_info(source.name, revision=source.revision, timeout=HUB_TIMEOUT_S)
        cache = import_module("huggingface_hub.constants").HF_HUB_CACHE
        return open_model(library, source.name, revision=source.revision, cache_folder=cache)


def other_model(setting: str) -> str:
    """What to do about a model that can't be used, as the end of a message."""
    return f"; if it stays so, save it again or give another model in `{setting}`"


@contextmanager
def library_errors(model: str, problem: str, advice: str, *, may_quote_texts: bool = False) -> Iterator[None]:
    """Turn whatever the library raises into an error of ours.

    Raises:
        ProviderUnavailableError: The library raised something.
    """
    try:
        yield
    # A model is data that the library and those under it interpret: damaged, it makes them raise nearly anything.
    except Exception as error:
        reason = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')[:300]}"
        if may_quote_texts and not isinstance(error, RuntimeError | OSError):
            reason = type(error).__name__
        raise model_files.unavailable(model, f"{problem} ({reason}){advice}") from error


def imported_library(model: str) -> Any:
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
        raise model_files.not_installed(model, error) from error
    except (OSError, RuntimeError, ValueError, AttributeError) as error:  # shared libraries, releases that don't fit
        raise model_files.unavailable(
            model,
            f"can't be run: sentence-transformers failed to start ({type(error).__name__}: {error}). "
            f"Install it anew: {model_files.INSTALL}",
        ) from error
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    for name in ("sentence_transformers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return library
