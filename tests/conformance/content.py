"""Tools that the conformance suite calls: each kind of content, an error, progress, and odd schemas."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp_types import (
    AudioContent,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    TextContent,
    TextResourceContents,
)
from pydantic import Field

from symmetra_mcp.tool_making import made_tool

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""One pixel."""
WAV = b"RIFF\x26\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\x02\0\0\0\0\0"
"""One sample of silence."""
WIDE_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def tool(function: Any) -> Tool:
    """A tool made as ours are: an argument that it does not take is refused."""
    return made_tool(function, function.__name__, read_only=True)


def result(*content: ContentBlock | str) -> CallToolResult:
    parts = [TextContent(type="text", text=part) if isinstance(part, str) else part for part in content]
    return CallToolResult(content=parts)


def picture() -> ImageContent:
    return ImageContent(type="image", data=base64.b64encode(PNG).decode(), mime_type="image/png")


def embedded(uri: str, mime_type: str, text: str) -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


def plain_tools() -> list[Tool]:
    """Tools that need neither the client nor a task."""

    async def test_simple_text() -> CallToolResult:
        """Text."""
        return result("This is a simple text response for testing.")

    async def test_image_content() -> CallToolResult:
        """A picture."""
        return result(picture())

    async def test_audio_content() -> CallToolResult:
        """A sound."""
        return result(AudioContent(type="audio", data=base64.b64encode(WAV).decode(), mime_type="audio/wav"))

    async def test_embedded_resource() -> CallToolResult:
        """A resource."""
        return result(embedded("test://embedded-resource", "text/plain", "This is an embedded resource content."))

    async def test_multiple_content_types() -> CallToolResult:
        """Text, a picture and a resource."""
        data = embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
        return result("Multiple content types test:", picture(), data)

    async def test_error_handling() -> CallToolResult:
        """Fail."""
        raise ToolError("This tool intentionally returns an error for testing")

    async def test_tool_with_progress(ctx: Context[Any, Any]) -> CallToolResult:
        """Report progress."""
        for done in (0, 50, 100):
            await ctx.report_progress(done, 100, f"{done} of 100")
            await anyio.sleep(0.05)
        return result("done")

    async def test_tool_with_logging(ctx: Context[Any, Any]) -> CallToolResult:
        """Log to the client, as versions before 2026-07-28 could."""
        for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            await ctx.session.send_log_message(level="info", data=message, related_request_id=ctx.request_id)
            await anyio.sleep(0.05)
        return result("logged")

    async def test_logging_tool(ctx: Context[Any, Any]) -> CallToolResult:
        """Log to a client that did not ask for it, which hears nothing."""
        await ctx.session.send_log_message(level="info", data="unasked", related_request_id=ctx.request_id)
        return result("logged")

    async def test_trigger_tool_change(ctx: Context[Any, Any]) -> CallToolResult:
        """Say that the tools have changed."""
        await ctx.notify_tools_changed()
        return result("told")

    async def test_trigger_prompt_change(ctx: Context[Any, Any]) -> CallToolResult:
        """Say that the prompts have changed."""
        await ctx.notify_prompts_changed()
        return result("told")

    async def test_header_mirror(
        region: Annotated[str, Field(description="Mirrored.", json_schema_extra={"x-mcp-header": "Region"})],
    ) -> CallToolResult:
        """Take an argument that a header repeats."""
        return result(region)

    async def json_schema_2020_12_tool() -> CallToolResult:
        """Tool with JSON Schema 2020-12 features."""
        return result("ok")

    wide = tool(json_schema_2020_12_tool)
    wide.parameters = WIDE_SCHEMA
    functions = (
        test_simple_text,
        test_image_content,
        test_audio_content,
        test_embedded_resource,
        test_multiple_content_types,
        test_error_handling,
        test_tool_with_progress,
        test_tool_with_logging,
        test_logging_tool,
        test_trigger_tool_change,
        test_trigger_prompt_change,
        test_header_mirror,
    )
    return [*map(tool, functions), wide]
