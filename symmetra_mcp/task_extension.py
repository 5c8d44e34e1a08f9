"""MCP's Tasks extension (SEP-2663): a client that knows it gets a task for work that takes long, and asks for that.

A task begins when the work does, so a plan, a question to the user and an error before it are plain answers. What the
work asks later is told by `tasks/get` and answered by `tasks/update`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import principal_components
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver.server import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    CreateMessageResult,
    CreateMessageResultWithTools,
    ElicitResult,
    InputRequest,
    InputResponse,
    ListRootsResult,
    RequestParams,
    TextContent,
)
from mcp_types.jsonrpc import HEADER_MISMATCH
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from typing_extensions import override

from symmetra_mcp.errors import SymmetraError
from symmetra_mcp.jobs import Job, begun_in_this_call
from symmetra_mcp.reembed import ReembedReport
from symmetra_mcp.task_files import FOLDER_NAME, TaskFiles, TaskRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

    from symmetra_mcp.app import App

IDENTIFIER = "io.modelcontextprotocol/tasks"

_ANSWERS: dict[str, TypeAdapter[Any]] = {
    "elicitation/create": TypeAdapter(ElicitResult),
    "roots/list": TypeAdapter(ListRootsResult),
    "sampling/createMessage": TypeAdapter(CreateMessageResult | CreateMessageResultWithTools),
}
"""What answers a question, by its method."""

logger = logging.getLogger(__name__)


class TaskParams(RequestParams):
    """Which task."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    task_id: str


class TaskUpdateParams(TaskParams):
    """Answers to what a task asked."""

    input_responses: dict[str, Any] = Field(default_factory=dict)


