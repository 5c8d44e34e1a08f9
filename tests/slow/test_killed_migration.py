"""A move to another provider, killed again and again: it ends with the vectors of an undisturbed run, paid once.

`SYMMETRA_TEST_KILLS` says how often; CI has time for a few.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from loopback import LoopbackVendor
from supabase_stack.project import Project

from symmetra_mcp.passages import passages
from symmetra_mcp.probes import probe_passages
from symmetra_mcp.reembed import complete_space
from symmetra_mcp.stores.base import RuleStore
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.stores.supabase import SupabaseStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import Rule

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

KILLS = int(os.environ.get("SYMMETRA_TEST_KILLS", "10"))
BATCH = 8
AT_ONCE = 16
LATENCY_S = 0.4
STARTING_S = (1.0, 4.0)
"""Seconds from the start to a kill: before the first request to the middle of the work."""
RULES = 400 + KILLS * 300


@pytest.fixture(scope="module")
def vendor() -> Iterator[LoopbackVendor]:
    with LoopbackVendor(latency_s=LATENCY_S, recent_requests=0) as vendor:
        yield vendor


@pytest.fixture(params=["embedded", "supabase"])
def environment(request: pytest.FixtureRequest, tmp_path: Path, vendor: LoopbackVendor) -> dict[str, str]:
    """What the command needs to use the store and the vendor."""
    variables = {
        **os.environ,
        "SYMMETRA_DATA_DIR": str(tmp_path),
        "SYMMETRA_STARTER_RULES": "0",
        "OPENAI_API_KEY": "sk-test",
        "OPENAI_BASE_URL": vendor.openai_base_url,
    }
    if request.param == "supabase":
        project: Project = request.getfixturevalue("project")
        variables |= project.environment()
    return variables


def store_of(environment: dict[str, str], request: pytest.FixtureRequest) -> RuleStore:
    if "SYMMETRA_SUPABASE_URL" in environment:
        project: Project = request.getfixturevalue("project")
        return SupabaseStore(project.address())
    return SqliteStore(Path(environment["SYMMETRA_DATA_DIR"]))


def rules() -> list[Rule]:
    return [Rule("shop", f"r{i}", f"Title {i}", f"Guidance number {i} about thing {i % 97}.") for i in range(RULES)]


async def prepare(store: RuleStore) -> None:
    await store.open()
    for start in range(0, RULES, 500):
        await store.upsert_rules(rules()[start : start + 500])
    await complete_space(store, FakeProvider("old"))
    await store.aclose()


async def read(store: RuleStore) -> tuple[Any, dict[str, bytes]]:
    await store.open()
    active = await store.active_space()
    assert active is not None
    hashes = [passage.content_hash for rule in rules() for passage in passages(rule)]
    hashes += [probe.content_hash for probe in probe_passages()]
    vectors = await store.get_vectors(active, hashes)
    problem = await store.verify()
    await store.aclose()
    assert problem == ""
    return active, {key: vector.tobytes() for key, vector in vectors.items()}


def migrate(python: str, environment: dict[str, str], *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [python, "-m", "symmetra_mcp", "migrate", "--batch-size", str(BATCH), *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[bytes]) -> None:
    _, stderr = process.communicate(timeout=900)
    assert process.returncode == 0, stderr.decode()


def test_a_move_that_is_killed_again_and_again_ends_as_an_undisturbed_one(
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
    python: str,
    environment: dict[str, str],
    vendor: LoopbackVendor,
    tmp_path: Path,
) -> None:
    anyio.run(prepare, store_of(environment, request))
    here_alone = {name: value for name, value in environment.items() if "SUPABASE" not in name}
    undisturbed = {**here_alone, "SYMMETRA_DATA_DIR": str(tmp_path / "undisturbed")}
    anyio.run(prepare, SqliteStore(tmp_path / "undisturbed"))
    vendor.reset()
    finished(migrate(python, undisturbed))
    texts_once = vendor.stats.texts
    _, expected = anyio.run(read, SqliteStore(tmp_path / "undisturbed"))

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
    active, vectors = anyio.run(read, store_of(environment, request))
    for name, figure in (("killed", killed), ("sent", vendor.stats.texts), ("sent_undisturbed", texts_once)):
        record_property(name, figure)
    assert killed >= KILLS * 3 // 4
    assert active.provider == "openai"
    assert vectors == expected
    tried_connections = killed + 1
    asked_by_checks = 12 * (killed + 1)
    assert vendor.stats.texts <= texts_once + killed * BATCH * AT_ONCE + tried_connections + asked_by_checks
