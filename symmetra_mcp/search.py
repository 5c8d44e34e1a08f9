"""From a question to the few rules that answer it.

Knows the two contracts only, a provider's and a store's. A provider that is down never makes an answer wrong: words
alone answer then, and the answer says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from symmetra_mcp.calibration import UNCALIBRATED
from symmetra_mcp.errors import ProviderError, SpaceMismatchError, SymmetraError
from symmetra_mcp.languages import languages_of_code
from symmetra_mcp.passages import passage_body
from symmetra_mcp.reranking import rerank
from symmetra_mcp.rescoring import CANDIDATES, rescore
from symmetra_mcp.scopes import relative_path, tech_stacks_of
from symmetra_mcp.spans import span
from symmetra_mcp.stores.base import Candidate, Matches, MatchQuery, RuleFilter
from symmetra_mcp.tokens import cut_to_tokens, estimate_tokens
from symmetra_mcp.words import MAX_QUERY_TERMS, query_terms

if TYPE_CHECKING:
    from symmetra_mcp.calibration import Calibration, Calibrations, Confidence
    from symmetra_mcp.providers.select import ProviderChoice
    from symmetra_mcp.reranking import Reranking
    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.stores.base import RuleStore
    from symmetra_mcp.types import Priority, Rule

DEFAULT_LIMIT = 5
MAX_LIMIT = 50
DEFAULT_MAX_TOKENS = 2000
MIN_MAX_TOKENS = 100
MAX_QUERY_CHARACTERS = 20_000
"""Some 500 lines of code; what is longer is no question."""

_STRONG_WORDS = 0.5
"""Relevance from which words alone make a rule fit, whatever its meaning: it holds the question's best words."""
_CANDIDATES_PER_HIT = 3
_LONGEST_GUIDANCE = 400
"""Tokens of guidance from which a rule of several passages answers with its best passage."""
_HIT_OVERHEAD = 60
"""Tokens of a hit beside its guidance: title, source, why it matched."""
_SAME_SHARE = 0.85
"""Share of common words from which two rules say the same."""
_BELOW_SHOWN = 3
_WORD = re.compile(r"\w+")

Mode = Literal["hybrid", "words"]
OmittedReason = Literal["duplicate", "budget"]


