"""Embeddings by the names that the older Symmetra had: a thin door over the providers.

These names are kept for code that uses them. New code opens an app (`symmetra_mcp.app.open_app`), whose vectors carry
their embedding space.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

from symmetra_mcp.app import make_app
from symmetra_mcp.blocking import run_blocking
from symmetra_mcp.config import load_settings

if TYPE_CHECKING:
    from symmetra_mcp.app import App
    from symmetra_mcp.providers.base import Embeddings
    from symmetra_mcp.types import InputType

__all__ = [
    "EmbeddingBackend",
    "EmbeddingManager",
    "generate_batch_embeddings",
    "generate_embedding",
    "get_embedding_manager",
]

_left_behind: list[App] = []


class EmbeddingBackend(Enum):
    """Which provider embeds."""

    AUTO = "auto"
    OPENAI = "openai"
    COHERE = "cohere"
    LOCAL = "local"


class EmbeddingManager:
    """Embeds texts with the provider that the settings, or the caller, choose.

    Nothing is asked of a provider before the first embedding. A provider that fails raises: there are no zero vectors,
    and no vectors of another provider. Requests are counted, and stop at the spending limit, as the server's are;
    queries are cached as its are.
    """

    def __init__(self, backend: EmbeddingBackend | str | None = None) -> None:
        """Choose a provider.

        Args:
            backend: Instead of `SYMMETRA_EMBEDDING_BACKEND`.

        Raises:
            ConfigError: A setting can't be used.
        """
        name = backend.value if isinstance(backend, EmbeddingBackend) else backend
        self._settings = load_settings(**({} if name is None else {"embedding_backend": name}))
        self._made = make_app(self._settings)  # its store stays shut: the providers come with meter and cache
        self._process_id = os.getpid()

    @property
    def _app(self) -> App:
        if self._process_id != os.getpid():
            # A forked process: what its parent opened, and whoever of its parent holds a lock, is of no use here. It
            # is kept, as letting go of it would close files that the parent works with.
            _left_behind.append(self._made)
            self._made = make_app(self._settings)
            self._process_id = os.getpid()
        return self._made

    @property
    def backend(self) -> EmbeddingBackend:
        """What was asked for."""
        return EmbeddingBackend(self._settings.embedding_backend)

    def generate_embedding(self, text: str, *, input_type: InputType = "query") -> list[float]:
        """Embed one text.

        Args:
            text: The text.
            input_type: Whether it is a `query` to search with or a `document` to be found: some models tell the two
                apart.

        Returns:
            As many numbers as the space has dimensions, unit length.

        Raises:
            ProviderError: The provider failed.
        """
        return run_blocking(lambda: self.generate_embedding_async(text, input_type=input_type))

    def generate_batch_embeddings(
        self, texts: Sequence[str], *, input_type: InputType = "document"
    ) -> list[list[float]]:
        """Embed many texts, packed into as few requests as the provider's limits allow.

        Returns:
            A vector for each text, in order, as `generate_embedding` returns it.

        Raises:
            ProviderError: The provider failed.
        """
        return run_blocking(lambda: self.generate_batch_embeddings_async(texts, input_type=input_type))

    async def generate_embedding_async(self, text: str, *, input_type: InputType = "query") -> list[float]:
        """`generate_embedding` for async code."""
        provider = self._app.providers.chosen
        asked = provider.embed_query(text) if input_type == "query" else provider.embed_documents([text])
        return _numbers(await asked)[0]

    async def generate_batch_embeddings_async(
        self, texts: Sequence[str], *, input_type: InputType = "document"
    ) -> list[list[float]]:
        """`generate_batch_embeddings` for async code."""
        if isinstance(texts, str):
            raise TypeError("texts must be a sequence of texts, not one text: use generate_embedding")
        provider = self._app.providers.chosen
        if input_type == "query":
            return [_numbers(await provider.embed_query(text))[0] for text in texts]
        return _numbers(await provider.embed_documents(texts))

    def get_provider_info(self) -> dict[str, Any]:
        """What embeds, and which other providers could; nothing is asked of any of them.

        Returns:
            `backend`, `provider`, `model`, `dimensions`, `space`, `max_input_tokens` and `available`, which says of
            each provider whether it can be used and why not.
        """
        provider = self._app.providers.chosen
        space = provider.space
        return {
            "backend": self._settings.embedding_backend,
            "provider": space.provider,
            "model": space.model,
            "dimensions": space.dimensions,
            "space": space.space_id,
            "max_input_tokens": provider.max_input_tokens,
            "available": {
                "openai": "key is set" if self._settings.openai_key else "`OPENAI_API_KEY` is not set",
                "cohere": "key is set" if self._settings.cohere_key else "`COHERE_API_KEY` is not set",
                "local": "bundled model, needs no key and no network",
            },
        }

    async def aclose(self) -> None:
        """Close connections of calls made by the async methods. The next call opens them again."""
        await self._app.aclose()

    def close(self) -> None:
        """Close connections of calls made by the other methods. The next call opens them again."""
        run_blocking(self._app.aclose)


@cache
def get_embedding_manager() -> EmbeddingManager:
    """The manager that the settings describe, one for the process.

    Raises:
        ConfigError: A setting can't be used.
    """
    return EmbeddingManager()


def generate_embedding(text: str, *, input_type: InputType = "query") -> list[float]:
    """Embed one text with `get_embedding_manager()`."""
    return get_embedding_manager().generate_embedding(text, input_type=input_type)


def generate_batch_embeddings(texts: Sequence[str], *, input_type: InputType = "document") -> list[list[float]]:
    """Embed many texts with `get_embedding_manager()`."""
    return get_embedding_manager().generate_batch_embeddings(texts, input_type=input_type)


def _numbers(embeddings: Embeddings) -> list[list[float]]:
    numbers: list[list[float]] = embeddings.vectors.tolist()
    return numbers
