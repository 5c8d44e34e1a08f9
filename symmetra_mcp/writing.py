"""Rules that an assistant writes: saved and deleted in the store, never where a file states them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from symmetra_mcp.errors import ProviderError, RuleNotFoundError, RuleWriteError
from symmetra_mcp.ingest.identity import normalized, slug
from symmetra_mcp.project import SHARED_PROJECT, STARTER_PROJECT
from symmetra_mcp.search import MAX_QUERY_CHARACTERS, SearchRequest
from symmetra_mcp.types import Priority, Rule, RuleKey, Scope, Source

if TYPE_CHECKING:
    from symmetra_mcp.app import App

MAX_GUIDANCE_CHARACTERS = 20_000
SAYS_THE_SAME = 0.9
"""Cosine from which a rule is taken for another in other words; a person decides."""
_LOOKED_AT = 5
_SAVED = "saved"


@dataclass(frozen=True, slots=True)
class Draft:
    """A rule as somebody wants it; `None` keeps what a stored rule of this id has.

    Attributes:
        rule_id: Which rule; by default a new one, named by its title.
        globs: Files that it is about; empty for all.
    """

    title: str
    guidance: str
    rule_id: str = ""
    rationale: str | None = None
    category: str | None = None
    priority: Priority | None = None
    tech_stacks: tuple[str, ...] | None = None
    globs: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Near:
    """The stored rule that is nearest to a draft.

    Attributes:
        similarity: Cosine, where meaning could be compared.
        same: It says the same, or nearly.
    """

    rule: Rule
    similarity: float | None
    same: bool


@dataclass(frozen=True, slots=True)
class Saved:
    """What became of a draft.

    Attributes:
        rule: As it is stored, or would be.
        written: Whether it is stored now.
        created: There was no rule of this id before.
        nearest: The nearest other rule.
        not_embedded: Why it is found by its words alone for now; empty where it is not.
    """

    rule: Rule
    written: bool
    created: bool
    nearest: Near | None
    not_embedded: str = ""


async def save_rule(app: App, draft: Draft, *, project_id: str = "", confirm: bool = False) -> Saved:
    """Store a rule, unless another says the same.

    Args:
        app: Holds the store.
        draft: The rule.
        project_id: Its project; by default the one in hand, else `shared`.
        confirm: Store it although another says the same.

    Raises:
        RuleWriteError: The draft lacks something, or a file states the rule.
        StoreError: The store failed.
    """
    await app.ready()
    key = RuleKey(project_id or _own_project(app), draft.rule_id or slug(draft.title))
    _check(draft, key)
    former = await _stored(app, key)
    if former is not None:
        _check_ours(former)
        if not draft.rule_id and not confirm:
            raise RuleWriteError(
                f"there is a rule {key.rule_id!r} already: name it as rule_id to change it, or retitle"
            )
    rule = _made(draft, key, former)
    nearest = await _nearest(app, rule)
    if nearest is not None and nearest.same and former is None and not confirm:
        return Saved(rule, written=False, created=False, nearest=nearest)
    await app.store.upsert_rules([rule])
    not_embedded = ""
    try:
        await app.embed_missing(wait=False)
    except ProviderError as exc:
        not_embedded = str(exc)
    return Saved(rule, written=True, created=former is None, nearest=nearest, not_embedded=not_embedded)


async def deletable_rule(app: App, rule_id: str, *, project_id: str = "") -> Rule:
    """The rule that may be deleted.

    Raises:
        RuleNotFoundError: There is none.
        RuleWriteError: A file states it, or it is one of the product's own.
        StoreError: The store failed.
    """
    await app.ready()
    rule = await app.store.get_rule(RuleKey(project_id or _own_project(app), rule_id))
    _check_ours(rule)
    return rule


def is_written_by_hand(rule: Rule) -> bool:
    """Whether no file states a rule."""
    return not any(source.path for source in rule.sources)


def _own_project(app: App) -> str:
    return app.project.project_id if app.project is not None else SHARED_PROJECT


async def _stored(app: App, key: RuleKey) -> Rule | None:
    try:
        return await app.store.get_rule(key)
    except RuleNotFoundError:
        return None


def _check(draft: Draft, key: RuleKey) -> None:
    if key.project_id == STARTER_PROJECT:
        raise RuleWriteError("the project 'starter' holds the product's own rules: save it in another")
    if not draft.title.strip() or not draft.guidance.strip():
        raise RuleWriteError("a rule has a title and a guidance: say in a sentence what to do")
    if len(draft.guidance) > MAX_GUIDANCE_CHARACTERS:
        raise RuleWriteError(
            f"the guidance has {len(draft.guidance):,} characters, at most {MAX_GUIDANCE_CHARACTERS:,} are kept: "
            "save several rules, each about one thing"
        )
    if not key.rule_id:
        raise RuleWriteError("the title has no letters to make an id of: give a rule_id")


def _check_ours(rule: Rule) -> None:
    """Refuse a rule that comes back by itself.

    Raises:
        RuleWriteError: It is stated elsewhere.
    """
    if rule.project_id == STARTER_PROJECT:
        raise RuleWriteError(f"{rule.rule_id!r} is one of the product's own rules: save one of your own instead")
    if not is_written_by_hand(rule):
        place = next(str(source) for source in rule.sources if source.path)
        raise RuleWriteError(f"{rule.rule_id!r} is stated in {place}: change it there, as the file is read again")


def _made(draft: Draft, key: RuleKey, former: Rule | None) -> Rule:
    rule = former or Rule(key.project_id, key.rule_id, draft.title, draft.guidance)
    rule = replace(rule, title=draft.title.strip(), guidance=draft.guidance.strip())
    if draft.rationale is not None:
        rule = replace(rule, rationale=draft.rationale.strip())
    if draft.category is not None:
        rule = replace(rule, category=draft.category.strip())
    if draft.priority is not None:
        rule = replace(rule, priority=draft.priority)
    if draft.tech_stacks is not None:
        rule = replace(rule, tech_stacks=tuple(name.strip().lower() for name in draft.tech_stacks if name.strip()))
    if draft.globs is not None:
        globs = tuple(glob.strip() for glob in draft.globs if glob.strip())
        scope = Scope("files", globs, raw=", ".join(globs))
        rule = replace(rule, sources=(Source("", format=_SAVED, scope=scope),) if globs else ())
    return rule


async def _nearest(app: App, rule: Rule) -> Near | None:
    """The other rule that comes first when this one is asked for."""
    query = f"{rule.title}\n{rule.guidance}"[:MAX_QUERY_CHARACTERS]
    found = await app.search(SearchRequest(query, limit=_LOOKED_AT), project_id=rule.project_id, may_rerank=False)
    near = [
        Near(match.rule, match.similarity, _is_same(rule, match.rule, match.similarity))
        for match in (*found.hits, *found.below)
        if match.rule.key != rule.key
    ]
    return max(near, key=lambda one: (one.same, one.similarity or 0.0), default=None)


def _is_same(one: Rule, other: Rule, similarity: float | None) -> bool:
    return normalized(one.guidance) == normalized(other.guidance) or (similarity or 0.0) >= SAYS_THE_SAME
