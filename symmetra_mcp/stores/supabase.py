"""The team's store: Postgres and pgvector behind Supabase's REST address, for several machines at once.

Every operation is a call of one function of the database (`sql/`), which reads or writes in one transaction. A search
is one round trip: the database filters, compares, counts words and fuses, with the constants that come with the
request, so both stores rank alike. What a process remembers (globs, the nearness that means nothing, the active space)
is checked by the database at each search and replaced by its answer.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import anyio
from anyio import to_thread
from typing_extensions import override

from symmetra_mcp.errors import RuleNotFoundError, SpaceMismatchError, StoreError, StoreUnavailableError, SymmetraError
from symmetra_mcp.fusion import DEPTH, MEANING_WEIGHT, PROJECT_PREFERENCE, STACK_PREFERENCE
from symmetra_mcp.passages import Passage
from symmetra_mcp.probes import QUANTILE, probe_passages
from symmetra_mcp.providers.base import checked
from symmetra_mcp.scopes import matching_glob
from symmetra_mcp.stores.base import Candidate, Matches, MatchQuery, Refusal, RuleFilter, RuleStore, SpaceStatus
from symmetra_mcp.stores.rows import decode_scopes
from symmetra_mcp.stores.supabase_client import SupabaseClient
from symmetra_mcp.stores.supabase_errors import ConflictError, TooMuchAtOnceError
from symmetra_mcp.stores.supabase_wire import (
    PREPARED,
    escaped,
    row_of_rule,
    row_of_space,
    rule_of_row,
    space_of_row,
    unescaped,
    vector_of_base64,
    vector_text,
)
from symmetra_mcp.types import PRIORITIES, Detail, Rule, RuleKey, Scope
from symmetra_mcp.words import K1, MAX_QUERY_TERMS, query_terms, signed_hash

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.config import SupabaseAddress
    from symmetra_mcp.providers.base import Embeddings
    from symmetra_mcp.spaces import EmbeddingSpace

P = ParamSpec("P")
T = TypeVar("T")

MAX_BODY_BYTES = 800_000
"""Of a request: what Supabase's gateways take is not documented; a megabyte has been seen to pass everywhere."""
PAGE_RULES = 500
"""Rules in an answer: PostgREST cuts lists at a thousand rows without a word, so none may come near."""
VECTORS_AT_ONCE = 200
"""About `MAX_BODY_BYTES` of vectors with 384 numbers."""
_DROPPED_AT_ONCE = 20_000
"""Vectors that one call deletes: seconds of work."""
SEARCH_DEADLINE_S = 8.0
"""As long as Supabase lets a statement run."""
_LEASE_S = 30
_RENEW_S = 8.0
_RELEASE_S = 5.0
_LEASE_POLL_S = 0.5
_MAX_BACKGROUNDS = 64


