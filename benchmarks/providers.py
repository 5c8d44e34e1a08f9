"""Embedding many texts under a vendor's limits, and searching through its outage, on the loopback vendor of the tests.

Four parts: `limits` (wall time beside what the limits allow at best, our provider, a whole store and the vendor's own
SDK in turn), `faults` (the same while one request in twenty fails; every row is compared with the right vector),
`outage` (searches while the vendor goes and comes back) and `cpu` (this process's time for each thousand texts).

The bound is `(work - full bucket) / rate`, without any latency: nobody can be faster. Look at bound / time.

    python benchmarks/providers.py [--parts limits faults outage cpu] [--texts 10000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from numpy.typing import NDArray

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from loopback import Fault, LoopbackVendor, count_tokens, embed  # noqa: E402 - found by the line above

from symmetra_mcp.app import App, make_app  # noqa: E402
from symmetra_mcp.config import load_settings  # noqa: E402
from symmetra_mcp.passages import passages  # noqa: E402
from symmetra_mcp.probes import probe_passages  # noqa: E402
from symmetra_mcp.providers import cohere, openai  # noqa: E402
from symmetra_mcp.providers.base import EmbeddingProvider  # noqa: E402
from symmetra_mcp.providers.remote import BATCH_TEXTS, RemoteProvider  # noqa: E402
from symmetra_mcp.reembed import complete_space  # noqa: E402
from symmetra_mcp.search import SearchAnswer, SearchRequest, search  # noqa: E402
from symmetra_mcp.stores.sqlite import SqliteStore  # noqa: E402
from symmetra_mcp.types import Rule  # noqa: E402

Vectors = NDArray[np.float32]
KEY = "sk-benchmark"
WORDS = " ".join(
    (
        "always avoid cache check client close code column commit component config connection database default",
        "deploy document every error event explicit factory field file format function handle header import index",
        "inject input interface key large limit list log message method migration model module name never number",
        "object order output page parameter password pattern prefer process query queue read request response",
        "result retry return role rule schema secret server service session should state status store string table",
        "test thread time token transaction type update user validate value vector version with without write",
    )
).split()
WORDS_A_TEXT = 60
LATENCY_S = 0.25
CAPACITY_S = 8.0
"""Seconds of a limit that a bucket holds; the real ones hold a minute, which would make a run of minutes."""
TOKENS_PER_MINUTE = 1_250_000.0
REQUESTS_PER_MINUTE = 600.0
INPUTS_PER_MINUTE = 20_000.0
FAULT_SHARE = 0.05
FAULTS = ("server_error", "unavailable", "reset")
TOLERANCE = 1e-5
"""Between a row and the right vector: ours are normalized once more in float32."""
SEARCHES = 1_000
SEARCHERS = 4
SEARCH_EVERY_S = 0.04
RULES = 1_000
STORED_TOLERANCE = 0.02
"""Between a hit's similarity and that of the right vectors, which the store keeps in eight bits."""


@dataclass(slots=True)
class Run:
    """One way of embedding the texts once.

    Attributes:
        bound_s: What the limits allow at best.
        wrong: Rows that are not the text's vector.
        problem: Why it gave up.
    """

    part: str
    vendor: str
    way: str
    texts: int
    took_s: float
    bound_s: float
    done: int = 0
    wrong: int = 0
    requests: int = 0
    refused: int = 0
    max_in_flight: int = 0
    struck: int = 0
    problem: str = ""

    @property
    def ratio(self) -> float:
        return self.bound_s / self.took_s if self.done == self.texts else 0.0

    def count(self, stats: dict[str, Any]) -> None:
        """Take over what the vendor counted."""
        self.requests, self.max_in_flight = stats["requests"], stats["max_in_flight"]
        self.refused = stats["by_status"].get("429", 0)
        self.struck = sum(stats["by_fault"].values())


@dataclass(slots=True)
class Outage:
    """Searches before, while and after the vendor is away.

    Attributes:
        mislabelled: Answers whose similarities are not those of the space that they name.
        unlabelled: Answers of another space than the active one that don't say so.
        recovery_s: From the vendor's return to the first answer in its space.
    """

    kind: str
    searches: int
    failed: int = 0
    mislabelled: int = 0
    unlabelled: int = 0
    degraded: int = 0
    words_only: int = 0
    down_s: float = 0.0
    recovery_s: float | None = None
    longest_ms: float = 0.0
    median_ms: float = 0.0
    longest_degraded_ms: float = 0.0
    median_degraded_ms: float = 0.0
    problems: Counter[str] = field(default_factory=Counter)