class QueryError(SymmetraError, ValueError):
    """The question can't be searched for; the message says what to send instead."""


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A question and what may answer it.

    Attributes:
        query: What the asker is about to do, in words or code.
        project_ids: Projects to search; empty for all.
        excluded_project_ids: Projects to leave out.
        preferred_project_ids: Projects whose rules go first where others fit about as well.
        category: One category, or empty for all.
        min_priority: This priority or a higher one.
        tech_stacks: Rules of one of these, and rules that name none; empty for all.
        file_path: File in hand: rules for other files are left out, its tech stack is preferred.
        root: Folder that globs are relative to, for an absolute `file_path`.
        limit: Most hits to return.
        max_tokens: Most tokens that the hits may take together.
    """

    query: str
    project_ids: tuple[str, ...] = ()
    excluded_project_ids: tuple[str, ...] = ()
    preferred_project_ids: tuple[str, ...] = ()
    category: str = ""
    min_priority: Priority = "low"
    tech_stacks: tuple[str, ...] = ()
    file_path: str = ""
    root: str = ""
    limit: int = DEFAULT_LIMIT
    max_tokens: int = DEFAULT_MAX_TOKENS

    def __post_init__(self) -> None:
        if not self.query.strip():
            raise QueryError("the query is empty: say in a sentence what is about to be written or decided")
        if len(self.query) > MAX_QUERY_CHARACTERS:
            raise QueryError(
                f"the query has {len(self.query):,} characters, at most {MAX_QUERY_CHARACTERS:,} are read: "
                "send the few lines that matter, or a sentence about them"
            )
        if not 1 <= self.limit <= MAX_LIMIT:
            raise QueryError(f"limit must be 1 to {MAX_LIMIT}, got {self.limit}")
        if self.max_tokens < MIN_MAX_TOKENS:
            raise QueryError(f"max_tokens must be at least {MIN_MAX_TOKENS}, got {self.max_tokens}")


@dataclass(frozen=True, slots=True)
class Why:
    """Why a rule matched.

    Attributes:
        meaning: Whether its meaning is close to the question's.
        words: Words of the question that it holds.
        glob: Its glob that the file in hand matched, or empty.
    """

    meaning: bool
    words: tuple[str, ...]
    glob: str


@dataclass(frozen=True, slots=True)
class RuleMatch:
    """A rule that answers.

    Attributes:
        guidance: The rule's text, or its best passage where `excerpt` is set.
        score: Fused from meaning and words, or a re-ranker's; compares hits of one answer only.
        similarity: Cosine with the question, -1 to 1; `None` where meaning could not be compared.
        confidence: What the similarity means in its space.
        also: Rules that say the same, folded into this one.
    """

    rule: Rule
    guidance: str
    excerpt: bool
    score: float
    similarity: float | None
    why: Why
    confidence: Confidence
    also: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Omitted:
    """A rule that fits and is not in the answer.

    Attributes:
        reason: `duplicate` of the rule `of`, or over the token `budget`.
        tokens: What it would have taken.
    """

    rule: Rule
    reason: OmittedReason
    tokens: int = 0
    of: str = ""


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """What a search found, and how far to trust it.

    Attributes:
        hits: Best first; empty when nothing applies.
        below: Best rules when nothing applies: near, not near enough.
        omitted: Rules that fit and were left out.
        mode: `hybrid`, or `words` when meaning could not be compared.
        degraded: Why not everything was used, in plain words; empty when it was.
        space: Where meaning was compared, or `None`.
        considered: Rules that passed the filters.
        out_of_scope: Rules left out because they are about other files.
        min_similarity: Cosine that the best rule had to reach.
        tokens: Estimate of what the hits take.
        reranked_by: The re-ranker whose order it is; empty where meaning and words alone decided.
    """

    hits: tuple[RuleMatch, ...]
    below: tuple[RuleMatch, ...]
    omitted: tuple[Omitted, ...]
    mode: Mode
    degraded: str
    space: EmbeddingSpace | None
    considered: int
    out_of_scope: int
    min_similarity: float | None
    tokens: int
    reranked_by: str = ""


async def search(
    store: RuleStore,
    providers: ProviderChoice,
    request: SearchRequest,
    reranking: Reranking | None = None,
    *,
    calibrations: Calibrations | None = None,
) -> SearchAnswer:
    """Find the rules that matter for a question.

    Meaning is compared in the store's active space. While nothing embeds in it, a complete space of another provider
    stands in, with question and rules both of that space; else words alone answer. Either is told in `degraded`, and
    so is a re-ranker that could not order what was found.

    Args:
        store: Holds the rules and their vectors.
        providers: Embed the question.
        request: The question.
        reranking: Orders what was found, once more.
        calibrations: What cosines mean in the store's spaces.

    Raises:
        StoreError: The store failed: an outage is no empty answer.
    """
    query = _match_query(request, reranking)
    active = await store.active_space()
    degraded = ""
    space: EmbeddingSpace | None
    try:
        found, space = await _match_active(store, providers, active, query)
    except (ProviderError, SpaceMismatchError) as exc:
        found, space = await _match_otherwise(store, providers, active, query)
        where = f" in {active}" if active is not None else ""
        instead = "" if space is None else f"; {space} stands in, which may find other rules"
        degraded = f"meaning could not be compared{where}: {exc}{instead}"
    if found.considered and found.best_similarity is None and not degraded:
        degraded = f"none of {found.considered} rules is embedded yet: run `symmetra-mcp reembed`"
        space = None
    elif found.unembedded:
        degraded = f"{found.unembedded} of {found.considered} rules are not embedded yet and match by their words alone"
    is_open = not (query.preferred_tech_stacks or request.tech_stacks)
    found = replace(found, candidates=rescore(request.query, found.candidates, vote=is_open))
    ranked = await rerank(reranking, request.query, found)
    reasons = (found.degraded, degraded, ranked.degraded)
    calibration = UNCALIBRATED if calibrations is None else await calibrations.of(space)
    answer = _answer(request, ranked.found, space, calibration, "; ".join(reason for reason in reasons if reason))
    return replace(answer, reranked_by=ranked.by)


async def _match_active(
    store: RuleStore, providers: ProviderChoice, active: EmbeddingSpace | None, query: MatchQuery
) -> tuple[Matches, EmbeddingSpace]:
    """Match by meaning and words in the active space, once more where another machine has switched it meanwhile."""
    try:
        return await _match_meaning(store, providers, active, query)
    except SpaceMismatchError:
        now_active = await store.active_space()
        if now_active == active:
            raise
        return await _match_meaning(store, providers, now_active, query)


async def _match_meaning(
    store: RuleStore, providers: ProviderChoice, space: EmbeddingSpace | None, query: MatchQuery
) -> tuple[Matches, EmbeddingSpace]:
    """Match by meaning and words in one space.

    Raises:
        ProviderError: Nothing embeds in it now.
        SpaceMismatchError: It is not the store's, nor complete.
    """
    provider = await providers.serving(space)
    embeddings = await provider.embed_query(query.text)
    found = await _matched(store, replace(query, vector=embeddings.vectors[0], space=embeddings.space))
    return found, embeddings.space


async def _matched(store: RuleStore, query: MatchQuery) -> Matches:
    attributes = {
        "db.system.name": "postgresql" if store.is_shared else "sqlite",
        "db.operation.name": "match",
        "db.collection.name": "rules",
        "symmetra.match.mode": "words" if query.vector is None else "hybrid",
    }
    with span("match rules", attributes, leaves=store.is_shared) as current:
        found = await store.match(query)
        current.set_attribute("symmetra.match.considered", found.considered)
        current.set_attribute("db.response.returned_rows", len(found.candidates))
    return found


async def _match_otherwise(
    store: RuleStore, providers: ProviderChoice, active: EmbeddingSpace | None, query: MatchQuery
) -> tuple[Matches, EmbeddingSpace | None]:
    """Match in the first complete space that something embeds in now; by words alone where there is none."""
    for space in sorted(await store.complete_spaces(), key=lambda space: space.provider != "local"):
        if space != active:
            with suppress(ProviderError, SpaceMismatchError):
                return await _match_meaning(store, providers, space, query)
    return await _matched(store, query), None


def _match_query(request: SearchRequest, reranking: Reranking | None) -> MatchQuery:
    path = relative_path(request.file_path, request.root) if request.file_path else ""
    return MatchQuery(
        text=request.query,
        rule_filter=RuleFilter(
            project_ids=request.project_ids,
            excluded_project_ids=request.excluded_project_ids,
            category=request.category,
            min_priority=request.min_priority,
            tech_stacks=request.tech_stacks,
            path=path,
        ),
        preferred_tech_stacks=() if request.tech_stacks else tech_stacks_of(path) or languages_of_code(request.query),
        preferred_project_ids=request.preferred_project_ids,
        limit=max(request.limit * _CANDIDATES_PER_HIT, CANDIDATES, reranking.candidates if reranking else 0),
    )


def _answer(
    request: SearchRequest, found: Matches, space: EmbeddingSpace | None, calibration: Calibration, degraded: str
) -> SearchAnswer:
    background = found.background if space is not None else None
    threshold = None if background is None else background + calibration.margin
    applies = threshold is None or found.best_similarity is None or found.best_similarity >= threshold
    # A few words are near to nothing. A rule that holds them all, and is nearer than chance, is meant.
    asked = frozenset(query_terms(request.query, MAX_QUERY_TERMS).values())
    applies = applies or any(_holds_all(one, asked, background) for one in found.candidates)
    # A rule that is not embedded yet has no nearness: its words decide.
    applies = applies or any(one.similarity is None and one.relevance >= _STRONG_WORDS for one in found.candidates)
    fitting = [candidate for candidate in found.candidates if not applies or _fits(candidate, background)]
    folded, duplicates = _fold(fitting, request.limit if applies else _BELOW_SHOWN)
    ranked = [_rule_match(candidate, also, threshold, calibration) for candidate, also in folded]
    hits, over_budget, tokens = _fit(ranked, request.max_tokens) if applies else ([], [], 0)
    return SearchAnswer(
        hits=tuple(hits),
        below=() if applies else tuple(ranked),
        omitted=(*over_budget, *duplicates) if applies else (),
        mode="words" if space is None else "hybrid",
        degraded=degraded,
        space=space,
        considered=found.considered,
        out_of_scope=found.out_of_scope,
        min_similarity=threshold,
        tokens=tokens,
    )


def _holds_all(candidate: Candidate, asked: frozenset[str], background: float | None) -> bool:
    near = candidate.similarity is not None and candidate.similarity >= (background or 0.0)
    return near and bool(asked) and asked <= frozenset(candidate.words)


def _fits(candidate: Candidate, background: float | None) -> bool:
    """Whether a rule of an answer is worth its tokens: nearer than chance, or found by the question's best words."""
    if background is None or candidate.similarity is None:
        return True
    return candidate.similarity >= background or candidate.relevance >= _STRONG_WORDS


