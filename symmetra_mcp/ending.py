"""How a serving process ends in time: signals are heard in a thread, and what hangs is not waited for.

Only modules of the standard library that are quick to import may be imported here.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


def hear_signals(stop: Callable[[], None], *, unless_ignored: bool = False) -> None:
    """Hear SIGTERM, SIGINT and SIGHUP in a thread: the main thread may be in an import, or in a call that hangs.

    Args:
        stop: Called in that thread at each of them.
        unless_ignored: Leave those alone that the process was started to ignore, as `nohup` does.
    """
    ours = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
    if unless_ignored:
        ours = [number for number in ours if signal.getsignal(number) is not signal.SIG_IGN]
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        for number in ours:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    except ValueError:  # not in the main thread: whoever runs us there hears them
        os.close(reading)
        os.close(writing)
        return

    def hear() -> None:
        while heard := os.read(reading, 1):
            if heard[0] in ours:
                stop()

    threading.Thread(target=hear, name="signals", daemon=True).start()


def end_by_force_in(seconds: float, last: Callable[[], None] | None = None) -> None:
    """End the process even if a thread hangs; what is on disk is whole at every moment.

    Args:
        seconds: How long it may take to end by itself.
        last: Called before, if it didn't.
    """

    def end() -> None:
        if last is not None:
            last()
        os._exit(0)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
