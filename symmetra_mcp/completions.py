"""What a client offers while somebody types an argument: projects, ids of rules, categories."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from symmetra_mcp.errors import SymmetraError

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

    from symmetra_mcp.app import App

RULE_ADDRESS = "rule://{project_id}/{rule_id}"
REVIEW_PROMPT = "review_code"
MOST_VALUES = 100
"""The protocol's limit."""


def add_completions(server: MCPServer[App], app: App) -> None:
    """Answer `completion/complete` from the rules that are stored."""

    async def complete(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        known = (context.arguments if context is not None else None) or {}
        values: set[str] = set()
        try:
            if isinstance(ref, ResourceTemplateReference) and ref.uri == RULE_ADDRESS:
                values = await _of_address(app, argument.name, known)
            elif isinstance(ref, PromptReference) and ref.name == REVIEW_PROMPT:
                values = await _of_review(app, argument.name)
            else:
                _check_there_is(ref, server)  # then it has arguments that nobody can complete
        except SymmetraError as exc:
            raise MCPError(code=INTERNAL_ERROR, message=str(exc)) from None
        return _completion(values, argument.value)

    server.completion()(complete)  # type: ignore[no-untyped-call]  # the SDK's decorator has no types


def _check_there_is(ref: PromptReference | ResourceTemplateReference, server: MCPServer[App]) -> None:
    """Refuse what the server does not list.

    Raises:
        MCPError: It is no prompt and no template of the server.
    """
    if isinstance(ref, ResourceTemplateReference):
        what, there_are = ref.uri, [each.uri_template for each in server._resource_manager.list_templates()]
    else:
        what, there_are = ref.name, [each.name for each in server._prompt_manager.list_prompts()]
    if what not in there_are:
        problem = f"nothing to complete for {what[:80]!r}. There are: {', '.join(there_are)}"
        raise MCPError(code=INVALID_PARAMS, message=problem)


async def _of_address(app: App, name: str, known: dict[str, str]) -> set[str]:
    if name == "project_id":
        return set(await app.count_rules())
    if name == "rule_id":
        return {rule.rule_id for rule in await app.list_rules(known.get("project_id") or None)}
    return set()


async def _of_review(app: App, name: str) -> set[str]:
    if name == "category":
        return {rule.category for rule in await app.list_rules() if rule.category}
    return set()


def _completion(values: Iterable[str], typed: str) -> Completion:
    """Values that hold what was typed, those that begin with it first."""
    wanted = typed.casefold().strip()
    fitting = [value for value in values if wanted in value.casefold()]
    fitting.sort(key=lambda value: (not value.casefold().startswith(wanted), value.casefold(), value))
    return Completion(values=fitting[:MOST_VALUES], total=len(fitting), has_more=len(fitting) > MOST_VALUES)
