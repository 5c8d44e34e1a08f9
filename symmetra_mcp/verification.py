"""Is a new space what it should be, before searches switch to it?

Some vectors are read back and compared with what the provider gave. Some rules' own texts are asked as questions, in
the new space and through the store's own search: each must come back near the top. A vendor that mixed up rows, a model
changed under the same name, or vectors that were cut or damaged on their way do not pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from symmetra_mcp.errors import (
    ProviderUnavailableError,
    QuotaExceededError,
    RateLimitError,
    SymmetraError,
    VerificationError,
)
from symmetra_mcp.probes import probe_passages
from symmetra_mcp.providers.base import checked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.passages import Passage
    from symmetra_mcp.providers.base import EmbeddingProvider
    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.stores.base import RuleStore

PROBES = 12
"""Rules whose texts are asked for."""
ENOUGH = 0.75
"""Share of them that must be found: a model may misread a text of symbols, and near copies push each other out."""
_NEAR_TOP = 5
_EQUAL = 2e-3
"""Cosines that differ less are equal: an index may keep halves of the digits."""
_NEAR_COPY = 0.05
"""A text this much nearer to its own question than the rule's is a near copy, and as good an answer."""
_AT_ONCE = 4
_PATIENCE_S = 45.0
"""How long questions are asked again: each has the little time that a search gives it, and a long run hangs on them."""
_PAUSE_S = 1.0
_SAME = 0.9999
"""Cosine from which two vectors are one."""


@dataclass(frozen=True, slots=True)
class OwnTexts:
    """Some rules' texts, and themselves as questions.

    Attributes:
        texts: From all over the store.
        queries: Each embedded as a search embeds it: shape `(len(texts), dimensions)`.
    """

    texts: Sequence[Passage]
    queries: NDArray[np.float32]


async def own_texts(store: RuleStore, provider: EmbeddingProvider) -> OwnTexts:
    """What a check asks for; it may be made while the vectors are.

    Raises:
        ProviderError: A question could not be embedded.
        StoreError: The store failed.
    """
    texts = await _spread(store, provider)
    return OwnTexts(texts, await _questions(provider, [text.text for text in texts]))


async def verify_space(
    store: RuleStore,
    provider: EmbeddingProvider,
    given: Mapping[str, NDArray[np.float32]],
    asked: OwnTexts | None = None,
) -> int:
    """Check the vectors that a store holds in a provider's space.

    Args:
        store: Holds them.
        provider: Made them.
        given: Some as the provider gave them, by content hash.
        asked: What to ask for; by default `own_texts`.

    Returns:
        How many rules' texts were asked for.

    Raises:
        VerificationError: They are not what they should be.
        SpaceMismatchError: Rules came in meanwhile, so that the space is no longer complete.
        ProviderError: A question could not be embedded.
        StoreError: The store failed.
    """
    space = provider.space
    stored = await store.get_vectors(space, list(given))
    for content_hash, vector in given.items():
        there = stored.get(content_hash)
        if there is None or there.tobytes() != vector.tobytes():
            raise VerificationError(space, f"the vector of text {content_hash} is not the one that was stored")
    asked = asked or await own_texts(store, provider)
    own = await store.get_vectors(space, [text.content_hash for text in asked.texts])
    _check_readable(space, own)
    await _check_distinct(store, space)
    rows = [row for row, text in enumerate(asked.texts) if text.content_hash in own]
    texts, queries = [asked.texts[row] for row in rows], asked.queries[rows]
    nearest = await store.nearest(space, queries, _NEAR_TOP)
    lost = [
        text.content_hash
        for text, query, found in zip(texts, queries, nearest, strict=True)
        if not _is_found(float(query @ own[text.content_hash]), found)
    ]
    if len(texts) - len(lost) < ENOUGH * len(texts):
        raise VerificationError(space, f"{len(lost)} of {len(texts)} rules are not found by their own texts")
    return len(texts)


async def _questions(provider: EmbeddingProvider, texts: Sequence[str]) -> NDArray[np.float32]:
    """Texts as a search embeds them: shape `(len(texts), dimensions)`."""
    import numpy as np

    rows = np.empty((len(texts), provider.space.dimensions), np.float32)

    at_once = anyio.CapacityLimiter(_AT_ONCE)
    give_up_at = anyio.current_time() + _PATIENCE_S

    async def ask(row: int, text: str) -> None:
        async with at_once:
            while True:
                try:
                    rows[row] = (await provider.embed_query(text)).vectors[0]
                    return
                except (ProviderUnavailableError, RateLimitError) as exc:
                    if isinstance(exc, QuotaExceededError) or anyio.current_time() >= give_up_at:
                        raise
                await anyio.sleep(_PAUSE_S)

    try:
        async with anyio.create_task_group() as tasks:
            for row, text in enumerate(texts):
                tasks.start_soon(ask, row, text)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return rows


async def _spread(store: RuleStore, provider: EmbeddingProvider) -> list[Passage]:
    """Texts from all over the store: content hashes are evenly spread."""
    found: dict[str, Passage] = {}
    for part in range(PROBES):
        after = format(part * 0x10000 // PROBES, "04x") if part else ""
        page, _ = await store.missing_passages(provider.space, after=after, limit=1, again=True)
        found |= {passage.content_hash: passage for passage in page}
    return list(found.values())


def _check_readable(space: EmbeddingSpace, vectors: Mapping[str, NDArray[np.float32]]) -> None:
    import numpy as np

    if vectors:
        try:
            checked(np.stack(list(vectors.values())), len(vectors), space)
        except (SymmetraError, ValueError) as exc:
            raise VerificationError(space, f"vectors read back are no embeddings: {exc}") from None


async def _check_distinct(store: RuleStore, space: EmbeddingSpace) -> None:
    """Unrelated questions have vectors of their own: one vector for many texts would make each as near as any other."""
    import numpy as np

    vectors = await store.get_vectors(space, [probe.content_hash for probe in probe_passages()])
    if len(vectors) < 2:
        return
    cosines = np.stack(list(vectors.values()))
    cosines = cosines @ cosines.T
    np.fill_diagonal(cosines, -1)
    alike = int((cosines.max(axis=1) > _SAME).sum())
    if alike * 2 > len(vectors):
        raise VerificationError(space, f"{alike} of {len(vectors)} unrelated texts have the vector of another")


def _is_found(own: float, found: Sequence[float]) -> bool:
    """Whether the store's search finds what is as near to a text as its own vector."""
    if not found or found[0] < own - _EQUAL:
        return False
    return own >= found[-1] - _EQUAL or found[0] - own <= _NEAR_COPY
