"""What the vendor does with a request: keys, rules, faults, limits, time, vectors, answer.

Everything here runs on the vendor's event loop. What tests set from other threads (settings, faults, buckets, counts)
is read and written under `lock`, which is never held while anything is awaited; whoever waits for a count is notified.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any

from loopback.cohere_rerank_wire import CohereRerankWire
from loopback.cohere_wire import CohereWire
from loopback.faults import OTHER_MODEL_ID, Fault, FaultPlan, RequestSize, spoil
from loopback.limits import Header, TokenBucket
from loopback.openai_wire import OpenAIWire
from loopback.state import RecordedRequest, Settings, Stats
from loopback.transport import Delivery, HttpAnswer, HttpRequest
from loopback.wire import JSON_TYPE, Buckets, Circumstances, EmbedRequest, Refusal, Wire, bearer_key

STOLEN_PATH = "/_stolen"

_DELIVERIES: dict[Fault, Delivery] = {
    Fault.HANG: "never",
    Fault.STALL: "half_then_silence",
    Fault.HALF_CLOSED: "half_then_end",
    Fault.RESET: "reset",
}
_REDIRECTS = {Fault.REDIRECT: 307, Fault.REDIRECT_FOUND: 302, Fault.REDIRECT_ELSEWHERE: 307}
_LIMITS = {"openai_requests_per_minute", "openai_tokens_per_minute", "cohere_inputs_per_minute", "capacity_s"}


class Service:
    """One vendor's state, and its answers.

    Args:
        settings: How it behaves.
        clock: Seconds by which the buckets fill; tests may turn it.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.lock = threading.Condition(threading.RLock())
        self.settings = settings
        self.faults = FaultPlan()
        self.stats = Stats()
        self.url = ""
        self.elsewhere_url = ""
        self._clock = clock
        self._random = Random(settings.seed)
        self._fill_buckets()

    def configure(self, **changes: Any) -> None:
        """Change settings; a changed limit starts with a full bucket.

        Raises:
            TypeError: There is no such setting.
        """
        with self.lock:
            self.settings = replace(self.settings, **changes)
            if _LIMITS & set(changes):
                self._fill_buckets()
            if "seed" in changes:
                self._random = Random(self.settings.seed)

    def reset(self) -> None:
        """Counts at zero, buckets full, no faults, the random numbers from their start; settings stay."""
        with self.lock:
            in_flight = self.stats.in_flight
            self.stats = Stats(in_flight=in_flight, max_in_flight=in_flight)
            self.faults.rules.clear()
            self._random = Random(self.settings.seed)
            self._fill_buckets()

    async def answer(self, request: HttpRequest) -> HttpAnswer:
        """Answer any request but those that control the vendor."""
        if request.elsewhere or request.path == STOLEN_PATH:
            record = self._record(request)
            with self.lock:
                self.stats.stolen.append(record)
                self.lock.notify_all()
            return HttpAnswer(200, [JSON_TYPE], b"{}")
        if (request.method, request.path) == ("POST", "/v1/embeddings"):
            return await self._embeddings(request, self._openai())
        if (request.method, request.path) == ("POST", "/v2/embed"):
            return await self._embeddings(request, self._cohere(CohereWire))
        if (request.method, request.path) == ("POST", "/v2/rerank"):
            return await self._embeddings(request, self._cohere(CohereRerankWire))
        if request.method == "GET" and request.path.startswith("/v1/models"):
            return self._models(request)
        self._record(request)
        return HttpAnswer(404, [JSON_TYPE], json.dumps({"error": {"message": "Not found"}}).encode())

    # One request for embeddings, or for an order

    async def _embeddings(self, request: HttpRequest, wire: Wire) -> HttpAnswer:
        began_s = time.monotonic()
        record = self._record(request)
        parsed: EmbedRequest | None = None
        with self._counted(began_s):
            try:
                parsed, fault = self._admit(request, wire, record)
                await self._work(parsed)
                if fault is Fault.HANG:
                    await asyncio.Event().wait()  # until the client hangs up
                body = self._body(wire, parsed, fault)
                headers = wire.headers(parsed, time.monotonic() - began_s)
                answer = HttpAnswer(200, headers, body, _DELIVERIES.get(fault, "whole") if fault else "whole")
            except Refusal as refusal:
                answer = self._refused(wire, refusal)
            return self._finished(request, record, parsed, answer)

    def _admit(self, request: HttpRequest, wire: Wire, record: RecordedRequest) -> tuple[EmbedRequest, Fault | None]:
        """Check the key and the request, let a fault strike, take from the limits.

        Raises:
            Refusal: Any of them says no; then nothing is taken.
        """
        key = self._checked_key(request, wire)
        if not isinstance(record.body, dict):
            raise wire.unreadable()
        try:
            parsed = wire.parse(record.body)
        except UnicodeEncodeError:
            raise wire.unreadable() from None
        with self.lock:
            fault = self._strike(wire.size(parsed), record)
            if fault is not None:
                self._refuse_by_fault(fault, wire, key, parsed.model.model_id)
            most = self.settings.max_concurrency
            if most is not None and self.stats.in_flight > most:
                raise wire.overloaded()
            refusal = wire.over_limit(parsed)
            if refusal is not None:
                self.stats.rejected += 1
                raise refusal
            wire.take(parsed)
            self.stats.admitted_tokens += parsed.tokens
        return parsed, fault

    def _checked_key(self, request: HttpRequest, wire: Wire) -> str:
        key = bearer_key(request.headers)
        keys = self.settings.keys
        if not key or (keys is not None and key not in keys):
            raise wire.wrong_key(key)
        return key

    def _strike(self, size: RequestSize, record: RecordedRequest) -> Fault | None:
        fault = self.faults.draw(size, self._random)
        if fault is not None:
            record.fault = fault.value
            self.stats.by_fault[fault.value] += 1
        return fault

    def _refuse_by_fault(self, fault: Fault, wire: Wire, key: str, model_id: str) -> None:
        if fault in _REDIRECTS:
            base = self.elsewhere_url if fault is Fault.REDIRECT_ELSEWHERE else self.url
            raise wire.redirect(_REDIRECTS[fault], f"{base}{STOLEN_PATH}")
        refusal = wire.refusal(fault, key, model_id)
        if refusal is not None:
            raise refusal

    async def _work(self, parsed: EmbedRequest) -> None:
        settings = self.settings
        with self.lock:
            spread = math.exp(self._random.gauss(0, settings.latency_sigma)) if settings.latency_s else 0.0
        latency_s = settings.latency_s * spread + settings.latency_per_token_s * parsed.tokens
        if latency_s > 0:
            await asyncio.sleep(latency_s)

    def _body(self, wire: Wire, parsed: EmbedRequest, fault: Fault | None) -> bytes:
        model_id = OTHER_MODEL_ID if fault is Fault.OTHER_MODEL else parsed.model.model_id
        vectors = wire.vectors(parsed, model_id, self.settings.vectors)
        with self.lock:
            rows = spoil(fault, vectors, self._random)
        body = wire.reply(parsed, rows, fault)
        return body[: len(body) // 2] + b"\x00<<<" if fault is Fault.GARBAGE else body

    def _refused(self, wire: Wire, refusal: Refusal) -> HttpAnswer:
        """A refusal's own headers win over the usual ones."""
        with self.lock:  # a page of a proxy's holds none of the vendor's headers
            usual = [] if isinstance(refusal.content, str) else wire.headers(None, 0.0)
        own = {name for name, _ in refusal.headers}
        headers = [header for header in usual if header[0] not in own] + refusal.headers
        return HttpAnswer(refusal.status, headers, refusal.body)

    def _finished(
        self, request: HttpRequest, record: RecordedRequest, parsed: EmbedRequest | None, answer: HttpAnswer
    ) -> HttpAnswer:
        with self.lock:
            if answer.delivery != "reset":
                record.status = answer.status
                self.stats.by_status[answer.status] += 1
            if parsed is not None and answer.status == 200 and answer.delivery == "whole":
                self.stats.ok += 1
                self.stats.texts += len(parsed.texts)
                self.stats.tokens += parsed.tokens
        if self.settings.gzip and "gzip" in request.headers.get("accept-encoding", ""):
            headers: list[Header] = [*answer.headers, ("content-encoding", "gzip")]
            return replace(answer, headers=headers, body=gzip.compress(answer.body, 1, mtime=0))
        return answer

    @contextmanager
    def _counted(self, began_s: float) -> Iterator[None]:
        with self.lock:
            stats = self.stats
            stats.requests += 1
            stats.in_flight += 1
            stats.max_in_flight = max(stats.max_in_flight, stats.in_flight)
            stats.first_at_s = began_s if stats.first_at_s is None else stats.first_at_s
            self.lock.notify_all()
        try:
            yield
        finally:
            with self.lock:
                self.stats.in_flight -= 1
                self.stats.last_at_s = time.monotonic()
                self.lock.notify_all()

    # The rest

    def _models(self, request: HttpRequest) -> HttpAnswer:
        wire = self._openai()
        record = self._record(request)
        delivery: Delivery = "whole"
        try:
            key = self._checked_key(request, wire)
            _, _, model_id = request.path.removeprefix("/v1").partition("/models/")
            with self.lock:
                fault = self._strike("models", record)
            if fault is not None:
                self._refuse_by_fault(fault, wire, key, model_id)
                delivery = _DELIVERIES.get(fault, "whole")
            body = wire.one_model(model_id) if model_id else wire.model_list()
            with self.lock:
                answer = HttpAnswer(200, [JSON_TYPE, *wire.headers(None, 0.0)], body, delivery)
        except Refusal as refusal:
            answer = self._refused(wire, refusal)
        record.status = answer.status
        return answer

    def _openai(self) -> OpenAIWire:
        return OpenAIWire(self._circumstances(self._openai_buckets, self.settings.openai_retry_after))

    def _cohere(self, wire: type[CohereWire]) -> CohereWire:
        return wire(self._circumstances(self._cohere_buckets, self.settings.cohere_retry_after))

    def _circumstances(self, buckets: Buckets, retry_after: Any) -> Circumstances:
        settings = self.settings
        return Circumstances(buckets, retry_after, settings.fault_retry_after_s, settings.extra_models, self._random)

    def _fill_buckets(self) -> None:
        settings = self.settings

        def bucket(per_minute: float | None) -> TokenBucket | None:
            return None if per_minute is None else TokenBucket(per_minute, settings.capacity_s, self._clock)

        self._openai_buckets = Buckets(
            requests=bucket(settings.openai_requests_per_minute), tokens=bucket(settings.openai_tokens_per_minute)
        )
        self._cohere_buckets = Buckets(inputs=bucket(settings.cohere_inputs_per_minute))

    def _record(self, request: HttpRequest) -> RecordedRequest:
        try:
            body = json.loads(request.body) if request.body else None
        except ValueError:
            body = request.body.decode(errors="replace")
        record = RecordedRequest(request.method, request.path, dict(request.headers), body, elsewhere=request.elsewhere)
        with self.lock:
            if self.settings.recent_requests > 0:
                while len(self.stats.recent) >= self.settings.recent_requests:
                    self.stats.recent.popleft()
                self.stats.recent.append(record)
        return record
