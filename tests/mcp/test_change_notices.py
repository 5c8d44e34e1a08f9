"""Clients that subscribed hear of changed rules, over real stdio; nobody else hears anything."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import anyio
import pytest
from http_peer import served
from mcp import Client
from stdio_peer import MODERN, Peer, call, request, started

from symmetra_mcp import change_notices
from symmetra_mcp.app import App
from symmetra_mcp.config import load_settings
from symmetra_mcp.providers.select import ProviderChoice
from symmetra_mcp.server import make_server
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.testing import FakeProvider

GONE_S = 2.0
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
A, B, C = "rule://shop/a", "rule://shop/b", "rule://shop/c"


def write_rules(project: Path, **guidances: str) -> None:
    rules = [{"rule_id": name, "title": name.upper(), "guidance": text} for name, text in guidances.items()]
    (project / "symmetra-rules.json").write_text(json.dumps({"rules": rules}))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / ".git").mkdir(parents=True)
    write_rules(folder, a="Keep cents.", b="Keep one door.")
    return folder


@contextmanager
def server_in(project: Path, **settings: str) -> Iterator[Peer]:
    environment = {**os.environ, "SYMMETRA_PROJECT": "shop", "SYMMETRA_STARTER_RULES": "0", **settings}
    with started("-m", "symmetra_mcp", cwd=project, env=environment) as peer:
        yield peer


def listen(peer: Peer, number: int, **notifications: Any) -> dict[str, Any]:
    """Open a stream, and return what the server will tell on it."""
    peer.send(request(number, "subscriptions/listen", notifications=notifications, _meta=MODERN))
    told = peer.receive()
    assert told["method"] == "notifications/subscriptions/acknowledged"
    assert told["params"]["_meta"][SUBSCRIPTION] == number
    granted: dict[str, Any] = told["params"]["notifications"]
    return granted


def heard(peer: Peer) -> tuple[str, Any, Any]:
    """The next message: what it tells, of which rule, on which stream."""
    message = peer.receive()
    assert "id" not in message
    params = message.get("params", {})
    method: str = message["method"].removeprefix("notifications/resources/")
    return method, params.get("uri"), params.get("_meta", {}).get(SUBSCRIPTION)


def ends_silently(peer: Peer) -> None:
    peer.close()
    assert peer.seconds_to_end() < GONE_S
    assert peer.process.stdout is not None
    rest = [json.loads(line) for line in peer.process.stdout]
    assert [message for message in rest if "method" in message] == []  # streams that are open end with an answer
    assert peer.process.returncode == 0


@pytest.mark.slow
def test_each_stream_hears_of_what_it_asked_for(project: Path) -> None:
    with server_in(project) as peer:
        assert listen(peer, 10, resourceSubscriptions=[A]) == {"resourceSubscriptions": [A]}
        assert listen(peer, 11, resourcesListChanged=True) == {"resourcesListChanged": True}
        assert listen(peer, 12, toolsListChanged=True, promptsListChanged=True) == {}
        peer.greet()
        peer.ask(request(13, "resources/subscribe", uri=C))  # in the older protocol, on the same connection

        write_rules(project, a="Keep cents, always.", b="Keep one door, always.")
        assert heard(peer) == ("updated", A, 10)
        write_rules(project, a="Keep cents, always.", b="Keep one door, always.", c="Keep calm.")
        assert {heard(peer), heard(peer)} == {("list_changed", None, 11), ("updated", C, None)}

        peer.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 10}})
        write_rules(project, a="Keep euros.", b="Keep one door, always.")
        assert {heard(peer), heard(peer)} == {("list_changed", None, 11), ("updated", C, None)}
        ends_silently(peer)


@pytest.mark.slow
def test_a_client_of_the_older_protocol_hears_of_the_rule_it_subscribed_to(project: Path) -> None:
    with server_in(project) as peer:
        capabilities = peer.greet()["result"]["capabilities"]
        assert capabilities["resources"] == {"subscribe": True, "listChanged": True}
        assert peer.ask(request(1, "resources/subscribe", uri=A))["result"] == {}
        write_rules(project, a="Keep cents, always.", b="Keep one door, always.", c="Keep calm.")
        assert heard(peer) == ("updated", A, None)  # of the list it has never asked
        ends_silently(peer)


@pytest.mark.slow
def test_a_client_of_the_older_protocol_hears_of_the_list_it_asked_for_and_no_more_of_what_it_left(
    project: Path,
) -> None:
    with server_in(project) as peer:
        peer.greet()
        entries = peer.ask(request(1, "resources/list"))["result"]["resources"]
        assert [entry["uri"] for entry in entries] == [A, B]
        peer.ask(request(2, "resources/subscribe", uri=A))
        peer.ask(request(3, "resources/subscribe", uri=B))
        peer.ask(request(4, "resources/unsubscribe", uri=A))
        write_rules(project, a="Keep cents, always.", b="Keep one door, always.")
        assert heard(peer) == ("updated", B, None)
        write_rules(project, a="Keep cents.")
        assert [heard(peer), heard(peer)] == [("list_changed", None, None), ("updated", B, None)]
        refused = peer.ask(request(5, "resources/subscribe", uri="file:///etc/passwd"))
        assert refused["error"]["code"] == -32602
        ends_silently(peer)


@pytest.mark.slow
def test_what_another_server_writes_is_told_and_its_own_client_hears_nothing(project: Path) -> None:
    with server_in(project) as listener, server_in(project, SYMMETRA_ALLOW_WRITES="1") as writer:
        writer.greet()
        listen(listener, 1, resourcesListChanged=True, resourceSubscriptions=["rule://shop/new", A])
        saved = writer.ask(call(1, "save_rule", title="New", guidance="Keep what is new.", rule_id="new"))
        assert saved["result"]["structuredContent"]["saved"]
        assert [heard(listener), heard(listener)] == [("list_changed", None, 1), ("updated", "rule://shop/new", 1)]
        writer.ask(call(2, "save_rule", title="New", guidance="Keep what is old.", rule_id="new"))
        assert heard(listener) == ("updated", "rule://shop/new", 1)
        writer.ask(call(3, "delete_rule", rule_id="new", confirm=True))
        assert [heard(listener), heard(listener)] == [("list_changed", None, 1), ("updated", "rule://shop/new", 1)]
        ends_silently(writer)
        ends_silently(listener)


def told(stream: HTTPResponse) -> tuple[str, Any, Any]:
    """The next message of a stream of events, in the words of `heard`."""
    while True:
        line = stream.readline()
        assert line, "the stream has ended"
        if line.startswith(b"data:") and line[5:].strip():
            message = json.loads(line[5:])
            params = message.get("params", {})
            method: str = message["method"].removeprefix("notifications/")
            return method, params.get("uri"), params.get("_meta", {}).get(SUBSCRIPTION)


@pytest.mark.slow
def test_clients_over_http_hear_of_what_they_asked_for_in_both_protocols(project: Path) -> None:
    settings = {"SYMMETRA_PROJECT": "shop", "SYMMETRA_STARTER_RULES": "0"}
    with served(project, **settings) as server:
        older, silent = server.greet(), server.greet()
        of_older = server.open("GET", Mcp_Session_Id=older)
        of_silent = server.open("GET", Mcp_Session_Id=silent)
        assert server.legacy(request(1, "resources/subscribe", uri=A), older).message["result"] == {}
        assert server.legacy(request(2, "resources/list"), older).message["result"]["resources"]
        wanted = {"resourcesListChanged": True, "resourceSubscriptions": [B], "toolsListChanged": True}
        listen = request(10, "subscriptions/listen", notifications=wanted, _meta=MODERN)
        newer = server.open("POST", listen, MCP_Protocol_Version="2026-07-28", Mcp_Method="subscriptions/listen")
        assert told(newer) == ("subscriptions/acknowledged", None, 10)

        write_rules(project, a="Keep cents, always.", b="Keep one door, always.", c="Keep calm.")
        assert [told(newer), told(newer)] == [("resources/list_changed", None, 10), ("resources/updated", B, 10)]
        assert [told(of_older), told(of_older)] == [
            ("resources/list_changed", None, None),
            ("resources/updated", A, None),
        ]
        newer.close()  # one client that leaves takes nothing from another
        write_rules(project, a="Keep euros.", b="Keep one door, always.", c="Keep calm.")
        assert told(of_older) == ("resources/updated", A, None)
        assert server.ask("DELETE", Mcp_Session_Id=silent).status == 200
        assert b"notifications/" not in of_silent.read()
        server.process.terminate()
        assert server.process.wait(20) == 0
    assert server.stderr.count("\n") == 1, server.stderr


class CountingStore(SqliteStore):
    """Counts how often somebody looks for changes."""

    looks = 0
    thrice: anyio.Event

    async def rules_revision(self) -> str:
        self.looks += 1
        if self.looks == 3:
            self.thrice.set()
        return await super().rules_revision()


@pytest.mark.slow
def test_more_addresses_than_anybody_watches_are_refused(project: Path) -> None:
    with started("-m", "symmetra_mcp", cwd=project) as peer:
        addresses = [f"rule://p{number}/r" for number in range(change_notices.MOST_ADDRESSES + 1)]
        wanted = {"resourceSubscriptions": addresses}
        refused = peer.ask(request(1, "subscriptions/listen", notifications=wanted, _meta=MODERN))
        assert refused["error"]["code"] == -32602
        assert refused["error"]["message"].startswith("at most 1000 rules")
        peer.send(
            request(2, "subscriptions/listen", notifications={"resourceSubscriptions": addresses[1:]}, _meta=MODERN)
        )
        assert peer.receive()["method"] == "notifications/subscriptions/acknowledged"


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")  # `resources/subscribe` is
def test_nothing_is_looked_at_while_nobody_listens(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_notices, "PAUSE_S", 0.01)
    settings = load_settings(project_dir=project, starter_rules=False)
    store = CountingStore(settings.data_folder)

    async def run() -> None:
        store.thrice = anyio.Event()
        app = App(settings, store, ProviderChoice(FakeProvider()))
        async with Client(make_server(app), mode="legacy") as client:
            await client.call_tool("search_rules", {"query": "cents"})
            await client.list_tools()
            await client.read_resource(f"rule://{app.project.project_id}/a" if app.project else A)
            await anyio.sleep(0.1)
            assert store.looks == 0
            await client.session.subscribe_resource(A)
            with anyio.fail_after(5):
                await store.thrice.wait()
            await client.session.unsubscribe_resource(A)
            seen = store.looks
            await anyio.sleep(0.1)
            assert store.looks <= seen + 1  # one may have been under way

    anyio.run(run)
