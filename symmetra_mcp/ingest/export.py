"""Rules to files in our own form, from which `native.py` reads the same rules again."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Literal

import yaml

from symmetra_mcp.types import Rule, Scope, Source

RuleFormat = Literal["yaml", "json", "jsonl", "md"]
FORMATS: tuple[RuleFormat, ...] = ("yaml", "json", "jsonl", "md")

_UNSEEN = re.compile("[\x7f-\x9f\u00ad\u034f\u061c\u2028\u2029\ufeff\U000e0000-\U000e0fff]")
_BLOCK_SAFE = re.compile(r"^[^\s][^\x00-\x09\x0b-\x1f\x7f-\xa0\u2028\u2029\ufeff]*[^\s]\Z")
_BODY_UNSAFE = re.compile(
    r"^---[ \t]*$|^##[ \t]+Rationale[ \t]*$|<!--|[\x00-\x09\x0b-\x1f\x7f-\xa0\u2028\u2029\ufeff]", re.M | re.I
)
_HEADING = re.compile(r"^#{1,2}[ \t]", re.MULTILINE)


class _Dumper(yaml.SafeDumper):
    """Text of several lines as a block, so that people can read and edit it."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    lines = text.split("\n")
    block = len(lines) > 1 and _BLOCK_SAFE.match(text) and not any(line != line.rstrip() for line in lines)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if block else None)


_Dumper.add_representer(str, _represent_text)


def dump_rules(rules: Sequence[Rule], format: RuleFormat) -> str:
    """`rules` as the text of a file.

    Everything survives reading it again, except the paths and lines of `sources`: those then are the new file's. Where
    a rule came from is kept under `source` for people.
    """
    entries = [_entry(rule) for rule in rules]
    if format == "yaml":
        return _yaml({"rules": entries}) if entries else "rules: []\n"
    if format == "json":
        return _json({"rules": entries}, indent=2) + "\n"
    if format == "jsonl":
        return "".join(_json(entry) + "\n" for entry in entries)
    return "\n".join(_markdown(entry) for entry in entries)


def _entry(rule: Rule) -> dict[str, object]:
    shared = len(rule.scopes) == 1
    entry: dict[str, object] = {
        "rule_id": rule.rule_id,
        "title": rule.title,
        "category": rule.category,
        "priority": rule.priority,
        "tech_stacks": list(rule.tech_stacks),
        "contexts": list(rule.contexts),
        "keywords": list(rule.keywords),
        "scope": _scope(rule.scopes[0]) if shared else None,
        "guidance": rule.guidance,
        "rationale": rule.rationale,
        "source": [_source(source, with_scope=not shared) for source in rule.sources],
    }
    return {key: value for key, value in entry.items() if value}


def _scope(scope: Scope) -> dict[str, object]:
    written: dict[str, object] = {"mode": scope.mode} if scope != Scope() else {}
    if scope.globs:
        written["globs"] = list(scope.globs)
    if scope.raw:
        written["raw"] = scope.raw
    if scope.always:
        written["always"] = True
    return written


def _source(source: Source, *, with_scope: bool) -> dict[str, object]:
    written: dict[str, object] = {"path": source.path, "format": source.format}
    if source.line_start:
        written["lines"] = f"{source.line_start}-{source.line_end}"
    if source.heading_path:
        written["headings"] = list(source.heading_path)
    if with_scope:
        written["scope"] = _scope(source.scope) or {"mode": "everywhere"}
    return written


def _json(value: object, indent: int | None = None) -> str:
    """JSON with readable letters; characters that nobody sees are escaped, or reading the file would drop them."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], text)


def _yaml(value: object) -> str:
    return str(yaml.dump(value, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=110))


def _markdown(entry: dict[str, object]) -> str:
    """Frontmatter and a body; text that would be read as something else in a body goes into the frontmatter."""
    head = dict(entry)
    guidance, rationale = str(entry.get("guidance", "")), str(entry.get("rationale", ""))
    body = ""
    if _fits_body(guidance):
        del head["guidance"]
        body = guidance
        if rationale and _fits_body(rationale) and not _HEADING.search(rationale):
            del head["rationale"]
            body += f"\n\n## Rationale\n\n{rationale}"
    return f"---\n{_yaml(head)}---\n\n{body}\n" if body else f"---\n{_yaml(head)}---\n"


def _fits_body(text: str) -> bool:
    return bool(text) and text == text.strip() and not _BODY_UNSAFE.search(text)
