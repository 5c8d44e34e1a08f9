"""Search quality on the labelled set, through the product's own import and search, beside the best plain baselines."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "retrieval.py"
BEST_BASELINES = {"without filter": 0.655, "tech stack as filter": 0.696}
"""nDCG@10 over all answerable queries of the best fusion of plain BM25 and plain MiniLM, measured on the same set."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_search_is_no_worse_than_the_best_baselines(python: str, shared: Path) -> None:
    done = subprocess.run(
        [python, str(BENCHMARK), str(shared / "bench" / "dev")], capture_output=True, text=True, check=True
    )

    assert "imported 2962 of 2962 rules" in done.stdout
    for name, baseline in BEST_BASELINES.items():
        table = done.stdout.split(f"\n{name}\n")[1]
        row = re.search(r"^ALL +1325 +([\d.]+)", table, re.MULTILINE)
        assert row is not None
        assert float(row[1]) >= baseline
