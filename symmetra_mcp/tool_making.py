"""How every MCP tool is made: lean schemas, plain sentences for wrong arguments, answers as text and as structure.

Clients differ in what they show a model: some the text, some the structured content. So each carries every fact, and
both stay small.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import ValidationError
from typing_extensions import override

from symmetra_mcp.errors import LONGEST_NAME, SymmetraError
from symmetra_mcp.schemas import Answer
from symmetra_mcp.text import unwrapped

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


_NAMES_TOLD = 5


class PlainTool(Tool):
    """A tool that tells what is wrong with its arguments in plain sentences."""

    @override
    async def run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False) -> Any:
        unknown = sorted(set(arguments) - set(self.parameters["properties"]))
        if unknown:
            known = ", ".join(self.parameters["properties"])
            told = ", ".join(repr(name[:LONGEST_NAME]) for name in unknown[:_NAMES_TOLD])
            raise ToolError(f"unknown argument {told}: {self.name} takes {known}")
        try:
            return await super().run(arguments, context, convert_result)
        except ToolError as exc:
            if isinstance(exc.__cause__, ValidationError):
                raise ToolError("; ".join(_plainly(error) for error in exc.__cause__.errors())) from None
            raise


def _plainly(error: ErrorDetails) -> str:
    name = ".".join(map(str, error["loc"]))
    problem = error["msg"][0].lower() + error["msg"][1:]
    value = "" if error["type"] == "missing" else f", got {str(error['input'])[:60]!r}"
    return f"{name}: {problem}{value}"


def made_tool(
    function: Callable[..., Any],
    title: str,
    *,
    read_only: bool,
    destructive: bool = False,
    every_field: bool = True,
    meta: dict[str, Any] | None = None,
) -> Tool:
    """A tool of a function.

    Args:
        function: Its documentation is the tool's description.
        title: For people.
        read_only: Whether it changes nothing.
        destructive: Whether it may take away what is there.
        every_field: Whether its output schema has the fields too that answers may leave out.
        meta: What clients of certain vendors look for.
    """
    tool = PlainTool.from_function(
        function,
        title=title,
        description=unwrapped(function.__doc__ or ""),
        annotations=ToolAnnotations(
            read_only_hint=read_only,
            destructive_hint=destructive,
            idempotent_hint=True,
            open_world_hint=False,
        ),
        meta=meta,
    )
    tool.parameters = lean_schema(tool.parameters)
    if tool.fn_metadata.output_schema is not None:
        schema = bare_schema(lean_schema(tool.fn_metadata.output_schema))
        if not every_field:
            schema["properties"] = {name: schema["properties"][name] for name in schema["required"]}
        tool.fn_metadata.output_schema = schema
    return tool


def lean_schema(schema: Any, *, names: bool = False) -> Any:
    """A JSON schema without generated titles and null branches: clients pay for each byte, and some refuse the latter.

    Args:
        schema: Any part of a schema.
        names: The part maps names to schemas, so a key `title` is a name.
    """
    if isinstance(schema, list):
        return [lean_schema(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    lean = {
        key: lean_schema(value, names=key in ("properties", "$defs"))
        for key, value in schema.items()
        if names or key != "title" or not isinstance(value, str)
    }
    choices = lean.get("anyOf")
    if not names and isinstance(choices, list) and {"type": "null"} in choices and len(choices) == 2:
        del lean["anyOf"]
        lean.update(next(choice for choice in choices if choice != {"type": "null"}))
        if lean.get("default", 0) is None:
            del lean["default"]
    if not names and isinstance(lean.get("description"), str):
        lean["description"] = unwrapped(lean["description"])
    return lean


def bare_schema(schema: Any, *, names: bool = False, parts: dict[str, Any] | None = None) -> Any:
    """A schema of an answer as a model needs it: no descriptions, no defaults, of a part only what it always holds.

    Args:
        schema: Any part of a schema.
        names: The part maps names to schemas.
        parts: What `$ref` refers to.
    """
    if isinstance(schema, list):
        return [bare_schema(part, parts=parts) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = schema.get("$defs", parts)
    if "$ref" in schema and parts is not None:
        part = parts[schema["$ref"].rpartition("/")[2]]
        return {"type": "object", "required": part["required"]}
    return {
        key: bare_schema(value, names=key == "properties", parts=parts)
        for key, value in schema.items()
        if names or key not in ("$defs", "description", "default")
    }


def tool_result(answer: Answer, text: str) -> CallToolResult:
    """An answer in both its forms."""
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=answer.to_dict())


@asynccontextmanager
async def errors_told() -> AsyncIterator[None]:
    """Our errors as texts for the model: each says what to do next, none holds a secret."""
    try:
        yield
    except SymmetraError as exc:
        raise ToolError(str(exc)) from None
