"""Rules that are too long to be handed out whole, and rules that say too little to be found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from symmetra_mcp.audit.directives import DIRECTIVE_WORDS
from symmetra_mcp.audit.findings import Finding, concerned
from symmetra_mcp.passages import MAX_PASSAGES, passages
from symmetra_mcp.tokens import estimate_tokens
from symmetra_mcp.words import MAX_QUERY_TERMS, query_terms, terms

if TYPE_CHECKING:
    from symmetra_mcp.types import Rule

LONG_TOKENS = 400
"""Tokens of guidance from which an answer holds the best passage alone, as `search` has it."""
FEW_WORDS = 2
"""Words of its own that a rule needs: with fewer, a question that fits it fits many others."""
_EMPTY_WORDS = DIRECTIVE_WORDS | frozenset(
    terms(
        "clean clear simple readable maintainable quality proper properly appropriate appropriately correct correctly "
        "write add create implement provide include apply maintain improve work project codebase software developer "
        "team standard standards convention guideline principle practices approach style thing way high better "
        "efficient effective robust consistent consistency careful carefully always everything anything something "
        "existing specific relevant necessary possible when needed general common etc"
    )
)
"""Words that stand in rules of every subject."""
_CODE = re.compile(r"`[^`\n]*[^\W\d]{2}[^`\n]*`")


def long_rules(rules: Iterable[Rule]) -> Iterator[Finding]:
    """Rules of which an answer leaves something out, or of which a part has no vector."""
    for rule in rules:
        count, tokens = len(passages(rule)), estimate_tokens(rule.guidance)
        if count >= MAX_PASSAGES:
            yield Finding(
                kind="long",
                shape="not-embedded-whole",
                about=f"some {tokens:,} tokens: what follows {MAX_PASSAGES} passages is found by its words alone",
                next_step="split it into rules of one idea each",
                rules=(concerned(rule),),
            )
        elif count > 1 and tokens > LONG_TOKENS:
            yield Finding(
                kind="long",
                shape="too-long",
                about=f"some {tokens:,} tokens in {count} passages, of which an answer holds the best one alone "
                f"(from {LONG_TOKENS} tokens on)",
                next_step="split it into rules of one idea each, or shorten it",
                rules=(concerned(rule),),
            )


def vague_rules(rules: Iterable[Rule]) -> Iterator[Finding]:
    """Rules with hardly a word that tells them from others: "Follow best practices", "Be specific".

    What names code between backticks is about that code, however short it is.
    """
    for rule in rules:
        own = own_words(rule)
        if len(own) < FEW_WORDS and not _CODE.search(rule.guidance):
            told = f"only {own[0]!r}" if own else "no word"
            yield Finding(
                kind="vague",
                shape="few-words",
                about=f"{told} tells it from rules about anything else",
                next_step="say what it is about: name the language, the tool, the place or the case, or add keywords",
                rules=(concerned(rule),),
            )


def own_words(rule: Rule) -> list[str]:
    """Words by which a question can mean this rule and not any other."""
    told = query_terms(" ".join((rule.title, rule.guidance, rule.rationale, *rule.keywords)), MAX_QUERY_TERMS)
    return [word for term, word in told.items() if term not in _EMPTY_WORDS and any(map(str.isalnum, term))]
