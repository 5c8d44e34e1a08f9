"""A client of a few lines for the real server process: it writes lines and reads lines, good ones and bad ones."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def request(number: object, method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, **({"params": params} if params else {})}


def call(number: object, tool: str, **arguments: Any) -> dict[str, Any]:
    return request(number, "tools/call", name=tool, arguments=arguments)


class Peer:
    """A client that writes lines and reads lines."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def send(self, *messages: Any) -> None:
        assert self.process.stdin is not None
        lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in messages]
        self.process.stdin.write(b"".join(line + b"\n" for line in lines))
        self.process.stdin.flush()

    def receive(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, message: dict[str, Any]) -> Any:
        self.send(message)
        while (answer := self.receive()).get("id") != message["id"]:
            pass
        return answer

    def greet(self) -> Any:
        answer = self.ask(request(0, "initialize", **HELLO))
        self.send(INITIALIZED)
        return answer

    def wait_for_the_sdk(self) -> None:
        """Ask what cannot be answered from the snapshot."""
        assert self.ask(request("ready", "prompts/get", name="none"))["error"]["code"] == -32602

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def seconds_to_end(self) -> float:
        began = time.monotonic()
        self.process.wait(20)
        return time.monotonic() - began


@contextmanager
def started(*words: str, **options: Any) -> Iterator[Peer]:
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with subprocess.Popen([sys.executable, *words], **options) as process:
        try:
            yield Peer(process)
        finally:
            process.kill()


def memory_mb(process: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no memory is told")
