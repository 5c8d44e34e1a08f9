"""Rule files that are XML or JSON rather than Markdown, read without demanding that they are well-formed."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from symmetra_mcp.ingest.sizes import MAX_RULE_CHARS
from symmetra_mcp.ingest.split import Piece
from symmetra_mcp.ingest.wording import commands, commands_strongly, is_context_heading, word_count

_TOKEN = re.compile(r"<!\[CDATA\[|<!--|<[?!][^>]{0,500}>|<(/?)([A-Za-z][\w:.-]{0,80})((?:\s[^<>]{0,2000}?)?)(/?)>")
_ATTRIBUTE = re.compile(r"""([\w:-]{1,60})\s*=\s*(?:"([^"]{0,500})"|'([^']{0,500})')""")
_TITLE_TAGS = frozenset({"name", "title", "heading", "rule_name", "label"})
_NAMING_ATTRIBUTES = ("name", "title", "id", "type")
_MAX_DEPTH = 24
_SENTENCE_WORDS = 4
_WHOLE_CHARS = 700
"""An element up to this size is read as one rule even where its parts could stand alone."""


@dataclass(slots=True)
class _Element:
    tag: str
    line: int
    label: str = ""
    end: int = 0
    parts: list[_Element | str] = field(default_factory=list)

    @property
    def children(self) -> list[_Element]:
        return [part for part in self.parts if isinstance(part, _Element)]

    @property
    def title(self) -> str:
        """What it is called: its naming child or attribute, else its tag."""
        named = next((child for child in self.children if child.tag.lower() in _TITLE_TAGS), None)
        text = " ".join(_text(named).split()) if named else self.label
        return text[:120] or _words(self.tag)


def looks_like_xml(text: str) -> bool:
    """Whether the whole text is one or more XML elements."""
    body = text.strip()
    opening = re.match(
        r"(?:<\?xml[^>]{0,200}>\s*)?(?:<!--.{0,2000}?-->\s*)?<([A-Za-z][\w:.-]*)[^<>]{0,500}>", body, re.DOTALL
    )
    closing = re.search(r"</([A-Za-z][\w:.-]*)>$", body)
    return bool(opening and closing and body.count("</") > 2 and "\n#" not in body[:400])


def split_xml(text: str) -> list[Piece]:
    """The pieces of an XML file: a small element with text is a rule, below the names of those around it."""
    root = _read(text)
    pieces = [piece for child in root.children for piece in _pieces(child, ())]
    loose = " ".join(part.strip() for part in root.parts if isinstance(part, str)).strip()
    return [*pieces, *([Piece(loose, 1, text.count("\n") + 1)] if commands(loose) and word_count(loose) > 3 else [])]


def _read(text: str) -> _Element:
    """A tree of elements; closing tags that match nothing are ignored, and what is left open ends with the file."""
    stack = [_Element("", 1)]
    at, line = 0, 1
    while found := _TOKEN.search(text, at):
        stack[-1].parts.append(html.unescape(text[at : found.start()]))
        line += text.count("\n", at, found.start())
        end = found.end()
        if found[0].startswith(("<![CDATA[", "<!--")):
            closer = "]]>" if found[0].startswith("<![") else "-->"
            stop = text.find(closer, end)
            stop = len(text) if stop < 0 else stop
            if closer == "]]>":
                stack[-1].parts.append(text[end:stop])
            end = stop + len(closer)
        elif found[2]:
            _apply_tag(stack, found, line)
        line += text.count("\n", found.start(), end)
        at = min(end, len(text))
    stack[-1].parts.append(html.unescape(text[at:]))
    for element in stack:
        element.end = element.end or text.count("\n") + 1
    return stack[0]


def _apply_tag(stack: list[_Element], found: re.Match[str], line: int) -> None:
    closing, tag, attributes, empty = found.groups()
    if closing:
        if any(element.tag == tag for element in stack[1:]):
            while stack[-1].tag != tag:
                stack.pop().end = line
            stack.pop().end = line
        return
    named = {name: first or second for name, first, second in _ATTRIBUTE.findall(attributes)}
    label = next((named[key] for key in _NAMING_ATTRIBUTES if named.get(key)), "")
    element = _Element(tag, line, _words(label), end=line if empty else 0)
    stack[-1].parts.append(element)
    if not empty and len(stack) < _MAX_DEPTH:
        stack.append(element)


def _words(name: str) -> str:
    return re.sub(r"[_-]+", " ", name).strip()


def _text(element: _Element) -> str:
    return "".join(part if isinstance(part, str) else _text(part) for part in element.parts).strip()


