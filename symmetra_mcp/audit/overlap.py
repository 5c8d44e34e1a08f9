"""Whether two rules can be about one file: what can never meet can't disagree."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symmetra_mcp.types import Scope

_MAX_EXPANSIONS = 64
_BRACES = re.compile(r"\{([^{}]*)\}")
_WILD = re.compile(r"[*?\[{(\\]|[!@+](?=\()")
_WILD_END = re.compile(r".*[*?\]})\\]", re.DOTALL)


def scopes_may_meet(one: Sequence[Scope], other: Sequence[Scope]) -> bool:
    """Whether some file may be in both scopes; only what is surely apart gives `False`."""
    return any(_globs_may_meet(first.globs, second.globs) for first, second in product(one, other))


@lru_cache(maxsize=65_536)
def _globs_may_meet(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    firsts, seconds = _included(one), _included(other)
    if not firsts or not seconds:
        return True
    return any(patterns_may_meet(first, second) for first, second in product(firsts, seconds))


def _included(globs: Sequence[str]) -> list[str]:
    """Patterns that include files; none where some pattern only excludes."""
    return [pattern for pattern in globs if not pattern.startswith("!") or pattern.startswith("!(")]


@lru_cache(maxsize=65_536)
def patterns_may_meet(one: str, other: str) -> bool:
    """Whether a path may match both patterns.

    Compared are what stands before the first wildcard and what stands after the last one: `src/**/*.ts` begins with
    `src/` and ends in `.ts`.
    """
    return any(_plain_may_meet(first, second) for first, second in product(_expanded(one), _expanded(other)))


def _plain_may_meet(one: str, other: str) -> bool:
    heads = sorted((_head(one), _head(other)), key=len)
    tails = sorted((_tail(one), _tail(other)), key=len)
    return heads[1].startswith(heads[0]) and tails[1].endswith(tails[0])


def _head(pattern: str) -> str:
    """What every match begins with; nothing for a name at any depth."""
    if "/" not in pattern:
        return ""
    pattern = pattern.removeprefix("/")
    wild = _WILD.search(pattern)
    return pattern[: wild.start()] if wild else f"{pattern}\0"  # a whole path: nothing may follow it


def _tail(pattern: str) -> str:
    """What the name of every match ends in."""
    wild = _WILD_END.match(pattern)
    return pattern[wild.end() if wild else 0 :].rsplit("/", 1)[-1]


def _expanded(pattern: str) -> list[str]:
    """The patterns that braces stand for; where they are many, nested or ranges, one that says less."""
    parts = _BRACES.split(pattern)
    choices = [part.split(",") if index % 2 else [part] for index, part in enumerate(parts)]
    many = 1
    for choice in choices:
        many *= len(choice)
    if many > _MAX_EXPANSIONS or ".." in pattern or any("{" in part or "}" in part for part in parts):
        return ["**"]
    return ["".join(chosen) for chosen in product(*choices)]
