"""What docs/evaluation.md says of questions is what the command reads."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from symmetra_mcp.evaluation import questions
from symmetra_mcp.evaluation.questions import read_questions

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "questions.yaml"
DOCUMENT = (REPOSITORY / "docs" / "evaluation.md").read_text("utf-8")


def test_the_example_in_the_document_is_a_part_of_the_example_file(tmp_path: Path) -> None:
    (block,) = re.findall(r"<!-- example: questions -->\n```yaml\n(.*?)^```$", DOCUMENT, re.DOTALL | re.M)
    shown = tmp_path / "questions.yaml"
    shown.write_text(block, "utf-8")
    example = {question.question_id: question.grades for question in read_questions(EXAMPLE)}
    told = read_questions(shown)
    assert len(told) == 4
    for question in told:
        assert example[question.question_id] == question.grades


def test_every_key_of_a_question_is_described() -> None:
    table = DOCUMENT.split("| key | meaning |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == set(questions._KEYS)


def test_the_example_is_asked_over_the_starter_rules_and_what_fails_is_named(tmp_path: Path) -> None:
    hard = tmp_path / "hard.yaml"
    hard.write_text(EXAMPLE.read_text("utf-8") + "\n- {question: rotate the logs, expect: [touch-targets]}\n", "utf-8")
    line = len(hard.read_text("utf-8").splitlines())

    done = subprocess.run(
        [sys.executable, "-m", "symmetra_mcp", "eval", str(hard), "--min-ndcg", "0.6", "--min-recall", "1"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert "12 questions over 139 rules" in done.stdout
    assert f"{hard}:{line}: 'rotate the logs': expected touch-targets (not among 10); " in done.stdout
    problem = done.stderr.splitlines()[-1]  # a busy machine is told of progress above it
    assert re.fullmatch(r"Error: recall@5 is 0\.[6-9]\d*, below 1", problem)  # nDCG is above its bound
    assert done.returncode == 1
