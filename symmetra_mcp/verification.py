"""Is a new space what it should be, before searches switch to it?

Some vectors are read back and compared with what the provider gave. Some rules' own texts are asked as questions, in
the new space and through the store's own search: each must come back near the top. A vendor that mixed up rows, a model
changed under the same name, or vectors that were cut or damaged on their way do not pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import anyio

from symmetra_mcp.errors import SymmetraError, VerificationError
from symmetra_mcp.probes import probe_passages
from symmetra_mcp.providers.base import checked
from symmetra_mcp.stores.base import MatchQuery

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
_SAME = 0.9999
"""Cosine from which two vectors are one."""
_AT_ONCE = 4


async def verify_space(store: RuleStore, provider: EmbeddingProvider, given: Mapping[str, NDArray[np.float32]]) -> int:
    """Check the vectors that a store holds in a provider's space.

    Args:
        store: Holds them.
        provider: Made them.
        given: Some as the provider gave them, by content hash.

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
    texts = await _spread(store, provider)
    own = await store.get_vectors(space, [text.content_hash for text in texts])
    _check_readable(space, own)
    await _check_distinct(store, space)
    lost: list[str] = []

    async def probe(text: Passage) -> None:
        async with places:
            if text.content_hash in own and not await _is_found(store, provider, text, own[text.content_hash]):
                lost.append(text.content_hash)

    places = anyio.Semaphore(_AT_ONCE)
    try:
        async with anyio.create_task_group() as tasks:
            for text in texts:
                tasks.start_soon(probe, text)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    if len(texts) - len(lost) < ENOUGH * len(texts):
        raise VerificationError(space, f"{len(lost)} of {len(texts)} rules are not found by their own texts")
    return len(texts)


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


async def _is_found(store: RuleStore, provider: EmbeddingProvider, text: Passage, own: NDArray[np.float32]) -> bool:
    """Whether the store's search in the space finds what is as near to the text as its own vector."""
    query = (await provider.embed_query(text.text)).vectors[0]
    matches = await store.match(MatchQuery("", query, provider.space, limit=_NEAR_TOP))
    similarities = sorted((each.similarity for each in matches.candidates if each.similarity is not None), reverse=True)
    expected = float(query @ own)
    if not similarities or similarities[0] < expected - _EQUAL:
        return False
    return expected >= similarities[-1] - _EQUAL or similarities[0] - expected <= _NEAR_COPY
