"""Everything that can go wrong with an answer, by name, and when it does."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Literal, get_args

import numpy as np

from loopback.vectors import Vector

RequestSize = Literal["query", "batch", "models", "rerank"]
FaultTarget = Literal["any", "query", "batch", "models", "rerank"]
Row = tuple[int, Vector]
"""A vector with the `index` it is sent under."""


class Fault(StrEnum):
    """What the vendor does instead of answering as it should."""

    # Refused before any work: nothing is taken from the limits
    RATE_LIMIT = "rate_limit"
    """429 though the limits are not reached."""
    SERVER_ERROR = "server_error"
    """500."""
    UNAVAILABLE = "unavailable"
    """503."""
    HTML_BAD_GATEWAY = "html_bad_gateway"
    """502 from a proxy, in HTML."""
    QUOTA = "quota"
    """429 that no waiting helps: OpenAI's `insufficient_quota`, the monthly calls of Cohere's trial keys."""
    WRONG_KEY = "wrong_key"
    """401; OpenAI's text repeats the first 8 and the last 4 characters of the key."""
    FORBIDDEN = "forbidden"
    """403."""
    ECHO_KEY = "echo_key"
    """400 that repeats the Authorization header in its message, its code and its headers."""
    REDIRECT = "redirect"
    """307 to `/_stolen` here."""
    REDIRECT_FOUND = "redirect_found"
    """302 to `/_stolen` here: clients turn the POST into a GET."""
    REDIRECT_ELSEWHERE = "redirect_elsewhere"
    """307 to `/_stolen` at another port, which is another origin."""

    # The connection misbehaves
    HANG = "hang"
    """No answer, and the connection stays open."""
    STALL = "stall"
    """Half a body, then silence."""
    HALF_CLOSED = "half_closed"
    """Half a body, then the end of the stream."""
    RESET = "reset"
    """The connection is reset (RST) before a byte of the answer."""

    # A success by its status
    GARBAGE = "garbage"
    """JSON that breaks off, and junk."""
    SHORT = "short"
    """Vectors that lack their last number."""
    LONG = "long"
    """Vectors with a number too many."""
    NAN = "nan"
    """One row holds a number that is none."""
    INFINITE = "infinite"
    """One row holds an infinite number."""
    ZERO = "zero"
    """One row is all zeros."""
    NOT_UNIT = "not_unit"
    """Every row is three times as long as it should be."""
    SHUFFLED = "shuffled"
    """Rows in another order: OpenAI's with their true index, Cohere's with nothing that tells."""
    DUPLICATE_INDEX = "duplicate_index"
    """One row is sent twice, in place of its neighbour."""
    UNKNOWN_INDEX = "unknown_index"
    """One row is sent under the index of a text that was not sent."""
    MISSING_ROW = "missing_row"
    """One row is left out."""
    EMPTY_DATA = "empty_data"
    """No rows."""
    OTHER_MODEL = "other_model"
    """Vectors of another model; OpenAI's answer names it, Cohere's has no place for a name."""
    FLOAT_LISTS = "float_lists"
    """Lists of numbers though base64 was asked for, as some servers answer that speak OpenAI's API."""
    QUARTER = "quarter"
    """A quarter of each vector's bytes, as servers answer that encode bytes for float32."""


OTHER_MODEL_ID = "text-embedding-other"
"""What `Fault.OTHER_MODEL` answers with."""


@dataclass(slots=True)
class FaultRule:
    """When a fault happens.

    Attributes:
        fault: Which.
        times: How often it happens still; `None` for as long as the rule is set.
        probability: How likely it happens to a request that it may happen to.
        target: Requests of one text, of several, for the list of models, for an order, or `any` but for models.
    """

    fault: Fault
    times: int | None = None
    probability: float = 1.0
    target: FaultTarget = "any"

    def __post_init__(self) -> None:
        if self.times is not None and self.times < 1:
            raise ValueError(f"a fault happens at least once, got times={self.times}")
        if not 0 < self.probability <= 1:
            raise ValueError(f"a fault's probability is above 0 and at most 1, got {self.probability}")
        if self.target not in get_args(FaultTarget):
            raise ValueError(f"a fault strikes {', '.join(get_args(FaultTarget))}, got {self.target!r}")

    def matches(self, size: RequestSize) -> bool:
        """Whether it may happen to a request of this size."""
        return self.target == size or (self.target == "any" and size != "models")


class FaultPlan:
    """The rules that are set, in order: the first that strikes decides what happens to a request."""

    def __init__(self) -> None:
        self.rules: list[FaultRule] = []

    def draw(self, size: RequestSize, random: Random) -> Fault | None:
        """What happens to the next request; counts it."""
        for rule in self.rules:
            if not rule.matches(size) or (rule.probability < 1 and random.random() >= rule.probability):
                continue
            if rule.times is not None:
                rule.times -= 1
                if rule.times == 0:
                    self.rules.remove(rule)
            return rule.fault
        return None


def spoil(fault: Fault | None, vectors: Vector, random: Random) -> list[Row]:
    """The rows of an answer as a fault leaves them.

    Args:
        fault: Any; those that do not concern rows change nothing.
        vectors: Shape `(n, dimensions)`.
        random: Which row is hit, where one is.
    """
    rows: list[Row] = list(enumerate(vectors))
    hit = random.randrange(len(rows))
    if fault in _EVERY_ROW:
        return [(index, _spoilt(fault, vector)) for index, vector in rows]
    if fault in _ONE_NUMBER:
        spoilt = vectors[hit].copy()
        spoilt[len(spoilt) // 2] = _ONE_NUMBER[fault]
        rows[hit] = (hit, spoilt)
    elif fault is Fault.ZERO:
        rows[hit] = (hit, np.zeros_like(vectors[hit]))
    elif fault is Fault.SHUFFLED:
        by = random.randrange(1, len(rows)) if len(rows) > 1 else 0
        rows = rows[by:] + rows[:by]
    elif fault is Fault.DUPLICATE_INDEX:
        rows[hit : hit + 1] = [rows[hit - 1]] if len(rows) > 1 else rows * 2
    elif fault is Fault.UNKNOWN_INDEX:
        rows[hit] = (len(rows), rows[hit][1])
    elif fault is Fault.MISSING_ROW:
        del rows[hit]
    elif fault is Fault.EMPTY_DATA:
        rows = []
    return rows


def _spoilt(fault: Fault | None, vector: Vector) -> Vector:
    dimensions = len(vector)
    if fault is Fault.NOT_UNIT:
        return np.asarray(vector * 3, np.float32)
    if fault is Fault.LONG:
        return np.append(vector, vector[:1])
    return vector[: dimensions - 1] if fault is Fault.SHORT else vector[: dimensions // 4]


_EVERY_ROW = {Fault.SHORT, Fault.LONG, Fault.NOT_UNIT, Fault.QUARTER}
_ONE_NUMBER = {Fault.NAN: np.nan, Fault.INFINITE: np.inf}
