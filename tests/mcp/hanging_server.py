"""A server over our transport whose tools hang: in a thread, in the event loop, and where they can be cancelled."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from mcp.server.mcpserver import MCPServer

from symmetra_mcp.stdio.front import Front
from symmetra_mcp.stdio.serving import serve
from symmetra_mcp.stdio.wire import Wire

HANGS_S = 60.0


def main() -> None:
    front = Front(Wire.of_this_process(), None)
    front.start()
    marks = Path(sys.argv[1])

    @asynccontextmanager
    async def lifespan(_: MCPServer[None]) -> AsyncIterator[None]:
        yield
        (marks / "cleaned up").touch()

    server = MCPServer("hanging", lifespan=lifespan)

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

    @server.tool()
    async def slowly(seconds: float) -> str:
        """Answer late."""
        await anyio.sleep(seconds)
        return "late"

    low_level = server._lowlevel_server
    anyio.run(serve, low_level, low_level.create_initialization_options(), front)
    front.wire.finish(0.5)


if __name__ == "__main__":
    main()
