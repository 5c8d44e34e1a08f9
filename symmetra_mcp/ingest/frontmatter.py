"""A lenient reader of frontmatter.

Three files in five that carry frontmatter write `globs: **/*` without quotes, as Cursor itself does, and YAML reads
`*` as an alias and fails. So: YAML first, then YAML with the values quoted line by line, then plain `key: value`
lines. Whatever happens, the file's body is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import yaml

from symmetra_mcp.ingest.textyaml import load_text_yaml

_FENCE = re.compile(r"^---[ \t]*$")
_CLOSE = re.compile(r"^(?:---|\.\.\.)[ \t]*$")
_KEY_LINE = re.compile(r"^([A-Za-z_][\w.-]{0,60})[ \t]*:(?:[ \t]+(.*))?$")
_ITEM_LINE = re.compile(r"^([ \t]*-[ \t]+)(.+)$")
_UNQUOTED = frozenset({"null", "~", "|", ">", "|-", ">-", "|+", ">+"})
_TRUE = frozenset({"true", "yes", "on", "1"})


@dataclass(frozen=True, slots=True)
class Frontmatter:
    """The head of a rule file.

    Attributes:
        values: Scalars as the file writes them, never converted, and lists of them; keys as written.
        raw: The text between the `---` lines.
        body_start: Index of the body's first line.
        warnings: What could not be understood.
    """

    values: Mapping[str, object] = field(default_factory=dict[str, object])
    raw: str = ""
    body_start: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def present(self) -> bool:
        """Whether the file has any, even an empty one."""
        return self.body_start > 0

    def text(self, key: str) -> str:
        """The value of `key` as one string, or empty; keys compare without regard to case."""
        value = self.get(key)
        return value.strip() if isinstance(value, str) else ""

    def get(self, key: str) -> object:
        """The value of `key`, or `None`."""
        if key in self.values:
            return self.values[key]
        return next((value for name, value in self.values.items() if name.lower() == key.lower()), None)

    def is_true(self, key: str) -> bool:
        """Whether `key` is switched on."""
        return self.text(key).lower() in _TRUE

    def raw_value(self, key: str) -> str:
        """What the file wrote for `key`, continued lines joined, for people."""
        lines = self.raw.split("\n")
        for number, line in enumerate(lines):
            found = _KEY_LINE.match(line)
            if found and found[1].lower() == key.lower():
                rest = [found[2] or ""]
                for more in lines[number + 1 :]:
                    if not more[:1].isspace() and not more.startswith("-"):
                        break
                    rest.append(more.strip())
                return " ".join(part for part in rest if part).strip()
        return ""


def read_frontmatter(lines: list[str]) -> Frontmatter:
    """Read the frontmatter that `lines` begin with, blank lines before it allowed."""
    first = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    if first >= len(lines) or not _FENCE.match(lines[first]):
        return Frontmatter()
    end = next((number for number in range(first + 1, len(lines)) if _CLOSE.match(lines[number])), -1)
    if end < 0 or not _looks_like_keys(lines[first + 1 : end]) or _holds_body(lines[first + 1 : end]):
        end = _end_of_unclosed(lines, first + 1)
        if end == first + 1:  # a rule across the page rather than frontmatter
            return Frontmatter()
        return _read(lines[first + 1 : end], end)
    return _read(lines[first + 1 : end], end + 1)


def _looks_like_keys(head: list[str]) -> bool:
    written = [line for line in head if line.strip() and not line.lstrip().startswith("#")]
    return not written or bool(_KEY_LINE.match(written[0]))


def _holds_body(head: list[str]) -> bool:
    """Whether the closing line is really a rule across the page, far below frontmatter that was never closed."""
    headings = (line.startswith("#") and not previous.strip() for previous, line in pairwise(head))
    return any(headings) or any(line.startswith("##") for line in head)


def _end_of_unclosed(lines: list[str], start: int) -> int:
    """Where frontmatter without a closing line ends: at the first line that is neither a key nor part of its value."""
    number = start
    while number < len(lines) and (_KEY_LINE.match(lines[number]) or _ITEM_LINE.match(lines[number])):
        number += 1
    return number


def _read(head: list[str], body_start: int) -> Frontmatter:
    raw = "\n".join(head)
    values, lost = _values(raw, head)
    warnings = [f"frontmatter: {lost} line(s) could not be understood and were ignored"] if lost else []
    warnings += [f"frontmatter: {key!r} is given more than once; the last counts" for key in _repeated(head)]
    return Frontmatter(values, raw, body_start, tuple(warnings))


def _values(raw: str, head: list[str]) -> tuple[dict[str, object], int]:
    for attempt in (raw, "\n".join(_quoted(line) for line in head)):
        try:
            loaded = load_text_yaml(attempt)
        except yaml.YAMLError:
            continue
        if loaded is None:
            return {}, 0
        if isinstance(loaded, dict):
            return {str(key): _simple(value, str(key), raw) for key, value in loaded.items()}, 0
    return _plain_lines(head)


def _simple(value: object, key: str, raw: str) -> object:
    """A mapping where text is expected is an unquoted brace pattern: `{a,b}/*.ts`."""
    if isinstance(value, dict):
        return Frontmatter(raw=raw).raw_value(key)
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        return Frontmatter(raw=raw).raw_value(key)
    return value


def _quoted(line: str) -> str:
    """The line with its value in quotes, unless it is quoted already or opens a block of its own."""
    key, item = _KEY_LINE.match(line), _ITEM_LINE.match(line)
    if key and key[2] and key[2].strip() and not _is_quoted(key[2]) and key[2].strip() not in _UNQUOTED:
        return f"{key[1]}: {json.dumps(_without_comment(key[2]), ensure_ascii=False)}"
    if item and not _is_quoted(item[2]):
        return f"{item[1]}{json.dumps(_without_comment(item[2]), ensure_ascii=False)}"
    return line.replace("\t", "  ")


def _is_quoted(value: str) -> bool:
    text = value.strip()
    return len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" and text.count(text[0]) == 2


def _without_comment(value: str) -> str:
    return re.sub(r"[ \t]#.*$", "", value).strip() if "*" in value else value.strip()


def _plain_lines(head: list[str]) -> tuple[dict[str, object], int]:
    """`key: value` lines and the `- item` lines below a key, read without YAML."""
    values: dict[str, object] = {}
    key, lost = "", 0
    for line in head:
        found, item = _KEY_LINE.match(line), _ITEM_LINE.match(line)
        if found:
            key = found[1]
            values[key] = (found[2] or "").strip().strip("\"'")
        elif item and key:
            earlier = values[key]
            values[key] = [*(earlier if isinstance(earlier, list) else []), item[2].strip().strip("\"'")]
        elif line.strip() and line[:1].isspace() and key and isinstance(values[key], str):
            values[key] = f"{values[key]} {line.strip()}".strip()
        elif line.strip() and not line.lstrip().startswith("#"):
            key = ""
            lost += 1
    return values, lost


def _repeated(head: list[str]) -> list[str]:
    seen: dict[str, str] = {}
    repeated: list[str] = []
    for line in head:
        found = _KEY_LINE.match(line)
        if found:
            value = (found[2] or "").strip()
            if seen.setdefault(found[1], value) != value:
                repeated.append(found[1])
    return list(dict.fromkeys(repeated))
