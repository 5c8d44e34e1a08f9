"""Clients that leave in the middle, die, stop reading, or send what is no message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from product import STARTER_ANSWER, STARTER_QUESTION, Product, bullets, make_project, until

ENDS_WITHIN_S = 10.0
HELLO: list[dict[str, Any]] = [
    {
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    },
    {"method": "notifications/initialized"},
]


def lines(*messages: dict[str, Any]) -> str:
    return "".join(json.dumps({"jsonrpc": "2.0", **message}) + "\n" for message in messages)


def search_for(query: str, number: int) -> dict[str, Any]:
    return {"id": number, "method": "tools/call", "params": {"name": "search_rules", "arguments": {"query": query}}}


def ends(process: subprocess.Popen[str]) -> int:
    """The exit code of a process that must end by itself."""
    try:
        return process.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"still alive after {ENDS_WITHIN_S:.0f} s") from None


def write(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()


def answer_to(process: subprocess.Popen[str], number: int) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        message: dict[str, Any] = json.loads(line)
        if message.get("id") == number:
            return message
    raise AssertionError("the server closed its output")


def big_project(folder: Path, rules: int) -> Path:
    project = make_project(folder)
    for part in range(rules // 500):
        (project / ".cursor" / "rules").mkdir(parents=True, exist_ok=True)
        texts = (f"Always polish lens number {number} with grit." for number in range(part * 500, part * 500 + 500))
        (project / ".cursor" / "rules" / f"part{part}.mdc").write_text(bullets(*texts))
    return project


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(0, id="before the answer to initialize", marks=pytest.mark.slow),
        pytest.param(1, id="in the middle of a search", marks=pytest.mark.slow),
    ],
)
def test_a_client_that_closes_stdin_early_ends_the_server(product: Product, after: int) -> None:
    with product.start(stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        write(process, lines(*HELLO))
        if after:
            answer_to(process, 1)
            write(process, lines(search_for(STARTER_QUESTION, 2)))
        process.stdin.close()
        assert ends(process) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    product.is_healthy()


@pytest.mark.slow
def test_garbage_and_a_line_of_ten_megabytes_leave_the_server_answering(product: Product) -> None:
    noise = [
        "no json\n",
        "{}\n",
        "[]\n",
        "\n",
        "\0\0\n",
        '{"jsonrpc": "2.0"}\n',
        "[" * 100_000 + "\n",
        "x" * 10_000_000 + "\n",
    ]
    with product.start(stdin=subprocess.PIPE) as process:
        write(process, lines(*HELLO))
        answer_to(process, 1)
        for line in noise:
            write(process, line + "\n")
        write(process, lines(search_for("y" * 10_000_000, 2), search_for(STARTER_QUESTION, 3)))
        refused = answer_to(process, 2)["result"]
        assert refused["isError"]
        assert "at most 20,000 are read" in refused["content"][0]["text"]
        hits = answer_to(process, 3)["result"]["structuredContent"]["hits"]
        assert hits[0]["rule_id"] == STARTER_ANSWER
        assert process.stdin is not None
        process.stdin.close()
        assert ends(process) == 0


CLIENT = """
import os, sys, anyio
from mcp import Client, StdioServerParameters

async def main():
    server = StdioServerParameters(command=sys.executable, args=["-m", "symmetra_mcp"], env=dict(os.environ))
    async with Client(server) as client:
        await client.list_tools()
        await client.call_tool("search_rules", {"query": "polish a lens"})
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.mark.slow
def test_a_server_whose_client_is_killed_while_it_embeds_ends_and_the_next_one_goes_on(
    product: Product, tmp_path: Path
) -> None:
    project = big_project(tmp_path / "optics", 2_000)
    environment = {**os.environ, "SYMMETRA_DATA_DIR": str(product.data_dir)}
    with subprocess.Popen([sys.executable, "-c", CLIENT], cwd=project, env=environment) as client:
        until(lambda: product.count("vectors") > 400, 60, "the server embeds")
        assert len(product.servers()) == 1
        client.kill()
    began = time.monotonic()
    until(lambda: not product.servers(), ENDS_WITHIN_S, "the server ends with its client")
    took = time.monotonic() - began
    done = product.count("vectors")
    assert done < 2_000, f"it had embedded all before it ended, {took:.1f} s after"

    again = product.json("import", ".", cwd=project)

    assert again["counts"]["unchanged"] == 2_000
    assert again["embedding"]["embedded"] >= 2_000 + 238 - done - 64
    assert again["embedding"]["missing"] == 0
    product.is_healthy()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_server_ended_by_a_signal_while_it_embeds_leaves_the_store_whole(
    product: Product, tmp_path: Path, number: signal.Signals
) -> None:
    """The SDK's loop waits for stdin after SIGINT: the client's closing ends it then."""
    project = big_project(tmp_path / "optics", 1_500)
    with product.start(cwd=project, stdin=subprocess.PIPE) as process:
        write(process, lines(*HELLO, {"id": 2, "method": "tools/list"}))
        until(lambda: product.count("vectors") > 300, 60, "the server embeds")
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(3)
        assert process.stdin is not None
        process.stdin.close()
        ends(process)

    assert product.json("import", ".", cwd=project)["embedding"]["missing"] == 0
    assert len(product.rows("SELECT 1 FROM rules WHERE project_id LIKE 'optics-%'")) == 1_500
    product.is_healthy()


@pytest.mark.slow
def test_a_client_that_stops_reading_and_leaves_ends_the_server(product: Product) -> None:
    """It ends with an error of the SDK's, whose writer meets the closed pipe; nothing is lost."""
    with product.start(stdin=subprocess.PIPE) as process:
        write(process, lines(*HELLO))
        answer_to(process, 1)
        assert process.stdout is not None
        process.stdout.close()
        with suppress(BrokenPipeError):
            write(process, lines(search_for(STARTER_QUESTION, 2)))
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        ends(process)
    product.is_healthy()
