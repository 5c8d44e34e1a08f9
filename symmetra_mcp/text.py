"""Answers as a model or a person reads them: plain text, complete by itself, no byte more than needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symmetra_mcp.schemas import EmbeddingAnswer, HealthAnswer, HitAnswer, ReembedAnswer, SearchResult


def unwrapped(text: str) -> str:
    """A docstring or block of prose as running text: its line breaks are the source file's."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))


def search_text(result: SearchResult) -> str:
    """A search's answer."""
    lines = [_verdict(result)]
    if result.degraded:
        lines.append(f"Degraded: {result.degraded}.")
    for number, hit in enumerate(result.hits, 1):
        lines += ["", *_hit_lines(number, hit)]
    if result.nearest:
        near = (f"{rule.title} ({rule.rule_id}){_similarity(rule.similarity)}" for rule in result.nearest)
        lines.append("Nearest, but not near enough: " + "; ".join(near) + ".")
    if result.omitted:
        left_out = (f"{rule.title} ({rule.rule_id}): {rule.reason}" for rule in result.omitted)
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
        return (
            f"{answer.missing} of {answer.texts} texts would be embedded in space {answer.space}; nothing was changed."
        )
    switched = f" Searches compared in {answer.switched_from} before." if answer.switched_from else ""
    done = f"{answer.embedded} texts embedded in space {answer.space}, {answer.missing} of {answer.texts} missing."
    return done + switched


def _verdict(result: SearchResult) -> str:
    where = f"{result.mode} search in {result.space}" if result.space else f"search by {result.mode}"
    considered = f"{result.rules_considered} rules considered"
    if result.out_of_scope:
        considered += f", {result.out_of_scope} more are about other files"
    if result.hits:
        count = len(result.hits)
        return f"{count} {'rule applies' if count == 1 else 'rules apply'} ({where}; {considered})."
    if not result.rules_considered:
        return f"No rule passes the filters ({considered})."
    return f"No rule applies ({where}; {considered})."


def _hit_lines(number: int, hit: HitAnswer) -> list[str]:
    about = ", ".join(part for part in (hit.priority, hit.category) if part)
    excerpt = f"\n(An excerpt; rule://{hit.project_id}/{hit.rule_id} has all of it.)" if hit.excerpt else ""
    facts = [hit.rule_id, hit.source, f"score {hit.score:.2f}{_similarity(hit.similarity)}", "; ".join(hit.matched)]
    if hit.also:
        facts.append("also stated as " + ", ".join(hit.also))
    return [
        f"{number}. {hit.title} [{about}]",
        hit.guidance + excerpt,
        "— " + " · ".join(fact for fact in facts if fact),
    ]


def _similarity(value: float | None) -> str:
    return "" if value is None else f", similarity {value:.2f}"