class VendorProcess:
    """The loopback vendor with a CPU of its own."""

    def __init__(self, **settings: Any) -> None:
        options = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loopback", *options], stdout=subprocess.PIPE, env=environment, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[1]

    def __enter__(self) -> VendorProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def fresh(self, faults: Sequence[dict[str, Any]] = ()) -> None:
        """Counts at zero, buckets full, and these faults."""
        self._post("/_reset", {})
        self._post("/_ctl", {"faults": list(faults)})

    @property
    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/_stats") as answer:
            return dict(json.load(answer))

    def _post(self, path: str, content: dict[str, Any]) -> None:
        urllib.request.urlopen(f"{self.url}{path}", data=json.dumps(content).encode()).close()


def texts_of(count: int, seed: int = 0, words: int = WORDS_A_TEXT) -> list[str]:
    """Distinct texts of some hundred tokens."""
    rng = np.random.default_rng(seed)
    return [f"Rule {i}: {' '.join(rng.choice(WORDS, words))}." for i in range(count)]


def provider_of(vendor: str, url: str, **settings: Any) -> RemoteProvider:
    """Our provider, in requests of the size that the vendor's own address takes."""
    if vendor == "cohere":
        return cohere.CohereProvider(KEY, base_url=url, inputs_per_minute=INPUTS_PER_MINUTE, **settings)
    provider = openai.OpenAIProvider(KEY, base_url=f"{url}/v1", **settings)
    # Servers that merely speak OpenAI's API are sent less at once than OpenAI is; this one stands for OpenAI.
    provider._limits = replace(provider._limits, texts=openai.MAX_TEXTS, request_tokens=openai.MAX_REQUEST_TOKENS)
    return provider


def right_vectors(texts: Sequence[str], vendor: str, input_type: str = "search_document") -> Vectors:
    if vendor == "cohere":
        return embed(texts, cohere.DEFAULT_MODEL, 384, input_type)
    return embed(texts, openai.DEFAULT_MODEL, openai.DEFAULT_DIMENSIONS, None)


# The ways to embed: each fills `rows`, which stay NaN where it gives up


def through_provider(vendor: str, url: str, texts: Sequence[str], rows: Vectors) -> None:
    async def run() -> None:
        provider = provider_of(vendor, url)
        try:
            rows[:] = (await provider.embed_documents(texts)).vectors
        finally:
            await provider.aclose()

    anyio.run(run)


def through_sdk(vendor: str, url: str, texts: Sequence[str], rows: Vectors, *, at_once: int) -> None:
    """The SDK as its documentation shows it, with its own retries."""
    send, size = (_cohere_sdk(url), cohere.MAX_TEXTS) if vendor == "cohere" else (_openai_sdk(url), BATCH_TEXTS)

    def one(start: int) -> None:
        rows[start : start + size] = send(texts[start : start + size])

    starts = range(0, len(texts), size)
    if at_once == 1:
        for start in starts:
            one(start)
        return
    with ThreadPoolExecutor(at_once) as pool:
        try:
            list(pool.map(one, starts))
        except Exception:
            pool.shutdown(cancel_futures=True)
            raise


def _openai_sdk(url: str) -> Callable[[Sequence[str]], Any]:
    from openai import OpenAI

    client = OpenAI(api_key=KEY, base_url=f"{url}/v1")

    def send(texts: Sequence[str]) -> Any:
        answer = client.embeddings.create(
            input=list(texts), model=openai.DEFAULT_MODEL, dimensions=openai.DEFAULT_DIMENSIONS
        )
        return [row.embedding for row in answer.data]

    return send


def _cohere_sdk(url: str) -> Callable[[Sequence[str]], Any]:
    from cohere import ClientV2

    client = ClientV2(KEY, base_url=url)

    def send(texts: Sequence[str]) -> Any:
        answer = client.embed(
            model=cohere.DEFAULT_MODEL,
            texts=list(texts),
            input_type="search_document",
            embedding_types=["float"],
        )
        return answer.embeddings.float_

    return send


Way = Callable[[str, str, Sequence[str], Vectors], None]
WAYS: dict[str, Way] = {
    "our provider": through_provider,
    "SDK, one at a time": partial(through_sdk, at_once=1),
    "SDK, eight at once": partial(through_sdk, at_once=8),
}


# Limits and faults


def faults_of(share: float) -> list[dict[str, Any]]:
    return [{"fault": fault, "probability": share / len(FAULTS), "target": "batch"} for fault in FAULTS if share]