def _pieces(element: _Element, path: tuple[str, ...]) -> Iterator[Piece]:
    rendered = _render(element)
    nested = [child for child in element.children if child.children]
    own = any(isinstance(part, str) and part.strip() for part in element.parts)
    sentences = [child for child in element.children if word_count(_text(child)) >= _SENTENCE_WORDS]
    whole = not element.children or own or (not nested and len(rendered) <= _WHOLE_CHARS and not _uniform(sentences))
    if whole or (len(rendered) <= MAX_RULE_CHARS and len(nested) <= 1 and not _holds_list(element)):
        yield from _rule(element, rendered, path)
        return
    inner = (*path, element.title)
    loose = [child for child in element.children if not child.children and child.tag.lower() not in _TITLE_TAGS]
    if len(loose) > 1 and not _uniform(sentences):
        together = _Element(element.tag, loose[0].line, element.label, loose[-1].end, list(loose))
        yield from _rule(together, _render(together), path, title=element.title)
        loose_ids = {id(child) for child in loose}
    else:
        loose_ids = set()
    for child in element.children:
        if id(child) not in loose_ids and child.tag.lower() not in _TITLE_TAGS:
            yield from _pieces(child, inner)


def _uniform(children: list[_Element]) -> bool:
    """Whether children are a list: several, all of one tag."""
    return len(children) > 1 and len({child.tag for child in children}) == 1


def _holds_list(element: _Element) -> bool:
    """Whether it is, or has inside it, a list of elements that could each stand alone."""
    sentences = [child for child in element.children if word_count(_text(child)) >= _SENTENCE_WORDS]
    return _uniform(sentences) or any(_holds_list(child) for child in element.children)


def _rule(element: _Element, rendered: str, path: tuple[str, ...], *, title: str = "") -> Iterator[Piece]:
    text = rendered.strip()
    if not text:
        return
    named = title or element.title
    describes = is_context_heading(_words(element.tag)) or any(is_context_heading(part) for part in path[-1:])
    is_rule = (commands_strongly(text) if describes else commands(text)) and word_count(text) > 2
    listed = "\n- " in "\n" + text or "\n* " in "\n" + text
    leaf = not element.children and not element.label and not listed
    shown = title or (named if named != _words(element.tag) else "")
    yield Piece(
        text, element.line, max(element.line, element.end), path if leaf else (*path, named), is_rule, title=shown
    )


def _render(element: _Element, depth: int = 0) -> str:
    """An element as Markdown: plain text, and `**tag:** text` for its children."""
    lines: list[str] = []
    for part in element.parts:
        if isinstance(part, str):
            if part.strip():
                lines.append(_unindented(part))
        elif depth < _MAX_DEPTH:
            inner = _render(part, depth + 1)
            if inner:
                shown = part.label or _words(part.tag)
                lines.append(f"**{shown}:** {inner}" if "\n" not in inner else f"**{shown}:**\n{inner}")
    return "\n".join(lines)


def _unindented(text: str) -> str:
    lines = text.expandtabs(4).strip("\n").rstrip().split("\n")
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[margin:].rstrip() for line in lines)


def looks_like_json(text: str) -> bool:
    """Whether the whole text is written like a JSON object or list, valid or not."""
    body = text.strip()
    return len(body) > 2 and body[0] + body[-1] in ("{}", "[]") and bool(re.match(r"[{\[]\s*(?:\"|\{|\[)", body))


_OPENS = re.compile(r'^(\s*)"([^"\n]{1,200})"\s*:\s*[\[{]\s*$')
_PAIR = re.compile(r'^\s*"([^"\n]{1,200})"\s*:\s*"?(.*?)"?\s*,?\s*$')
_STRING = re.compile(r'^\s*"(.*)"\s*,?\s*$')


def json_as_markdown(lines: list[str]) -> list[str]:
    """JSON-looking lines as Markdown: keys become headings, strings list items. As many lines as before."""
    if len(lines) == 1:
        try:
            lines = json.dumps(json.loads(lines[0]), ensure_ascii=False, indent=2).split("\n")
        except (ValueError, RecursionError):
            return lines
    return [_json_line(line) for line in lines]


def _json_line(line: str) -> str:
    if len(line) > 20_000 or not line.strip().strip("{}[],"):
        return line if len(line) > 20_000 else ""
    opens, pair, string = _OPENS.match(line), _PAIR.match(line), _STRING.match(line)
    if opens:
        level = min(6, max(1, len(opens[1].expandtabs(4)) // 2))
        return f"{'#' * level} {_words(opens[2])}"
    if pair:
        return f"- **{_words(pair[1])}**: {_unescaped(pair[2])}"
    return f"- {_unescaped(string[1])}" if string else line


def _unescaped(text: str) -> str:
    return text.replace('\\"', '"').replace("\\n", " ").replace("\\\\", "\\")
