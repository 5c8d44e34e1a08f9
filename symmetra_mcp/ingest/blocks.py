"""Markdown lines to blocks: headings, list items with what belongs to them, paragraphs, code, tables.

Not a Markdown parser. It reads what people write into rule files, where bold lines, `Title:` lines and XML-like tags
serve as headings and code fences are often left open, and it keeps every line's number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from symmetra_mcp.ingest.wording import is_label, starts_with_command, word_count

BlockKind = Literal["heading", "bullet", "paragraph", "fence", "table"]

BOLD_LEVEL = 7
"""Below every `#` heading."""
TITLE_LEVEL = 8
TAG_LEVEL = 20
"""Tags nest below headings and above them; a closing tag, not a level, ends their section."""

_FENCE = re.compile(r"^[ \t]*(?:[-*+][ \t]+)?(`{3,}|~{3,})[ \t]*([^`]*)$")
_HEADING = re.compile(r"^ {0,3}(#{1,6})(?:[ \t]+(.*?)|([^\W\d_].*?))[ \t]*#*[ \t]*$")
_UNDERLINE = re.compile(r"^ {0,3}(=+|-{3,})[ \t]*$")
_RULER = re.compile(r"^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,}|={3,})$")
_BULLET = re.compile(r"^([ \t]*)([-*+\u2022\u2013\u25cf\u25aa]|\d{1,3}[.)])(?:[ \t]+|(?=\*\*))(.*)$")
_TABLE = re.compile(r"^[ \t]*\|.*\|[ \t]*$")
_BOLD_LINE = re.compile(r"^[ \t]{0,3}(?:\*\*([^*\n]{1,100})\*\*|__([^_\n]{1,100})__)[ \t]*:?[ \t]*$")
_TITLE_LINE = re.compile(r"^[ \t]{0,3}([^\s\-*+#>|`<{][^.!?;`|:\n]{0,60})[:\uff1a][ \t]*$")
_TAG_OPEN = re.compile(r"^[ \t]*<([A-Za-z][\w:.-]{0,60})((?:[ \t][^<>]{0,300})?)>[ \t]*$")
_TAG_CLOSE = re.compile(r"^[ \t]*</([A-Za-z][\w:.-]{0,60})>[ \t]*$")
_MAX_HEADING = 300
_MARKDOWN_LINK = re.compile(r"!?\[([^\]\n]{0,300})\]\([^)\n]{0,500}\)")
_MARKERS = re.compile(
    r"\\(?=[_*<>\[\]#`|:])|\*{1,3}(?=\S)|(?<=\S)\*{1,3}|`+|(?<!\w)__(?=[^_\s][^_]{0,80}__(?![\w.]))|(?<=[^_\s])__(?=[\s:,;]|$)|^#+\s*|~~"
    r"|[\u2190-\u2bff\U0001f000-\U0001faff\ufe0f\u200d\u20e3]+"
)
_CHECKBOX = re.compile(r"^\[[ xX]?\]\s*")
_LAYOUT_TAGS_WORDS = """
details summary div p br hr table tbody thead tr td th ul ol li span img a b i em pre code
"""
_LAYOUT_TAGS = frozenset(_LAYOUT_TAGS_WORDS.split())
_SAMPLE_LANGUAGES = frozenset(("", "md", "markdown", "mdc", "mdx", "text", "txt", "plaintext", "xml", "html"))


@dataclass(frozen=True, slots=True)
class Block:
    """A run of lines.

    Attributes:
        start: Index of its first line.
        end: Index after its last line.
        level: A heading's depth.
        title: A heading's text, without its markers.
        ordered: Whether a bullet has a number.
    """

    kind: BlockKind
    start: int
    end: int
    text: str
    level: int = 0
    title: str = ""
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class TagEnd:
    """A closing tag: the section that its opening tag began ends here."""

    title: str


def fenced_regions(lines: list[str]) -> dict[int, int]:
    """Line index of each code fence that closes, mapped to the index after its closing line.

    A fence that never closes is text, or it would swallow the rest of the file; so is one that runs into the opening
    line of another piece of code, since its own closing line was forgotten.
    """
    found = {number: match for number, line in enumerate(lines) if (match := _FENCE.match(line))}
    longest = _longest_closers_after(found)
    regions: dict[int, int] = {}
    last_end = 0
    for number, match in found.items():
        if number < last_end or len(match[1]) > longest[number].get(match[1][0], 0):
            continue
        end = _closing_line(found, number, match, last=len(lines))
        if end:
            regions[number] = last_end = end + 1
    return regions


def _longest_closers_after(found: dict[int, re.Match[str]]) -> dict[int, dict[str, int]]:
    """For each fence line, the longest bare fence after it, by character: what is longer can't close."""
    after: dict[int, dict[str, int]] = {}
    running: dict[str, int] = {}
    for number in sorted(found, reverse=True):
        after[number] = dict(running)
        marker, info = found[number][1], found[number][2].strip()
        if not info:
            running[marker[0]] = max(running.get(marker[0], 0), len(marker))
    return after


