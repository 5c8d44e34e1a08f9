"""Cohere: `embed-english-light-v3.0`, whose vectors have 384 numbers by nature, and its other models by setting."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from anyio import to_thread
from typing_extensions import override

from symmetra_mcp.errors import (
    ConfigError,
    InputRefusedError,
    ProviderAuthError,
    ProviderError,
    ProviderNotInstalledError,
    ProviderUnavailableError,
    QuotaExceededError,
    RateLimitError,
)
from symmetra_mcp.providers.remote import Meter, RemoteProvider, Reply, VendorApi, VendorLimits
from symmetra_mcp.providers.wire import decode_vectors, invalid, is_loopback, retry_after_s
from symmetra_mcp.spaces import EmbeddingSpace

if TYPE_CHECKING:
    from cohere import AsyncClientV2
    from cohere.core.api_error import ApiError

    from symmetra_mcp.types import InputType

DEFAULT_MODEL = "embed-english-light-v3.0"
OFFICIAL_URL = "https://api.cohere.com"
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
_INSTALL = "install it with `pip install cohere`"


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
        client = await to_thread.run_sync(self._client)
        return _CohereApi(client, self.space)

    def _client(self) -> AsyncClientV2:
        try:
            import cohere
            import httpx
            import truststore
        except ImportError as exc:
            raise ProviderNotInstalledError(
                f"the package `cohere` can't be loaded ({exc.name or 'import failed'}): {_INSTALL}",
                provider=self.space.provider,
                model=self.space.model,
            ) from exc
        return cohere.AsyncClientV2(
            self._api_key,
            base_url=self._base_url or OFFICIAL_URL,
            max_retries=0,
            log_warning_experimental_features=False,
            httpx_client=httpx.AsyncClient(
                verify=truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # the system's certificates, a company's too
                follow_redirects=False,  # a redirect would carry the key to wherever it points
                trust_env=not is_loopback(self._base_url),
            ),
        )


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
        await self._client._client_wrapper.httpx_client.httpx_client.aclose()  # the SDK offers no other way

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
    """An error of the SDK as ours, in our own words: its texts hold answers and headers whole."""
    import httpx
    from cohere.core.api_error import ApiError

    def says(kind: type[ProviderError], problem: str, **fields: Any) -> ProviderError:
        return kind(f"cohere {problem}", provider=space.provider, model=space.model, **fields)

    if isinstance(error, ApiError):
        return _of_status(error, says, space)
    if isinstance(error, httpx.TimeoutException):
        return says(ProviderUnavailableError, "did not answer in time")
    if isinstance(error, httpx.LocalProtocolError | UnicodeError):
        return says(ProviderAuthError, "was not asked: the key holds a character that no key can hold")
    if isinstance(error, httpx.HTTPError):
        return says(ProviderUnavailableError, "can't be reached: no connection, or it broke off")
    if isinstance(error, ValueError):
        return invalid(space, "something that is no JSON")
    return says(ProviderUnavailableError, f"failed ({type(error).__name__})")


def _of_status(error: ApiError, says: Any, space: EmbeddingSpace) -> ProviderError:
    status = error.status_code or 0
    message = str(error.body.get("message", "")) if isinstance(error.body, dict) else str(error.body or "")
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    result: ProviderError
    if status in (401, 403, 498):
        result = says(ProviderAuthError, f"refused the key ({status}): check `COHERE_API_KEY`")
    elif status == 404:
        result = says(
            InputRefusedError,
            f"has no model {space.model!r} for this key (404): check `SYMMETRA_EMBEDDING_MODEL`",
            about="request",
        )
    elif status == 402 or (status == 429 and _is_about_the_account(message)):
        result = says(
            QuotaExceededError,
            f"says that the key's calls are used up ({status}): check the plan, or wait for the month",
        )
    elif status == 429:
        result = says(RateLimitError, "asks for fewer requests (429)", retry_after_s=retry_after_s(headers))
    elif status in (400, 413, 422):
        result = says(InputRefusedError, f"refused a text ({status})", about="text")
    elif status == 200:
        result = invalid(space, "something that is no JSON")
    elif 300 <= status < 400:
        result = says(
            ProviderUnavailableError,
            f"answered with a redirect ({status}), which would carry the key elsewhere: check `CO_API_URL`",
        )
    else:
        result = says(ProviderUnavailableError, f"failed to answer ({status})")
    return result


def _is_about_the_account(message: str) -> bool:
    """A trial key's monthly calls, or an account's money: no minute brings them back."""
    lowered = message.lower()
    return "month" in lowered or "billing" in lowered or "credit" in lowered
