"""The vendor itself: a thread with an event loop, two ports, and the ways to set it from outside."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from loopback.faults import Fault, FaultRule, FaultTarget
from loopback.service import Service
from loopback.state import Settings, Stats
from loopback.transport import HttpAnswer, HttpRequest, Listener
from loopback.wire import JSON_TYPE

START_TIMEOUT_S = 10.0
_CONTROL = ("/_ctl", "/_stats", "/_reset")
_FLUSHED_S = 0.05
"""How long an outage that was asked for over HTTP waits for its own answer to leave."""


class LoopbackVendor:
    """OpenAI and Cohere on 127.0.0.1, for as long as the `with` block lasts.

    Every method may be called from any thread. Where another process sets it, `POST /_ctl` takes settings by name,
    `faults` as a list of rules and `down_s`; `GET /_stats` and `POST /_reset` do what they say.

    Args:
        port: Port to listen on; 0 takes a free one.
        clock: Seconds by which limits are counted; a test that turns it needs no waiting.
        settings: Fields of `Settings`.
    """

    def __init__(self, *, port: int = 0, clock: Callable[[], float] = time.monotonic, **settings: Any) -> None:
        self._service = Service(Settings(**settings), clock)
        self._wanted_port = port
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, and return once connections are taken."""
        self._thread = threading.Thread(target=self._run, name="loopback-vendor", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_S):
            raise TimeoutError("the loopback vendor did not start")
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def stop(self) -> None:
        """Drop every connection, and return once thread and sockets are gone.

        Raises:
            Exception: The vendor itself failed in between.
        """
        if self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
        self._thread = None
        if self._failure is not None:
            raise self._failure

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`."""
        return self._service.url

    @property
    def openai_base_url(self) -> str:
        """For `openai.OpenAI(base_url=...)`."""
        return f"{self.url}/v1"

    @property
    def cohere_base_url(self) -> str:
        """For `cohere.ClientV2(base_url=...)`."""
        return self.url

    @property
    def elsewhere_url(self) -> str:
        """Another origin, where `Fault.REDIRECT_ELSEWHERE` leads."""
        return self._service.elsewhere_url

    @property
    def settings(self) -> Settings:
        """As they are now."""
        return self._service.settings

    @property
    def stats(self) -> Stats:
        """What was counted until now."""
        with self._service.lock:
            return self._service.stats.snapshot()

    def wait_until(self, condition: Callable[[Stats], bool], timeout_s: float = 10.0) -> Stats:
        """Wait until requests that come and go make a condition true; instead of sleeping in a test.

        Raises:
            TimeoutError: They did not.
        """
        with self._service.lock:
            if not self._service.lock.wait_for(lambda: condition(self._service.stats), timeout_s):
                raise TimeoutError(f"not so within {timeout_s} s: {self._service.stats.as_json()}")
            return self.stats

    def configure(self, **changes: Any) -> None:
        """Change fields of `Settings`; a changed limit starts with a full bucket."""
        self._service.configure(**changes)

    def reset(self) -> None:
        """Counts at zero, limits fresh, no faults, listening; settings stay."""
        self._service.reset()
        self.down = False

    def inject(
        self, fault: Fault, *, times: int | None = 1, probability: float = 1.0, target: FaultTarget = "any"
    ) -> FaultRule:
        """Let a fault strike, after those that were injected before.

        Args:
            fault: Which.
            times: How many requests it strikes; `None` for every one until the rule is withdrawn.
            probability: How likely it strikes a request.
            target: Requests of one text (`query`), of several (`batch`), for an order (`rerank`), for `models`, or
                `any` but those for models.

        Returns:
            What `withdraw` takes.
        """
        rule = FaultRule(Fault(fault), times, probability, target)
        with self._service.lock:
            self._service.faults.rules.append(rule)
        return rule

    def withdraw(self, rule: FaultRule) -> None:
        """Take a fault back, where it has not struck its last time already."""
        with self._service.lock:
            self._service.faults.rules[:] = [other for other in self._service.faults.rules if other is not rule]

    def clear_faults(self) -> None:
        """Take all faults back; an outage stays."""
        with self._service.lock:
            self._service.faults.rules.clear()

    @contextmanager
    def failing(self, fault: Fault, *, probability: float = 1.0, target: FaultTarget = "any") -> Iterator[None]:
        """Let a fault strike for as long as the `with` block lasts."""
        rule = self.inject(fault, times=None, probability=probability, target=target)
        try:
            yield
        finally:
            self.withdraw(rule)

    @property
    def down(self) -> bool:
        """Whether connections are refused; setting it drops those that are open, and returns once it is so."""
        return self._listener is None

    @down.setter
    def down(self, down: bool) -> None:
        asyncio.run_coroutine_threadsafe(self._set_down(down), self._loop).result(START_TIMEOUT_S)

    # On the vendor's own thread

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as exc:  # raised again by `start` or `stop`
            self._failure = exc
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        # Bound but never listening, it keeps the port from other processes while an outage lasts.
        with _bound(self._wanted_port) as holder:
            self._port = int(holder.getsockname()[1])
            self._service.url = f"http://127.0.0.1:{self._port}"
            self._listener: Listener | None = Listener(_bound(self._port), self._answer)
            second = _bound(0)
            self._service.elsewhere_url = f"http://127.0.0.1:{second.getsockname()[1]}"
            elsewhere = Listener(second, self._answer, elsewhere=True)
            self._ready.set()
            await self._stopping.wait()
            await self._set_down(True)
            await elsewhere.close()

    async def _set_down(self, down: bool) -> None:
        if down and self._listener is not None:
            listener, self._listener = self._listener, None
            await listener.close()
        elif not down and self._listener is None:
            self._listener = Listener(_bound(self._port), self._answer)

    async def _answer(self, request: HttpRequest) -> HttpAnswer:
        try:
            if request.elsewhere or request.path not in _CONTROL:
                return await self._service.answer(request)
        except Exception as exc:
            self._failure = self._failure or exc  # `stop` raises it: a test must not pass on a broken vendor
            return HttpAnswer(500, body=b"the loopback vendor itself failed")
        try:
            content = self._control(request)
        except (TypeError, ValueError, KeyError) as exc:
            return HttpAnswer(400, [JSON_TYPE], json.dumps({"error": str(exc)}).encode())
        return HttpAnswer(200, [JSON_TYPE], json.dumps(content).encode())

    def _control(self, request: HttpRequest) -> dict[str, Any]:
        if request.path == "/_stats":
            return self.stats.as_json()
        if request.path == "/_reset":
            self._service.reset()
            return {}
        changes: dict[str, Any] = json.loads(request.body or b"{}")
        faults, down_s = changes.pop("faults", None), changes.pop("down_s", None)
        self.configure(**changes)
        if faults is not None:
            rules = [FaultRule(**{**rule, "fault": Fault(rule["fault"])}) for rule in faults]
            with self._service.lock:
                self._service.faults.rules[:] = rules
        if down_s is not None:
            self._outage = self._loop.create_task(self._outage_of(float(down_s)))
        return asdict(self.settings)

    async def _outage_of(self, down_s: float) -> None:
        await asyncio.sleep(_FLUSHED_S)
        await self._set_down(True)
        await asyncio.sleep(down_s)
        await self._set_down(False)


def _bound(port: int) -> socket.socket:
    """A socket with an address of its own; several may share a port that nobody listens on."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
    except BaseException:
        bound.close()
        raise
    return bound
