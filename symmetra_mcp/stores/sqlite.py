"""The embedded store: one SQLite file, no account, no extension, shared by every server of the user.

Shared state: one connection writes and one reads, each under its own lock, so a search never waits for an import. The
index is an immutable snapshot; whoever finds that the file has changed since (`PRAGMA data_version` tells at once)
builds the next one, the others wait for it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

import anyio
from anyio import to_thread
from filelock import FileLock, Timeout
from typing_extensions import override

from symmetra_mcp.errors import RuleNotFoundError, SpaceMismatchError, StoreError, StoreUnavailableError
from symmetra_mcp.passages import Passage, passages, rule_terms
from symmetra_mcp.providers.base import checked
from symmetra_mcp.stores.base import Candidate, Matches, MatchQuery, Refusal, RuleStore, SpaceStatus
from symmetra_mcp.stores.sqlite_file import (
    DamagedFileError,
    connect,
    errors_mapped,
    first_problem,
    inode_of,
    lock_of,
    open_file,
    set_aside_if_damaged,
    transaction,
)
from symmetra_mcp.stores.sqlite_index import Snapshot, build_index, nearest_cosines, read_snapshot, vectors_of
from symmetra_mcp.stores.sqlite_rows import RULE_COLUMNS, SPACE_COLUMNS, now, row_of_rule, rule_of_row, space_of_row
from symmetra_mcp.types import Detail, Rule, RuleKey
from symmetra_mcp.words import TERMS_VERSION

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.providers.base import Embeddings
    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.stores.index import IndexHit, RuleIndex

P = ParamSpec("P")
T = TypeVar("T")

FILE_NAME = "symmetra.db"
_EXCLUSIVE_POLL_S = 0.2
_UPSERT_RULE = f"""
    INSERT INTO rules ({RULE_COLUMNS}, scopes, terms, updated_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (project_id, rule_id) DO UPDATE SET
        title = excluded.title, guidance = excluded.guidance, rationale = excluded.rationale,
        category = excluded.category, priority = excluded.priority, tech_stacks = excluded.tech_stacks,
        contexts = excluded.contexts, keywords = excluded.keywords, sources = excluded.sources,
        scopes = excluded.scopes, terms = excluded.terms, updated_at = excluded.updated_at
    RETURNING rule_no
"""
_MISSING_PASSAGES = """
    SELECT content_hash, min(text) FROM passages AS p
    WHERE content_hash > ? AND (? OR NOT EXISTS (
        SELECT 1 FROM vectors AS v WHERE v.space_id = ? AND v.content_hash = p.content_hash) AND NOT EXISTS (
        SELECT 1 FROM refusals AS r WHERE r.space_id = ? AND r.content_hash = p.content_hash))
    GROUP BY content_hash ORDER BY content_hash LIMIT ?
"""
_REFUSALS = """
    SELECT content_hash, reason, project_id, rule_id FROM (
        SELECT f.content_hash, f.reason, r.project_id, r.rule_id, row_number() OVER (
            PARTITION BY f.content_hash ORDER BY r.project_id, r.rule_id) AS place
        FROM refusals AS f JOIN passages AS p USING (content_hash) JOIN rules AS r USING (rule_no)
        WHERE f.space_id = ?)
    WHERE place = 1 ORDER BY content_hash
"""


class _BuiltIndex(NamedTuple):
    """An index, for which space it was asked, and the state of the file it holds."""

    asked: EmbeddingSpace | None
    rule_index: RuleIndex
    snapshot: Snapshot


class SqliteStore(RuleStore):
    """Keeps everything in `symmetra.db` inside a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self.notices: list[str] = []
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._index_lock = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._built: dict[bool, _BuiltIndex] = {}
        self._data_version = -1
        self._complete: tuple[int, list[EmbeddingSpace]] = (-1, [])
        self._inode = -1
        self._rebuilt = False

    @override
    async def open(self) -> None:
        await to_thread.run_sync(self._open)

    @override
    async def aclose(self) -> None:
        self._inode = -1
        await to_thread.run_sync(self._close)

    @override
    async def upsert_rules(self, rules: Sequence[Rule]) -> None:
        await self._run(self._upsert_rules, rules)

    @override
    async def delete_rules(self, keys: Sequence[RuleKey]) -> int:
        return await self._run(self._delete_rules, keys)

    @override
    async def list_rules(self, project_id: str | None = None) -> list[Rule]:
        return await self._run(self._list_rules, project_id)

    @override
    async def page_of_rules(self, project_id: str, *, after: str = "", limit: int = 100) -> list[Rule]:
        return await self._run(self._page_of_rules, project_id, after, limit)

    @override
    async def rules_revision(self) -> str:
        return await self._run(self._rules_revision)

    @override
    async def get_rule(self, key: RuleKey) -> Rule:
        return await self._run(self._get_rule, key)

    @override
    async def count_rules(self) -> Mapping[str, int]:
        return await self._run(self._count_rules)

    @override
    async def active_space(self) -> EmbeddingSpace | None:
        return await self._run(self._active_space)

    @override
    async def activate_space(self, space: EmbeddingSpace, *, if_complete: bool = False) -> bool:
        return await self._run(self._activate_space, space, if_complete)

    @override
    async def drop_space(self, space: EmbeddingSpace) -> int:
        return await self._run(self._drop_space, space)

    @override
    async def refuse_texts(self, space: EmbeddingSpace, reasons: Mapping[str, str]) -> None:
        await self._run(self._refuse_texts, space, reasons)

    @override
    async def refusals(self, space: EmbeddingSpace) -> list[Refusal]:
        return await self._run(self._refusals, space)

    @override
    async def space_statuses(self) -> list[SpaceStatus]:
        return await self._run(self._space_statuses)

    @override
    async def complete_spaces(self) -> list[EmbeddingSpace]:
        return await self._run(self._complete_spaces)

    @override
    async def count_passages(self) -> int:
        return await self._run(self._count_passages)

    @override
    async def missing_passages(
        self, space: EmbeddingSpace, *, after: str = "", limit: int = 512, again: bool = False
    ) -> tuple[list[Passage], str]:
        return await self._run(self._missing_passages, space, after, limit, again)

    @override
    async def without_vector(self, space: EmbeddingSpace, hashes: Sequence[str]) -> set[str]:
        return await self._run(self._without_vector, space, hashes)

    @override
    async def get_vectors(self, space: EmbeddingSpace, hashes: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        return await self._run(self._get_vectors, space, hashes)

    @override
    async def put_vectors(self, hashes: Sequence[str], embeddings: Embeddings) -> None:
        await self._run(self._put_vectors, hashes, embeddings)

    @override
    async def match(self, query: MatchQuery) -> Matches:
        return await self._run(self._match, query)

    @override
    async def nearest(self, space: EmbeddingSpace, vectors: NDArray[np.float32], limit: int) -> list[list[float]]:
        return await self._run(self._nearest, space, vectors, limit)

    @override
    async def describe(self) -> Mapping[str, Detail]:
        return await self._run(self._describe)

    @override
    async def verify(self) -> str:
        return await self._run(self._verify)

    @override
    async def get_note(self, name: str) -> str:
        return await self._run(self._get_note, name)

    @override
    async def set_note(self, name: str, text: str) -> None:
        await self._run(self._set_note, name, text)

    @override
    def take_rebuilt(self) -> bool:
        rebuilt, self._rebuilt = self._rebuilt, False
        return rebuilt

    @override
    @asynccontextmanager
    async def exclusive(self, task: str, *, wait: bool = True) -> AsyncIterator[bool]:
        lock = lock_of(self.path, task)
        while not (held := self._try_lock(lock)) and wait:  # noqa: ASYNC110 - other processes set no event
            await anyio.sleep(_EXCLUSIVE_POLL_S)
        try:
            yield held
        finally:
            lock.release()

    def _try_lock(self, lock: FileLock) -> bool:
        with errors_mapped(self.path):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return False
        return True

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await to_thread.run_sync(lambda: self._guarded(function, *args, **kwargs))

    def _guarded(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function`; a file that proves damaged is set aside and begun anew."""
        try:
            self._follow_replacement()
            with errors_mapped(self.path):
                return function(*args, **kwargs)
        except DamagedFileError as exc:
            self._close()
            set_aside = set_aside_if_damaged(self.path, self.notices)
            self._rebuilt = self._rebuilt or set_aside
            self._open()
            raise StoreUnavailableError(
                f"{self.notices[-1] if set_aside else exc}. Run the same again in a moment"
            ) from exc

    def _follow_replacement(self) -> None:
        """Open the file anew where another process set it aside or somebody deleted it: this one's is nobody's now.

        Where that failed before, as on a full disk, it is tried again.
        """
        if self._inode != -1 and (self._writer is None or inode_of(self.path) != self._inode):
            self._close()
            self._rebuilt = True
            self._open()

    # Life

    def _open(self) -> None:
        with self._write_lock, self._read_lock:
            if self._writer is not None:
                return
            if open_file(self.path, self.notices):
                self._rebuilt = True
            with errors_mapped(self.path):
                self._writer, self._reader = connect(self.path), connect(self.path)
                self._inode = inode_of(self.path)
                self._refresh_terms(self._writer)

    def _close(self) -> None:
        with self._index_lock, self._write_lock, self._read_lock:
            for connection in (self._writer, self._reader):
                if connection is not None:
                    with suppress(sqlite3.Error):
                        connection.close()
            self._writer = self._reader = None
            self._built = {}
            self._data_version = -1
            self._complete = (-1, [])

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._write_lock:
            if self._writer is None:
                raise StoreUnavailableError(f"the rule store {str(self.path)!r} is not open")
            with transaction(self._writer):
                yield self._writer

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._read_lock:
            if self._reader is None:
                raise StoreUnavailableError(f"the rule store {str(self.path)!r} is not open")
            yield self._reader

    @staticmethod
    def _refresh_terms(connection: sqlite3.Connection) -> None:
        """Work out the search terms again where an older version of `words.terms` did."""
        wanted = str(TERMS_VERSION)
        row = connection.execute("SELECT text FROM notes WHERE name = 'terms_version'").fetchone()
        if row is not None and row[0] == wanted:
            return
        with transaction(connection):
            for number, *columns in connection.execute(f"SELECT rule_no, {RULE_COLUMNS} FROM rules").fetchall():
                terms = rule_terms(rule_of_row(columns)).to_bytes()
                connection.execute("UPDATE rules SET terms = ? WHERE rule_no = ?", (terms, number))
            connection.execute("INSERT OR REPLACE INTO notes (name, text) VALUES ('terms_version', ?)", (wanted,))
            _count_up(connection)

    # Rules

    def _upsert_rules(self, rules: Sequence[Rule]) -> None:
        if not rules:
            return
        rows = [(row_of_rule(rule), passages(rule)) for rule in rules]
        with self._writing() as connection:
            for columns, texts in rows:
                (number,) = connection.execute(_UPSERT_RULE, columns).fetchone()
                connection.execute("DELETE FROM passages WHERE rule_no = ?", (number,))
                connection.executemany(
                    "INSERT INTO passages (rule_no, ordinal, content_hash, text) VALUES (?, ?, ?, ?)",
                    [(number, i, passage.content_hash, passage.text) for i, passage in enumerate(texts)],
                )
            _count_up(connection)

    def _delete_rules(self, keys: Sequence[RuleKey]) -> int:
        with self._writing() as connection:
            deleted = 0
            for key in keys:
                cursor = connection.execute("DELETE FROM rules WHERE project_id = ? AND rule_id = ?", key)
                deleted += cursor.rowcount
            if deleted:
                _count_up(connection)
            return deleted

    def _list_rules(self, project_id: str | None) -> list[Rule]:
        where, values = ("WHERE project_id = ?", (project_id,)) if project_id is not None else ("", ())
        with self._reading() as connection:
            query = f"SELECT {RULE_COLUMNS} FROM rules {where} ORDER BY project_id, rule_id"
            return [rule_of_row(row) for row in connection.execute(query, values).fetchall()]

    def _page_of_rules(self, project_id: str, after: str, limit: int) -> list[Rule]:
        query = f"SELECT {RULE_COLUMNS} FROM rules WHERE project_id = ? AND rule_id > ? ORDER BY rule_id LIMIT ?"
        with self._reading() as connection:
            rows = connection.execute(query, (project_id, after, limit)).fetchall()
        return [rule_of_row(row) for row in rows]

    def _rules_revision(self) -> str:
        with self._reading() as connection:
            return f"{self._inode}.{read_snapshot(connection).rules_revision}"

    def _get_rule(self, key: RuleKey) -> Rule:
        with self._reading() as connection:
            query = f"SELECT {RULE_COLUMNS} FROM rules WHERE project_id = ? AND rule_id = ?"
            row = connection.execute(query, key).fetchone()
        if row is None:
            raise RuleNotFoundError(key.rule_id, key.project_id)
        return rule_of_row(row)

    def _count_rules(self) -> dict[str, int]:
        with self._reading() as connection:
            query = "SELECT project_id, count(*) FROM rules GROUP BY project_id ORDER BY project_id"
            return dict(connection.execute(query).fetchall())

    # Spaces and vectors

    def _active_space(self) -> EmbeddingSpace | None:
        with self._reading() as connection:
            return read_snapshot(connection).space

    def _activate_space(self, space: EmbeddingSpace, if_complete: bool) -> bool:
        with self._writing() as connection:
            if if_complete and _outstanding(connection, space):
                return False
            _register(connection, space)
            connection.execute(
                "UPDATE spaces SET active = 0, left_at = ? WHERE active = 1 AND space_id <> ?",
                (now("microseconds"), space.space_id),
            )
            connection.execute("UPDATE spaces SET active = 1 WHERE space_id = ?", (space.space_id,))
        return True

    def _drop_space(self, space: EmbeddingSpace) -> int:
        with self._writing() as connection:
            if read_snapshot(connection).space == space:
                raise StoreError(f"searches compare in {space}: activate another space first")
            dropped = connection.execute("DELETE FROM vectors WHERE space_id = ?", (space.space_id,)).rowcount
            connection.execute("DELETE FROM spaces WHERE space_id = ?", (space.space_id,))
        return dropped

    def _refuse_texts(self, space: EmbeddingSpace, reasons: Mapping[str, str]) -> None:
        with self._writing() as connection:
            _register(connection, space)
            connection.executemany(
                "INSERT OR REPLACE INTO refusals (space_id, content_hash, reason) SELECT ?1, ?2, ?3 WHERE NOT EXISTS "
                "(SELECT 1 FROM vectors AS v WHERE v.space_id = ?1 AND v.content_hash = ?2)",
                [(space.space_id, content_hash, reason) for content_hash, reason in reasons.items()],
            )
            connection.execute("UPDATE spaces SET revision = revision + 1 WHERE space_id = ?", (space.space_id,))

    def _refusals(self, space: EmbeddingSpace) -> list[Refusal]:
        with self._reading() as connection:
            rows = connection.execute(_REFUSALS, (space.space_id,)).fetchall()
        return [
            Refusal(content_hash, reason, RuleKey(project, rule_id)) for content_hash, reason, project, rule_id in rows
        ]

    def _space_statuses(self) -> list[SpaceStatus]:
        with self._reading() as connection:
            texts = _count_texts(connection)
            rows = connection.execute(
                f"SELECT active, space_id, left_at, {SPACE_COLUMNS} FROM spaces ORDER BY space_id"
            ).fetchall()
            statuses: list[SpaceStatus] = []
            for active, space_id, left_at, *columns in rows:
                refused = _count_of_texts(connection, "refusals", space_id)
                missing = texts - refused - _count_of_texts(connection, "vectors", space_id)
                statuses.append(SpaceStatus(space_of_row(columns), bool(active), texts, missing, refused, left_at))
            return statuses

    def _complete_spaces(self) -> list[EmbeddingSpace]:
        with self._reading() as connection:
            (data_version,) = connection.execute("PRAGMA data_version").fetchone()
        if data_version != self._complete[0]:
            complete = [status.space for status in self._space_statuses() if status.passages and not status.missing]
            self._complete = (data_version, complete)
        return self._complete[1]

    def _count_passages(self) -> int:
        with self._reading() as connection:
            return _count_texts(connection)

    def _missing_passages(
        self, space: EmbeddingSpace, after: str, limit: int, again: bool
    ) -> tuple[list[Passage], str]:
        with self._reading() as connection:
            values = (after, again, space.space_id, space.space_id, limit)
            rows = connection.execute(_MISSING_PASSAGES, values).fetchall()
        page = [Passage(text, content_hash) for content_hash, text in rows]
        return page, page[-1].content_hash if page else after

    def _without_vector(self, space: EmbeddingSpace, hashes: Sequence[str]) -> set[str]:
        with self._reading() as connection:
            return set(hashes) - {name for name, _ in vectors_of(connection, space.space_id, hashes)}

    def _get_vectors(self, space: EmbeddingSpace, hashes: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        import numpy as np

        with self._reading() as connection:
            found = dict(vectors_of(connection, space.space_id, hashes))
        return {content_hash: np.frombuffer(blob, "<f4") for content_hash, blob in found.items()}

    def _put_vectors(self, hashes: Sequence[str], embeddings: Embeddings) -> None:
        vectors = checked(embeddings.vectors, len(hashes), embeddings.space).vectors
        blobs = [row.tobytes() for row in vectors.astype("<f4")]
        space_id = embeddings.space.space_id
        with self._writing() as connection:
            _register(connection, embeddings.space)
            connection.executemany(
                "INSERT OR REPLACE INTO vectors (space_id, content_hash, vector) VALUES (?, ?, ?)",
                [(space_id, content_hash, blob) for content_hash, blob in zip(hashes, blobs, strict=True)],
            )
            connection.executemany(
                "DELETE FROM refusals WHERE space_id = ? AND content_hash = ?",
                [(space_id, content_hash) for content_hash in hashes],
            )
            connection.execute("UPDATE spaces SET revision = revision + 1 WHERE space_id = ?", (space_id,))

    # Search

    def _match(self, query: MatchQuery) -> Matches:
        index = self._index_for(query.space)
        found = index.match(query)
        return Matches(
            candidates=tuple(self._candidates(found.hits)),
            considered=found.considered,
            out_of_scope=found.out_of_scope,
            best_similarity=found.best_similarity,
            background=found.background,
            unembedded=found.unembedded,
        )

    def _nearest(self, space: EmbeddingSpace, vectors: NDArray[np.float32], limit: int) -> list[list[float]]:
        """Read from the file in parts: an index of a space that may never be searched would take its whole size."""
        with self._reading() as connection:
            if _outstanding(connection, space):
                raise SpaceMismatchError(expected=read_snapshot(connection).space or space, actual=space)
            return nearest_cosines(connection, space, vectors, limit)

    def _candidates(self, hits: Sequence[IndexHit]) -> Iterator[Candidate]:
        with self._reading() as connection:
            for hit in hits:
                query = f"SELECT {RULE_COLUMNS} FROM rules WHERE rule_no = ?"
                row = connection.execute(query, (hit.rule_number,)).fetchone()
                if row is None:
                    continue  # deleted by another process since the index was built
                yield Candidate(
                    rule=rule_of_row(row),
                    score=hit.score,
                    relevance=hit.relevance,
                    similarity=hit.similarity,
                    words=hit.words,
                    passage=_passage_text(connection, hit),
                    matched_glob=hit.matched_glob,
                )

    def _index_for(self, space: EmbeddingSpace | None) -> RuleIndex:
        """The index of the active space, or of a complete one that stands in for it while its provider is down."""
        with self._index_lock, self._reading() as connection:
            (data_version,) = connection.execute("PRAGMA data_version").fetchone()
            if data_version != self._data_version:
                self._built = {key: built for key, built in self._built.items() if _still_so(connection, built)}
                self._data_version = data_version
            active = self._built_for(connection, None)
            compared = active.snapshot.space
            if space is None or compared == space or (compared is None and _outstanding(connection, space)):
                return active.rule_index
            return self._built_for(connection, space).rule_index

    def _built_for(self, connection: sqlite3.Connection, asked: EmbeddingSpace | None) -> _BuiltIndex:
        """The index that was built before, or a new one; one is kept for the active space and one for a stand-in."""
        found = self._built.get(asked is None)
        if found is None or found.asked != asked:
            if asked is not None and _outstanding(connection, asked):
                raise SpaceMismatchError(expected=read_snapshot(connection).space or asked, actual=asked)
            found = _BuiltIndex(asked, *build_index(connection, asked))
            self._built[asked is None] = found
        return found

    # Care

    def _describe(self) -> dict[str, Detail]:
        with self._reading() as connection:
            (vectors,) = connection.execute("SELECT count(*) FROM vectors").fetchone()
        size = sum(part.stat().st_size for part in self.path.parent.glob(f"{self.path.name}*"))
        return {"kind": "sqlite", "path": str(self.path), "size_bytes": size, "vectors": vectors}

    def _verify(self) -> str:
        with self._reading() as connection:
            return first_problem(connection)

    def _get_note(self, name: str) -> str:
        with self._reading() as connection:
            row = connection.execute("SELECT text FROM notes WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def _set_note(self, name: str, text: str) -> None:
        with self._writing() as connection:
            connection.execute("INSERT OR REPLACE INTO notes (name, text) VALUES (?, ?)", (name, text))


def _still_so(connection: sqlite3.Connection, built: _BuiltIndex) -> bool:
    return read_snapshot(connection, built.asked) == built.snapshot


def _outstanding(connection: sqlite3.Connection, space: EmbeddingSpace) -> int:
    """Texts that have no vector in a space and could have one."""
    done = (_count_of_texts(connection, table, space.space_id) for table in ("vectors", "refusals"))
    return _count_texts(connection) - sum(done)


def _count_up(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE revisions SET revision = revision + 1 WHERE name = 'rules'")


def _register(connection: sqlite3.Connection, space: EmbeddingSpace) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO spaces "
        f"(space_id, {SPACE_COLUMNS}, active, revision, created_at) VALUES (?, ?, ?, ?, ?, ?, 0, 0, ?)",
        (space.space_id, space.provider, space.model, space.dimensions, space.normalized, space.variant, now()),
    )


def _count_texts(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("SELECT count(DISTINCT content_hash) FROM passages").fetchone()
    return int(count)


def _count_of_texts(connection: sqlite3.Connection, table: str, space_id: str) -> int:
    """How many rows of a table about a space are of texts that rules still hold."""
    (count,) = connection.execute(
        f"SELECT count(*) FROM {table} AS t WHERE space_id = ? AND EXISTS "
        "(SELECT 1 FROM passages AS p WHERE p.content_hash = t.content_hash)",
        (space_id,),
    ).fetchone()
    return int(count)


def _passage_text(connection: sqlite3.Connection, hit: IndexHit) -> str:
    if hit.passage < 0:
        return ""
    row = connection.execute(
        "SELECT text FROM passages WHERE rule_no = ? AND ordinal = ?", (hit.rule_number, hit.passage)
    ).fetchone()
    return str(row[0]) if row else ""
