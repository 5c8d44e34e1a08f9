"""Is every part able to do its work, and what to do where one is not."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from symmetra_mcp.errors import ProviderError, StoreError, SymmetraError
from symmetra_mcp.providers.select import MIGRATE
from symmetra_mcp.types import ComponentHealth, ComponentStatus, Detail, HealthReport

if TYPE_CHECKING:
    from symmetra_mcp.providers.select import ProviderChoice
    from symmetra_mcp.reranking import Reranking
    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.stores.base import RuleStore

_PROBE = "vector database architecture"
_PROBE_DOCUMENTS = ("Choosing where vectors are stored", "Naming of variables")
_RANK: tuple[ComponentStatus, ...] = ("healthy", "degraded", "unhealthy")


async def check_health(
    store: RuleStore,
    providers: ProviderChoice,
    *,
    thorough: bool = False,
    known: Mapping[str, ComponentHealth] | None = None,
) -> HealthReport:
    """Ask every part.

    Args:
        store: Counted, and with `thorough` read from end to end.
        providers: The one that serves the store's space embeds a short text.
        thorough: Check the store's integrity too: seconds for a large one.
        known: Parts whose state the caller knows better.
    """
    components = {
        "store": await _guarded(lambda: _check_store(store, thorough)),
        "embedding": await _guarded(lambda: _check_provider(store, providers)),
        "rules": await _guarded(lambda: _check_rules(store, providers)),
        **(known or {}),
    }
    try:
        notice = await other_space_notice(store, providers)
    except StoreError:  # its component tells it
        notice = ""
    return HealthReport(_overall(components), components, (*store.notices, *([notice] if notice else [])))


async def check_reranker(reranking: Reranking) -> ComponentHealth:
    """Have the re-ranker order two short texts, even where it is being left alone for its failures."""
    reranker = reranking.reranker
    details: dict[str, Detail] = {
        "provider": reranker.provider,
        "model": reranker.model,
        "candidates": reranking.candidates,
        "timeout_s": reranker.timeout_s,
    }
    reranker.try_again()
    try:
        await reranker.warm_up()
        began = time.perf_counter()
        await reranker.rerank(_PROBE, _PROBE_DOCUMENTS)
    except ProviderError as exc:
        step = "Do what the problem says, or set `SYMMETRA_RERANK=off`; searches answer meanwhile, in their own order"
        return ComponentHealth("degraded", details, str(exc), step)
    latency_ms = round((time.perf_counter() - began) * 1000, 1)
    return ComponentHealth("healthy", {**details, "latency_ms": latency_ms})


async def other_space_notice(store: RuleStore, providers: ProviderChoice) -> str:
    """That the rules are embedded in another space than the settings choose, and how to move them; else empty.

    Raises:
        StoreError: The store can't be read.
    """
    active = await store.active_space()
    if active is None:
        return ""  # whoever searches asks the chosen provider itself
    try:
        chosen = await providers.chosen_space()
    except ProviderError as exc:
        return f"searches stay in {active}, where the rules are embedded: what the settings choose is no use ({exc})"
    if active == chosen:
        return ""
    return (
        f"the settings choose {chosen}, and the rules are embedded in {active}: searches stay there, since vectors of "
        f"the two can't be compared. `{MIGRATE}` moves every rule to {chosen}"
    )


async def _guarded(check: Callable[[], Awaitable[ComponentHealth]]) -> ComponentHealth:
    try:
        return await check()
    except SymmetraError as exc:
        return ComponentHealth("unhealthy", problem=str(exc), next_step="Do what the problem says, then check again")


async def _check_store(store: RuleStore, thorough: bool) -> ComponentHealth:
    details = await store.describe()
    if store.trouble:
        step = "Searches answer from the copy on this machine; do what the problem says to have them up to date"
        return ComponentHealth("degraded", details, store.trouble, step)
    problem = await store.verify() if thorough else ""
    if problem:
        step = (
            "Run `symmetra-mcp schema apply`, and report it: the database's tables contradict each other"
            if store.is_shared
            else "Restart symmetra-mcp: it sets the damaged store aside"
        )
        return ComponentHealth("unhealthy", details, problem, step)
    return ComponentHealth("healthy", details)


async def _check_provider(store: RuleStore, providers: ProviderChoice) -> ComponentHealth:
    provider = await providers.serving(await _active_space(store))
    space = provider.space
    began = time.perf_counter()
    await provider.embed_documents([_PROBE])  # not as a query, which a cache would answer
    details: dict[str, Detail] = {
        "provider": space.provider,
        "model": space.model,
        "embedding_dimensions": space.dimensions,
        "max_input_tokens": provider.max_input_tokens,
        "latency_ms": round((time.perf_counter() - began) * 1000, 1),
    }
    return ComponentHealth("healthy", details)


async def _active_space(store: RuleStore) -> EmbeddingSpace | None:
    """The store's space; `None` where the store can't tell, which its own component says."""
    try:
        return await store.active_space()
    except StoreError:
        return None


async def _check_rules(store: RuleStore, providers: ProviderChoice) -> ComponentHealth:
    counts = await store.count_rules()
    statuses = {status.space: status for status in await store.space_statuses()}
    active = await store.active_space()
    status = statuses.get(active) if active is not None else None
    details: dict[str, Detail] = {
        "rule_count": sum(counts.values()),
        "projects": ", ".join(f"{project} ({count})" for project, count in counts.items()) or None,
        "space": str(active) if active is not None else None,
        "texts": status.passages if status else None,
        "texts_not_embedded": status.missing if status else None,
    }
    if not counts:
        step = "Run `symmetra-mcp rules push`" if store.is_shared else "Run `symmetra-mcp import PATH`"
        return ComponentHealth("degraded", details, "there are no rules", step)
    details["backup_space"] = next((str(space) for space in await store.complete_spaces() if space != active), None)
    if providers.insists and (notice := await other_space_notice(store, providers)):
        return ComponentHealth("degraded", details, notice, f"Run `{MIGRATE}`, or set what it was before")
    if status is None or status.missing:
        missing = status.missing if status else "all"
        problem = f"{missing} texts are not embedded yet: they match by their words alone"
        return ComponentHealth(
            "degraded", details, problem, "Wait for the running import, or run `symmetra-mcp reembed`"
        )
    return ComponentHealth("healthy", details)


def _overall(components: Mapping[str, ComponentHealth]) -> ComponentStatus:
    """The worst status, where a search that still answers by words counts as degraded."""
    if components["store"].status == "unhealthy":
        return "unhealthy"
    worst = max(_RANK.index(component.status) for component in components.values())
    return "degraded" if worst else "healthy"
