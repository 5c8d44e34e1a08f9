"""A re-embedding that goes on while no call waits for it: clients give a tool a minute, and many rules take longer.

A call follows the work for a while and then says how far it is; asking again follows it further, and gets the result
that nobody was there to hear.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import anyio

from symmetra_mcp.errors import SymmetraError
from symmetra_mcp.job_questions import JobQuestions
from symmetra_mcp.running import RunningNow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from anyio.abc import TaskGroup

    from symmetra_mcp.reembed import ReembedReport
    from symmetra_mcp.types import ProgressCallback, Stage

    Work = Callable[[ProgressCallback, Callable[[RunningNow | None], None]], Awaitable[ReembedReport]]

logger = logging.getLogger(__name__)

FOLLOWED_S = 50.0
"""How long a call follows the work: clients with little patience end a call after a minute, and an outage is told after
45 seconds (`remote.LONGEST_OUTAGE_S`)."""

begun_in_this_call: ContextVar[list[Job] | None] = ContextVar("begun_in_this_call", default=None)
"""Where whoever made the call wants to hear of its work at once: a tool puts the job there instead of following it."""


class Job:
    """One re-embedding of this process.

    Attributes:
        force: Whether it embeds what is embedded too.
        ended: Whether it came to its end, whatever that was.
        cancelled: Whether somebody who followed it gave it up.
        questions: What it asks the client's user, where the client follows it as a task.
    """

    def __init__(self, space: str, *, force: bool) -> None:
        self.force = force
        self._space = space
        self._done = self._total = 0
        self._began = time.time()
        self._waits_for: RunningNow | None = None
        self._scope = anyio.CancelScope()
        self._changed = anyio.Event()
        self._report: ReembedReport | None = None
        self._failure: Exception | None = None
        self.ended = self.cancelled = False
        self._holders = 0
        self.questions = JobQuestions()

    @property
    def running(self) -> RunningNow:
        """How far it is, or the run of another process that it waits for."""
        if self._waits_for is not None:
            return self._waits_for
        host = platform.node() or "this machine"
        return RunningNow(host, os.getpid(), self._space, self._done, self._total, self._began)

    async def run(self, work: Work) -> None:
        """Do the work; what it comes to is kept for whoever follows."""
        try:
            with self._scope:
                self._report = await work(self._note, self.wait_for)
        except SymmetraError as exc:
            self._failure = exc
        except Exception as exc:  # a bug must not end the server: whoever follows is told
            logger.exception("re-embedding failed")
            self._failure = exc
        finally:
            self.ended = True
            self._tell()

    async def follow(self, on_progress: ProgressCallback, *, seconds: float = FOLLOWED_S) -> ReembedReport | None:
        """Wait for the end, for a while; a cancelled caller ends the work, unless somebody else wants it.

        Args:
            on_progress: Hears how far it is.
            seconds: How long to wait.

        Returns:
            Its report, or `None` while it goes on.

        Raises:
            SymmetraError: It failed.
        """
        self.hold()
        try:
            with anyio.move_on_after(seconds):
                while not self.ended:
                    changed = self._changed
                    if self._total:
                        on_progress("embed", self._done, self._total)
                    await changed.wait()
        except anyio.get_cancelled_exc_class():
            self.give_up()
            raise
        self._holders -= 1
        return self.report()

    async def finished(self) -> None:
        """Wait for the end, however long that takes; a cancelled caller ends nothing."""
        while not self.ended:
            await self._changed.wait()

    def report(self) -> ReembedReport | None:
        """What it came to, or `None` while it goes on or where it was cancelled.

        Raises:
            SymmetraError: It failed.
        """
        if self._failure is not None:
            raise self._failure
        return self._report

    def hold(self) -> None:
        """Somebody wants the work; over HTTP, several clients may want the same."""
        self._holders += 1

    def give_up(self) -> None:
        """Who held the work wants it no more: the last one ends it. What is embedded is kept."""
        self._holders -= 1
        if self._holders <= 0:
            self.cancelled = True
            self._scope.cancel()

    def wait_for(self, running: RunningNow | None) -> None:
        """Another process has the work."""
        self._waits_for = running

    def _note(self, stage: Stage, done: int, total: int) -> None:
        self._waits_for = None
        if stage == "embed":  # an index that is built then takes its own time
            self._done, self._total = done, total
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


class Jobs:
    """The work of one server that outlives calls; nothing runs before a server gave it its tasks."""

    def __init__(self) -> None:
        self._tasks: TaskGroup | None = None
        self._current: Job | None = None

    def attach(self, tasks: TaskGroup) -> None:
        """Run what is started in these tasks from now on."""
        self._tasks = tasks

    def current(self, *, force: bool) -> Job | None:
        """The job that runs, or one whose end nobody heard; a forced one is not the answer to a call that is not."""
        job = self._current
        if job is None or job.cancelled or (job.ended and job.force != force):
            return None
        return job

    def start(self, job: Job, work: Work) -> Job:
        """Start work.

        Raises:
            RuntimeError: No server runs.
        """
        self.run_beside(job.run, work)
        self._current = job
        return job

    def run_beside(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
        """Run what watches over a job for as long as the server runs.

        Raises:
            RuntimeError: No server runs.
        """
        if self._tasks is None:
            raise RuntimeError("no server runs")
        self._tasks.start_soon(work, *arguments)

    def heard(self, job: Job) -> None:
        """The end of a job was told."""
        if self._current is job:
            self._current = None
