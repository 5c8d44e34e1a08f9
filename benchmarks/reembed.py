"""A move of every rule to another provider while others search: time against the vendor's limit, memory, and searches.

For each store and number of rules: the rules are embedded in an old space; a process moves them to a vendor on this
machine that has latency and limits; another process searches all the while, each time with a rule's own text, which
must come back first, with the similarity that it has in the space that the answer names. Bound: the tokens by the
vendor's limit, less what its bucket held at the start. Searches are measured idle, before, and during the move.

    python benchmarks/reembed.py [--rules 10000 100000] [--stores embedded supabase] [--tokens-per-minute 2000000]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Instead of this folder: its `supabase.py` would be taken for the package of that name.
HERE = Path(__file__).resolve().parent
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != HERE]
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import anyio  # noqa: E402
import numpy as np  # noqa: E402
from loopback.models import count_tokens  # noqa: E402
from loopback.vectors import embed  # noqa: E402
from pydantic import SecretStr  # noqa: E402
from typing_extensions import override  # noqa: E402

from symmetra_mcp.config import SupabaseAddress  # noqa: E402
from symmetra_mcp.passages import passages  # noqa: E402
from symmetra_mcp.probes import probe_passages  # noqa: E402
from symmetra_mcp.providers.base import EmbeddingProvider  # noqa: E402
from symmetra_mcp.providers.select import ProviderChoice  # noqa: E402
from symmetra_mcp.reembed import complete_space  # noqa: E402
from symmetra_mcp.search import SearchRequest, search  # noqa: E402
from symmetra_mcp.spaces import EmbeddingSpace  # noqa: E402
from symmetra_mcp.stores.base import RuleStore  # noqa: E402
from symmetra_mcp.stores.sqlite import SqliteStore  # noqa: E402
from symmetra_mcp.terminal import give_way  # noqa: E402
from symmetra_mcp.types import InputType, Rule  # noqa: E402

PROCESSES = multiprocessing.get_context("spawn")  # a fork would count this process's memory as its own
OLD_MODEL = "embed-english-light-v3.0"
CAPACITY_S = 2.0
LATENCY_S = 0.25
WORDS_A_TEXT = 25
SEARCH_EVERY_S = 0.1
IDLE_S = 15.0


def sibling(name: str) -> Any:
    """Another benchmark, as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Known(EmbeddingProvider):
    """Embeds as the vendor does, without asking it: questions of the searches take no part of its limits."""

    def __init__(self, space: EmbeddingSpace, model: str, input_type: str | None) -> None:
        self._space, self._model, self._input_type = space, model, input_type

    @property
    @override
    def space(self) -> EmbeddingSpace:
        return self._space

    @property
    @override
    def max_input_tokens(self) -> int:
        return 8192

    @property
    @override
    def page_texts(self) -> int:
        return 2048

    @override
    async def _embed(self, texts: Sequence[str], input_type: InputType) -> Any:
        rows = embed(list(texts), self._model, 384, self._input_type)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def old_provider() -> Known:
    return Known(EmbeddingSpace("cohere", OLD_MODEL, 384), OLD_MODEL, "search_document")


def store_at(place: dict[str, str]) -> RuleStore:
    if "folder" in place:
        return SqliteStore(Path(place["folder"]))
    from symmetra_mcp.stores.supabase import SupabaseStore

    return SupabaseStore(SupabaseAddress(place["url"], SecretStr(place["key"])))


@contextmanager
def places(kind: str) -> Iterator[dict[str, str]]:
    """A place for a store: a folder, or a new database behind a gateway in a process of its own."""
    if kind == "embedded":
        with tempfile.TemporaryDirectory() as folder:
            yield {"folder": folder}
        return
    from supabase_stack.keys import SECRET_KEY
    from supabase_stack.postgres import Server
    from supabase_stack.project import install

    server = Server()
    name = server.create_database()
    install(server.url(name, "owner", "owner-password"))
    told: Any = PROCESSES.Queue()
    gateway = PROCESSES.Process(
        target=serve_gateway, args=(server.url(name, "authenticator", "authenticator"), told), daemon=True
    )
    gateway.start()
    try:
        yield {"url": told.get(), "key": SECRET_KEY, "owner": server.url(name, "owner", "owner-password")}
    finally:
        gateway.terminate()
        gateway.join()
        server.stop()


