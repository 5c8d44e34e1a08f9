"""The two tools that write rules: there only where `SYMMETRA_ALLOW_WRITES` says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.elicitation import AcceptedElicitation
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Elicit, ElicitationResult, Resolve
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult
from pydantic import BaseModel, Field

from symmetra_mcp import writing
from symmetra_mcp.schemas import DeletedAnswer, SavedAnswer, deleted_answer, saved_answer
from symmetra_mcp.text import deleted_text, saved_text
from symmetra_mcp.tool_making import errors_told, made_tool, tool_result
from symmetra_mcp.types import Priority
from symmetra_mcp.writing import Draft, deletable_rule

if TYPE_CHECKING:
    from symmetra_mcp.app import App
    from symmetra_mcp.upkeep import Upkeep


class DeletionConsent(BaseModel):
    """What a user answers to the question whether a rule goes."""

    go: bool = Field(title="Delete it", description="Delete the rule now")


def make_writing_tools(upkeep: Upkeep) -> list[Tool]:
    """The tools over one app, in the order that clients list them."""
    app = upkeep.app

    async def save_rule(
        title: Annotated[str, Field(description="The rule in a few words.")],
        guidance: Annotated[str, Field(description="What to do, as Markdown: one rule, not several.")],
        rule_id: Annotated[str, Field(description="Id of the rule to change; else one is made of the title.")] = "",
        rationale: Annotated[str | None, Field(description="Why.")] = None,
        category: Annotated[str | None, Field(description="Such as security.")] = None,
        priority: Annotated[Priority | None, Field(description="How much it matters.")] = None,
        tech_stack: Annotated[str | None, Field(description="Comma-separated, such as python, react.")] = None,
        globs: Annotated[
            str | None, Field(description="Comma-separated, such as src/**/*.ts: files it is about.")
        ] = None,
        project: Annotated[str, Field(description="Its project instead of the one in hand.")] = "",
        confirm: Annotated[bool, Field(description="Save it although a rule says the same.")] = False,
    ) -> Annotated[CallToolResult, SavedAnswer]:
        """Keep a rule of the team, or change one that was kept so.

        Call it when the user states a lasting rule and wants it kept; show them the rule first. You get its id and the
        nearest rule there is. Where one says the same, nothing is saved: change that one, or confirm. Rules that a file
        of the project states are changed in the file.
        """
        async with errors_told():
            await upkeep.before_search()
            draft = Draft(
                title, guidance, rule_id.strip(), rationale, category, priority, _parts(tech_stack), _parts(globs)
            )
            saved = await writing.save_rule(app, draft, project_id=project.strip(), confirm=confirm)
        answer = saved_answer(saved)
        return tool_result(answer, saved_text(answer))

    async def delete_rule(
        consent: Annotated[ElicitationResult[DeletionConsent], Resolve(_consent_to_delete)],
        rule_id: Annotated[str, Field(description="Which rule.")],
        project: Annotated[str, Field(description="Its project instead of the one in hand.")] = "",
        confirm: Annotated[bool, Field(description="The user agreed.")] = False,
    ) -> Annotated[CallToolResult, DeletedAnswer]:
        """Delete a rule that was kept by save_rule, or imported by hand.

        Call it when the user wants a rule gone. They are asked, or you get the rule: show it, and call again with
        confirm. Rules that a file of the project states are removed from the file.
        """
        del confirm  # it is the resolver's
        async with errors_told():
            rule = await deletable_rule(app, rule_id.strip(), project_id=project.strip())
            agreed = isinstance(consent, AcceptedElicitation) and consent.data.go
            if agreed:
                await app.delete_rules([rule.key])
        answer = deleted_answer(rule, deleted=agreed)
        return tool_result(answer, deleted_text(answer))

    return [
        made_tool(save_rule, "Save a rule", read_only=False, destructive=True),
        made_tool(delete_rule, "Delete a rule", read_only=False, destructive=True),
    ]


async def _consent_to_delete(
    ctx: Context[Any, Any], rule_id: str, project: str, confirm: bool
) -> DeletionConsent | Elicit[DeletionConsent]:
    """Whether a rule may go: asked where a client can ask."""
    if confirm:
        return DeletionConsent(go=True)
    app: App = ctx.request_context.lifespan_context
    async with errors_told():
        rule = await deletable_rule(app, rule_id.strip(), project_id=project.strip())
    capabilities = ctx.client_capabilities
    if capabilities is None or capabilities.elicitation is None:
        return DeletionConsent(go=False)
    return Elicit(f"Delete the rule {rule.rule_id!r} ({rule.title})? {rule.guidance[:300]}", DeletionConsent)


def _parts(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(","))
