"""The product as users run it: command lines and servers as processes, and a data folder that can be looked into."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio
from mcp import Client, StdioServerParameters

T = TypeVar("T")

STARTER_QUESTION = "which vector database should we use?"
STARTER_ANSWER = "vector-db-choice"
_RUN_AND_TELL = 'exec 2>>"$1"; code="$2"; shift 2; "$@"; echo $? >"$code"'
"""A shell that keeps a server's stderr and its exit code; killed with it, it writes no code."""


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for something that happens in another process."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.01)


def bullets(*rules: str) -> str:
    return "# Rules\n\n" + "".join(f"- {rule}\n" for rule in rules)


def make_project(folder: Path, *rules: str) -> Path:
    (folder / ".git").mkdir(parents=True)
    (folder / "AGENTS.md").write_text(bullets(*rules))
    return folder


@dataclass
class Server:
    """A server that was started, with what it left behind."""

    parameters: StdioServerParameters
    stderr_file: Path
    code_file: Path

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with Client(self.parameters, read_timeout_seconds=60) as client:
            yield client

    @property
    def exit_code(self) -> int | None:
        """`None` while it runs, and when it had to be killed."""
        return int(self.code_file.read_text()) if self.code_file.exists() else None

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text() if self.stderr_file.exists() else ""


@dataclass
class Product:
    """One data folder, and whatever runs on it.

    Attributes:
        work: A folder that is no project, to run in by default.
        notes: Where exit codes and stderr are kept.
        environment: Added to the environment of every process.
    """

    python: str
    data_dir: Path
    work: Path
    notes: Path
    environment: dict[str, str] = field(default_factory=dict)
    _servers: int = 0

    @property
    def database(self) -> Path:
        return self.data_dir / "symmetra.db"

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SYMMETRA_")}
        return {**clean, "SYMMETRA_DATA_DIR": str(self.data_dir), **self.environment, **more}

    def start(
        self, *arguments: str, cwd: Path | None = None, stdin: int = subprocess.DEVNULL, **environment: str
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.python, "-m", "symmetra_mcp", *arguments],
            cwd=cwd or self.work,
            env=self._environment(environment),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def run(self, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments, cwd=cwd, **environment) as process:
            out, err = process.communicate(timeout=110)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def json(self, *arguments: str, cwd: Path | None = None, **environment: str) -> Any:
        done = self.run(*arguments, "--json", cwd=cwd, **environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def server(self, cwd: Path | None = None, **environment: str) -> Server:
        self._servers += 1
        stderr, code = (self.notes / f"server-{self._servers}.{kind}" for kind in ("stderr", "code"))
        command = [self.python, "-m", "symmetra_mcp"]
        parameters = StdioServerParameters(
            command="/bin/sh",
            args=["-c", _RUN_AND_TELL, "server", str(stderr), str(code), *command],
            env=self._environment(environment),
            cwd=cwd or self.work,
        )
        return Server(parameters, stderr, code)

    def count_rules(self) -> dict[str, int]:
        """Rules of each project, read from the file by another hand than the product's."""
        return dict(self.rows("SELECT project_id, count(*) FROM rules GROUP BY project_id"))

    def rows(self, query: str) -> list[Any]:
        """Rows of the file; none where there is no such table yet."""
        try:
            with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30)) as connection:
                return connection.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []

    def count(self, table: str) -> int:
        rows = self.rows(f"SELECT count(*) FROM {table}")
        return int(rows[0][0]) if rows else 0

    def is_healthy(self) -> None:
        """The product's own thorough check finds nothing, and neither does SQLite's."""
        answer = self.json("health", "--thorough", cwd=self.work)
        assert answer["status"] == "healthy", answer
        assert self.rows("PRAGMA integrity_check") == [("ok",)]
        assert self.rows("PRAGMA foreign_key_check") == []

    def processes(self) -> list[int]:
        """Living processes that were started on this data folder."""
        mark = f"SYMMETRA_DATA_DIR={self.data_dir}\0".encode()
        return sorted(_processes_with(mark))

    def servers(self) -> list[int]:
        """Those of them that are Python: a server's shell is none."""
        return [pid for pid in self.processes() if b"symmetra_mcp" in _command(pid).split(b"\0")[2:3]]


def _processes_with(mark: bytes) -> Iterable[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes():
                yield int(folder.name)
        except OSError:
            continue  # ended meanwhile


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def call(client: Client, name: str, **arguments: Any) -> tuple[bool, str, dict[str, Any]]:
    """A tool's answer: whether it is an error, its text, its structure."""
    result = await client.call_tool(name, arguments)
    return bool(result.is_error), result.content[0].text, result.structured_content or {}  # type: ignore[union-attr]


async def search(client: Client, query: str, **arguments: Any) -> dict[str, Any]:
    """An answer that is no error."""
    is_error, text, answer = await call(client, "search_rules", query=query, **arguments)
    assert not is_error, text
    return answer


async def starter_rule_is_found(client: Client) -> dict[str, Any]:
    answer = await search(client, STARTER_QUESTION)
    assert answer["hits"], answer
    assert answer["hits"][0]["rule_id"] == STARTER_ANSWER, answer
    return answer


def play(scene: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Run a coroutine; the SDK's client wraps what fails in groups, a test wants the failure itself."""
    try:
        return anyio.run(scene, *arguments)
    except BaseExceptionGroup as group:
        failure: BaseException = group
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        raise failure from None
