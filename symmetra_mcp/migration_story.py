"""How a migration tells what it does: lines on stderr, a bar on a terminal, or events for scripts on stdout."""

from __future__ import annotations

import json
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from symmetra_mcp.terminal import console, show, write
from symmetra_mcp.text import counted

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from symmetra_mcp.running import RunningNow
    from symmetra_mcp.types import Stage

_WAITING_EVERY_S = 5.0


class Story(ABC):
    """What happens, in order.

    Attributes:
        request_texts: Texts of a batch.
    """

    def __init__(self) -> None:
        self.request_texts = 1
        self._batches = 0
        self._reached: tuple[int, int] | None = None
        self._waiting_told_at = self._index_told_at = float("-inf")

    @abstractmethod
    def tell(self, event: str, text: str, **fields: Any) -> None:
        """Something happened."""

    @abstractmethod
    def end(self, event: str, text: str, **fields: Any) -> None:
        """The result."""

    def batch(self, stage: Stage, done: int, total: int) -> None:
        """A batch is stored, or an index grows."""
        if stage == "index":
            self._index(done, total)
            return
        self._batches += 1
        self._reached = done, total
        batches = max(self._batches, math.ceil(total / self.request_texts))
        text = f"Batch {self._batches} of {batches}: {done} of {counted(total, 'text')} embedded"
        self.tell("batch", text, batch=self._batches, batches=batches, embedded=done, texts=total)

    def _index(self, done: int, total: int) -> None:
        if done == total or time.monotonic() - self._index_told_at >= _WAITING_EVERY_S:
            self._index_told_at = time.monotonic()
            self.tell("index", f"Index: {done:,} of {total:,}", done=done, total=total)

    def waiting(self, running: RunningNow | None) -> None:
        """Another process has the work."""
        if time.monotonic() - self._waiting_told_at >= _WAITING_EVERY_S:
            self._waiting_told_at = time.monotonic()
            text = f"Waiting for another run: {running or 'it has just begun'}"
            self.tell("waiting", text, running=str(running or ""))

    def failed(self, problem: str) -> None:
        """It ends with an error, which is told elsewhere; what was done is kept."""
        if self._reached is not None:
            done, total = self._reached
            self.tell(
                "kept",
                f"{done} of {counted(total, 'text')} are embedded and kept: run the same again to go on",
                embedded=done,
                texts=total,
            )


class _Lines(Story):
    """Lines in a log or a pipe; the result on stdout."""

    def tell(self, event: str, text: str, **fields: Any) -> None:
        click.echo(text, err=True)

    def end(self, event: str, text: str, **fields: Any) -> None:
        show(text, as_json=False)


class _Bar(_Lines):
    """A bar on a terminal, which batches move."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._task: TaskID | None = None

    def tell(self, event: str, text: str, **fields: Any) -> None:
        if event != "batch":
            self._progress.console.print(text)
            return
        if self._task is None:
            self._task = self._progress.add_task("Embedding", total=fields["texts"])
        batches = f"Embedding, batch {fields['batch']} of {fields['batches']}"
        self._progress.update(self._task, description=batches, completed=fields["embedded"], total=fields["texts"])

    def end(self, event: str, text: str, **fields: Any) -> None:
        self._progress.stop()
        super().end(event, text, **fields)


class _Events(Story):
    """A JSON object a line, for scripts."""

    def tell(self, event: str, text: str, **fields: Any) -> None:
        write(json.dumps({"event": event, **fields}) + "\n")

    def end(self, event: str, text: str, **fields: Any) -> None:
        self.tell(event, text, **fields)

    def failed(self, problem: str) -> None:
        super().failed(problem)
        self.tell("failed", problem, error=problem)


@contextmanager
def story_of(*, as_json: bool) -> Iterator[Story]:
    """The form that suits whoever reads."""
    if as_json:
        yield _Events()
        return
    screen = console(sys.stderr)
    if not screen.is_terminal:
        yield _Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True) as progress:
        yield _Bar(progress)
