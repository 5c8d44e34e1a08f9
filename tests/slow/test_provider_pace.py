"""What the provider benchmark counts: refusals, wrong vectors, failed searches. Its seconds are for people to read."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "providers.py"
FEW = 16
"""Requests that a vendor without rate headers may refuse: those in flight when its bucket first ran empty."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def figures(python: str, folder: Path, *options: str) -> dict[str, Any]:
    file = folder / "figures.json"
    subprocess.run([python, str(BENCHMARK), "--json", str(file), *options], capture_output=True, check=True)
    return dict(json.loads(file.read_text()))


def ours(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [row for row in rows if row["way"].startswith("our ")]
    assert len(found) == 4  # two vendors, by the provider alone and into a store
    return found


@pytest.fixture(scope="module")
def runs(python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    options = ("--parts", "limits", "faults", "--texts", "5000", "--ours-only")
    return figures(python, tmp_path_factory.mktemp("runs"), *options)


def test_a_vendor_that_tells_its_limits_is_never_asked_too_soon(runs: dict[str, Any]) -> None:
    refused = [row["refused"] for row in ours(runs["limits"]) if row["vendor"] == "openai"]
    assert max(refused) <= 1


def test_a_vendor_that_tells_nothing_refuses_only_until_its_limit_is_known(runs: dict[str, Any]) -> None:
    refused = [row["refused"] for row in ours(runs["limits"]) if row["vendor"] == "cohere"]
    assert 1 <= max(refused) <= FEW  # at least one, else no limit was reached


@pytest.mark.parametrize("part", ["limits", "faults"])
def test_every_text_gets_its_own_vector(runs: dict[str, Any], part: str) -> None:
    for row in ours(runs[part]):
        assert (row["problem"], row["done"], row["wrong"]) == ("", row["texts"], 0), row
        assert row["requests"] > 0
    assert sum(row["struck"] for row in ours(runs["faults"])) > 0


def test_searches_go_on_through_an_outage_and_say_so(python: str, tmp_path: Path) -> None:
    outages = figures(python, tmp_path, "--parts", "outage", "--searches", "450")["outage"]
    assert [outage["kind"] for outage in outages] == ["refused", "silent"]
    for outage in outages:
        counts = {name: outage[name] for name in ("failed", "mislabelled", "unlabelled", "words_only")}
        assert counts == {"failed": 0, "mislabelled": 0, "unlabelled": 0, "words_only": 0}, outage["problems"]
        assert 0 < outage["degraded"] < outage["searches"]
        assert outage["recovery_s"] is not None
