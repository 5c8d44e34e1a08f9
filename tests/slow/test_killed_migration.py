"""A move to another provider, killed again and again: it ends with the vectors of an undisturbed run, paid once.

`SYMMETRA_TEST_KILLS` says how often; CI has time for a few.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from loopback import LoopbackVendor
from migrating import BATCH, environment_of, finished, made_rules, migrate, prepare, read, store_of

from symmetra_mcp.stores.sqlite import SqliteStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

KILLS = int(os.environ.get("SYMMETRA_TEST_KILLS", "10"))
AT_ONCE = 16
LATENCY_S = 0.4
STARTING_S = (1.0, 4.0)
"""Seconds from the start to a kill: before the first request to the middle of the work."""
RULES = made_rules(400 + KILLS * 300)


@pytest.fixture(scope="module")
def vendor() -> Iterator[LoopbackVendor]:
    with LoopbackVendor(latency_s=LATENCY_S, recent_requests=0) as vendor:
        yield vendor


@pytest.fixture(params=["embedded", "supabase"])
def environment(request: pytest.FixtureRequest, tmp_path: Path, vendor: LoopbackVendor) -> dict[str, str]:
    return environment_of(request.param, request, tmp_path, vendor)


def test_a_move_that_is_killed_again_and_again_ends_as_an_undisturbed_one(
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
    python: str,
    environment: dict[str, str],
    vendor: LoopbackVendor,
    tmp_path: Path,
) -> None:
    anyio.run(prepare, store_of(environment, request), RULES)
    here_alone = {name: value for name, value in environment.items() if "SUPABASE" not in name}
    undisturbed = {**here_alone, "SYMMETRA_DATA_DIR": str(tmp_path / "undisturbed")}
    anyio.run(prepare, SqliteStore(tmp_path / "undisturbed"), RULES)
    vendor.reset()
    finished(migrate(python, undisturbed))
    texts_once = vendor.stats.texts
    _, expected = anyio.run(read, SqliteStore(tmp_path / "undisturbed"), RULES)

    vendor.reset()
    some, killed = random.Random(5), 0
    while killed < KILLS:
        process = migrate(python, environment)
        time.sleep(some.uniform(*STARTING_S))
        if process.poll() is not None:
            finished(process)
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        killed += 1
    finished(migrate(python, environment))
    active, vectors = anyio.run(read, store_of(environment, request), RULES)
    for name, figure in (("killed", killed), ("sent", vendor.stats.texts), ("sent_undisturbed", texts_once)):
        record_property(name, figure)
    assert killed >= KILLS * 3 // 4
    assert active.provider == "openai"
    assert vectors == expected
    tried_connections = killed + 1
    asked_by_checks = 12 * (killed + 1)
    assert vendor.stats.texts <= texts_once + killed * BATCH * AT_ONCE + tried_connections + asked_by_checks
