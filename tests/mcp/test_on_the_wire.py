"""What a client meets on the wire of the real server: the same bytes each time, large messages, cancelled calls."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from stdio_peer import HELLO, MODERN, Peer, call, request, started

MOST_START_S = 0.15
"""From the start of a process to its list of tools: what nobody waits for."""
LONGEST_LINE = 64 * 2**20


def line_of(peer: Peer, message: dict[str, Any]) -> bytes:
    """The very bytes of an answer."""
    peer.send(message)
    assert peer.process.stdout is not None
    return peer.process.stdout.readline()


def test_lists_are_the_same_bytes_before_the_sdk_is_there_and_after() -> None:
    methods = ("tools/list", "prompts/list", "resources/templates/list")
    asked = [request(1, method) for method in methods] + [request(1, method, _meta=MODERN) for method in methods]
    with started("-m", "symmetra_mcp") as peer:
        peer.greet()
        early = [line_of(peer, message) for message in asked]
        peer.wait_for_the_sdk()
        late = [line_of(peer, message) for message in asked]
        later = [line_of(peer, message) for message in asked]

    assert early == late == later
    assert all(b'"error"' not in line for line in early)


@pytest.mark.slow
def test_a_large_argument_is_refused_in_a_sentence_and_what_is_too_large_is_not_read() -> None:
    with started("-m", "symmetra_mcp") as peer:
        peer.greet()
        refused = peer.ask(call(1, "search_rules", query="x" * 10 * 2**20))["result"]
        assert refused["isError"]
        assert "at most 20,000 are read" in refused["content"][0]["text"]
        peer.send(b'{"jsonrpc":"2.0","id":2,"method":"' + b"x" * LONGEST_LINE + b'"}')
        unread = peer.receive()
        assert (unread["error"]["code"], unread["id"]) == (-32700, None)
        assert "64 MiB" in unread["error"]["message"]
        unknown = peer.ask(request(3, "resources/read", uri="rule://starter/" + "x" * 100_000))["error"]
        assert unknown["code"] == -32602
        assert len(peer.ask(request(4, "tools/list"))["result"]["tools"]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1999-01-01", "2099-01-01", "2026-07-28"])
def test_a_version_that_cannot_be_agreed_on_is_answered_with_the_newest_that_can(version: str) -> None:
    with started("-m", "symmetra_mcp") as peer:
        greeted = peer.ask(request(0, "initialize", **{**HELLO, "protocolVersion": version}))
        assert greeted["result"]["protocolVersion"] == "2025-11-25"


def cancelled(number: object) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}}


def rest_of(peer: Peer) -> bytes:
    """What a server still says before its end."""
    peer.close()
    assert peer.process.stdout is not None
    rest = peer.process.stdout.read()
    assert peer.process.wait(10) == 0
    return rest


@pytest.mark.parametrize(
    "meta", [{}, pytest.param({"_meta": MODERN}, marks=pytest.mark.slow)], ids=["legacy", "modern"]
)
def test_a_cancelled_search_is_not_answered(meta: dict[str, Any]) -> None:
    search = request("search", "tools/call", name="search_rules", arguments={"query": "hash passwords"}, **meta)
    with started("-m", "symmetra_mcp") as peer:
        peer.greet()
        peer.wait_for_the_sdk()
        peer.send(search, cancelled("search"), request(2, "tools/list", **meta))  # the first search loads the model
        assert peer.receive()["id"] == 2
        peer.send({**search, "id": "again"})
        answer = peer.receive()
        assert answer["id"] == "again"
        assert answer["result"]["structuredContent"]["hits"]
        assert b'"search"' not in rest_of(peer)


@pytest.mark.slow
@pytest.mark.parametrize("meta", [{}, MODERN], ids=["legacy", "modern"])
def test_a_cancelled_reembedding_stops_and_is_not_answered(tmp_path: Path, meta: dict[str, Any]) -> None:
    (tmp_path / ".git").mkdir()
    rules = [{"title": f"Amount {n}", "guidance": f"Keep amount {n} in integer cents."} for n in range(600)]
    (tmp_path / "symmetra-rules.json").write_text(json.dumps({"rules": rules}))

    def reembed(name: str) -> dict[str, Any]:
        token = {"progressToken": name, **meta}
        return request(name, "tools/call", name="reembed_all", arguments={"force": True, "confirm": True}, _meta=token)

    def next_progress(peer: Peer) -> dict[str, Any]:
        message = peer.receive()
        assert message.get("method") == "notifications/progress", message
        params: dict[str, Any] = message["params"]
        return params

    with started("-m", "symmetra_mcp", cwd=tmp_path) as peer:
        peer.greet()
        peer.wait_for_the_sdk()
        peer.send(reembed("first"))
        steps = [next_progress(peer) for _ in range(3)]
        peer.send(
            cancelled("first"), reembed("second")
        )  # embedding is one run at a time: the second waits for the first
        while (step := next_progress(peer))["progressToken"] == "first":
            steps.append(step)
        done = [step["progress"] for step in steps]
        assert done == sorted(set(done))
        assert done[-1] < steps[-1]["total"], "the first run was at its end before it was cancelled"
        peer.send(cancelled("second"))
        peer.send(request(9, "ping"))
        while "id" not in (message := peer.receive()):
            pass
        assert message["id"] == 9
        assert b'"first"' not in rest_of(peer)


@pytest.mark.slow
def test_tools_are_listed_before_anybody_waits() -> None:
    def seconds() -> float:
        began = time.perf_counter()
        with started("-m", "symmetra_mcp") as peer:
            peer.greet()
            peer.ask(request(1, "tools/list"))
            return time.perf_counter() - began

    took = sorted(seconds() for _ in range(9))
    print(f"from start to tools/list: {took[0]:.3f} s at best, {statistics.median(took):.3f} s mostly")
    assert took[0] <= MOST_START_S  # the best of nine: a busy machine says nothing of the server