def serve_gateway(dsn: str, told: Any) -> None:
    from supabase_stack.gateway import Gateway

    gateway = Gateway(dsn)
    gateway.start()
    told.put(gateway.url)
    time.sleep(1e6)


async def fill(place: dict[str, str], texts: Sequence[str]) -> None:
    store = store_at(place)
    await store.open()
    for start in range(0, len(texts), 1000):
        chunk = texts[start : start + 1000]
        await store.upsert_rules([Rule("bench", f"r{start + i}", f"Rule {start + i}", t) for i, t in enumerate(chunk)])
    await complete_space(store, old_provider())
    await store.aclose()


def index(place: dict[str, str]) -> None:
    """What `symmetra-mcp schema index` does."""
    if "owner" not in place:
        return
    import psycopg

    with psycopg.connect(place["owner"], autocommit=True) as connection:
        connection.execute("set maintenance_work_mem = '512MB'")
        for (statement,) in connection.execute(
            "select symmetra.index_statement(space_no) from symmetra.index_advice() where advised and not indexed"
        ).fetchall():
            connection.execute(statement)
        connection.execute("analyze")


def move(place: dict[str, str], url: str, told: Any) -> None:
    """The move, in a process of its own."""
    providers = sibling("providers")

    async def run() -> None:
        give_way()  # as the command does
        store, provider = store_at(place), providers.provider_of("openai", url)
        await store.open()
        await provider.warm_up()
        began = time.perf_counter()
        report = await complete_space(store, provider)
        took_s = time.perf_counter() - began
        await provider.aclose()
        await store.aclose()
        told.put((took_s, peak_mb(), report.embedded, str(report.switched_from), report.probed, str(report.space)))

    anyio.run(run)


