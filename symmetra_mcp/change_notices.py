"""Telling clients that rules have changed: those that subscribed, and nobody else.

A client of protocol 2026-07-28 opens `subscriptions/listen` and says what it wants to hear of. An older one subscribes
to single rules, and hears of the list once it has asked for it. Files and store are looked at while somebody listens;
else there is no work. Nothing here knows the transport.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import anyio
from anyio import to_thread
from mcp.server.connection import Connection
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourcesListChanged, ResourceUpdated
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    EmptyResult,
    PromptsCapability,
    ResourcesCapability,
    ServerCapabilities,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    ToolsCapability,
    UnsubscribeRequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from symmetra_mcp.completions import RULE_ADDRESS
from symmetra_mcp.errors import SymmetraError
from symmetra_mcp.rule_resources import listed
from symmetra_mcp.schemas import rule_markdown
from symmetra_mcp.types import Rule, RuleKey

if TYPE_CHECKING:
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
    from mcp.server.lowlevel.server import Server
    from mcp.server.mcpserver import MCPServer

    from symmetra_mcp.app import App
    from symmetra_mcp.upkeep import Upkeep

logger = logging.getLogger(__name__)

PAUSE_S = 2.0
"""Seconds between two looks while somebody listens."""
PAUSE_OF_A_TEAMS_STORE_S = 30.0
"""The same where a look is a request to the team's database."""
MOST_ADDRESSES = 1_000
"""Rules that one stream or connection may subscribe to: each is compared at each look."""
_PATIENCE_S = 5.0
"""How long a subscription waits for a look, as while another process imports."""
_SEND_S = 1.0
"""How long a client that does not read may hold up the notices of others."""
_ADDRESS = re.compile(r"rule://([^/?#]+)/([^/?#]+)")


