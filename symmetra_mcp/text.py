"""Answers as a model or a person reads them: plain text, complete by itself, no byte more than needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote

from symmetra_mcp.errors import LONGEST_NAME
from symmetra_mcp.project import STARTER_PROJECT

if TYPE_CHECKING:
    from symmetra_mcp.schemas import (
        DeletedAnswer,
        EmbeddingAnswer,
        HealthAnswer,
        HitAnswer,
        NearAnswer,
        OmittedAnswer,
        ReembedAnswer,
        SavedAnswer,
        SearchResult,
        UsageAnswer,
    )
    from symmetra_mcp.types import Rule, Stage

STAGES: dict[Stage, str] = {
    "read": "Reading rule files",
    "write": "Writing rules",
    "embed": "Embedding rules",
    "index": "Indexing vectors",
    "vectors": "Copying vectors",
    "compare": "Comparing rules",
    "ask": "Asking questions",
}
"""What a long call is doing, as a person reads it."""

_NAMES_SHOWN = 20
_PROGRESS_EVERY_S = 5.0
_PROGRESS_LINES = 10
_PROGRESS_AT_LEAST_EVERY_S = 60.0


def unwrapped(text: str) -> str:
    """A docstring or block of prose as running text: its line breaks are the source file's."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))


def search_text(result: SearchResult) -> str:
    """A search's answer."""
    lines = [_verdict(result)]
    with_project = shows_projects(result)
    if result.degraded:
        lines.append(f"Degraded: {result.degraded}.")
    if result.notice:
        lines.append(f"Notice: {result.notice}")
    if result.reranked_by:
        lines.append(f"Order: {result.reranked_by}.")
    for number, hit in enumerate(result.hits, 1):
        lines += ["", *_hit_lines(number, hit, with_project=with_project)]
    if result.nearest:
        near = (
            f"{rule.title} ({named(rule, with_project=with_project)}){_similarity(rule.similarity)}"
            for rule in nearest_first(result)
        )
        lines.append("Nearest, but not near enough: " + "; ".join(near) + ".")
    if result.omitted:
        left_out = (
            f"{rule.title} ({named(rule, with_project=with_project)}): {rule.reason}" for rule in result.omitted
        )
        lines += ["", "Left out: " + "; ".join(left_out) + "."]
    return "\n".join(lines)


def embedding_text(answer: EmbeddingAnswer) -> str:
    """One text's vector, or its beginning."""
    numbers = answer.vector if answer.vector is not None else answer.preview
    shown = ", ".join(f"{number:.6g}" for number in numbers)
    rest = "" if answer.vector is not None else ", …"
    return (
        f"{answer.dimensions} dimensions in space {answer.space}, embedded as {answer.input_type}, "
        f"content hash {answer.content_hash}: [{shown}{rest}]"
    )


def health_text(answer: HealthAnswer) -> str:
    """A health report, a line a part."""
    lines = [f"symmetra-mcp {answer.version}: {answer.status}"]
    for name, part in answer.components.items():
        details = ", ".join(f"{key} {value}" for key, value in part.details.items())
        lines.append(f"{name}: {part.status}{f' ({details})' if details else ''}")
        if part.problem:
            lines.append(f"  problem: {part.problem}. {part.next_step}.")
    lines += [f"notice: {notice}" for notice in answer.notices]
    return "\n".join(lines)


def reembed_text(answer: ReembedAnswer) -> str:
    """A re-embedding's report."""
    if answer.dry_run:
        about = [_cost(answer.tokens, answer.cost_usd)] if answer.tokens else []
        about += [duration(answer.seconds)] if answer.seconds is not None and answer.missing else []
        cost = f" (about {', '.join(about)})" if about else ""
        return (
            f"{answer.missing} of {counted(answer.texts, 'text')} would be embedded in space {answer.space}{cost}; "
            "nothing was changed."
        )
    if answer.running:
        return f"{answer.running}. Ask again to hear how far it is; searches go on meanwhile."
    refused = "".join(f"\nNot embedded, found by its words: {line}" for line in answer.refused)
    refused += "".join(f"\nNot embedded again, found by the vector it had: {line}" for line in answer.kept)
    refused += f"\nNotice: {answer.notice}." if answer.notice else ""
    switched = f" Searches compared in {answer.switched_from} before." if answer.switched_from else ""
    embedded = f"{counted(answer.embedded, 'text')} embedded in space {answer.space}"
    cost = f" Billed: {_cost(answer.tokens, answer.cost_usd)}." if answer.tokens else ""
    return f"{embedded}, {answer.missing} of {answer.texts} missing.{cost}{switched}{refused}"


