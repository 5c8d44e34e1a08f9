"""The real server process, over real stdio."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from stdio_peer import request, started

HEAVY = ("numpy", "onnxruntime", "tokenizers", "torch", "sentence_transformers", "openai", "cohere", "supabase")

NOISY = """
import os, subprocess, sys
print("printed")
os.write(1, b"written")
subprocess.run(["echo", "a child"])
print("unflushed", end="")
sys.path.remove(os.path.dirname(__file__))
del sys.modules[__name__]
import snowballstemmer
"""
"""A dependency that prints in every way when it is imported, and then is itself."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "a shop with spaces"
    (folder / ".git").mkdir(parents=True)
    (folder / "CLAUDE.md").write_text("# Money\n\n- Always keep amounts of money as integer cents.\n")
    return folder


@asynccontextmanager
async def client_of(python: str, project: Path) -> AsyncIterator[Client]:
    server = StdioServerParameters(command=python, args=["-m", "symmetra_mcp"], env=dict(os.environ), cwd=project)
    async with Client(server) as client:
        yield client


def test_a_client_gets_the_projects_rule_over_stdio(python: str, project: Path) -> None:
    async def run() -> None:
        async with client_of(python, project) as client:
            assert len((await client.list_tools()).tools) == 4
            result = await client.call_tool("search_rules", {"query": "store the price of a product in cents"})
            answer = result.structured_content or {}
            assert answer["hits"][0]["guidance"] == "Always keep amounts of money as integer cents."
            assert answer["hits"][0]["source"] == "CLAUDE.md:3"
            assert answer["mode"] == "hybrid"
            assert "degraded" not in answer
            health = await client.call_tool("health_check", {})
            assert (health.structured_content or {})["status"] == "healthy"

    anyio.run(run)


@pytest.mark.slow
def test_a_client_that_knows_tasks_gets_one_over_stdio(python: str, project: Path) -> None:
    capabilities = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": capabilities,
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    }
    with subprocess.Popen(
        [python, "-m", "symmetra_mcp"], cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def ask(number: int, method: str, **params: object) -> Any:
            request = {"jsonrpc": "2.0", "id": number, "method": method, "params": {"_meta": meta, **params}}
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            while True:
                answer = json.loads(stdout.readline())
                if answer.get("id") == number:
                    return answer.get("result", answer)

        begun = ask(1, "tools/call", name="reembed_all", arguments={"confirm": True})
        assert (begun["resultType"], begun["status"]) == ("task", "working")
        number, task = 2, begun
        while task["status"] == "working":
            time.sleep(0.2)
            task = ask(number, "tasks/get", taskId=begun["taskId"])
            number += 1
        assert task["status"] == "completed"
        assert task["result"]["structuredContent"]["missing"] == 0
        assert ask(number, "tasks/list")["error"]["code"] == -32601
        stdin.close()


@pytest.mark.parametrize(
    "version",
    [
        pytest.param("2024-11-05", marks=pytest.mark.slow),
        pytest.param("2025-03-26", marks=pytest.mark.slow),
        pytest.param("2025-06-18", marks=pytest.mark.slow),
        "2025-11-25",
    ],
)
def test_stdout_carries_protocol_messages_alone(python: str, project: Path, tmp_path: Path, version: str) -> None:
    requests = [
        {
            "id": 1,
            "method": "initialize",
            "params": {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
        },
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/list"},
        {"id": 3, "method": "tools/call", "params": {"name": "search_rules", "arguments": {"query": "cents"}}},
    ]
    noisy = tmp_path / "noisy"
    noisy.mkdir()
    (noisy / "snowballstemmer.py").write_text(NOISY)
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "SYMMETRA_LOG_LEVEL": "debug",
        "LC_ALL": "C",
        "PYTHONPATH": str(noisy),
    }
    log = (tmp_path / "log").open("w+b")
    process = subprocess.Popen(
        [python, "-m", "symmetra_mcp"],
        cwd=project,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
    )
    with log, process:
        assert process.stdin is not None
        assert process.stdout is not None
        answers = {}
        for message in requests:
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
            process.stdin.flush()
            while "id" in message and message["id"] not in answers:
                answer = json.loads(process.stdout.readline())
                answers[answer.get("id")] = answer
        process.stdin.close()
        rest = process.stdout.read()
        log.seek(0)
        told = log.read()
    assert all(words in told for words in (b"printed", b"written", b"a child", b"unflushed")), told
    assert answers[1]["result"]["protocolVersion"] == version
    assert answers[3]["result"]["structuredContent"]["hits"]
    assert rest == b""
    assert process.returncode == 0


def test_nothing_heavy_is_imported_before_tools_are_listed(project: Path, tmp_path: Path) -> None:
    with (tmp_path / "imports.log").open("wb") as log:
        with started("-X", "importtime", "-m", "symmetra_mcp", cwd=project, stderr=log) as peer:
            peer.greet()
            peer.wait_for_the_sdk()
            peer.close()
            peer.process.wait(20)
        told = Path(log.name).read_text("utf-8")

    imported = set(re.findall(r"\| +(\S+)$", told, re.MULTILINE))
    assert {"mcp", "symmetra_mcp.server"} <= imported
    assert imported.isdisjoint(HEAVY)


@pytest.mark.parametrize(
    ("settings", "loads"),
    [({}, True), ({"SYMMETRA_EMBEDDING_BACKEND": "cohere", "COHERE_API_KEY": "key"}, False)],
    ids=["bundled", "vendor"],
)
def test_the_model_is_loaded_while_the_sdk_is_imported_where_it_is_chosen(
    project: Path, tmp_path: Path, settings: dict[str, str], loads: bool
) -> None:
    environment = {**os.environ, **settings, "SYMMETRA_EMBEDDING_BACKUP": "0"}
    with (tmp_path / "imports.log").open("wb") as log:
        with started("-X", "importtime", "-m", "symmetra_mcp", cwd=project, stderr=log, env=environment) as peer:
            peer.greet()
            peer.ask(request(1, "tools/list"))
            peer.wait_for_the_sdk()
            peer.close()
            peer.process.wait(20)
        told = Path(log.name).read_text("utf-8")

    in_order = re.findall(r"\| +(\S+)$", told, re.MULTILINE)
    assert ("onnxruntime" in in_order[: in_order.index("symmetra_mcp.server")]) is loads


@pytest.mark.slow
def test_a_wrong_setting_is_told_on_stderr_before_anything_is_served(python: str, project: Path) -> None:
    done = subprocess.run(
        [python, "-m", "symmetra_mcp"],
        cwd=project,
        env={**os.environ, "SYMMETRA_EMBEDDING_BACKEND": "sbert"},
        input=b"",
        capture_output=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stdout == b""
    assert b"`SYMMETRA_EMBEDDING_BACKEND`: input should be 'auto', 'openai', 'cohere' or 'local'" in done.stderr
