from __future__ import annotations

import importlib.util
import io
import random
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from symmetra_mcp.evaluation.beir import read_labelled_set
from symmetra_mcp.evaluation.outcome import Comparison, Outcome, Scored
from symmetra_mcp.evaluation.outcome_tables import outcome_tables
from symmetra_mcp.evaluation.questions import Question
from symmetra_mcp.evaluation.runs import Ranked, read_run, run_text
from symmetra_mcp.evaluation.scoring import compare, evaluate, failures

QUESTIONS = [
    Question("q1", "one", {"a": 2}, kind="code"),
    Question("q2", "two", {"b": 1, "c": 1}),
    Question("n1", "three", kind="none"),
    Question("n2", "four", kind="none"),
]


def ranked(*ids: str, confidence: float | None = None) -> Ranked:
    return Ranked(tuple((rule_id, 1 / place) for place, rule_id in enumerate(ids, 1)), 10.0, confidence)


BEFORE = {
    "q1": ranked("x", "a", confidence=0.6),
    "q2": ranked(confidence=0.3),
    "n1": ranked("x", confidence=0.4),
    "n2": ranked(confidence=0.1),
}
AFTER = {
    "q1": ranked("a", "x", confidence=0.6),
    "q2": ranked("b", "x", "c", confidence=0.5),
    "n1": ranked("x", confidence=0.4),
    "n2": ranked("x", confidence=0.1),
}


def test_answerable_questions_are_scored_by_kind_and_over_all() -> None:
    told = {
        score.kind: (score.n, score.recall_at_5.value, score.mrr_at_10.value)
        for score in evaluate(QUESTIONS, BEFORE).rankings
    }
    assert told == {"code": (1, 1.0, 0.5), "questions": (1, 0.0, 0.0), "ALL": (2, 0.5, 0.25)}


def test_silence_is_scored_over_both_sides() -> None:
    evaluation = evaluate(QUESTIONS, BEFORE)
    kind, overall = evaluation.silences
    assert (kind.kind, kind.n, overall.kind) == ("none", 2, "ALL")
    assert (overall.silent.value, overall.auroc.value if overall.auroc else None) == (0.5, 0.75)
    assert evaluation.silent_answerable is not None
    assert evaluation.silent_answerable.value == 0.5
    assert evaluation.latency_p50_ms is not None
    assert evaluation.latency_p50_ms.value == 10


def test_a_run_without_confidence_has_no_auroc() -> None:
    run = {name: Ranked(answer.results) for name, answer in BEFORE.items()}
    evaluation = evaluate(QUESTIONS, run)
    assert (evaluation.silences[-1].auroc, evaluation.latency_p50_ms) == (None, None)
    assert "AUROC" not in {one.measure for one in compare(QUESTIONS, run, AFTER)}


def test_a_comparison_counts_the_questions_that_changed() -> None:
    found = {one.measure: one for one in compare(QUESTIONS, BEFORE, AFTER)}
    mrr = found["MRR@10"]
    assert (mrr.before, mrr.after, mrr.difference.value, mrr.higher, mrr.lower) == (0.25, 1.0, 0.75, 2, 0)
    silent = found["silent, no rule"]
    assert (silent.before, silent.after, silent.higher, silent.lower) == (0.5, 0.0, 0, 1)
    assert (found["AUROC"].before, found["AUROC"].after, found["AUROC"].p) == (0.75, 1.0, None)


def test_failures_are_what_came_late_or_not_or_unasked() -> None:
    late = {**AFTER, "q1": ranked("b", "c", "d", "e", "f", "a"), "n2": ranked()}
    assert [(one.question.question_id, one.expected, one.first) for one in failures(QUESTIONS, late)] == [
        ("q1", (("a", 6),), "b"),
        ("n1", (), "x"),
    ]
    assert [one.question.question_id for one in failures(QUESTIONS, BEFORE)] == ["q2", "n1"]


def test_every_table_fits_a_terminal_of_eighty_columns() -> None:
    outcome = Outcome(
        rules=2962,
        questions=4,
        left_out=0,
        runs=(Scored("now", "local/all-MiniLM-L6-v2@384", evaluate(QUESTIONS, BEFORE), {}),),
        comparisons=(Comparison("run.jsonl", "now", compare(QUESTIONS, BEFORE, AFTER)),),
    )
    screen = io.StringIO()
    Console(file=screen, width=80).print(outcome_tables(outcome))
    lines = screen.getvalue().splitlines()
    assert [line for line in lines if "…" in line] == []
    assert [line.split()[-2:] for line in lines if line.startswith("MRR@10")] == [["2", "0"]]


@pytest.mark.parametrize("name", ["run.jsonl", "run.trec"])
def test_a_run_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(run_text(BEFORE, path), "utf-8")
    expected = BEFORE if name == "run.jsonl" else {key: Ranked(answer.results) for key, answer in BEFORE.items()}
    assert read_run(path, QUESTIONS) == expected


@pytest.mark.slow
def test_the_figures_are_those_of_an_independent_scorer(shared: Path, tmp_path: Path) -> None:
    bench = shared / "bench"
    spec = importlib.util.spec_from_file_location("scorer", bench / "evaluate.py")
    assert spec is not None
    assert spec.loader is not None
    scorer: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scorer)
    dev = bench / "dev"
    labelled = read_labelled_set(dev / "corpus.jsonl", dev / "queries.jsonl", dev / "qrels.tsv")
    made = made_up_run(labelled.questions, list(labelled.rules))
    path = tmp_path / "run.jsonl"
    path.write_text(run_text(made, path), "utf-8")

    theirs = scorer.summarise(scorer.per_query(*scorer.load_set(str(dev))[:2], scorer.load_run(str(path))[0]), False)
    ours = evaluate(labelled.questions, read_run(path, labelled.questions))

    rankings = {
        score.kind: (score.n, score.recall_at_5.value, score.ndcg_at_10.value, score.mrr_at_10.value)
        for score in ours.rankings
    }
    measures = ("n", "recall@5", "ndcg@10", "mrr@10")
    micro = tuple({"n": 1325, **theirs["micro"]}[name] for name in measures)
    expected = {kind: tuple(row[name] for name in measures) for kind, row in theirs["kinds"].items()} | {"ALL": micro}
    assert rankings.keys() == expected.keys()
    for kind, figures in expected.items():
        assert rankings[kind] == pytest.approx(figures), kind
    assert ours.silent_answerable is not None
    for score in ours.silences[:-1]:
        row = theirs["none"][score.kind]
        assert score.auroc is not None
        assert score.answered_at_95 is not None
        found = (score.n, score.silent.value, score.auroc.value, score.answered_at_95.value)
        assert found == pytest.approx((row["n"], row["abstained"], row["auroc"], row["fpr@95tpr"]))
        assert ours.silent_answerable.value == pytest.approx(row["answerable_empty"])


def made_up_run(questions: tuple[Question, ...], rule_ids: list[str]) -> dict[str, Ranked]:
    """Rankings at random, the right rule often among them; the scorer takes the first score for the confidence."""
    drawn = random.Random(7)
    run = {}
    for question in questions:
        ids = drawn.sample(rule_ids, 10)
        for rule_id in question.grades:
            if drawn.random() < 0.7:
                ids.insert(drawn.randrange(10), rule_id)
        score = round(drawn.random() + 0.3 * question.answerable, 2)
        results = tuple(dict.fromkeys(ids)) if drawn.random() < 0.97 else ()
        pairs = tuple((rule_id, score - place / 100) for place, rule_id in enumerate(results))
        run[question.question_id] = Ranked(pairs, confidence=score if pairs else None)
    return run
