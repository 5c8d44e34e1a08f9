"""The client's two pipes, for the protocol alone.

Whatever else the process prints goes to stderr, from the first statement on: one stray line on stdout, and clients give
a server up. Only modules of the standard library that are quick to import may be imported here.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

LONGEST_LINE = 64 * 2**20
"""Bytes of one message that are read; a longer one is refused, not kept."""
MOST_UNREAD = 64 * 2**20
"""Bytes of answers that a client may leave unread before no more of its messages are read."""
_SKIPPED_AT_ONCE = 2**20


class Wire:
    """Lines from and to the client.

    A thread writes, so that a client that doesn't read stops nobody but itself.
    """

    def __init__(self, incoming: int, outgoing: int) -> None:
        """Take two descriptors for one's own.

        Args:
            incoming: A descriptor to read from.
            outgoing: A descriptor to write to.
        """
        self._incoming = incoming
        self._outgoing = outgoing
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._unread = 0
        self._changed = threading.Condition()
        self._broken = False
        self._when_broken: Callable[[], None] = lambda: None
        self._writer = threading.Thread(target=self._write, name="stdout", daemon=True)
        self._writer.start()

    @classmethod
    def of_this_process(cls) -> Wire:
        """Take over stdin and stdout. Afterwards stdin is empty, and what is printed goes to stderr."""
        incoming, outgoing = _private(0, os.O_RDONLY), _private(1, os.O_WRONLY)
        _divert(0, None)
        _divert(1, 2)
        return cls(incoming, outgoing)

    @property
    def is_terminal(self) -> bool:
        """Whether a person sits at the other end."""
        return os.isatty(self._incoming)

    def when_broken(self, tell: Callable[[], None]) -> None:
        """Be told, in a thread, that the client reads no more.

        Args:
            tell: Is called once; at once where that is known already.
        """
        with self._changed:
            self._when_broken = tell
            broken = self._broken
        if broken:
            tell()

    def lines(self) -> Iterator[bytes | None]:
        """Messages as they come, until the client closes its end; `None` stands for one that is too long."""
        with suppress(OSError), os.fdopen(self._incoming, "rb") as stream:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._unread < MOST_UNREAD or self._broken)
                line = stream.readline(LONGEST_LINE)
                if not line:
                    return
                if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                    while (rest := stream.readline(_SKIPPED_AT_ONCE)) and not rest.endswith(b"\n"):
                        pass
                    yield None
                else:
                    yield line

    def send(self, message: bytes) -> None:
        """Send a message, in its turn.

        Args:
            message: JSON without line breaks.
        """
        with self._changed:
            self._unread += len(message)
        self._answers.put(message)

    def finish(self, seconds: float) -> None:
        """Wait until what was sent is written.

        Args:
            seconds: How long at most.
        """
        self._answers.put(None)
        self._writer.join(seconds)

    def _write(self) -> None:
        while (message := self._answers.get()) is not None:
            if not self._broken:
                self._write_whole(message + b"\n")
            with self._changed:
                self._unread -= len(message)
                self._changed.notify_all()

    def _write_whole(self, line: bytes) -> None:
        left = memoryview(line)
        try:
            while left:
                left = left[os.write(self._outgoing, left) :]
        except OSError:  # the client is gone
            with self._changed:
                self._broken = True
                self._changed.notify_all()
                tell = self._when_broken
            tell()


def _private(standard: int, flags: int) -> int:
    """A descriptor for what a standard one leads to, out of reach of those who print; nothing where it is closed."""
    try:
        descriptor = os.dup(standard)
        os.set_blocking(descriptor, True)
    except OSError:
        descriptor = os.open(os.devnull, flags)
    while descriptor <= 2:  # one of the standard numbers was free: they lead elsewhere soon
        descriptor = os.dup(descriptor)
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(descriptor, os.O_BINARY)
    return descriptor


def _divert(standard: int, target: int | None) -> None:
    """Let a standard descriptor lead elsewhere, or to nothing."""
    with suppress(OSError):
        if target is not None:
            os.dup2(target, standard)
            return
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, standard)
    if nothing > 2:
        os.close(nothing)
