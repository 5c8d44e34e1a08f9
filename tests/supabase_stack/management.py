"""Supabase's Management API as far as a schema needs it: one address, which runs SQL in a real database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import psycopg
from psycopg.rows import dict_row

REF = "abcdefghijklmnopqrst"
TOKEN = "sbp_0123456789abcdef-secret"


@dataclass
class Answer:
    """What is answered instead of running the SQL, or after it."""

    status: int
    body: bytes = b'{"message":"refused"}'
    headers: dict[str, str] = field(default_factory=dict)
    runs_first: bool = False


@dataclass
class Api:
    """A running double; `answers` are given first, one a call."""

    url: str
    dsn: str
    answers: list[Answer] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    only_last_statement: bool = False

    def run(self, sql: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        with psycopg.connect(self.dsn, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(sql.encode())
            while True:
                found = cursor.fetchall() if cursor.description is not None else []
                rows = found if self.only_last_statement else found or rows
                if not cursor.nextset():
                    return rows


@contextmanager
def management_api(dsn: str) -> Iterator[Api]:
    api = Api("", dsn)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(self.answer(body["query"]))

        def answer(self, sql: str) -> Answer:
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                return Answer(401, b'{"message":"JWT could not be decoded"}')
            if self.path != f"/v1/projects/{REF}/database/query":
                return Answer(404, b'{"message":"Project not found"}')
            api.queries.append(sql)
            instead = api.answers.pop(0) if api.answers else None
            if instead is not None and not instead.runs_first:
                return instead
            try:
                rows = api.run(sql)
            except psycopg.Error as exc:
                problem = f"Failed to run sql query: ERROR:  {exc.sqlstate}: {exc.diag.message_primary}\n"
                return Answer(400, json.dumps({"message": problem}).encode())
            return instead or Answer(201, json.dumps(rows).encode())

        def reply(self, answer: Answer) -> None:
            if not answer.status:
                self.close_connection = True  # without a word
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the output of tests stays readable."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
