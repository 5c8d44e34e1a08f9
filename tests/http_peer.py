"""A server over HTTP as a real process, and a client of a few lines that can send what no good client sends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from stdio_peer import HELLO, MODERN, request

JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
_ADDRESS = re.compile(r"http://\S+:(\d+)/mcp")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> Any:
        """The last message, sent as JSON or as an event."""
        if self.headers.get("content-type") == "text/event-stream":
            events = [line[5:] for line in self.body.decode().splitlines() if line.startswith("data:")]
            return json.loads([event for event in events if event.strip()][-1])
        return json.loads(self.body)


@dataclass
class Served:
    """A server process.

    Attributes:
        process: That process.
        port: Where it listens.
        told: What it has said on stderr.
        connections: Those that tests have opened.
    """

    process: subprocess.Popen[bytes]
    port: int = 0
    told: list[str] = field(default_factory=list)
    connections: list[HTTPConnection] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    @property
    def stderr(self) -> str:
        return "".join(self.told)

    def wait_for(self, words: str) -> None:
        """Wait until it has said something: what it writes is read in a thread."""
        for _ in range(500):
            if words in self.stderr:
                return
            time.sleep(0.02)
        raise AssertionError(self.stderr)

    def send(self, method: str, body: object = None, path: str = "/mcp", **headers: str) -> HTTPConnection:
        """Send a request and don't wait for its answer; names of headers have `_` for `-`."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, content, {**JSON, **named})
        self.connections.append(connection)
        return connection

    def open(self, method: str, body: object = None, path: str = "/mcp", **headers: str) -> HTTPResponse:
        """Send a request, and leave the answer's body to be read."""
        return self.send(method, body, path, **headers).getresponse()

    def ask(self, method: str, body: object = None, path: str = "/mcp", **headers: str) -> Answer:
        with closing(self.send(method, body, path, **headers)) as connection, connection.getresponse() as response:
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())

    def legacy(self, message: object, session: str = "", **headers: str) -> Answer:
        """A message of the older protocols."""
        more = {"Mcp_Session_Id": session, "MCP_Protocol_Version": "2025-11-25"} if session else {}
        return self.ask("POST", message, **more, **headers)

    def greet(self, **headers: str) -> str:
        """Open a session, whose id comes back."""
        return self.legacy(request(0, "initialize", **HELLO), **headers).headers["mcp-session-id"]

    def modern(self, method: str, mcp_name: str = "", extensions: Sequence[str] = (), **params: Any) -> Answer:
        """A request of the newer protocol."""
        capabilities = {"io.modelcontextprotocol/clientCapabilities": {"extensions": {one: {} for one in extensions}}}
        message = request(1, method, _meta={**MODERN, **capabilities}, **params)
        more = {"Mcp_Name": mcp_name} if mcp_name else {}
        return self.ask("POST", message, MCP_Protocol_Version="2026-07-28", Mcp_Method=method, **more)


def environment(place: Path, **settings: str) -> dict[str, str]:
    """An environment without the machine's settings, and with a data folder of its own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SYMMETRA_", "CLAUDE_"))}
    return {**own, "SYMMETRA_DATA_DIR": str(place / "data"), **settings}


@contextmanager
def served(place: Path, *options: str, program: Sequence[str] = (), **settings: str) -> Iterator[Served]:
    """Serve on a port that is free.

    Args:
        place: A folder for its data, and to start it in.
        *options: For `serve --http`.
        program: Another program that serves, as words for Python.
        **settings: Variables of its environment.
    """
    words = program or ("-m", "symmetra_mcp", "serve", "--http", "--port", "0", *options)
    process = subprocess.Popen(
        [sys.executable, *words],
        env=environment(place, **settings),
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    server = Served(process)
    listening = threading.Event()

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            server.told.append(line.decode())
            found = _ADDRESS.search(server.told[-1])
            if found is not None and not server.port:
                server.port = int(found[1])
                listening.set()
        listening.set()

    reader = threading.Thread(target=listen)
    with process:
        reader.start()
        try:
            assert listening.wait(60)
            assert server.port, server.stderr
            yield server
        finally:
            process.kill()
            for connection in server.connections:
                connection.close()
            reader.join()
    # What it wrote to stdout is gone with `process`: tests that look at it read it before.
