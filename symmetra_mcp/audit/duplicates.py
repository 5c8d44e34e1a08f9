"""Rules that are stated more than once: word for word, or nearly."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from symmetra_mcp.audit.directives import DIRECTIVE_WORDS, directives
from symmetra_mcp.audit.findings import Finding, concerned, listed
from symmetra_mcp.audit.overlap import scopes_may_meet
from symmetra_mcp.audit.pairs import SAME_WORDS, Nearness, Pair
from symmetra_mcp.ingest.identity import text_key
from symmetra_mcp.words import terms

if TYPE_CHECKING:
    from symmetra_mcp.audit.corpus import Corpus
    from symmetra_mcp.types import Rule

NEAR = 0.5
"""Place on the scale of `Nearness` from which two rules are near-duplicates where their words agree: halfway between
what different rules have at most and the same text."""
SAME_WORDS_ALONE = 0.8
"""Agreement of words that suffices where no vectors can be compared."""
HELD_WORDS = 0.75
"""Share of the words of one that the other must hold: two that each say something of their own are two rules."""
SHORT = 12
"""Terms up to which a word of its own on both sides makes two rules: "Name files in kebab-case" and "Name branches in
kebab-case" are alike in form alone."""
_LIGHT_WORDS = DIRECTIVE_WORDS | frozenset(
    terms("write add create make include implement provide set run do put have give every any all each new also")
)
"""Words that a sentence may change without saying anything else."""
_NUMBER = re.compile(r"\d+")
_DENIAL = re.compile(
    r"(?:\b(?:not|never|no|avoid|without|cannot|forbidden)\b|\bnon-|\bun(?=[a-z]{4})|n['\u2019]t\b)\s*(\w*)"
    r"|(?:禁止|不要|不得|しない)",
    re.IGNORECASE,
)
"""A denial with the word that it denies."""


def exact_duplicates(corpus: Corpus) -> list[Finding]:
    """What is stated word for word in several places, where an assistant may be handed both."""
    return [*_copied_between_files(corpus.rules), *_equal_rules(corpus)]


def near_duplicates(corpus: Corpus, pairs: Iterable[Pair], scale: Nearness) -> list[Finding]:
    """What is stated in other words, several rules in one group where all are near its middle."""
    links: defaultdict[int, dict[int, Pair]] = defaultdict(dict)
    for pair in pairs:
        if _says_the_same(corpus, pair, scale):
            links[pair.one][pair.other] = links[pair.other][pair.one] = pair
    findings: list[Finding] = []
    free = set(links)
    for middle in sorted(links, key=lambda row: (-len(links[row]), row)):
        members = sorted(free & links[middle].keys())
        if middle in free and members:
            free -= {middle, *members}
            findings.append(_near_finding(corpus, middle, members, [links[middle][row] for row in members]))
    return sorted(findings, key=lambda finding: -(finding.similarity or 0.0))


def _says_the_same(corpus: Corpus, pair: Pair, scale: Nearness) -> bool:
    one, other = corpus.rules[pair.one], corpus.rules[pair.other]
    place = scale.of(pair.similarity)
    enough = pair.agreement >= SAME_WORDS_ALONE if place is None else place >= NEAR and pair.agreement >= SAME_WORDS
    return (
        enough
        and max(pair.held) >= HELD_WORDS
        and _nothing_replaced(corpus.terms[pair.one], corpus.terms[pair.other])
        and text_key(one.guidance, one.heading_path) != text_key(other.guidance, other.heading_path)
        and _same_marks(corpus.prose[pair.one], corpus.prose[pair.other])
        and _same_preferences(corpus.prose[pair.one], corpus.prose[pair.other])
        and _same_names(corpus.code[pair.one], corpus.code[pair.other])
    )


def _nothing_replaced(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether, of two short texts, one at least has no word of weight that the other lacks."""
    if min(len(one), len(other)) > SHORT:
        return True
    return not (one - other - _LIGHT_WORDS) or not (other - one - _LIGHT_WORDS)


def _same_marks(one: str, other: str) -> bool:
    """Whether numbers and denials agree: what differs in these may say the opposite."""
    return all(
        Counter(map(str.lower, mark.findall(one))) == Counter(map(str.lower, mark.findall(other)))
        for mark in (_NUMBER, _DENIAL)
    )


def _same_preferences(one: str, other: str) -> bool:
    """Whether neither turns what the other prefers: the words of "a over b" are those of "b over a"."""
    turned = {(directive.worse, directive.better) for directive in directives(one) if directive.better}
    return turned.isdisjoint((directive.better, directive.worse) for directive in directives(other))


def _same_names(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether one names no code that the other lacks: lists of options say "Use `a`", "Use `b`"."""
    return not one or not other or one <= other or other <= one


def _near_finding(corpus: Corpus, middle: int, members: Sequence[int], pairs: Sequence[Pair]) -> Finding:
    rules = [corpus.rules[row] for row in (middle, *members)]
    compared = [pair.similarity for pair in pairs if pair.similarity is not None]
    return Finding(
        kind="duplicates",
        shape="near",
        about=f"{len(rules)} rules say nearly the same, {_where(rules)}",
        next_step="keep the best wording in one place and delete the others",
        rules=tuple(concerned(rule) for rule in rules),
        similarity=min(compared) if compared else None,
    )


def _where(rules: Sequence[Rule]) -> str:
    paths = list(dict.fromkeys(rule.sources[0].path if rule.sources else "the store" for rule in rules))
    return f"in {listed(paths)}" if len(paths) > 1 else f"all in {paths[0]}"


def _copied_between_files(rules: Iterable[Rule]) -> list[Finding]:
    """Texts that several files state, one finding for each set of files: copies are seldom of one rule alone."""
    by_files: defaultdict[tuple[str, tuple[str, ...]], list[Rule]] = defaultdict(list)
    for rule in rules:
        met = {
            source.path
            for one, other in combinations(rule.sources, 2)
            if one.path != other.path and scopes_may_meet((one.scope,), (other.scope,))
            for source in (one, other)
        }
        if met:
            by_files[rule.project_id, tuple(sorted(met))].append(rule)
    return [
        Finding(
            kind="duplicates",
            shape="exact",
            about=f"{listed(files)} state the same "
            f"{'rule' if len(copied) == 1 else f'{len(copied)} rules'}, word for word",
            next_step="keep the text in one file and let the others import it (`@AGENTS.md`) or link to it; searches "
            "count it once already, assistants that load the files read it each time",
            rules=tuple(concerned(rule) for rule in copied),
        )
        for (_, files), copied in by_files.items()
    ]


def _equal_rules(corpus: Corpus) -> list[Finding]:
    """Rules of their own with one text: written by hand, or in a project and in the shared rules."""
    by_text: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, rule in enumerate(corpus.rules):
        by_text[text_key(rule.guidance, rule.heading_path)].append(row)
    findings: list[Finding] = []
    for rows in by_text.values():
        meeting = sorted({row for pair in combinations(rows, 2) if corpus.may_meet(*pair) for row in pair})
        if meeting:
            equal = [corpus.rules[row] for row in meeting]
            findings.append(
                Finding(
                    kind="duplicates",
                    shape="exact",
                    about=f"{len(equal)} rules have one text, {_where(equal)}",
                    next_step="keep one of them: `symmetra-mcp rules delete RULE_ID` deletes what no file states",
                    rules=tuple(concerned(rule) for rule in equal),
                )
            )
    return findings
