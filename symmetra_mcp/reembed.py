"""Make a space complete: the one operation behind a first import, a changed rule and a change of provider.

Only what is missing is embedded, page by page, so a run that was killed is resumed by running it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from symmetra_mcp.probes import probe_passages
from symmetra_mcp.tokens import estimate_model_tokens

if TYPE_CHECKING:
    from symmetra_mcp.providers.base import EmbeddingProvider
    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.stores.base import RuleStore
    from symmetra_mcp.types import ProgressCallback


@dataclass(frozen=True, slots=True)
class ReembedReport:
    """What a run did, counted from what the store holds afterwards.

    Attributes:
        embedded: Texts embedded and stored by this run.
        missing: Texts still without a vector; with `dry_run`, those that a run would embed.
        passages: Distinct texts that the rules need embedded.
        switched_from: The space that was active before, where this run changed it.
        tokens: What the vendor billed; with `dry_run`, an estimate of what it would.
        cost_usd: What that costs in US dollars; `None` where no price is known.
    """

    space: EmbeddingSpace
    embedded: int
    missing: int
    passages: int
    dry_run: bool = False
    switched_from: EmbeddingSpace | None = None
    tokens: int = 0
    cost_usd: float | None = 0.0


async def complete_space(
    store: RuleStore,
    provider: EmbeddingProvider,
    *,
    force: bool = False,
    dry_run: bool = False,
    wait: bool = True,
    activate: bool = True,
    batch_texts: int | None = None,
    on_progress: ProgressCallback | None = None,
) -> ReembedReport:
    """Embed every text that has no vector in the provider's space, and make that space the active one.

    Args:
        store: Holds the rules.
        provider: Embeds them.
        force: Embed the texts that have a vector too.
        dry_run: Count only.
        wait: Where another process is embedding already, wait for it; else leave the work to it.
        activate: Have searches compare in the space; without it, it is kept beside the active one.
        batch_texts: Most texts to embed between two commits, and so in one request, where that is less than the
            provider's own `page_texts`.
        on_progress: Hears after every page.

    Raises:
        ProviderError: The provider failed; what was embedded before is kept.
        StoreError: The store failed.
    """
    space = provider.space
    passages, missing = await _outstanding(store, space)
    if dry_run:
        tokens = await _estimated_tokens(store, provider, force=force)
        wanted = passages if force else missing
        return ReembedReport(space, 0, wanted, passages, True, tokens=tokens, cost_usd=_cost(provider, tokens))
    async with store.exclusive("embedding" if activate else "backup", wait=wait) as held:
        if not held:
            return ReembedReport(space, 0, missing, passages)
        active = await store.active_space()
        if active is None and activate:
            await store.activate_space(space)  # nothing to lose: searches use vectors as they arrive
        page_texts = page_size(provider, batch_texts)
        embedded, tokens = await _embed_all(store, provider, page_texts, force=force, on_progress=on_progress)
        passages, missing = await _outstanding(store, space)
        switched = activate and active is not None and active != space and missing == 0
        if switched:
            await store.activate_space(space)
    return ReembedReport(
        space,
        embedded,
        missing,
        passages,
        switched_from=active if switched else None,
        tokens=tokens,
        cost_usd=_cost(provider, tokens),
    )


def page_size(provider: EmbeddingProvider, batch_texts: int | None = None) -> int:
    """Texts that `complete_space` embeds between two commits.

    Args:
        provider: Embeds them.
        batch_texts: Most texts, where that is less than the provider's own `page_texts`.

    Raises:
        ValueError: No text is too few.
    """
    if batch_texts is not None and batch_texts < 1:
        raise ValueError(f"batch_texts must be at least 1, got {batch_texts}")
    return provider.page_texts if batch_texts is None else min(batch_texts, provider.page_texts)


async def _embed_all(
    store: RuleStore,
    provider: EmbeddingProvider,
    page_texts: int,
    *,
    force: bool,
    on_progress: ProgressCallback | None,
) -> tuple[int, int]:
    """Texts embedded, and tokens billed."""
    passages, missing = await _outstanding(store, provider.space)
    total = passages if force else missing
    embedded, tokens, after = 0, 0, ""
    while True:
        page, after = await store.missing_passages(provider.space, after=after, limit=page_texts, again=force)
        if not page:
            return embedded, tokens + await _embed_probes(store, provider, page_texts)
        embeddings = await provider.embed_documents([passage.text for passage in page])
        await store.put_vectors([passage.content_hash for passage in page], embeddings)
        embedded += len(page)
        tokens += embeddings.tokens
        if on_progress is not None:
            on_progress("embed", embedded, max(total, embedded))


async def _embed_probes(store: RuleStore, provider: EmbeddingProvider, page_texts: int) -> int:
    """Give the space the unrelated questions that its searches measure nearness by.

    Returns:
        Tokens billed.
    """
    probes = {probe.content_hash: probe.text for probe in probe_passages()}
    missing = sorted(await store.without_vector(provider.space, list(probes)))
    tokens = 0
    for start in range(0, len(missing), page_texts):
        page = missing[start : start + page_texts]
        embeddings = await provider.embed_documents([probes[key] for key in page])
        await store.put_vectors(page, embeddings)
        tokens += embeddings.tokens
    return tokens


async def _estimated_tokens(store: RuleStore, provider: EmbeddingProvider, *, force: bool) -> int:
    """Tokens that a run would be billed for; 0 where nobody sends a bill."""
    if not provider.is_remote:
        return 0
    tokens, after = 0, ""
    while True:
        page, after = await store.missing_passages(provider.space, after=after, limit=2048, again=force)
        if not page:
            return tokens
        tokens += sum(estimate_model_tokens(passage.text) for passage in page)


def _cost(provider: EmbeddingProvider, tokens: int) -> float | None:
    price = provider.price_usd_per_million
    return None if price is None and tokens else tokens * (price or 0.0) / 1_000_000


async def _outstanding(store: RuleStore, space: EmbeddingSpace) -> tuple[int, int]:
    """Distinct texts that the rules need, and how many of them this space lacks."""
    statuses = await store.space_statuses()
    for status in statuses:
        if status.space == space:
            return status.passages, status.missing
    passages = await store.count_passages()
    return passages, passages
