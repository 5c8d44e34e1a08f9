"""A labelled set in BEIR layout: corpus.jsonl, queries.jsonl and qrels.tsv, read strictly.

Source of the layout: https://github.com/beir-cellar/beir/wiki/Load-your-custom-dataset
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symmetra_mcp.errors import EvaluationError
from symmetra_mcp.evaluation.questions import Question, question_problem, read_text, refuse
from symmetra_mcp.ingest.decode import clean
from symmetra_mcp.ingest.native import MAX_RULE_ID

_QRELS_COLUMNS = 3


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Rules, and questions about them.

    Attributes:
        rules: In our own form, as a line of JSONL each, by rule id.
        left_out: Queries with neither a judgment nor a kind: those of another split.
    """

    rules: Mapping[str, str]
    questions: tuple[Question, ...]
    left_out: int


def read_labelled_set(corpus: Path, queries: Path, qrels: Path, *, filter_tech_stack: bool = False) -> LabelledSet:
    """Read the three files.

    A query without a relevant rule in `qrels` is one that no rule answers where its metadata names a kind. Plain sets
    name none and hold queries of other splits, which are left out.

    Args:
        corpus: `_id`, `title`, `text`, and perhaps `metadata` with a rule's own fields.
        queries: `_id`, `text`, and perhaps `metadata` with `kind` and `tech_stack`.
        qrels: Query, rule and grade, separated by tabs, with or without a header.
        filter_tech_stack: Limit each query to rules of its tech stack.

    Raises:
        EvaluationError: A file is empty or can't be read, or lines of it; the message names them.
    """
    problems: list[str] = []
    rules = _rules(corpus, problems)
    asked = _queries(queries, problems)
    refuse(problems)
    grades = _grades(qrels, set(asked), set(rules))
    questions: list[Question] = []
    for query_id, (place, entry) in asked.items():
        metadata = _metadata(entry)
        kind = str(metadata.get("kind") or "")
        if kind or query_id in grades:
            stacks = _texts(metadata.get("tech_stack")) if filter_tech_stack else ()
            relevant = grades.get(query_id, {})
            questions.append(Question(query_id, entry["text"], relevant, kind=kind, tech_stacks=stacks, place=place))
    return LabelledSet(rules, tuple(questions), len(asked) - len(questions))


def _rules(path: Path, problems: list[str]) -> dict[str, str]:
    rules: dict[str, str] = {}
    for place, entry in _entries(path, problems):
        rule_id = entry["_id"]
        metadata = _metadata(entry)
        title, text = str(entry.get("title") or ""), str(entry.get("text") or "")
        guidance = str(metadata.get("guidance") or "")
        rationale = str(metadata.get("rationale") or "") if guidance else ""
        guidance = guidance or text or title
        if rule_id in rules:
            problems.append(f"{place}: `_id` {rule_id!r} stands twice")
        elif len(rule_id) > MAX_RULE_ID or clean(rule_id) != rule_id or not rule_id.isprintable():
            problems.append(f"{place}: `_id` must be up to {MAX_RULE_ID} characters, none of them hidden")
        elif not clean(guidance).strip():
            problems.append(f"{place}: neither `title` nor `text`")
        rule = {
            "rule_id": rule_id,
            "title": title,
            "guidance": guidance,
            "rationale": rationale,
            "category": str(metadata.get("category") or ""),
            "keywords": _texts(metadata.get("tags")),
            "tech_stacks": _texts(metadata.get("tech_stack")),
        }
        rules[rule_id] = json.dumps(rule)
    return rules


def _queries(path: Path, problems: list[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    queries: dict[str, tuple[str, dict[str, Any]]] = {}
    for place, entry in _entries(path, problems):
        if entry["_id"] in queries:
            problems.append(f"{place}: `_id` {entry['_id']!r} stands twice")
        if problem := question_problem(entry.get("text")):
            problems.append(f"{place}: {problem}")
        queries[entry["_id"]] = place, entry
    return queries


def _grades(path: Path, query_ids: set[str], rule_ids: set[str]) -> dict[str, dict[str, int]]:
    """The relevant rules of each query: a grade of 0 or less is a judgment that a rule is not."""
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    problems: list[str] = []
    judgments = 0
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        columns = [column.strip() for column in (line.split("\t") if "\t" in line else line.split())]
        is_grade = len(columns) == _QRELS_COLUMNS and columns[2].removeprefix("-").isdecimal()
        if number == 1 and not is_grade and len(columns) == _QRELS_COLUMNS:
            continue  # the header
        judgments += 1
        if not is_grade:
            problems.append(f"{path}:{number}: expected query id, corpus id and a whole number, separated by tabs")
            continue
        query_id, rule_id, grade = columns[0], columns[1], int(columns[2])
        if query_id not in query_ids:
            problems.append(f"{path}:{number}: no query {query_id!r} in the queries")
        elif rule_id not in rule_ids:
            problems.append(f"{path}:{number}: no rule {rule_id!r} in the corpus")
        elif grades.get(query_id, {}).get(rule_id, grade) != grade:
            problems.append(f"{path}:{number}: {query_id!r} and {rule_id!r} are judged twice, and otherwise")
        elif grade > 0:
            grades[query_id][rule_id] = grade
    refuse(problems)
    if not judgments:
        raise EvaluationError(f"{str(path)!r} holds no judgments")
    return dict(grades)


def _entries(path: Path, problems: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place and object, its `_id` as text."""
    lines = [(number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    if not lines:
        raise EvaluationError(f"{str(path)!r} is empty")
    for number, line in lines:
        place = f"{path}:{number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as exc:
            problems.append(f"{place}: not JSON: {getattr(exc, 'msg', None) or exc}")
            continue
        written = entry.get("_id") if isinstance(entry, dict) else None
        if not isinstance(written, (str, int)) or isinstance(written, bool) or not str(written).strip():
            problems.append(f"{place}: expected an object with `_id`")
        elif not isinstance(entry.get("metadata") or {}, dict):
            problems.append(f"{place}: `metadata` must be an object")
        else:
            yield place, {**entry, "_id": str(written).strip()}


def _metadata(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return entry.get("metadata") or {}


def _texts(value: object) -> tuple[str, ...]:
    """Names given as one, as a list, or not at all."""
    names = value if isinstance(value, list) else [value]
    return tuple(str(name).strip() for name in names if name is not None and str(name).strip())
