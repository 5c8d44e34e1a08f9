"""Make a space complete: the one operation behind a first import, a changed rule and a change of provider.

What is missing is embedded beside what searches compare in, and they switch to it when it is complete and verified. A
run that was killed or failed is resumed by running it again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from symmetra_mcp.calibration import calibrate
from symmetra_mcp.embedding_run import EmbeddingRun, Progress, RunLimits, embed_probes
from symmetra_mcp.errors import SpaceMismatchError, SymmetraError
from symmetra_mcp.running import Announcement, running_now
from symmetra_mcp.stores.base import SpaceStatus
from symmetra_mcp.verification import OwnTexts, own_texts, verify_space

if TYPE_CHECKING:
    from symmetra_mcp.providers.base import EmbeddingProvider
    from symmetra_mcp.running import RunningNow
    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.stores.base import Refusal, RuleStore
    from symmetra_mcp.types import ProgressCallback

_ROUNDS = 8
"""How often a run looks for rules that came in while it ran, before it leaves the rest to the next."""
_PLAN_PAGE = 2048
_TIMED_TEXTS = 32
"""Texts that a plan embeds on this machine, to tell how long the others take."""
_TAKEN_BY_ALL = "Use clear names."
"""A text that nobody refuses."""
_LOOK_AGAIN_S = 0.3
_LONGEST_PAUSE_S = 3.0
"""How often a run that waits for another looks whether that has ended: seldom at the end, soon at the beginning."""

MakeQuick = Callable[[SpaceStatus], Awaitable[str]]
"""Given a complete space, tells what is left to do, or nothing."""


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
        refused: Texts that the provider does not take: their rules are found by words.
        kept: Texts that the provider does not take now and that keep the vector they had: how each begins, and why.
        probed: Rules that were found by their own texts before searches switched.
        seconds: With `dry_run`, how long a run takes by the limits that are known, or by this machine; else `None`.
        running: The run of another process that has the work, where this one did not wait for it.
        notice: What is left to do; empty where nothing is.
    """

    space: EmbeddingSpace
    embedded: int
    missing: int
    passages: int
    dry_run: bool = False
    switched_from: EmbeddingSpace | None = None
    tokens: int = 0
    cost_usd: float | None = 0.0
    refused: tuple[Refusal, ...] = ()
    kept: tuple[tuple[str, str], ...] = ()
    probed: int = 0
    seconds: float | None = None
    running: RunningNow | None = None
    notice: str = ""


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
    on_wait: Callable[[RunningNow | None], None] | None = None,
    make_quick: MakeQuick | None = None,
) -> ReembedReport:
    """Embed every text that has no vector in the provider's space, and make that space the active one.

    Rules written meanwhile are embedded too. Before searches switch from another space, the new one is verified.

    Args:
        store: Holds the rules.
        provider: Embeds them.
        force: Embed the texts that have a vector or were refused too; a forced run that was cut off goes on.
        dry_run: Count only: nothing is changed, and no vendor is asked.
        wait: Where another process is embedding already, wait for it; else leave the work to it.
        activate: Have searches compare in the space; without it, it is kept beside the active one.
        batch_texts: Most texts in one request, where that is less than the provider takes well.
        on_progress: Hears after every request.
        on_wait: Hears now and then who has the work, while this one waits for it.
        make_quick: Makes searches in the complete space quick, before they switch to it; tells what is left to do.

    Raises:
        ProviderError: The provider failed; what was embedded before is kept.
        StoreError: The store failed.
        VerificationError: The new space is not what it should be; searches stay where they were.
    """
    if dry_run:
        return await _plan(store, provider, force=force)
    limits = RunLimits.of(provider, batch_texts)
    task = "embedding" if activate else "backup"
    pause_s = _LOOK_AGAIN_S
    while True:
        async with store.exclusive(task, wait=False) as held:
            if held:
                work = _Completion(store, provider, limits, task, force, on_progress, make_quick)
                return await work.run(activate=activate)
        if not wait:
            status = await _status(store, provider.space)
            running = await running_now(store, task)
            return ReembedReport(provider.space, 0, status.missing, status.passages, running=running)
        if on_wait is not None:
            on_wait(await running_now(store, task))
        await anyio.sleep(pause_s)
        pause_s = min(_LONGEST_PAUSE_S, pause_s * 1.5)  # every server of a team may be waiting