class Tasks(Extension):
    """Tasks of the re-embeddings that calls of this server begin."""

    identifier = IDENTIFIER

    def __init__(self, app: App, answer: Callable[[ReembedReport], CallToolResult]) -> None:
        """Serve tasks.

        Args:
            app: Where the work is done.
            answer: A finished piece of work as its tool answers it.
        """
        self._app = app
        self._answer = answer
        self._files = TaskFiles(app.settings.data_folder / FOLDER_NAME)
        self._jobs: dict[str, Job] = {}
        self._unwritten: dict[str, TaskRecord] = {}

    @override
    def methods(self) -> list[MethodBinding]:
        versions = frozenset(MODERN_PROTOCOL_VERSIONS)
        return [
            MethodBinding("tasks/get", TaskParams, self._get, versions),
            MethodBinding("tasks/update", TaskUpdateParams, self._update, versions),
            MethodBinding("tasks/cancel", TaskParams, self._cancel, versions),
        ]

    @override
    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        capabilities = ctx.session.client_capabilities
        declared = capabilities.extensions if capabilities is not None else None
        if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS or not declared or IDENTIFIER not in declared:
            return await call_next(ctx)
        begun: list[Job] = []
        token = begun_in_this_call.set(begun)
        try:
            answer = await call_next(ctx)
        finally:
            begun_in_this_call.reset(token)
        if not begun:
            return answer
        record = TaskRecord(force=begun[0].force, owner=_user(), status_message=str(begun[0].running))
        try:
            await to_thread.run_sync(self._files.write, record)  # a task that is told must outlive this process
        except OSError as exc:
            logger.warning("no task can be kept in the data folder, so the call itself follows the work: %s", exc)
            return await call_next(ctx)  # joins what it began
        self._follow(record, begun[0])
        return {"resultType": "task", **record.wire()}

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> dict[str, Any]:
        record = await self._record(ctx, params)
        if record.status != "working":
            return record.wire()
        job = self._jobs.get(record.task_id)
        if job is None:  # its server has ended: what is embedded is kept, and the user agreed to the rest
            try:
                job = await self._app.begin_reembedding(force=record.force)
            except SymmetraError as exc:
                return record.changed(status_message=f"Can't go on just now: {exc}").wire()
            self._follow(record, job)
        questions = job.questions.open
        if questions:
            requests = {key: _wire(request) for key, request in questions.items()}
            return record.changed(status="input_required", input_requests=requests).wire()
        return record.changed(status_message=str(job.running)).wire()

    async def _update(self, ctx: ServerRequestContext[Any, Any], params: TaskUpdateParams) -> dict[str, Any]:
        record = await self._record(ctx, params)
        job = self._jobs.get(record.task_id)
        if job is not None:
            job.questions.answer(_answers(job.questions.open, params.input_responses))
        return {}

    async def _cancel(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> dict[str, Any]:
        record = await self._record(ctx, params)
        if record.status == "working":
            cancelled = record.changed(status="cancelled", status_message="Cancelled; what is embedded is kept.")
            self._unwritten[record.task_id] = cancelled  # whoever asks meanwhile would begin the work again
            job = self._jobs.pop(record.task_id, None)
            if job is not None:
                job.give_up()
            await self._keep(cancelled)
        return {}

    async def _record(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> TaskRecord:
        """The task that a request names.

        Raises:
            MCPError: The client did not declare the extension, or there is no such task.
        """
        require_client_extension(ctx, IDENTIFIER)
        headers = getattr(ctx.request, "headers", None)
        named = headers.get(MCP_NAME_HEADER) if headers is not None else None
        if named is not None and decode_header_value(named) != params.task_id:
            raise MCPError(code=HEADER_MISMATCH, message="the Mcp-Name header names another task than params.taskId")
        record = self._unwritten.get(params.task_id) or await to_thread.run_sync(self._files.read, params.task_id)
        if record is None or record.owner != _user():
            raise MCPError(
                code=INVALID_PARAMS, message="Task not found: it never was, or its time is over. Call the tool again"
            )
        return record

    def _follow(self, record: TaskRecord, job: Job) -> None:
        if record.task_id in self._jobs:
            return
        job.hold()
        self._jobs[record.task_id] = job
        self._app.jobs.run_beside(self._finish, record, job)

    async def _finish(self, record: TaskRecord, job: Job) -> None:
        """Keep what a job comes to. One that ends with the server stays at work: whoever asks next goes on with it."""
        await job.finished()
        ended = self._ended(record, job)
        if self._jobs.get(record.task_id) is not job or ended is None:
            return  # cancelled, or the server ends
        await self._keep(ended)
        self._jobs.pop(record.task_id, None)  # only now: until its end can be read, it must look as if it went on
        self._app.jobs.heard(job)

    def _ended(self, record: TaskRecord, job: Job) -> TaskRecord | None:
        try:
            report = job.report()
        except SymmetraError as exc:  # as the tool answers it: the call was sound, the work failed
            result = CallToolResult(content=[TextContent(type="text", text=str(exc))], is_error=True)
        except Exception:  # logged where it was met
            error = {"code": INTERNAL_ERROR, "message": "Internal error"}
            return record.changed(status="failed", error=error, status_message="Internal error")
        else:
            if report is None:
                return record.changed(status="cancelled", status_message="Cancelled.") if job.cancelled else None
            result = self._answer(report)
        wire = _wire(result)
        wire.pop("resultType", None)
        return record.changed(status="completed", result=wire, status_message=None)

    async def _keep(self, record: TaskRecord) -> None:
        try:
            await to_thread.run_sync(self._files.write, record)
            self._unwritten.pop(record.task_id, None)
        except OSError as exc:
            self._unwritten[record.task_id] = record  # else whoever asks would have the work done again
            logger.warning("the end of a task is kept in memory alone: %s", exc)


def _user() -> tuple[str | None, ...] | None:
    """Whose token the present request has; `None` where none is asked for."""
    token = get_access_token()
    return None if token is None else principal_components(token)


def _wire(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def _answers(questions: Mapping[str, InputRequest], responses: Mapping[str, Any]) -> dict[str, InputResponse]:
    """Answers to what is asked; what nobody asks, or asks no more, is passed over.

    Raises:
        MCPError: One is no answer to its question.
    """
    try:
        return {
            key: _ANSWERS[request.method].validate_python(responses[key])
            for key, request in questions.items()
            if key in responses
        }
    except ValidationError as exc:
        raise MCPError(
            code=INVALID_PARAMS, message=f"no answer to what the task asks: {exc.errors()[0]['msg']}"
        ) from None
