"""The gateway in front of the database: what supabase-py talks to.

One transaction a request, in the role of its key, with the settings that PostgREST makes; who may do what is decided
by the real database. Faults are switched on by tests, and happen where they happen in the field: before the work, after
it, or instead of it.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import psycopg

from supabase_stack.calls import Call, Request, function_call, table_call
from supabase_stack.catalog import Catalog
from supabase_stack.errors import RefusedError, status_of, unknown
from supabase_stack.keys import claims_of

_PREFIX = "/rest/v1/"
_MAX_URL = 16_384
_ACCEPTED = ("", "*/*", "application/json", "application/vnd.pgrst.object+json")
_PREFERRED = {
    "return": ("minimal", "representation"),
    "resolution": ("merge-duplicates", "ignore-duplicates"),
    "missing": ("default", "null"),
}
_IDLE_CONNECTIONS = 6


@dataclass
class Fault:
    """Something that goes wrong with the next requests on a path.

    Attributes:
        path: Regular expression that the path holds.
        times: How often; -1 for always.
        skip: How many fitting requests go well before.
        status: Answered instead of the work.
        cut: Break the connection off before the work, or after its transaction is committed.
        delay_s: Wait first.
        statement: Run in the request's transaction before its work, by the login that takes on the key's role, such as
            one that ends the connection.
    """

    path: str = ""
    times: int = 1
    skip: int = 0
    status: int = 0
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: Literal["", "before", "after", "half"] = ""
    delay_s: float = 0.0
    statement: str = ""


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    role: str
    status: int
    body_size: int


class Gateway:
    """Answers like `https://REF.supabase.co` for one database.

    Attributes:
        requests: What came, in order.
        faults: What goes wrong next.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._idle: list[psycopg.Connection[Any]] = []
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._port = 0
        self.requests: list[Seen] = []
        self.faults: list[Fault] = []
        self._catalog = Catalog()
        self._listening: psycopg.Connection[Any] | None = None
        self._heard: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Read the schema and serve, at the same port as before where there was one."""
        self._listening = self._listen()
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            self._catalog = Catalog.read(connection)
        self._server = _Server(self, self._port)
        self._port = self._server.server_address[1]

    def stop(self) -> None:
        """Serve nobody: connections that are open are broken off."""
        if self._server is not None:
            self._server.close()
            self._server = None
        with self._lock:
            for connection in (*self._idle, self._listening):
                if connection is not None:
                    connection.close()
            self._idle, self._listening = [], None

    def connect_anew(self) -> None:
        """Let go of the connections that earlier requests left: a fault may have ended them at the other side."""
        with self._lock:
            for connection in self._idle:
                connection.close()
            self._idle = []

    def count(self, function: str = "") -> int:
        """How many requests came, or how many calls of a function."""
        return sum(not function or each.path == f"{_PREFIX}rpc/{function}" for each in self.requests)

    def reload_if_told(self) -> None:
        """Read the schema anew where the database said `notify pgrst, 'reload schema'`."""
        with self._lock:
            if self._listening is None:
                return
            try:
                self._listening.execute("select")  # what was said before this is heard with its answer
            except psycopg.OperationalError:
                self._listening = self._listen()
                self._heard.append("")
            told = any(payload in ("", "reload schema") for payload in self._heard)
            self._heard.clear()
            if told:
                with psycopg.connect(self._dsn, autocommit=True) as connection:
                    self._catalog = Catalog.read(connection)

    def _listen(self) -> psycopg.Connection[Any]:
        connection = psycopg.connect(self._dsn, autocommit=True)
        connection.add_notify_handler(lambda notify: self._heard.append(notify.payload))
        connection.execute("listen pgrst")
        return connection

    def fault_for(self, path: str) -> Fault:
        with self._lock:
            for fault in self.faults:
                if fault.times and re.search(fault.path, path):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return Fault()

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes, fault: Fault) -> _Answer:
        """Do what a request asks for."""
        role = ""
        try:
            if len(target) > _MAX_URL:
                return _Answer(414, b"URI Too Long", role=role)
            claims = claims_of(headers)
            role = str(claims["role"])
            call, request = self._call(method, target, headers, body)
            path = urlsplit(target).path.removeprefix(_PREFIX.rstrip("/"))
            settings = {
                "role": role,
                "request.jwt.claims": json.dumps(claims),
                "request.method": method,
                "request.path": path,
                "request.headers": json.dumps(headers),
                "request.cookies": "{}",
            }
            return self._run(call, request, settings, fault)
        except RefusedError as refused:
            return _refusal(refused, role)
        except psycopg.Error as error:
            return _refusal(_database_error(error), role)

    def _call(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[Call, Request]:
        parts = urlsplit(target)
        if not parts.path.startswith(_PREFIX) or parts.path == _PREFIX:
            raise unknown(f"path {parts.path!r}")
        profile = headers.get("accept-profile" if method in ("GET", "HEAD") else "content-profile", "public")
        if profile != "public":
            hint = "Only the following schemas are exposed: public"
            raise RefusedError(406, "PGRST106", f"Invalid schema: {profile}", hint=hint)
        prefer = dict(
            [*part.strip().split("=", 1), ""][:2] for part in headers.get("prefer", "").split(",") if part.strip()
        )
        for preference, value in prefer.items():
            if value not in _PREFERRED.get(preference, ()):
                raise unknown(f"preference {preference}={value}")
        accept = headers.get("accept", "")
        if accept not in _ACCEPTED:
            raise unknown(f"answer as {accept!r}")
        if "range" in headers:
            raise unknown("header Range")
        accepts_object = "vnd.pgrst.object" in accept
        request = Request(method, parse_qsl(parts.query, keep_blank_values=True), body, prefer, accepts_object)
        name = parts.path.removeprefix(_PREFIX)
        if not name.startswith("rpc/"):
            return table_call(self._catalog, name, request), request
        return function_call(self._catalog, name.removeprefix("rpc/"), request), request

    def _run(self, call: Call, request: Request, of_request: dict[str, str], fault: Fault) -> _Answer:
        role = of_request["role"]
        settings = {
            "search_path": '"public", "public", "extensions"',
            **self._catalog.role_settings.get(role, {}),
            **of_request,
            **call.settings,
        }
        with self._connection() as connection:
            connection.execute(f"begin isolation level read committed read {'only' if call.reads_only else 'write'}")
            calls = ", ".join(["set_config(%s, %s, true)"] * len(settings))
            connection.execute(f"select {calls}", [part for pair in settings.items() for part in pair])
            if fault.statement:
                connection.execute(f"set local role none; {fault.statement}".encode())
                connection.execute("select set_config('role', %s, true)", [role])
            row = connection.execute(call.statement, call.values).fetchone()
            assert row is not None
            answer = _answer_of(call, request, row, role)
            connection.execute("commit")
        return answer

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        connection = connection or psycopg.connect(self._dsn, autocommit=True)
        try:
            yield connection
        except BaseException:
            with suppress(psycopg.Error):
                connection.execute("rollback")
            raise
        finally:
            with self._lock:
                keep = not connection.closed and not connection.broken and len(self._idle) < _IDLE_CONNECTIONS
                if keep and self._listening is not None:
                    self._idle.append(connection)
                else:
                    connection.close()


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    role: str = ""


def _answer_of(call: Call, request: Request, row: tuple[Any, ...], role: str) -> _Answer:
    rows, text, *new = row
    if request.wants_object and rows != 1:
        message = "Cannot coerce the result to a single JSON object"
        raise RefusedError(406, "PGRST116", message, f"The result contains {rows} rows")
    status = 200 if new == ["0"] and request.prefer.get("resolution") == "merge-duplicates" else call.status
    offset = int(request.parameter("offset", "0"))
    served = f"{offset}-{offset + rows - 1}" if rows and not new else "*"
    return _Answer(status, b"" if call.returns_nothing else text.encode(), {"Content-Range": f"{served}/*"}, role)


def _refusal(refused: RefusedError, role: str) -> _Answer:
    headers = {"Proxy-Status": f"PostgREST; error={refused.code}"} if refused.code else {}
    return _Answer(refused.status, refused.body(), headers, role)


def _database_error(error: psycopg.Error) -> RefusedError:
    told, code = error.diag, error.sqlstate
    if code is None:
        return RefusedError(503, "PGRST001", "Database client error. Retrying the connection.")
    if code == "PGRST":
        return unknown("answer that a function makes itself by sqlstate 'PGRST'")
    message = told.message_primary or ""
    return RefusedError(status_of(code, message), code, message, told.message_detail, told.message_hint)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, gateway: Gateway, port: int) -> None:
        self.gateway = gateway
        self.open_sockets: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        for connection in list(self.open_sockets):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server.open_sockets.add(self.connection)

    def finish(self) -> None:
        self.server.open_sockets.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged: a request's line may hold what nobody should see."""

    def do_POST(self) -> None:
        gateway = self.server.gateway
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = urlsplit(self.path).path
        gateway.reload_if_told()
        fault = gateway.fault_for(path)
        time.sleep(fault.delay_s)
        if fault.cut == "before":
            self._note(path, "", 0, body)
            self._break_off()
            return
        if fault.status:
            answer = _Answer(fault.status, fault.body, fault.headers)
        else:
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = gateway.answer(self.command, self.path, headers, body, fault)
        self._note(path, answer.role, answer.status, body)
        if fault.cut == "after":
            self._break_off()
            return
        with suppress(OSError):
            self._send(answer, half=fault.cut == "half")

    do_GET = do_HEAD = do_PATCH = do_DELETE = do_POST

    def _send(self, answer: _Answer, *, half: bool) -> None:
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json; charset=utf-8", **answer.headers}.items():
            self.send_header(name, value)
        body = b"" if self.command == "HEAD" or answer.status == 204 else answer.body
        if answer.status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if half else body)
        if half:
            self._break_off()

    def _note(self, path: str, role: str, status: int, body: bytes) -> None:
        self.server.gateway.requests.append(Seen(self.command, path, role, status, len(body)))

    def _break_off(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
