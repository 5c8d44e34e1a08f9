"""Which provider embeds: what the settings choose for rules that are new, and what the rules that are there demand.

A filled store fixes the space. `auto` decides for a store that holds no vectors; after that, a key that appears or
disappears switches nothing, since queries of one space against vectors of another find noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from typing_extensions import override

from symmetra_mcp.config import BUNDLED_MODEL
from symmetra_mcp.errors import ConfigError, NoProviderError, ProviderAuthError, ProviderError
from symmetra_mcp.providers.base import EmbeddingProvider
from symmetra_mcp.spaces import EmbeddingSpace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.config import Settings
    from symmetra_mcp.providers.local import LocalProvider
    from symmetra_mcp.providers.remote import Meter
    from symmetra_mcp.types import InputType

    MeterMaker = Callable[[EmbeddingSpace], Meter]
    Wrapper = Callable[[EmbeddingProvider], EmbeddingProvider]

MIGRATE = "symmetra-mcp reembed"
"""The command that moves every rule to the provider that the settings choose."""
_OPENAIS_MODELS = "text-embedding-"
_COHERES_MODELS = "embed-"


class ProviderChoice:
    """The provider that the settings choose, and those that can serve a space that is there already.

    Attributes:
        chosen: What embeds rules in a store without vectors, and what a migration moves to.
        insists: Whether the settings name the provider, rather than leave it to `auto`.
        backup: What keeps a second space beside a remote provider's, or `None`.
    """

    def __init__(
        self,
        chosen: EmbeddingProvider,
        *,
        others: Sequence[EmbeddingProvider] = (),
        make: Callable[[EmbeddingSpace], EmbeddingProvider] | None = None,
        insists: bool = False,
        backup: EmbeddingProvider | None = None,
    ) -> None:
        """Combine providers.

        Args:
            chosen: What the settings choose.
            others: More that are there.
            make: Makes one for any other space, or raises a `ProviderError` that says why it can't.
            insists: Whether the settings name the provider.
            backup: What keeps a second space beside a remote provider's.
        """
        self.chosen = chosen
        self.insists = insists
        self.backup = backup
        self._providers = [chosen, *others]
        self._make = make

    async def serving(self, space: EmbeddingSpace | None) -> EmbeddingProvider:
        """The provider whose vectors may be compared in a space; the chosen one for a store that has none.

        Raises:
            ProviderError: There is none; the message says what is missing and names the command that migrates.
        """
        return self.chosen if space is None else await to_thread.run_sync(self._serving, space)

    async def chosen_space(self) -> EmbeddingSpace:
        """The space of the chosen provider, which some find out from files.

        Raises:
            ProviderError: It can't be found out.
        """
        return await to_thread.run_sync(lambda: self.chosen.space)

    def try_again(self) -> None:
        """Have every provider that was left alone for its failures asked at the next call."""
        for provider in self._providers:
            provider.try_again()

    async def aclose(self) -> None:
        """Release every provider."""
        for provider in self._providers:
            await provider.aclose()

    def _serving(self, space: EmbeddingSpace) -> EmbeddingProvider:
        for provider in self._providers:
            if _embeds_in(provider, space):
                return provider
        if self._make is None:
            raise _nobody_embeds_in(space, f"the settings choose {self.chosen.space}")
        made = self._make(space)
        self._providers.append(made)
        return made


def select_providers(
    settings: Settings,
    *,
    meter: MeterMaker | None = None,
    wrapped: Wrapper = lambda provider: provider,
    local: LocalProvider | None = None,
) -> ProviderChoice:
    """The providers that the settings allow.

    Args:
        settings: Backend, model, keys and limits.
        meter: Makes what counts a remote provider's tokens and money.
        wrapped: Applied to every provider, as for caching.
        local: The bundled model, where it is there already.

    Raises:
        ConfigError: The settings contradict each other.
    """
    from symmetra_mcp.providers.local import LocalProvider

    backend = backend_of(settings)
    bundled = wrapped(local or LocalProvider())
    model = model_of(settings, backend)
    dimensions = settings.embedding_dimensions
    chosen = bundled
    if backend == "local" and model != BUNDLED_MODEL:
        from symmetra_mcp.providers.sentence_transformers import SentenceTransformersProvider

        chosen = wrapped(SentenceTransformersProvider(model))
    elif backend == "local" and dimensions not in (None, bundled.space.dimensions):
        raise ConfigError(f"`SYMMETRA_EMBEDDING_DIMENSIONS`: vectors of {BUNDLED_MODEL!r} have 384 numbers")
    elif backend != "local":
        chosen = wrapped(_remote(settings, backend, model, dimensions, meter))
    return ProviderChoice(
        chosen,
        others=() if chosen is bundled else (bundled,),
        make=lambda space: wrapped(_for_space(settings, space, meter)),
        insists=settings.embedding_backend != "auto",
        backup=bundled if settings.embedding_backup and backend != "local" else None,
    )


def chooses_bundled(settings: Settings) -> bool:
    """Whether the bundled model embeds the rules.

    Raises:
        ConfigError: The settings contradict each other.
    """
    backend = backend_of(settings)
    return backend == "local" and model_of(settings, backend) == BUNDLED_MODEL


def backend_of(settings: Settings) -> str:
    """`openai`, `cohere` or `local`: what `auto` comes to."""
    if settings.embedding_backend != "auto":
        return settings.embedding_backend
    if settings.openai_key:
        return "openai"
    return "cohere" if settings.cohere_key else "local"


def model_of(settings: Settings, backend: str) -> str:
    """The model of a backend.

    A model set for one vendor is no model of another: where `auto` decides, the setting counts for the backend whose it
    is, so that `SYMMETRA_EMBEDDING_MODEL=all-MiniLM-L6-v2` keeps naming the local model beside a vendor's key.

    Raises:
        ConfigError: The settings name a backend and another vendor's model.
    """
    model, insists = settings.embedding_model, settings.embedding_backend != "auto"
    owner = _owner_of(model, settings)
    if model and owner == backend:
        return model
    if model and insists and owner != "local":
        raise ConfigError(f"`SYMMETRA_EMBEDDING_MODEL`: {model!r} is a model of {owner}, not of {backend}")
    if model and insists and model != BUNDLED_MODEL:
        return model  # a name that only the vendor can judge
    return {"openai": "text-embedding-3-small", "cohere": "embed-english-light-v3.0", "local": BUNDLED_MODEL}[backend]


def _owner_of(model: str, settings: Settings) -> str:
    if model.startswith(_OPENAIS_MODELS):
        return "openai"
    if model.startswith(_COHERES_MODELS):
        return "cohere"
    return "openai" if settings.openai_base_url and model != BUNDLED_MODEL else "local"


def _remote(
    settings: Settings, backend: str, model: str, dimensions: int | None, meter: MeterMaker | None
) -> EmbeddingProvider:
    """A vendor's provider; without a key, one that says so whenever it is asked."""
    shared: dict[str, Any] = {
        "model": model,
        "dimensions": dimensions,
        "query_timeout_s": settings.embedding_timeout,
        "requests_per_minute": settings.embedding_requests_per_minute,
        "tokens_per_minute": settings.embedding_tokens_per_minute,
        "inputs_per_minute": settings.embedding_inputs_per_minute,
    }
    if backend == "openai":
        from symmetra_mcp.providers.openai import OpenAIProvider, is_official, openai_space

        url = settings.openai_base_url
        space = openai_space(model, dimensions, url)
        key = settings.openai_key or ("" if is_official(url) else "none")
        if not key:
            return _KeylessProvider(space, "OPENAI_API_KEY")
        return OpenAIProvider(key, base_url=url, meter=meter(space) if meter else None, **shared)

    from symmetra_mcp.providers.cohere import CohereProvider, cohere_space

    space = cohere_space(model, dimensions, settings.co_api_url)
    if not settings.cohere_key:
        return _KeylessProvider(space, "COHERE_API_KEY")
    return CohereProvider(
        settings.cohere_key, base_url=settings.co_api_url, meter=meter(space) if meter else None, **shared
    )


