"""What can't be evaluated is told with its place, before anything is embedded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from symmetra_mcp.cli import cli

CORPUS = '{"_id": "a", "title": "A", "text": "Always lock the door."}\n{"_id": "b", "text": "Close the window."}\n'
QUERIES = '{"_id": "q1", "text": "leave the house"}\n{"_id": "q2", "text": "fly", "metadata": {"kind": "none"}}\n'
QRELS = "query-id\tcorpus-id\tscore\nq1\ta\t2\n"
FILES = {"corpus.jsonl": CORPUS, "queries.jsonl": QUERIES, "qrels.tsv": QRELS}
BEIR = ("--corpus", "corpus.jsonl", "--queries", "queries.jsonl", "--qrels", "qrels.tsv")
Evaluate = Callable[..., Result]


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """The command in a folder that holds these files beside those of a small set."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **files: str) -> Result:
        named = {name.replace("_", "."): text for name, text in files.items()}
        for name, text in {**FILES, **named}.items():
            (tmp_path / name).write_text(text, "utf-8")
        return CliRunner().invoke(cli, ["eval", *arguments])

    return run


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("corpus_jsonl", "", "'corpus.jsonl' is empty"),
        ("corpus_jsonl", CORPUS + "{\n", "corpus.jsonl:3: not JSON"),
        ("corpus_jsonl", CORPUS + '["a"]\n', "corpus.jsonl:3: expected an object with `_id`"),
        ("corpus_jsonl", CORPUS + '{"_id": "a", "text": "x"}\n', "corpus.jsonl:3: `_id` 'a' stands twice"),
        ("corpus_jsonl", CORPUS + '{"_id": "c", "text": " "}\n', "corpus.jsonl:3: neither `title` nor `text`"),
        ("corpus_jsonl", CORPUS + '{"_id": "c\\u200b", "text": "x"}\n', "corpus.jsonl:3: `_id` must be up to 200"),
        ("queries_jsonl", "\n\n", "'queries.jsonl' is empty"),
        ("queries_jsonl", QUERIES + '{"_id": "q3"}\n', "queries.jsonl:3: the question has no text"),
        ("queries_jsonl", QUERIES + QUERIES, "queries.jsonl:3: `_id` 'q1' stands twice"),
        ("queries_jsonl", QUERIES + '{"_id": "q3", "text": "x", "metadata": 1}', "queries.jsonl:3: `metadata` must be"),
        ("qrels_tsv", "query-id\tcorpus-id\tscore\n", "'qrels.tsv' holds no judgments"),
        ("qrels_tsv", QRELS + "q1\ta\n", "qrels.tsv:3: expected query id, corpus id and a whole number"),
        ("qrels_tsv", QRELS + "q9\ta\t1\n", "qrels.tsv:3: no query 'q9' in the queries"),
        ("qrels_tsv", QRELS + "q1\tz\t1\n", "qrels.tsv:3: no rule 'z' in the corpus"),
        ("qrels_tsv", QRELS + "q1\ta\t1\n", "qrels.tsv:3: 'q1' and 'a' are judged twice"),
    ],
    ids=lambda value: value if isinstance(value, str) and ":" in value and len(value) < 70 else "",
)
def test_a_line_of_a_labelled_set_that_cant_be_used_is_told_with_its_place(
    evaluate: Evaluate, name: str, text: str, told: str
) -> None:
    done = evaluate(*BEIR, **{name: text})
    assert (done.exit_code, done.stdout) == (1, "")
    assert told in done.stderr


