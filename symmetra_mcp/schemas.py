"""Answers as clients and scripts read them: the tools' structured content and the command line's `--json`.

What is empty or unknown is left out, so an absent field means the default that stands here.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from symmetra_mcp.metering import UsageReport
    from symmetra_mcp.providers.base import Embeddings
    from symmetra_mcp.reembed import ReembedReport
    from symmetra_mcp.search import Omitted, RuleMatch, SearchAnswer
    from symmetra_mcp.stores.base import SpaceStatus
    from symmetra_mcp.types import HealthReport, Rule
    from symmetra_mcp.writing import Saved

_DIGITS = 3
_WORDS_SHOWN = 6
_REFUSED_SHOWN = 20
_OMITTED_TOLD = 10
"""Rules that an answer names without telling them: many that say the same would take more than the hits may."""
_ALSO_TOLD = 5


class Answer(BaseModel):
    """Base of every answer."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without what is empty or unknown."""
        return self.model_dump(exclude_none=True, exclude_defaults=True)


class HitAnswer(Answer):
    """One rule that applies."""

    rule_id: str
    project_id: str
    title: str
    guidance: str
    excerpt: Annotated[bool, Field(description="guidance is a part; read rule://{project_id}/{rule_id} for all")] = (
        False
    )
    category: str = ""
    priority: str
    score: Annotated[float, Field(description="Fused, or the re-ranker's; compares hits of this answer only")]
    similarity: Annotated[float | None, Field(description="Cosine with the query, -1 to 1")] = None
    confidence: Annotated[str, Field(description="high; medium; low: found by its words")] = ""
    matched: Annotated[list[str], Field(description="Why: meaning, words: ..., path: glob")]
    source: Annotated[str, Field(description="path:line of the file that states it")] = ""
    also: Annotated[list[str], Field(description="Ids of rules that say the same")] = []


class NearAnswer(Answer):
    """A rule that is near and does not apply."""

    rule_id: str
    project_id: str = ""
    title: str
    similarity: float | None = None


class OmittedAnswer(Answer):
    """A rule that fits and was left out."""

    rule_id: str
    project_id: Annotated[str, Field(description="Absent where hits and omitted are all of one project")] = ""
    title: str
    reason: Annotated[str, Field(description="over the token budget (with its size), or the same as another rule")]


class SearchResult(Answer):
    """Answer of `search_rules`."""

    verdict: Annotated[Literal["applies", "none"], Field(description="none: no stored rule is about this")]
    hits: list[HitAnswer]
    nearest: Annotated[list[NearAnswer], Field(description="When nothing applies: what came closest")] = []
    omitted: list[OmittedAnswer] = []
    mode: Annotated[Literal["hybrid", "words"], Field(description="words: meaning could not be compared")]
    degraded: Annotated[str, Field(description="What was missing and why; absent when nothing was")] = ""
    notice: Annotated[str, Field(description="A filter that no rule can pass, and the names there are")] = ""
    space: Annotated[str, Field(description="Embedding space that meaning was compared in")] = ""
    rules_considered: int
    out_of_scope: Annotated[int, Field(description="Rules left out because they are about other files")] = 0
    min_similarity: float | None = None
    reranked_by: Annotated[str, Field(description="Model that ordered the hits; absent: meaning and words did")] = ""
    tokens: Annotated[int, Field(description="Estimated size of the hits")] = 0


class EmbeddingAnswer(Answer):
    """Answer of `embed_text`."""

    space: Annotated[str, Field(description="provider/model@dimensions: compare with vectors of this space only")]
    provider: str
    model: str
    dimensions: int
    input_type: Literal["query", "document"]
    content_hash: Annotated[str, Field(description="Of the text: equal texts have equal vectors")]
    tokens: Annotated[int, Field(description="Tokens billed for it")] = 0
    preview: Annotated[list[float], Field(description="The first numbers of the vector")]
    vector: Annotated[list[float] | None, Field(description="All numbers, when asked for")] = None


class ComponentAnswer(Answer):
    """One part's state."""

    status: Literal["healthy", "degraded", "unhealthy"]
    problem: str = ""
    next_step: str = ""
    details: dict[str, str | int | float | bool] = {}


class HealthAnswer(Answer):
    """Answer of `health_check`."""

    status: Literal["healthy", "degraded", "unhealthy"]
    version: str
    components: dict[str, ComponentAnswer]
    notices: list[str] = []


