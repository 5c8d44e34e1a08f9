"""Start-up and search over stdio, side by side with a bare server of the `mcp` SDK that has one echo tool.

Both are driven by the same few lines of JSON-RPC, in turn, on the same machine, in one run; look at the ratios. For
each number of rules, a store is filled with real-length texts first; beyond the first thousand, vectors are noisy
copies of embedded ones, as time does not depend on their values.

    python benchmarks/stdio.py [--runs 9] [--sizes 1000 10000 100000] [--rules FILE.jsonl.gz]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from symmetra_mcp.passages import passages
from symmetra_mcp.providers.base import Embeddings
from symmetra_mcp.providers.local import LocalProvider
from symmetra_mcp.reembed import complete_space
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.types import Rule

BARE_SERVER = """
from mcp.server.mcpserver import MCPServer
server = MCPServer("bare", version="1", log_level="ERROR")
@server.tool()
def echo(query: str) -> str:
    '''Echo.'''
    return query
server.run("stdio")
"""
MODEL_LOAD = """
import time
began = time.perf_counter()
import anyio
from symmetra_mcp.providers.local import LocalProvider
async def load():
    provider = LocalProvider()
    await provider.warm_up()
    await provider.embed_query("one")
anyio.run(load)
print((time.perf_counter() - began) * 1000)
"""
QUERIES = (
    "retry a failed HTTP call with backoff",
    "where to validate user input",
    "name of a test function",
    "const user = await db.users.findOne({ id })",
    "add a column to a large table",
    "handle an error from a third-party API",
    "write a Dockerfile",
    "component state in React",
    "log a request without secrets",
    "split a long function",
)
EMBEDDED = 1_000


class Session:
    """One server process and a client of a few lines."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        self.number = 0

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)

    def send(self, method: str, params: dict[str, Any] | None, *, notification: bool = False) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = params
        if not notification:
            self.number += 1
            message["id"] = self.number
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()
        while not notification:
            answer = json.loads(self.process.stdout.readline())
            if answer.get("id") == self.number:
                return answer["result"]
        return None

    def start(self) -> float:
        """Milliseconds from process start to the answer of tools/list."""
        client = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
        self.send("initialize", client)
        self.send("notifications/initialized", None, notification=True)
        self.send("tools/list", {})
        return (time.perf_counter() - self.began) * 1000

    def call(self, tool: str, query: str) -> float:
        """Milliseconds of one call."""
        began = time.perf_counter()
        result = self.send("tools/call", {"name": tool, "arguments": {"query": query}})
        assert not result.get("isError"), result
        return (time.perf_counter() - began) * 1000

    def memory_mb(self) -> float:
        """Resident memory of the process."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        return 0.0


def environment(data: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SYMMETRA_")}
    return {**kept, "SYMMETRA_DATA_DIR": str(data), "SYMMETRA_RULES": "0", "SYMMETRA_PROJECT_DIR": str(data)}


def texts(path: Path | None) -> list[tuple[str, str]]:
    if path is None:
        words = " ".join(QUERIES).split()
        rng = np.random.default_rng(0)
        return [(f"Rule {i}", " ".join(rng.choice(words, 60))) for i in range(EMBEDDED)]
    with gzip.open(path, "rt", encoding="utf-8") as file:
        entries = [json.loads(line) for line in file]
    return [(entry["title"], entry["text"][:1500]) for entry in entries]


async def fill(data: Path, size: int, pool: list[tuple[str, str]]) -> None:
    """A store of `size` rules, every one with vectors."""
    store, provider = SqliteStore(data), LocalProvider()
    await store.open()
    rules = []
    for i in range(size):
        title, text = pool[i % len(pool)]
        rules.append(Rule("bench", f"rule-{i}", title, text if i < len(pool) else f"{text} ({i})"))
    for start in range(0, size, 1000):
        await store.upsert_rules(rules[start : start + 1000])
    first = {passage.content_hash: passage.text for rule in rules[:EMBEDDED] for passage in passages(rule)}
    embedded = await provider.embed_documents(list(first.values()))
    await store.put_vectors(list(first), embedded)
    rng, after = np.random.default_rng(1), ""
    while True:
        page, after = await store.missing_passages(provider.space, after=after, limit=4096)
        if not page:
            break
        noisy = embedded.vectors[rng.integers(len(first), size=len(page))]
        noisy = noisy + rng.normal(0, 0.02, noisy.shape).astype(np.float32)
        noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
        await store.put_vectors([passage.content_hash for passage in page], Embeddings(noisy, provider.space))
    await complete_space(store, provider)
    await store.aclose()


def model_ms(repeats: int) -> list[float]:
    """Milliseconds that the model alone takes for each query, warm, in this process."""
    provider = LocalProvider()

    async def run() -> list[float]:
        await provider.warm_up()
        taken = []
        for i in range(repeats):
            began = time.perf_counter()
            await provider.embed_query(QUERIES[i % len(QUERIES)])
            taken.append((time.perf_counter() - began) * 1000)
        return taken

    return anyio.run(run)


def p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


def compare_starts(runs: int, data: Path, bare: list[str], ours: list[str]) -> None:
    figures: dict[str, list[float]] = {
        name: [] for name in ("bare list", "our list", "bare call", "our search", "bare MB", "our MB", "floor")
    }
    for _ in range(runs):
        done = subprocess.run([sys.executable, "-c", MODEL_LOAD], capture_output=True, text=True, check=True)
        load = float(done.stdout)
        for name, command, tool in (("bare", bare, "echo"), ("our", ours, "search_rules")):
            with Session(command, environment(data)) as session:
                figures[f"{name} list"].append(session.start())
                session.call(tool, QUERIES[0])
                figures[f"{name} {'call' if name == 'bare' else 'search'}"].append(
                    (time.perf_counter() - session.began) * 1000
                )
                figures[f"{name} MB"].append(session.memory_mb())
        figures["floor"].append(figures["bare call"][-1] + load)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    print(f"{'process start to':28} {'bare SDK':>10} {'ours':>10} {'ratio':>7}   (median of {runs}, ms)")
    for label, one, other in (
        ("tools/list answered", "bare list", "our list"),
        ("first tool answer", "bare call", "our search"),
        ("the same, and a model's load", "floor", "our search"),
        ("memory after it, MB", "bare MB", "our MB"),
    ):
        print(f"{label:28} {medians[one]:10.0f} {medians[other]:10.0f} {medians[other] / medians[one]:7.2f}")


def compare_searches(size: int, calls: int, data: Path, bare: list[str], ours: list[str], model: list[float]) -> None:
    with Session(bare, environment(data)) as session:
        session.start()
        echoes = [session.call("echo", QUERIES[i % len(QUERIES)]) for i in range(calls)]
    with Session(ours, environment(data)) as session:
        session.start()
        began = time.perf_counter()
        session.call("search_rules", QUERIES[0])
        first = (time.perf_counter() - began) * 1000
        for query in QUERIES:
            session.call("search_rules", query)
        taken = [session.call("search_rules", QUERIES[i % len(QUERIES)]) for i in range(calls)]
        memory = session.memory_mb()
    median, share = statistics.median(taken), statistics.median(model)
    print(
        f"{size:>8,} {statistics.median(echoes):9.2f} {median:9.1f} {p95(taken):8.1f} {share:8.1f} "
        f"{median - share:10.1f} {median / statistics.median(echoes):7.1f} {first:10.0f} {memory:8.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--rules", type=Path, help="JSONL, gzipped, with `title` and `text`")
    arguments = parser.parse_args()
    pool = texts(arguments.rules)
    ours = [sys.executable, "-m", "symmetra_mcp"]
    with tempfile.TemporaryDirectory() as folder:
        bare_file = Path(folder) / "bare.py"
        bare_file.write_text(BARE_SERVER)
        bare = [sys.executable, str(bare_file)]
        with Session(ours, environment(Path(folder) / "start")) as session:
            session.start()
            session.call("search_rules", QUERIES[0])  # the store exists from now on, as on every day but the first
        compare_starts(arguments.runs, Path(folder) / "start", bare, ours)
        model = model_ms(arguments.calls)
        print("\nwarm calls, ms")
        print(
            f"{'rules':>8} {'bare echo':>9} {'search':>9} {'p95':>8} {'model':>8} "
            f"{'rest':>10} {'ratio':>7} {'first':>10} {'MB':>8}"
        )
        for size in arguments.sizes:
            data = Path(folder) / str(size)
            anyio.run(fill, data, size, pool)
            compare_searches(size, arguments.calls, data, bare, ours, model)


if __name__ == "__main__":
    main()