def saved_text(answer: SavedAnswer) -> str:
    """What became of a rule that was to be saved."""
    name = f"{answer.project_id}/{answer.rule_id}"
    near = answer.nearest
    nearest = (
        f" Nearest: {near.project_id}/{near.rule_id} ({near.title}){_similarity(near.similarity)}." if near else ""
    )
    if not answer.saved:
        step = "Change that rule by its rule_id, or call again with confirm=true."
        return f"{name} is not saved: another rule says the same.{nearest} {step}"
    notice = f" Found by its words for now: {answer.notice}" if answer.notice else ""
    return f"{name} is {'saved' if answer.created else 'changed'}.{nearest}{notice}"


def deleted_text(answer: DeletedAnswer) -> str:
    """What became of a rule that was to go."""
    name = f"{answer.project_id}/{answer.rule_id} ({answer.title})"
    if answer.deleted:
        return f"{name} is deleted."
    return (
        f"{name} is still there: nothing is deleted without the user's word. Show it, and call again with confirm=true."
    )


def usage_text(answer: UsageAnswer) -> str:
    """What vendors cost, a line a model and purpose."""
    lines = []
    for row in answer.rows:
        unknown = f", {row.tokens_unpriced:,} of them of unknown price" if row.tokens_unpriced else ""
        lines.append(
            f"{row.month}  {row.provider}/{row.model}  {row.purpose}: {counted(row.requests, 'request')}, "
            f"{counted(row.texts, 'text')}, {row.tokens:,} tokens{unknown}, {dollars(row.cost_usd)}"
        )
    limit = f" of {dollars(answer.limit_usd)}" if answer.limit_usd is not None else ""
    lines.append(f"This month: {dollars(answer.spent_usd)}{limit}")
    if answer.problem:
        lines.append(f"Problem: {answer.problem}")
    return "\n".join(lines)


def dollars(usd: float) -> str:
    """An amount in US dollars, with as many digits as small amounts need."""
    if usd >= 1 or usd == 0:
        return f"${usd:.2f}"
    return f"${usd:.6f}" if usd >= 0.000001 else "less than $0.000001"


def duration(seconds: float) -> str:
    """A time in the unit that people use for it."""
    for unit, size in (("hour", 3600), ("minute", 60)):
        if seconds >= 1.5 * size:
            return counted(round(seconds / size), unit)
    return counted(max(1, round(seconds)), "second")


def _cost(tokens: int, cost_usd: float | None) -> str:
    """Tokens and what they cost."""
    return f"{tokens:,} tokens, {'price unknown' if cost_usd is None else dollars(cost_usd)}"


def rule_text(rule: Rule) -> str:
    """A whole rule as Markdown, with all that names it."""
    from symmetra_mcp.schemas import rule_markdown

    parts = [rule_markdown(rule).rstrip("\n"), f"Rule: {rule.rule_id} (project {rule.project_id})"]
    if rule.keywords:
        parts.append("Keywords: " + ", ".join(rule.keywords))
    return "\n\n".join(parts) + "\n"


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural where it needs one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def considered(result: SearchResult) -> str:
    """How many rules an answer was chosen from."""
    if not result.out_of_scope:
        return f"{counted(result.rules_considered, 'rule')} considered"
    others = "1 more is" if result.out_of_scope == 1 else f"{result.out_of_scope} more are"
    return f"{counted(result.rules_considered, 'rule')} considered, {others} about other files"


