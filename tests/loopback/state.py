"""What can be set about the loopback vendor, and what it counts."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, get_args

from loopback.limits import RetryAfter
from loopback.vectors import VectorKind


@dataclass(frozen=True, slots=True)
class Settings:
    """How the vendor behaves while no fault strikes.

    Attributes:
        openai_requests_per_minute: Limit; the default is that of OpenAI's highest tier, `None` sends no headers of it.
        openai_tokens_per_minute: Likewise.
        cohere_inputs_per_minute: Limit of texts; the default is that of Cohere's keys, `None` is no limit.
        capacity_s: Seconds of a limit that its bucket holds; real ones hold a minute.
        keys: Which keys are taken; `None` is any but an empty one.
        openai_retry_after: How OpenAI's 429 says when to come back.
        cohere_retry_after: How Cohere's does; the real one is not known to.
        fault_retry_after_s: When `Fault.RATE_LIMIT` says to come back.
        latency_s: Median of the time that work takes.
        latency_sigma: Spread of its logarithm; 0 makes it constant.
        latency_per_token_s: Added for each token.
        max_concurrency: Requests at once, above which 503 is answered.
        gzip: Whether answers are compressed for clients that take it.
        vectors: `words` for real ranking, `table` for benchmarks.
        extra_models: Models of a server that speaks OpenAI's API, by their dimensions.
        recent_requests: How many requests are kept for tests to look at.
        seed: Of everything random.
    """

    openai_requests_per_minute: float | None = 10_000
    openai_tokens_per_minute: float | None = 10_000_000
    cohere_inputs_per_minute: float | None = 2_000
    capacity_s: float = 60.0
    keys: Sequence[str] | None = None
    openai_retry_after: RetryAfter = "both"
    cohere_retry_after: RetryAfter = "none"
    fault_retry_after_s: float = 1.0
    latency_s: float = 0.0
    latency_sigma: float = 0.35
    latency_per_token_s: float = 0.0
    max_concurrency: int | None = None
    gzip: bool = False
    vectors: VectorKind = "words"
    extra_models: Mapping[str, int] = field(default_factory=dict)
    recent_requests: int = 200
    seed: int = 7

    def __post_init__(self) -> None:
        for mode in (self.openai_retry_after, self.cohere_retry_after):
            if mode not in get_args(RetryAfter):
                raise ValueError(f"a 429 says when to come back by {', '.join(get_args(RetryAfter))}, got {mode!r}")
        if self.vectors not in get_args(VectorKind):
            raise ValueError(f"vectors are {' or '.join(get_args(VectorKind))}, got {self.vectors!r}")


@dataclass(slots=True)
class RecordedRequest:
    """A request as it arrived, headers and all.

    Attributes:
        method: Such as `POST`.
        path: Without the query.
        headers: By name in lower case, the key among them.
        body: Parsed where it is JSON, text else.
        status: Of the answer; `None` while there is none, and where the connection was to break before one.
        fault: What struck it.
        elsewhere: Whether it came to the second port.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    status: int | None = None
    fault: str | None = None
    elsewhere: bool = False


@dataclass(slots=True)
class Stats:
    """What was counted since the start or the last reset.

    Attributes:
        requests: Requests for embeddings, whatever came of them.
        ok: Those answered with 200 in full.
        texts: Of those answered so.
        tokens: Of those answered so.
        admitted_tokens: Taken from the limits, by requests that failed later too.
        rejected: Answered 429 by the limits; faults are not among them.
        in_flight: Being answered now, those left hanging included.
        max_in_flight: Most at once.
        by_fault: Requests that each fault struck.
        by_status: Answers to requests for embeddings.
        first_at_s: When the first request came, by `time.monotonic`.
        last_at_s: When the last answer left.
        recent: The last requests, of any kind but control.
        stolen: What followed a redirect.
    """

    requests: int = 0
    ok: int = 0
    texts: int = 0
    tokens: int = 0
    admitted_tokens: int = 0
    rejected: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    by_fault: Counter[str] = field(default_factory=Counter)
    by_status: Counter[int] = field(default_factory=Counter)
    first_at_s: float | None = None
    last_at_s: float | None = None
    recent: deque[RecordedRequest] = field(default_factory=deque)
    stolen: list[RecordedRequest] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """As `GET /_stats` answers: the same names; JSON makes text of the keys of `by_status`."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        requests = {"recent": list(map(asdict, self.recent)), "stolen": list(map(asdict, self.stolen))}
        return {**plain, "by_fault": dict(self.by_fault), "by_status": dict(self.by_status), **requests}

    def snapshot(self) -> Stats:
        """A copy that no longer changes."""
        return replace(
            self,
            by_fault=Counter(self.by_fault),
            by_status=Counter(self.by_status),
            recent=deque(map(replace, self.recent)),
            stolen=list(map(replace, self.stolen)),
        )
