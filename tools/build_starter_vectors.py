"""Embed the starter rules at build time, so that the first search of a fresh install need not wait for it.

Writes `symmetra_mcp/starter/vectors.npz`: content hash and vector of every passage and probe.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import anyio
import numpy as np

from symmetra_mcp.ingest.importer import read_files
from symmetra_mcp.ingest.plan import plan_import
from symmetra_mcp.passages import Passage, passages
from symmetra_mcp.probes import probe_passages
from symmetra_mcp.project import STARTER_PROJECT
from symmetra_mcp.providers.local import LocalProvider
from symmetra_mcp.starter.install import FOLDER, VECTORS_FILE, VECTORS_SPACE, starter_files

MIN_COSINE = 0.9999
"""Two processors may differ in the last digits."""


def starter_passages() -> list[Passage]:
    """Every distinct text of the starter rules, and the probes, by content hash."""
    files = read_files(starter_files(), root=FOLDER.parent)
    plan = plan_import([], files.parsed, project_id=STARTER_PROJECT, prune_under=None)
    own = [passage for rule in plan.writes for passage in passages(rule)]
    texts = {passage.content_hash: passage for passage in (*own, *probe_passages())}
    return [texts[key] for key in sorted(texts)]


def main() -> int:
    """Build the file, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the file in the package; write nothing")
    arguments = parser.parse_args()
    provider = LocalProvider()
    if provider.space != VECTORS_SPACE:
        raise SystemExit(f"the local provider embeds in {provider.space}, the package expects {VECTORS_SPACE}")
    wanted = starter_passages()
    hashes = np.array([passage.content_hash for passage in wanted])
    vectors = anyio.run(provider.embed_documents, [passage.text for passage in wanted]).vectors
    if not arguments.check:
        np.savez(VECTORS_FILE, hashes=hashes, vectors=vectors)
        print(f"{Path(VECTORS_FILE).name}: {len(hashes)} vectors")
        return 0
    with np.load(VECTORS_FILE, allow_pickle=False) as data:
        if data["hashes"].tolist() != hashes.tolist():
            print("the starter rules changed: run this without --check", file=sys.stderr)
            return 1
        worst = float((data["vectors"] * vectors).sum(axis=1).min())
    print(f"{len(hashes)} vectors, least cosine {worst:.6f}")
    return 0 if worst >= MIN_COSINE else 1


if __name__ == "__main__":
    raise SystemExit(main())
