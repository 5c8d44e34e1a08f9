"""The real command over small sets, with the real model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from loopback import LoopbackVendor

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "questions.yaml"
RULES = {
    "keys": ("Idempotency keys", "Send an idempotency key with every payment request."),
    "money": ("Exact money", "Keep amounts of money as whole cents, never as floating point numbers."),
    "sleep": ("No sleeps", "Never sleep in a test; wait for the condition itself."),
    "secrets": ("Secrets", "Keep passwords and API keys out of the source code."),
}
QUERIES: list[dict[str, Any]] = [
    {"_id": "q1", "text": "retry a payment request", "metadata": {"kind": "task", "tech_stack": "python"}},
    {"_id": "q2", "text": "time.sleep(5) in a test", "metadata": {"kind": "code"}},
    {"_id": "q3", "text": "store the price of an article"},
    {"_id": "n1", "text": "water the tomatoes every morning", "metadata": {"kind": "none"}},
    {"_id": "x1", "text": "of another split"},
]
QRELS = "q1\tkeys\t2\nq2\tsleep\t1\nq3\tmoney\t1\nq3\tkeys\t0\n"


@pytest.fixture
def labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The options that name a set in the working folder."""
    monkeypatch.chdir(tmp_path)
    entries = [{"_id": rule_id, "title": title, "text": text} for rule_id, (title, text) in RULES.items()]
    Path("corpus.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries), "utf-8")
    Path("queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in QUERIES), "utf-8")
    Path("qrels.tsv").write_text(QRELS, "utf-8")
    return ("--corpus", "corpus.jsonl", "--queries", "queries.jsonl", "--qrels", "qrels.tsv")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return symmetra("eval", *arguments, **environment)


def symmetra(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "symmetra_mcp", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_plain_set_is_indexed_asked_and_scored_and_leaves_nothing_behind(
    labelled: tuple[str, ...], data_dir: Path, tmp_path: Path
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    done = run(*labelled, "--run-out", "run.jsonl", "--json", TMPDIR=str(place))

    assert done.stderr.splitlines()[-1] == "Wrote run.jsonl"
    answer = json.loads(done.stdout)
    assert (answer["rules"], answer["questions"], answer["left_out"]) == (4, 4, 1)
    (found,) = answer["runs"]
    assert found["space"] == "local/all-MiniLM-L6-v2@384"
    assert [(row["kind"], row["n"]) for row in found["rankings"]] == [
        ("code", 1),
        ("questions", 1),
        ("task", 1),
        ("ALL", 3),
    ]
    assert found["rankings"][-1]["recall_at_5"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    silence = found["silences"][-1]
    assert (silence["n"], silence["silent"]["value"], silence["auroc"]["value"]) == (1, 1.0, 1.0)
    lines = [json.loads(line) for line in Path("run.jsonl").read_text("utf-8").splitlines()]
    assert [line["qid"] for line in lines] == ["q1", "q2", "q3", "n1"]
    assert lines[0]["results"][0]["id"] == "keys"
    assert lines[3]["results"] == []
    assert lines[0]["confidence"] > lines[3]["confidence"]
    assert lines[0]["latency_ms"] > 0
    assert not data_dir.exists()
    assert list(place.iterdir()) == []


@pytest.mark.slow
def test_two_configurations_are_asked_side_by_side_and_costs_are_counted_for_the_user(
    labelled: tuple[str, ...], data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    Path("former.trec").write_text("q1 Q0 money 1 0.9 x\nq1 Q0 keys 2 0.8 x\nq2 Q0 sleep 1 0.9 x\n", "utf-8")
    with LoopbackVendor() as vendor:
        other = {
            "SYMMETRA_EMBEDDING_BACKEND": "openai",
            "OPENAI_API_KEY": "sk-loopback-0123456789-abcd",
            "OPENAI_BASE_URL": vendor.openai_base_url,
        }
        options = [part for item in other.items() for part in ("--with", "=".join(item))]
        over_set = run(*labelled, *options, "--against", "former.trec", "--json")
        counted = (data_dir / "usage.db").exists()
        over_own_rules = run(str(EXAMPLE), *options, "--json")

    assert (over_set.returncode, over_own_rules.returncode, counted) == (0, 0, True)
    answers = [json.loads(done.stdout) for done in (over_set, over_own_rules)]
    for answer in answers:
        assert [one["space"].split("/")[0] for one in answer["runs"]] == ["local", "openai"]
        assert [one["degraded"] for one in answer["runs"]] == [{}, {}]
    former, second = answers[0]["comparisons"]
    mrr = former["measures"][2]
    assert (former["before"], former["after"]) == ("former.trec", "settings as they are")
    assert (mrr["before"], mrr["after"], mrr["higher"], mrr["lower"]) == (0.5, 1.0, 2, 0)
    assert (second["before"], "OPENAI_API_KEY=…" in second["after"]) == ("settings as they are", True)
    assert "sk-loopback" not in over_set.stdout + over_set.stderr
    in_use = json.loads(symmetra("spaces", "list", "--json").stdout)
    assert [space["space"].split("/")[0] for space in in_use] == ["local"]
