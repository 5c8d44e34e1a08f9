"""Calls of the database's functions through supabase-py: time limits, repeats, errors.

supabase-py's own retries are off: they leave out every function call, ignore `Retry-After` and sleep for seconds. Its
errors carry no HTTP status, so a hook of the HTTP client notes it down.
"""

from __future__ import annotations

import random
import ssl
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio

from symmetra_mcp.errors import StoreUnavailableError
from symmetra_mcp.providers.wire import is_loopback
from symmetra_mcp.stores.supabase_errors import Refusal, error_of

if TYPE_CHECKING:
    import httpx
    from supabase import AsyncClient

    from symmetra_mcp.config import SupabaseAddress

READ_DEADLINE_S = 30.0
WRITE_DEADLINE_S = 120.0
_CONNECT_TIMEOUT_S = 3.0
_MOST_CONNECTIONS = 8
_KEPT_CONNECTIONS = 4
_KEEPALIVE_S = 20.0
"""Shorter than any proxy in front of the database keeps an idle connection."""
ATTEMPTS = 3
_FIRST_PAUSE_S = 0.3


@dataclass(slots=True)
class _LastAnswer:
    """What the hook saw of the call at hand."""

    status: int = 0
    retry_after_s: float | None = None


_last_answer: ContextVar[_LastAnswer] = ContextVar("last_answer")


class SupabaseClient:
    """Calls functions of one project.

    Attributes:
        place: The project's address without anything secret, for messages.
    """

    def __init__(self, address: SupabaseAddress) -> None:
        self._address = address
        self._client: AsyncClient | None = None
        self._http: httpx.AsyncClient | None = None
        self._connecting = anyio.Lock()
        parts = urlsplit(address.url)
        self.place = f"{parts.scheme}://{parts.netloc}{parts.path}"

    async def aclose(self) -> None:
        """Close the connections. Safe to call twice."""
        http, self._client, self._http = self._http, None, None
        if http is not None:
            await http.aclose()

    async def call(
        self,
        function: str,
        parameters: dict[str, Any],
        *,
        writing: bool = False,
        repeatable: bool = True,
        deadline_s: float | None = None,
        attempts: int = ATTEMPTS,
    ) -> Any:
        """Call a function and return its result.

        Args:
            function: Its name in the schema `public`.
            parameters: By name, as JSON.
            writing: Whether it changes something.
            repeatable: Whether it may be sent again when it is not known whether it was done.
            deadline_s: Most seconds, repeats included.
            attempts: How often it is sent at most.

        Raises:
            StoreError: What `supabase_errors` makes of the answer, or of there being none.
        """
        limit_s = deadline_s or (WRITE_DEADLINE_S if writing else READ_DEADLINE_S)
        started = anyio.current_time()
        attempt = 0
        while True:
            attempt += 1
            left_s = limit_s - (anyio.current_time() - started)
            outcome = await self._attempt(function, parameters, left_s)
            if not isinstance(outcome, Refusal):
                return outcome[0]
            pause_s = outcome.retry_after_s or _FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1.0)
            again = outcome.is_passing and (repeatable or outcome.was_not_done)
            if not again or attempt == attempts or anyio.current_time() - started + pause_s >= limit_s:
                raise error_of(outcome, self.place, writing=writing) from None
            await anyio.sleep(pause_s)

    async def _attempt(self, function: str, parameters: dict[str, Any], limit_s: float) -> tuple[Any] | Refusal:
        """One request: the result in a tuple of one, or why there is none."""
        import httpx
        from postgrest import APIError

        client = await self._connected()
        seen = _LastAnswer()
        token = _last_answer.set(seen)
        try:
            with anyio.fail_after(max(limit_s, 0.1)):
                return ((await client.rpc(function, parameters).execute()).data,)
        except APIError as exc:
            code = "" if str(exc.code) == str(seen.status) else str(exc.code or "")
            return Refusal(seen.status, code, str(exc.message or ""), str(exc.details or ""), seen.retry_after_s)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            return Refusal(0, sent=False)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError):
            return Refusal(0)
        except TimeoutError:
            return Refusal(0)
        except (ValueError, TypeError) as exc:  # an answer that supabase-py can't read
            if isinstance(exc, UnicodeEncodeError):
                raise
            return Refusal(seen.status or 502)
        finally:
            _last_answer.reset(token)

    async def _connected(self) -> AsyncClient:
        async with self._connecting:
            if self._client is None:
                self._client = await self._connect()
            return self._client

    async def _connect(self) -> AsyncClient:
        import httpx
        import truststore

        # Imported in a thread: half a second during which the event loop has to answer a client's pings.
        supabase = await anyio.to_thread.run_sync(_import_supabase)

        encrypted = self._address.url.startswith("https:")

        async def note(response: httpx.Response) -> None:
            seen = _last_answer.get(None)
            if seen is not None:
                seen.status = response.status_code
                seen.retry_after_s = _seconds(response.headers.get("retry-after"))

        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(WRITE_DEADLINE_S, connect=_CONNECT_TIMEOUT_S),
            limits=httpx.Limits(
                max_connections=_MOST_CONNECTIONS,
                max_keepalive_connections=_KEPT_CONNECTIONS,
                keepalive_expiry=_KEEPALIVE_S,
            ),
            # The system's certificates, a company's too; none are read where nothing is encrypted.
            verify=encrypted and truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            trust_env=not is_loopback(self._address.url),
            follow_redirects=False,  # a key must not travel to wherever an answer points
            event_hooks={"response": [note]},
        )
        try:
            client: AsyncClient = await supabase.acreate_client(
                self._address.url,
                self._address.key.get_secret_value(),
                supabase.AsyncClientOptions(
                    httpx_client=self._http,
                    postgrest_client_retry=False,
                    auto_refresh_token=False,
                    persist_session=False,
                ),
            )
        except Exception:  # supabase-py checks the address and the key in its own ways, and quotes them
            with suppress(httpx.HTTPError):
                await self._http.aclose()
            raise StoreUnavailableError(
                f"supabase-py can't use the address {self.place} with this key: check `SYMMETRA_SUPABASE_URL` and "
                "`SYMMETRA_SUPABASE_KEY`"
            ) from None
        return client


def _import_supabase() -> Any:
    import supabase

    return supabase


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:
        return None
