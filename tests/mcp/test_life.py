"""How a server begins and ends, as real processes see it: what is answered, and that it is gone in time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stdio_peer import HELLO, INITIALIZED, MODERN, Peer, call, request, started

HANGING = Path(__file__).with_name("hanging_server.py")
GONE_S = 2.0
"""A client waits so long before it kills."""


@contextmanager
def hanging(marks: Path) -> Iterator[Peer]:
    with started(str(HANGING), str(marks)) as peer:
        peer.greet()
        yield peer


def wait_for(mark: Path) -> None:
    for _ in range(200):
        if mark.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"no {mark.name}")


def close_stdin(peer: Peer) -> None:
    peer.close()


def ask_to_end(peer: Peer) -> None:
    peer.process.terminate()


def interrupt(peer: Peer) -> None:
    peer.process.send_signal(signal.SIGINT)


def hang_up(peer: Peer) -> None:
    peer.process.send_signal(signal.SIGHUP)


def stop_reading(peer: Peer) -> None:
    assert peer.process.stdout is not None
    peer.process.stdout.close()
    peer.send(request(99, "ping"))


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


WAYS = [close_stdin, ask_to_end, slow(interrupt), slow(hang_up), slow(stop_reading)]


@pytest.mark.parametrize("end", WAYS)
def test_an_idle_server_cleans_up_and_is_gone_at_once(tmp_path: Path, end: Any) -> None:
    with hanging(tmp_path) as peer:
        peer.ask(request(1, "ping"))
        end(peer)
        assert peer.seconds_to_end() < GONE_S / 2
        assert peer.process.returncode == 0
    assert (tmp_path / "cleaned up").exists()


@pytest.mark.parametrize("end", [close_stdin, slow(ask_to_end), slow(interrupt), slow(hang_up), slow(stop_reading)])
def test_a_call_that_waits_is_cancelled_and_the_server_cleans_up(tmp_path: Path, end: Any) -> None:
    with hanging(tmp_path) as peer:
        peer.send(call(1, "gently"))
        wait_for(tmp_path / "hangs")
        end(peer)
        assert peer.seconds_to_end() < GONE_S
        assert peer.process.returncode == 0
    assert (tmp_path / "cleaned up").exists()


@pytest.mark.parametrize(
    ("end", "tool"),
    [
        (close_stdin, "in_a_thread"),
        slow(ask_to_end, "in_a_thread"),
        slow(interrupt, "in_a_thread"),
        slow(hang_up, "in_a_thread"),
        slow(stop_reading, "in_a_thread"),
        (interrupt, "in_the_loop"),
        slow(close_stdin, "in_the_loop"),
        slow(ask_to_end, "in_the_loop"),
        slow(hang_up, "in_the_loop"),
    ],
)
def test_a_tool_that_hangs_holds_no_server_back(tmp_path: Path, end: Any, tool: str) -> None:
    with hanging(tmp_path) as peer:
        peer.send(call(1, tool))
        wait_for(tmp_path / "hangs")
        end(peer)
        assert peer.seconds_to_end() < GONE_S
        assert peer.process.returncode == 0


def test_a_cancelled_call_ends_at_once_without_an_answer(tmp_path: Path) -> None:
    with hanging(tmp_path) as peer:
        peer.send(call(1, "gently"))
        wait_for(tmp_path / "hangs")
        peer.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
        began = time.monotonic()
        assert peer.ask(request(2, "ping"))["id"] == 2
        peer.close()
        assert peer.seconds_to_end() < 0.5
        assert time.monotonic() - began < 0.5
        assert peer.process.stdout is not None
        assert peer.process.stdout.read() == b""


def test_what_is_asked_before_the_end_of_a_pipe_is_answered(tmp_path: Path) -> None:
    with hanging(tmp_path) as peer:
        peer.send(call(1, "slowly", seconds=0.5))
        peer.close()
        assert peer.receive()["result"]["content"][0]["text"] == "late"
        assert peer.seconds_to_end() < GONE_S / 2


@pytest.mark.parametrize("version", ["2025-11-25", slow("2026-07-28")])
def test_requests_from_a_file_are_all_answered(version: str, tmp_path: Path) -> None:
    if version == "2026-07-28":
        search = {"name": "search_rules", "arguments": {"query": "hash passwords"}}
        asked = [
            request(1, "server/discover", _meta=MODERN),
            request(2, "tools/list", _meta=MODERN),
            request("three", "tools/call", _meta=MODERN, **search),
        ]
    else:
        asked = [request(1, "initialize", **HELLO), INITIALIZED, request(2, "tools/list")]
        asked.append(call("three", "search_rules", query="hash passwords"))
    lines = "".join(json.dumps(message) + "\n" for message in asked)
    done = subprocess.run(
        [sys.executable, "-m", "symmetra_mcp"], input=lines.rstrip("\n").encode(), capture_output=True, check=False
    )

    answers = {answer["id"]: answer for answer in map(json.loads, done.stdout.splitlines())}
    assert set(answers) == {1, 2, "three"}
    assert answers["three"]["result"]["structuredContent"]["hits"]
    assert done.returncode == 0


@pytest.mark.parametrize("prompt", [slow("at once"), "later"])
def test_both_protocols_are_spoken_in_any_order(prompt: str) -> None:
    with started("-m", "symmetra_mcp") as peer:
        discovered = peer.ask(request(1, "server/discover", _meta=MODERN))
        assert discovered["result"]["supportedVersions"] == ["2026-07-28"]
        if prompt == "later":
            peer.ask(request(2, "tools/call", name="health_check", arguments={}, _meta=MODERN))
        greeted = peer.greet()
        assert greeted["result"]["protocolVersion"] == "2025-11-25"
        legacy = peer.ask(call(3, "health_check"))["result"]["structuredContent"]
        modern = peer.ask(request(4, "tools/call", name="health_check", arguments={}, _meta=MODERN))["result"]
        assert legacy["status"] == modern["structuredContent"]["status"] == "healthy"
        assert peer.ask(request(5, "tools/list"))["result"] == peer.ask(request(6, "tools/list"))["result"]


NO_MESSAGES = [
    (b"{", -32700, None),
    (b"\xff\xfe", -32700, None),
    (b"[" * 100_000, -32700, None),
    (b"null", -32600, None),
    (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600, None),
    (b'{"jsonrpc":"1.0","id":7,"method":"ping"}', -32600, 7),
    (b'{"jsonrpc":"2.0","id":"x","method":5}', -32600, "x"),
    (b'{"jsonrpc":"2.0","id":[1],"method":"ping"}', -32600, None),
]


def test_what_is_no_message_is_refused_and_the_next_one_answered() -> None:
    with started("-m", "symmetra_mcp") as peer:
        for _ in ("before the SDK is there", "after"):
            for line, code, number in NO_MESSAGES:
                peer.send(line)
                refused = peer.receive()
                assert (refused["error"]["code"], refused["id"]) == (code, number), line[:80]
            assert peer.ask(request(1, "server/discover", _meta=MODERN))["result"]["capabilities"]
        peer.close()
        assert peer.seconds_to_end() < GONE_S
        assert peer.process.stderr is not None
        assert b"Traceback" not in peer.process.stderr.read()


@pytest.mark.slow
def test_a_client_that_reads_late_gets_every_answer(tmp_path: Path) -> None:
    with hanging(tmp_path) as peer:
        peer.send(*(request(number, "tools/list") for number in range(1, 2_001)))
        time.sleep(0.5)
        assert [peer.receive()["id"] for _ in range(2_000)] == list(range(1, 2_001))


def test_what_the_program_prints_is_no_message(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys; from symmetra_mcp.stdio.front import open_front; front = open_front({});"
        "print('printed'); os.write(1, b'written'); subprocess.run(['echo', 'a child']);"
        "from symmetra_mcp.stdio.start import run; print('unflushed', end=''); run(front, {})"
    )
    with started("-c", code) as peer:
        peer.greet()
        assert peer.ask(call(1, "health_check"))["id"] == 1
        peer.close()
        assert peer.process.stdout is not None
        assert peer.process.stdout.read() == b""
        assert peer.process.stderr is not None
        told = peer.process.stderr.read()
    assert all(word in told for word in (b"printed", b"written", b"a child"))


def test_a_server_whose_launcher_is_killed_goes_too(tmp_path: Path) -> None:
    """A launcher waits for the server as its child; the client holds the pipe open."""
    marks = tmp_path / "marks"
    marks.mkdir()
    launcher = tmp_path / "uvx"
    launcher.write_text(f"#!/bin/sh\n'{sys.executable}' '{HANGING}' '{marks}' & echo $! >&2\nwait\n")
    # A background child of a shell has no stdin: this one is given its own.
    launcher.write_text(launcher.read_text().replace(" & echo", " <&3 3<&- & echo").replace("\n'", "\nexec 3<&0\n'", 1))
    launcher.chmod(0o755)
    with subprocess.Popen([launcher], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert int(process.stderr.readline())  # the server has begun
        peer = Peer(process)
        peer.greet()
        peer.ask(request(1, "ping"))
        process.kill()
        process.wait()
        assert process.stdout is not None
        assert process.stdout.read() == b""  # returns when the server has closed its end
    wait_for(marks / "cleaned up")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of the processes behind the parent")
def test_a_server_whose_client_is_killed_behind_a_launcher_goes_too(tmp_path: Path) -> None:
    """The pipe's end has leaked to this test, so that the server's stdin stays open."""
    marks = tmp_path / "marks"
    marks.mkdir()
    reading, writing = os.pipe()
    client = (
        "import subprocess, sys, time;"
        f"subprocess.Popen(['sh', '-c', '\"{sys.executable}\" \"{HANGING}\" \"{marks}\"; true'], stdin={reading});"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", client], pass_fds=[reading], stdout=subprocess.PIPE) as process:
        peer = Peer(process)
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            pipe.write(json.dumps(request(0, "initialize", **HELLO)).encode() + b"\n")
            assert peer.receive()["id"] == 0
            process.kill()
            wait_for(marks / "cleaned up")
    os.close(reading)


def test_a_wrong_setting_is_told_to_whoever_asked_already(tmp_path: Path) -> None:
    environment = {**os.environ, "SYMMETRA_EMBEDDING_BACKEND": "sbert"}
    with started("-m", "symmetra_mcp", env=environment) as peer:
        assert peer.greet()["result"]["serverInfo"]["name"] == "symmetra-mcp"
        answer = peer.ask(call(1, "health_check"))
        assert "`SYMMETRA_EMBEDDING_BACKEND`" in answer["error"]["message"]
        assert peer.process.wait(10) == 1
        assert peer.process.stderr is not None
        assert re.match(rb"Error: `SYMMETRA_EMBEDDING_BACKEND`", peer.process.stderr.read())