def _understood(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """An answer that is none of our functions' becomes an error of ours; what was asked changed nothing."""

    @wraps(method)
    async def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as exc:
            if isinstance(exc, SymmetraError):
                raise
            raise StoreUnavailableError(
                "something else than the rule store answered: check that `SYMMETRA_SUPABASE_URL` is a Supabase "
                f"project's address, and that no sign-in page of the network stands before it ({type(exc).__name__})"
            ) from None

    return reading


class SupabaseStore(RuleStore):
    """Keeps everything in the schema `symmetra` of a Supabase project."""

    is_shared = True

    def __init__(self, address: SupabaseAddress) -> None:
        self.notices: list[str] = []
        self._client = SupabaseClient(address)
        self._open = False
        self._writes = False
        self._active: tuple[EmbeddingSpace | None] | None = None
        self._scopes: dict[int, tuple[Scope, ...]] = {}
        self._newest_scope = 0
        self._backgrounds: dict[tuple[str, RuleFilter], dict[str, Any]] = {}
        self._revision = -1

    @property
    def place(self) -> str:
        """The project's address, for messages."""
        return self._client.place

    @property
    def revision(self) -> int:
        """Count of the transactions that changed rules, as of the last answer that told it."""
        return self._revision

    @override
    def may_write(self) -> bool:
        return self._writes

    # Life

    @override
    @_understood
    async def open(self) -> None:
        if self._open:
            return
        self._open = True
        try:
            status = await self._call("symmetra_status", {}, deadline_s=SEARCH_DEADLINE_S, attempts=2)
            self._writes = bool(status["writes"])
            self._active = (space_of_row(status["active"]),)
            self._revision = status["revision"]
            if self._writes:
                await self._prepare()
        except BaseException:
            self._open = False
            raise

    @override
    async def aclose(self) -> None:
        self._open = False
        await self._client.aclose()

    async def _call(self, function: str, parameters: dict[str, Any], **options: Any) -> Any:
        if not self._open:
            raise StoreUnavailableError(f"the rule store at {self.place} is not open")
        try:
            return await self._client.call(function, parameters, **options)
        except UnicodeEncodeError as exc:
            problem = f"{exc.reason} at character {exc.start}"
            raise StoreError(f"a text can't be stored or looked up: {problem}. Remove that character") from None

    async def _prepare(self) -> None:
        """Work out terms and passages of rules that another program or an older version wrote."""
        while True:
            rows = await self._call("symmetra_unprepared", {"version": PREPARED, "page": PAGE_RULES})
            if not rows:
                return
            await self.upsert_rules([rule_of_row(row) for row in rows])

    # Rules

    @override
    async def upsert_rules(self, rules: Sequence[Rule]) -> None:
        if not rules:
            return
        try:
            rows = await to_thread.run_sync(lambda: [row_of_rule(rule) for rule in rules])
        except UnicodeEncodeError as exc:
            problem = f"{exc.reason} at character {exc.start}"
            raise StoreError(f"a text can't be stored or looked up: {problem}. Remove that character") from None
        parts = list(_parts(rows))
        if len(parts) == 1:
            await self._call("symmetra_write_rules", {"rules": parts[0]}, writing=True)
            return
        upload = str(uuid.uuid4())
        for number, part in enumerate(parts, 1):
            await self._call("symmetra_write_part", {"upload": upload, "part": number, "rules": part}, writing=True)
        await self._call("symmetra_write_parts", {"upload": upload, "parts": len(parts)}, writing=True)

    @override
    async def delete_rules(self, keys: Sequence[RuleKey]) -> int:
        deleted = 0
        for start in range(0, len(keys), PAGE_RULES):
            page = escaped([list(key) for key in keys[start : start + PAGE_RULES]])
            answer = await self._call("symmetra_delete_rules", {"keys": page}, writing=True, repeatable=False)
            deleted += answer["deleted"]
        return deleted

    @override
    @_understood
    async def list_rules(self, project_id: str | None = None) -> list[Rule]:
        rules: list[Rule] = []
        after: list[str] | None = None
        while True:
            rows = await self._rows(project_id, None, after)
            rules += map(rule_of_row, rows)
            if len(rows) < PAGE_RULES:
                return rules
            after = [rows[-1]["project_id"], rows[-1]["rule_id"]]

    @override
    @_understood
    async def page_of_rules(self, project_id: str, *, after: str = "", limit: int = 100) -> list[Rule]:
        key = escaped([project_id, after]) if after else None
        parameters = {"project": escaped(project_id), "id": None, "after": key, "page": min(limit, PAGE_RULES)}
        return [rule_of_row(row) for row in await self._call("symmetra_rules", parameters)]

    @override
    @_understood
    async def rules_revision(self) -> str:
        status = await self._call("symmetra_status", {})
        self._revision = status["revision"]
        return str(self._revision)

    @override
    @_understood
    async def get_rule(self, key: RuleKey) -> Rule:
        rows = await self._rows(escaped(key.project_id), escaped(key.rule_id), None)
        if not rows:
            raise RuleNotFoundError(key.rule_id, key.project_id)
        return rule_of_row(rows[0])

    async def _rows(self, project: str | None, rule_id: str | None, after: list[str] | None) -> list[dict[str, Any]]:
        parameters = {"project": project, "id": rule_id, "after": after, "page": PAGE_RULES}
        rows: list[dict[str, Any]] = await self._call("symmetra_rules", parameters)
        return rows

    @override
    @_understood
    async def count_rules(self) -> Mapping[str, int]:
        counts = unescaped(await self._call("symmetra_projects", {}))
        return dict(sorted(counts.items()))

    @_understood
    async def changes(self, since: int, after: tuple[int, int]) -> dict[str, Any]:
        """A page of what changed since a revision: rules, keys removed, and where the next page begins."""
        page: dict[str, Any] = await self._call(
            "symmetra_changes",
            {"since": since, "after_revision": after[0], "after_no": after[1], "page": PAGE_RULES},
        )
        self._revision = page["revision"]
        page["rules"] = [rule_of_row(row) for row in page["rules"]]
        page["removed"] = [RuleKey(*unescaped(key)) for key in page["removed"]]
        return page

    # Spaces and vectors

    @override
    @_understood
    async def active_space(self) -> EmbeddingSpace | None:
        if self._active is None or not self._open:
            status = await self._call("symmetra_status", {})
            self._active = (space_of_row(status["active"]),)
        return self._active[0]

    @override
    @_understood
    async def activate_space(self, space: EmbeddingSpace, *, if_complete: bool = False) -> bool:
        parameters = {"space": row_of_space(space), "if_complete": if_complete}
        answer = await self._call("symmetra_activate_space", parameters, writing=True)
        if answer["switched"]:
            self._active = (space,)
        return bool(answer["switched"])

    @override
    @_understood
    async def drop_space(self, space: EmbeddingSpace) -> int:
        dropped, answer = 0, {"known": True, "done": False}
        while answer["known"] and not answer["done"]:
            parameters = {"space": space.space_id, "page": _DROPPED_AT_ONCE}
            try:
                answer = await self._call("symmetra_drop_space", parameters, writing=True)
            except ConflictError:
                raise StoreError(f"searches compare in {space}: activate another space first") from None
            dropped += answer.get("deleted", 0)
        return dropped

    @override
    async def refuse_texts(self, space: EmbeddingSpace, reasons: Mapping[str, str]) -> None:
        parameters = {"space": row_of_space(space), "reasons": escaped(dict(reasons))}
        await self._call("symmetra_refuse", parameters, writing=True)

    @override
    @_understood
    async def refusals(self, space: EmbeddingSpace) -> list[Refusal]:
        found: list[Refusal] = []
        while True:
            after = found[-1].content_hash if found else ""
            parameters = {"space": space.space_id, "after": after, "page": PAGE_RULES}
            rows = await self._call("symmetra_refusals", parameters)
            found += [
                Refusal(content_hash, unescaped(reason), RuleKey(unescaped(project), unescaped(rule_id)))
                for content_hash, reason, project, rule_id in rows
            ]
            if len(rows) < PAGE_RULES:
                return found

    @override
    @_understood
    async def space_statuses(self) -> list[SpaceStatus]:
        statuses: list[SpaceStatus] = []
        for row in await self._call("symmetra_spaces", {}):
            space = space_of_row(row["space"])
            if space is not None:
                counts = (row["passages"], row["missing"], row["refused"])
                statuses.append(SpaceStatus(space, bool(row["active"]), *counts, left_at=row["left_at"] or ""))
                if row["active"]:
                    self._active = (space,)
        return statuses

    @override
    async def complete_spaces(self) -> list[EmbeddingSpace]:
        return [status.space for status in await self.space_statuses() if status.passages and not status.missing]

    @override
    @_understood
    async def count_passages(self) -> int:
        return int(await self._call("symmetra_count_passages", {}))

    @override
    @_understood
    async def missing_passages(
        self, space: EmbeddingSpace, *, after: str = "", limit: int = 512, again: bool = False
    ) -> tuple[list[Passage], str]:
        parameters = {"space": space.space_id, "after": after, "page": min(limit, PAGE_RULES), "again": again}
        rows = await self._call("symmetra_missing_passages", parameters)
        page = [Passage(unescaped(text), content_hash) for content_hash, text in rows]
        return page, page[-1].content_hash if page else after

    @override
    @_understood
    async def without_vector(self, space: EmbeddingSpace, hashes: Sequence[str]) -> set[str]:
        if not hashes:
            return set()
        return set(await self._call("symmetra_without_vector", {"space": space.space_id, "hashes": list(hashes)}))

    @override
    @_understood
    async def get_vectors(self, space: EmbeddingSpace, hashes: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        found: dict[str, NDArray[np.float32]] = {}
        for start in range(0, len(hashes), PAGE_RULES):
            page = list(hashes[start : start + PAGE_RULES])
            rows = await self._call("symmetra_vectors", {"space": space.space_id, "hashes": page})
            found |= {content_hash: vector_of_base64(text) for content_hash, text in rows.items()}
        return found

    @override
    async def put_vectors(self, hashes: Sequence[str], embeddings: Embeddings) -> None:
        vectors = checked(embeddings.vectors, len(hashes), embeddings.space).vectors
        rows = list(zip(hashes, await to_thread.run_sync(lambda: [vector_text(row) for row in vectors]), strict=True))
        at_once, done, tokens = VECTORS_AT_ONCE, 0, embeddings.tokens
        while done < len(rows):
            page = rows[done : done + at_once]
            try:
                await self._put(embeddings.space, page, tokens)
            except TooMuchAtOnceError:
                if len(page) <= 1:
                    raise
                at_once = len(page) // 2
                continue
            done, tokens = done + len(page), 0

    async def _put(self, space: EmbeddingSpace, rows: Sequence[tuple[str, str]], tokens: int) -> None:
        probes = {probe.content_hash for probe in probe_passages()}
        parameters = {
            "space": row_of_space(space),
            "vectors": rows,
            "probes": [row for row in rows if row[0] in probes],
            "tokens": tokens,
            "request": str(uuid.uuid4()),
        }
        await self._call("symmetra_put_vectors", parameters, writing=True)

    # Search

    @override
    @_understood
    async def match(self, query: MatchQuery) -> Matches:
        wanted = query_terms(query.text, MAX_QUERY_TERMS)
        answer = await self._match(query, [signed_hash(term) for term in wanted])
        if answer["unprepared"] and self._writes:
            await self._prepare()
            answer = await self._match(query, [signed_hash(term) for term in wanted])
        words = {signed_hash(term): (term, word) for term, word in wanted.items()}
        return Matches(
            candidates=tuple(self._candidate(row, words, query.rule_filter.path) for row in answer["candidates"]),
            considered=answer["considered"],
            out_of_scope=answer["out_of_scope"],
            best_similarity=_float(answer.get("best_similarity")),
            background=_float(answer.get("background")),
            unembedded=answer["unembedded"],
        )

    async def _match(self, query: MatchQuery, terms: list[int]) -> dict[str, Any]:
        request = self._request(query, terms)
        key = ("" if query.space is None else query.space.space_id, replace(query.rule_filter, path=""))
        request["known_background"] = self._backgrounds.get(key)
        try:
            answer: dict[str, Any] = await self._call(
                "match_rules", {"request": request}, deadline_s=SEARCH_DEADLINE_S, attempts=2
            )
        except ConflictError as exc:
            raise self._mismatch(query, exc) from None
        if "scopes" in answer:  # rules came in with globs that nobody here has seen
            for number, globs in answer["scopes"]:
                self._scopes[number] = decode_scopes(globs)
            self._newest_scope = answer["newest_scope"]
            return await self._match(query, terms)
        self._active, self._revision = (space_of_row(answer["active"]),), answer["revision"]
        if answer.get("token"):
            if len(self._backgrounds) >= _MAX_BACKGROUNDS:
                self._backgrounds.clear()
            self._backgrounds[key] = {"token": answer["token"], "value": answer["background"]}
        return answer

    def _request(self, query: MatchQuery, terms: list[int]) -> dict[str, Any]:
        rule_filter = query.rule_filter
        scopes: dict[str, Any] = {}
        if rule_filter.path:
            path = rule_filter.path
            matching = [number for number, known in self._scopes.items() if matching_glob(known, path) is not None]
            scopes = {"scopes_known": self._newest_scope, "scopes": matching}
        return {
            "vector": None if query.vector is None else vector_text(query.vector),
            "space": None if query.space is None else query.space.space_id,
            "terms": terms,
            "projects": escaped(rule_filter.project_ids),
            "excluded_projects": escaped(rule_filter.excluded_project_ids),
            "category": escaped(rule_filter.category.casefold()),
            "min_priority": PRIORITIES.index(rule_filter.min_priority),
            "tech_stacks": [name.casefold() for name in rule_filter.tech_stacks],
            "preferred_stacks": [name.casefold() for name in query.preferred_tech_stacks],
            "preferred_projects": escaped(query.preferred_project_ids),
            "limit": query.limit,
            "prepared": PREPARED,
            "weights": {
                "meaning": MEANING_WEIGHT,
                "depth": DEPTH,
                "stack": STACK_PREFERENCE,
                "project": PROJECT_PREFERENCE,
                "k1": K1,
                "b": 0.0,  # lengths were counted field by field, with the terms
            },
            "probes": [probe.content_hash for probe in probe_passages()],
            "quantile": QUANTILE,
            **scopes,
        }

    def _mismatch(self, query: MatchQuery, conflict: ConflictError) -> SymmetraError:
        """The error of a search in a space that is no longer the active one; what is active now is remembered."""
        with suppress(ValueError, KeyError, TypeError):
            active = space_of_row(json.loads(conflict.detail))
            if active is not None and query.space is not None:
                self._active = (active,)
                return SpaceMismatchError(expected=active, actual=query.space)
        return conflict

    def _candidate(self, row: dict[str, Any], words: Mapping[int, tuple[str, str]], path: str) -> Candidate:
        matched = sorted((-impact, *words[number]) for number, impact in row["matched"])
        scopes = self._scopes.get(row["scope"], ())
        return Candidate(
            rule=rule_of_row(row["rule"]),
            score=float(row["score"]),
            relevance=float(row["relevance"]),
            similarity=_float(row["similarity"]),
            words=tuple(dict.fromkeys(word for _, _, word in matched)),
            passage=unescaped(row["passage"] or ""),
            matched_glob=(matching_glob(scopes, path) or "") if path and scopes else "",
        )

    # Care

    @override
    @_understood
    async def describe(self) -> Mapping[str, Detail]:
        sizes: dict[str, Detail] = await self._call("symmetra_sizes", {})
        status = await self._call("symmetra_status", {})
        return {
            "kind": "supabase",
            "url": self.place,
            "role": status["role"],
            "may_write": self._writes,
            "schema_version": status["schema"],
            "postgres": status["server"],
            "pgvector": status["pgvector"],
            **sizes,
        }

    @override
    async def verify(self) -> str:
        return str(await self._call("symmetra_verify", {}) or "")

    @override
    async def get_note(self, name: str) -> str:
        return str(unescaped(await self._call("symmetra_note", {"name": escaped(name)}) or ""))

    @override
    async def set_note(self, name: str, text: str) -> None:
        await self._call("symmetra_set_note", {"name": escaped(name), "note": escaped(text)}, writing=True)

    @override
    def take_rebuilt(self) -> bool:
        return False

    @override
    @asynccontextmanager
    async def exclusive(self, task: str, *, wait: bool = True) -> AsyncIterator[bool]:
        owner = str(uuid.uuid4())
        while not (held_since := await self._take(task, owner)) and wait:  # noqa: ASYNC110 - other programs set no event
            await anyio.sleep(_LEASE_POLL_S)
        if not held_since:
            yield False
            return
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._renew, task, owner, held_since)
                try:
                    yield True
                finally:
                    tasks.cancel_scope.cancel()
                    with anyio.CancelScope(shield=True), anyio.move_on_after(_RELEASE_S), suppress(StoreError):
                        parameters = {"task": task, "owner": owner}
                        await self._client.call("symmetra_release_lease", parameters, writing=True)
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise

    async def _take(self, task: str, owner: str) -> str:
        """Take a task, or hold it longer.

        Returns:
            Since when it is held without a break, or an empty string where another program has it.
        """
        parameters = {"task": task, "owner": owner, "seconds": _LEASE_S}
        lease = await self._client.call("symmetra_take_lease", parameters, writing=True)
        return str(lease["since"]) if lease["held"] else ""

    async def _renew(self, task: str, owner: str, held_since: str) -> None:
        """Keep the task while its work runs.

        Raises:
            StoreUnavailableError: Another program took it over, as this one could not be heard of for too long.
        """
        renewed = anyio.current_time()
        while True:
            await anyio.sleep(_RENEW_S)
            try:
                if await self._take(task, owner) != held_since:  # it may be free again: another has done the work
                    raise StoreUnavailableError(
                        f"another program has taken over the task {task!r}: this machine was not heard of for "
                        f"{_LEASE_S} seconds. What was done is kept; run the same again"
                    )
                renewed = anyio.current_time()
            except StoreUnavailableError:
                if anyio.current_time() - renewed >= _LEASE_S:
                    raise


def _parts(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows in requests of `MAX_BODY_BYTES`; a row that alone is larger has one for itself."""
    part: list[dict[str, Any]] = []
    used = 0
    for row in rows:
        size = len(json.dumps(row, ensure_ascii=False).encode())
        if part and used + size > MAX_BODY_BYTES:
            yield part
            part, used = [], 0
        part.append(row)
        used += size
    yield part


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)