def peak_mb() -> float:
    """The most memory that this process held; `getrusage` would count its parent's, from before it was itself."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def searches(place: dict[str, str], texts: Sequence[str], space: dict[str, Any], until: Any, told: Any) -> None:
    """Searches at a steady rate until told to stop, in a process of its own."""
    latencies: list[float] = []
    problems: list[str] = []
    named: dict[str, int] = {}

    async def run() -> None:
        store = store_at(place)
        await store.open()
        new = Known(EmbeddingSpace(**space), space["model"], None)
        choice = ProviderChoice(new, others=(old_provider(),))
        random = np.random.default_rng(1)
        await search(store, choice, SearchRequest(query=texts[0]))
        due = time.perf_counter()
        while not until.is_set():
            number = int(random.integers(len(texts)))
            (passage,) = passages(Rule("bench", f"r{number}", f"Rule {number}", texts[number]))
            began = time.perf_counter()
            try:
                answer = await search(store, choice, SearchRequest(query=passage.text))
                best = (answer.hits or answer.below)[0]
                named[str(answer.space)] = named.get(str(answer.space), 0) + 1
                if best.rule.rule_id != f"r{number}" or not 0.98 < (best.similarity or 0) < 1.02 or answer.degraded:
                    problems.append(f"{best.rule.rule_id} for r{number}, {best.similarity}: {answer.degraded}")
            except Exception as exc:
                problems.append(f"{type(exc).__name__}: {exc}")
            latencies.append(time.perf_counter() - began)
            due += SEARCH_EVERY_S
            await anyio.sleep(max(0.0, due - time.perf_counter()))
        await store.aclose()

    anyio.run(run)
    told.put((latencies, problems, named))


@contextmanager
def searching(place: dict[str, str], texts: Sequence[str], space: dict[str, Any]) -> Iterator[list[Any]]:
    """Searches while the block runs; their latencies, problems and spaces are in the list afterwards."""
    until, told, found = PROCESSES.Event(), PROCESSES.Queue(), list[Any]()
    process = PROCESSES.Process(target=searches, args=(place, texts, space, until, told))
    process.start()
    time.sleep(2)
    yield found
    until.set()
    found += told.get()
    process.join()


def milliseconds(latencies: Sequence[float]) -> tuple[float, float]:
    return statistics.median(latencies) * 1000, float(np.percentile(latencies, 95)) * 1000


def measured(kind: str, count: int, tokens_per_minute: float) -> dict[str, Any]:
    providers = sibling("providers")
    texts = providers.texts_of(count, words=WORDS_A_TEXT)
    vendor = providers.VendorProcess(
        openai_requests_per_minute=10_000,
        openai_tokens_per_minute=tokens_per_minute,
        capacity_s=CAPACITY_S,
        latency_s=LATENCY_S,
        latency_sigma=0.35,
        recent_requests=0,
    )
    with places(kind) as place, vendor as process:
        anyio.run(fill, place, texts)
        index(place)
        new = providers.provider_of("openai", process.url).space
        space = {name: getattr(new, name) for name in ("provider", "model", "dimensions", "normalized", "variant")}
        with searching(place, texts, space) as idle:
            time.sleep(IDLE_S)
        told: Any = PROCESSES.Queue()
        with searching(place, texts, space) as during:
            mover = PROCESSES.Process(target=move, args=(place, process.url, told))
            mover.start()
            took_s, peak, embedded, left, probed, moved_to = told.get()
            mover.join()
            time.sleep(2)
        sent = [passage.text for i, text in enumerate(texts) for passage in passages(rule(i, text))]
        sent += [probe.text for probe in probe_passages()]
        bound_s = sum(map(count_tokens, sent)) * 60 / tokens_per_minute - CAPACITY_S
        refused = process.stats["by_status"].get("429", 0)
    before, while_moving = milliseconds(idle[0]), milliseconds(during[0])
    return {
        "store": kind,
        "rules": count,
        "took_s": took_s,
        "bound_s": bound_s,
        "ratio": bound_s / took_s,
        "peak_mb": peak,
        "embedded": embedded,
        "left": left,
        "moved_to": moved_to,
        "probed": probed,
        "refused": refused,
        "idle_ms": before,
        "during_ms": while_moving,
        "p95_ratio": while_moving[1] / before[1],
        "searches": len(during[0]),
        "problems": len(during[1]),
        "first_problems": during[1][:3],
        "spaces": during[2],
    }


def rule(number: int, text: str) -> Rule:
    return Rule("bench", f"r{number}", f"Rule {number}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--stores", nargs="+", choices=("embedded", "supabase"), default=["embedded", "supabase"])
    parser.add_argument("--tokens-per-minute", type=float, default=2_000_000.0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    print(
        f"limit {arguments.tokens_per_minute:,.0f} tokens a minute, latency {LATENCY_S} s, "
        f"a search each {SEARCH_EVERY_S * 1000:.0f} ms\n"
        f"{'store':9} {'rules':>8} {'seconds':>8} {'bound':>7} {'ratio':>6} {'429s':>5} {'peak MB':>8} "
        f"{'idle med/p95 ms':>17} {'during':>15} {'p95 x':>6} {'searches':>9} {'wrong':>6}"
    )
    rows = []
    for kind in arguments.stores:
        for count in arguments.rules:
            row = measured(kind, count, arguments.tokens_per_minute)
            idle, during = ("{:.1f}/{:.1f}".format(*row[name]) for name in ("idle_ms", "during_ms"))
            print(
                f"{kind:9} {count:8,} {row['took_s']:8.1f} {row['bound_s']:7.1f} {row['ratio']:6.3f} "
                f"{row['refused']:5} {row['peak_mb']:8.0f} {idle:>17} {during:>15} {row['p95_ratio']:6.2f} "
                f"{row['searches']:9} {row['problems']:6}  {row['spaces']} {row['first_problems']}",
                flush=True,
            )
            rows.append(row)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
