"""Search quality on a labelled set, through the product's own import and search.

The set is a folder in BEIR layout (corpus.jsonl, queries.jsonl, qrels.tsv). Its rules are written in our JSONL form,
imported with `App.import_rules`, and every query is asked with `App.search`, once as it is and once with its tech stack
as a filter. Prints nDCG@10 and recall@5 a kind of query, and writes a run file for each.

    python benchmarks/retrieval.py path/to/set [--runs FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import anyio

from symmetra_mcp.app import App, open_app
from symmetra_mcp.config import load_settings
from symmetra_mcp.search import SearchRequest

LIMIT = 10
PROJECT = "bench"


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def as_rules(corpus: list[dict[str, Any]]) -> str:
    """The corpus in our JSONL form, keeping its ids."""
    rules = (
        {
            "rule_id": entry["_id"],
            "title": entry["title"],
            "guidance": entry["metadata"]["guidance"],
            "rationale": entry["metadata"]["rationale"],
            "category": entry["metadata"]["category"],
            "keywords": entry["metadata"]["tags"],
            "tech_stacks": entry["metadata"]["tech_stack"],
        }
        for entry in corpus
    )
    return "".join(json.dumps(rule) + "\n" for rule in rules)


async def run_queries(app: App, queries: list[dict[str, Any]], *, filtered: bool) -> list[dict[str, Any]]:
    """One entry a query: the rules of the answer in order, those folded into a hit right after it."""
    run = []
    for query in queries:
        stack = query["metadata"].get("tech_stack") if filtered else None
        request = SearchRequest(
            query=query["text"], tech_stacks=(stack,) if stack else (), limit=LIMIT, max_tokens=20_000
        )
        began = time.perf_counter()
        answer = await app.search(request, project_id=PROJECT)
        latency_ms = (time.perf_counter() - began) * 1000
        results = [{"id": rule.rule_id, "score": hit.score} for hit in answer.hits for rule in (hit.rule, *hit.also)]
        run.append({"qid": query["_id"], "results": results, "latency_ms": latency_ms})
    return run


def scores(run: list[dict[str, Any]], relevant: dict[str, dict[str, int]]) -> dict[str, tuple[float, float]]:
    """nDCG@10 (linear gain) and recall@5 of each query that has an answer."""
    found = {}
    for entry in run:
        grades = relevant.get(entry["qid"])
        if not grades:
            continue
        ids = [result["id"] for result in entry["results"]]
        gain = sum(grades.get(rule_id, 0) / math.log2(rank + 2) for rank, rule_id in enumerate(ids[:10]))
        ideal = sum(
            grade / math.log2(rank + 2) for rank, grade in enumerate(sorted(grades.values(), reverse=True)[:10])
        )
        found[entry["qid"]] = gain / ideal, sum(rule_id in grades for rule_id in ids[:5]) / len(grades)
    return found


def report(name: str, run: list[dict[str, Any]], queries: list[dict[str, Any]], relevant: dict[str, Any]) -> None:
    kinds = {query["_id"]: query["metadata"]["kind"] for query in queries}
    by_kind: dict[str, list[tuple[float, float]]] = defaultdict(list)
    found = scores(run, relevant)
    for query_id, pair in found.items():
        by_kind[kinds[query_id]].append(pair)
    by_kind["ALL"] = list(found.values())
    print(f"\n{name}\n{'kind':15} {'n':>5} {'nDCG@10':>8} {'recall@5':>9}")
    for kind, pairs in sorted(by_kind.items(), key=lambda item: (item[0] == "ALL", item[0])):
        ndcg, recall = (sum(pair[i] for pair in pairs) / len(pairs) for i in (0, 1))
        print(f"{kind:15} {len(pairs):5d} {ndcg:8.4f} {recall:9.4f}")
    empty: dict[str, list[bool]] = defaultdict(list)
    for entry in run:
        empty[kinds[entry["qid"]] if kinds[entry["qid"]].startswith("none") else "answerable"].append(
            not entry["results"]
        )
    told = ", ".join(f"{kind} {sum(values) / len(values):.1%}" for kind, values in sorted(empty.items()))
    latencies = sorted(entry["latency_ms"] for entry in run)
    p50, p95 = (latencies[int(len(latencies) * share)] for share in (0.5, 0.95))
    print(f"answered with `none`: {told}; latency with the model p50 {p50:.1f} ms, p95 {p95:.1f} ms")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--runs", type=Path, help="folder for the run files, in the scorer's JSONL form")
    arguments = parser.parse_args()
    corpus, queries = read_jsonl(arguments.set / "corpus.jsonl"), read_jsonl(arguments.set / "queries.jsonl")
    relevant: dict[str, dict[str, int]] = defaultdict(dict)
    for line in (arguments.set / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
        query_id, rule_id, grade = line.split("\t")
        relevant[query_id][rule_id] = int(grade)
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.jsonl"
        rules.write_text(as_rules(corpus), "utf-8")
        settings = load_settings(data_dir=Path(folder) / "data", project_dir=Path(folder), starter_rules=False)
        async with open_app(settings) as app:
            began = time.perf_counter()
            result = await app.import_rules([rules], project_id=PROJECT)
            print(
                f"imported {len(result.report.added)} of {len(corpus)} rules, embedded "
                f"{result.embedding.embedded if result.embedding else 0} texts in {time.perf_counter() - began:.1f} s"
            )
            for name, filtered in (("without filter", False), ("tech stack as filter", True)):
                run = await run_queries(app, queries, filtered=filtered)
                report(name, run, queries, relevant)
                if arguments.runs is not None:
                    path = arguments.runs / f"{name.replace(' ', '-')}.jsonl"
                    path.write_text("".join(json.dumps(entry) + "\n" for entry in run), "utf-8")


if __name__ == "__main__":
    anyio.run(main)