def shows_projects(result: SearchResult) -> bool:
    """Whether the rules belong to several projects, the starter rules aside: an id alone says too little then."""
    named_rules: list[HitAnswer | NearAnswer | OmittedAnswer] = [*result.hits, *result.nearest, *result.omitted]
    return len({rule.project_id for rule in named_rules} - {STARTER_PROJECT, ""}) > 1


def named(rule: HitAnswer | NearAnswer | OmittedAnswer, *, with_project: bool) -> str:
    """A rule's id, with its project where that is not plain."""
    return f"{rule.rule_id} (project {rule.project_id})" if with_project and rule.project_id else rule.rule_id


def rule_uri(project_id: str, rule_id: str) -> str:
    """The address of a whole rule as a resource.

    Returns:
        Empty for a rule called `.` or `..`: clients that normalize addresses would ask for another one.
    """
    return "" if rule_id in (".", "..") else f"rule://{quote(project_id, safe='')}/{quote(rule_id, safe='')}"


def nearest_first(result: SearchResult) -> list[NearAnswer]:
    """What came closest, by the number that is shown: their own order takes words into account as well."""
    return sorted(result.nearest, key=lambda near: -2 if near.similarity is None else near.similarity, reverse=True)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """That nothing of a kind has this name, with a name that looks like it and those there are.

    Args:
        kind: What it names, such as `project`.
        name: What was asked for.
        known: Names there are, in any order.
    """
    from difflib import get_close_matches

    name = name[:LONGEST_NAME]
    names = sorted(set(known))
    close = get_close_matches(name.casefold(), [other.casefold() for other in names], 1)
    meant = next((f" Did you mean {other!r}?" for other in names if close and other.casefold() == close[0]), "")
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    listed = f"there are: {', '.join(names[:_NAMES_SHOWN])}{more}" if names else "there is none yet"
    return f"no {kind} {name!r}; {listed}.{meant}"


class ProgressLines:
    """Progress where no bar can be drawn, in a log or a pipe: quick work stays silent, long work tells a line at times.

    Args:
        clock: Seconds from any fixed point on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told_at = clock()
        self._told: tuple[Stage | None, int] = (None, 0)

    def line(self, stage: Stage, done: int, total: int) -> str:
        """The line that is due now, or empty: one each tenth of a stage, yet none sooner than 5 s after the last."""
        silent_s = self._clock() - self._told_at
        told_stage, told = self._told
        step = done - told if stage == told_stage else done
        stepped = step * _PROGRESS_LINES >= total or silent_s >= _PROGRESS_AT_LEAST_EVERY_S
        if silent_s < _PROGRESS_EVERY_S or not stepped:
            return ""
        self._told_at, self._told = self._clock(), (stage, done)
        return f"{STAGES[stage]}: {done} of {total}"


def _verdict(result: SearchResult) -> str:
    where = f"{result.mode} search in {result.space}" if result.space else f"search by {result.mode}"
    if result.hits:
        count = len(result.hits)
        return f"{count} {'rule applies' if count == 1 else 'rules apply'} ({where}; {considered(result)})."
    if not result.rules_considered:
        return f"No rule passes the filters ({considered(result)})."
    return f"No rule applies ({where}; {considered(result)})."


def _hit_lines(number: int, hit: HitAnswer, *, with_project: bool) -> list[str]:
    about = ", ".join(part for part in (hit.priority, hit.category) if part)
    whole = rule_uri(hit.project_id, hit.rule_id) or f"`symmetra-mcp rules show {hit.rule_id} -p {hit.project_id}`"
    excerpt = f"\n(An excerpt; {whole} has all of it.)" if hit.excerpt else ""
    name = named(hit, with_project=with_project)
    near = f"score {hit.score:.2f}{_similarity(hit.similarity)}, confidence {hit.confidence}"
    facts = [name, hit.source, near, "; ".join(hit.matched)]
    if hit.also:
        facts.append("also stated as " + ", ".join(hit.also))
    return [
        f"{number}. {hit.title} [{about}]",
        hit.guidance + excerpt,
        "— " + " · ".join(fact for fact in facts if fact),
    ]


def _similarity(value: float | None) -> str:
    return "" if value is None else f", similarity {value:.2f}"
