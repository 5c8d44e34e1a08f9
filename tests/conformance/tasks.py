"""Tools whose work is a task where the client knows tasks: our server's own jobs, with little to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import anyio
from content import result, tool
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp.server.mcpserver.server import require_client_extension
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult
from pydantic import BaseModel
from questions import form

from symmetra_mcp.app import App
from symmetra_mcp.errors import SymmetraError
from symmetra_mcp.job_questions import JobQuestions
from symmetra_mcp.jobs import Job, begun_in_this_call
from symmetra_mcp.reembed import ReembedReport
from symmetra_mcp.spaces import EmbeddingSpace
from symmetra_mcp.task_extension import IDENTIFIER
from symmetra_mcp.tools import reembed_result


class Name(BaseModel):
    """What a user is asked for."""

    name: str


def _ask_name() -> Elicit[Name]:
    return Elicit("What is your name?", Name)


def report_on(name: str) -> ReembedReport:
    """What a job comes to: our server's jobs are re-embeddings, so the name stands where a model's would."""
    return ReembedReport(EmbeddingSpace("test", name, 1), 0, 0, 0)


def task_tools(app: App) -> list[Tool]:
    async def done(work: Callable[[JobQuestions], Awaitable[ReembedReport]]) -> CallToolResult:
        """Begin work as `reembed_all` does: a client that knows tasks gets one, another waits for the answer."""
        job = Job("test", force=False)
        begun = begun_in_this_call.get()
        if begun is None:
            return reembed_result(await work(job.questions))
        app.jobs.run_beside(job.run, lambda *_: work(job.questions))
        begun.append(job)
        return result("begun")

    async def greet(name: str) -> CallToolResult:
        """Greet."""
        return result(f"Hello, {name}!")

    async def slow_compute(seconds: float = 0, label: str = "none") -> CallToolResult:
        """Take time."""

        async def work(_: JobQuestions) -> ReembedReport:
            await anyio.sleep(seconds)
            return report_on(label)

        return await done(work)

    async def failing_job(ctx: Context[Any, Any]) -> CallToolResult:
        """Fail after a while, as a task only."""

        async def work(_: JobQuestions) -> ReembedReport:
            await anyio.sleep(1)
            raise SymmetraError("it failed")

        require_client_extension(ctx.request_context, IDENTIFIER)
        return await done(work)

    async def protocol_error_job() -> CallToolResult:
        """Meet a bug."""

        async def work(_: JobQuestions) -> ReembedReport:
            raise RuntimeError("a bug")

        return await done(work)

    async def test_tool_with_task(
        ctx: Context[Any, Any], user_name: Annotated[Name, Resolve(_ask_name)]
    ) -> CallToolResult:
        """Ask, then work as a task."""

        async def work(_: JobQuestions) -> ReembedReport:
            await anyio.sleep(0.3)
            return report_on(user_name.name)

        require_client_extension(ctx.request_context, IDENTIFIER)
        return await done(work)

    async def confirm_delete(ctx: Context[Any, Any], filename: str = "it") -> CallToolResult:
        """Ask while the task runs."""

        async def work(questions: JobQuestions) -> ReembedReport:
            return report_on(str(await questions.ask(form(f"Delete {filename}?", "confirm", "boolean"))))

        require_client_extension(ctx.request_context, IDENTIFIER)
        return await done(work)

    async def multi_input(ctx: Context[Any, Any]) -> CallToolResult:
        """Ask two things at a time while the task runs."""

        async def work(questions: JobQuestions) -> ReembedReport:
            async with anyio.create_task_group() as asking:
                for name in ("first", "second"):
                    asking.start_soon(questions.ask, form(f"What is the {name} name?", "name"))
            return report_on("both")

        require_client_extension(ctx.request_context, IDENTIFIER)
        return await done(work)

    functions = (greet, slow_compute, failing_job, protocol_error_job, test_tool_with_task, confirm_delete, multi_input)
    return list(map(tool, functions))
