"""Texts cut to a size that a model reads whole, at the gentlest place there is, losing nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from symmetra_mcp.ingest.blocks import fenced_regions, is_bullet

MAX_RULE_CHARS = 1800
"""About 450 tokens: two passages of the smallest model's 256. Long rules also crowd others out of an answer."""

_BREAKS = re.compile(r"[.!?;]\s|[\u3002\uff01\uff1f\uff1b]|,\s|\uff0c|\s")

Chunk = tuple[str, int, int]
"""Text, index of its first line, index after its last."""


def cut(text: str, start: int, limit: int = MAX_RULE_CHARS) -> list[Chunk]:
    """`text`, which begins at line index `start`, in parts of at most `limit` characters.

    Paragraphs, code and list items stay whole while they fit; then lines do; then sentences; then words. Code that
    has to be cut gets its fence again in every part.
    """
    if len(text) <= limit:
        return [(text, start, start + text.count("\n") + 1)]
    chunks: list[Chunk] = []
    held: list[Chunk] = []
    size = 0
    for unit in _units(text.split("\n"), start, limit):
        while held and size + len(unit[0]) + 1 > limit:
            whole = _end_of_whole(held)
            chunks.append(_joined(held[:whole]))
            held = held[whole:]
            size = sum(len(part) + 1 for part, _, _ in held)
        held.append(unit)
        size += len(unit[0]) + 1
    chunks.append(_joined(held))
    return [(part.strip("\n"), first, last) for part, first, last in chunks if part.strip()]


def _joined(units: list[Chunk]) -> Chunk:
    return "\n".join(text for text, _, _ in units), units[0][1], units[-1][2]


def _end_of_whole(units: list[Chunk]) -> int:
    """How many units to end a part with: up to the last blank line or list item, if that is far enough."""
    sizes = [len(text) for text, _, _ in units]
    total = sum(sizes)
    for number in range(len(units) - 1, 0, -1):
        total -= sizes[number]
        if total < MAX_RULE_CHARS // 3:
            break
        if not units[number][0].strip() or is_bullet(units[number][0].split("\n", 1)[0]):
            return number
    return len(units)


def _units(lines: list[str], start: int, limit: int) -> Iterator[Chunk]:
    """Pieces that should not be parted: code blocks, else lines, each at most `limit` long."""
    regions = fenced_regions(lines)
    number = 0
    while number < len(lines):
        end = regions.get(number, number + 1)
        unit = "\n".join(lines[number:end])
        if len(unit) <= limit:
            yield unit, start + number, start + end
        elif number in regions:
            yield from _code_parts(lines[number:end], start + number, limit)
        else:
            yield from ((part, start + number, start + end) for part in _line_parts(unit, limit))
        number = end


def _code_parts(lines: list[str], start: int, limit: int) -> Iterator[Chunk]:
    opening, closing = lines[0][:200], lines[-1][:200]
    room = max(200, limit - len(opening) - len(closing) - 2)
    held: list[str] = []
    size, begin = 0, 1
    for number, line in enumerate(lines[1:-1], 1):
        for part in _line_parts(line, room):
            if held and size + len(part) + 1 > room:
                yield "\n".join((opening, *held, closing)), start + begin, start + number
                held, size, begin = [], 0, number
            held.append(part)
            size += len(part) + 1
    if held:
        yield "\n".join((opening, *held, closing)), start + begin, start + len(lines)


def _line_parts(line: str, limit: int) -> Iterator[str]:
    at = 0
    while len(line) - at > limit:
        end = _gentle_break(line, at, at + limit)
        yield line[at:end].rstrip()
        at = end
    yield line[at:].strip() if at else line


def _gentle_break(line: str, start: int, stop: int) -> int:
    """Where to cut before `stop`: after the last sentence, else clause, else word in the second half."""
    best = {".": 0, ",": 0, " ": 0}
    for found in _BREAKS.finditer(line, start + (stop - start) // 2, stop):
        rank = "." if found[0][0] in ".!?;\u3002\uff01\uff1f\uff1b" else "," if found[0][0] in ",\uff0c" else " "
        best[rank] = found.end()
    return best["."] or best[","] or best[" "] or stop
