"""A rule file's Markdown to rules: what commands becomes a rule, what describes is context.

A section whose list items are sentences gives a rule for each item. Lists of short items, prose and what mixes prose
with code stay together as one rule. Nothing that was called a rule is longer than `MAX_RULE_CHARS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from symmetra_mcp.ingest.blocks import (
    BOLD_LEVEL,
    TAG_LEVEL,
    Block,
    TagEnd,
    bullet_text,
    is_bullet,
    plain,
    read_blocks,
)
from symmetra_mcp.ingest.classify import heading_category
from symmetra_mcp.ingest.sizes import cut
from symmetra_mcp.ingest.wording import (
    commands,
    commands_strongly,
    is_context_heading,
    is_persona,
    starts_with_command,
    word_count,
)

_SENTENCE_WORDS = 5
"""Average words of a list's items from which on each is a rule of its own."""
_MAX_EXPANSIONS = 4
_LINK = re.compile(r"\[[^\]]{1,300}\]\([^)\n]{1,500}\)|https?://[^\s)>]{1,500}")
_TREE = re.compile(r"[\u2500-\u257f]{2}|^\s*[|`+]--", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z*`\"])|(?<=[\u3002\uff01\uff1f])|(?<=[.!?])(?=\s*-\s[A-Z])|\n")
_INLINE_ITEM = re.compile(r"(?<=[\w.!?)])\s*\s-\s+(?=[A-Z*`])|(?<=[.!?)])-\s+(?=[A-Z*`])")
_INLINE_CHARS = 500
"""A line longer than this with several ` - ` in it is a list whose line ends were lost."""
_STEPS = re.compile(
    r"\b(?:steps?|workflow|process|procedure|order|sequence|phases?|checklist for)\b|步骤|流程|手順", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a file.

    Attributes:
        start: First line, from 1.
        end: Last line, inclusive.
        is_rule: Whether it commands something; else it is context.
        fragments: How many list items without a command were kept in it.
    """

    text: str
    start: int
    end: int
    heading_path: tuple[str, ...] = ()
    is_rule: bool = True
    fragments: int = 0
    title: str = ""


@dataclass(slots=True)
class _Section:
    path: tuple[str, ...] = ()
    levels: tuple[int, ...] = ()
    blocks: list[Block] = field(default_factory=list)

    @property
    def title(self) -> str:
        return self.path[-1] if self.path else ""

    @property
    def describes(self) -> bool:
        """Whether its heading announces context: its own, or the one that a bold line stands below."""
        near = self.path[-2:] if self.levels and self.levels[-1] >= BOLD_LEVEL else self.path[-1:]
        return any(is_context_heading(title) for title in near)

    @property
    def expects_rules(self) -> bool:
        """Whether its heading announces rules, so that even a list of names below it is one."""
        return commands(self.title) or bool(heading_category(self.path[-2:]))


def split(lines: list[str], start: int = 0) -> list[Piece]:
    """The pieces of a file's body, which begins at index `start` of `lines`."""
    pieces = [piece for section in _sections(read_blocks(lines, start)) for piece in _split_section(section)]
    if not any(piece.is_rule for piece in pieces):
        pieces = [replace(piece, is_rule=_commands_at_all(piece)) for piece in pieces]
    return [part for piece in pieces for part in sized(piece)]


def _commands_at_all(piece: Piece) -> bool:
    """For a file that would give nothing else: prose that commands, though its heading or its form says context."""
    return (
        word_count(piece.text) > 3 and commands(piece.text) and not is_persona(piece.text) and not _is_index(piece.text)
    )


def _sections(blocks: Iterable[Block | TagEnd]) -> Iterator[_Section]:
    open_headings: list[tuple[int, str]] = []
    section = _Section()
    for block in blocks:
        if isinstance(block, Block) and block.kind != "heading":
            section.blocks.append(block)
            continue
        yield section
        if isinstance(block, TagEnd):
            _close_tag(open_headings, block.title)
        else:
            _open_heading(open_headings, block)
        shown = [
            (level, title.replace("_", " ").replace("-", " ") if level == TAG_LEVEL else title)
            for level, title in open_headings
        ]
        section = _Section(tuple(title for _, title in shown), tuple(level for level, _ in shown))
    yield section


def _open_heading(open_headings: list[tuple[int, str]], block: Block) -> None:
    while open_headings and block.level != TAG_LEVEL and block.level <= open_headings[-1][0] != TAG_LEVEL:
        open_headings.pop()
    if len(open_headings) < 40:
        open_headings.append((block.level, block.title))


def _close_tag(open_headings: list[tuple[int, str]], title: str) -> None:
    if (TAG_LEVEL, title) in open_headings:
        while open_headings.pop() != (TAG_LEVEL, title):
            pass


def _split_section(section: _Section, depth: int = 0) -> Iterator[Piece]:
    prose: list[Block] = []
    items: list[Block] = []
    for block in section.blocks:
        if block.kind == "bullet":
            items.append(block)
            continue
        if items:
            yield from _split_run(section, prose, items, depth)
            prose, items = [], []
        prose.append(block)
    yield from _split_run(section, prose, items, depth)


def _split_run(section: _Section, prose: list[Block], items: list[Block], depth: int) -> Iterator[Piece]:
    """Prose and the list that follows it, whose last paragraph may lead into the list."""
    lead = prose[-1] if prose and items and _leads(prose[-1]) else None
    yield from _split_prose(section, prose[:-1] if lead else prose)
    if items:
        yield from _split_list(section, lead, items, depth)


def _leads(block: Block) -> bool:
    return block.kind == "paragraph" and block.text.rstrip().endswith((":", "\uff1a")) and len(block.text) < 400


def _split_prose(section: _Section, blocks: list[Block]) -> Iterator[Piece]:
    kept = [
        replace(block, text=_without_persona(block.text)) if block.kind == "paragraph" else block for block in blocks
    ]
    dropped = [block for block, after in zip(blocks, kept, strict=True) if not after.text]
    yield from (_piece(section, block.text, block, is_rule=False) for block in dropped)
    kept = [block for block in kept if block.text]
    if not kept:
        return
    told = "\n".join(block.text for block in kept if block.kind != "fence")
    text = "\n\n".join(block.text for block in kept)
    is_rule = _is_command(section, told) and word_count(told) > 2 and not _is_index(told)
    if not is_rule and not section.describes and starts_with_command(section.title) and word_count(text) > 2:
        is_rule = not _is_index(text)
    yield _piece(section, text, *kept, is_rule=is_rule, title=section.title if len(kept) > 1 else "")


def _is_command(section: _Section, text: str) -> bool:
    return commands_strongly(text) if section.describes else commands(text)


def _split_list(section: _Section, lead: Block | None, items: list[Block], depth: int) -> Iterator[Piece]:
    if _is_index("\n".join(item.text for item in items)):
        yield _whole_list(section, lead, items, is_rule=False)
        return
    words = [word_count(_own_line(item)) for item in items]
    nested = [_expands(item) and depth < _MAX_EXPANSIONS for item in items]
    sentences = sum(words) >= _SENTENCE_WORDS * len(words)
    steps = items[0].ordered and _STEPS.search(" ".join((section.title, lead.text if lead else "")))
    if (steps or not sentences) and not any(nested):
        yield _short_list(section, lead, items)
        return
    below = _below_lead(section, lead)
    if lead and below is section and _is_command(section, lead.text):
        yield _piece(section, lead.text, lead)
    yield from _rules_of_items(below, items, nested, depth)


def _short_list(section: _Section, lead: Block | None, items: list[Block]) -> Piece:
    told = "\n".join(item.text for item in items)
    is_rule = _is_command(section, told) or bool(lead and _is_command(section, lead.text))
    is_rule = is_rule or (section.expects_rules and not section.describes)
    fragments = sum(not commands(item.text) for item in items)
    return replace(_whole_list(section, lead, items, is_rule=is_rule), fragments=fragments if is_rule else 0)


def _below_lead(section: _Section, lead: Block | None) -> _Section:
    """The section that a line such as `When writing tests:` opens for the items after it."""
    title = plain(lead.text) if lead else ""
    if not title or len(title) > 80:
        return section
    return _Section((*section.path, title), (*section.levels, BOLD_LEVEL + 1))


def _rules_of_items(section: _Section, items: list[Block], nested: list[bool], depth: int) -> Iterator[Piece]:
    loose: list[Block] = []
    rules: list[Piece] = []
    for item, expands in zip(items, nested, strict=True):
        if expands:
            rules.extend(_expanded(section, item, depth))
        elif not _without_persona(_own_line(item)):
            rules.append(_piece(section, item_text(item.text), item, is_rule=False))
        elif _is_command(section, item.text) and word_count(item.text) > 2:
            rules.append(_piece(section, _without_persona(item_text(item.text)), item))
        else:
            loose.append(item)
    keep_loose = not section.describes and (any(piece.is_rule for piece in rules) or section.expects_rules)
    if loose:
        rules.append(replace(_whole_list(section, None, loose, is_rule=keep_loose), fragments=len(loose)))
    yield from rules


def _expands(item: Block) -> bool:
    """Whether an item is only the title of the list inside it."""
    children = [line for line in item.text.split("\n")[1:] if is_bullet(line)]
    own = _own_line(item)
    if len(children) < 2 or word_count(own) > 8 or "\n" not in item.text:
        return False
    titled = own.rstrip().endswith((":", "\uff1a", "**")) or not commands(own)
    return titled and sum(word_count(child) for child in children) >= _SENTENCE_WORDS * len(children)


def _expanded(section: _Section, item: Block, depth: int) -> Iterator[Piece]:
    below = item.start + 1
    blocks = read_blocks(_dedented(item.text.split("\n")[1:]))
    inner = _Section((*section.path, plain(_own_line(item))), (*section.levels, BOLD_LEVEL + 1))
    inner.blocks = [
        replace(block, start=block.start + below, end=block.end + below) for block in blocks if isinstance(block, Block)
    ]
    yield from _split_section(inner, depth + 1)


def _whole_list(section: _Section, lead: Block | None, items: list[Block], *, is_rule: bool) -> Piece:
    shown = [item.text for item in items] if lead or len(items) > 1 else [item_text(items[0].text)]
    text = "\n".join((*((lead.text,) if lead else ()), *shown))
    return _piece(
        section,
        text,
        *((lead,) if lead else ()),
        *items,
        is_rule=is_rule,
        title=section.title if len(items) > 1 else "",
    )


def _piece(section: _Section, text: str, *blocks: Block, is_rule: bool = True, title: str = "") -> Piece:
    start, end = min(block.start for block in blocks), max(block.end for block in blocks)
    return Piece(text.strip("\n"), start + 1, end, section.path, is_rule, title=title)


def sized(piece: Piece) -> Iterator[Piece]:
    """A piece in parts none of which is longer than a rule may be."""
    if not piece.is_rule or len(piece.text) <= _INLINE_CHARS:
        yield piece
        return
    for item in _inline_items(piece.text):
        parts = cut(item, piece.start - 1)
        if len(parts) == 1:
            yield replace(piece, text=item)
            continue
        for number, (text, first, last) in enumerate(parts):
            start = min(first + 1, piece.end)  # blank lines between blocks are not counted
            end = max(start, min(last, piece.end))
            fragments = piece.fragments if number == 0 else 0
            yield replace(piece, text=text, start=start, end=end, fragments=fragments)


def _inline_items(text: str) -> list[str]:
    """The items of a list that was pasted as one line; what commands nothing stays with the item before it."""
    if "\n" in text or len(_INLINE_ITEM.findall(text)) < 5:
        return [text]
    items: list[str] = []
    for item in _INLINE_ITEM.split(text.removeprefix("- ")):
        if items and not (_stands_alone(item) and _stands_alone(items[-1])):
            items[-1] = f"{items[-1]} - {item}"
        else:
            items.append(item.strip())
    return items


def _stands_alone(item: str) -> bool:
    return commands(item) and word_count(item) >= _SENTENCE_WORDS


def _own_line(item: Block) -> str:
    return re.sub(r"^\[[ xX]?\]\s*", "", bullet_text(item.text))


def item_text(text: str) -> str:
    """A list item without its marker, what belongs to it moved left with it."""
    first, *rest = text.split("\n")
    return "\n".join([re.sub(r"^\[[ xX]?\]\s*", "", bullet_text(first)), *_dedented(rest)]).strip()


def _dedented(lines: list[str]) -> list[str]:
    expanded = [line.expandtabs(4) for line in lines]
    indents = [len(line) - len(line.lstrip()) for line in expanded if line.strip()]
    margin = min(indents, default=0)
    return [line[margin:] for line in expanded]


def _without_persona(text: str) -> str:
    """The paragraph without the sentences that tell the assistant who it is."""
    sentences = _SENTENCE_END.split(text)
    if not any(is_persona(sentence) for sentence in sentences):
        return text
    return " ".join(sentence.strip() for sentence in sentences if sentence.strip() and not is_persona(sentence))


def _is_index(text: str) -> bool:
    """A table or list of links, or a directory tree."""
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return True
    if _TREE.search(text) and len(lines) > 3:
        return True
    bare, links = _LINK.subn("", text)
    if not links or commands_strongly(bare):
        return False
    linked = sum(1 for line in lines if _LINK.search(line))
    return linked > 0.6 * len(lines) or (links > 2 and word_count(bare) < 4 * links)
