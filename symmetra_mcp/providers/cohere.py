"""Cohere: `embed-english-light-v3.0`, whose vectors have 384 numbers by nature, and its other models by setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from anyio import to_thread
from typing_extensions import override

from symmetra_mcp.errors import ConfigError, ProviderError
from symmetra_mcp.providers.cohere_sdk import OFFICIAL_URL, close_client, mapped_error, open_client
from symmetra_mcp.providers.remote import Meter, RemoteProvider, Reply, VendorApi, VendorLimits
from symmetra_mcp.providers.wire import decode_vectors, invalid
from symmetra_mcp.spaces import EmbeddingSpace

if TYPE_CHECKING:
    from cohere import AsyncClientV2

    from symmetra_mcp.types import InputType

DEFAULT_MODEL = "embed-english-light-v3.0"
DIMENSIONS: Mapping[str, tuple[int, ...]] = {
    "embed-english-light-v3.0": (384,),
    "embed-multilingual-light-v3.0": (384,),
    "embed-english-v3.0": (1024,),
    "embed-multilingual-v3.0": (1024,),
    "embed-v4.0": (256, 512, 1024, 1536),
    "embed-v5.0-fast": (256, 512, 768, 1024, 1536, 2048),
    "embed-v5.0-pro": (256, 512, 768, 1024, 1536, 2048),
}
"""Lengths that each model's vectors can have. Source: https://docs.cohere.com/docs/cohere-embed (read 2026-11-22)."""
CHOSEN_DIMENSIONS = 512
"""For models that offer a choice, none of which is 384."""
MAX_TEXTS = 96
MAX_INPUT_TOKENS = 512
"""Of the v3 models; later ones read 128,000. Source: https://docs.cohere.com/docs/cohere-embed (read 2026-11-22)."""
LONG_INPUT_TOKENS = 128_000
INPUTS_PER_MINUTE = 2000.0
"""For trial and production keys. Source: https://docs.cohere.com/docs/rate-limits (read 2026-11-22)."""

_INPUT_TYPES = {"query": "search_query", "document": "search_document"}


class CohereProvider(RemoteProvider):
    """Queries and documents are embedded each in their own way (`input_type`)."""

    def __init__(
        self,
        api_key: str,
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        base_url: str = "",
        query_timeout_s: float = 3.0,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        inputs_per_minute: float | None = None,
        meter: Meter | None = None,
    ) -> None:
        """Prepare; the SDK is imported at first use.

        Args:
            api_key: Key.
            model: Id of the model.
            dimensions: Length of the vectors, where the model offers a choice or is not known here.
            base_url: Server that speaks Cohere's API; empty for Cohere.
            query_timeout_s: Seconds that a query may take, its retry included.
            requests_per_minute: The account's limit, where it is known.
            tokens_per_minute: Likewise.
            inputs_per_minute: Likewise; 2,000 where nothing is said.
            meter: Counts tokens and money.

        Raises:
            ConfigError: The model's vectors can't have this length, or their length is not known.
        """
        super().__init__(
            cohere_space(model, dimensions, base_url),
            VendorLimits(
                texts=MAX_TEXTS,
                input_tokens=MAX_INPUT_TOKENS if "v3.0" in model else LONG_INPUT_TOKENS,
                request_tokens=LONG_INPUT_TOKENS,
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
                inputs_per_minute=inputs_per_minute or INPUTS_PER_MINUTE,
                cuts_long_texts=True,
            ),
            query_timeout_s=query_timeout_s,
            meter=meter,
        )
        self._api_key = api_key
        self._base_url = base_url

    @override
    async def _open_api(self) -> VendorApi:
        client = await to_thread.run_sync(open_client, self._api_key, self._base_url, self.space.model)
        return _CohereApi(client, self.space)


def cohere_space(model: str = DEFAULT_MODEL, dimensions: int | None = None, base_url: str = "") -> EmbeddingSpace:
    """The space that a model of Cohere's embeds into.

    Raises:
        ConfigError: The model's vectors can't have this length, or their length is not known.
    """
    possible = DIMENSIONS.get(model)
    if possible is None and dimensions is None:
        raise ConfigError(f"`SYMMETRA_EMBEDDING_DIMENSIONS`: set it to the length of the vectors of {model!r}")
    if possible is not None and dimensions is not None and dimensions not in possible:
        lengths = ", ".join(map(str, possible))
        raise ConfigError(f"`SYMMETRA_EMBEDDING_DIMENSIONS`: vectors of {model!r} can have {lengths} numbers")
    if dimensions is None and possible is not None:
        dimensions = possible[0] if len(possible) == 1 else CHOSEN_DIMENSIONS
    assert dimensions is not None
    server = "" if is_official(base_url) else urlsplit(base_url).netloc.lower()
    return EmbeddingSpace("cohere", model, dimensions, variant=server)


def is_official(base_url: str) -> bool:
    """Whether an address is Cohere's own API."""
    host = urlsplit(base_url or OFFICIAL_URL).hostname or ""
    return host.endswith((".cohere.com", ".cohere.ai"))


class _CohereApi(VendorApi):
    def __init__(self, client: AsyncClientV2, space: EmbeddingSpace) -> None:
        self._client = client
        self._space = space

    @override
    async def request(self, texts: Sequence[str], input_type: InputType, timeout_s: float) -> Reply:
        options: dict[str, Any] = {}
        if len(DIMENSIONS.get(self._space.model, ())) != 1:
            options["output_dimension"] = self._space.dimensions
        try:
            answer = await self._client.embed(
                model=self._space.model,
                input_type=_INPUT_TYPES[input_type],
                texts=list(texts),
                embedding_types=["base64"],  # a twentieth of the CPU of numbers in JSON
                truncate="END",
                request_options={"max_retries": 0, "timeout": timeout_s},
                **options,
            )
        except Exception as exc:
            raise _mapped(exc, self._space) from None  # its text holds every header of the answer
        return self._read(answer, len(texts))

    @override
    async def aclose(self) -> None:
        await close_client(self._client)

    def _read(self, answer: Any, count: int) -> Reply:
        embeddings = getattr(answer, "embeddings", None)
        rows = getattr(embeddings, "base64", None) or getattr(embeddings, "float_", None)
        if not isinstance(rows, list):
            raise invalid(self._space, "something that is no list of embeddings")
        if len(rows) != count:
            raise invalid(self._space, f"{len(rows)} embeddings for {count} texts")
        billed = getattr(getattr(answer, "meta", None), "billed_units", None)
        tokens = getattr(billed, "input_tokens", None)
        return Reply(
            decode_vectors(rows, self._space), int(tokens) if isinstance(tokens, int | float) and tokens > 0 else None
        )


def _mapped(error: Exception, space: EmbeddingSpace) -> ProviderError:
    """An error of the SDK as ours."""
    return mapped_error(error, space.model, setting="SYMMETRA_EMBEDDING_MODEL", invalid=partial(invalid, space))
