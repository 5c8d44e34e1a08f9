"""Our own form of rule files: YAML, JSON, JSONL, or a Markdown file with frontmatter for each rule.

An entry that can't be used is reported with its place, and the others are read. `export.py` writes this form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import cast

import yaml

from symmetra_mcp.errors import RuleFileError
from symmetra_mcp.ingest.blocks import drop_comments
from symmetra_mcp.ingest.classify import title_of
from symmetra_mcp.ingest.decode import Decoded, clean
from symmetra_mcp.ingest.frontmatter import Frontmatter, read_frontmatter
from symmetra_mcp.ingest.globs import normalize_globs, parse_globs
from symmetra_mcp.ingest.identity import assign_ids
from symmetra_mcp.ingest.model import Flag, ParsedFile, Statement
from symmetra_mcp.ingest.textyaml import TextLoader, compose_text_yaml, load_text_yaml
from symmetra_mcp.types import PRIORITIES, Priority, Rule, Scope, ScopeMode, Source

DATA_SUFFIXES = (".yaml", ".yml", ".json", ".jsonl")
MAX_RULE_ID = 200

_ALIASES = {
    "id": "rule_id",
    "name": "title",
    "tags": "keywords",
    "tech_stack": "tech_stacks",
    "context": "contexts",
    "why": "rationale",
    "sources": "source",
}
_FIELDS_WORDS = """
rule_id title guidance rationale category priority tech_stacks contexts keywords globs scope always source
"""
_FIELDS = frozenset(_FIELDS_WORDS.split())
_IGNORED_WORDS = """
project_id description embedding similarity created_at updated_at version alwaysapply
"""
_IGNORED = frozenset(_IGNORED_WORDS.split())
"""Written by exports of ours and of the older system; an import decides them itself."""
_NATIVE_KEYS_WORDS = """
rule_id id title guidance category priority rationale
"""
_NATIVE_KEYS = frozenset(_NATIVE_KEYS_WORDS.split())
_NEXT_DOCUMENT = re.compile(r"^---[ \t]*\n(?=(?:rule_id|id)[ \t]*:)", re.MULTILINE)
_RATIONALE = re.compile(r"^##[ \t]+Rationale[ \t]*$", re.MULTILINE | re.IGNORECASE)

Entry = tuple[Mapping[str, object], int, int]
"""A rule as written, its first line and its last."""


class _BadEntryError(ValueError):
    """An entry that can't become a rule; the message says why."""


def is_native(path: str, front: Frontmatter) -> bool:
    """Whether a file is in our own form: data files are, and Markdown whose frontmatter names a rule's fields."""
    if path.endswith(DATA_SUFFIXES):
        return True
    keys = {key.lower() for key in front.values}
    below = "/.symmetra/rules/" in f"/{path}"
    return bool(keys & {"rule_id", "guidance"}) or (below and bool(keys & _NATIVE_KEYS))


def parse_native(path: str, decoded: Decoded, flags: tuple[Flag, ...] = ()) -> ParsedFile:
    """The rules of a file in our own form.

    Raises:
        RuleFileError: Nothing of it can be read.
    """
    statements: list[Statement] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    for number, (entry, start, end) in enumerate(_entries(path, decoded.text), 1):
        place = f"{path}:{start}" if start else f"{path}, entry {number}"
        try:
            statement = _statement(entry, path, start, end)
            if statement.rule_id and seen.setdefault(statement.rule_id, number) != number:
                raise _BadEntryError(f"rule_id {statement.rule_id!r} is given twice in this file")
            statements.append(statement)
        except _BadEntryError as exc:
            problems.append(f"{place}: {exc}; the entry is left out")
            continue
        unknown = sorted(set(entry) - _FIELDS - _IGNORED)
        if unknown:
            problems.append(f"{place}: unknown key {unknown[0]!r} is ignored")
    return ParsedFile(
        path,
        "native",
        tuple(statements),
        warnings=(*decoded.warnings, *problems),
        flags=flags,
        complete=not any("left out" in problem for problem in problems),
        note="" if statements else "it holds no rules",
    )


