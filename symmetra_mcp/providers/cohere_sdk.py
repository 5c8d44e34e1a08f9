"""Cohere's SDK as both its embeddings and its re-ranking need it: the client, and its errors as ours."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from symmetra_mcp.errors import (
    InputRefusedError,
    ProviderAuthError,
    ProviderError,
    ProviderNotInstalledError,
    ProviderUnavailableError,
    QuotaExceededError,
    RateLimitError,
)
from symmetra_mcp.providers.wire import is_loopback, retry_after_s

if TYPE_CHECKING:
    from cohere import AsyncClientV2
    from cohere.core.api_error import ApiError

PROVIDER = "cohere"
OFFICIAL_URL = "https://api.cohere.com"

_INSTALL = "install it with `pip install cohere`"


def open_client(api_key: str, base_url: str, model: str) -> AsyncClientV2:
    """Import the SDK and make its client, for the event loop that uses it first. Takes a second: call it in a thread.

    Args:
        api_key: Key.
        base_url: Server that speaks Cohere's API; empty for Cohere.
        model: Named where the SDK is missing.

    Raises:
        ProviderNotInstalledError: The SDK is not installed.
    """
    try:
        import cohere
        import httpx
        import truststore
    except ImportError as exc:
        raise ProviderNotInstalledError(
            f"the package `cohere` can't be loaded ({exc.name or 'import failed'}): {_INSTALL}",
            provider=PROVIDER,
            model=model,
        ) from exc
    return cohere.AsyncClientV2(
        api_key,
        base_url=base_url or OFFICIAL_URL,
        max_retries=0,
        log_warning_experimental_features=False,
        httpx_client=httpx.AsyncClient(
            verify=truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # the system's certificates, a company's too
            follow_redirects=False,  # a redirect would carry the key to wherever it points
            trust_env=not is_loopback(base_url),
        ),
    )


async def close_client(client: AsyncClientV2) -> None:
    """Close its connections."""
    await client._client_wrapper.httpx_client.httpx_client.aclose()  # the SDK offers no other way


def mapped_error(
    error: Exception, model: str, *, setting: str, invalid: Callable[[str], ProviderError]
) -> ProviderError:
    """An error of the SDK as ours, in our own words: its texts hold answers and headers whole.

    Args:
        error: What the SDK raised.
        model: Which was asked.
        setting: The variable that names the model.
        invalid: Makes the error for an answer that is none.
    """
    import httpx
    from cohere.core.api_error import ApiError

    def says(kind: type[ProviderError], problem: str, **fields: Any) -> ProviderError:
        return kind(f"cohere {problem}", provider=PROVIDER, model=model, **fields)

    if isinstance(error, ApiError):
        return _of_status(error, says, model, setting, invalid)
    if isinstance(error, httpx.TimeoutException):
        return says(ProviderUnavailableError, "did not answer in time")
    if isinstance(error, httpx.LocalProtocolError | UnicodeError):
        return says(ProviderAuthError, "was not asked: the key holds a character that no key can hold")
    if isinstance(error, httpx.HTTPError):
        return says(ProviderUnavailableError, "can't be reached: no connection, or it broke off")
    if isinstance(error, ValueError):
        return invalid("something that is no JSON")
    return says(ProviderUnavailableError, f"failed ({type(error).__name__})")


def _of_status(
    error: ApiError, says: Any, model: str, setting: str, invalid: Callable[[str], ProviderError]
) -> ProviderError:
    status = error.status_code or 0
    message = str(error.body.get("message", "")) if isinstance(error.body, dict) else str(error.body or "")
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    result: ProviderError
    if status in (401, 403, 498):
        result = says(ProviderAuthError, f"refused the key ({status}): check `COHERE_API_KEY`")
    elif status == 404:
        result = says(
            InputRefusedError, f"has no model {model!r} for this key (404): check `{setting}`", about="request"
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
        result = invalid("something that is no JSON")
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
