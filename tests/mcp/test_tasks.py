"""Long work as a task: clients that know MCP's Tasks extension get an id, and ask for it when they like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ElicitRequest, ElicitRequestFormParams, Request, RequestParams, Result
from moving import RULES, Vendor, answering, made_app
from pydantic import ConfigDict
from pydantic.alias_generators import to_camel

from symmetra_mcp.app import App
from symmetra_mcp.errors import ProviderUnavailableError
from symmetra_mcp.jobs import Job, begun_in_this_call
from symmetra_mcp.reembed import ReembedReport
from symmetra_mcp.server import make_server
from symmetra_mcp.spaces import EmbeddingSpace
from symmetra_mcp.task_files import TaskFiles, TaskRecord
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.tool_making import made_tool

TASKS = "io.modelcontextprotocol/tasks"
MODERN: Any = "2026-07-28"


class Begun(Result):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")

    result_type: Literal["task"] = "task"
    task_id: str
    status: str
    created_at: str
    last_updated_at: str
    ttl_ms: int
    poll_interval_ms: int


class TaskParams(RequestParams):
    model_config = ConfigDict(extra="allow")


class Asked(Result):
    model_config = ConfigDict(extra="allow")


class TaskClient(ClientExtension):
    """A client's side of it, which leaves the polling to the test."""

    identifier = TASKS

    def claims(self) -> Sequence[ResultClaim[Any]]:
        async def resolve(result: Begun, context: ClaimContext) -> CallToolResult:
            raise AssertionError("every call of these tests wants the task itself")

        return [ResultClaim(result_type="task", model=Begun, resolve=resolve)]


def client_of(app: App, **options: Any) -> Client:
    return Client(make_server(app), mode=MODERN, extensions=[TaskClient()], **options)


async def begin(client: Client, **arguments: Any) -> Any:
    return await client.session.call_tool("reembed_all", arguments, allow_claimed=True)


async def ask(client: Client, method: str, task_id: str, **more: Any) -> dict[str, Any]:
    params = TaskParams(taskId=task_id, **more)
    answer = await client.session.send_request(Request[TaskParams, str](method=method, params=params), Asked)
    return answer.model_dump(by_alias=True)


async def ended(client: Client, task_id: str) -> dict[str, Any]:
    with anyio.fail_after(20):
        while True:
            task = await ask(client, "tasks/get", task_id)
            if task["status"] != "working":
                return task
            await anyio.sleep(0.05)


def test_work_becomes_a_task_that_is_asked_for_until_it_has_the_tools_answer(tmp_path: Path) -> None:
    async def run() -> tuple[Begun, list[dict[str, Any]], dict[str, Any]]:
        app = await made_app(tmp_path, Vendor("new", delay_s=0.1), (FakeProvider("old"),))
        async with client_of(app) as client:
            begun = await begin(client, confirm=True)
            kept = json.loads((tasks_folder(app) / f"{begun.task_id}.json").read_text("utf-8"))
            assert kept["status"] == "working"
            seen = []
            for _ in range(3):
                await anyio.sleep(0.3)
                seen.append(await ask(client, "tasks/get", begun.task_id))
            return begun, seen, await ended(client, begun.task_id)

    begun, seen, task = anyio.run(run)
    assert isinstance(begun, Begun)
    assert (begun.status, begun.poll_interval_ms, begun.ttl_ms) == ("working", 1000, 86_400_000)
    assert {each["status"] for each in seen} == {"working"}
    assert all("embeds in fake/new@64: " in each["statusMessage"] for each in seen)
    assert seen[0]["statusMessage"] != seen[2]["statusMessage"]
    assert task["status"] == "completed"
    answer = task["result"]["structuredContent"]
    assert (answer["embedded"], answer["missing"], answer["switched_from"]) == (RULES, 0, "fake/old@64")
    assert not task["result"].get("isError")
    assert "running" not in answer


def tasks_folder(app: App) -> Path:
    return app.settings.data_folder / "tasks"


def test_a_plan_and_a_question_are_plain_answers(tmp_path: Path) -> None:
    heard: list[str] = []

    async def run() -> tuple[Any, Any, Any]:
        app = await made_app(tmp_path, Vendor("new"), (FakeProvider("old"),))
        async with client_of(app) as client:
            planned, unasked = await begin(client, dry_run=True), await begin(client)
        app = await made_app(tmp_path, Vendor("new"), (FakeProvider("old"),))
        async with client_of(app, elicitation_callback=answering("decline", False, heard)) as client:
            return planned, unasked, await client.call_tool("reembed_all", {})

    planned, unasked, declined = anyio.run(run)
    assert [type(each) for each in (planned, unasked, declined)] == [CallToolResult] * 3
    assert len(heard) == 1
    assert (planned.structured_content["missing"], declined.structured_content["embedded"]) == (RULES, 0)


