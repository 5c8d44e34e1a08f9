"""Search quality on the labelled set, as `symmetra-mcp eval` measures it, beside the best plain baselines."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from symmetra_mcp.evaluation.asking import ask_all
from symmetra_mcp.evaluation.beir import read_labelled_set
from symmetra_mcp.evaluation.scoring import evaluate
from symmetra_mcp.evaluation.temporary import PROJECT, corpus_app

BEST_BASELINES = {False: 0.655, True: 0.696}
"""nDCG@10 over all answerable queries of the best fusion of plain BM25 and plain MiniLM, measured on the same set:
without a filter, and with the query's tech stack as filter."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_search_is_no_worse_than_the_best_baselines(shared: Path) -> None:
    dev = shared / "bench" / "dev"
    sets = {
        filtered: read_labelled_set(
            dev / "corpus.jsonl", dev / "queries.jsonl", dev / "qrels.tsv", filter_tech_stack=filtered
        )
        for filtered in BEST_BASELINES
    }

    async def run() -> dict[bool, tuple[int, float]]:
        found = {}
        async with corpus_app(sets[False], {}) as app:  # both ask the same rules: they are embedded once
            assert len(await app.searched_rules()) == 2962
            for filtered, labelled in sets.items():
                asked = await ask_all(app, labelled.questions, project_id=PROJECT)
                assert asked.degraded == {}
                overall = evaluate(labelled.questions, asked.run).rankings[-1]
                found[filtered] = overall.n, overall.ndcg_at_10.value
        return found

    for filtered, (n, ndcg) in anyio.run(run).items():
        assert n == 1325
        assert ndcg >= BEST_BASELINES[filtered]