@dataclass(slots=True)
class _Interest:
    """What one client listens for: changes of the list, and of single rules by their addresses."""

    in_list: bool = False
    uris: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What clients would have read at the last look.

    Attributes:
        revision: The store's, before anything was read.
        list_digest: Of the list; `None` where nobody listens for it.
        rules: Digest of each rule that somebody listens for, by address; empty where there is no such rule.
    """

    revision: str
    list_digest: str | None
    rules: dict[str, str]


class ChangeNotices:
    """Watches rules for the clients that listen.

    Shared state: handlers add and remove interests, `run` alone looks and sends. All of it on the event loop.

    Attributes:
        bus: Where notices for `subscriptions/listen` go.
    """

    def __init__(self, upkeep: Upkeep) -> None:
        self.bus = InMemorySubscriptionBus()
        self._upkeep = upkeep
        self._app = upkeep.app
        self._serve_stream = ListenHandler(self.bus)
        self._streams: dict[object, _Interest] = {}
        self._connections: dict[Connection, _Interest] = {}
        self._wanted = anyio.Event()
        self._waiting: list[anyio.Event] = []
        self._seen: _Seen | None = None
        self._told = ""

    def serve(self, server: MCPServer[App]) -> None:
        """Answer the subscriptions of both protocols, and declare what is kept."""
        low_level = server._lowlevel_server
        low_level.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, self._listen)
        low_level.add_request_handler("resources/subscribe", SubscribeRequestParams, self._subscribe)
        low_level.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe)
        _declare(low_level)

    async def observe(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """The SDK's middleware: who has asked for the list, and calls after which a look pays."""
        answer = await call_next(ctx)
        if ctx.method == "resources/list" and ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            interest = self._of_connection(ctx)
            if not interest.in_list:
                interest.in_list = True
                self._wanted.set()
        elif ctx.method == "tools/call" and self._interests:
            store = self._app.store
            if not store.is_shared or store.copy_is_stale:
                self._wanted.set()
        return answer

    async def run(self) -> None:
        """Look and send until cancelled."""
        pause_s = PAUSE_OF_A_TEAMS_STORE_S if self._app.store.is_shared else PAUSE_S
        while True:
            await self._wanted.wait()
            while self._interests:
                self._wanted = anyio.Event()
                await self._look()
                with anyio.move_on_after(pause_s):
                    await self._wanted.wait()
            self._wanted, self._seen = anyio.Event(), None
            self._release(self._waiting)  # they listen no longer, or for nothing that is told

    @property
    def _interests(self) -> list[_Interest]:
        every = [*self._streams.values(), *self._connections.values()]
        return [interest for interest in every if interest.in_list or interest.uris]

    # Requests

    async def _listen(
        self, ctx: ServerRequestContext[Any, Any], params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        wanted = params.notifications
        # What never changes is not promised: the tools and prompts of a process stay as they are.
        kept = wanted.model_copy(update={"tools_list_changed": None, "prompts_list_changed": None})
        _check_number(len(kept.resource_subscriptions or ()))
        with self._streaming(_Interest(bool(kept.resources_list_changed), set(kept.resource_subscriptions or ()))):
            await self._looked()
            return await self._serve_stream(ctx, params.model_copy(update={"notifications": kept}))

    @contextmanager
    def _streaming(self, interest: _Interest) -> Iterator[None]:
        stream = object()
        self._streams[stream] = interest
        try:
            yield
        finally:
            del self._streams[stream]

    async def _subscribe(self, ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams) -> EmptyResult:
        if _key_of(params.uri) is None:
            raise MCPError(code=INVALID_PARAMS, message=f"nothing to subscribe to: rules are at {RULE_ADDRESS}")
        uris = self._of_connection(ctx).uris
        _check_number(len(uris | {params.uri}))
        uris.add(params.uri)
        await self._looked()
        return EmptyResult()

    async def _unsubscribe(self, ctx: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams) -> EmptyResult:
        self._of_connection(ctx).uris.discard(params.uri)
        return EmptyResult()

    def _of_connection(self, ctx: ServerRequestContext[Any, Any]) -> _Interest:
        connection = ctx.session._connection  # the SDK's session of one request ends with it; the notices don't
        if connection not in self._connections:
            self._connections[connection] = _Interest()
            connection.exit_stack.callback(self._connections.pop, connection, None)
        return self._connections[connection]

    async def _looked(self) -> None:
        """Wait for a look, so that what changes after a subscription was granted is told."""
        looked = anyio.Event()
        self._waiting.append(looked)
        self._wanted.set()
        with anyio.move_on_after(_PATIENCE_S):
            await looked.wait()

    # Looking and sending

    async def _look(self) -> None:
        """Look once. What fails is logged, once for each reason: the next look may succeed."""
        waiting, self._waiting = self._waiting, []
        problem = ""
        try:
            former, now = await self._compared()
            await self._send(former, now)
        except SymmetraError as exc:
            problem = str(exc)
            if problem != self._told:
                logger.warning("changes of rules can't be told just now: %s", exc)
        except Exception as exc:  # nobody waits for this work, and searches still answer
            problem = repr(exc)
            if problem != self._told:
                logger.exception("changes of rules can't be told just now")
        self._told = problem
        self._release(waiting)

    @staticmethod
    def _release(waiting: list[anyio.Event]) -> None:
        for looked in waiting:
            looked.set()
        waiting.clear()

    async def _compared(self) -> tuple[_Seen | None, _Seen | None]:
        """What was seen before, and what is seen now."""
        former = self._seen
        uris = {uri for interest in self._interests for uri in interest.uris}
        in_list = any(interest.in_list for interest in self._interests)
        await self._upkeep.keep_in_step(unasked=True)
        revision = await self._app.store.rules_revision()
        if self._app.store.trouble:  # a copy answers, which may be older than what was seen
            return former, former
        if former is None or former.revision != revision or not _covers(former, uris, in_list=in_list):
            self._seen = await self._read(revision, uris, in_list=in_list)
        return former, self._seen

    async def _read(self, revision: str, uris: set[str], *, in_list: bool) -> _Seen:
        keys = {uri: key for uri in uris if (key := _key_of(uri)) is not None}
        counted = await self._app.counted_projects() if in_list else []
        digest, found = hashlib.sha256(), dict[RuleKey, str]()
        there = await self._app.store.count_rules() if keys else {}
        named = {key.project_id for key in keys.values()} & set(there)  # a client may name any
        for project_id in sorted({*counted, *named}):
            rules = await self._app.list_rules(project_id)
            wanted = {key for key in keys.values() if key.project_id == project_id}
            found |= await to_thread.run_sync(_digests, rules, wanted)
            if project_id in counted:
                digest.update(await to_thread.run_sync(_list_digest, rules))
        digests = {uri: found.get(key, "") for uri, key in keys.items()}
        return _Seen(revision, digest.hexdigest() if in_list else None, dict.fromkeys(uris, "") | digests)

    async def _send(self, former: _Seen | None, now: _Seen | None) -> None:
        if former is None or now is None or former is now:
            return
        list_changed = None not in (former.list_digest, now.list_digest) and former.list_digest != now.list_digest
        changed = sorted(uri for uri, digest in now.rules.items() if former.rules.get(uri, digest) != digest)
        if list_changed:
            await self.bus.publish(ResourcesListChanged())
        for uri in changed:
            await self.bus.publish(ResourceUpdated(uri=uri))
        for connection, interest in list(self._connections.items()):
            with anyio.move_on_after(_SEND_S):
                if list_changed and interest.in_list:
                    await connection.send_resource_list_changed()
                for uri in changed:
                    if uri in interest.uris:
                        await connection.send_resource_updated(uri)


def _declare(server: Server[Any]) -> None:
    """Have every handshake say what is told: changes of the rules in both protocols, and of nothing else.

    The SDK asks for it at each handshake, of every transport, and would promise more in one protocol than in the other.
    """
    derived = server.get_capabilities

    def capabilities(*arguments: Any, **options: Any) -> ServerCapabilities:
        kept = {
            "tools": ToolsCapability(list_changed=False),
            "prompts": PromptsCapability(list_changed=False),
            "resources": ResourcesCapability(subscribe=True, list_changed=True),
        }
        return derived(*arguments, **options).model_copy(update=kept)

    server.get_capabilities = capabilities  # type: ignore[method-assign]  # there is no other place to say it


def _covers(seen: _Seen, uris: set[str], *, in_list: bool) -> bool:
    return uris <= seen.rules.keys() and (seen.list_digest is not None or not in_list)


def _check_number(addresses: int) -> None:
    if addresses > MOST_ADDRESSES:
        problem = f"at most {MOST_ADDRESSES} rules can be subscribed to at once: subscribe to the list of rules"
        raise MCPError(code=INVALID_PARAMS, message=problem)


def _key_of(uri: str) -> RuleKey | None:
    found = _ADDRESS.fullmatch(uri)
    return RuleKey(unquote(found[1]), unquote(found[2])) if found else None


def _digests(rules: Sequence[Rule], wanted: set[RuleKey]) -> dict[RuleKey, str]:
    """Of what a client reads of each rule."""
    return {
        rule.key: hashlib.sha256(rule_markdown(rule).encode("utf-8", "surrogatepass")).hexdigest()
        for rule in rules
        if rule.key in wanted
    }


def _list_digest(rules: Sequence[Rule]) -> bytes:
    """Of what the list shows of some rules."""
    digest = hashlib.sha256()
    for rule in rules:
        digest.update(repr(listed(rule)).encode("utf-8", "surrogatepass"))
    return digest.digest()
