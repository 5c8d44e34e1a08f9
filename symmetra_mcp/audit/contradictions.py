"""Pairs of rules whose sentences oppose each other.

Near in subject is what the vectors or the words of the whole rules say; opposed is what word lists and patterns find in
single sentences. Sentences with a condition, which seldom contradict anything, are left aside: a person who is shown
ten pairs of which eight are wrong looks at no eleventh.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from symmetra_mcp.audit.directives import Directive, directives
from symmetra_mcp.audit.findings import Finding, Shape, concerned
from symmetra_mcp.words import terms

if TYPE_CHECKING:
    from symmetra_mcp.audit.corpus import Corpus
    from symmetra_mcp.audit.pairs import Nearness, Pair

RELATED = -0.5
"""Place on the scale of `Nearness` from which two rules are about one subject."""
RELATED_WORDS = 0.1
"""The same where words alone can be compared."""
_SAME_THING = 0.6
"""Agreement of two short phrases from which they name one thing."""
_ABOUT_THE_SAME = 0.4
"""Agreement of two clauses from which one may deny the other."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """Things of which a text picks one, and what both texts must be about for that to matter."""

    one: re.Pattern[str]
    other: re.Pattern[str]
    subject: re.Pattern[str]
    names: tuple[str, str]


def _choice(one: str, other: str, subject: str, names: tuple[str, str]) -> _Choice:
    first, second, about = (re.compile(pattern, re.IGNORECASE) for pattern in (one, other, subject))
    return _Choice(first, second, about, names)


_CHOICES = (
    _choice(r"\btabs?\b", r"\bspaces?\b", r"\bindent", ("tabs", "spaces")),
    _choice(r"\bsingle[- ]quot", r"\bdouble[- ]quot", r"\bquot", ("single quotes", "double quotes")),
    _choice(r"\bdefault exports?\b", r"\bnamed exports?\b", r"\bexports?\b", ("default exports", "named exports")),
    _choice(
        r"\brelative (?:imports?|paths?)\b",
        r"\babsolute (?:imports?|paths?)\b",
        r"\bimports?\b",
        ("relative imports", "absolute imports"),
    ),
    _choice(
        r"\bnpm\b", r"\b(?:pnpm|yarn|bun)\b", r"\b(?:install|package manager)\b", ("npm", "another package manager")
    ),
)
_CASES = re.compile(
    r"\b(?:(?P<camel>(?-i:camelCase)|camel[- ]case|lowerCamelCase)"
    r"|(?P<pascal>(?-i:PascalCase)|pascal[- ]case|UpperCamelCase)"
    r"|(?P<upper>UPPER_SNAKE_CASE|UPPER_CASE|SCREAMING_SNAKE_CASE|upper snake case)"
    r"|(?P<snake>(?-i:snake_case)|snake[- ]case)"
    r"|(?P<kebab>kebab-case|kebab case|dash-case))\b",
    re.IGNORECASE,
)
_NAMED_THINGS = re.compile(
    r"\b(variables?|functions?|methods?|class(?:es)?|files?|file ?names?|folders?|director(?:y|ies)|constants?"
    r"|components?|interfaces?|types?|modules?|packages?|tables?|columns?|props|properties|enums?|hooks?|tests?|routes?|keys?"
    r"|parameters?|events?|branch(?:es)?|databases?|private|fields?|members?)\b",
    re.IGNORECASE,
)
_COUNTED_THINGS = re.compile(
    r"\b(lines?|functions?|methods?|class(?:es)?|files?|components?|modules?|titles?|subjects?"
    r"|bod(?:y|ies)|summar(?:y|ies)|descriptions?|tests?|coverage|branch|indent\w*|timeout|names?|messages?|hooks?"
    r"|comments?|docstrings?|pull requests?|prs?|commits?)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Opposed:
    shape: Shape
    about: str
    one: Directive
    other: Directive


def contradictions(corpus: Corpus, pairs: Iterable[Pair], scale: Nearness) -> list[Finding]:
    """Pairs near in subject of which one sentence opposes one of the other, the nearest first."""
    findings: list[Finding] = []
    for pair in pairs:
        place = scale.of(pair.similarity)
        if pair.agreement < RELATED_WORDS and (place is None or place < RELATED):
            continue
        found = next(_opposed(corpus, pair), None)
        if found is not None:
            findings.append(_finding(corpus, pair, found))
    return sorted(findings, key=lambda finding: -(finding.similarity or 0.0))


def _opposed(corpus: Corpus, pair: Pair) -> Iterator[_Opposed]:
    for one, other in product(directives(corpus.prose[pair.one]), directives(corpus.prose[pair.other])):
        yield from _numbers(one, other)
        yield from _reversed(corpus, one, other)
        yield from _denied(corpus, one, other)
        yield from _alternatives(one, other)


def _numbers(one: Directive, other: Directive) -> Iterator[_Opposed]:
    for first, second in product(one.limits, other.limits):
        if (first.unit, first.bound) != (second.unit, second.bound) or first.number == second.number:
            continue
        things = _things(_COUNTED_THINGS, one.text), _things(_COUNTED_THINGS, other.text)
        if things[0] and things[0] == things[1]:
            about = (
                f"one sets {first.number:g}, the other {second.number:g} {first.unit}{'' if first.unit == '%' else 's'}"
            )
            yield _Opposed("numbers", about, one, other)


def _reversed(corpus: Corpus, one: Directive, other: Directive) -> Iterator[_Opposed]:
    if one.better and other.better:
        turned = min(corpus.agreement(one.better, other.worse), corpus.agreement(one.worse, other.better))
        if turned >= _SAME_THING:
            yield _Opposed("reversed", "each prefers what the other advises against", one, other)
        return
    for first, second in ((one, other), (other, one)):
        if first.better and not second.conditional and not first.denies:
            thing, rival = (first.better, first.worse) if second.denies else (first.worse, first.better)
            if corpus.agreement(thing, second.about) >= _SAME_THING and not rival & second.about:
                yield _Opposed("reversed", "one prefers what the other advises against", one, other)


def _denied(corpus: Corpus, one: Directive, other: Directive) -> Iterator[_Opposed]:
    if one.denies == other.denies or one.conditional or other.conditional or one.better or other.better:
        return
    denied, demanded = (one, other) if one.denies else (other, one)
    named = denied.thing == demanded.thing or len(denied.thing) > 1
    says_it_all = named and len(denied.about) > 1 and denied.thing <= demanded.thing
    if says_it_all and corpus.agreement(denied.about, demanded.about) >= _ABOUT_THE_SAME:
        yield _Opposed("opposed", "one forbids what the other demands", one, other)


def _alternatives(one: Directive, other: Directive) -> Iterator[_Opposed]:
    if one.denies or other.denies:
        return
    for choice in _CHOICES:
        if choice.subject.search(one.text) and choice.subject.search(other.text):
            picks = [
                (bool(choice.one.search(text)), bool(choice.other.search(text))) for text in (one.text, other.text)
            ]
            if sorted(picks) == [(False, True), (True, False)]:
                yield _Opposed("alternatives", f"one says {choice.names[0]}, the other {choice.names[1]}", one, other)
    cases = _cases(one.text), _cases(other.text)
    if len(cases[0]) == len(cases[1]) == 1 and cases[0] != cases[1]:
        things = _things(_NAMED_THINGS, one.text), _things(_NAMED_THINGS, other.text)
        if things[0] and things[0] == things[1]:
            yield _Opposed(
                "alternatives", f"names of one thing in {' and '.join(sorted(cases[0] | cases[1]))} case", one, other
            )


def _cases(text: str) -> set[str]:
    return {found.lastgroup or "" for found in _CASES.finditer(text)}


def _things(pattern: re.Pattern[str], text: str) -> frozenset[str]:
    return frozenset(term for found in pattern.findall(text) for term in terms(found))


def _finding(corpus: Corpus, pair: Pair, found: _Opposed) -> Finding:
    return Finding(
        kind="contradictions",
        shape=found.shape,
        about=found.about,
        next_step="decide which one holds and change or delete the other; where both do, say for which files or cases",
        rules=(
            concerned(corpus.rules[pair.one], found.one.text),
            concerned(corpus.rules[pair.other], found.other.text),
        ),
        similarity=pair.similarity,
    )
