"""A rule's category, technologies and title, told from where it stands and from its own words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise

from symmetra_mcp.ingest import vocabulary
from symmetra_mcp.ingest.blocks import bullet_text, is_bullet, plain
from symmetra_mcp.ingest.wording import is_label

MAX_TITLE_CHARS = 80
_NUMBER = re.compile(r"^\d{1,2}(?:\.\d{1,2})*[.):]?\s+(?=\S)")
_BOLD_LEAD = re.compile(r"^\s*(?:\*\*|__)(.{2,80}?)(?:\*\*|__)(?=\s*(?:[:\uff1a\u2014\u2013(-]|$)|(?<=[:.]\*\*)\s)")
_FIELD_LEAD = re.compile(
    r"^\s*\**(?:title|name|rule|description|summary|guideline|principle|text|content)\**\s*:\**\s*", re.I
)

_CATEGORY_OF = {word: category for category, words in reversed(vocabulary.CATEGORIES.items()) for word in words.split()}
_LATIN_WORD = re.compile(r"[a-z0-9][a-z0-9/-]*")
_CJK_WORDS = {word: category for word, category in _CATEGORY_OF.items() if not word.isascii()}
_STEM_NOISE = re.compile(
    r"(?:^|[-_. ])(?:cursorrules?|prompt(?:-fil?e?)?|file|windsurfrules?|instructions?|rules?|mdc|\d+)(?=$|[-_. ])"
)


def _table(text: str) -> dict[str, tuple[str, ...]]:
    pairs = (entry.partition("=") for entry in text.split())
    return {name: tuple((stacks or name).split(",")) for name, _, stacks in pairs}


_NAMES = _table(vocabulary.NAMES)
_FILE_NAMES = {**_NAMES, **_table(vocabulary.FILE_NAMES)}
_EXTENSIONS = {
    ending: stacks for endings, stacks in _table(vocabulary.EXTENSIONS).items() for ending in endings.split(",")
}
_CAPITALIZED = frozenset(vocabulary.CAPITALIZED.split())
_PLAIN_STEMS = frozenset(vocabulary.PLAIN_STEMS.split())
_NO_TITLES = frozenset(vocabulary.NO_TITLES.split())
_NAME_IN_PROSE = re.compile(
    r"(?<![\w.@/#-])("
    + "|".join(re.escape(name).replace("\\-", "[- ]") for name in sorted(_NAMES, key=len, reverse=True))
    + r")(?![\w#+/-]|\.\w)",
    re.IGNORECASE,
)

_GO_IN_PROSE = re.compile(r"\bGo (?:code|style|modules?|packages?|files?|projects?|development|conventions?|idioms?)\b")


def heading_category(heading_path: Sequence[str]) -> str:
    """The category that the headings name, innermost first, or empty."""
    return next(filter(None, map(_category_named, reversed(heading_path))), "")


@lru_cache(maxsize=4096)
def _category_named(heading: str) -> str:
    words = _LATIN_WORD.findall(heading.lower())
    pairs = [f"{first}-{second}" for first, second in pairwise(words)]
    for word in (*pairs, *words):
        if word in _CATEGORY_OF:
            return _CATEGORY_OF[word]
    for word, category in reversed(_CJK_WORDS.items()):
        if word in heading:
            return category
    return ""


def category_of(heading_path: Sequence[str], stem: str) -> str:
    """A category for a rule: by its headings, else by its file's name, else `general`."""
    cleaned = _STEM_NOISE.sub("", stem.lower().lstrip(".")).strip("-_. ")
    named = "" if cleaned in _PLAIN_STEMS or stem.lower().lstrip(".") in _PLAIN_STEMS else cleaned
    by_words = heading_category(heading_path) or heading_category((re.sub("[-_]", " ", named),))
    if by_words:
        return by_words
    slug = "-".join(re.findall(r"[^\W\d_]{3,}", named))
    return slug if slug and slug.count("-") < 2 and not stack_of_name(slug) else "general"


