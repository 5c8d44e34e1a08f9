"""OpenAI, and every server that speaks its embeddings API: Ollama, vLLM, TEI, LM Studio, Azure."""

from __future__ import annotations

import json
import re
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
from symmetra_mcp.providers.wire import (
    decode_vectors,
    invalid,
    is_loopback,
    plain_name,
    rate_state,
    request_id,
    retry_after_s,
)
from symmetra_mcp.spaces import EmbeddingSpace

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

    from symmetra_mcp.types import InputType

DEFAULT_MODEL = "text-embedding-3-small"
DEFAULT_DIMENSIONS = 384
OFFICIAL_HOST = "api.openai.com"
NATIVE_DIMENSIONS: Mapping[str, int] = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
}
"""Longest vectors of OpenAI's models. Source: https://platform.openai.com/docs/guides/embeddings (read 2026-11-22)."""
OTHER_DIMENSIONS: Mapping[str, int] = {
    "all-minilm": 384,
    "bge-large": 1024,
    "bge-m3": 1024,
    "embeddinggemma": 768,
    "mxbai-embed-large": 1024,
    "nomic-embed-text": 768,
    "snowflake-arctic-embed": 1024,
}
"""Length of the vectors of models that local servers offer by these names. Source: https://ollama.com/library."""
MAX_TEXTS = 2048
MAX_INPUT_TOKENS = 8192
MAX_REQUEST_TOKENS = 300_000
"""Source: https://platform.openai.com/docs/api-reference/embeddings/create (read 2026-11-22)."""
OTHER_MAX_TEXTS = 64
OTHER_MAX_REQUEST_TOKENS = 8_000
"""What servers of one machine take by default: TEI 32 texts a client batch or more, Ollama any."""

_CHOOSES_DIMENSIONS = "text-embedding-3-"
_OPENAIS = "text-embedding-"
_TOO_LONG = re.compile(r"maximum context length|too long|input length|exceeds? the (?:maximum )?context", re.IGNORECASE)
_INSTALL = "install it with `pip install openai`"


class OpenAIProvider(RemoteProvider):
    """`text-embedding-3-small` at 384 dimensions, or any other model by setting."""

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
            api_key: Key; any text for a server that asks for none.
            model: Id of the model.
            dimensions: Length of the vectors, where the model offers a choice or is not known here.
            base_url: Server that speaks OpenAI's API; empty for OpenAI.
            query_timeout_s: Seconds that a query may take, its retry included.
            requests_per_minute: The account's limit, where it is known.
            tokens_per_minute: Likewise.
            inputs_per_minute: Likewise.
            meter: Counts tokens and money.

        Raises:
            ConfigError: The model's vectors can't have this length, or their length is not known.
        """
        official = is_official(base_url)
        super().__init__(
            openai_space(model, dimensions, base_url),
            VendorLimits(
                texts=MAX_TEXTS if official else OTHER_MAX_TEXTS,
                input_tokens=MAX_INPUT_TOKENS,
                request_tokens=MAX_REQUEST_TOKENS if official else OTHER_MAX_REQUEST_TOKENS,
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
                inputs_per_minute=inputs_per_minute,
            ),
            query_timeout_s=query_timeout_s,
            meter=meter,
            exact_unit_length=model.startswith(_OPENAIS),
        )
        self._api_key = api_key
        self._base_url = base_url

    @override
    async def _open_api(self) -> VendorApi:
        client = await to_thread.run_sync(self._client)
        return _OpenAIApi(client, self.space)

    def _client(self) -> AsyncOpenAI:
        try:
            import openai
        except ImportError as exc:
            raise ProviderNotInstalledError(
                f"the package `openai` can't be loaded ({exc.name or 'import failed'}): {_INSTALL}",
                provider=self.space.provider,
                model=self.space.model,
            ) from exc
        return openai.AsyncOpenAI(
            api_key=self._api_key,
            base_url=self._base_url or f"https://{OFFICIAL_HOST}/v1",
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False,  # a redirect would carry the key to wherever it points
                trust_env=not is_loopback(self._base_url),
            ),
        )


def openai_space(model: str = DEFAULT_MODEL, dimensions: int | None = None, base_url: str = "") -> EmbeddingSpace:
    """The space that a model of OpenAI's, or of a server that speaks its API, embeds into.

    Raises:
        ConfigError: The model's vectors can't have this length, or their length is not known.
    """
    native = NATIVE_DIMENSIONS.get(model)
    if native is None and dimensions is None:
        dimensions = OTHER_DIMENSIONS.get(model.partition(":")[0])
        if dimensions is None:
            raise ConfigError(f"`SYMMETRA_EMBEDDING_DIMENSIONS`: set it to the length of the vectors of {model!r}")
    if native is not None:
        if not model.startswith(_CHOOSES_DIMENSIONS) and dimensions not in (None, native):
            raise ConfigError(f"`SYMMETRA_EMBEDDING_DIMENSIONS`: vectors of {model!r} have {native} numbers")
        if dimensions is None:
            dimensions = DEFAULT_DIMENSIONS if model.startswith(_CHOOSES_DIMENSIONS) else native
        if dimensions > native:
            raise ConfigError(f"`SYMMETRA_EMBEDDING_DIMENSIONS`: vectors of {model!r} have at most {native} numbers")
    assert dimensions is not None
    return EmbeddingSpace("openai", model, dimensions, variant="" if is_official(base_url) else _server(base_url))


def is_official(base_url: str) -> bool:
    """Whether an address is OpenAI's own API, in any of its regions."""
    host = urlsplit(base_url).hostname or OFFICIAL_HOST
    return host == OFFICIAL_HOST or host.endswith(f".{OFFICIAL_HOST}")


