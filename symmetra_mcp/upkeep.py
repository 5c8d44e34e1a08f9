"""What a running server does beside answering: warm the model, keep in step with rule files, embed what is new."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from symmetra_mcp.errors import SymmetraError

if TYPE_CHECKING:
    from symmetra_mcp.app import App

logger = logging.getLogger(__name__)

PATIENCE_S = 4.0
"""How long a search waits for changed rules to be embedded before it answers, and says what is missing."""
RETRY_S = 30.0
"""How long after a failure the rules that are not embedded yet are tried again."""


class Upkeep:
    """Background work of one server process.

    Attributes:
        app: What is kept in step.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self._greeted = anyio.Event()
        self._wanted = anyio.Event()
        self._idle = anyio.Event()  # set once the rules are embedded; not before the first look
        self._patient_until: float | None = None

    def greeted(self) -> None:
        """The client has its first answer: heavy imports delay nobody now. Safe to call often."""
        self._greeted.set()

    async def run(self) -> None:
        """Work until cancelled."""
        await self._greeted.wait()
        await self._quietly(self.app.warm_up)
        await self._quietly(self.app.keep_in_step)
        await self._quietly(self._tell_notice)
        self._want()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._quietly, self.app.warm_up_reranker)
            pause_s = math.inf
            while True:
                with anyio.move_on_after(pause_s):
                    await self._wanted.wait()
                self._wanted = anyio.Event()
                embedded = await self._quietly(self.app.embed_missing)
                pause_s = math.inf if embedded else RETRY_S
                if not self._wanted.is_set():
                    self._idle.set()
                tasks.start_soon(self._quietly, self.app.keep_backup)
                tasks.start_soon(self._quietly, self.app.keep_copy)

    async def keep_in_step(self, *, unasked: bool = False) -> None:
        """Bring the rules in step with their files, and have new ones embedded in the background.

        Args:
            unasked: Nobody waits for it.

        Raises:
            SymmetraError: The store or the project's rule files can't be used.
        """
        self._greeted.set()
        changed = await self.app.keep_in_step(unasked=unasked)
        if self.app.take_refilled() or changed or self.app.store.copy_is_stale:
            self._want()

    async def before_search(self) -> None:
        """Bring the rules in step, and wait a little for new ones to be embedded.

        Raises:
            SymmetraError: The store or the project's rule files can't be used.
        """
        await self.keep_in_step()
        if self._patient_until is None or not self.app.providers.chosen.is_remote:
            self._patient_until = anyio.current_time() + PATIENCE_S
        with anyio.move_on_at(self._patient_until):
            await self._idle.wait()

    def _want(self) -> None:
        if self._idle.is_set():
            self._idle = anyio.Event()
            self._patient_until = None  # a vendor is waited for once for each change: it may be down for long
        self._wanted.set()

    async def _tell_notice(self) -> None:
        notice = await self.app.space_notice()
        if notice:
            logger.warning("%s", notice)

    @staticmethod
    async def _quietly(work: Callable[[], Awaitable[object]]) -> bool:
        """Do background work whose failure the next tool call reports: here it only goes to the log.

        Returns:
            Whether it succeeded.
        """
        try:
            await work()
        except SymmetraError as exc:
            await anyio.lowlevel.checkpoint_if_cancelled()  # the server ends, and what it needs is closed
            logger.warning("%s", exc)
        except Exception:  # a bug in work that nobody waits for must not end the server: searches still answer
            logger.exception("background work failed")
        else:
            return True
        return False
