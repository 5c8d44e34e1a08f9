"""A team's store with a copy on this machine: searches and readings go on while the team's store can't be reached.

The copy is an embedded store of its own, filled by revision: what changed since the last time, and vectors bit for bit.
It answers only when the team's store does not, and says so. Writing always goes to the team's store, or fails.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import anyio
from typing_extensions import override

from symmetra_mcp.errors import SpaceMismatchError, StoreError, StoreUnavailableError
from symmetra_mcp.probes import probe_passages
from symmetra_mcp.providers.base import Embeddings
from symmetra_mcp.stores.base import Matches, MatchQuery, Refusal, RuleStore, SpaceStatus
from symmetra_mcp.types import Detail, Rule, RuleKey

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.passages import Passage
    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.stores.supabase import SupabaseStore

T = TypeVar("T")

LEFT_ALONE_S = 15.0
"""How long the copy answers at once after a failure, so that not every search waits for a store that is down."""
_COPY_NOTE = "copy of"
_PAGE_TEXTS = 500


class MirroredStore(RuleStore):
    """Reads from the team's store, else from the copy; writes to the team's store alone.

    Attributes:
        trouble: Why the copy answers, and of when it is; empty while the team's store answers.
    """

    is_shared = True

    def __init__(self, team: SupabaseStore, copy: RuleStore) -> None:
        self._team = team
        self._copy = copy
        self._copy_open = False
        self._open = False
        self._copied_revision = -1
        self._down_until = float("-inf")
        self._opening = anyio.Lock()
        self.notices: list[str] = []
        self._trouble = ""

    @property
    @override
    def trouble(self) -> str:
        return self._trouble

    @override
    def may_write(self) -> bool:
        return self._team.may_write()

    # Life

    @override
    async def open(self) -> None:
        self._open = True
        try:
            await self._team.open()
        except StoreUnavailableError as exc:
            if not await self._has_copy():
                self._open = False
                raise
            self._use_copy(exc)
        except BaseException:
            self._open = False
            raise

    @override
    async def aclose(self) -> None:
        self._open = False
        await self._team.aclose()
        async with self._opening:
            if self._copy_open:
                await self._copy.aclose()
                self._copy_open = False

    async def _opened_copy(self) -> RuleStore:
        async with self._opening:
            if not self._copy_open:
                await self._copy.open()
                self._copy_open = True
        return self._copy

    async def _has_copy(self) -> bool:
        try:
            return bool(await (await self._opened_copy()).get_note(_COPY_NOTE))
        except StoreError:
            return False

    def _use_copy(self, cause: StoreError) -> None:
        self._down_until = anyio.current_time() + LEFT_ALONE_S
        self._trouble = f"{cause}"

    async def _read(self, from_team: Callable[[], Awaitable[T]], from_copy: Callable[[RuleStore], Awaitable[T]]) -> T:
        """Ask the team's store; the copy, where that can't be reached and there is one.

        Raises:
            StoreUnavailableError: The team's store can't be reached, and nothing was copied yet.
        """
        if not self._open:
            raise StoreUnavailableError(f"the rule store at {self._team.place} is not open")
        if anyio.current_time() >= self._down_until:
            try:
                await self._team.open()  # where it could not be reached at the start
                answer = await from_team()
            except StoreUnavailableError as exc:
                if not await self._has_copy():
                    raise
                self._use_copy(exc)
            else:
                self._trouble, self._down_until = "", float("-inf")
                return answer
        return await from_copy(await self._opened_copy())

    async def _label(self) -> str:
        state = await self._copied_state()
        return f"{self._trouble}. The answer is from the copy of {state.get('at', 'an unknown time')} on this machine"

    async def _copied_state(self) -> dict[str, str | int]:
        try:
            state: dict[str, str | int] = json.loads(await (await self._opened_copy()).get_note(_COPY_NOTE) or "{}")
        except ValueError:
            return {}
        return state

    # The copy

    @property
    @override
    def copy_is_stale(self) -> bool:
        return not self._trouble and self._team.revision != self._copied_revision

    @override
    async def keep_copy(self) -> None:
        await self._team.open()
        copy = await self._opened_copy()
        async with copy.exclusive("copy", wait=False) as held:
            if held:
                revision = await self._copy_rules(copy)
                await self._copy_vectors(copy)
                self._copied_revision = revision

    async def _copy_rules(self, copy: RuleStore) -> int:
        """Bring the rules in step, and return the revision that they are of."""
        state = await self._copied_state()
        since = int(state.get("revision", 0))
        page = await self._team.changes(since, (since, 0))
        if state.get("store_id") != page["store_id"]:  # another database, or nothing yet
            await copy.delete_rules([rule.key for rule in await copy.list_rules()])
            since = 0
            page = await self._team.changes(0, (0, 0))
        revision, removed = int(page["revision"]), page["removed"]
        await copy.delete_rules(removed)
        while page["rules"]:
            await copy.upsert_rules(page["rules"])
            page = await self._team.changes(since, tuple(page["last"]))
        at = datetime.now(UTC).isoformat(sep=" ", timespec="minutes").replace("+00:00", " UTC")
        note = {"store_id": page["store_id"], "revision": revision, "at": at}
        await copy.set_note(_COPY_NOTE, json.dumps(note))
        return revision

    async def _copy_vectors(self, copy: RuleStore) -> None:
        for status in await self._team.space_statuses():
            if status.active or (status.passages and not status.missing):
                await self._copy_space(copy, status)

    async def _copy_space(self, copy: RuleStore, status: SpaceStatus) -> None:
        after = ""
        while True:
            page, after = await copy.missing_passages(status.space, after=after, limit=_PAGE_TEXTS)
            if not page:
                break
            await self._copy_page(copy, status.space, [passage.content_hash for passage in page])
        refused = {each.content_hash: each.reason for each in await self._team.refusals(status.space)}
        if refused:
            await copy.refuse_texts(status.space, refused)
        probes = [probe.content_hash for probe in probe_passages()]
        missing = sorted(await copy.without_vector(status.space, probes))
        await self._copy_page(copy, status.space, missing)
        if status.active:
            await copy.activate_space(status.space)

    async def _copy_page(self, copy: RuleStore, space: EmbeddingSpace, hashes: Sequence[str]) -> None:
        import numpy as np

        vectors = await self._team.get_vectors(space, hashes)
        if vectors:
            await copy.put_vectors(list(vectors), Embeddings(np.stack(list(vectors.values())), space))

    # Reading

    @override
    async def list_rules(self, project_id: str | None = None) -> list[Rule]:
        return await self._read(lambda: self._team.list_rules(project_id), lambda copy: copy.list_rules(project_id))

    @override
    async def page_of_rules(self, project_id: str, *, after: str = "", limit: int = 100) -> list[Rule]:
        return await self._read(
            lambda: self._team.page_of_rules(project_id, after=after, limit=limit),
            lambda copy: copy.page_of_rules(project_id, after=after, limit=limit),
        )

    @override
    async def rules_revision(self) -> str:
        return await self._read(self._team.rules_revision, lambda copy: copy.rules_revision())

    @override
    async def get_rule(self, key: RuleKey) -> Rule:
        return await self._read(lambda: self._team.get_rule(key), lambda copy: copy.get_rule(key))

    @override
    async def count_rules(self) -> Mapping[str, int]:
        return await self._read(self._team.count_rules, lambda copy: copy.count_rules())

    @override
    async def active_space(self) -> EmbeddingSpace | None:
        return await self._read(self._team.active_space, lambda copy: copy.active_space())

    @override
    async def space_statuses(self) -> list[SpaceStatus]:
        return await self._read(self._team.space_statuses, lambda copy: copy.space_statuses())

    @override
    async def complete_spaces(self) -> list[EmbeddingSpace]:
        return await self._read(self._team.complete_spaces, lambda copy: copy.complete_spaces())

    @override
    async def count_passages(self) -> int:
        return await self._read(self._team.count_passages, lambda copy: copy.count_passages())

    @override
    async def match(self, query: MatchQuery) -> Matches:
        return await self._read(lambda: self._team.match(query), lambda copy: self._match_copy(copy, query))

    async def _match_copy(self, copy: RuleStore, query: MatchQuery) -> Matches:
        label = await self._label()
        try:
            return replace(await copy.match(query), degraded=label)
        except SpaceMismatchError:
            words = await copy.match(replace(query, vector=None, space=None))
            return replace(
                words, degraded=f"{label}, which holds no vectors of {query.space}: words alone were compared"
            )

    @override
    async def describe(self) -> Mapping[str, Detail]:
        return await self._read(self._team.describe, self._describe_copy)

    async def _describe_copy(self, copy: RuleStore) -> Mapping[str, Detail]:
        state = await self._copied_state()
        return {
            "kind": "supabase",
            "url": self._team.place,
            "copy_of": state.get("at"),
            "copy": (await copy.describe())["path"],
        }

    @override
    async def get_note(self, name: str) -> str:
        return await self._team.get_note(name)

    @override
    async def verify(self) -> str:
        return await self._team.verify()

    # Writing, and what serves it

    @override
    async def upsert_rules(self, rules: Sequence[Rule]) -> None:
        await self._team.upsert_rules(rules)

    @override
    async def delete_rules(self, keys: Sequence[RuleKey]) -> int:
        return await self._team.delete_rules(keys)

    @override
    async def activate_space(self, space: EmbeddingSpace, *, if_complete: bool = False) -> bool:
        return await self._team.activate_space(space, if_complete=if_complete)

    @override
    async def drop_space(self, space: EmbeddingSpace) -> int:
        return await self._team.drop_space(space)

    @override
    async def refuse_texts(self, space: EmbeddingSpace, reasons: Mapping[str, str]) -> None:
        await self._team.refuse_texts(space, reasons)

    @override
    async def refusals(self, space: EmbeddingSpace) -> list[Refusal]:
        return await self._team.refusals(space)

    @override
    async def missing_passages(
        self, space: EmbeddingSpace, *, after: str = "", limit: int = 512, again: bool = False
    ) -> tuple[list[Passage], str]:
        return await self._team.missing_passages(space, after=after, limit=limit, again=again)

    @override
    async def without_vector(self, space: EmbeddingSpace, hashes: Sequence[str]) -> set[str]:
        return await self._team.without_vector(space, hashes)

    @override
    async def get_vectors(self, space: EmbeddingSpace, hashes: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        return await self._team.get_vectors(space, hashes)

    @override
    async def nearest(self, space: EmbeddingSpace, vectors: NDArray[np.float32], limit: int) -> list[list[float]]:
        return await self._team.nearest(space, vectors, limit)

    @override
    async def put_vectors(self, hashes: Sequence[str], embeddings: Embeddings) -> None:
        await self._team.put_vectors(hashes, embeddings)

    @override
    async def set_note(self, name: str, text: str) -> None:
        await self._team.set_note(name, text)

    @override
    def exclusive(self, task: str, *, wait: bool = True) -> AbstractAsyncContextManager[bool]:
        return self._team.exclusive(task, wait=wait)

    @override
    def take_rebuilt(self) -> bool:
        return False
