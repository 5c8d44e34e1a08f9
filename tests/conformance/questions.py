"""Tools that ask the client something: in its session before 2026-07-28, by an answer that wants another call since."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from content import result, tool
from mcp.server.elicitation import AcceptedElicitation, ElicitationResult
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.prompts.base import Message, UserMessage
from mcp.server.mcpserver.resolve import Elicit, ListRoots, Resolve, Sample
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolResult,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)
from pydantic import BaseModel, Field

from symmetra_mcp.app import App


class Name(BaseModel):
    """What a user is asked for."""

    name: str


class Color(BaseModel):
    """What a user is asked for."""

    color: str


class Yes(BaseModel):
    """What a user is asked for."""

    ok: bool


class Person(BaseModel):
    """What a user is asked for."""

    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


class Defaults(BaseModel):
    """A form with a default of each type."""

    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: Annotated[str, Field(json_schema_extra={"enum": ["active", "inactive", "pending"]})] = "active"
    verified: bool = True


_OPTIONS = ["option1", "option2", "option3"]
_TITLED = [{"const": f"value{n}", "title": f"Choice {n}"} for n in (1, 2, 3)]


class Choices(BaseModel):
    """A form with a choice of each kind."""

    untitledSingle: Annotated[str, Field(json_schema_extra={"enum": _OPTIONS})]
    titledSingle: Annotated[str, Field(json_schema_extra={"oneOf": _TITLED})]
    legacyEnum: Annotated[
        str, Field(json_schema_extra={"enum": ["opt1", "opt2"], "enumNames": ["Option 1", "Option 2"]})
    ]
    untitledMulti: Annotated[list[str], Field(json_schema_extra={"items": {"type": "string", "enum": _OPTIONS}})]
    titledMulti: Annotated[list[str], Field(json_schema_extra={"items": {"anyOf": _TITLED}})]


def message_of(text: str) -> SamplingMessage:
    return SamplingMessage(role="user", content=TextContent(type="text", text=text))


def form(message: str, field: str, kind: Literal["string", "boolean"] = "string") -> ElicitRequest:
    schema = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def sampling(text: str, tokens: int) -> CreateMessageRequest:
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message_of(text)], max_tokens=tokens))


def _asked(**requests: InputRequest) -> InputRequiredResult:
    return InputRequiredResult(input_requests=requests)


def questioning_tools() -> list[Tool]:
    """Tools of 2026-07-28 that name their questions themselves, or keep a state between two calls."""

    async def test_input_required_result_elicitation(ctx: Context[Any, Any]) -> CallToolResult | InputRequiredResult:
        """Ask for a name."""
        answer = (ctx.input_responses or {}).get("user_name")
        if not isinstance(answer, ElicitResult) or not answer.content:
            return _asked(user_name=form("What is your name?", "name"))
        return result(f"Hello, {answer.content['name']}!")

    async def test_input_required_result_sampling(ctx: Context[Any, Any]) -> CallToolResult | InputRequiredResult:
        """Ask the client's model."""
        answer = (ctx.input_responses or {}).get("capital_question")
        if not isinstance(answer, CreateMessageResult):
            return _asked(capital_question=sampling("What is the capital of France?", 100))
        return result(str(answer.content))

    async def test_input_required_result_list_roots(ctx: Context[Any, Any]) -> CallToolResult | InputRequiredResult:
        """Ask for the client's folders."""
        answer = (ctx.input_responses or {}).get("client_roots")
        if not isinstance(answer, ListRootsResult):
            return _asked(client_roots=ListRootsRequest())
        return result(" ".join(str(root.uri) for root in answer.roots))

    async def test_input_required_result_capabilities(ctx: Context[Any, Any]) -> InputRequiredResult:
        """Ask only for what the client has declared."""
        declared = ctx.client_capabilities
        requests: dict[str, InputRequest] = {}
        if declared is not None and declared.sampling is not None:
            requests["model"] = sampling("Say a word.", 10)
        if declared is not None and declared.elicitation is not None:
            requests["user"] = form("What is your name?", "name")
        return _asked(**requests)

    async def test_input_required_result_request_state(ok: Annotated[Yes, Resolve(ask_yes)]) -> CallToolResult:
        """Ask, and know the state again."""
        return result(f"state-ok: {ok.ok}")

    async def test_input_required_result_tampered_state(ok: Annotated[Yes, Resolve(ask_yes)]) -> CallToolResult:
        """Ask, and refuse a state that was changed."""
        return result(f"state-ok: {ok.ok}")

    async def test_streaming_elicitation(ok: Annotated[Yes, Resolve(ask_yes)]) -> CallToolResult:
        """Ask by the answer, never by a request of its own in the stream."""
        return result(str(ok.ok))

    async def test_input_required_result_multiple_inputs(
        name: Annotated[Name, Resolve(ask_name)],
        greeting: Annotated[CreateMessageResult, Resolve(ask_greeting)],
        roots: Annotated[ListRootsResult, Resolve(ask_roots)],
    ) -> CallToolResult:
        """Ask three things at once."""
        return result(f"{name.name}, {greeting.content}, {len(roots.roots)}")

    async def test_input_required_result_multi_round(color: Annotated[Color, Resolve(ask_color)]) -> CallToolResult:
        """Ask one thing after another."""
        return result(color.color)

    functions = (
        test_input_required_result_elicitation,
        test_input_required_result_sampling,
        test_input_required_result_list_roots,
        test_input_required_result_capabilities,
        test_input_required_result_request_state,
        test_input_required_result_tampered_state,
        test_streaming_elicitation,
        test_input_required_result_multiple_inputs,
        test_input_required_result_multi_round,
    )
    return list(map(tool, functions))


