"""Search quality on the labelled set, as `symmetra-mcp eval` measures it, beside the best plain baselines."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from symmetra_mcp.evaluation.asking import ask_all
from symmetra_mcp.evaluation.beir import read_labelled_set
from symmetra_mcp.evaluation.scoring import Evaluation, evaluate
from symmetra_mcp.evaluation.temporary import PROJECT, corpus_app

BEST_BASELINES = {False: 0.655, True: 0.696}
"""nDCG@10 over all answerable queries of the best fusion of plain BM25 and plain MiniLM, measured on the same set:
without a filter, and with the query's tech stack as filter."""
CLEARLY = 0.02
"""Differences of 0.006 to 0.014 are detectable on this set."""
MOST_SILENT_ANSWERABLE = 0.03
LEAST_SILENT = {"none": 0.8, "none_hard": 0.9}
"""Share of the questions of these kinds, which no rule answers, that must be answered with nothing."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_search_is_clearly_better_than_the_best_baselines_and_silent_where_no_rule_applies(shared: Path) -> None:
    dev = shared / "bench" / "dev"
    sets = {
        filtered: read_labelled_set(
            dev / "corpus.jsonl", dev / "queries.jsonl", dev / "qrels.tsv", filter_tech_stack=filtered
        )
        for filtered in BEST_BASELINES
    }

    async def run() -> dict[bool, Evaluation]:
        found = {}
        async with corpus_app(sets[False], {}) as app:  # both ask the same rules: they are embedded once
            assert len(await app.searched_rules()) == 2962
            for filtered, labelled in sets.items():
                asked = await ask_all(app, labelled.questions, project_id=PROJECT)
                assert asked.degraded == {}
                found[filtered] = evaluate(labelled.questions, asked.run)
        return found

    for filtered, measured in anyio.run(run).items():
        overall = measured.rankings[-1]
        assert overall.n == 1325
        assert overall.ndcg_at_10.value >= BEST_BASELINES[filtered] + CLEARLY
        assert measured.silent_answerable is not None
        assert measured.silent_answerable.value <= MOST_SILENT_ANSWERABLE
        silent = {score.kind: score.silent.value for score in measured.silences}
        assert all(silent[kind] >= least for kind, least in LEAST_SILENT.items())
