"""Requests for what there is not, refused as the specification wants it: with -32602, in one sentence.

The SDK answers an unknown tool as if it had run and failed, wrong arguments of a prompt as if it were broken, and an
unknown cursor with the first page again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

from symmetra_mcp.errors import LONGEST_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
    from mcp.server.mcpserver.prompts.base import Prompt
    from mcp.server.mcpserver.tools import Tool

_ONE_PAGE = ("tools/list", "prompts/list", "resources/templates/list")


def refuse_unknown(
    tools: Callable[[], Sequence[Tool]], prompts: Callable[[], Sequence[Prompt]]
) -> ServerMiddleware[Any]:
    """The check of every request, as the SDK's middleware.

    Args:
        tools: Gives the tools that there are.
        prompts: Gives the prompts that there are.
    """

    async def check(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        params = ctx.params or {}
        if ctx.request_id is None:  # a notification has no answer
            return await call_next(ctx)
        if ctx.method == "tools/call":
            _check_name("tool", params, [tool.name for tool in tools()])
        if ctx.method == "prompts/get":
            _check_name("prompt", params, [prompt.name for prompt in prompts()])
            _check_arguments(params, prompts())
        if ctx.method in _ONE_PAGE and isinstance(params.get("cursor"), str):
            _check_cursor(ctx.method, params["cursor"])
        return await call_next(ctx)

    return check


def _check_name(kind: str, params: Mapping[str, Any], known: Sequence[str]) -> None:
    asked = params.get("name")
    if isinstance(asked, str) and asked not in known:
        problem = f"Unknown {kind}: {asked[:LONGEST_NAME]!r}. There are: {', '.join(known)}"
        raise MCPError(code=INVALID_PARAMS, message=problem)


def _check_cursor(method: str, cursor: str) -> None:
    if cursor:  # some clients send an empty one to begin
        raise MCPError(code=INVALID_PARAMS, message=f"unknown cursor: {method} has one page, ask for it without one")


def _check_arguments(params: Mapping[str, Any], prompts: Sequence[Prompt]) -> None:
    name, given = params.get("name"), params.get("arguments")
    arguments = next((prompt.arguments or [] for prompt in prompts if prompt.name == name), [])
    if given is not None and not isinstance(given, Mapping):
        return  # the SDK says so
    taken = ", ".join(argument.name for argument in arguments)
    for argument in arguments:
        if argument.required and argument.name not in (given or {}):
            raise MCPError(
                code=INVALID_PARAMS, message=f"{name} needs the argument {argument.name!r}; it takes {taken}"
            )
    unknown = sorted(set(given or {}) - {argument.name for argument in arguments})
    if unknown:
        names = ", ".join(repr(name[:LONGEST_NAME]) for name in unknown)
        raise MCPError(code=INVALID_PARAMS, message=f"unknown argument {names}: {name} takes {taken}")
