"""Rules as resources: every one that a search counts in a list of pages, and each whole under its address."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver import ResourceSecurity
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, ListResourcesResult, PaginatedRequestParams, Resource

from symmetra_mcp.completions import RULE_ADDRESS
from symmetra_mcp.errors import RuleNotFoundError, SymmetraError
from symmetra_mcp.schemas import rule_markdown
from symmetra_mcp.text import rule_uri
from symmetra_mcp.types import Rule, RuleKey

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext
    from mcp.server.mcpserver import MCPServer

    from symmetra_mcp.app import App
    from symmetra_mcp.upkeep import Upkeep

PAGE_RULES = 100
_MIME_TYPE = "text/markdown"
_LONGEST_TITLE = 200
_CHECK_CHARACTERS = 8


def add_rule_resources(server: MCPServer[App], upkeep: Upkeep) -> None:
    """Answer `resources/list` and `resources/read` from the rules that are stored."""
    app = upkeep.app

    @server.resource(
        RULE_ADDRESS,
        title="One rule",
        mime_type=_MIME_TYPE,
        description="A whole rule: guidance, rationale, where it applies, where it is written.",
        security=ResourceSecurity(exempt_params={"project_id", "rule_id"}),  # keys of the store, no paths of files
    )
    async def rule(project_id: str, rule_id: str) -> str:
        try:
            await app.ready()
            found = await app.store.get_rule(RuleKey(project_id, rule_id))
        except RuleNotFoundError as exc:
            raise ResourceNotFoundError(str(exc)) from None
        except SymmetraError as exc:
            raise ResourceError(str(exc)) from None
        return rule_markdown(found)

    async def list_rules(
        ctx: ServerRequestContext[App, Any], params: PaginatedRequestParams | None
    ) -> ListResourcesResult:
        del ctx
        cursor = params.cursor if params is not None else None
        after = _key_of(cursor) if cursor else None
        try:
            await upkeep.keep_in_step()
            found = await app.page_of_rules(after, PAGE_RULES + 1)
        except SymmetraError as exc:
            raise MCPError(code=INTERNAL_ERROR, message=str(exc)) from None
        page = found[:PAGE_RULES]
        following = _cursor_of(page[-1].key) if len(found) > PAGE_RULES else None
        return ListResourcesResult(resources=[*filter(None, map(listed, page))], next_cursor=following)

    # The SDK's own handler knows neither pages nor resources that come and go.
    server._lowlevel_server.add_request_handler("resources/list", PaginatedRequestParams, list_rules)


def listed(rule: Rule) -> Resource | None:
    """A rule as the list shows it; `None` for the few that no address can name."""
    uri = rule_uri(*rule.key)
    if not uri:
        return None
    facts = [rule.category, f"priority {rule.priority}"]
    return Resource(
        uri=uri,
        name=rule.rule_id,
        title=_cut(rule.title),
        description=_cut(", ".join(fact for fact in facts if fact)),
        mime_type=_MIME_TYPE,
    )


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_TITLE else line[: _LONGEST_TITLE - 1].rstrip() + "…"


def _cursor_of(key: RuleKey) -> str:
    """Where the next page begins, for a client to send back. By key: rules that come and go shift nothing."""
    place = json.dumps(key)
    return base64.urlsafe_b64encode((_check_of(place) + place).encode()).decode().rstrip("=")


def _key_of(cursor: str) -> RuleKey:
    """The key that a cursor names.

    Raises:
        MCPError: It is no cursor of this list.
    """
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        check, place = text[:_CHECK_CHARACTERS], text[_CHECK_CHARACTERS:]
        if check == _check_of(place):
            return RuleKey(*json.loads(place))
    except (binascii.Error, ValueError):
        pass
    raise MCPError(
        code=INVALID_PARAMS, message="unknown cursor: send the nextCursor of resources/list as it was, or none to begin"
    )


def _check_of(place: str) -> str:
    """Tells our cursors from those of other lists and servers; it keeps no secret."""
    return hashlib.sha256(f"resources/list {place}".encode()).hexdigest()[:_CHECK_CHARACTERS]