def test_every_bad_line_is_told(evaluate: Evaluate) -> None:
    done = evaluate(*BEIR, corpus_jsonl=CORPUS + "{\n", queries_jsonl=QUERIES + "{\n" * 30)
    lines = done.stderr.splitlines()
    assert [line.split(" ")[0] for line in lines[1:4]] == ["corpus.jsonl:3:", "queries.jsonl:3:", "queries.jsonl:4:"]
    assert lines[-1] == "and 11 more"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "questions.yaml: expected a list of questions"),
        ("question: x\nexpect: a\n", "questions.yaml: expected a list of questions"),
        ("- question: 'x\n", "questions.yaml:2: not YAML"),
        ("- x\n", "questions.yaml:1: expected `question` and `expect`"),
        ("- expect: a\n", "questions.yaml:1: the question has no text"),
        ("- question: x\n", "questions.yaml:1: `expect` is missing"),
        ("- question: x\n  expect: {a: b}\n", "questions.yaml:1: `expect` must be a name or a list of names"),
        ("- question: x\n  expects: a\n", "questions.yaml:1: unknown key 'expects'"),
        ("- {question: x, expect: a, file: [b]}\n", "questions.yaml:1: `file` must be text"),
        ("- {question: x, expect: a}\n" * 2, "questions.yaml:2: the question stands at questions.yaml:1 already"),
        (
            "- {question: x, expect: vector-db-choise}\n",
            "no rule 'vector-db-choise'; the nearest name is 'vector-db-choice'",
        ),
        ("- {question: x, expect: none, category: securty}\n", "category 'securty'; the nearest name is 'security'"),
    ],
    ids=lambda value: "" if value.startswith("-") else value[:50],
)
def test_a_question_that_cant_be_asked_is_told_with_its_place(evaluate: Evaluate, text: str, told: str) -> None:
    done = evaluate("questions.yaml", questions_yaml=text)
    assert (done.exit_code, done.stdout) == (1, "")
    assert told in done.stderr


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "run.jsonl",
            '{"qid": "x", "results": []}',
            "answers other questions than these 2: 1 unknown ('x'), 2 missing",
        ),
        ("run.jsonl", '{"qid": "q1", "results": []}', "1 missing ('q2')"),
        ("run.jsonl", '{"qid": "q1"}', "run.jsonl:1: expected"),
        ("run.jsonl", '{"qid": "q1", "results": [], "confidence": NaN}', "run.jsonl:1: expected"),
        ("run.jsonl", '{"qid": "q1", "results": []}\n' * 2, "run.jsonl:2: the question 'q1' is answered twice"),
        ("run.trec", "q1 Q0 a 1 0.5", "run.trec:1: expected 6 columns"),
        ("run.trec", "x Q0 a 1 0.5 t", "1 unknown ('x')"),
        ("run.trec", "", "2 missing"),
    ],
)
def test_a_run_of_other_questions_is_refused(evaluate: Evaluate, name: str, text: str, told: str) -> None:
    done = evaluate(*BEIR, "--against", name, **{name.replace(".", "_"): text})
    assert (done.exit_code, done.stdout) == (1, "")
    assert told in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ([], 2, "give QUESTIONS, or --corpus, --queries and --qrels together"),
        (["q.yaml", *BEIR], 2, "give QUESTIONS, or"),
        (BEIR[:4], 2, "give QUESTIONS, or"),
        (["q.yaml", "--filter-tech-stack"], 2, "--filter-tech-stack is for labelled sets"),
        (["absent.yaml"], 1, "'absent.yaml' can't be read"),
        ([*BEIR, "--with", "x"], 2, "give a setting as NAME=VALUE"),
        ([*BEIR, "--with", "SYMMETRA_EMBEDING_BACKEND=local"], 1, "did you mean `SYMMETRA_EMBEDDING_BACKEND`?"),
        ([*BEIR, "--with", "SYMMETRA_EMBEDDING_BACKEND=mine"], 1, "`SYMMETRA_EMBEDDING_BACKEND`: input should be"),
        ([*BEIR, "--with", "OPENAI_API_KEY="], 1, "`OPENAI_API_KEY` is given no value"),
        ([*BEIR, "--with", "SYMMETRA_STORE=supabase"], 1, "`SYMMETRA_STORE` can't be compared"),
    ],
)
def test_options_that_mean_nothing_are_refused(evaluate: Evaluate, arguments: list[str], code: int, told: str) -> None:
    done = evaluate(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert told in done.stderr
