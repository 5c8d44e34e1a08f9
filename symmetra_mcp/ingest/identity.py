"""Ids that survive edits: which stated rule is which stored rule.

An id is made once, from where a rule was first met. After that a rule keeps its id by its text, wherever it moves; and
when its text is edited, by being the likeliest successor of the rule that is gone from the same file.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count

from symmetra_mcp.ingest.model import Statement

SHORT_TEXT = 40
"""Below this many characters the heading is part of what a rule says: `Keep it short` stands under many."""
SAME_HEADING_SIMILARITY = 0.6
SIMILARITY = 0.8

_MAX_CANDIDATES = 40
_WORD = re.compile(r"[^\W_]+")
_EMPHASIS = re.compile(r"[*`~]+")
_STRUCTURE = re.compile(r"[#>|\[\]]+|^\s*(?:[-+\u2022]|\d+[.)])\s+", re.MULTILINE)
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

TextKey = tuple[str, ...]


def normalized(text: str) -> str:
    """What of a text makes it the same rule elsewhere: its words, not its markers, case, blanks or last stop."""
    folded = _EMPHASIS.sub("", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(_STRUCTURE.sub(" ", folded).split()).rstrip(" .;:,!\u3002")


def slug(text: str, limit: int = 40) -> str:
    """Lower-case words joined by hyphens, whole words up to `limit`."""
    words = "-".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))
    if len(words) <= limit:
        return words
    return words[: words.rfind("-", 0, limit + 1)] if "-" in words[: limit + 1] else words[:limit]


def text_key(guidance: str, heading_path: Sequence[str]) -> TextKey:
    """The key under which equal rules of a project are one; short texts count with their headings."""
    text = normalized(guidance)
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return (digest, *(slug(title) for title in heading_path)) if len(text) < SHORT_TEXT else (digest,)


def new_id(statement: Statement, project_id: str, taken: Container[str] = ()) -> str:
    """A short readable id that depends on nothing but the statement itself; longer when that one is taken."""
    path = statement.sources[0].path
    headings = "/".join(slug(title) for title in statement.heading_path)
    told = "|".join((project_id, path, headings, normalized(statement.guidance)))
    digest = hashlib.sha1(told.encode(), usedforsecurity=False).hexdigest()
    stem = slug(statement.title) or "rule"
    candidates = chain(
        (f"{stem}-{digest[:size]}" for size in (8, 12, 20, 40)),
        (f"{stem}-{digest[:8]}-{number}" for number in count(2)),  # the same text twice at one place
    )
    return next(candidate for candidate in candidates if candidate not in taken)


def assign_ids(statements: Sequence[Statement], project_id: str) -> list[str]:
    """An id for each statement: its own, or a new one."""
    taken = {statement.rule_id for statement in statements if statement.rule_id}
    ids: list[str] = []
    for statement in statements:
        rule_id = statement.rule_id or new_id(statement, project_id, taken)
        taken.add(rule_id)
        ids.append(rule_id)
    return ids


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rule that is gone, or one that is new, in one file.

    Attributes:
        key: What the caller knows it by.
    """

    key: str
    title: str
    heading_path: tuple[str, ...]
    text: str


def match_edited(gone: Sequence[Candidate], new: Sequence[Candidate]) -> dict[str, str]:
    """Which new rule of a file is the edited form of which gone one: keys of `new` mapped to keys of `gone`.

    First by heading and title where both are unmistakable, then the most similar texts under the same heading, then
    those anywhere in the file. Each is matched at most once.
    """
    matched = _match_titles(gone, new)
    left_gone = [candidate for candidate in gone if candidate.key not in set(matched.values())]
    left_new = [candidate for candidate in new if candidate.key not in matched]
    taken: set[str] = set()
    for _, new_key, gone_key in sorted(_similar_pairs(left_gone, left_new)):
        if new_key not in matched and gone_key not in taken:
            matched[new_key] = gone_key
            taken.add(gone_key)
    return matched


def _match_titles(gone: Sequence[Candidate], new: Sequence[Candidate]) -> dict[str, str]:
    old_names, new_names = _by_name(gone), _by_name(new)
    return {
        newer[0].key: old_names[name][0].key
        for name, newer in new_names.items()
        if len(newer) == 1 and len(old_names.get(name, ())) == 1
    }


def _by_name(candidates: Sequence[Candidate]) -> Mapping[tuple[str, ...], list[Candidate]]:
    named: dict[tuple[str, ...], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        named[(*_heading_key(candidate), "", slug(candidate.title))].append(candidate)
    return named


def _heading_key(candidate: Candidate) -> tuple[str, ...]:
    return tuple(slug(title) for title in candidate.heading_path)


def _similar_pairs(gone: Sequence[Candidate], new: Sequence[Candidate]) -> list[tuple[tuple[int, float], str, str]]:
    """Pairs similar enough, best first when sorted: same heading before others, then by similarity."""
    grams = [_grams(candidate.text) for candidate in gone]
    holders: dict[str, list[int]] = defaultdict(list)
    for number, counts in enumerate(grams):
        for gram in counts:
            holders[gram].append(number)
    pairs: list[tuple[tuple[int, float], str, str]] = []
    for candidate in new:
        counts = _grams(candidate.text)
        for number in _likely(counts, holders):
            same = _heading_key(candidate) == _heading_key(gone[number])
            alike = _dice(counts, grams[number])
            if alike >= (SAME_HEADING_SIMILARITY if same else SIMILARITY):
                pairs.append(((0 if same else 1, -alike), candidate.key, gone[number].key))
    return pairs


def _likely(counts: Counter[str], holders: Mapping[str, list[int]]) -> list[int]:
    """Those that share the rarest words: comparing each with each would be quadratic."""
    hits: dict[int, float] = defaultdict(float)
    known = sorted((gram for gram in counts if gram in holders), key=lambda gram: (len(holders[gram]), gram))
    for gram in known[:12]:
        for number in holders[gram][:200]:
            hits[number] += 1 / len(holders[gram])
    return sorted(hits, key=lambda number: (-hits[number], number))[:_MAX_CANDIDATES]


def _grams(text: str) -> Counter[str]:
    """Words, and pairs of characters where a script has no blanks."""
    counts: Counter[str] = Counter()
    for word in _WORD.findall(normalized(text)):
        if len(word) > 1 and _CJK.search(word):
            counts.update(word[at : at + 2] for at in range(len(word) - 1))
        else:
            counts[word] += 1
    return counts


def _dice(first: Counter[str], second: Counter[str]) -> float:
    """Share of words that two texts have in common, 0 to 1."""
    total = first.total() + second.total()
    return 2 * (first & second).total() / total if total else 1.0
