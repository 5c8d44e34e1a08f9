"""What the sentences of a rule command: to do or leave something, to prefer one thing to another, to keep a limit.

Read by word lists and patterns, so that each finding can name the sentence and how it was read. A sentence that is not
understood commands nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from symmetra_mcp.ingest.wording import starts_with_command
from symmetra_mcp.words import terms

Terms = frozenset[str]

_SENTENCE_END = re.compile(r"(?<=[^\W\d_]{2}[.!?])\s+|\n+|;\s+|\s[\u2013\u2014]\s|[\u3002\uff01\uff1b]")
_TURN = re.compile(
    r",?\s+(?:but|and)\s+(?=(?:never|do not|don['\u2019]t|avoid)\b)|,\s+(?=(?:never|not|do not|don['\u2019]t|avoid)\b)",
    re.I,
)
_MARKUP = re.compile(r"^(?:[\s>#*+\-\u2022]|\d+[.)]\s|\[[ x]?\])+|[*_]{2,}")
_LABEL = re.compile(r"^\W{0,3}[^\n.:`]{1,40}:\s+")
_DENIES = re.compile(
    r"\b(?:never|avoid|do not|don['\u2019]t|must not|mustn['\u2019]t|should not|shouldn['\u2019]t|shall not|may not"
    r"|forbidden|prohibited|disallow(?:ed)?|not allowed|not permitted|prevent|forbid|ban|eliminate)\b|^no\s",
    re.IGNORECASE,
)
_COMMANDS = re.compile(
    r"\b(?:always|must|should|shall|use|using|prefer|favou?r|require[sd]?|ensure|mandatory|allowed|recommended)\b", re.I
)
_CONDITION = re.compile(
    r"\b(?:unless|except|without|only|just|solely|directly|manually|when|where|if|while|until|before|after|instead|rather"
    r"|than|too|over-?us\w+|excessiv\w+|unnecessar\w+|needless\w*|blindly|alone|both|either|may|might|can|consider"
    r"|so|that|which|whose|minimi[sz]e|reduce|limit|optional\w*|possible|appropriate|sparing\w*|other|every|all|any"
    r"|more|again|twice|yet|anymore|because|since)\b|\u2192|->",
    re.IGNORECASE,
)
_USES = re.compile(r"\b(?:use|using)\s+(?P<thing>\S.{0,60}?)\s+(?:for|to|in|as|with|on)\s", re.IGNORECASE)
_PREFERS = re.compile(
    r"\b(?:prefer(?:red|s)?|favou?r|use|choose|pick)\s+(?P<better>(?:[^.,;:()\n]|\.(?=\w)){2,60}?)\s+"
    r"(?:over|instead of|rather than|in preference to|in place of)\s+(?P<worse>(?:[^.,;:()\n]|\.(?=\w)){2,60})",
    re.IGNORECASE,
)
_PREFERS_TURNED = re.compile(
    r"\b(?:instead of|rather than)\s+(?P<worse>(?:[^.,;:()\n]|\.(?=\w)){2,60}),\s*"
    r"(?:always\s+)?(?:use|prefer|choose)\s+"
    r"(?P<better>(?:[^.,;:()\n]|\.(?=\w)){2,60})",
    re.IGNORECASE,
)
_CUT_AFTER = re.compile(r"\s+(?:for|when|where|if|in|to|as|because|since|unless|with|so|that|which)\s.*", re.I | re.S)
_LIMIT = re.compile(
    r"(?<![\d.,\u2013-])(?P<number>\d[\d,]*(?:\.\d+)?|two|three|four|five|eight|ten)[\s-]*(?P<unit>%|percent"
    r"|char(?:acter)?s?|columns?|cols|lines?|spaces?|words?"
    r"|milliseconds|ms|seconds?|secs?|minutes?|mins?|hours?|days?|px|rem|kb|mb|gb|kib|mib|parameters?|params?"
    r"|arguments?|args|levels?|files?|methods?|items?|retries|attempts|tokens?)(?![\w])",
    re.IGNORECASE,
)
_LINE_LENGTH = re.compile(r"\bline[- ]?(?:length|width)\D{0,25}(?P<number>\d{2,3})\b(?!\s*(?:%|px))", re.IGNORECASE)
_NUMBER_WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "eight": 8, "ten": 10}
_BOUNDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "least",
        re.compile(
            r"\b(?:at least|min(?:imum)?(?: of)?|no (?:less|fewer) than|(?<!no )(?:more|greater) than|or more|above)\b",
            re.I,
        ),
    ),
    (
        "most",
        re.compile(
            r"\b(?:at most|max(?:imum)?(?: of)?|up to|no more than|no longer than|less than|fewer than|or less|or fewer"
            r"|under|below|within|limit(?:ed)?(?: to)?|exceed(?:ing)?|longer than|length|wrap|width)\b",
            re.IGNORECASE,
        ),
    ),
    ("exact", re.compile(r"\b(?:indent(?:ation|ed)?|coverage|tab ?size)\b", re.I)),
)
_UNITS = {
    **dict.fromkeys(("%", "percent"), "%"),
    **dict.fromkeys(("char", "chars", "character", "characters", "column", "columns", "cols"), "character"),
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("second", "seconds", "sec", "secs"), "second"),
    **dict.fromkeys(("minute", "minutes", "min", "mins"), "minute"),
    **dict.fromkeys(("parameter", "parameters", "param", "params", "argument", "arguments", "args"), "parameter"),
    **dict.fromkeys(("attempts", "retries"), "attempt"),
}


def _stems(words: str) -> Terms:
    return frozenset(terms(words))


DIRECTIVE_WORDS = _stems(
    "use using used prefer favor avoid never always must should shall ensure do dont don not instead over rather than "
    "follow consider please make sure need required require mandatory forbidden prohibited allowed choose keep cannot "
    "can t recommend recommended no may strictly critical note rule code good best practice"
)
"""Words of commanding, which say nothing of what is commanded."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A number that something may have.

    Attributes:
        unit: What is counted.
        bound: `least`, `most` or `exact`.
    """

    number: float
    unit: str
    bound: str


@dataclass(frozen=True, slots=True)
class Directive:
    """One clause of a rule.

    Attributes:
        text: As it is written.
        denies: It forbids what it is about; else it demands it.
        conditional: It holds under a condition or for a part, so that another may well say the opposite.
        about: Terms of what it is about.
        thing: Terms of what it says to use, where it says what for; else of all it is about.
        better: Terms of what it prefers; empty where it compares nothing.
        worse: Terms of what it prefers that to.
        limits: Numbers it sets.
    """

    text: str
    denies: bool
    conditional: bool
    about: Terms
    thing: Terms
    better: Terms = frozenset()
    worse: Terms = frozenset()
    limits: tuple[Limit, ...] = ()


@lru_cache(maxsize=16_384)
def directives(prose: str) -> tuple[Directive, ...]:
    """The clauses of a rule that command something, in order."""
    return tuple(directive for clause in _clauses(prose[:4000]) if (directive := _directive(clause)) is not None)


def _clauses(prose: str) -> Iterator[str]:
    for sentence in _SENTENCE_END.split(prose):
        for clause in _TURN.split(sentence or ""):
            cleaned = _MARKUP.sub("", clause or "").strip()
            if 4 < len(cleaned) < 300:
                yield cleaned


def _directive(clause: str) -> Directive | None:
    denied = _DENIES.search(clause) or re.match(r"not\s", clause, re.I)
    limits = tuple(_limits(clause))
    better, worse = _preference(clause)
    if not (denied or limits or better or _COMMANDS.search(clause) or starts_with_command(clause)):
        return None
    about = frozenset(terms(clause)) - DIRECTIVE_WORDS
    used = _USES.search(clause)
    return Directive(
        text=clause,
        denies=bool(denied),
        conditional=bool(_CONDITION.search(_LABEL.sub("", clause))),
        about=about,
        thing=_stems(used["thing"]) - DIRECTIVE_WORDS if used else about,
        better=better,
        worse=worse,
        limits=limits,
    )


def _preference(clause: str) -> tuple[Terms, Terms]:
    found = _PREFERS.search(clause) or _PREFERS_TURNED.search(clause)
    if found is None or _DENIES.search(clause[: found.start()]):
        return frozenset(), frozenset()
    better, worse = (_stems(_CUT_AFTER.sub("", found[name])) - DIRECTIVE_WORDS for name in ("better", "worse"))
    if not better or not worse or better & worse:  # `a for x over a for y`: not two things
        better, worse = better - worse, worse - better
    return (better, worse) if better and worse else (frozenset(), frozenset())


def _limits(clause: str) -> Iterator[Limit]:
    found = list(_LIMIT.finditer(clause))
    line_length = _LINE_LENGTH.search(clause)
    if not found and line_length is not None:
        yield Limit(float(line_length["number"]), "character", "most")
    if len(found) != 1:  # ranges and lists of limits
        return
    bound = next((name for name, pattern in _BOUNDS if pattern.search(clause)), "")
    if bound:
        unit, written = found[0]["unit"].lower(), found[0]["number"].lower().replace(",", "")
        yield Limit(float(_NUMBER_WORDS.get(written, 0) or written), _UNITS.get(unit, unit.rstrip("s")), bound)
