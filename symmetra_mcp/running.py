"""Who is embedding just now and how far it is: written beside the rules, where every machine reads it."""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from symmetra_mcp.errors import StoreError

if TYPE_CHECKING:
    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.stores.base import RuleStore

_TELL_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class RunningNow:
    """A run that embeds.

    Attributes:
        host: Name of its machine.
        pid: Its process there.
        space: Where its vectors go, as text.
        done: Texts embedded so far.
        total: Texts that it found missing.
        began: When it began, in seconds since 1970.
    """

    host: str
    pid: int
    space: str
    done: int
    total: int
    began: float

    def __str__(self) -> str:
        minutes = max(0, int((time.time() - self.began) / 60))
        since = f", for {minutes} min" if minutes else ""
        return f"{self.host} (process {self.pid}) embeds in {self.space}: {self.done} of {self.total} texts{since}"


async def running_now(store: RuleStore, task: str = "embedding") -> RunningNow | None:
    """What the holder of a task wrote last; true only while somebody holds it.

    Raises:
        StoreError: The store failed.
    """
    try:
        return RunningNow(**json.loads(await store.get_note(_note_of(task))))
    except (ValueError, TypeError):  # nothing yet, or another version's
        return None


class Announcement:
    """Tells the others how far this process's run is; a failure to tell is no failure of the run."""

    def __init__(self, store: RuleStore, task: str, space: EmbeddingSpace) -> None:
        self._store = store
        self._note = _note_of(task)
        self._now = RunningNow(platform.node() or "another machine", os.getpid(), str(space), 0, 0, time.time())
        self._told_at = float("-inf")

    async def tell(self, done: int, total: int) -> None:
        """Write how far it is, at most once a second."""
        if time.monotonic() - self._told_at < _TELL_EVERY_S:
            return
        self._told_at = time.monotonic()
        text = json.dumps(asdict(self._now) | {"done": done, "total": total})
        with suppress(StoreError):
            await self._store.set_note(self._note, text)


def _note_of(task: str) -> str:
    return f"running {task}"
