"""A circuit breaker: a provider that is down is left alone for a while, so that searches don't wait for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from symmetra_mcp.errors import ProviderAuthError, ProviderUnavailableError, QuotaExceededError

if TYPE_CHECKING:
    from symmetra_mcp.errors import ProviderError

BreakerState = Literal["closed", "open", "half_open"]

CONSECUTIVE_FAILURES = 3
"""Failures in a row that open it: a search that waits for a dead provider costs its whole timeout."""
RECENT_CALLS = 20
MIN_FAILURES = 5
FAILURE_SHARE = 0.5
"""Of the recent calls, with at least `MIN_FAILURES`: a provider that fails every other time is no use either."""
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 30.0
LASTING_PAUSE_S = 600.0
"""After a refused key or an empty account: a person has to act, which a running server may not hear of."""


class CircuitBreaker:
    """Counts failures of one provider. Not thread-safe: one event loop's calls report to it.

    Closed, calls go through. Open, none does. Half open, once the pause is over, one call tries; its success closes the
    breaker, its failure doubles the pause.

    Attributes:
        cause: The failure that opened it, or `None` while it is closed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._recent: deque[bool] = deque(maxlen=RECENT_CALLS)
        self._in_a_row = 0
        self._pause_s = FIRST_PAUSE_S
        self._open_until = 0.0
        self._opened_at: float | None = None
        self._trying_since: float | None = None
        self.cause: ProviderError | None = None

    @property
    def state(self) -> BreakerState:
        """Whether calls go through."""
        if self.cause is None:
            return "closed"
        return "open" if self._clock() < self._open_until else "half_open"

    @property
    def pause_left_s(self) -> float:
        """Seconds until a call may try again; 0 when one may now."""
        return max(0.0, self._open_until - self._clock()) if self.cause is not None else 0.0

    @property
    def down_s(self) -> float:
        """Seconds since it opened; 0 while it is closed."""
        return 0.0 if self._opened_at is None else self._clock() - self._opened_at

    def allows(self) -> bool:
        """Whether a call may go out now; a `True` while half open makes it the one that tries."""
        if self.state == "closed":
            return True
        if self.state == "open" or self._someone_tries():
            return False
        self._trying_since = self._clock()
        return True

    def succeeded(self) -> None:
        """A call was answered."""
        if self.cause is not None:
            self._recent.clear()
        self._recent.append(True)
        self._in_a_row, self._pause_s = 0, FIRST_PAUSE_S
        self.cause = self._trying_since = self._opened_at = None

    def failed(self, error: ProviderError) -> None:
        """A call failed for a reason that lies with the provider, not with what was sent."""
        self._recent.append(False)
        self._in_a_row += 1
        if isinstance(error, ProviderAuthError | QuotaExceededError):
            self._open(error, LASTING_PAUSE_S)
        elif self.cause is not None:
            if self.state == "half_open":
                self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
                self._open(error, self._pause_s)
        elif self._in_a_row >= CONSECUTIVE_FAILURES or self._fails_often():
            self._open(error, self._pause_s)

    def released(self) -> None:
        """A call that was let through ended without a verdict, as when it is cancelled."""
        self._trying_since = None

    def half_open(self) -> None:
        """Let the next call try, however long the pause would be."""
        self._open_until = self._clock()
        self._trying_since = None

    def left_alone(self) -> ProviderError:
        """The error for a call that is not let through: what opened it, and when it is tried again."""
        cause = self.cause
        assert cause is not None
        message = f"{cause} (asked again in {max(1, round(self.pause_left_s))} s)"
        for kind in (ProviderAuthError, QuotaExceededError):
            if isinstance(cause, kind):
                return kind(message, provider=cause.provider, model=cause.model)
        return ProviderUnavailableError(message, provider=cause.provider, model=cause.model)

    def _someone_tries(self) -> bool:
        return self._trying_since is not None and self._clock() - self._trying_since < LONGEST_PAUSE_S

    def _fails_often(self) -> bool:
        failures = self._recent.count(False)
        return failures >= MIN_FAILURES and failures >= FAILURE_SHARE * len(self._recent)

    def _open(self, cause: ProviderError, pause_s: float) -> None:
        if self._opened_at is None:
            self._opened_at = self._clock()
        self.cause = cause
        self._open_until = self._clock() + pause_s
        self._trying_since = None