def _fold(candidates: Iterable[Candidate], limit: int) -> tuple[list[tuple[Candidate, list[Rule]]], list[Omitted]]:
    """The best `limit` candidates that differ, each with the rules that say the same."""
    kept: list[tuple[Candidate, list[Rule], frozenset[str]]] = []
    duplicates: list[Omitted] = []
    for candidate in candidates:
        words = frozenset(_WORD.findall(candidate.rule.guidance.lower()))
        same = next((entry for entry in kept if _says_the_same(words, entry[2])), None)
        if same is not None:
            same[1].append(candidate.rule)
            duplicates.append(Omitted(candidate.rule, "duplicate", of=same[0].rule.rule_id))
        elif len(kept) < limit:
            kept.append((candidate, [], words))
    return [(candidate, also) for candidate, also, _ in kept], duplicates


def _says_the_same(words: frozenset[str], others: frozenset[str]) -> bool:
    union = len(words | others)
    return bool(union) and len(words & others) / union >= _SAME_SHARE


def _rule_match(
    candidate: Candidate, also: Sequence[Rule], threshold: float | None, calibration: Calibration
) -> RuleMatch:
    rule = candidate.rule
    excerpt = bool(candidate.passage) and estimate_tokens(rule.guidance) > _LONGEST_GUIDANCE
    close = candidate.similarity is not None and (threshold is None or candidate.similarity >= threshold)
    return RuleMatch(
        rule=rule,
        guidance=passage_body(rule, candidate.passage) if excerpt else rule.guidance,
        excerpt=excerpt,
        score=candidate.score,
        similarity=candidate.similarity,
        why=Why(meaning=close, words=candidate.words, glob=candidate.matched_glob),
        confidence=calibration.confidence(candidate.similarity, threshold),
        also=tuple(also),
    )


def _fit(ranked: Sequence[RuleMatch], max_tokens: int) -> tuple[list[RuleMatch], list[Omitted], int]:
    """What fits the budget, in order; the best rule always does, cut if it must be."""
    hits: list[RuleMatch] = []
    omitted: list[Omitted] = []
    used = 0
    for match in ranked:
        size = estimate_tokens(match.guidance) + _HIT_OVERHEAD
        fitting = match
        if not hits and size > max_tokens:
            guidance = cut_to_tokens(match.guidance, max(max_tokens - _HIT_OVERHEAD, MIN_MAX_TOKENS // 2))
            fitting, size = replace(match, guidance=guidance, excerpt=True), max_tokens
        if used + size > max_tokens:
            omitted.append(Omitted(match.rule, "budget", tokens=size))
            continue
        hits.append(fitting)
        used += size
    return hits, omitted, used