def test_a_cancelled_task_ends_the_work_and_stays_cancelled(tmp_path: Path) -> None:
    async def run() -> tuple[int, int, dict[str, Any], dict[str, Any]]:
        new = Vendor("new", delay_s=0.05)
        app = await made_app(tmp_path, new, (FakeProvider("old"),))
        async with client_of(app) as client:
            begun = await begin(client, confirm=True)
            await anyio.sleep(0.3)
            acknowledged = await ask(client, "tasks/cancel", begun.task_id)
            reached = len(new.embedded)
            await anyio.sleep(0.3)
            assert await ask(client, "tasks/cancel", begun.task_id) == acknowledged
            return reached, len(new.embedded), acknowledged, await ask(client, "tasks/get", begun.task_id)

    reached, later, acknowledged, task = anyio.run(run)
    assert 0 < reached == later < RULES
    assert "status" not in acknowledged
    assert task["status"] == "cancelled"


def test_a_task_that_asks_waits_for_every_answer_and_goes_on(tmp_path: Path) -> None:
    def form(field: str) -> ElicitRequest:
        schema = {"type": "object", "properties": {field: {"type": "string"}}}
        return ElicitRequest(params=ElicitRequestFormParams(message=field, requested_schema=schema))

    async def run() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
        app = await made_app(tmp_path, Vendor("new"), (FakeProvider("old"),))
        answers: dict[str, Any] = {}

        async def put_names() -> CallToolResult:
            job = Job("names", force=False)

            async def ask_for(field: str) -> None:
                answers[field] = await job.questions.ask(form(field))

            async def work(*_: object) -> ReembedReport:
                async with anyio.create_task_group() as asking:
                    asking.start_soon(ask_for, "first")
                    asking.start_soon(ask_for, "last")
                names = " ".join(answers[field].content[field] for field in ("first", "last"))
                return ReembedReport(EmbeddingSpace("test", names, 1), 0, 0, 0)

            app.jobs.run_beside(job.run, work)
            begun = begun_in_this_call.get()
            assert begun is not None
            begun.append(job)
            return CallToolResult(content=[])

        server = make_server(app, further_tools=[made_tool(put_names, "put_names", read_only=True)])
        async with Client(server, mode=MODERN, extensions=[TaskClient()]) as client:
            begun: Any = await client.session.call_tool("put_names", {}, allow_claimed=True)
            asked = await ended(client, begun.task_id)
            first, last = sorted(
                asked["inputRequests"], key=lambda key: asked["inputRequests"][key]["params"]["message"]
            )
            with pytest.raises(MCPError, match="no answer to what the task asks"):
                await ask(client, "tasks/update", begun.task_id, inputResponses={first: {"action": "perhaps"}})
            given = {first: {"action": "accept", "content": {"first": "Ada"}}, "never-asked": {}}
            acknowledged = await ask(client, "tasks/update", begun.task_id, inputResponses=given)
            between = await ask(client, "tasks/get", begun.task_id)
            assert list(between["inputRequests"]) == [last]
            given = {last: {"action": "accept", "content": {"last": "Byron"}}}
            await ask(client, "tasks/update", begun.task_id, inputResponses=given)
            return asked, acknowledged, between, await ended(client, begun.task_id)

    asked, acknowledged, between, task = anyio.run(run)
    assert (asked["status"], between["status"], task["status"]) == ("input_required", "input_required", "completed")
    assert [each["method"] for each in asked["inputRequests"].values()] == ["elicitation/create"] * 2
    assert not {"status", "taskId"} & acknowledged.keys()
    assert "Ada Byron" in task["result"]["content"][0]["text"]
    assert "inputRequests" not in task


