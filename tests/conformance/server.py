"""Our server with what the conformance suite calls beside our tools, over HTTP on loopback.

With `--bare` it is our server as it is shipped, for the scenarios that need nothing of the suite's own.
"""

from __future__ import annotations

import socket
import sys

import uvicorn
from content import plain_tools
from mcp.server.mcpserver import MCPServer
from mcp_types import EmptyResult, SetLevelRequestParams, SubscribeRequestParams, UnsubscribeRequestParams
from questions import add_questioning_prompt, asking_tools, questioning_tools
from resources import add_prompts, add_resources
from tasks import task_tools

from symmetra_mcp.app import App, make_app
from symmetra_mcp.config import load_settings
from symmetra_mcp.server import make_server


def conformance_server() -> MCPServer[App]:
    """Our server, with tools, resources and prompts that the suite asks for by name."""
    app = make_app(load_settings())
    further = [*plain_tools(), *questioning_tools(), *asking_tools(), *task_tools(app)]
    server = make_server(app, further_tools=further)
    add_resources(server)
    add_prompts(server)
    add_questioning_prompt(server)
    _add_what_older_versions_had(server)
    return server


def _add_what_older_versions_had(server: MCPServer[App]) -> None:
    """The log level of a session, which ours does not announce, and subscriptions to a resource that is no rule."""

    async def acknowledge(ctx: object, params: object) -> EmptyResult:
        return EmptyResult()

    low_level = server._lowlevel_server
    low_level.add_request_handler("logging/setLevel", SetLevelRequestParams, acknowledge)
    low_level.add_request_handler("resources/subscribe", SubscribeRequestParams, acknowledge)
    low_level.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, acknowledge)


def main(options: list[str]) -> None:
    """Serve on a free port of loopback, and print which."""
    server = make_server(make_app(load_settings())) if "--bare" in options else conformance_server()
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(server.streamable_http_app(), log_level="warning")
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main(sys.argv[1:])