def _closing_line(found: dict[int, re.Match[str]], opening: int, match: re.Match[str], *, last: int) -> int:
    marker, language = match[1], match[2].strip().lower().split(" ")[0]
    for number in range(opening + 1, last):
        other = found.get(number)
        if other is None or other[1][0] != marker[0] or len(other[1]) < len(marker):
            continue
        if not other[2].strip():
            return number
        if language not in _SAMPLE_LANGUAGES and len(other[1]) == len(marker):
            return 0
    return 0


def drop_comments(lines: list[str]) -> list[str]:
    """The lines without HTML comments outside code; as many lines as before."""
    regions = fenced_regions(lines)
    kept: list[str] = []
    inside, skip_to = False, 0
    closes = [number for number, line in enumerate(lines) if "-->" in line]
    last_close = closes[-1] if closes else -1
    for number, line in enumerate(lines):
        if not inside and (number in regions or number < skip_to):
            skip_to = max(skip_to, regions.get(number, 0))
            kept.append(line)
            continue
        visible, inside = _visible_part(line, inside, more=number < last_close)
        kept.append(visible)
    return kept


def _visible_part(line: str, inside: bool, *, more: bool) -> tuple[str, bool]:
    """What of a line lies outside comments, and whether a comment goes on after it."""
    if not inside and "<!--" not in line:
        return line, False
    visible: list[str] = []
    at = 0
    while at < len(line):
        if inside:
            end = line.find("-->", at)
            if end < 0:
                return "".join(visible), True
            at, inside = end + 3, False
            continue
        start = line.find("<!--", at)
        if start < 0 or line.count("`", 0, start) % 2:
            break
        if line.find("-->", start) < 0 and not more:
            break  # never closed: text
        visible.append(line[at:start])
        at, inside = start + 4, True
    return "".join(visible) + (line[at:] if not inside else ""), inside


def read_blocks(lines: list[str], start: int = 0) -> Iterable[Block | TagEnd]:
    """The blocks of `lines` from `start` on, in order."""
    regions = fenced_regions(lines)
    closing_tags = {match[1].lower() for line in lines if (match := _TAG_CLOSE.match(line))}
    number = start
    while number < len(lines):
        line = lines[number]
        if not line.strip() or (_RULER.match(line) and number not in regions):
            number += 1
            continue
        tag_end = _TAG_CLOSE.match(line)
        if tag_end and tag_end[1].lower() not in _LAYOUT_TAGS:
            yield TagEnd(tag_end[1].lower())
            number += 1
            continue
        block = _block_at(lines, number, regions, closing_tags)
        yield block
        number = block.end


def _block_at(lines: list[str], number: int, regions: dict[int, int], closing_tags: set[str]) -> Block:
    if number in regions and not _BULLET.match(lines[number]):
        return _block("fence", lines, number, regions[number])
    heading = _heading_at(lines, number, closing_tags)
    if heading:
        return heading
    bullet = _BULLET.match(lines[number])
    if bullet:
        return _bullet_at(lines, number, regions, bullet)
    if _TABLE.match(lines[number]):
        end = number + 1
        while end < len(lines) and _TABLE.match(lines[end]):
            end += 1
        return _block("table", lines, number, end)
    end = number + 1
    while end < len(lines) and not _interrupts(lines, end, regions, closing_tags):
        end += 1
    return _block("paragraph", lines, number, end)


def _block(kind: BlockKind, lines: list[str], start: int, end: int) -> Block:
    return Block(kind, start, end, "\n".join(lines[start:end]).rstrip())


def _interrupts(lines: list[str], number: int, regions: dict[int, int], closing_tags: set[str]) -> bool:
    """Whether a paragraph ends before this line."""
    line = lines[number]
    return bool(
        not line.strip()
        or number in regions
        or _BULLET.match(line)
        or _TABLE.match(line)
        or _RULER.match(line)
        or _TAG_CLOSE.match(line)
        or _heading_at(lines, number, closing_tags)
    )


