"""Token buckets and the headers that tell of them.

Recorded headers of OpenAI's (10,000 requests a minute, 9,999 left, full again in 6 ms) mean a bucket that holds one
minute's limit and is refilled all the time, rather than a window that starts anew every minute.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Literal

RetryAfter = Literal["both", "seconds", "date", "huge", "bad", "none"]
Header = tuple[str, str]

HUGE_RETRY_AFTER_S = 86_400


class TokenBucket:
    """Takes at most what is in it; what it refuses costs nothing.

    Args:
        per_minute: How much flows in.
        capacity_s: Seconds of inflow that it holds; it starts full.
        clock: Seconds, monotonic.
    """

    def __init__(self, per_minute: float, capacity_s: float, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self.capacity = per_minute * capacity_s / 60
        self._clock = clock
        self._level = self.capacity
        self._filled_at_s = clock()

    @property
    def level(self) -> float:
        """How much is in it."""
        now_s = self._clock()
        inflow = (now_s - self._filled_at_s) * self.per_minute / 60
        self._level = min(self.capacity, self._level + inflow)
        self._filled_at_s = now_s
        return self._level

    def wait_s(self, amount: float) -> float:
        """Seconds until so much is in it; 0 where it is already, infinite where it never will be."""
        if amount > self.capacity:
            return math.inf
        return max(0.0, amount - self.level) * 60 / self.per_minute

    def take(self, amount: float) -> None:
        """Take what `wait_s` says is there."""
        self._level = self.level - amount

    @property
    def full_in_s(self) -> float:
        """Seconds until it is full."""
        return (self.capacity - self.level) * 60 / self.per_minute


def rate_headers(requests: TokenBucket | None, tokens: TokenBucket | None) -> list[Header]:
    """OpenAI's six headers; none for a bucket that is not there."""
    headers: list[Header] = []
    for kind, bucket in (("requests", requests), ("tokens", tokens)):
        if bucket is not None:
            headers += [
                (f"x-ratelimit-limit-{kind}", str(int(bucket.per_minute))),
                (f"x-ratelimit-remaining-{kind}", str(max(0, int(bucket.level)))),
                (f"x-ratelimit-reset-{kind}", duration(bucket.full_in_s)),
            ]
    return headers


def retry_headers(mode: RetryAfter, wait_s: float) -> list[Header]:
    """`retry-after-ms` and `retry-after`, or what a vendor or a proxy may send in their place."""
    seconds = max(1, math.ceil(wait_s))
    by_mode: dict[RetryAfter, list[Header]] = {
        "both": [("retry-after-ms", str(max(1, math.ceil(wait_s * 1000)))), ("retry-after", str(seconds))],
        "seconds": [("retry-after", str(seconds))],
        "date": [("retry-after", formatdate(math.ceil(time.time() + wait_s), usegmt=True))],
        "huge": [("retry-after", str(HUGE_RETRY_AFTER_S))],
        "bad": [("retry-after", "soon")],
        "none": [],
    }
    return by_mode[mode]


def duration(seconds: float) -> str:
    """Seconds as OpenAI writes them, rounded up: `6ms`, `1s`, `1m26.4s`, `6m0s`."""
    milliseconds = math.ceil(round(seconds * 1000, 3))
    if milliseconds <= 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}h" if hours else ""
    text += f"{minutes}m" if hours or minutes else ""
    return f"{text}{rest / 1000:g}s"
