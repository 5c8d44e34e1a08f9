"""Background work of a server: what it embeds, what it tries again, how long a search waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from symmetra_mcp import upkeep as module
from symmetra_mcp.app import App
from symmetra_mcp.config import load_settings
from symmetra_mcp.errors import ProviderUnavailableError
from symmetra_mcp.providers.select import ProviderChoice
from symmetra_mcp.spaces import EmbeddingSpace
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.upkeep import Upkeep

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()
    (tmp_path / "AGENTS.md").write_text("- Always name every database constraint.\n")
    return tmp_path


@asynccontextmanager
async def running(project: Path, choice: ProviderChoice) -> AsyncIterator[Upkeep]:
    settings = load_settings(project_dir=project, starter_rules=False)
    app = App(settings, SqliteStore(settings.data_folder), choice)
    await app.ready()
    upkeep = Upkeep(app)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(upkeep.run)
        upkeep.greeted()
        yield upkeep
        tasks.cancel_scope.cancel()
    await app.aclose()


async def becomes(expected: Any, observed: Callable[[], Awaitable[Any]]) -> None:
    with anyio.fail_after(20):
        while await observed() != expected:  # noqa: ASYNC110 - what is observed sets no event
            await anyio.sleep(0.01)


async def missing(upkeep: Upkeep) -> dict[str, int]:
    return {status.space.model: status.missing for status in await upkeep.app.store.space_statuses()}


async def test_what_a_vendor_would_not_embed_is_tried_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    provider = FakeProvider("vendor")
    provider.failure = ProviderUnavailableError("down", provider="fake")
    async with running(project, ProviderChoice(provider)) as upkeep:
        await upkeep.before_search()
        await becomes({"vendor": 1}, lambda: missing(upkeep))
        provider.failure = None
        await becomes({"vendor": 0}, lambda: missing(upkeep))


async def test_the_backup_is_kept_beside_a_vendors_space_even_while_the_vendor_is_down(project: Path) -> None:
    vendor, backup = FakeProvider("vendor"), FakeProvider("backup", dimensions=32)
    of_another_vendor(backup)
    choice = ProviderChoice(vendor, others=[backup], backup=backup)
    async with running(project, choice) as upkeep:
        await becomes({"vendor": 0, "backup": 0}, lambda: missing(upkeep))
        vendor.failure = ProviderUnavailableError("down", provider="fake")
        (project / "AGENTS.md").write_text("- Always name every database constraint.\n- Never log a password.\n")
        upkeep.app._intake.look_again()
        await upkeep.before_search()
        await becomes({"vendor": 1, "backup": 0}, lambda: missing(upkeep))
        assert await upkeep.app.store.active_space() == vendor.space


async def test_a_search_waits_once_for_a_vendor_that_does_not_embed_a_change(project: Path) -> None:
    class Remote(FakeProvider):
        is_remote = True

    provider = Remote("vendor")
    async with running(project, ProviderChoice(provider)) as upkeep:
        await becomes({"vendor": 0}, lambda: missing(upkeep))
        upkeep._idle = anyio.Event()  # as while a vendor is waited for that does not answer
        upkeep._patient_until = anyio.current_time() - 1
        with anyio.fail_after(module.PATIENCE_S / 2):
            await upkeep.before_search()


def of_another_vendor(backup: FakeProvider) -> None:
    """A backup of another vendor's name: one of the same would be no backup."""
    backup._space = EmbeddingSpace("other", "backup", 32)


async def test_new_files_are_looked_for_less_often_while_nobody_waits(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symmetra_mcp.rule_intake._LOOK_AGAIN_S", 0.0)
    monkeypatch.setattr("symmetra_mcp.rule_intake._WALK_AGAIN_S", 0.0)
    monkeypatch.setattr("symmetra_mcp.rule_intake._WALKING_SHARE", 1e-9)
    settings = load_settings(project_dir=project, starter_rules=False)
    app = App(settings, SqliteStore(settings.data_folder), ProviderChoice(FakeProvider()))
    await app.keep_in_step()
    (project / "CLAUDE.md").write_text("- Always close what you open.\n")
    assert await app.keep_in_step(unasked=True) == []
    assert len(await app.keep_in_step()) == 1
    await app.aclose()