def measured(
    part: str, way: str, vendor: str, process: VendorProcess, texts: Sequence[str], right: Vectors, share: float
) -> Run:
    process.fresh(faults_of(share))
    rows = np.full(right.shape, np.nan, np.float32)
    problem, began = "", time.perf_counter()
    try:
        WAYS[way](vendor, process.url, texts, rows)
    except Exception as exc:  # the SDKs' errors share no base class
        problem = f"gave up: {type(exc).__name__}"
    run = Run(part, vendor, way, len(texts), time.perf_counter() - began, bound_s(vendor, texts), problem=problem)
    there = ~np.isnan(rows).any(axis=1)
    run.done = int(there.sum())
    run.wrong = int((np.abs(rows[there] - right[there]).max(axis=1, initial=0) > TOLERANCE).sum())
    run.count(process.stats)
    return run


def bound_s(vendor: str, texts: Sequence[str]) -> float:
    if vendor == "cohere":
        return max(0.0, len(texts) * 60 / INPUTS_PER_MINUTE - CAPACITY_S)
    return max(0.0, sum(map(count_tokens, texts)) * 60 / TOKENS_PER_MINUTE - CAPACITY_S)


def through_store(part: str, vendor: str, process: VendorProcess, texts: Sequence[str], share: float) -> Run:
    """A store of as many rules made complete: the same work with pages, commits and the questions of the scale."""

    async def run(folder: Path) -> tuple[float, int, list[str]]:
        store, provider = SqliteStore(folder), provider_of(vendor, process.url)
        await store.open()
        rules = [Rule("bench", f"rule-{i}", f"Rule {i}", text) for i, text in enumerate(texts)]
        for start in range(0, len(rules), 1000):
            await store.upsert_rules(rules[start : start + 1000])
        began = time.perf_counter()
        try:
            report = await complete_space(store, provider)
            took_s = time.perf_counter() - began
        finally:
            await provider.aclose()
            await store.aclose()
        sent = [passage.text for rule in rules for passage in passages(rule)]
        sent += [probe.text for probe in probe_passages()]
        return took_s, report.passages - report.missing + len(probe_passages()), sent

    process.fresh(faults_of(share))
    with tempfile.TemporaryDirectory() as folder:
        took_s, done, sent = anyio.run(run, Path(folder))
    result = Run(part, vendor, "our store", len(sent), took_s, bound_s(vendor, sent), done)
    result.count(process.stats)
    return result


def limited(part: str, count: int, share: float, ways: Sequence[str]) -> Iterator[Run]:
    texts = texts_of(count)
    with VendorProcess(
        openai_requests_per_minute=REQUESTS_PER_MINUTE,
        openai_tokens_per_minute=TOKENS_PER_MINUTE,
        cohere_inputs_per_minute=INPUTS_PER_MINUTE,
        capacity_s=CAPACITY_S,
        latency_s=LATENCY_S,
        latency_sigma=0.35,
        recent_requests=0,
    ) as process:
        for vendor in ("openai", "cohere"):
            right = right_vectors(texts, vendor)
            for warm_up in map(WAYS.__getitem__, ways):  # importing an SDK takes a second, for each of them
                warm_up(vendor, process.url, texts[:2], np.empty((2, right.shape[1]), np.float32))
            for way in ways:
                yield measured(part, way, vendor, process, texts, right, share)
                if way == "our provider":
                    yield through_store(part, vendor, process, texts, share)


# Outage


@contextmanager
def outage_of(vendor: LoopbackVendor, kind: str) -> Iterator[None]:
    """`refused`: nobody listens, and open connections are dropped. `silent`: requests are taken and not answered."""
    if kind == "silent":
        with vendor.failing(Fault.HANG):
            yield
        return
    vendor.down = True
    try:
        yield
    finally:
        vendor.down = False


@dataclass(slots=True)
class Known:
    """The right vectors of every rule's passages, in each space, and what embeds the questions."""

    by_rule: dict[str, dict[str, Vectors]]
    local: EmbeddingProvider

    async def similarity(self, space: str, query: str, rule_id: str) -> float:
        if space == "local":
            vector = (await self.local.embed_query(query)).vectors[0]
        else:
            vector = right_vectors([query], "openai")[0]
        return float((self.by_rule[space][rule_id] @ vector).max())