class ReembedAnswer(Answer):
    """Answer of `reembed_all`."""

    space: str
    embedded: Annotated[int, Field(description="Texts embedded and stored by this call")]
    missing: Annotated[int, Field(description="Texts without a vector now; with dry_run, those a run would embed")]
    texts: Annotated[int, Field(description="Distinct texts that the rules need")]
    dry_run: bool = False
    switched_from: Annotated[str, Field(description="Space that searches compared in before")] = ""
    tokens: Annotated[int, Field(description="Tokens billed; with dry_run, an estimate")] = 0
    cost_usd: Annotated[float | None, Field(description="Their cost; absent where no price is known")] = None
    seconds: Annotated[float | None, Field(description="With dry_run, how long a run takes, if known")] = None
    refused: Annotated[list[str], Field(description="project/rule: why a text of it is not embedded")] = []
    kept: Annotated[list[str], Field(description="Texts refused now whose earlier vector stays, and why")] = []
    notice: Annotated[str, Field(description="What is left to do")] = ""
    running: Annotated[str, Field(description="Who is embedding instead of this call, and how far it is")] = ""


class SpaceAnswer(Answer):
    """One space of `spaces list`."""

    space: str
    active: bool
    texts: int
    missing: int
    refused: int
    left_at: str = ""


class SavedAnswer(Answer):
    """Answer of `save_rule`."""

    rule_id: str
    project_id: str
    saved: Annotated[bool, Field(description="false: a rule says the same, see nearest")]
    created: Annotated[bool, Field(description="There was no rule of this id before")] = False
    nearest: Annotated[NearAnswer | None, Field(description="The other rule that comes closest")] = None
    notice: Annotated[str, Field(description="Why it is found by its words alone for now")] = ""


class DeletedAnswer(Answer):
    """Answer of `delete_rule`."""

    rule_id: str
    project_id: str
    title: str
    deleted: bool


class UsageRowAnswer(Answer):
    """One model's use in one month."""

    month: str
    provider: str
    model: str
    purpose: str
    requests: int
    texts: int
    tokens: int
    cost_usd: Annotated[float, Field(description="Cost of the tokens whose price is known")]
    tokens_unpriced: int


class UsageAnswer(Answer):
    """What vendors cost."""

    rows: list[UsageRowAnswer]
    spent_usd: Annotated[float, Field(description="This month, over all providers")]
    limit_usd: Annotated[float | None, Field(description="Spending limit of a month")] = None
    problem: str = ""


def search_result(answer: SearchAnswer, *, notice: str = "") -> SearchResult:
    """A search's answer for clients.

    Args:
        answer: What was found.
        notice: What the asker should know about the filters.
    """
    projects = {hit.rule.project_id for hit in answer.hits} | {left.rule.project_id for left in answer.omitted}
    untold = len(answer.omitted) - _OMITTED_TOLD
    if untold > 0:
        notice = f"{notice} {untold} more rules were left out: ask something narrower.".strip()
    return SearchResult(
        verdict="applies" if answer.hits else "none",
        hits=[_hit(hit) for hit in answer.hits],
        nearest=[_near(near) for near in answer.below],
        omitted=[_omitted(omitted, with_project=len(projects) > 1) for omitted in answer.omitted[:_OMITTED_TOLD]],
        mode=answer.mode,
        degraded=answer.degraded,
        notice=notice,
        space=str(answer.space) if answer.space is not None else "",
        rules_considered=answer.considered,
        out_of_scope=answer.out_of_scope,
        min_similarity=_rounded(answer.min_similarity),
        reranked_by=answer.reranked_by,
        tokens=answer.tokens,
    )


def embedding_answer(
    embeddings: Embeddings, input_type: Literal["query", "document"], content_hash: str, *, whole: bool
) -> EmbeddingAnswer:
    """One text's vector for clients."""
    space, vector = embeddings.space, embeddings.vectors[0]
    return EmbeddingAnswer(
        space=str(space),
        provider=space.provider,
        model=space.model,
        dimensions=space.dimensions,
        input_type=input_type,
        content_hash=content_hash,
        tokens=embeddings.tokens,
        preview=[round(float(number), 6) for number in vector[:5]],
        vector=[float(number) for number in vector] if whole else None,
    )


def health_answer(report: HealthReport, version: str) -> HealthAnswer:
    """A health report for clients."""
    return HealthAnswer(
        status=report.status,
        version=version,
        components={
            name: ComponentAnswer(
                status=part.status,
                problem=part.problem,
                next_step=part.next_step,
                details={key: value for key, value in part.details.items() if value is not None},
            )
            for name, part in report.components.items()
        },
        notices=list(report.notices),
    )


