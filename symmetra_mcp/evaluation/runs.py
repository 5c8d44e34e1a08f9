"""What a set of questions was answered with, and the files that keep it: JSONL of our own, or TREC's run format."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from symmetra_mcp.errors import EvaluationError
from symmetra_mcp.evaluation.questions import Question, read_text, refuse

_TREC_SUFFIXES = (".trec", ".run")
_TREC_COLUMNS = 6
_TAG = "symmetra-mcp"
_IDS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Ranked:
    """The rules that answered one question.

    Attributes:
        results: Rule ids with their scores, best first, none twice; empty where nothing applied.
        latency_ms: How long the search took, where that is known.
        confidence: How sure the answer was that anything applies; higher is surer, `None` where that is not known.
    """

    results: tuple[tuple[str, float], ...]
    latency_ms: float | None = None
    confidence: float | None = None

    @property
    def rule_ids(self) -> list[str]:
        """The ids, best first."""
        return [rule_id for rule_id, _ in self.results]


Run: TypeAlias = Mapping[str, Ranked]
"""By question id."""


def without_repeats(results: Iterable[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """Results of which an id's first one counts."""
    first: dict[str, float] = {}
    for rule_id, score in results:
        first.setdefault(rule_id, score)
    return tuple(first.items())


def run_text(run: Run, path: Path) -> str:
    """A run as the file of this name holds it: TREC where it ends in `.trec` or `.run`, else JSONL.

    Raises:
        EvaluationError: An id holds a blank, which separates TREC's columns.
    """
    return _trec(run, path) if path.suffix in _TREC_SUFFIXES else "".join(_json_line(*item) for item in run.items())


def read_run(path: Path, questions: Sequence[Question]) -> Run:
    """A run of these questions.

    Raises:
        EvaluationError: It is no run, or one of other questions.
    """
    trec = path.suffix in _TREC_SUFFIXES
    run = _read_trec(path) if trec else _read_jsonl(path)
    asked = [question.question_id for question in questions]
    unknown = sorted(set(run) - set(asked))
    complete = bool(run) and trec  # TREC has no line for an empty answer
    missing = [] if complete else [name for name in asked if name not in run]
    if unknown or missing:
        told = [
            f"{len(ids)} {what} ({_some(ids)})" for ids, what in ((unknown, "unknown"), (missing, "missing")) if ids
        ]
        raise EvaluationError(
            f"{str(path)!r} answers other questions than these {len(asked)}: {', '.join(told)}. "
            "Compare with a run of the same set"
        )
    return {name: run.get(name, Ranked(())) for name in asked}


def _some(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:_IDS_SHOWN])) + (", …" if len(ids) > _IDS_SHOWN else "")


def _json_line(question_id: str, ranked: Ranked) -> str:
    entry = {
        "qid": question_id,
        "results": [{"id": rule_id, "score": score} for rule_id, score in ranked.results],
        "latency_ms": ranked.latency_ms,
        "confidence": ranked.confidence,
    }
    return json.dumps(entry) + "\n"


def _trec(run: Run, path: Path) -> str:
    lines = []
    for question_id, ranked in run.items():
        for place, (rule_id, score) in enumerate(ranked.results, 1):
            for name in (question_id, rule_id):
                if name.split() != [name]:
                    problem = f"the id {name!r} holds a blank, which separates the columns of {str(path)!r}"
                    raise EvaluationError(f"{problem}: give a name that ends in .jsonl")
            lines.append(f"{question_id} Q0 {rule_id} {place} {score!r} {_TAG}\n")
    return "".join(lines)


def _read_jsonl(path: Path) -> dict[str, Ranked]:
    run: dict[str, Ranked] = {}
    problems: list[str] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            results = [(str(result["id"]), float(result["score"])) for result in entry["results"]]
            question_id = str(entry["qid"])
            ranked = Ranked(without_repeats(results), _number(entry, "latency_ms"), _number(entry, "confidence"))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            problems.append(f'{path}:{number}: expected {{"qid": …, "results": [{{"id": …, "score": …}}]}}')
            continue
        if question_id in run:
            problems.append(f"{path}:{number}: the question {question_id!r} is answered twice")
        run[question_id] = ranked
    refuse(problems)
    return run


def _number(entry: Mapping[str, object], key: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    number = float(str(value))
    if not math.isfinite(number):
        raise ValueError(key)
    return number


def _read_trec(path: Path) -> dict[str, Ranked]:
    lines: dict[str, list[tuple[int, str, float]]] = {}
    problems: list[str] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        columns = line.split()
        if not columns:
            continue
        try:
            question_id, _, rule_id, place, score, _ = columns
            lines.setdefault(question_id, []).append((int(place), rule_id, float(score)))
        except ValueError:
            problems.append(f"{path}:{number}: expected {_TREC_COLUMNS} columns: question, Q0, rule, rank, score, tag")
    refuse(problems)
    return {
        question_id: Ranked(without_repeats((rule_id, score) for _, rule_id, score in sorted(found)))
        for question_id, found in lines.items()
    }