async def filled(app: App, rules: Sequence[Rule]) -> Known:
    """Rules in both spaces, the vendor's active."""
    await app.ready()
    await app.store.upsert_rules(rules)
    await app.embed_missing()
    await app.keep_backup()
    backup = app.providers.backup
    assert backup is not None
    sent = {rule.rule_id: [passage.text for passage in passages(rule)] for rule in rules}
    by_vendor = {rule_id: right_vectors(texts, "openai") for rule_id, texts in sent.items()}
    local = (await backup.embed_documents([texts[0] for texts in sent.values()])).vectors
    assert all(len(texts) == 1 for texts in sent.values())
    by_local = {rule_id: local[i : i + 1] for i, rule_id in enumerate(sent)}
    return Known({"openai": by_vendor, "local": by_local}, backup)


async def searched(app: App, vendor: LoopbackVendor, kind: str, count: int, every_s: float) -> Outage:
    """`count` searches, one due each `every_s`, by few searchers; the vendor is away for the middle third."""
    result = Outage(kind, count)
    known = await filled(app, [Rule("bench", f"r{i}", f"Rule {i}", text) for i, text in enumerate(texts_of(RULES, 1))])
    queries = iter(enumerate(texts_of(count, seed=2, words=8)))
    began, answers = time.perf_counter(), list[tuple[float, float, str, SearchAnswer]]()
    downtime = [0.0, 0.0]

    async def searcher() -> None:
        for number, query in queries:
            await anyio.sleep(max(0.0, began + number * every_s - time.perf_counter()))
            asked = time.perf_counter()
            try:
                answer = await search(app.store, app.providers, SearchRequest(query))
            except Exception as exc:  # any failure counts
                result.failed += 1
                result.problems[type(exc).__name__] += 1
                continue
            answers.append((asked, time.perf_counter(), query, answer))

    def away() -> None:
        with outage_of(vendor, kind):
            downtime[0] = time.perf_counter()
            time.sleep(count * every_s / 3)
        downtime[1] = time.perf_counter()

    async def vendor_goes() -> None:
        await anyio.sleep(count * every_s / 3)
        await anyio.to_thread.run_sync(away)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(vendor_goes)
        for _ in range(SEARCHERS):
            tasks.start_soon(searcher)
    await judge(app, result, known, answers, downtime)
    return result


async def judge(
    app: App,
    result: Outage,
    known: Known,
    answers: Sequence[tuple[float, float, str, SearchAnswer]],
    downtime: Sequence[float],
) -> None:
    active = await app.store.active_space()
    took_ms = {True: list[float](), False: list[float]()}
    result.down_s = downtime[1] - downtime[0]
    for asked, answered, query, answer in answers:
        degraded = bool(answer.degraded)
        took_ms[degraded].append((answered - asked) * 1000)
        result.degraded += degraded
        result.words_only += answer.space is None
        result.unlabelled += answer.space != active and not degraded
        result.mislabelled += not await is_of_its_space(known, query, answer)
        if not degraded and asked >= downtime[1] and result.recovery_s is None:
            result.recovery_s = answered - downtime[1]
    both = took_ms[True] + took_ms[False]
    result.longest_ms, result.median_ms = max(both), statistics.median(both)
    result.longest_degraded_ms = max(took_ms[True], default=0.0)
    result.median_degraded_ms = statistics.median(took_ms[True]) if took_ms[True] else 0.0


async def is_of_its_space(known: Known, query: str, answer: SearchAnswer) -> bool:
    """Whether every similarity is the one that the named space's own vectors have."""
    for hit in (*answer.hits, *answer.below):
        if answer.space is None or hit.similarity is None:
            if answer.space is not None or hit.similarity is not None:
                return False
            continue
        right = await known.similarity(answer.space.provider, query, hit.rule.rule_id)
        if abs(right - hit.similarity) > STORED_TOLERANCE:
            return False
    return True


def outages(count: int, every_s: float) -> Iterator[Outage]:
    for kind in ("refused", "silent"):
        with tempfile.TemporaryDirectory() as folder, LoopbackVendor(latency_s=0.06, recent_requests=0) as vendor:
            settings = load_settings(
                openai_api_key=KEY,
                openai_base_url=vendor.openai_base_url,
                data_dir=Path(folder),
                rules="0",
                starter_rules=False,
            )

            async def run(settings: Any = settings, vendor: LoopbackVendor = vendor, kind: str = kind) -> Outage:
                app = make_app(settings)
                try:
                    return await searched(app, vendor, kind, count, every_s)
                finally:
                    await app.aclose()

            yield anyio.run(run)


# CPU


def cpu_ms(vendor: str, way: str, process: VendorProcess, texts: Sequence[str]) -> float:
    """Milliseconds of this process for each thousand texts: the least of three runs, the first import left out."""
    rows = np.empty((len(texts), 384), np.float32)
    taken = []
    for _ in range(4):
        began = time.process_time()
        WAYS[way](vendor, process.url, texts, rows)
        taken.append((time.process_time() - began) * 1000)
    return min(taken[1:]) * 1000 / len(texts)