def read_rules(text: str, format: str, *, project_id: str, path: str = "") -> list[Rule]:
    """Rules that `dump_rules` wrote.

    Args:
        text: What `dump_rules` wrote, or a person in the same form.
        format: `yaml`, `json`, `jsonl` or `md`.
        project_id: The project that the rules are for, whichever they were exported from.
        path: The file's name, for messages and sources.

    Raises:
        RuleFileError: An entry can't be used.
    """
    parsed = parse_native(path or f"rules.{format}", Decoded(text))
    if not parsed.complete:
        raise RuleFileError(parsed.warnings[0])
    ids = assign_ids(parsed.statements, project_id)
    return [rule_of(statement, project_id, rule_id) for statement, rule_id in zip(parsed.statements, ids, strict=True)]


def rule_of(statement: Statement, project_id: str, rule_id: str) -> Rule:
    """A statement that has an identity."""
    return Rule(
        project_id=project_id,
        rule_id=rule_id,
        title=statement.title,
        guidance=statement.guidance,
        rationale=statement.rationale,
        category=statement.category,
        priority=statement.priority,
        tech_stacks=statement.tech_stacks,
        contexts=statement.contexts,
        keywords=statement.keywords,
        sources=statement.sources,
    )


def _entries(path: str, text: str) -> Iterator[Entry]:
    suffix = path.rsplit(".", 1)[-1].lower()
    if not text.strip():
        return iter(())
    if suffix == "jsonl":
        return _jsonl_entries(text)
    if suffix == "json":
        return _json_entries(text)
    if suffix in ("yaml", "yml"):
        return _yaml_entries(text)
    return _markdown_entries(text)


def _as_list(loaded: object) -> list[object]:
    if isinstance(loaded, dict) and isinstance(loaded.get("rules"), list):
        return cast("list[object]", loaded["rules"])
    return loaded if isinstance(loaded, list) else [loaded]


def _entry(loaded: object, start: int = 0, end: int = 0) -> Entry:
    if not isinstance(loaded, dict):
        return {"unreadable": "not a mapping of a rule's fields"}, start, end
    entry: dict[str, object] = {}
    for key, value in loaded.items():
        name = str(key).strip().lower()
        entry.setdefault(_ALIASES.get(name, name), value)
    if not entry.get("guidance") and _written(entry.get("description")):
        entry["guidance"] = entry.get("description")
    return entry, start, end


