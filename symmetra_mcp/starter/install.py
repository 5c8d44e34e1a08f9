"""Bring the starter rules into a store, with the vectors that were made when the package was built."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from symmetra_mcp.project import STARTER_PROJECT
from symmetra_mcp.spaces import EmbeddingSpace

if TYPE_CHECKING:
    from symmetra_mcp.stores.base import RuleStore

FOLDER = Path(__file__).parent
VECTORS_FILE = FOLDER / "vectors.npz"
VECTORS_SPACE = EmbeddingSpace("local", "all-MiniLM-L6-v2", 384)
"""The space of the vectors in `VECTORS_FILE`, which `tools/build_starter_vectors.py` makes."""
_NOTE = "starter rules"


def starter_files() -> list[Path]:
    """The files that hold the starter rules, one a category."""
    return sorted(FOLDER.glob("*.yaml"))


def starter_digest() -> str:
    """Changes with every edit of the starter rules."""
    digest = hashlib.sha256()
    for path in [*starter_files(), VECTORS_FILE]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


async def starter_rules_installed(store: RuleStore) -> bool:
    """Whether a store holds these very starter rules."""
    return await store.get_note(_NOTE) == starter_digest()


async def install_starter_rules(
    store: RuleStore, chosen: EmbeddingSpace | None, *, with_vectors: bool = True, again: bool = False
) -> None:
    """Write the starter rules, unless these very rules were written before: those that were deleted since stay away.

    Args:
        store: Takes them.
        chosen: The space of the provider that the settings choose, where it is known: if it is the bundled model's,
            searches compare in it from now on.
        with_vectors: Bring along the vectors that were made with the bundled model.
        again: Bring back what was deleted, too.

    Raises:
        StoreError: The store failed.
    """
    if not again and await starter_rules_installed(store):
        return
    from symmetra_mcp.ingest.importer import import_files

    await import_files(store, starter_files(), project_id=STARTER_PROJECT, root=FOLDER.parent, prune=True)
    if with_vectors:
        await _put_vectors(store, activate=chosen == VECTORS_SPACE)
    await store.set_note(_NOTE, starter_digest())


async def _put_vectors(store: RuleStore, *, activate: bool) -> None:
    import numpy as np

    from symmetra_mcp.providers.base import Embeddings

    with np.load(VECTORS_FILE, allow_pickle=False) as data:
        hashes, vectors = [str(name) for name in data["hashes"]], data["vectors"]
    await store.put_vectors(hashes, Embeddings(vectors, VECTORS_SPACE))
    if activate and await store.active_space() is None:
        await store.activate_space(VECTORS_SPACE)
