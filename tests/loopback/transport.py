"""HTTP/1.1 as far as embedding clients need it, on bare asyncio: a framework would not break off half-way on demand."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Literal

from loopback.limits import Header

Delivery = Literal["whole", "never", "half_then_silence", "half_then_end", "reset"]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request as it came; names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    elsewhere: bool


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer, and how much of it arrives."""

    status: int
    headers: Sequence[Header] = ()
    body: bytes = b""
    delivery: Delivery = "whole"


class Listener:
    """A port that connections are taken at.

    asyncio's own server loses a connection that is accepted while it closes: its socket stays open and silent.

    Args:
        bound: Socket with an address.
        answer: Answers a request.
        elsewhere: Whether this is the second port.
    """

    def __init__(
        self, bound: socket.socket, answer: Callable[[HttpRequest], Awaitable[HttpAnswer]], *, elsewhere: bool = False
    ) -> None:
        self._socket = bound
        self._loop = asyncio.get_running_loop()
        self._make: Callable[[], HttpConnection] = lambda: HttpConnection(
            answer, self._connections, elsewhere=elsewhere
        )
        self._arriving: set[asyncio.Task[tuple[asyncio.Transport, HttpConnection]]] = set()
        self._connections: set[HttpConnection] = set()
        bound.setblocking(False)
        bound.listen(512)
        self._loop.add_reader(bound, self._accept)

    async def close(self) -> None:
        """Refuse connections from now on, and drop those that are open."""
        self._loop.remove_reader(self._socket)
        self._socket.close()
        await asyncio.gather(*self._arriving, return_exceptions=True)
        dropped = list(self._connections)
        for connection in dropped:
            connection.abort()
        await asyncio.gather(*(c.task for c in dropped if c.task is not None), return_exceptions=True)
        await asyncio.sleep(0)  # transports close their sockets in a callback

    def _accept(self) -> None:
        try:
            arrived, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        arrived.setblocking(False)
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._make, arrived))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)


class HttpConnection(asyncio.Protocol):
    """One client's connection: one request after the other.

    Args:
        answer: Answers a request; cancelled when the client hangs up.
        open_connections: Where the connection is listed while it is open.
        elsewhere: Whether this is the second port.
    """

    def __init__(
        self,
        answer: Callable[[HttpRequest], Awaitable[HttpAnswer]],
        open_connections: set[HttpConnection],
        *,
        elsewhere: bool,
    ) -> None:
        self._answer = answer
        self._open_connections = open_connections
        self._elsewhere = elsewhere
        self._received = bytearray()
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open_connections.discard(self)
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._next()

    def abort(self) -> None:
        """Drop the connection."""
        self._transport.abort()

    def _next(self) -> None:
        if self.task is not None or self._transport.is_closing():
            return
        request = self._parsed()
        if request is not None:
            self.task = asyncio.get_running_loop().create_task(self._serve(request))

    def _parsed(self) -> HttpRequest | None:
        """The next request, once all of it is here."""
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = self._received[:end].decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        start = end + 4
        stop = start + int(headers.get("content-length", "0"))
        if len(self._received) < stop:
            return None
        body = bytes(self._received[start:stop])
        del self._received[:stop]
        return HttpRequest(method, target.partition("?")[0], headers, body, self._elsewhere)

    async def _serve(self, request: HttpRequest) -> None:
        answer = await self._answer(request)
        self._deliver(answer)
        if answer.delivery == "whole":
            self.task = None
            self._next()

    def _deliver(self, answer: HttpAnswer) -> None:
        if answer.delivery == "never":
            return
        if answer.delivery == "reset":
            # A linger time of zero makes the kernel send RST rather than FIN
            raw: socket.socket = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
            return
        if answer.delivery == "whole":
            self._transport.write(_head(answer) + answer.body)
            return
        self._transport.write(_head(answer) + answer.body[: len(answer.body) // 2])
        if answer.delivery == "half_then_end":
            self._transport.close()


def _head(answer: HttpAnswer) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}", f"date: {formatdate(usegmt=True)}"]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    lines += [f"content-length: {len(answer.body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1")
