"""Calls from code that is not async: one event loop on a thread of its own, for as long as the process lives."""

from __future__ import annotations

import atexit
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from threading import Lock, Thread
from typing import TYPE_CHECKING, TypeVar

import anyio

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

T = TypeVar("T")

_lock = Lock()
_portals: list[tuple[BlockingPortal, Thread]] = []


def run_blocking(work: Callable[[], Awaitable[T]]) -> T:
    """Run async work and wait for it. Works where an event loop is running too, as in a notebook."""
    return _portal().call(work)


def _portal() -> BlockingPortal:
    with _lock:
        if not _portals:
            # Not anyio's own context manager: left behind in a forked process, it would wait for a thread that is gone.
            started: Future[BlockingPortal] = Future()
            thread = Thread(target=anyio.run, args=(_serve, started), name="symmetra-mcp", daemon=True)
            thread.start()
            _portals.append((started.result(), thread))
        return _portals[0][0]


async def _serve(started: Future[BlockingPortal]) -> None:
    from anyio.from_thread import BlockingPortal

    async with BlockingPortal() as portal:
        started.set_result(portal)
        await portal.sleep_until_stopped()


@atexit.register
def _close() -> None:
    while _portals:
        portal, thread = _portals.pop()
        portal.call(portal.stop)
        thread.join()


def _begin_anew() -> None:
    """A forked process has no thread but its own: waiting for the loop of its parent would never end."""
    global _lock
    _lock = Lock()
    _portals.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
