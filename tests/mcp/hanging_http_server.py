"""A server over our HTTP transport whose tools hang: in a thread, in the event loop, or as they may."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from mcp.server.mcpserver import MCPServer

from symmetra_mcp.config import load_settings
from symmetra_mcp.ending import hear_signals
from symmetra_mcp.http.access import place_of
from symmetra_mcp.http.serving import Ending, serve

HANGS_S = 60.0


def main() -> None:
    marks = Path(sys.argv[1])
    ending = Ending()
    hear_signals(ending.begin)

    @asynccontextmanager
    async def lifespan(_: MCPServer[None]) -> AsyncIterator[None]:
        with (marks / "began").open("a") as file:
            file.write("once\n")
        yield
        (marks / "cleaned up").touch()

    server = MCPServer("hanging", lifespan=lifespan, log_level="WARNING")

    @server.tool()
    def in_a_thread() -> str:
        """Hang where nobody can cancel."""
        (marks / "hangs").touch()
        time.sleep(HANGS_S)
        return ""

    @server.tool()
    async def in_the_loop() -> str:
        """Stop everything."""
        (marks / "hangs").touch()
        time.sleep(HANGS_S)  # noqa: ASYNC251 (that is the fault)
        return ""

    @server.tool()
    async def gently() -> str:
        """Wait."""
        (marks / "hangs").touch()
        await anyio.sleep(HANGS_S)
        return ""

    place = place_of("127.0.0.1", 0)
    with place.listen() as listener:
        anyio.run(serve, server, load_settings(), place, listener, ending)


if __name__ == "__main__":
    main()