def ask_yes() -> Elicit[Yes]:
    return Elicit("Please confirm", Yes)


def ask_name() -> Elicit[Name]:
    return Elicit("What is your name?", Name)


def ask_color(name: Annotated[Name, Resolve(ask_name)]) -> Elicit[Color]:
    return Elicit(f"What is {name.name}'s favorite color?", Color)


def ask_greeting() -> Sample:
    return Sample([message_of("Generate a greeting")], max_tokens=50)


def ask_roots() -> ListRoots:
    return ListRoots()


def ask_capital(prompt: str = "Say a word.") -> Sample:
    return Sample([message_of(prompt)], max_tokens=100)


def ask_person(message: str) -> Elicit[Person]:
    return Elicit(message, Person)


def ask_defaults() -> Elicit[Defaults]:
    return Elicit("Please look through the form", Defaults)


def ask_choices() -> Elicit[Choices]:
    return Elicit("Please choose", Choices)


def _told(answer: ElicitationResult[Any]) -> CallToolResult:
    content = answer.data.model_dump_json() if isinstance(answer, AcceptedElicitation) else "{}"
    return result(f"Elicitation completed: action={answer.action}, content={content}")


def asking_tools() -> list[Tool]:
    """Tools that ask in the session, as versions before 2026-07-28 do."""

    async def test_sampling(
        prompt: str, answer: Annotated[CreateMessageResult, Resolve(ask_capital)]
    ) -> CallToolResult:
        """Ask the client's model."""
        return result(f"LLM response: {answer.content}")

    async def test_missing_capability(answer: Annotated[CreateMessageResult, Resolve(ask_greeting)]) -> CallToolResult:
        """Need the client's model."""
        return result(str(answer.content))

    async def test_elicitation(
        message: str, answer: Annotated[ElicitationResult[Person], Resolve(ask_person)]
    ) -> CallToolResult:
        """Ask the user."""
        return _told(answer)

    async def test_elicitation_sep1034_defaults(
        answer: Annotated[ElicitationResult[Defaults], Resolve(ask_defaults)],
    ) -> CallToolResult:
        """Ask the user by a form with defaults."""
        return _told(answer)

    async def test_elicitation_sep1330_enums(
        answer: Annotated[ElicitationResult[Choices], Resolve(ask_choices)],
    ) -> CallToolResult:
        """Ask the user by a form with choices."""
        return _told(answer)

    functions = (
        test_sampling,
        test_missing_capability,
        test_elicitation,
        test_elicitation_sep1034_defaults,
        test_elicitation_sep1330_enums,
    )
    return list(map(tool, functions))


def add_questioning_prompt(server: MCPServer[App]) -> None:
    @server.prompt()
    def test_input_required_result_prompt(ctx: Context[Any, Any]) -> list[Message] | InputRequiredResult:
        """Ask what the prompt is about."""
        answer = (ctx.input_responses or {}).get("user_context")
        if answer is None:
            return _asked(user_context=form("What context should the prompt use?", "context"))
        if not isinstance(answer, ElicitResult) or not answer.content:
            raise MCPError(code=INVALID_PARAMS, message="user_context is no accepted form")
        return [UserMessage(f"Use this: {answer.content['context']}")]
