"""The texts of a rule that are embedded and matched: passages for meaning, weighted fields for words.

The bundled model reads 256 word pieces and ignores the rest, so a long rule is embedded in several passages, each with
the rule's tech stacks, headings and title before it: "Keep it short" alone would be found by nobody.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symmetra_mcp.words import Field, TermCounts, count_terms

if TYPE_CHECKING:
    from symmetra_mcp.types import Rule

PASSAGE_TOKENS = 200
"""Estimated word pieces in a passage: the bundled model reads 254, and code that is mostly names can have a fifth more
than the estimate (of 4,000 passages of packages' source code, 5 do not fit)."""
_STACKS_IN_HEAD = 2
"""Of a rule for many, the first say what kind it is; the rest would crowd out its words."""
MAX_PASSAGES = 32
"""No rule needs more: 32 passages are some 20 pages. What follows is still found by its words."""
TITLE_WEIGHT = 2.0
"""Weight of a word in the title; in rules that people wrote, 2 and 3 do the same and more does harm."""
RATIONALE_WEIGHT = 0.7
"""Weight of a word in the rationale, which also tells what the rule is not about."""
KEYWORD_WEIGHT = 0.5
"""Weight of a keyword: many rules share it."""
USUAL_NAME_TERMS = 4
USUAL_TEXT_TERMS = 24
"""Search terms of a title, and of a text: means of 25,906 rules in public repositories' rule files. Words of a longer
field count less, those of a shorter one more. A fixed measure keeps what is counted for one rule independent of all
others, so that every store can keep it."""

_PIECE = re.compile(r"[A-Za-z]+|\d|[^\W\d_a-zA-Z]|[^\w\s]|_")
_JOINED_WORDS = re.compile(r"[a-z][A-Z]|[A-Z]{2}[a-z]")
_LETTERS_PER_PIECE = 6
_LETTERS_PER_PIECE_OF_JOINED_WORDS = 3.5
"""The model knows no camelCase: it lower-cases `AsyncIterator` and finds `as ##yn ##ci ##tera ##tor`."""
_BREAK = re.compile(r"(?<=\n)|(?<=[.!?;:])\s+|(?<=[\u3002\uff01\uff1f\uff1b])")


@dataclass(frozen=True, slots=True)
class Passage:
    """One text to embed.

    Attributes:
        text: What the model reads.
        content_hash: 32 hexadecimal digits; equal exactly when the texts are.
    """

    text: str
    content_hash: str


def content_hash(text: str) -> str:
    """The key of a text's vector inside a space: 128 bits of SHA-256, as hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def estimate_word_pieces(text: str) -> int:
    """How many word pieces a text has, give or take a tenth; no tokenizer is loaded."""
    return sum(_pieces_of(piece) for piece in _PIECE.findall(text))


def _pieces_of(word: str) -> int:
    if len(word) <= _LETTERS_PER_PIECE:
        return 1
    joined = _JOINED_WORDS.search(word) is not None
    return math.ceil(len(word) / (_LETTERS_PER_PIECE_OF_JOINED_WORDS if joined else _LETTERS_PER_PIECE))


def passages(rule: Rule) -> list[Passage]:
    """The texts to embed for a rule, in order; at least one."""
    head = _head(rule)
    body = "\n\n".join(part for part in (rule.guidance.strip(), rule.rationale.strip()) if part)
    room = max(PASSAGE_TOKENS - estimate_word_pieces(head), PASSAGE_TOKENS // 2)
    texts = [f"{head}. {chunk}" if chunk else head for chunk in _chunks(body, room)]
    return [Passage(text, content_hash(text)) for text in dict.fromkeys(texts[:MAX_PASSAGES])]


def passage_body(rule: Rule, text: str) -> str:
    """A passage's own words, without the headings and title that stand before it."""
    return text.removeprefix(f"{_head(rule)}. ")


def rule_terms(rule: Rule) -> TermCounts:
    """The search terms of a rule, each weighted by the field it stands in and by that field's length (BM25F)."""
    return count_terms(
        [
            Field(rule.title, TITLE_WEIGHT, USUAL_NAME_TERMS),
            Field(rule.guidance, 1.0, USUAL_TEXT_TERMS),
            Field(rule.rationale, RATIONALE_WEIGHT, USUAL_TEXT_TERMS),
            Field(" ".join(rule.keywords), KEYWORD_WEIGHT),
            Field(" ".join(rule.heading_path), 1.0, USUAL_NAME_TERMS),
            Field(rule.rule_id.replace("-", " "), 1.0, USUAL_NAME_TERMS),
        ]
    )


def _head(rule: Rule) -> str:
    headings = [heading for heading in rule.heading_path if heading and heading != rule.title]
    name = " > ".join([*headings[-2:], rule.title]).strip() or rule.rule_id
    stacks = ", ".join(rule.tech_stacks[:_STACKS_IN_HEAD])
    return f"{stacks}: {name}" if stacks else name


def _chunks(text: str, room: int) -> Iterator[str]:
    chunk: list[str] = []
    used = 0
    for piece in _pieces(text, room):
        size = estimate_word_pieces(piece)
        if chunk and used + size > room:
            yield "".join(chunk).strip()
            chunk, used = [], 0
        chunk.append(piece)
        used += size
    yield "".join(chunk).strip()


def _pieces(text: str, room: int) -> Iterator[str]:
    """Lines and sentences, and slices of a sentence that alone is longer than a passage."""
    start = 0
    for match in [*_BREAK.finditer(text), None]:
        end = match.end() if match else len(text)
        piece = text[start:end]
        start = end
        if estimate_word_pieces(piece) <= room:
            yield piece
        else:
            width = max(1, len(piece) * room // (estimate_word_pieces(piece) + 1))
            yield from (piece[i : i + width] for i in range(0, len(piece), width))
