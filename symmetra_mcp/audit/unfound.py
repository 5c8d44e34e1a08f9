"""Rules that are not found even by those who ask for them in their own words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from symmetra_mcp.audit.findings import Finding, Shape, concerned, listed
from symmetra_mcp.audit.questions import sentence_question, title_question
from symmetra_mcp.search import DEFAULT_LIMIT

if TYPE_CHECKING:
    from symmetra_mcp.search import SearchAnswer
    from symmetra_mcp.types import Rule

Prepare = Callable[[Sequence[str]], Awaitable[None]]
"""Has questions embedded together, so that searches for them find their vectors at hand."""
Ask = Callable[[str, str], Awaitable["SearchAnswer"]]
"""Searches for a question in a project."""
Tell = Callable[[int, int], None]

_BLOCK = 128
_QUOTED = 100


async def unfound_rules(rules: Sequence[Rule], prepare: Prepare, ask: Ask, tell: Tell) -> list[Finding]:
    """Ask for each rule by its title, and where that does not find it by its first sentence.

    Args:
        rules: What to ask for.
        prepare: Hears which questions come next.
        ask: Searches as a user does.
        tell: Hears how many rules of how many were asked for.
    """
    findings: list[Finding] = []
    for start in range(0, len(rules), _BLOCK):
        block = rules[start : start + _BLOCK]
        await prepare([title_question(rule) for rule in block])
        missed: list[tuple[Rule, SearchAnswer]] = []
        for done, rule in enumerate(block, start + 1):
            answer = await ask(title_question(rule), rule.project_id)
            if not _is_in(rule, answer):
                missed.append((rule, answer))
            tell(done, len(rules))
        await prepare([sentence_question(rule) for rule, _ in missed])
        for rule, answer in missed:
            findings += await _asked_again(rule, answer, ask)
    return findings


async def _asked_again(rule: Rule, answer: SearchAnswer, ask: Ask) -> list[Finding]:
    title, sentence = title_question(rule), sentence_question(rule)
    if sentence == title:
        return [_finding(rule, [title], answer)]
    answer = await ask(sentence, rule.project_id)
    return [] if _is_in(rule, answer) else [_finding(rule, [title, sentence], answer)]


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
