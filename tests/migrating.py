"""The real command that moves rules to another provider, over a store of either kind that a test fills."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

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

BATCH = 8


def environment_of(
    store: str, request: pytest.FixtureRequest, data_folder: Path, vendor: LoopbackVendor
) -> dict[str, str]:
    """What the command needs to use the vendor and the `embedded` or `supabase` store."""
    variables = {
        **os.environ,
        "SYMMETRA_DATA_DIR": str(data_folder),
        "SYMMETRA_STARTER_RULES": "0",
        "OPENAI_API_KEY": "sk-test",
        "OPENAI_BASE_URL": vendor.openai_base_url,
    }
    if store == "supabase":
        project: Project = request.getfixturevalue("project")
        variables |= project.environment()
    return variables


def store_of(environment: dict[str, str], request: pytest.FixtureRequest) -> RuleStore:
    """The store that the command uses."""
    if "SYMMETRA_SUPABASE_URL" in environment:
        project: Project = request.getfixturevalue("project")
        return SupabaseStore(project.address())
    return SqliteStore(Path(environment["SYMMETRA_DATA_DIR"]))


def made_rules(count: int) -> list[Rule]:
    """Rules of one text each."""
    return [Rule("shop", f"r{i}", f"Title {i}", f"Guidance number {i} about thing {i % 97}.") for i in range(count)]


async def prepare(store: RuleStore, rules: list[Rule]) -> None:
    """Fill a store, and let searches compare in a space of their own."""
    await store.open()
    for start in range(0, len(rules), 500):
        await store.upsert_rules(rules[start : start + 500])
    await complete_space(store, FakeProvider("old"))
    await store.aclose()


async def read(store: RuleStore, rules: list[Rule]) -> tuple[Any, dict[str, bytes]]:
    """Where searches compare, and the vectors there, by content hash."""
    await store.open()
    active = await store.active_space()
    assert active is not None
    hashes = [passage.content_hash for rule in rules for passage in passages(rule)]
    hashes += [probe.content_hash for probe in probe_passages()]
    vectors = await store.get_vectors(active, hashes)
    problem = await store.verify()
    await store.aclose()
    assert problem == ""
    return active, {key: vector.tobytes() for key, vector in vectors.items()}


def migrate(python: str, environment: dict[str, str], *options: str) -> subprocess.Popen[bytes]:
    """Begin the command in a session of its own."""
    return subprocess.Popen(
        [python, "-m", "symmetra_mcp", "migrate", "--batch-size", str(BATCH), *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[bytes]) -> str:
    """Its output, when it has ended well."""
    stdout, stderr = process.communicate(timeout=900)
    assert process.returncode == 0, stderr.decode()
    return stdout.decode()