def reembed_answer(report: ReembedReport) -> ReembedAnswer:
    """A re-embedding's report for clients."""
    return ReembedAnswer(
        space=str(report.space),
        embedded=report.embedded,
        missing=report.missing,
        texts=report.passages,
        dry_run=report.dry_run,
        switched_from=str(report.switched_from) if report.switched_from is not None else "",
        tokens=report.tokens,
        cost_usd=report.cost_usd if report.tokens else None,
        seconds=None if report.seconds is None else round(report.seconds, 1),
        refused=_first([f"{each.key.project_id}/{each.key.rule_id}: {each.reason}" for each in report.refused]),
        kept=_first([f"{beginning!r}: {reason}" for beginning, reason in report.kept]),
        notice=report.notice,
        running="" if report.running is None else str(report.running),
    )


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - _REFUSED_SHOWN
    return lines if more <= 0 else [*lines[:_REFUSED_SHOWN], f"and {more} more"]


def saved_answer(saved: Saved) -> SavedAnswer:
    """What became of a rule that was to be saved."""
    near = saved.nearest
    return SavedAnswer(
        rule_id=saved.rule.rule_id,
        project_id=saved.rule.project_id,
        saved=saved.written,
        created=saved.created,
        nearest=None
        if near is None
        else NearAnswer(
            rule_id=near.rule.rule_id,
            project_id=near.rule.project_id,
            title=near.rule.title,
            similarity=None if near.similarity is None else round(near.similarity, _DIGITS),
        ),
        notice=saved.not_embedded,
    )


def deleted_answer(rule: Rule, *, deleted: bool) -> DeletedAnswer:
    """What became of a rule that was to go."""
    return DeletedAnswer(rule_id=rule.rule_id, project_id=rule.project_id, title=rule.title, deleted=deleted)


def space_answer(status: SpaceStatus) -> SpaceAnswer:
    """A space for clients."""
    return SpaceAnswer(
        space=str(status.space),
        active=status.active,
        texts=status.passages,
        missing=status.missing,
        refused=status.refused,
        left_at=status.left_at,
    )


def usage_answer(usage: UsageReport) -> UsageAnswer:
    """What vendors cost, for scripts."""
    return UsageAnswer(
        rows=[UsageRowAnswer(**asdict(row)) for row in usage.rows],
        spent_usd=usage.spent_usd,
        limit_usd=usage.limit_usd,
        problem=usage.problem,
    )


def rule_markdown(rule: Rule) -> str:
    """A whole rule as Markdown, with where it applies and where it comes from."""
    facts = [rule.category, f"priority {rule.priority}", ", ".join(rule.tech_stacks)]
    globs = sorted({glob for scope in rule.scopes for glob in scope.globs})
    parts = [f"# {rule.title}", " | ".join(fact for fact in facts if fact), rule.guidance]
    if rule.rationale:
        parts.append(f"**Why:** {rule.rationale}")
    if globs:
        parts.append("Applies to: " + ", ".join(f"`{glob}`" for glob in globs))
    places = ", ".join(str(source) for source in rule.sources if source.path)
    if places:
        parts.append(f"Source: {places}")
    return "\n\n".join(parts) + "\n"


def matched_by(match: RuleMatch) -> list[str]:
    """Why a rule matched, a reason an entry."""
    reasons = ["meaning"] if match.why.meaning else []
    if match.why.words:
        reasons.append("words: " + ", ".join(match.why.words[:_WORDS_SHOWN]))
    if match.why.glob:
        reasons.append(f"path: {match.why.glob}")
    return reasons


def _hit(match: RuleMatch) -> HitAnswer:
    rule = match.rule
    return HitAnswer(
        rule_id=rule.rule_id,
        project_id=rule.project_id,
        title=rule.title,
        guidance=match.guidance,
        excerpt=match.excerpt,
        category=rule.category,
        priority=rule.priority,
        score=round(match.score, _DIGITS),
        similarity=_rounded(match.similarity),
        confidence=match.confidence,
        matched=matched_by(match),
        source=str(rule.sources[0]) if rule.sources else "",
        also=[other.rule_id for other in match.also[:_ALSO_TOLD]],
    )


def _near(near: RuleMatch) -> NearAnswer:
    return NearAnswer(
        rule_id=near.rule.rule_id,
        project_id=near.rule.project_id,
        title=near.rule.title,
        similarity=_rounded(near.similarity),
    )


def _omitted(omitted: Omitted, *, with_project: bool) -> OmittedAnswer:
    reason = f"same as {omitted.of}" if omitted.reason == "duplicate" else f"over budget: {omitted.tokens} tokens"
    return OmittedAnswer(
        rule_id=omitted.rule.rule_id,
        project_id=omitted.rule.project_id if with_project else "",
        title=omitted.rule.title,
        reason=reason,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