class _Completion:
    """The work of the one process that holds the task."""

    def __init__(
        self,
        store: RuleStore,
        provider: EmbeddingProvider,
        limits: RunLimits,
        task: str,
        force: bool,
        on_progress: ProgressCallback | None,
        make_quick: MakeQuick | None,
    ) -> None:
        self._store = store
        self._provider = provider
        self._space = provider.space
        self._limits = limits
        self._task = task
        self._force = force
        self._on_progress = on_progress
        self._make_quick = make_quick
        self._progress = Progress()
        self._asked: OwnTexts | None = None
        self._forced_note = f"forced {provider.space.space_id}"

    async def run(self, *, activate: bool) -> ReembedReport:
        # Not `active_space`: a store may remember one that another machine has left since.
        active = next((each.space for each in await self._store.space_statuses() if each.active), None)
        if active is None and activate:
            await self._store.activate_space(self._space)  # nothing to lose: searches use vectors as they arrive
        switches = activate and active is not None and active != self._space
        switched, probed, notice = False, 0, ""
        for _ in range(_ROUNDS):
            before = self._done
            missing = await self._embed_what_is_missing(checked_after=switches)
            if missing and self._done > before:
                continue  # rules came in behind it
            if not missing and (switches or self._done) and self._make_quick is not None:
                notice = await self._make_quick(await _status(self._store, self._space))
            if missing or not switches:
                break
            with suppress(SpaceMismatchError):  # rules came in during the check
                probed = await self._verified()
                switched = await self._store.activate_space(self._space, if_complete=True)
            if switched:
                break
        status = await _status(self._store, self._space)
        if not status.missing:
            await calibrate(self._store, self._space, status.passages)
        refused = tuple(await self._store.refusals(self._space)) if status.refused else ()
        without_vector = {each.content_hash for each in refused}
        now_refused = self._progress.refused.items()
        return ReembedReport(
            self._space,
            self._progress.embedded,
            status.missing,
            status.passages,
            switched_from=active if switched else None,
            tokens=self._progress.tokens,
            cost_usd=_cost(self._provider, self._progress.tokens),
            refused=refused,
            kept=tuple((self._progress.beginnings[key], why) for key, why in now_refused if key not in without_vector),
            probed=probed,
            notice=notice,
        )

    @property
    def _done(self) -> int:
        return self._progress.embedded + len(self._progress.refused)

    async def _embed_what_is_missing(self, *, checked_after: bool) -> int:
        """One pass over the rules' texts; a forced run begins with one over all of them.

        Args:
            checked_after: Whether searches switch afterwards.

        Returns:
            Texts that have no vector after it.
        """
        status = await _status(self._store, self._space)
        wanted = status.passages if self._force else status.missing
        after = await self._store.get_note(self._forced_note) if self._force else ""
        if wanted:
            announcement = Announcement(self._store, self._task, self._space)
            total = self._done + wanted
            await announcement.tell(self._done, total)

            async def written(progress: Progress) -> None:
                if self._force and not progress.refused:  # what is refused may have to be asked again
                    await self._store.set_note(self._forced_note, progress.resume_after)
                if self._on_progress is not None:
                    self._on_progress("embed", self._done, max(total, self._done))
                await announcement.tell(self._done, total)

            work = EmbeddingRun(
                self._store,
                self._provider,
                self._limits,
                again=self._force,
                after=after,
                progress=self._progress,
                on_written=written,
            )
            try:
                async with anyio.create_task_group() as beside:
                    if checked_after:
                        beside.start_soon(self._prepare_check)
                    await work.run(wanted)
            except ExceptionGroup as group:
                raise group.exceptions[0] from None
            await self._remember_refusals()
        self._progress.tokens += await embed_probes(self._store, self._provider, self._limits, again=self._force)
        if self._force:
            await self._store.set_note(self._forced_note, "")
            self._force = False
        return (await _status(self._store, self._space)).missing

    async def _prepare_check(self) -> None:
        """Have the check's questions embedded while the vendor's limit is waited for, not after."""
        if self._asked is None:
            with suppress(SymmetraError):  # then the check asks, and fails where it must
                self._asked = await own_texts(self._store, self._provider)

    async def _remember_refusals(self) -> None:
        """Note which texts the provider does not take, once it has taken one of ours: else the provider is ill.

        Raises:
            InputRefusedError: It takes nothing.
        """
        if not self._progress.refused:
            return
        await self._provider.embed_documents([_TAKEN_BY_ALL])
        await self._store.refuse_texts(self._space, self._progress.refused)

    async def _verified(self) -> int:
        """Check the space, unless searches compared in it before and nothing of it is new.

        Returns:
            How many rules' texts were asked for.
        """
        if not self._done and (await _status(self._store, self._space)).left_at:
            return 0
        return await verify_space(self._store, self._provider, self._progress.sample, self._asked)


async def _plan(store: RuleStore, provider: EmbeddingProvider, *, force: bool) -> ReembedReport:
    """What a run would embed, and what that costs."""
    space = provider.space
    status = await _status(store, space)
    wanted = status.passages if force else status.missing
    tokens, after = 0, ""
    first: list[str] = []
    while wanted:
        page, after = await store.missing_passages(space, after=after, limit=_PLAN_PAGE, again=force)
        if not page:
            break
        first = first or [passage.text for passage in page[:_TIMED_TEXTS]]
        if not provider.is_remote:
            break  # nobody sends a bill
        tokens += sum(provider.estimate_tokens(passage.text) for passage in page)
    seconds = provider.least_duration_s(wanted, tokens)
    if not provider.is_remote and wanted > _TIMED_TEXTS:
        seconds = await _timed(provider, first) * wanted / len(first)
    return ReembedReport(
        space,
        0,
        wanted,
        status.passages,
        True,
        tokens=tokens,
        cost_usd=_cost(provider, tokens),
        refused=tuple(await store.refusals(space)) if status.refused else (),
        seconds=seconds,
    )


async def _timed(provider: EmbeddingProvider, texts: list[str]) -> float:
    """Seconds that a provider on this machine takes for some texts."""
    await provider.warm_up()
    began = time.perf_counter()
    await provider.embed_documents(texts)
    return time.perf_counter() - began


async def _status(store: RuleStore, space: EmbeddingSpace) -> SpaceStatus:
    """How complete a space is, one that the store does not know yet too."""
    for status in await store.space_statuses():
        if status.space == space:
            return status
    passages = await store.count_passages()
    return SpaceStatus(space, active=False, passages=passages, missing=passages)


def _cost(provider: EmbeddingProvider, tokens: int) -> float | None:
    price = provider.price_usd_per_million
    return None if price is None and tokens else tokens * (price or 0.0) / 1_000_000
