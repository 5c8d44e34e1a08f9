"""A move to another provider that something happens to: the vendor, the user, another machine."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import anyio
import pytest
from loopback import Fault, LoopbackVendor
from migrating import BATCH, environment_of, finished, made_rules, migrate, prepare, read, store_of

from symmetra_mcp.probes import probe_passages
from symmetra_mcp.verification import PROBES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RULES = made_rules(600)
BESIDE = len(probe_passages()) + 1 + 3 * PROBES
"""Texts embedded beside the rules': unrelated questions, one to try the provider, the check's with retries."""


@pytest.fixture
def vendor() -> Iterator[LoopbackVendor]:
    with LoopbackVendor(latency_s=0.8) as vendor:
        yield vendor


@pytest.fixture(params=["embedded", "supabase"])
def environment(request: pytest.FixtureRequest, tmp_path: Path, vendor: LoopbackVendor) -> dict[str, str]:
    made = environment_of(request.param, request, tmp_path, vendor)
    anyio.run(prepare, store_of(made, request), RULES)
    return made


def lines_until(stream: IO[bytes] | None, pattern: str) -> str:
    """What a process writes until a line holds the pattern."""
    assert stream is not None
    seen = ""
    for line in stream:
        seen += line.decode()
        if re.search(pattern, seen):
            return seen
    raise AssertionError(f"it ended without {pattern!r}:\n{seen}")


def is_moved(request: pytest.FixtureRequest, environment: dict[str, str]) -> bool:
    """Whether searches compare in the vendor's space; every text has its vector there then."""
    active, vectors = anyio.run(read, store_of(environment, request), RULES)
    return active.provider == "openai" and len(vectors) > len(RULES)


def test_ctrl_c_says_what_is_kept_and_the_next_run_goes_on(
    request: pytest.FixtureRequest, python: str, environment: dict[str, str], vendor: LoopbackVendor
) -> None:
    process = migrate(python, environment)
    lines_until(process.stderr, "Batch 3 of")
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, stderr = process.communicate(timeout=30)
    assert time.monotonic() - began < 3
    assert process.returncode == 1
    kept = re.search(r"(\d+) of 600 texts are embedded and kept: run the same again to go on", stderr.decode())
    assert kept is not None, stderr.decode()
    assert "Traceback" not in stderr.decode()
    assert not is_moved(request, environment)
    sent = vendor.stats.texts
    finished(migrate(python, environment))
    assert vendor.stats.texts - sent <= len(RULES) - int(kept[1]) + BESIDE
    assert is_moved(request, environment)


def test_a_vendor_that_is_down_for_a_while_is_waited_for(
    request: pytest.FixtureRequest, python: str, environment: dict[str, str], vendor: LoopbackVendor
) -> None:
    process = migrate(python, environment)
    lines_until(process.stderr, "Batch 2 of")
    with vendor.failing(Fault.UNAVAILABLE):
        time.sleep(12)
        assert process.poll() is None, process.communicate()
    assert "Migration complete." in finished(process)
    assert is_moved(request, environment)


def test_an_account_that_is_empty_stops_the_move_cleanly_and_it_goes_on_when_it_is_filled(
    request: pytest.FixtureRequest, python: str, environment: dict[str, str], vendor: LoopbackVendor
) -> None:
    process = migrate(python, environment, "--json")
    lines_until(process.stdout, r'"batch": 2\b')
    with vendor.failing(Fault.QUOTA):
        stdout, stderr = process.communicate(timeout=60)
    *_, kept, failed = [json.loads(line) for line in stdout.splitlines()]
    assert process.returncode == 1
    assert (kept["event"], failed["event"]) == ("kept", "failed")
    assert 16 <= kept["embedded"] < 600
    assert re.search(r"account|quota|credit", failed["error"])
    assert failed["error"] in stderr.decode()
    assert "sk-test" not in stderr.decode() + stdout.decode()
    assert not is_moved(request, environment)
    sent = vendor.stats.texts
    finished(migrate(python, environment))
    assert vendor.stats.texts - sent <= len(RULES) - kept["embedded"] + BESIDE
    assert is_moved(request, environment)


@pytest.mark.parametrize("environment", ["supabase"], indirect=True)
def test_a_machine_that_slept_past_its_lease_is_told_and_another_has_done_the_work(
    request: pytest.FixtureRequest, python: str, environment: dict[str, str], vendor: LoopbackVendor
) -> None:
    asleep = migrate(python, environment)
    lines_until(asleep.stderr, "Batch 2 of")
    os.kill(asleep.pid, signal.SIGSTOP)
    awake = migrate(python, environment)
    try:
        told = lines_until(awake.stderr, "Waiting for another run: ")
        told += lines_until(awake.stderr, "Batch 1 of")
        assert f"(process {asleep.pid}) embeds in openai/text-embedding-3-small@384" in told
        assert "Migration complete." in finished(awake)
    finally:
        os.kill(asleep.pid, signal.SIGCONT)
    _, stderr = asleep.communicate(timeout=60)
    assert asleep.returncode == 1
    assert "another program has taken over the task 'embedding'" in stderr.decode()
    assert "What was done is kept; run the same again" in stderr.decode()
    assert "Traceback" not in stderr.decode()
    in_flight = 16 * BATCH
    assert vendor.stats.texts <= len(RULES) + 2 * in_flight + 2 * BESIDE, "the work is not done twice"
    assert is_moved(request, environment)
    sent = vendor.stats.texts
    again = finished(migrate(python, environment))
    assert "0 texts embedded" in again
    assert vendor.stats.texts - sent <= 1


@pytest.mark.parametrize("environment", ["embedded"], indirect=True)
def test_a_terminal_shows_a_bar_that_leaves_nothing_behind(python: str, environment: dict[str, str]) -> None:
    control, terminal = pty.openpty()
    process = subprocess.Popen(
        [python, "-m", "symmetra_mcp", "migrate", "--batch-size", "8"],
        env={**environment, "TERM": "xterm-256color", "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=terminal,
    )
    os.close(terminal)
    screen = b""
    while select.select([control], [], [], 60)[0]:
        try:
            screen += os.read(control, 65_536)
        except OSError:  # the other end is closed
            break
    os.close(control)
    assert "Migration complete." in finished_quietly(process)
    shown = screen.decode()
    assert "Connected to openai" in shown
    counts = [int(count) for count in re.findall(r"(\d+)/600", shown)]
    assert len(set(counts)) > 3
    assert counts == sorted(counts)
    assert "Embedding, batch " in shown
    assert shown.rstrip().endswith(("\x1b[2K", "\x1b[?25h")), "the bar is taken away at the end"


def finished_quietly(process: subprocess.Popen[bytes]) -> str:
    """The output of a process whose errors go elsewhere."""
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return stdout.decode()
