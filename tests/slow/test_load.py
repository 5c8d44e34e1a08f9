"""A server under much work: many calls, many processes on one store, and ten thousand broken messages."""

from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from stdio_peer import HELLO, INITIALIZED, MODERN, Peer, call, memory_mb, request, started

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")]

QUERIES = ("retry a failed HTTP call with backoff", "hash passwords", "name of a test", "const x = await fetch(url)")
MOST_GROWTH = 1.1
MUTATIONS = 10_000


def drained(peer: Peer, *, until: object) -> list[Any]:
    answers = []
    while not answers or answers[-1].get("id") != until:
        answers.append(peer.receive())
    return answers


def test_memory_stays_flat_over_ten_thousand_calls() -> None:
    kinds: list[Callable[[int], dict[str, Any]]] = [
        lambda i: call(i, "search_rules", query=f"{QUERIES[i % 4]} {i % 300}"),
        lambda i: call(i, "search_rules", query=QUERIES[i % 4]),
        lambda i: call(i, "embed_text", text=f"a text {i}"),
        lambda i: call(i, "health_check"),
        lambda i: call(i, "search_rules", query="", limit=99),
        lambda i: request(i, "tools/list"),
    ]
    with started("-m", "symmetra_mcp") as peer:
        peer.greet()

        def work(first: int, last: int) -> None:
            for i in range(first, last):
                answer = peer.ask(kinds[i % len(kinds)](i))
                assert "result" in answer, answer

        work(1, 2_001)
        before = memory_mb(peer.process.pid)
        work(2_001, 10_001)
        after = memory_mb(peer.process.pid)
        print(f"{before:.1f} MB after 2,000 calls, {after:.1f} MB after 10,000: {after / before:.3f}")
        assert after <= MOST_GROWTH * before


def test_many_servers_answer_a_thousand_calls_each_from_one_store() -> None:
    servers, calls = 24, 1_000

    def work(number: int) -> float:
        rng = random.Random(number)
        with started("-m", "symmetra_mcp") as peer:
            peer.greet()
            for i in range(1, calls + 1):
                answer = peer.ask(call(i, "search_rules", query=f"{rng.choice(QUERIES)} {rng.randrange(200)}"))
                found = answer["result"]["structuredContent"]
                assert found["mode"] == "hybrid", found
                assert "degraded" not in found, found
            used = memory_mb(peer.process.pid)
            peer.close()
            assert peer.process.wait(10) == 0
            assert peer.process.stderr is not None
            assert b"Traceback" not in peer.process.stderr.read()
            return used

    with ThreadPoolExecutor(servers) as threads:
        used = list(threads.map(work, range(servers)))
    print(f"{servers} servers, {calls} calls each; memory {min(used):.0f} to {max(used):.0f} MB")


def test_a_list_is_answered_while_two_hundred_calls_are_at_work() -> None:
    with started("-m", "symmetra_mcp") as peer:
        peer.greet()
        peer.ask(call(1, "search_rules", query="warm"))
        peer.send(*(call(f"call {i}", "search_rules", query=f"{QUERIES[i % 4]} {i}") for i in range(200)))
        peer.send(request("list", "tools/list"))
        before = drained(peer, until="list")
        rest = {peer.receive()["id"] for _ in range(201 - len(before))}
        assert len(rest) > 100
        assert all("result" in answer for answer in before)


def test_broken_messages_break_nothing() -> None:
    rng = random.Random(20260728)
    good = [
        request(1, "initialize", **HELLO),
        INITIALIZED,
        request(2, "tools/list"),
        request(3, "resources/list"),
        request(4, "resources/read", uri="rule://starter/vector-db-choice"),
        request(5, "prompts/get", name="review_code", arguments={"code": "x = 1"}),
        call(6, "search_rules", query="hash passwords", limit=3, tech_stacks=["python"]),
        call(7, "embed_text", text="a text"),
        call(8, "health_check"),
        call(9, "reembed_all", dry_run=True),
        request(10, "server/discover", _meta=MODERN),
        request(11, "tools/call", name="search_rules", arguments={"query": "x"}, _meta=MODERN),
        request(12, "tasks/get", taskId="x", _meta=MODERN),
        request(13, "completion/complete", ref={"type": "ref/prompt", "name": "review_code"}, argument={}),
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 6}},
        {"jsonrpc": "2.0", "id": 14, "result": {}},
        {"jsonrpc": "2.0", "id": 15, "error": {"code": 1, "message": "m"}},
    ]
    with started("-m", "symmetra_mcp") as peer:
        peer.greet()
        peer.ask(call("warm", "search_rules", query="warm"))
        told: list[bytes] = []
        process = peer.process
        assert process.stderr is not None
        threading.Thread(target=lambda: told.append(process.stderr.read() if process.stderr else b"")).start()
        before = 0.0
        for batch in range(MUTATIONS // 100):
            peer.send(*(mutated(rng.choice(good), rng) for _ in range(100)))
            peer.send(request(f"after {batch}", "ping"))
            for answer in drained(peer, until=f"after {batch}"):
                assert answer["jsonrpc"] == "2.0"
                text = json.dumps(answer)
                assert "Traceback" not in text
                assert "pydantic.dev" not in text
            if batch == 20:
                before = memory_mb(process.pid)
        after = memory_mb(process.pid)
        found = peer.ask(call("last", "search_rules", query="hash passwords"))
        assert found["result"]["structuredContent"]["hits"]
        assert len(peer.ask(request("lists", "tools/list"))["result"]["tools"]) == 4
        peer.close()
        assert process.wait(10) == 0
    print(f"{before:.1f} MB after 2,100 messages, {after:.1f} MB after {MUTATIONS:,}: {after / before:.3f}")
    assert after <= MOST_GROWTH * before
    assert b"Traceback" not in told[0]


def mutated(message: dict[str, Any], rng: random.Random) -> bytes:
    """A message with a few faults, in its structure or in its bytes, without a line break."""
    message = json.loads(json.dumps(message))
    for _ in range(rng.randrange(3)):
        change(message, rng)
    line = bytearray(json.dumps(message).encode())
    if rng.random() < 0.4:
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(line))
            how = rng.randrange(4)
            if how == 0:
                line[at] = rng.randrange(256)
            elif how == 1:
                del line[at : at + rng.randint(1, 20)]
            elif how == 2:
                line[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 9)))
            else:
                line[at:at] = line[: rng.randint(1, 40)]
            line = line or bytearray(b"{")
    return bytes(line).replace(b"\n", b" ").replace(b"\r", b" ") or b"x"


def change(value: Any, rng: random.Random) -> None:
    """Change one part of a structure, somewhere."""
    odd: list[Any] = [None, True, -1, 2**70, 1e308, "", "x" * 20_000, "\ud800", "${HOME}", [], {}, [[]], {"a": None}]
    while isinstance(value, (dict, list)) and value:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        inner = value[key]
        if isinstance(inner, (dict, list)) and inner and rng.random() < 0.8:
            value = inner
            continue
        how = rng.randrange(4)
        if how == 0:
            del value[key]
        elif how == 1 and isinstance(value, dict):
            value[str(rng.choice(odd))[:50]] = inner
        else:
            value[key] = rng.choice(odd)
        return
