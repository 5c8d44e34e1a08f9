"""Rules that are not found even by those who ask for them in their own words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import anyio

from symmetra_mcp.audit.findings import Finding, Shape, concerned, listed
from symmetra_mcp.audit.questions import Pool, Words, sentence_question, title_question
from symmetra_mcp.project import SHARED_PROJECT, STARTER_PROJECT
from symmetra_mcp.search import DEFAULT_LIMIT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.audit.corpus import Vectors
    from symmetra_mcp.search import SearchAnswer
    from symmetra_mcp.types import Rule

Embed = Callable[[Sequence[str]], Awaitable["NDArray[np.float32]"]]
"""Embeds questions: shape `(n, dimensions)`."""
Ask = Callable[[str, str], Awaitable["SearchAnswer"]]
"""Searches for a question in a project."""
Tell = Callable[[int, int], None]

_BLOCK = 128
_QUOTED = 100


async def unfound_rules(
    rules: Iterable[Rule],
    known: Sequence[Rule],
    words: Words,
    vectors: Vectors,
    embed: Embed | None,
    ask: Ask,
    tell: Tell,
) -> list[Finding]:
    """Ask for each rule by its title, and where that does not find it by its first sentence.

    Args:
        rules: What to ask for.
        known: Every rule that is stored.
        words: Of every rule.
        vectors: Of their passages and of the probes.
        embed: Embeds questions; `None` where nothing does.
        ask: Searches as a user does.
        tell: Hears how many rules of how many were asked for.
    """
    of_project: defaultdict[str, list[Rule]] = defaultdict(list)
    for rule in rules:
        of_project[rule.project_id].append(rule)
    total, done = sum(map(len, of_project.values())), 0
    findings: list[Finding] = []
    for project_id, own in of_project.items():
        searched = [rule for rule in known if rule.project_id in (project_id, SHARED_PROJECT, STARTER_PROJECT)]
        pool = await anyio.to_thread.run_sync(Pool, searched, words, vectors) if embed is not None else None
        for start in range(0, len(own), _BLOCK):
            block = own[start : start + _BLOCK]
            doubtful = block
            if embed is not None and pool is not None:
                texts = [title_question(rule) for rule in block]
                sure = await anyio.to_thread.run_sync(pool.surely_found, block, texts, await embed(texts))
                doubtful = [rule for rule, found in zip(block, sure, strict=True) if not found]
            for rule in doubtful:
                findings += await _asked(rule, ask)
            done += len(block)
            tell(done, total)
    return findings


async def _asked(rule: Rule, ask: Ask) -> list[Finding]:
    questions = dict.fromkeys((title_question(rule), sentence_question(rule)))
    answer: SearchAnswer | None = None
    for question in questions:
        answer = await ask(question, rule.project_id)
        if _is_in(rule, answer):
            return []
    return [_finding(rule, list(questions), answer)] if answer is not None else []


def _is_in(rule: Rule, answer: SearchAnswer) -> bool:
    return any(one.key == rule.key for hit in answer.hits for one in (hit.rule, *hit.also))


def _finding(rule: Rule, questions: Sequence[str], answer: SearchAnswer) -> Finding:
    asked = " nor ".join(f"{question[:_QUOTED]!r}" for question in questions)
    shape, obstacle, next_step = _obstacle(rule, answer)
    return Finding(
        kind="unfound",
        shape=shape,
        about=f"{'neither ' if len(questions) > 1 else 'not even '}{asked} finds it: {obstacle}",
        next_step=next_step,
        rules=(concerned(rule),),
    )


def _obstacle(rule: Rule, answer: SearchAnswer) -> tuple[Shape, str, str]:
    """What stands in its way in the last answer."""
    if any(left.rule.key == rule.key and left.reason == "budget" for left in answer.omitted):
        return "over-budget", "better ones use up the tokens of the answer", "shorten it, or those before it"
    say_more = "say in its title and first sentence what it alone is about, or add keywords"
    if not answer.hits and answer.min_similarity is not None and answer.below:
        best = max((each.similarity or 0.0) for each in answer.below)
        return (
            "below-threshold",
            f"no rule applies, as the nearest has a similarity of {best:.2f} and {answer.min_similarity:.2f} is needed",
            say_more,
        )
    if len(answer.hits) >= DEFAULT_LIMIT:
        ahead = listed([hit.rule.rule_id for hit in answer.hits], DEFAULT_LIMIT)
        return "outranked", f"{ahead} come first", f"{say_more}; or merge it with those"
    return "below-threshold", "it is not near enough, where others are", say_more
