"""How fast a provider may be asked: token buckets that its answers correct, and a number of requests in flight.

The limits of an account are not known beforehand. OpenAI's answers tell what is left of them; where a vendor tells
nothing, a refusal does. Either way the rate is found while working, so a run takes little longer than the limits allow
and is seldom refused.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

FIRST_WINDOW = 2.0
WIDEST_WINDOW = 16.0
"""Requests in flight: the widest limits that vendors sell need 3 of 250 texts; the rest drains a full bucket."""
ARRIVAL_S = 0.06
"""A request sent less than this ago may not be counted yet in what an answer says is left."""
FAULTY_SHARE = 0.2
"""Failures among the recent requests from which fewer are sent at once."""
SLOWER = 0.8
"""What is left of a rate that a vendor without rate headers has refused."""
FASTER = 1.01
"""What an answer makes of such a rate, up to what it was: the refusal may have had another cause."""
SLOWEST = 0.1
"""The least that refusals leave of it."""
SMALLEST_S = 1.0
"""Seconds of its rate that a bucket holds at least."""
_RECENT = 20


@dataclass(frozen=True, slots=True)
class RateState:
    """What an answer says of one limit.

    Attributes:
        limit: Units a minute.
        remaining: Units left now.
        full_in_s: Seconds until all of it is there again.
    """

    limit: float
    remaining: float
    full_in_s: float


class Bucket:
    """A token bucket as vendors keep them: it holds at most `capacity` and fills at `per_minute` / 60 a second."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self.capacity = per_minute
        self._level = per_minute
        self._most_per_minute = per_minute
        self._full_since_refusal = True
        self._clock = clock
        self._seen = clock()

    @property
    def level(self) -> float:
        """Units that may be taken now; below zero, more than there was has been taken."""
        now = self._clock()
        self._level = min(self.capacity, self._level + (now - self._seen) * self.per_minute / 60)
        self._seen = now
        self._full_since_refusal = self._full_since_refusal or self._level >= self.capacity
        return self._level

    def wait_s(self, units: float) -> float:
        """Seconds until `units` may be taken; more than it can hold may be taken when it is full."""
        missing = min(units, self.capacity) - self.level
        return max(0.0, missing * 60 / self.per_minute)

    def take(self, units: float) -> None:
        """Take units, whether they are there or not."""
        self._level = self.level - units

    def correct(self, state: RateState, not_counted_yet: float) -> None:
        """Follow what the vendor says is left.

        Args:
            state: The vendor's words.
            not_counted_yet: Units of requests that it may not have seen when it wrote them.
        """
        self.per_minute = state.limit
        rate = state.limit / 60
        self.capacity = state.remaining + rate * state.full_in_s if state.full_in_s > 0 else state.limit
        self._level = state.remaining - not_counted_yet
        self._seen = self._clock()

    def refused(self, units: float, retry_after_s: float | None) -> None:
        """A refusal says that nothing is left, whatever was thought, or how long the rest of `units` takes to come."""
        left = 0.0 if retry_after_s is None else max(0.0, units - retry_after_s * self.per_minute / 60)
        self._level = min(self.level, left)
        self._full_since_refusal = False

    def overrated(self) -> None:
        """A refusal came although there was room: the bucket holds less, or fills more slowly, than was thought.

        A level counted from a full bucket is wrong where it holds less; one counted from an empty bucket is not.
        """
        smallest = self.per_minute / 60 * SMALLEST_S
        if self._full_since_refusal and self.capacity > 2 * smallest:
            self.capacity = max(smallest, self.capacity - self.level)
        else:
            self.per_minute = max(self.per_minute * SLOWER, self._most_per_minute * SLOWEST)

    def speed_up(self) -> None:
        """An answer came: what refusals took away comes back little by little."""
        self.per_minute = min(self.per_minute * FASTER, self._most_per_minute)
        self.capacity = min(self.capacity * FASTER, self._most_per_minute)


