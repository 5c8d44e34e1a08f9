"""Whether the program that started this server is still there.

A client that ends closes the pipe, and the server ends too. But a program between them may be killed alone while the
client holds the pipe open for ever (`uvx` starts the server as its child and waits), or the pipe's end may have leaked
into another child of the client. A server that nobody talks to any more must not stay.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import anyio

_BETWEEN = frozenset(
    {"uv", "uvx", "pipx", "npx", "npm exec", "mise", "direnv", "env", "sh", "bash", "dash", "zsh", "fish", "ksh"}
)
"""Programs that only start another: behind one of them is the client."""
_LOOK_S = 1.0


async def ancestor_gone() -> None:
    """Return when the parent is gone, or the nearest ancestor that is no mere launcher; never, where there is none."""
    parent = os.getppid()
    if parent <= 1:  # a container's first process, or an orphan from the start
        await anyio.sleep_forever()
    descriptors = _descriptors([parent, *_behind(parent)])
    if not descriptors:
        while os.getppid() == parent:  # noqa: ASYNC110 (the system tells nobody)
            await anyio.sleep(_LOOK_S)
        return
    try:
        async with anyio.create_task_group() as tasks:

            async def wait(descriptor: int) -> None:
                await anyio.wait_readable(descriptor)  # a process's descriptor is readable once it has ended
                tasks.cancel_scope.cancel()

            for descriptor in descriptors:
                tasks.start_soon(wait, descriptor)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _descriptors(processes: list[int]) -> list[int]:
    """A descriptor of each process that is still there; none where the system offers none."""
    if sys.platform != "linux":
        return []
    opened = []
    for process in processes:
        with suppress(OSError):
            opened.append(os.pidfd_open(process))
    return opened


def _behind(process: int) -> list[int]:
    """The processes behind a launcher, up to the first that is none."""
    behind: list[int] = []
    while True:
        name, parent = _name_and_parent(process)
        if name not in _BETWEEN or parent <= 1:
            return behind
        behind.append(parent)
        process = parent


def _name_and_parent(process: int) -> tuple[str, int]:
    """A process's name, at most 15 bytes of it, and its parent's number; 0 where that can't be told."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
    except OSError:
        return "", 0
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    return name, int(stat[stat.rindex(")") + 1 :].split()[1])
