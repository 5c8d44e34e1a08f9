"""Read the embedded store into an index: one consistent state of the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from symmetra_mcp.probes import probe_passages
from symmetra_mcp.stores.sqlite_rows import SPACE_COLUMNS, space_of_row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.stores.index import RuleIndex


_READ_AT_ONCE = 4096


class Snapshot(NamedTuple):
    """Which state of the file an index was built from: it is current while these are.

    Attributes:
        space: Whose vectors it holds: the active space unless another was asked for.
    """

    rules_revision: int
    space: EmbeddingSpace | None
    space_revision: int

    @property
    def space_id(self) -> str:
        """The space's key, or empty."""
        return "" if self.space is None else self.space.space_id


def read_snapshot(connection: sqlite3.Connection, space: EmbeddingSpace | None = None) -> Snapshot:
    """The file's present state, for the active space or another one."""
    which, values = ("s.active = 1", ()) if space is None else ("s.space_id = ?", (space.space_id,))
    revision, space_revision, *columns = connection.execute(
        f"SELECT r.revision, coalesce(s.revision, 0), {SPACE_COLUMNS} "
        f"FROM revisions AS r LEFT JOIN spaces AS s ON {which} WHERE r.name = 'rules'",
        values,
    ).fetchone()
    return Snapshot(revision, None if columns[0] is None else space_of_row(columns), space_revision)


def build_index(connection: sqlite3.Connection, space: EmbeddingSpace | None = None) -> tuple[RuleIndex, Snapshot]:
    """Read one consistent state of the file into an index, for the active space or another one."""
    import numpy as np

    from symmetra_mcp.stores.index import IndexedRules, RuleIndex

    connection.execute("BEGIN")
    try:
        snapshot = read_snapshot(connection, space)
        rules = connection.execute(
            "SELECT rule_no, project_id, category, priority, tech_stacks, scopes, terms FROM rules ORDER BY rule_no"
        ).fetchall()
        embedded = connection.execute(
            "SELECT p.rule_no, p.ordinal, v.vector FROM passages AS p CROSS JOIN vectors AS v "
            "ON v.space_id = ? AND v.content_hash = p.content_hash ORDER BY p.rule_no, p.ordinal",
            (snapshot.space_id,),
        ).fetchall()
        refused = connection.execute(
            "SELECT p.rule_no FROM refusals AS r JOIN passages AS p USING (content_hash) WHERE r.space_id = ?",
            (snapshot.space_id,),
        ).fetchall()
        probes = list(vectors_of(connection, snapshot.space_id, [probe.content_hash for probe in probe_passages()]))
    finally:
        connection.execute("COMMIT")
    columns: list[Sequence[Any]] = list(zip(*rules, strict=True)) or [()] * 7
    width = snapshot.space.dimensions if snapshot.space is not None else 0
    return RuleIndex(
        IndexedRules(*columns),
        passage_rules=np.fromiter((row[0] for row in embedded), np.int64, len(embedded)),
        passage_ordinals=np.fromiter((row[1] for row in embedded), np.int32, len(embedded)),
        vectors=_matrix([row[2] for row in embedded], width),
        probes=_matrix([row[1] for row in probes], width),
        refused_rules=[row[0] for row in refused],
    ), snapshot


def nearest_cosines(
    connection: sqlite3.Connection, space: EmbeddingSpace, vectors: NDArray[np.float32], limit: int
) -> list[list[float]]:
    """Cosines of the nearest texts of rules to each vector, the highest first; part after part of the file is read."""
    import numpy as np

    cursor = connection.execute(
        "SELECT vector FROM vectors AS v WHERE space_id = ? AND EXISTS "
        "(SELECT 1 FROM passages AS p WHERE p.content_hash = v.content_hash)",
        (space.space_id,),
    )
    best = np.empty((len(vectors), 0), np.float32)
    while rows := cursor.fetchmany(_READ_AT_ONCE):
        part = vectors @ _matrix([row[0] for row in rows], space.dimensions).T
        best = np.sort(np.hstack([best, part]), axis=1)[:, -limit:]
    return [row[::-1].tolist() for row in best]


def vectors_of(connection: sqlite3.Connection, space_id: str, hashes: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """The vectors of some content hashes, where there are any."""
    for content_hash in hashes:
        row = connection.execute(
            "SELECT vector FROM vectors WHERE space_id = ? AND content_hash = ?", (space_id, content_hash)
        ).fetchone()
        if row is not None:
            yield content_hash, row[0]


def _matrix(blobs: Sequence[bytes], dimensions: int) -> NDArray[np.float32]:
    import numpy as np

    return np.frombuffer(b"".join(blobs), "<f4").reshape(len(blobs), dimensions)