def _written(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _yaml_entries(text: str) -> Iterator[Entry]:
    try:
        root, loader = compose_text_yaml(text)
        nodes = _rule_nodes(root)
        loaded = [_construct(loader, node) for node in nodes]
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as exc:
        raise RuleFileError(f"not YAML: {_yaml_problem(exc)}") from exc
    for node, value in zip(nodes, loaded, strict=True):
        block = isinstance(node, yaml.CollectionNode) and not node.flow_style
        last = node.end_mark.line + (not block)  # a block ends where the next token begins
        yield _entry(value, node.start_mark.line + 1, max(node.start_mark.line + 1, last))


def _yaml_problem(exc: Exception) -> str:
    """What is wrong, in plain words."""
    if isinstance(exc, RecursionError):
        return "nested too deeply"
    if not isinstance(exc, yaml.YAMLError):
        return "a key or a value has a form that can't be read"
    mark = getattr(exc, "problem_mark", None)
    problem = getattr(exc, "problem", None) or str(exc).partition("\n")[0] or "it can't be read"
    return f"{problem} in line {mark.line + 1}" if mark else str(problem)


def _construct(loader: TextLoader, node: yaml.Node) -> object:
    return loader.construct_document(node)


def _rule_nodes(root: yaml.Node | None) -> list[yaml.Node]:
    if root is None:
        return []
    if isinstance(root, yaml.MappingNode):
        for key, value in root.value:
            if key.value == "rules" and isinstance(value, yaml.SequenceNode):
                return list(value.value)
        return [root]
    return list(root.value) if isinstance(root, yaml.SequenceNode) else [root]


def _json_entries(text: str) -> Iterator[Entry]:
    try:
        loaded = json.loads(text)
    except json.JSONDecodeError as exc:
        raise RuleFileError(f"not JSON: {exc.msg} in line {exc.lineno}") from exc
    except RecursionError as exc:
        raise RuleFileError("not JSON: nested too deeply") from exc
    except ValueError as exc:  # more digits than Python turns into a number
        raise RuleFileError("not JSON: a number is too long") from exc
    rules = _as_list(loaded)
    lines = _json_lines(text, len(rules))
    for value, (start, end) in zip(rules, lines, strict=True):
        yield _entry(value, start, end)


def _json_lines(text: str, count: int) -> list[tuple[int, int]]:
    """The lines of each element of the list of rules, or zeros where the text is no such list."""
    opening = re.match(r'\s*\[|\s*\{(?:[^\[{]*?,)?\s*"rules"\s*:\s*\[', text)
    places: list[tuple[int, int]] = []
    if not opening and count == 1:
        return [(1, text.rstrip().count("\n") + 1)]
    if opening:
        decoder, at, line = json.JSONDecoder(), opening.end(), text.count("\n", 0, opening.end()) + 1
        while len(places) < count:
            begin = at + len(text[at : at + 100_000]) - len(text[at : at + 100_000].lstrip(" \t\n\r,"))
            line += text.count("\n", at, begin)
            try:
                _, at = decoder.raw_decode(text, begin)
            except (ValueError, RecursionError):
                break
            last = line + text.count("\n", begin, at)
            places.append((line, last))
            line = last
    return places if len(places) == count else [(0, 0)] * count


def _jsonl_entries(text: str) -> Iterator[Entry]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield _entry(json.loads(line), number, number)
        except (ValueError, RecursionError):
            yield {"unreadable": "not JSON"}, number, number


def _markdown_entries(text: str) -> Iterator[Entry]:
    starts = [found.start() for found in _NEXT_DOCUMENT.finditer(text)]
    first = 0 if not starts or text[: starts[0]].strip() else starts[0]
    bounds = sorted({first, *starts, len(text)})
    line = text.count("\n", 0, first) + 1
    for start, end in pairwise(bounds):
        document = text[start:end]
        yield _entry(_markdown_entry(document), line, line + document.rstrip("\n").count("\n"))
        line += document.count("\n")


def _markdown_entry(document: str) -> Mapping[str, object]:
    lines = document.split("\n")
    front = read_frontmatter(lines)
    try:
        loaded = load_text_yaml(front.raw + "\n")
    except yaml.YAMLError:
        loaded = None
    values: dict[str, object] = (
        {str(key): value for key, value in (loaded or front.values).items()}
        if (isinstance(loaded, dict) or loaded is None)
        else dict(front.values)
    )
    body = "\n".join(drop_comments(lines)[front.body_start :]).strip("\n")
    found = _RATIONALE.search(body)
    if found:
        after = body[found.end() :]
        following = re.search(r"^#{1,2}[ \t]", after, re.MULTILINE)
        reason = after[: following.start()] if following else after
        values.setdefault("rationale", reason.strip("\n"))
        body = body[: found.start()].rstrip("\n") + ("\n\n" + after[following.start() :] if following else "")
    if body.strip():
        values.setdefault("guidance", body.strip("\n"))
    return values


def _statement(entry: Mapping[str, object], path: str, start: int, end: int) -> Statement:
    if "unreadable" in entry:
        raise _BadEntryError(str(entry["unreadable"]))
    guidance = _text(entry, "guidance")
    if not guidance.strip():
        raise _BadEntryError("no guidance")
    return Statement(
        title=_line(entry, "title") or title_of(guidance, ()),
        guidance=guidance,
        sources=_sources(entry, path, start, end),
        rationale=_text(entry, "rationale"),
        category=_line(entry, "category"),
        priority=_priority(entry),
        tech_stacks=tuple(stack.lower() for stack in _names(entry, "tech_stacks")),
        contexts=_names(entry, "contexts"),
        keywords=_names(entry, "keywords"),
        rule_id=_rule_id(entry),
    )


def _text(entry: Mapping[str, object], key: str) -> str:
    value = entry.get(key)
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        raise _BadEntryError(f"{key!r} must be text")
    return clean(str(value))


def _line(entry: Mapping[str, object], key: str) -> str:
    """Text that is shown inside a line, whatever line breaks it was written with."""
    return " ".join(_text(entry, key).split())


def _names(entry: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = entry.get(key)
    if value is None:
        return ()
    if isinstance(value, list):
        if any(isinstance(item, (dict, list)) for item in value):
            raise _BadEntryError(f"{key!r} must be a list of names")
        return tuple(clean(str(item)) for item in value if item not in (None, ""))
    if isinstance(value, dict):
        raise _BadEntryError(f"{key!r} must be a list of names")
    return tuple(part.strip() for part in clean(str(value)).split(",") if part.strip())


def _priority(entry: Mapping[str, object]) -> Priority:
    word = _text(entry, "priority").strip().lower() or "medium"
    if word not in PRIORITIES:
        raise _BadEntryError(f"priority {word[:40]!r} is none of {', '.join(PRIORITIES)}")
    return word


def _rule_id(entry: Mapping[str, object]) -> str:
    value = entry.get("rule_id")
    if value is None:
        return ""
    rule_id = str(value).strip()
    if isinstance(value, (dict, list)) or clean(rule_id) != rule_id or re.search(r"[\x00-\x1f\x7f]", rule_id):
        raise _BadEntryError("rule_id must be text without control or hidden characters")
    if len(rule_id) > MAX_RULE_ID:
        raise _BadEntryError(f"rule_id is longer than {MAX_RULE_ID} characters")
    return rule_id


def _sources(entry: Mapping[str, object], path: str, start: int, end: int) -> tuple[Source, ...]:
    scope = _scope(entry)
    written = entry.get("source")
    items = written if isinstance(written, list) else [written]
    known = [item for item in items if isinstance(item, dict)]
    if not known:
        return (Source(path, start, end, "native", (), scope),)
    return tuple(_source(item, path, start, end, scope) for item in known)


def _source(item: Mapping[str, object], path: str, start: int, end: int, scope: Scope) -> Source:
    written = item.get("scope")
    own = _exact_scope(written) if isinstance(written, dict) else scope
    return Source(path, start, end, _text(item, "format") or "native", _strings(item.get("headings")), own)


def _scope(entry: Mapping[str, object]) -> Scope:
    written = entry.get("scope")
    if isinstance(written, dict):
        return _exact_scope(written)
    patterns = parse_globs(entry.get("globs")) or parse_globs(written)
    always = str(entry.get("always") or entry.get("alwaysapply") or "").lower() in ("true", "yes", "on", "1")
    globs = () if always else normalize_globs(patterns)
    return Scope("files" if globs else "everywhere", globs, clean(", ".join(patterns)), always)


def _exact_scope(written: Mapping[str, object]) -> Scope:
    """A scope as `dump_rules` writes it; nothing is interpreted, so that it comes back as it was."""
    globs = _strings(written.get("globs"))
    mode = str(written.get("mode") or ("files" if globs else "everywhere"))
    if mode not in ("everywhere", "files", "on_request", "manual"):
        raise _BadEntryError(f"scope mode {mode[:40]!r} is none of everywhere, files, on_request, manual")
    always = str(written.get("always") or "").lower() == "true"
    return Scope(cast("ScopeMode", mode), globs, _text(written, "raw"), always)


def _strings(value: object) -> tuple[str, ...]:
    items: Sequence[object] = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(item, (dict, list)) for item in items):
        raise _BadEntryError("a list of text was expected")
    return tuple(clean(str(item)) for item in items)