class Pace:
    """Admission of requests to one provider, shared by all its calls on one event loop.

    A window of requests in flight grows while answers come, and is halved when the vendor refuses for its rate although
    the buckets said there was room, or when one request in five fails.
    """

    def __init__(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        inputs_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._requests = Bucket(requests_per_minute, clock) if requests_per_minute else None
        self._tokens = Bucket(tokens_per_minute, clock) if tokens_per_minute else None
        self._inputs = Bucket(inputs_per_minute, clock) if inputs_per_minute else None
        self._fixed = (requests_per_minute is not None, tokens_per_minute is not None)
        self.window = FIRST_WINDOW
        self.in_flight = 0
        self._growing_fast = True
        self._cut_at = -math.inf
        self._pause_until = -math.inf
        self._sent: deque[tuple[float, int]] = deque()
        self._outcomes: deque[bool] = deque(maxlen=_RECENT)
        self._turn = anyio.Lock()
        self._freed = anyio.Event()

    @property
    def largest_request(self) -> int | None:
        """Tokens that one request should hold at most: an eighth of what the limit gives at once."""
        return None if self._tokens is None else max(1, int(self._tokens.capacity / 8))

    @asynccontextmanager
    async def admitted(self, tokens: int | Callable[[], int], inputs: int) -> AsyncIterator[None]:
        """Wait for a place and for the limits, first come, first served; hold the place inside the block.

        Args:
            tokens: What the request takes, or what says so: answers that come while it waits correct the estimate.
            inputs: Texts of the request.
        """
        count = tokens if callable(tokens) else lambda: tokens
        async with self._turn:
            while self.in_flight >= max(1, int(self.window)):
                self._freed = anyio.Event()
                await self._freed.wait()
            while (wait_s := self._wait_s(count(), inputs)) > 0:  # noqa: ASYNC110 - time passes, no event is set
                await anyio.sleep(wait_s)
            self.note_sent(count(), inputs)
            self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._freed.set()

    def note_sent(self, tokens: int, inputs: int) -> None:
        """Count a request that goes out now: one that a person waits for is counted, not held back."""
        for bucket, units in ((self._requests, 1), (self._tokens, tokens), (self._inputs, inputs)):
            if bucket is not None:
                bucket.take(units)
        self._sent.append((self._clock(), tokens))

    def answered(self, requests: RateState | None, tokens: RateState | None) -> None:
        """A request succeeded; what its headers say of the limits is followed."""
        self._outcomes.append(True)
        self.window = min(WIDEST_WINDOW, self.window + (1.0 if self._growing_fast else 1 / self.window))
        if self._inputs is not None:
            self._inputs.speed_up()
        young = self._sent_lately()
        self._requests = self._corrected(self._requests, requests, len(young), fixed=self._fixed[0])
        self._tokens = self._corrected(self._tokens, tokens, sum(young), fixed=self._fixed[1])

    def refused(self, retry_after_s: float | None, tokens: int = 0, inputs: int = 0) -> None:
        """The vendor refused a request of so many units for its rate."""
        now = self._clock()
        explained = any(bucket is not None and bucket.level <= 0 for bucket in (self._requests, self._tokens))
        if self._inputs is not None and self._inputs.level > 0 and now - self._cut_at >= 1.0:
            self._inputs.overrated()
        for bucket, units in ((self._requests, 1), (self._tokens, tokens), (self._inputs, inputs)):
            if bucket is not None:
                bucket.refused(units, retry_after_s)
        self._pause_until = max(self._pause_until, now + (retry_after_s or 0.0))
        self._growing_fast = False
        if not explained:
            self._cut()

    def failed(self) -> None:
        """A request failed for another reason: one alone says nothing of the rate, many do."""
        self._outcomes.append(False)
        failures = self._outcomes.count(False)
        if len(self._outcomes) == _RECENT and failures >= FAULTY_SHARE * _RECENT:
            self._cut()

    def _cut(self) -> None:
        now = self._clock()
        if now - self._cut_at >= 1.0:  # refusals of requests that were in flight together tell one thing
            self.window = max(1.0, self.window / 2)
            self._growing_fast = False
            self._cut_at = now

    def _wait_s(self, tokens: int, inputs: int) -> float:
        waits = [self._pause_until - self._clock()]
        for bucket, units in ((self._requests, 1), (self._tokens, tokens), (self._inputs, inputs)):
            if bucket is not None:
                waits.append(bucket.wait_s(units))
        return max(waits)

    def _sent_lately(self) -> list[int]:
        now = self._clock()
        while self._sent and now - self._sent[0][0] > ARRIVAL_S:
            self._sent.popleft()
        return [tokens for _, tokens in self._sent]

    def _corrected(
        self, bucket: Bucket | None, state: RateState | None, not_counted_yet: float, *, fixed: bool
    ) -> Bucket | None:
        if state is None or state.limit <= 0:
            return bucket
        if bucket is None:
            bucket = Bucket(state.limit, self._clock)
        if fixed:  # the user's own limit: follow the vendor only downwards
            lower = state.remaining - not_counted_yet
            if lower < bucket.level:
                bucket.take(bucket.level - lower)
            return bucket
        bucket.correct(state, not_counted_yet)
        return bucket