def _for_space(settings: Settings, space: EmbeddingSpace, meter: MeterMaker | None) -> EmbeddingProvider:
    """A provider for a space that the settings don't choose, where they allow it."""
    if space.provider not in ("openai", "cohere"):
        raise _nobody_embeds_in(
            space, f"`SYMMETRA_EMBEDDING_MODEL` does not name {space.model!r}, or its files changed"
        )
    if settings.embedding_backend not in ("auto", space.provider):
        raise _nobody_embeds_in(space, f"`SYMMETRA_EMBEDDING_BACKEND` is {settings.embedding_backend!r}")
    provider = _remote(settings, space.provider, space.model, space.dimensions, meter)
    if isinstance(provider, _KeylessProvider):
        raise _nobody_embeds_in(space, f"`{provider.variable}` is not set")
    if provider.space != space:
        raise _nobody_embeds_in(space, f"the address that is set now belongs to {provider.space}")
    return provider


def _embeds_in(provider: EmbeddingProvider, space: EmbeddingSpace) -> bool:
    try:
        return provider.space == space
    except ProviderError:  # a model that can't be found can't be the one that is asked for
        return False


def _nobody_embeds_in(space: EmbeddingSpace, why: str) -> NoProviderError:
    return NoProviderError(
        f"the rules are embedded in {space}, and {why}: set what it was before, or move the rules with `{MIGRATE}`"
    )


class _KeylessProvider(EmbeddingProvider):
    """Stands for a vendor whose key is not set: it knows its space and says what is missing."""

    def __init__(self, space: EmbeddingSpace, variable: str) -> None:
        self._space = space
        self.variable = variable

    @property
    @override
    def space(self) -> EmbeddingSpace:
        return self._space

    @property
    @override
    def max_input_tokens(self) -> int:
        return 0

    @override
    async def _embed(self, texts: Sequence[str], input_type: InputType) -> NDArray[np.float32]:
        raise ProviderAuthError(
            f"`{self.variable}` is not set: set it in the environment or in `.env`, or set "
            f"`SYMMETRA_EMBEDDING_BACKEND` to `local` and run `{MIGRATE}`",
            provider=self._space.provider,
            model=self._space.model,
        )
