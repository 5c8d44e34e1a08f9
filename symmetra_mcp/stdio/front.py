"""The first that runs in a server: it takes the client's pipes and answers what it can, while the rest is imported.

Importing the SDK takes a second, and every editor starts every server at its own start. Only modules of the standard
library that are quick to import may be imported here.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping

from symmetra_mcp.ending import hear_signals
from symmetra_mcp.stdio.snapshot import Snapshot, snapshot_of_this_start
from symmetra_mcp.stdio.wire import LONGEST_LINE, Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Sink = Callable[["bytes | None"], None]

PARSE_ERROR = -32700
_INTERNAL_ERROR = -32603
_QUICK_SWITCH_S = 0.0005
_MOST_HANDED_OVER = 1_000
"""Messages that wait for the event loop, at most, before no more are read."""
_LISTS = frozenset({"tools/list", "prompts/list", "resources/templates/list"})


class Front:
    """Reads the client's messages: answers them itself, keeps them, or hands them on once somebody takes them.

    Attributes:
        wire: Where answers go.
        listed: Whether it has answered with a list, so that the client is not waiting to begin.
        ended_early: Whether the client closed its end before anybody took its messages, as a pipe in a shell does.
    """

    def __init__(self, wire: Wire, snapshot: Snapshot | None) -> None:
        """Make a front; it reads nothing yet.

        Args:
            wire: The client's pipes.
            snapshot: Answers that are known already.
        """
        self.wire = wire
        self.listed = self.ended_early = False
        self._snapshot = snapshot
        self._lock = threading.Lock()
        self._kept: list[bytes | None] = []
        self._sink: Sink | None = None
        self._room = threading.Semaphore(_MOST_HANDED_OVER)
        self._answered: set[str] = set()
        self._after_list: Callable[[], None] | None = None
        self._stop: Callable[[], None] = lambda: os._exit(0)  # nothing is open yet that wants to be closed
        self._switch_s = sys.getswitchinterval()

    def start(self) -> None:
        """Read from now on, and end at SIGTERM, SIGINT and SIGHUP, whatever the main thread is doing."""
        sys.setswitchinterval(_QUICK_SWITCH_S)  # an answer waits for an import otherwise
        hear_signals(lambda: self._stop())
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    def when_asked_to_end(self, stop: Callable[[], None]) -> None:
        """Let signals and a client that is gone end the process in another way than at once.

        Args:
            stop: Called in a thread, possibly more than once.
        """
        self._stop = stop
        self.wire.when_broken(stop)

    def when_listed(self, begin: Callable[[], None]) -> None:
        """Have something begun once the client has its first list, or now where it has; not where the SDK gives it.

        Args:
            begin: Called once, in the thread that reads or in this one; it must not take long.
        """
        with self._lock:
            if not self.listed:
                self._after_list = begin
                return
        begin()

    def attach(self, take: Sink, hand_over: Sink) -> None:
        """Give away what was kept, and from now on every message.

        Args:
            take: Called at once in this thread with each message that was kept; `None` is the end.
            hand_over: Called with later ones in the thread that reads. Whoever takes them calls `taken` for each.
        """
        with self._lock:
            for message in self._kept:
                take(message)
            self._kept.clear()
            self._sink = hand_over
        sys.setswitchinterval(self._switch_s)

    def taken(self) -> None:
        """A message that was handed over is dealt with: there is room for another."""
        self._room.release()

    def has_answered(self, request_id: object) -> bool:
        """Whether a request was answered from the snapshot before it was given away; asked once for each.

        Args:
            request_id: The id of an answer that is about to be sent.
        """
        key = json.dumps(request_id)
        if key not in self._answered:
            return False
        self._answered.discard(key)
        return True

    def fail(self, problem: str) -> None:
        """Answer every request that waits with an error: the server can't start.

        Args:
            problem: What is wrong, in one sentence; without secrets.
        """

        def refuse(line: bytes | None) -> None:
            message = None if line is None else _message(line)
            if message is not None and "id" in message and not self.has_answered(message["id"]):
                self.wire.send(error_message(message["id"], _INTERNAL_ERROR, problem))

        self.attach(refuse, refuse)

    def _read(self) -> None:
        for line in self.wire.lines():
            if line is None:
                problem = f"Parse error: a message is longer than {LONGEST_LINE // 2**20} MiB"
                self.wire.send(error_message(None, PARSE_ERROR, problem))
            elif line.strip():
                self._take(line)
        self._take(None)

    def _take(self, line: bytes | None) -> None:
        with self._lock:
            if self._sink is None:
                if line is None:
                    self.ended_early = True
                if line is None or not self._answer(line):
                    self._kept.append(line)
                return
            sink = self._sink
        self._room.acquire()
        sink(line)

    def _answer(self, line: bytes) -> bool:
        """Answer a message at once where that is possible.

        Returns:
            Whether nobody else needs it.
        """
        message = None if self._snapshot is None else _message(line)
        if message is None or type(message.get("id")) not in (int, str):
            return False
        result = self._snapshot.answer(message) if self._snapshot is not None else None
        if result is None:
            return False
        answer = '{"jsonrpc":"2.0","id":' + json.dumps(message["id"]) + ',"result":' + result + "}"
        self.wire.send(answer.encode())
        if message["method"] in _LISTS:
            self.listed = True
            begin, self._after_list = self._after_list, None
            if begin is not None:
                begin()
        if message["method"] != "initialize":
            return True
        self._answered.add(json.dumps(message["id"]))  # the SDK must hear of it, and its answer isn't sent
        return False


def open_front(flags: Mapping[str, Any]) -> Front:
    """Take over the process's stdin and stdout, and begin to answer.

    Args:
        flags: What the command line says of tools: `read_only`, `allow_writes`, `tools`.
    """
    front = Front(Wire.of_this_process(), snapshot_of_this_start(flags))
    front.start()
    return front


def error_message(request_id: object, code: int, problem: str) -> bytes:
    """An answer that tells of an error.

    Args:
        request_id: The request's id, or `None` where it can't be told.
        code: JSON-RPC's number for it.
        problem: One sentence.
    """
    error = {"code": code, "message": problem}
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}, separators=(",", ":")).encode()


def _message(line: bytes) -> dict[str, Any] | None:
    """A request or notification as JSON-RPC has it, or `None`."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    well_formed = (
        isinstance(message, dict)
        and message.get("jsonrpc") == "2.0"
        and isinstance(message.get("method"), str)
        and not set(message) - {"jsonrpc", "id", "method", "params"}
    )
    return message if well_formed else None
