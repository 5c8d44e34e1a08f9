"""A server over Streamable HTTP, from its settings to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import anyio

from symmetra_mcp.config import load_settings
from symmetra_mcp.ending import end_by_force_in, hear_signals
from symmetra_mcp.errors import ConfigError
from symmetra_mcp.http.access import PATH, Place, allowed_hosts, allowed_origins, check_access, place_of
from symmetra_mcp.telemetry import telemetry

if TYPE_CHECKING:
    import socket

    from mcp.server.mcpserver import MCPServer
    from starlette.applications import Starlette

    from symmetra_mcp.config import Settings
    from symmetra_mcp.http.guard import Requests

CLEANING_UP_S = 1.2
"""How long everything may take to close after a signal."""
LAST_ANSWERS_S = 1
"""How long uvicorn waits for requests that were cancelled."""
MOST_SESSIONS = 1_000
"""Clients of the older protocols at a time; each has a session, which ends when it is idle for half an hour."""


def run(host: str, port: int, flags: Mapping[str, Any]) -> NoReturn:
    """Serve until a signal comes, and end the process: with 0, or with 1 where it can't start.

    Args:
        host: Where to listen.
        port: At which port; 0 for any that is free.
        flags: Settings that the command line gave.
    """
    with suppress(OSError):
        os.dup2(2, 1)  # nobody asked anything on stdout: what is printed there is a notice
    ending = Ending()
    hear_signals(ending.begin, unless_ignored=True)
    code = 0
    try:
        settings = load_settings(**flags)
        place = place_of(host, port)
        check_access(settings, place)
        with place.listen() as listener:
            logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
            with telemetry(settings):
                anyio.run(_serve, settings, place, listener, ending)
    except ConfigError as exc:
        sys.stderr.write(f"Error: {exc}\n")
        code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stderr.flush()
    os._exit(code)  # Python would still wait for threads that may hang


class Ending:
    """How the process ends at a signal: at once until something is open, then in order, and by force if that hangs."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Any = None

    def begin(self) -> None:
        """End; called in the thread that hears signals, perhaps more than once."""
        if self._loop is None:
            os._exit(0)
        end_by_force_in(CLEANING_UP_S)
        with suppress(RuntimeError):  # the loop has ended: so does the process
            self._loop.call_soon_threadsafe(self._stop)

    def in_order(self, stop: Any) -> None:
        """Have `stop` called in the running event loop from now on."""
        self._stop = stop
        self._loop = asyncio.get_running_loop()


async def _serve(settings: Settings, place: Place, listener: socket.socket, ending: Ending) -> None:
    from symmetra_mcp.app import make_app
    from symmetra_mcp.server import make_server
    from symmetra_mcp.upkeep import Upkeep

    upkeep = Upkeep(make_app(settings))
    upkeep.greeted()  # no client waits for a first list of tools
    await serve(make_server(upkeep.app, upkeep), settings, place, listener, ending)


async def serve(
    server: MCPServer[Any], settings: Settings, place: Place, listener: socket.socket, ending: Ending
) -> None:
    """Serve until the process is asked to end.

    Args:
        server: The MCP server.
        settings: Who may come in.
        place: Where it listens.
        listener: The open port.
        ending: Tells when to end.

    Raises:
        ConfigError: The file of keys can't be used.
    """
    import uvicorn

    from symmetra_mcp.http.guard import Requests

    port = int(listener.getsockname()[1])
    address = f"http://{place.name}:{port}{PATH}"

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # they are heard already, even while the event loop hangs

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            verified = settings.http_token is not None or settings.http_issuer
            who = "clients must show a token" if verified else "no token is asked for"
            sys.stderr.write(f"symmetra-mcp serves MCP at {address}; {who}. Ctrl-C ends it.\n")
            sys.stderr.flush()

    requests = Requests()
    config = uvicorn.Config(
        application(server, settings, place, address, requests),
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=LAST_ANSWERS_S,
    )
    web_server = Server(config)

    def stop() -> None:
        web_server.should_exit = True
        requests.end()

    ending.in_order(stop)
    await web_server.serve([listener])


def application(
    server: MCPServer[Any], settings: Settings, place: Place, address: str, requests: Requests
) -> Starlette:
    """The server as an ASGI application: the SDK's, behind what says who may come in.

    Args:
        server: The MCP server.
        settings: Who may come in.
        place: Where it listens.
        address: The same, as an address on the web.
        requests: Where requests are kept until they are answered.

    Raises:
        ConfigError: The file of keys can't be used.
    """
    from mcp.server.transport_security import TransportSecuritySettings
    from starlette.middleware.cors import CORSMiddleware

    from symmetra_mcp.http.bearer import verification
    from symmetra_mcp.http.guard import Guard

    port = urlsplit(address).port or 80
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=allowed_hosts(settings, place, port),
        allowed_origins=allowed_origins(settings, place, port),
    )
    auth, verifier = verification(settings, address)
    app = server._lowlevel_server.streamable_http_app(
        streamable_http_path=PATH,
        transport_security=security,
        max_sessions=MOST_SESSIONS,
        auth=auth,
        token_verifier=verifier,
    )
    if settings.http_allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.http_allowed_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["Mcp-Session-Id", "WWW-Authenticate"],
        )
    app.add_middleware(Guard, security=security, requests=requests)
    return app
