"""`reembed_all` asks first, outlives its call, and is stopped by who cancels it: through the SDK's own client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from moving import RULES, Vendor, answering, made_app

from symmetra_mcp import jobs
from symmetra_mcp.errors import ProviderUnavailableError
from symmetra_mcp.server import make_server
from symmetra_mcp.testing import FakeProvider

MODES: list[Any] = ["legacy", "2026-07-28"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("action", "go", "begins"), [("accept", True, True), ("accept", False, False), ("decline", True, False)]
)
def test_who_can_be_asked_is_asked_with_the_plan(
    tmp_path: Path, mode: Any, action: str, go: bool, begins: bool
) -> None:
    heard: list[str] = []

    async def run() -> tuple[Any, Any]:
        old, new = FakeProvider("old"), Vendor("new")
        app = await made_app(tmp_path, new, (old,))
        async with Client(make_server(app), elicitation_callback=answering(action, go, heard), mode=mode) as client:
            result = await client.call_tool("reembed_all", {})
            return result, await app.store.active_space()

    result, active = anyio.run(run)
    assert len(heard) == 1
    assert f"{RULES} of {RULES} texts would be embedded in space fake/new@64 (about " in heard[0]
    assert "$" in heard[0]
    answer = result.structured_content
    assert (answer["embedded"], active.model) == ((RULES, "new") if begins else (0, "old"))
    assert ("call again with confirm=true" in result.content[0].text) is not begins


def test_who_cannot_be_asked_gets_the_plan_and_confirms(tmp_path: Path) -> None:
    async def run() -> tuple[Any, Any, Any]:
        app = await made_app(tmp_path, Vendor("new"), (FakeProvider("old"),))
        async with Client(make_server(app)) as client:
            plan = await client.call_tool("reembed_all", {})
            embedded = len(app.providers.chosen.embedded)  # type: ignore[attr-defined]
            return plan, embedded, await client.call_tool("reembed_all", {"confirm": True})

    plan, embedded, done = anyio.run(run)
    assert "Nothing is done without the user's word" in plan.content[0].text
    assert (plan.structured_content["dry_run"], plan.structured_content["missing"], embedded) == (True, RULES, 0)
    assert plan.structured_content["cost_usd"] > 0
    assert (done.structured_content["embedded"], done.structured_content["switched_from"]) == (RULES, "fake/old@64")


def test_nobody_is_asked_for_what_is_free_and_moves_nothing(tmp_path: Path) -> None:
    async def run() -> Any:
        app = await made_app(tmp_path, FakeProvider())
        async with Client(make_server(app)) as client:
            return await client.call_tool("reembed_all", {})

    assert anyio.run(run).structured_content["embedded"] == RULES


@pytest.mark.slow
def test_long_work_goes_on_after_the_answer_and_is_followed_by_asking_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "FOLLOWED_S", 0.3)
    monkeypatch.setattr(jobs.Job.follow, "__kwdefaults__", {"seconds": 0.3})
    seen: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async def run() -> tuple[list[Any], int]:
        new = Vendor("new", delay_s=0.1)
        app = await made_app(tmp_path, new, (FakeProvider("old"),))
        answers: list[Any] = []
        async with Client(make_server(app)) as client:
            answers.append(await client.call_tool("reembed_all", {"confirm": True}, progress_callback=hear))
            while answers[-1].structured_content.get("running"):
                answers.append(await client.call_tool("reembed_all", {}))
            answers.append(await client.call_tool("reembed_all", {"confirm": True}))
        return answers, sum("Guidance" in text for text in new.embedded)

    answers, embedded = anyio.run(run)
    running = [each.structured_content for each in answers if each.structured_content.get("running")]
    assert len(running) >= 2
    assert all("embeds in fake/new@64: " in each["running"] for each in running)
    assert [each["embedded"] for each in running] == sorted(each["embedded"] for each in running)
    assert "Ask again" in answers[0].content[0].text
    assert answers[-2].structured_content["embedded"] == RULES
    assert answers[-2].structured_content["switched_from"] == "fake/old@64"
    assert answers[-1].structured_content["embedded"] == 0
    assert embedded <= RULES + 12  # questions of the check are texts of rules too
    assert seen == sorted(set(seen))


def test_a_cancelled_call_ends_the_work_and_the_next_goes_on(tmp_path: Path) -> None:
    async def run() -> tuple[int, int, Any]:
        new = Vendor("new", delay_s=0.05)
        app = await made_app(tmp_path, new, (FakeProvider("old"),))
        async with Client(make_server(app)) as client:
            with anyio.move_on_after(0.4):
                await client.call_tool("reembed_all", {"confirm": True})
            await anyio.sleep(0.3)
            reached = len(new.embedded)
            await anyio.sleep(0.3)
            later = len(new.embedded)
            new.delay_s = 0
            return reached, later, await client.call_tool("reembed_all", {"confirm": True})

    reached, later, done = anyio.run(run)
    assert 0 < reached == later < RULES
    assert 0 < done.structured_content["embedded"] < RULES
    assert done.structured_content["missing"] == 0


def test_one_who_gives_up_does_not_end_the_work_that_another_wants(tmp_path: Path) -> None:
    async def run() -> Any:
        app = await made_app(tmp_path, Vendor("new", delay_s=0.05), (FakeProvider("old"),))
        results: list[Any] = []
        async with Client(make_server(app)) as client, anyio.create_task_group() as tasks:

            async def wanted() -> None:
                results.append(await client.call_tool("reembed_all", {"confirm": True}))

            async def given_up() -> None:
                with anyio.move_on_after(0.3):
                    await client.call_tool("reembed_all", {"confirm": True})

            tasks.start_soon(wanted)
            tasks.start_soon(given_up)
        return results[0]

    result = anyio.run(run)
    assert not result.is_error
    assert result.structured_content["embedded"] == RULES


def test_a_failure_is_told_once_and_the_next_call_begins_again(tmp_path: Path) -> None:
    async def run() -> list[Any]:
        new = Vendor("new")
        app = await made_app(tmp_path, new, (FakeProvider("old"),))
        new.failure = ProviderUnavailableError("the vendor is down", provider="fake")
        async with Client(make_server(app)) as client:
            failed = await client.call_tool("reembed_all", {"confirm": True})
            new.failure = None
            return [failed, await client.call_tool("reembed_all", {"confirm": True})]

    failed, done = anyio.run(run)
    assert failed.is_error
    assert "the vendor is down" in failed.content[0].text
    assert done.structured_content["embedded"] == RULES