def _server(base_url: str) -> str:
    """A server's name in a space: models of one name on two servers need not be the same."""
    return urlsplit(base_url).netloc.lower()


class _OpenAIApi(VendorApi):
    def __init__(self, client: AsyncOpenAI, space: EmbeddingSpace) -> None:
        self._client = client
        self._space = space
        self._reported_model = space.model if space.model.startswith(_OPENAIS) else ""

    @override
    async def request(self, texts: Sequence[str], input_type: InputType, timeout_s: float) -> Reply:
        del input_type  # OpenAI's models embed both sides alike
        options: dict[str, Any] = {}
        if self._space.model.startswith(_CHOOSES_DIMENSIONS):
            options["dimensions"] = self._space.dimensions
        try:
            answer = await self._client.embeddings.with_raw_response.create(
                input=list(texts),
                model=self._space.model,
                encoding_format="base64",  # a tenth of the CPU of numbers in JSON
                timeout=timeout_s,
                **options,
            )
        except Exception as exc:
            raise _mapped(exc, self._space) from None  # the chain can hold the request's headers
        return self._read(answer.content, answer.headers, len(texts))

    @override
    async def aclose(self) -> None:
        await self._client.close()

    def _read(self, content: bytes, headers: Mapping[str, str], count: int) -> Reply:
        try:
            answer = json.loads(content)
            rows = {row["index"]: row["embedding"] for row in answer["data"]}
            tokens = (answer.get("usage") or {}).get("prompt_tokens")
        except (ValueError, TypeError, KeyError, AttributeError):
            raise invalid(self._space, "something that is no list of embeddings") from None
        if len(answer["data"]) != count or set(rows) != set(range(count)):
            raise invalid(self._space, f"{len(answer['data'])} embeddings for {count} texts, or in no order")
        self._check_model(answer.get("model"))
        return Reply(
            decode_vectors([rows[index] for index in range(count)], self._space),
            tokens if isinstance(tokens, int) and tokens > 0 else None,
            rate_state(headers, "requests"),
            rate_state(headers, "tokens"),
        )

    def _check_model(self, reported: object) -> None:
        """Refuse the vectors of another model: they have the same length and mean nothing here."""
        if not isinstance(reported, str) or not reported:
            return
        self._reported_model = self._reported_model or reported
        if not reported.startswith(self._reported_model):
            raise invalid(self._space, "the vectors of another model")


def _mapped(error: Exception, space: EmbeddingSpace) -> ProviderError:
    """An error of the SDK as ours, in our own words: the vendor's may repeat parts of the key."""
    import openai

    def says(kind: type[ProviderError], problem: str, **fields: Any) -> ProviderError:
        return kind(f"openai {problem}", provider=space.provider, model=space.model, **fields)

    if isinstance(error, openai.APITimeoutError):
        return says(ProviderUnavailableError, "did not answer in time")
    if isinstance(error, openai.APIConnectionError):
        return says(ProviderUnavailableError, "can't be reached: no connection, or it broke off")
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, says, space)
    if isinstance(error, UnicodeError):
        return says(ProviderAuthError, "was not asked: `OPENAI_API_KEY` holds a character that no key can hold")
    if isinstance(error, ValueError):  # JSON cut short, no data
        return invalid(space, "something that is no JSON")
    return says(ProviderUnavailableError, f"failed ({type(error).__name__})")


def _of_status(error: APIStatusError, says: Any, space: EmbeddingSpace) -> ProviderError:
    status, code = error.status_code, plain_name(error.code) or plain_name(error.type)
    place = ", ".join(part for part in (str(status), code, request_id(error.request_id)) if part)
    message = str(error.message)
    quota = "insufficient_quota" in (error.code, error.type) or code == "billing_hard_limit_reached"
    result: ProviderError
    if status == 401 or status == 403:
        result = says(ProviderAuthError, f"refused the key ({place}): check `OPENAI_API_KEY`")
    elif status == 404:
        result = says(
            InputRefusedError,
            f"has no model {space.model!r} for this key ({place}): check `SYMMETRA_EMBEDDING_MODEL`",
            about="request",
        )
    elif quota:
        result = says(QuotaExceededError, f"says that the account's quota is used up ({place}): check plan and billing")
    elif status == 429:
        wait_s = retry_after_s(error.response.headers)
        result = says(RateLimitError, f"asks for fewer requests ({place})", retry_after_s=wait_s)
    elif status in (400, 413, 422):
        about = "length" if _TOO_LONG.search(message) and code != "max_tokens_per_request" else "text"
        result = says(InputRefusedError, f"refused a text ({place})", about=about)
    elif 300 <= status < 400:
        result = says(
            ProviderUnavailableError,
            f"answered with a redirect ({place}), which would carry the key elsewhere: check `OPENAI_BASE_URL`",
        )
    else:
        result = says(ProviderUnavailableError, f"failed to answer ({place})")
    return result
