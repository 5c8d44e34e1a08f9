"""A server over the client's pipes: every message to the SDK and back, and an end in time, whatever hangs."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
from mcp.server.runner import serve_dual_era_loop
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError
from pydantic_core import from_json

from symmetra_mcp.ending import end_by_force_in
from symmetra_mcp.stdio.ancestors import ancestor_gone
from symmetra_mcp.stdio.front import Front, error_message
from symmetra_mcp.stdio.snapshot import VERSION_KEY

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server
    from mcp.server.models import InitializationOptions

LAST_ANSWERS_S = 0.9
"""How long answers are waited for once the client has closed its end. Clients kill after two seconds."""
LAST_ANSWERS_OF_A_PIPE_S = 60.0
"""The same where it was closed before the server was ready: `symmetra-mcp < requests.jsonl` wants its answers."""
CLEANING_UP_S = 0.7
"""How long closing everything may take."""
_FLUSH_S = 0.2
_STANDING = "subscriptions/listen"
"""A request that is answered for as long as the connection lives."""


class _Era:
    """One of the two protocols of a connection: handshake and session, or every request by itself.

    The SDK's loop serves the one that its first request belongs to, and refuses the other. Clients in use ask in the
    modern way what the server can do, and then shake hands; so each has a loop of its own.
    """

    def __init__(self) -> None:
        self.to_sdk, self.from_client = anyio.create_memory_object_stream[SessionMessage | Exception](math.inf)
        self.to_client, self.from_sdk = anyio.create_memory_object_stream[SessionMessage](0)


class _Connection:
    """What a client and the SDK say to each other."""

    def __init__(self, front: Front) -> None:
        self.legacy, self.modern = _Era(), _Era()
        self._front = front
        self._eras: dict[tuple[type, RequestId], _Era] = {}
        self._awaited: set[tuple[type, RequestId]] = set()
        self._answered = anyio.Event()
        self._closed = anyio.Event()

    def take(self, line: bytes | None) -> None:
        """Hand a message of the client on; `None` is its last."""
        if line is None:
            self._closed.set()
            return
        try:
            message = jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValidationError:
            message = None
        if message is None or (isinstance(message, JSONRPCNotification) and _has_id(line)):
            self._front.wire.send(_refusal(line))
            return
        self._era_of(message).to_sdk.send_nowait(SessionMessage(message))

    async def tell(self, era: _Era) -> None:
        """Send the client what the SDK says."""
        async for sent in era.from_sdk:
            message = sent.message
            if isinstance(message, (JSONRPCResponse, JSONRPCError)) and message.id is not None:
                self._forget(message.id)
                if era is self.legacy and self._front.has_answered(message.id):
                    continue
            self._front.wire.send(message.model_dump_json(by_alias=True, exclude_unset=True).encode())

    async def ended(self) -> None:
        """Wait until the client has closed its end, and for a while for what it still waits for."""
        await self._closed.wait()
        with anyio.move_on_after(LAST_ANSWERS_OF_A_PIPE_S if self._front.ended_early else LAST_ANSWERS_S):
            while self._awaited:
                await self._answered.wait()

    def _era_of(self, message: JSONRPCMessage) -> _Era:
        if isinstance(message, JSONRPCRequest):
            meta = (message.params or {}).get("_meta")
            is_modern = message.method != "initialize" and isinstance(meta, dict) and VERSION_KEY in meta
            era = self.modern if is_modern else self.legacy
            self._eras[_key(message.id)] = era
            if message.method != _STANDING:
                self._awaited.add(_key(message.id))
            return era
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            request_id = (message.params or {}).get("requestId")
            if isinstance(request_id, (int, str)):
                return self._forget(request_id) or self.legacy  # what is cancelled isn't answered
        return self.legacy

    def _forget(self, request_id: RequestId) -> _Era | None:
        self._awaited.discard(_key(request_id))
        self._answered.set()
        self._answered = anyio.Event()
        return self._eras.pop(_key(request_id), None)


async def serve(server: Server[Any], options: InitializationOptions, front: Front) -> None:
    """Serve until the client is gone or a signal comes; the process ends by force where that takes too long.

    Args:
        server: The SDK's server.
        options: What it says of itself in the handshake.
        front: Has the client's pipes.
    """
    loop = asyncio.get_running_loop()
    stopping = anyio.Event()

    def flush() -> None:
        front.wire.finish(_FLUSH_S)

    def stop() -> None:
        end_by_force_in(CLEANING_UP_S, flush)
        _soon(loop, stopping.set)

    async def stop_after(reason: Any) -> None:
        await reason
        stop()

    async with server.lifespan(server) as state:
        connection = _Connection(front)

        def take(line: bytes | None) -> None:
            connection.take(line)
            front.taken()

        def hand_over(line: bytes | None) -> None:
            if line is None:  # told here, for the event loop may hang
                end_by_force_in(LAST_ANSWERS_S + CLEANING_UP_S, flush)
            _soon(loop, take, line)

        async with anyio.create_task_group() as answers, anyio.create_task_group() as tasks:
            for era in (connection.legacy, connection.modern):
                tasks.start_soon(_serve_era, server, options, state, era)
                answers.start_soon(connection.tell, era)  # until the SDK has said its last
            tasks.start_soon(stop_after, connection.ended())
            tasks.start_soon(stop_after, ancestor_gone())
            front.when_asked_to_end(stop)
            front.attach(connection.take, hand_over)
            await stopping.wait()
            tasks.cancel_scope.cancel()


async def _serve_era(server: Server[Any], options: InitializationOptions, state: Any, era: _Era) -> None:
    await serve_dual_era_loop(server, era.from_client, era.to_client, lifespan_state=state, init_options=options)


def _soon(loop: asyncio.AbstractEventLoop, work: Any, *arguments: Any) -> None:
    with suppress(RuntimeError):  # the loop has ended: so does the process
        loop.call_soon_threadsafe(work, *arguments)


def _key(request_id: RequestId) -> tuple[type, RequestId]:
    """An id as a key: 1, "1" and 1.0 are three ids."""
    return type(request_id), request_id


def _has_id(line: bytes) -> bool:
    """Whether a message that passes for a notification is a request with an id that none can have."""
    return b'"id"' in line and "id" in from_json(line)


def _refusal(line: bytes) -> bytes:
    """The answer to what is no message."""
    try:
        value = from_json(line)
    except ValueError:
        return error_message(None, PARSE_ERROR, "Parse error: a message is one line of JSON in UTF-8")
    if isinstance(value, list):
        return error_message(
            None, INVALID_REQUEST, "Invalid request: send each message of a batch on a line of its own"
        )
    request_id = value.get("id") if isinstance(value, dict) else None
    if type(request_id) not in (int, str):
        request_id = None
    return error_message(request_id, INVALID_REQUEST, "Invalid request: this is no JSON-RPC 2.0 message")
