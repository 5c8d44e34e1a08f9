"""A project's database by Supabase's Management API, for where no connection to Postgres can be had."""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import override

from symmetra_mcp.config import SUPABASE_API_URL
from symmetra_mcp.errors import ConfigError, StoreAccessError, StoreError, StoreUnavailableError
from symmetra_mcp.providers.wire import is_loopback
from symmetra_mcp.stores.schema_database import Row, SchemaDatabase, server_error

if TYPE_CHECKING:
    import httpx

PROJECT_REF = re.compile(r"[a-z]{20}")
TOKENS_PAGE = "https://supabase.com/dashboard/account/tokens"
_TIMEOUT_S = 150.0
"""Longer than the API lets a statement run."""
_TRIES = 3
_LONGEST_WAIT_S = 60.0
_SERVER_ERROR = re.compile(r"ERROR:\s+([0-9A-Z]{5}):\s*(.*)")


class ManagementApi(SchemaDatabase):
    """A project's database, each call on a connection of its own, as `postgres`.

    Args:
        token: A personal access token.
        project_ref: The project's twenty letters.
        api_url: Where the API is.
        sleep: Waits for that many seconds before a call that was refused as one too many is made again.

    Raises:
        ConfigError: These are not the letters of a project.
    """

    def __init__(
        self,
        token: str,
        project_ref: str,
        *,
        api_url: str = SUPABASE_API_URL,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if not PROJECT_REF.fullmatch(project_ref):
            raise ConfigError(f"a Supabase project has 20 lower-case letters, not {project_ref[:40]!r}")
        self.project_ref = project_ref
        self.place = f"the Supabase project {project_ref}"
        self._token = token
        self._url = f"{api_url.rstrip('/')}/v1/projects/{project_ref}/database/query"
        self._sleep = sleep
        self._client: httpx.Client | None = None

    @override
    def run(self, body: str) -> list[Row]:
        return self._ask(f"begin;\n{body}\ncommit;", changing=True)

    @override
    def query(self, sql: str) -> list[Row]:
        return self._ask(sql, changing=False)

    @override
    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _ask(self, sql: str, *, changing: bool) -> list[Row]:
        for tries_left in reversed(range(_TRIES)):
            response = self._post(sql, changing=changing)
            if response.status_code != 429 or not tries_left:
                break
            wait_s = _retry_after_s(response)
            if wait_s > _LONGEST_WAIT_S:
                break
            self._sleep(wait_s)  # refused before anything was run
        if response.is_success:
            return _rows(response, self.place)
        raise self._error(response, changing=changing)

    def _post(self, sql: str, *, changing: bool) -> httpx.Response:
        import httpx

        problem = ""
        try:
            return self._http().post(self._url, json={"query": sql}, headers={"Authorization": f"Bearer {self._token}"})
        except (httpx.ConnectError, httpx.ConnectTimeout):
            problem = "can't be connected to; nothing was changed. Check the network, and run the command again"
        except (httpx.HTTPError, UnicodeError) as exc:
            problem = f"gave no whole answer ({type(exc).__name__}). {_unknown_outcome(changing)}"
        # Outside `except`: the request of the error holds the token.
        raise StoreUnavailableError(f"Supabase's Management API {problem}")

    def _http(self) -> httpx.Client:
        import httpx
        import truststore

        if self._client is None:
            self._client = httpx.Client(
                verify=truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # the system's certificates, a company's too
                timeout=httpx.Timeout(_TIMEOUT_S, connect=15.0),
                follow_redirects=False,  # a redirect would carry the token to wherever it points
                trust_env=not is_loopback(self._url),
            )
        return self._client

    def _error(self, response: httpx.Response, *, changing: bool) -> StoreError:
        status, message = response.status_code, _message(response)
        refused = _SERVER_ERROR.search(message)
        if refused is not None:
            return server_error(refused[1], refused[2], self.place)
        if status == 401:
            return StoreAccessError(
                "Supabase's Management API refuses the token in `SUPABASE_ACCESS_TOKEN`: it is wrong, revoked or "
                f"expired. Make a new one: {TOKENS_PAGE}"
            )
        if status == 403:
            return StoreAccessError(
                f"the token in `SUPABASE_ACCESS_TOKEN` may not change {self.place}: it needs the right to read and "
                f"write the database of this project. Make one that has it: {TOKENS_PAGE}"
            )
        if status == 404:
            return StoreAccessError(
                f"there is no {self.place.removeprefix('the ')} that the token in `SUPABASE_ACCESS_TOKEN` can see: "
                "check the letters, and that the token is of an account that has the project"
            )
        if status == 429:
            return StoreUnavailableError(
                "Supabase's Management API takes no more calls for now; nothing was changed. Wait a minute, and run "
                "the command again"
            )
        return StoreUnavailableError(f"Supabase's Management API answers {status}. {_unknown_outcome(changing)}")


def _unknown_outcome(changing: bool) -> str:
    if not changing:
        return "Nothing was changed: run the command again"
    return "The change is one transaction, so all of it was made or nothing: run the command again, which completes it"


def _rows(response: httpx.Response, place: str) -> list[Row]:
    answer = _json(response)
    if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
        raise StoreUnavailableError(f"what the Management API says of {place} can't be read: run the command again")
    return cast("list[Row]", answer)


def _message(response: httpx.Response) -> str:
    answer = _json(response)
    message = answer.get("message") if isinstance(answer, dict) else None
    return message if isinstance(message, str) else ""


def _json(response: httpx.Response) -> Any:
    try:
        return json.loads(response.content)
    except ValueError:
        return None


def _retry_after_s(response: httpx.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if re.fullmatch(r"\d{1,6}", value) else 5.0