def cpu(count: int) -> dict[str, dict[str, float]]:
    texts = texts_of(count)
    unlimited = {"openai_requests_per_minute": "none", "openai_tokens_per_minute": "none"}
    with VendorProcess(**unlimited, cohere_inputs_per_minute="none", vectors="table", recent_requests=0) as process:
        return {
            vendor: {way: cpu_ms(vendor, way, process, texts) for way in ("our provider", "SDK, one at a time")}
            for vendor in ("openai", "cohere")
        }


# What is printed


def print_run(run: Run) -> None:
    ratio = f"{run.ratio:.3f}" if run.ratio else "-"
    told = f"  {run.problem} after {run.done:,} of {run.texts:,}" if run.problem else ""
    print(
        f"{run.vendor:7} {run.way:19} {run.took_s:7.1f} {run.bound_s:7.1f} {ratio:>6} {run.requests:9,} "
        f"{run.refused:5,} {run.struck:7,} {run.max_in_flight:7,} {run.wrong:6,}{told}",
        flush=True,
    )


def print_outage(outage: Outage) -> None:
    recovery = "never" if outage.recovery_s is None else f"{outage.recovery_s:.1f}"
    print(
        f"{outage.kind:8} {outage.searches:8,} {outage.failed:6} {outage.mislabelled:10} {outage.unlabelled:10} "
        f"{outage.degraded:8} {outage.words_only:10} {outage.down_s:6.1f} {recovery:>8} {outage.median_ms:9.0f} "
        f"{outage.median_degraded_ms:9.0f} {outage.longest_ms:8.0f}",
        flush=True,
    )


def limits_part(part: str, count: int, share: float, ways: Sequence[str]) -> list[dict[str, Any]]:
    failing = f", {share:.0%} of the requests fail ({', '.join(FAULTS)})" if share else ""
    print(
        f"\n{part}: {count:,} texts, {TOKENS_PER_MINUTE:,.0f} tokens or {INPUTS_PER_MINUTE:,.0f} inputs a minute, "
        f"bucket {CAPACITY_S:.0f} s, latency {LATENCY_S} s{failing}"
    )
    print(
        f"{'vendor':7} {'way':19} {'seconds':>7} {'bound':>7} {'ratio':>6} {'requests':>9} {'429s':>5} {'faults':>7} "
        f"{'at once':>7} {'wrong':>6}"
    )
    rows = []
    for run in limited(part, count, share, ways):
        print_run(run)
        rows.append({**asdict(run), "ratio": run.ratio})
    return rows


def outage_part(count: int, every_s: float) -> list[dict[str, Any]]:
    print(f"\noutage: {RULES:,} rules, {SEARCHERS} searchers, a search due each {every_s * 1000:.0f} ms")
    print(
        f"{'vendor':8} {'searches':>8} {'failed':>6} {'mislabel':>10} {'unlabelled':>10} {'degraded':>8} "
        f"{'words only':>10} {'away s':>6} {'recovery':>8} {'median ms':>9} {'degraded':>9} {'longest':>8}"
    )
    rows = []
    for outage in outages(count, every_s):
        print_outage(outage)
        rows.append(asdict(outage))
    return rows


def cpu_part(count: int) -> dict[str, dict[str, float]]:
    print("\ncpu: ms of this process for each thousand texts, no limits, vendor in its own process")
    figures = cpu(count)
    for vendor, by_way in figures.items():
        ours, sdk = by_way.values()
        print(f"{vendor:7} our provider {ours:8.0f}   bare SDK {sdk:8.0f}   ratio {ours / sdk:.2f}", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("limits", "faults", "outage", "cpu")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--searches", type=int, default=SEARCHES)
    parser.add_argument("--every-s", type=float, default=SEARCH_EVERY_S, help="seconds between two searches")
    parser.add_argument("--ours-only", action="store_true", help="leave out the plain SDKs")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    ways = ["our provider"] if arguments.ours_only else list(WAYS)
    figures: dict[str, Any] = {}
    for part in arguments.parts:
        if part == "outage":
            figures[part] = outage_part(arguments.searches, arguments.every_s)
        elif part == "cpu":
            figures[part] = cpu_part(arguments.texts)
        else:
            figures[part] = limits_part(part, arguments.texts, FAULT_SHARE if part == "faults" else 0.0, ways)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
