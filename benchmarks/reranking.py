"""What a re-ranker brings: the same searches without and with it, in turn, in one run.

The set is a folder in BEIR layout (corpus.jsonl, queries.jsonl, qrels.tsv), as for `retrieval.py`. Prints nDCG@10, the
time of a search, how many searches were not re-ranked, and dollars for 1,000 requests where a price is known. Beside
nDCG stands how many questions got better and worse: a mean alone hides both.

    python benchmarks/reranking.py path/to/set                    # as SYMMETRA_RERANK and its settings say
    python benchmarks/reranking.py path/to/set --loopback 0.2     # no key: a stand-in for Cohere that takes 0.2 s
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio

BENCHMARKS = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS.parent / "tests")]

from loopback import LoopbackVendor  # noqa: E402 - found by the line above
from retrieval import PROJECT, as_rules, read_jsonl, scores  # noqa: E402

from symmetra_mcp.app import App, open_app  # noqa: E402
from symmetra_mcp.config import load_settings  # noqa: E402
from symmetra_mcp.search import SearchAnswer, SearchRequest  # noqa: E402

LIMIT = 10
NAMES = {False: "without", True: "with"}


def entry(query_id: str, answer: SearchAnswer, took_ms: float) -> dict[str, Any]:
    """A line of a run, as `retrieval.scores` reads it."""
    results = [{"id": rule.rule_id} for hit in answer.hits for rule in (hit.rule, *hit.also)]
    return {"qid": query_id, "results": results, "latency_ms": took_ms, "degraded": answer.degraded}


async def ask(app: App, queries: list[dict[str, Any]]) -> dict[bool, list[dict[str, Any]]]:
    """Each question both ways, one right after the other; which comes first changes each time."""
    runs: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for number, query in enumerate(queries):
        request = SearchRequest(query=query["text"], limit=LIMIT, max_tokens=20_000)
        for reranked in (False, True) if number % 2 else (True, False):
            await app.embed(query["text"], "query")  # its vector is kept: neither way pays for it
            began = time.perf_counter()
            answer = await app.search(request, project_id=PROJECT, may_rerank=reranked)
            runs[reranked].append(entry(query["_id"], answer, (time.perf_counter() - began) * 1000))
    return runs


async def report(app: App, runs: dict[bool, list[dict[str, Any]]], relevant: dict[str, dict[str, int]]) -> None:
    assert app.reranking is not None
    found = {way: scores(run, relevant) for way, run in runs.items()}
    print(f"{app.reranking.reranker}, {app.reranking.candidates} rules, at most {app.reranking.reranker.timeout_s:g} s")
    print(f"{'':8} {'n':>5} {'nDCG@10':>8} {'p50 ms':>8} {'p95 ms':>8} {'not re-ranked':>14}")
    for way, run in runs.items():
        ndcg = statistics.fmean(pair[0] for pair in found[way].values()) if found[way] else float("nan")
        took = sorted(line["latency_ms"] for line in run)
        p50, p95 = (took[min(len(took) - 1, int(len(took) * share))] for share in (0.5, 0.95))
        missed = sum("not re-ranked" in line["degraded"] for line in run) if way else 0
        print(f"{NAMES[way]:8} {len(found[way]):5d} {ndcg:8.4f} {p50:8.1f} {p95:8.1f} {missed:14d}")
    changes = [found[True][query][0] - found[False][query][0] for query in found[True]]
    better, worse = sum(change > 0.001 for change in changes), sum(change < -0.001 for change in changes)
    print(f"better for {better} questions, worse for {worse}, the same for {len(changes) - better - worse}")
    rows = [row for row in (await app.usage()).rows if row.purpose == "rerank"]
    requests = sum(row.requests for row in rows)
    if requests and not any(row.tokens_unpriced for row in rows):
        print(f"${sum(row.cost_usd for row in rows) / requests * 1000:.3f} for 1,000 requests")
    elif requests:
        print(f"{sum(row.tokens for row in rows) / requests:.0f} tokens a request; no price: `SYMMETRA_RERANK_PRICE`")
    else:
        print("no money: nobody was asked over the network")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--queries", type=int, help="the first so many alone")
    parser.add_argument("--loopback", type=float, metavar="SECONDS", help="a stand-in for Cohere, for its time alone")
    arguments = parser.parse_args()
    corpus, queries = read_jsonl(arguments.set / "corpus.jsonl"), read_jsonl(arguments.set / "queries.jsonl")
    relevant: dict[str, dict[str, int]] = defaultdict(dict)
    for line in (arguments.set / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
        query_id, rule_id, grade = line.split("\t")
        relevant[query_id][rule_id] = int(grade)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        chosen: dict[str, Any] = {}
        if arguments.loopback is not None:
            vendor = stack.enter_context(LoopbackVendor(latency_s=arguments.loopback, latency_sigma=0.2))
            chosen = {"rerank": "cohere", "cohere_api_key": "benchmark", "co_api_url": vendor.cohere_base_url}
            chosen["embedding_backend"] = "local"
            print("a stand-in answers: its order is none of Cohere's, so look at the time alone")
        (folder / "rules.jsonl").write_text(as_rules(corpus), "utf-8")
        settings = load_settings(data_dir=folder / "data", project_dir=folder, starter_rules=False, **chosen)
        if settings.rerank == "off":
            parser.error("choose a re-ranker by `SYMMETRA_RERANK`, or `--loopback`")
        async with open_app(settings) as app:
            await app.import_rules([folder / "rules.jsonl"], project_id=PROJECT)
            await app.warm_up_reranker()
            await report(app, await ask(app, queries[: arguments.queries]), relevant)


if __name__ == "__main__":
    anyio.run(main)