def stack_of_globs(globs: Iterable[str]) -> tuple[str, ...]:
    """Technologies whose files the patterns name, or none when a pattern names no extension we know."""
    found: list[str] = []
    for pattern in globs:
        if pattern.startswith("!"):
            continue
        last = pattern.rsplit("/", 1)[-1].lower()
        stems = re.findall(r"(?:^|[.{,*])([a-z0-9]+)(?=[},*]|$)", last)
        found += [stack for stem in stems for stack in _EXTENSIONS.get(stem, ())]
    return tuple(dict.fromkeys(found))


def stack_of_name(stem: str) -> tuple[str, ...]:
    """Technologies that a file's or folder's name spells."""
    words = [word for word in re.split(r"[-_ ]+", stem.lower()) if word]
    pairs = [f"{first}-{second}" for first, second in pairwise(words)]
    dotted = [word.removesuffix(".instructions") for word in words]
    found = [stack for word in (*pairs, *dotted) for stack in _FILE_NAMES.get(word, ())]
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=4096)
def stack_of_prose(text: str) -> tuple[str, ...]:
    """Technologies that a description or a heading names; words that are also English count only with a capital."""
    found: list[str] = []
    for match in _NAME_IN_PROSE.finditer(text[:2000]):
        name = match[1]
        key = name.lower().replace(" ", "-")
        if key in _CAPITALIZED and not any(char.isupper() for char in name):
            continue
        found += _NAMES[key]
    if _GO_IN_PROSE.search(text[:2000]):
        found.append("go")
    return tuple(dict.fromkeys(found))


def title_of(text: str, heading_path: Sequence[str], *, suggested: str = "") -> str:
    """A rule's title: what its section is called, its bold lead, or its first clause; at most 80 characters."""
    if suggested and not is_label(suggested):
        return shorten(_NUMBER.sub("", suggested) or suggested)
    body = _first_paragraph(text)
    bold = _BOLD_LEAD.match(body)
    if bold and _names_something(plain(bold[1])):
        return shorten(plain(bold[1]))
    title = shorten(_first_clause(plain(_FIELD_LEAD.sub("", body))))
    if len(title) > 2 and not is_label(title):
        return title
    heading = shorten(_NUMBER.sub("", heading_path[-1])) if heading_path else ""
    return heading or title or "Untitled rule"  # a heading may be all marks


def _names_something(lead: str) -> bool:
    """Whether a bold lead is a title: not `MUST`, not `Example`, not the name of a field."""
    return len(lead) > 2 and not is_label(lead) and lead.lower() not in _NO_TITLES


def _first_paragraph(text: str) -> str:
    """The first lines that say something, joined as far as they are one paragraph."""
    found: list[str] = []
    for line in text[:3000].split("\n"):
        usable = plain(line[:700]) and not line.lstrip().startswith(("```", "~~~", "|", "<"))
        if found and (not usable or is_bullet(line) or re.match(r"^\s*(?:\*\*|#|Description:)", line)):
            break
        if usable:
            found.append(bullet_text(line).strip() if is_bullet(line) else line.strip())
    return " ".join(found)[:700]


def _first_clause(text: str) -> str:
    sentence = re.split(r"(?<=[^\W\d_]{2}[.!?])\s|[\u3002\uff01\uff1f]", text, maxsplit=1)[0].rstrip(".:; ")
    if len(sentence) <= MAX_TITLE_CHARS:
        return sentence
    for mark in (r"[;:\u2014\u2013]|\s\(|\s-\s", r",\s|[\uff0c\u3001]|\s(?:because|so that|unless|which|while)\s"):
        cuts = [found.start() for found in re.finditer(mark, sentence) if 20 <= found.start() <= MAX_TITLE_CHARS]
        if cuts:
            return sentence[: cuts[-1]].rstrip(" ,;:(")
    return sentence


def shorten(text: str) -> str:
    """`text` in at most 80 characters, cut between words."""
    if len(text) <= MAX_TITLE_CHARS:
        return text
    room = text[: MAX_TITLE_CHARS - 1]
    cut = room.rfind(" ")
    return (room[:cut] if cut > MAX_TITLE_CHARS // 2 else room).rstrip(" ,;:.(") + "\u2026"