def test_work_that_fails_is_a_completed_task_with_the_tools_error(tmp_path: Path) -> None:
    async def run() -> dict[str, Any]:
        new = Vendor("new")
        app = await made_app(tmp_path, new, (FakeProvider("old"),))
        new.failure = ProviderUnavailableError("the vendor is down", provider="fake")
        async with client_of(app) as client:
            return await ended(client, (await begin(client, confirm=True)).task_id)

    task = anyio.run(run)
    assert (task["status"], task["result"]["isError"]) == ("completed", True)
    assert "the vendor is down" in task["result"]["content"][0]["text"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.slow
def test_the_next_server_goes_on_with_a_task_of_one_that_has_ended(tmp_path: Path, force: bool) -> None:
    async def run() -> tuple[int, int, dict[str, Any]]:
        first = Vendor("new", delay_s=0.05)
        app = await made_app(tmp_path, first, (FakeProvider("old"),))
        async with client_of(app) as client:
            begun = await begin(client, confirm=True, force=force)
            await anyio.sleep(0.4)
        second = Vendor("new")
        async with client_of(await made_app(tmp_path, second)) as client:
            return len(first.embedded), len(second.embedded), await ended(client, begun.task_id)

    before, after_start, task = anyio.run(run)
    assert 0 < before < RULES
    assert after_start == 0
    answer = task["result"]["structuredContent"]
    assert (task["status"], answer["missing"], answer["space"]) == ("completed", 0, "fake/new@64")
    assert 0 < answer["embedded"] < RULES, "what was embedded before is not embedded again"


def test_an_unknown_task_and_a_client_without_the_extension_are_refused(tmp_path: Path) -> None:
    async def run() -> list[tuple[int, str]]:
        app = await made_app(tmp_path, FakeProvider())
        errors = []
        async with client_of(app) as client:
            for method, task_id in [("tasks/get", "A" * 32), ("tasks/cancel", "../../imports"), ("tasks/update", "")]:
                with pytest.raises(MCPError) as caught:
                    await ask(client, method, task_id)
                errors.append((caught.value.error.code, caught.value.error.message))
        app = await made_app(tmp_path, FakeProvider())
        async with Client(make_server(app), mode=MODERN) as client:
            with pytest.raises(MCPError) as caught:
                await ask(client, "tasks/get", "A" * 32)
            errors.append((caught.value.error.code, caught.value.error.message))
        return errors

    *unknown, undeclared = anyio.run(run)
    assert {code for code, _ in unknown} == {-32602}
    assert all(message.startswith("Task not found") for _, message in unknown)
    assert undeclared[0] == -32021


def test_a_task_is_its_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users: dict[str, tuple[str | None, ...] | None] = {"now": ("editor", "https://issuer.example", "ann")}
    monkeypatch.setattr("symmetra_mcp.task_extension._user", lambda: users["now"])

    async def run() -> tuple[list[str], dict[str, Any], dict[str, Any]]:
        app = await made_app(tmp_path, Vendor("new"), (FakeProvider("old"),))
        refused = []
        async with client_of(app) as client:
            begun = await begin(client, confirm=True)
            own = users["now"]
            for other in (("editor", "https://issuer.example", "bob"), None):
                users["now"] = other
                for method in ("tasks/get", "tasks/cancel", "tasks/update"):
                    with pytest.raises(MCPError) as caught:
                        await ask(client, method, begun.task_id, inputResponses={})
                    refused.append(caught.value.error.message)
            users["now"] = own
            return refused, await ended(client, begun.task_id), begun.model_dump()

    refused, task, begun = anyio.run(run)
    assert len(refused) == 6
    assert all(message.startswith("Task not found") for message in refused)
    assert task["status"] == "completed"
    assert "owner" not in task
    assert "owner" not in begun


def test_where_no_task_can_be_kept_the_call_follows_the_work(tmp_path: Path) -> None:
    async def run() -> Any:
        app = await made_app(tmp_path, Vendor("new", delay_s=0.02), (FakeProvider("old"),))
        tasks_folder(app).write_text("in the way", "utf-8")
        async with client_of(app) as client:
            return await begin(client, confirm=True)

    done = anyio.run(run)
    assert (done.structured_content["embedded"], done.structured_content["missing"]) == (RULES, 0)


def test_an_end_that_cannot_be_written_is_told_and_the_work_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> tuple[dict[str, Any], int]:
        new = Vendor("new", delay_s=0.02)
        app = await made_app(tmp_path, new, (FakeProvider("old"),))
        async with client_of(app) as client:
            begun = await begin(client, confirm=True, force=True)

            def full(files: TaskFiles, record: TaskRecord) -> None:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(TaskFiles, "write", full)
            task = await ended(client, begun.task_id)
            sent = len(new.embedded)
            assert await ask(client, "tasks/get", begun.task_id) == task
            await anyio.sleep(0.1)
            return task, len(new.embedded) - sent

    task, sent_again = anyio.run(run)
    assert (task["status"], sent_again) == ("completed", 0)
