"""What stands before the SDK's application: whom a request means, and an end for requests that would not end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import JSONResponse

from symmetra_mcp.errors import KeysUnavailableError
from symmetra_mcp.http.keys import RETRY_S

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Requests:
    """The requests that are being answered."""

    def __init__(self) -> None:
        self._scopes: set[anyio.CancelScope] = set()
        self._ending = False

    def end(self) -> None:
        """Cancel them, and every further one."""
        self._ending = True
        for scope in self._scopes:
            scope.cancel()

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; one that is cancelled gets an end that its client understands."""
        started = completed = False

        async def watched(message: Message) -> None:
            nonlocal started, completed
            started = started or message["type"] == "http.response.start"
            completed = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        with anyio.CancelScope() as cancelled:
            self._scopes.add(cancelled)
            if self._ending:
                cancelled.cancel()
            try:
                await app(scope, receive, watched)
            finally:
                self._scopes.discard(cancelled)
        if not cancelled.cancelled_caught or completed:
            return
        if started:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await _unavailable("the server ends")(scope, receive, send)


class Guard:
    """Refuses requests for other hosts and of other pages before anything else reads them."""

    def __init__(self, app: ASGIApp, security: TransportSecuritySettings, requests: Requests) -> None:
        """Stand before an application.

        Args:
            app: The application.
            security: Which hosts and origins may be named.
            requests: Where requests are kept until they are answered.
        """
        self._app = app
        self._security = TransportSecurityMiddleware(security)
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = await self._security.validate_request(Request(scope))
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        try:
            await self._requests.run(self._app, scope, receive, send)
        except KeysUnavailableError:  # raised before anything is answered
            await _unavailable("tokens can't be checked now")(scope, receive, send)


def _unavailable(why: str) -> JSONResponse:
    headers = {"Retry-After": str(int(RETRY_S))}
    return JSONResponse({"error": "temporarily_unavailable", "error_description": why}, 503, headers)