def _heading_at(lines: list[str], number: int, closing_tags: set[str]) -> Block | None:
    line = lines[number]
    if len(line) > _MAX_HEADING:
        return None
    found = _HEADING.match(line)
    if found:
        title = plain(found[2] or found[3] or "")
        if title and not is_label(title) and not (found[3] and len(found[1]) == 1 and not found[3][0].isupper()):
            return Block("heading", number, number + 1, line, len(found[1]), title)
    tag = _TAG_OPEN.match(line)
    if tag and tag[1].lower() in closing_tags and tag[1].lower() not in _LAYOUT_TAGS:
        return Block("heading", number, number + 1, line, TAG_LEVEL, tag[1].lower())
    if number + 1 < len(lines) and _is_underlined(line, lines[number + 1]):
        level = 1 if lines[number + 1].lstrip().startswith("=") else 2
        return Block("heading", number, number + 2, line, level, plain(line))
    bold = _BOLD_LINE.match(line)
    if bold and not is_label(plain(line)) and _stands_alone(lines, number):
        return Block("heading", number, number + 1, line, BOLD_LEVEL, plain(bold[1] or bold[2]))
    return _title_line_at(lines, number)


def _is_underlined(line: str, under: str) -> bool:
    return bool(
        _UNDERLINE.match(under)
        and line.strip()
        and len(line) < 120
        and not _BULLET.match(line)
        and not _TABLE.match(line)
        and not line.rstrip().endswith((".", "---"))
        and not line.startswith(("    ", "\t", ">"))
    )


def _stands_alone(lines: list[str], number: int) -> bool:
    """A bold line amid a paragraph is emphasis."""
    return number == 0 or not lines[number - 1].strip() or bool(_HEADING.match(lines[number - 1]))


def _title_line_at(lines: list[str], number: int) -> Block | None:
    found = _TITLE_LINE.match(lines[number])
    if not found or not _stands_alone(lines, number):
        return None
    title = plain(found[1])
    after = next((line for line in lines[number + 1 : number + 3] if line.strip()), "")
    if not _BULLET.match(after) or is_label(title) or starts_with_command(title) or word_count(title) > 7:
        return None
    return Block("heading", number, number + 1, lines[number], TITLE_LEVEL, title)


def _bullet_at(lines: list[str], number: int, regions: dict[int, int], found: re.Match[str]) -> Block:
    """A list item with its children, its continued lines and the code that follows it."""
    indent = _width(found[1])
    end = regions.get(number, number + 1)
    while end < len(lines):
        reach = _reach_of_item(lines, end, indent, regions)
        if reach == end:
            break
        end = reach
    text = "\n".join(lines[number:end]).rstrip()
    return Block("bullet", number, end, text, level=indent, ordered=found[2][0].isdigit())


def _reach_of_item(lines: list[str], number: int, indent: int, regions: dict[int, int]) -> int:
    """The index after what still belongs to an item at `number`; `number` itself when nothing does."""
    at = number
    while at < len(lines) and not lines[at].strip():
        at += 1
    if at >= len(lines):
        return number
    line, blank_before = lines[at], at > number
    if at in regions and not _BULLET.match(line):
        return regions[at]
    bullet = _BULLET.match(line)
    deeper = _width(line[: len(line) - len(line.lstrip())]) > indent
    if bullet:
        return regions.get(at, at + 1) if _width(bullet[1]) > indent + 1 else number
    if deeper:
        return at + 1
    starts_other = _HEADING.match(line) or _TABLE.match(line) or _RULER.match(line) or _BOLD_LINE.match(line)
    tag = _TAG_CLOSE.match(line) or _TAG_OPEN.match(line)
    return number if blank_before or starts_other or tag or _TITLE_LINE.match(line) else at + 1


def _width(blanks: str) -> int:
    return len(blanks.expandtabs(4))


def bullet_text(text: str) -> str:
    """The first line of a list item without its marker."""
    found = _BULLET.match(text.split("\n", 1)[0])
    return found[3] if found else text


def is_bullet(line: str) -> bool:
    """Whether a line begins a list item."""
    return bool(_BULLET.match(line))


def plain(text: str) -> str:
    """A heading's or a title's text without Markdown's markers, emoji or a trailing colon."""
    text = _MARKDOWN_LINK.sub(r"\1", text)
    text = _MARKERS.sub("", text)
    text = _CHECKBOX.sub("", text.strip())
    return " ".join(text.split()).rstrip(":\uff1a").strip()
