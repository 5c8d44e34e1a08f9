"""Questions and the rules that answer them, and a YAML file in which a team writes its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import TypeGuard

import yaml

from symmetra_mcp.errors import EvaluationError
from symmetra_mcp.ingest.textyaml import TextLoader, compose_text_yaml
from symmetra_mcp.search import MAX_QUERY_CHARACTERS

NOTHING = "none"
"""What `expect` says where no rule should apply."""
_KEYS = ("question", "expect", "file", "category", "tech_stack", "kind")
_ID_CHARACTERS = 12
_PROBLEMS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Question:
    """A question and what should answer it.

    Attributes:
        question_id: Names it in run files.
        grades: How relevant each rule is that answers it, above 0, by rule id; empty where no rule should apply.
        kind: Questions of one kind are counted together; may be empty.
        place: Where it is written, as `path:line`.
    """

    question_id: str
    text: str
    grades: Mapping[str, int] = field(default_factory=dict[str, int])
    kind: str = ""
    tech_stacks: tuple[str, ...] = ()
    file_path: str = ""
    category: str = ""
    place: str = ""

    @property
    def answerable(self) -> bool:
        """Whether any rule answers it."""
        return bool(self.grades)


def read_text(path: Path) -> str:
    """A file as text.

    Raises:
        EvaluationError: It can't be read, or is not UTF-8.
    """
    try:
        return path.read_text("utf-8-sig")
    except OSError as exc:
        raise EvaluationError(f"{str(path)!r} can't be read: {exc.strerror or exc}") from None
    except UnicodeDecodeError:
        raise EvaluationError(f"{str(path)!r} is not UTF-8 text: save it as UTF-8") from None


def question_problem(text: object) -> str:
    """What keeps a text from being asked, or empty."""
    if not isinstance(text, str) or not text.strip():
        return "the question has no text"
    if len(text) > MAX_QUERY_CHARACTERS:
        return f"the question has {len(text):,} characters, at most {MAX_QUERY_CHARACTERS:,} are read"
    return ""


def refuse(problems: Sequence[str]) -> None:
    """Refuse what has problems, naming each by its place.

    Raises:
        EvaluationError: There is at least one.
    """
    if problems:
        more = len(problems) - _PROBLEMS_SHOWN
        rest = [f"and {more} more"] if more > 0 else []
        raise EvaluationError("\n".join(["nothing was evaluated:", *problems[:_PROBLEMS_SHOWN], *rest]))


def read_questions(path: Path) -> list[Question]:
    """A team's questions: a YAML list of `question`, `expect`, and what a search can be given beside them.

    Raises:
        EvaluationError: It holds no questions, or some that can't be asked; the message names every place.
    """
    try:
        root, loader = compose_text_yaml(read_text(path))
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise EvaluationError(f"{where}: not YAML: {getattr(exc, 'problem', None) or exc}") from None
    if not isinstance(root, yaml.SequenceNode) or not root.value:
        raise EvaluationError(f"{path}: expected a list of questions, each with `question` and `expect`")
    questions: dict[str, Question] = {}
    problems: list[str] = []
    for node in root.value:
        place = f"{path}:{node.start_mark.line + 1}"
        try:
            question = _question(_fields(node, loader), place)
            if question.question_id in questions:
                raise EvaluationError(f"the question stands at {questions[question.question_id].place} already")
            questions[question.question_id] = question
        except EvaluationError as exc:
            problems.append(f"{place}: {exc}")
    refuse(problems)
    return list(questions.values())


def refuse_unknown_names(questions: Sequence[Question], rule_ids: Iterable[str], categories: Iterable[str]) -> None:
    """Refuse questions that expect a rule there is not, or ask in a category without rules.

    Raises:
        EvaluationError: Some do; the message names every place, and the names that come nearest.
    """
    ids, names = set(rule_ids), {category for category in categories if category}
    folded = set(map(str.casefold, names))
    problems = []
    for question in questions:
        unknown = [rule_id for rule_id in question.grades if rule_id not in ids]
        problems += [f"{question.place}: no rule {rule_id!r}{_nearest(rule_id, ids)}" for rule_id in unknown]
        if question.category and question.category.casefold() not in folded:
            nearest = _nearest(question.category, names)
            problems.append(f"{question.place}: no rule has the category {question.category!r}{nearest}")
    refuse(problems)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, sorted(known), 1, cutoff=0.0)
    return f"; the nearest name is {close[0]!r}" if close else ": there is none yet"


def _fields(node: yaml.Node, loader: TextLoader) -> Mapping[str, object]:
    if not isinstance(node, yaml.MappingNode):
        raise EvaluationError("expected `question` and `expect`")
    try:
        values = loader.construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        raise EvaluationError("a key or a value has a form that can't be read") from None
    unknown = [str(key) for key in values if key not in _KEYS]
    if unknown:
        raise EvaluationError(f"unknown key {unknown[0]!r}; there are: {', '.join(_KEYS)}")
    return {str(key): value for key, value in values.items()}


def _question(fields: Mapping[str, object], place: str) -> Question:
    text = fields.get("question")
    if problem := question_problem(text):
        raise EvaluationError(problem)
    file_path, category, kind = (_line(fields, key) for key in ("file", "category", "kind"))
    tech_stacks = tuple(name.lower() for name in _names(fields, "tech_stack"))
    asked = "\0".join((str(text), file_path, category, *tech_stacks))
    return Question(
        question_id=sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:_ID_CHARACTERS],
        text=str(text),
        grades=dict.fromkeys(_expected(fields), 1),
        kind=kind,
        tech_stacks=tech_stacks,
        file_path=file_path,
        category=category,
        place=place,
    )


def _expected(fields: Mapping[str, object]) -> tuple[str, ...]:
    if fields.get("expect") is None:
        raise EvaluationError(f"`expect` is missing: a list of rule ids, or `{NOTHING}` where no rule should apply")
    return () if fields["expect"] == NOTHING else _names(fields, "expect")


def _line(fields: Mapping[str, object], key: str) -> str:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise EvaluationError(f"`{key}` must be text")
    return (value or "").strip()


def _names(fields: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = fields.get(key)
    names = [value] if isinstance(value, str) else value
    if names is None:
        return ()
    if not _are_names(names):
        raise EvaluationError(f"`{key}` must be a name or a list of names")
    return tuple(dict.fromkeys(name.strip() for name in names))


def _are_names(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value)
