"""Many servers and command lines on one data folder at once."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from product import STARTER_ANSWER, STARTER_QUESTION, Product, Server, bullets, make_project, play, search

from symmetra_mcp.ingest.native import read_rules
from symmetra_mcp.starter.install import starter_files

SERVERS = 10
SEARCHING_S = 20.0
WORDS = ("amber", "basalt", "cobalt", "dolomite", "emerald")


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten processes that end at once on a small machine take longer than the SDK waits before it sends SIGTERM."""
    monkeypatch.setattr("mcp.client.stdio.PROCESS_TERMINATION_TIMEOUT", 20.0)


def starter_count() -> int:
    return sum(len(read_rules(file.read_text(), "yaml", project_id="starter")) for file in starter_files())


def write_jsonl(path: Path, word: str, count: int) -> Path:
    entries = (
        {"rule_id": f"{word}-{i}", "guidance": f"Always check the {word} gauge number {i}."} for i in range(count)
    )
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_ten_servers_racing_on_an_empty_folder_all_answer_and_the_starter_rules_are_there_once(
    product: Product,
) -> None:
    servers = [product.server() for _ in range(SERVERS)]
    answers: list[dict[str, Any]] = []

    async def use(server: Server) -> None:
        async with server.client() as client:
            answers.append(await search(client, STARTER_QUESTION))

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            for server in servers:
                tasks.start_soon(use, server)

    play(run)

    assert [answer["hits"][0]["rule_id"] for answer in answers] == [STARTER_ANSWER] * SERVERS
    assert [answer.get("degraded") for answer in answers] == [None] * SERVERS
    assert [server.exit_code for server in servers] == [0] * SERVERS
    assert [server.stderr for server in servers] == [""] * SERVERS
    assert product.count_rules() == {"starter": starter_count()}
    product.is_healthy()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_ten_servers_two_imports_and_a_prune_at_once_lose_and_double_nothing(product: Product, tmp_path: Path) -> None:
    """Five servers in projects of their own, two of them in one; one project's file changes while all are searching."""
    projects = [
        make_project(tmp_path / word, *(f"Always label the {word} crate number {n}." for n in range(20)))
        for word in WORDS
    ]
    homes = [*projects, projects[0], *(product.work for _ in range(SERVERS - len(WORDS) - 1))]
    servers = [product.server(home) for home in homes]
    pruned = write_jsonl(tmp_path / "pruned.jsonl", "quartz", 200)
    product.json("import", str(pruned), "--project", "quartz")
    write_jsonl(pruned, "quartz", 100)
    imports = [write_jsonl(tmp_path / f"{word}.jsonl", word, 300) for word in ("slate", "granite")]
    problems: list[str] = []
    searches = 0

    async def use(server: Server, home: Path, ends: float) -> None:
        nonlocal searches
        async with server.client() as client:
            while time.monotonic() < ends:
                for query, expected in questions(home):
                    answer = await search(client, query)
                    searches += 1
                    if not answer["hits"] or expected not in answer["hits"][0]["guidance"]:
                        problems.append(f"{query!r} in {home.name}: {answer}")

    def questions(home: Path) -> list[tuple[str, str]]:
        own = [(f"label the {home.name} crate number 7", f"the {home.name} crate")] if home in projects else []
        return [(STARTER_QUESTION, "pgvector"), *own]

    async def run() -> list[subprocess.CompletedProcess[str]]:
        ends = time.monotonic() + SEARCHING_S
        done: list[subprocess.CompletedProcess[str]] = []

        async def command(*arguments: str) -> None:
            done.append(await anyio.to_thread.run_sync(lambda: product.run(*arguments)))

        async with anyio.create_task_group() as tasks:
            for server, home in zip(servers, homes, strict=True):
                tasks.start_soon(use, server, home, ends)
            for path in imports:
                tasks.start_soon(command, "import", str(path), "--project", path.stem)
            tasks.start_soon(command, "import", str(pruned), "--project", "quartz", "--prune")
            await anyio.sleep(SEARCHING_S / 2)
            kept = [f"Always label the {WORDS[1]} crate number {n}." for n in range(15)]
            (projects[1] / "AGENTS.md").write_text(bullets(*kept, "Never ship a basalt crate without its seal."))
        return done

    done = play(run)

    assert problems == []
    assert searches > 5 * SERVERS
    told = [line for one in done for line in one.stderr.splitlines() if not line.startswith("Embedding rules: ")]
    assert ([one.returncode for one in done], told) == ([0, 0, 0], [])
    assert [server.exit_code for server in servers] == [0] * SERVERS
    assert [server.stderr for server in servers] == [""] * SERVERS
    counts = product.count_rules()
    expected = {"starter": starter_count(), "quartz": 100, "slate": 300, "granite": 300}
    assert {name: counts[name] for name in expected} == expected
    of_projects = {name.rpartition("-")[0]: count for name, count in counts.items() if name not in expected}
    assert of_projects == {word: 16 if word == WORDS[1] else 20 for word in WORDS}
    guidance = product.rows("SELECT project_id, guidance FROM rules")
    assert len(set(guidance)) == len(guidance)
    product.run("reembed")
    product.is_healthy()
