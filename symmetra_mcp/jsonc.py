"""One member of a JSON file changed, every other byte kept: comments, order, indentation, trailing commas.

Editors' settings are JSON with comments (JSONC). A parser that writes a file anew would lose what people wrote there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_BLANK = re.compile(r"(?:[ \t\r\n\ufeff]+|//[^\r\n]*|/\*(?:[^*]|\*(?!/))*\*/)*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_SCALAR = re.compile(r"-?\d[\w.+-]*|true|false|null")
_OUTSIDE = re.compile(
    r'"(?:[^"\\]|\\.)*"|//[^\r\n]*|/\*(?:[^*]|\*(?!/))*\*/|,(?=(?:\s|//[^\r\n]*|/\*(?:[^*]|\*(?!/))*\*/)*[}\]])'
)


class JsoncError(ValueError):
    """The text is not JSON, with or without comments; the message tells the line."""


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    start: int
    value: int
    end: int


@dataclass(frozen=True, slots=True)
class _Object:
    members: tuple[_Member, ...]
    start: int
    end: int


def parsed(text: str) -> Any:
    """The value of JSON with comments and trailing commas; nothing of an empty text is an empty object.

    Raises:
        JsoncError: It is none.
    """
    if not _BLANK.sub("", text, count=1):
        return {}
    bare = _OUTSIDE.sub(lambda found: found[0] if found[0].startswith('"') else _kept_lines(found[0]), text)
    try:
        return json.loads(bare.lstrip("\ufeff"))
    except json.JSONDecodeError as exc:
        raise JsoncError(f"line {exc.lineno}: {exc.msg}") from None
    except RecursionError:
        raise JsoncError("it is nested too deeply") from None


def with_member(text: str, path: Sequence[str], value: Any) -> str:
    """The text with a member set; objects on the way to it are made.

    Args:
        text: JSON with comments; an empty one becomes an object.
        path: Names of the objects, then of the member.
        value: What it becomes.

    Raises:
        JsoncError: The text is no object, or something on the way is none.
    """
    data = parsed(text)
    if not _BLANK.sub("", text, count=1):
        text = text + "{}\n"
    indent, newline = _indent_of(text), "\r\n" if "\r\n" in text else "\n"
    found, depth = _root(text), 0
    for name in path[:-1]:
        member = _named(found, name)
        if member is None:
            break
        found, depth = _object_at(text, member.value, name), depth + 1
    for name in reversed(path[depth + 1 :]):
        value = {name: value}
    member = _named(found, path[depth])
    written = json.dumps(value, indent=indent, ensure_ascii=False).replace("\n", newline + indent * (depth + 1))
    if member is not None:
        changed = text[: member.value] + written + text[member.end :]
    else:
        changed = _inserted(text, found, f"{json.dumps(path[depth])}: {written}", indent, depth, newline)
    _check(changed, _set(data, path[: depth + 1], value))
    return changed


def without_member(text: str, path: Sequence[str]) -> str:
    """The text without a member; the same text where it has none.

    Raises:
        JsoncError: The text is no object, or something on the way is none.
    """
    data = parsed(text)
    if not isinstance(data, dict) or not data:
        return text
    found = _root(text)
    for name in path[:-1]:
        member = _named(found, name)
        if member is None:
            return text
        found = _object_at(text, member.value, name)
    member = _named(found, path[-1])
    if member is None:
        return text
    start, end = member.start, member.end
    after = _past_blank(text, end)
    if text[after] == ",":
        end = after + 1
    else:  # the last one: the comma before it goes too
        before = max((each.end for each in found.members if each.end <= start), default=found.start + 1)
        comma = _past_blank(text, before)
        if text[comma] == ",":
            text = text[:comma] + text[comma + 1 :]
            start, end = start - 1, end - 1
    line = text.rfind("\n", 0, start) + 1
    if not text[line:start].strip() and re.match(r"[ \t]*\r?\n", text[end:]):
        start, end = line, end + text[end:].index("\n") + 1
    changed = text[:start].rstrip(" ") + text[end:]
    _check(changed, _removed(data, path))
    return changed


def _check(changed: str, expected: Any) -> None:
    """Nothing but the member may differ: else the file is one that this code does not understand."""
    if parsed(changed) != expected:
        raise JsoncError("it is written in a way that can't be changed safely")


def _set(data: Any, path: Sequence[str], value: Any) -> Any:
    first, *rest = path
    return {**data, first: _set(data[first], rest, value) if rest else value}


def _removed(data: Any, path: Sequence[str]) -> Any:
    first, *rest = path
    if rest:
        return {**data, first: _removed(data[first], rest)}
    return {name: value for name, value in data.items() if name != first}


def _inserted(text: str, found: _Object, member: str, indent: str, depth: int, newline: str) -> str:
    """A new last member, on a line of its own."""
    inner, outer = newline + indent * (depth + 1), newline + indent * depth
    if not found.members:
        inside = text[found.start + 1 : found.end - 1]
        kept = inside.rstrip() if inside.strip() else ""
        return f"{text[: found.start + 1]}{kept}{inner}{member}{outer}{text[found.end - 1 :]}"
    last = found.members[-1].end
    comma = _past_blank(text, last)
    if text[comma] == ",":  # a trailing comma, which we keep after ours
        rest = text[comma + 1 : found.end - 1]
        return f"{text[: comma + 1]}{rest.rstrip()}{inner}{member},{outer}{text[found.end - 1 :]}"
    rest = text[last : found.end - 1]
    return f"{text[:last]},{rest.rstrip()}{inner}{member}{outer}{text[found.end - 1 :]}"


def _indent_of(text: str) -> str:
    found = re.search(r"\n([ \t]+)\S", text)
    return found[1] if found else "  "


def _root(text: str) -> _Object:
    return _object_at(text, _past_blank(text, 0), "the file")


def _object_at(text: str, at: int, name: str) -> _Object:
    if text[at : at + 1] != "{":
        raise JsoncError(f"{name} is no object")
    members = tuple(_members(text, at))
    return _Object(members, at, _end_of(text, at))


def _named(found: _Object, name: str) -> _Member | None:
    """The last member of a name: readers take that one."""
    return next((member for member in reversed(found.members) if member.name == name), None)


def _members(text: str, at: int) -> Iterator[_Member]:
    at = _past_blank(text, at + 1)
    while text[at] != "}":
        quoted = _STRING.match(text, at)
        if quoted is None:
            raise JsoncError(f"line {_line(text, at)}: a name was expected")
        colon = _past_blank(text, quoted.end())
        value = _past_blank(text, colon + 1)
        end = _end_of(text, value)
        yield _Member(json.loads(quoted[0]), at, value, end)
        at = _past_blank(text, end)
        if text[at] == ",":
            at = _past_blank(text, at + 1)


def _end_of(text: str, at: int) -> int:
    """Where the value that begins here ends; the text was parsed before, so it is sound."""
    depth = 0
    while True:
        at = _past_blank(text, at)
        if text[at] in "{[":
            depth += 1
            at += 1
        elif text[at] in "}]":
            depth -= 1
            at += 1
        elif text[at] in ",:":
            at += 1
        else:
            token = _STRING.match(text, at) or _SCALAR.match(text, at)
            if token is None:
                raise JsoncError(f"line {_line(text, at)}: a value was expected")
            at = token.end()
        if depth == 0:
            return at


def _past_blank(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def _kept_lines(text: str) -> str:
    return re.sub(r"[^\r\n]", " ", text)


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
