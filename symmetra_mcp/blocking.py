"""Calls from code that is not async: one event loop on a thread of its own, for as long as the process lives."""

from __future__ import annotations

import atexit
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

T = TypeVar("T")

_lock = Lock()
_portals: list[BlockingPortal] = []


def run_blocking(work: Callable[[], Awaitable[T]]) -> T:
    """Run async work and wait for it. Works where an event loop is running too, as in a notebook."""
    return _portal().call(work)


def _portal() -> BlockingPortal:
    with _lock:
        if not _portals:
            from anyio.from_thread import start_blocking_portal

            stack = ExitStack()
            _portals.append(stack.enter_context(start_blocking_portal()))
            atexit.register(stack.close)
        return _portals[0]
