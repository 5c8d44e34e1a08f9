"""Tools that write rules, and settings that take tools away: through the SDK's own client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequestParams, ElicitResult

from symmetra_mcp.app import App
from symmetra_mcp.config import load_settings
from symmetra_mcp.errors import ConfigError, ProviderUnavailableError
from symmetra_mcp.providers.select import ProviderChoice
from symmetra_mcp.server import make_server
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import RuleKey

CENTS = {"title": "Money in cents", "guidance": "Keep amounts of money as integer cents."}


def app_in(folder: Path, **given: Any) -> App:
    """An app over a project with one rule in a file."""
    (folder / ".git").mkdir(exist_ok=True)
    (folder / "CLAUDE.md").write_text("# Time\n\n- Always store times in UTC.\n", "utf-8")
    settings = load_settings(
        project_dir=folder,
        project="shop",
        starter_rules=False,
        data_dir=folder / "data",
        **{"allow_writes": True} | given,
    )
    return App(settings, SqliteStore(settings.data_folder), ProviderChoice(FakeProvider()))


async def called(client: Client, name: str, **arguments: Any) -> tuple[dict[str, Any], str]:
    result = await client.call_tool(name, arguments)
    assert not result.is_error, result.content
    return result.structured_content or {}, result.content[0].text  # type: ignore[union-attr]


async def refused(client: Client, name: str, **arguments: Any) -> str:
    result = await client.call_tool(name, arguments)
    assert result.is_error
    return str(result.content[0].text)  # type: ignore[union-attr]


async def tools_of(app: App) -> list[str]:
    async with Client(make_server(app)) as client:
        return [tool.name for tool in (await client.list_tools()).tools]


def test_a_saved_rule_is_found_changed_and_stays_when_files_are_read_again(tmp_path: Path) -> None:
    async def run() -> None:
        app = app_in(tmp_path)
        async with Client(make_server(app)) as client:
            saved, text = await called(client, "save_rule", **CENTS, priority="high", globs="src/**/*.py, lib/*.py")
            assert (saved["rule_id"], saved["project_id"], saved["saved"], saved["created"]) == (
                "money-in-cents",
                "shop",
                True,
                True,
            )
            assert text.startswith("shop/money-in-cents is saved.")
            found, _ = await called(client, "search_rules", query="amounts of money as cents", file_path="src/a/b.py")
            hit = found["hits"][0]
            assert (hit["rule_id"], hit["priority"], "source" in hit) == ("money-in-cents", "high", False)
            assert "degraded" not in found
            elsewhere, _ = await called(client, "search_rules", query="amounts of money as cents", file_path="web/a.ts")
            assert "money-in-cents" not in str(elsewhere["hits"])
            again = "Keep amounts as integer cents, never as floats."
            changed, text = await called(
                client, "save_rule", title="Cents", guidance=again, rule_id="money-in-cents", rationale="Rounding."
            )
            assert (changed["saved"], "created" in changed) == (True, False)
            assert "is changed." in text
            (tmp_path / "CLAUDE.md").write_text("# Time\n\n- Always store times in UTC, as ISO 8601.\n", "utf-8")
            app._intake.look_again()
            await called(client, "search_rules", query="times")
            rule = await app.store.get_rule(RuleKey("shop", "money-in-cents"))
            assert (rule.title, rule.guidance, rule.rationale, rule.priority) == ("Cents", again, "Rounding.", "high")
            assert rule.scopes[0].globs == ("src/**/*.py", "lib/*.py")
            read = await client.read_resource("rule://shop/money-in-cents")
            assert "Source:" not in str(read.contents[0].text)  # type: ignore[union-attr]

    anyio.run(run)


def test_a_rule_that_says_the_same_is_shown_instead(tmp_path: Path) -> None:
    async def run() -> None:
        app = app_in(tmp_path)
        async with Client(make_server(app)) as client:
            await called(client, "save_rule", **CENTS)
            same = {"title": "Cents", "guidance": "Keep amounts of money as integer cents!"}
            shown, text = await called(client, "save_rule", **same)
            assert (shown["saved"], shown["nearest"]["rule_id"]) == (False, "money-in-cents")
            assert "call again with confirm=true" in text
            assert await app.count_rules() == {"shop": 2}
            kept, _ = await called(client, "save_rule", **same, confirm=True)
            assert (kept["saved"], kept["nearest"]["rule_id"]) == (True, "money-in-cents")
            assert "already" in await refused(client, "save_rule", title="Money in cents", guidance="Something else.")

    anyio.run(run)


def test_what_a_file_states_or_lacks_sense_is_refused_with_the_way_out(tmp_path: Path) -> None:
    async def run() -> None:
        app = app_in(tmp_path)
        async with Client(make_server(app)) as client:
            found, _ = await called(client, "search_rules", query="store times in UTC")
            of_file = found["hits"][0]["rule_id"]
            for name, arguments in (
                ("save_rule", {"title": "Time", "guidance": "Local times.", "rule_id": of_file}),
                ("delete_rule", {"rule_id": of_file, "confirm": True}),
            ):
                assert "is stated in CLAUDE.md:3: change it there" in await refused(client, name, **arguments)
            for arguments, told in (
                ({"title": " ", "guidance": "x"}, "has a title and a guidance"),
                ({"title": "!!!", "guidance": "x"}, "give a rule_id"),
                ({"title": "x", "guidance": "y" * 20_001}, "at most 20,000"),
                ({**CENTS, "project": "starter"}, "product's own"),
            ):
                assert told in await refused(client, "save_rule", **arguments)
            assert "nothing" in await refused(client, "delete_rule", rule_id="nothing")
            assert await app.count_rules() == {"shop": 1}

    anyio.run(run)


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
@pytest.mark.parametrize(("action", "go"), [("accept", True), ("accept", False), ("decline", True)])
def test_a_user_is_asked_before_a_rule_goes(tmp_path: Path, mode: Any, action: Any, go: bool) -> None:
    heard: list[str] = []

    async def answer(context: Any, params: ElicitRequestParams) -> ElicitResult:
        heard.append(params.message)
        return ElicitResult(action=action, content={"go": go} if action == "accept" else None)

    async def run() -> None:
        app = app_in(tmp_path)
        async with Client(make_server(app), elicitation_callback=answer, mode=mode) as client:
            await called(client, "save_rule", **CENTS)
            gone, text = await called(client, "delete_rule", rule_id="money-in-cents")
            assert gone["deleted"] is (action == "accept" and go)
            assert ("is deleted." in text) is gone["deleted"]
            assert await app.count_rules() == ({"shop": 1} if gone["deleted"] else {"shop": 2})

    anyio.run(run)
    assert heard == ["Delete the rule 'money-in-cents' (Money in cents)? Keep amounts of money as integer cents."]


def test_who_cannot_be_asked_gets_the_rule_and_confirms(tmp_path: Path) -> None:
    async def run() -> None:
        app = app_in(tmp_path)
        async with Client(make_server(app)) as client:
            await called(client, "save_rule", **CENTS)
            kept, text = await called(client, "delete_rule", rule_id="money-in-cents")
            assert (kept["deleted"], "call again with confirm=true" in text) == (False, True)
            gone, _ = await called(client, "delete_rule", rule_id="money-in-cents", confirm=True)
            assert gone["deleted"]
            assert await app.count_rules() == {"shop": 1}

    anyio.run(run)


def test_a_rule_is_kept_while_nothing_embeds(tmp_path: Path) -> None:
    async def run() -> None:
        app = app_in(tmp_path)
        async with Client(make_server(app)) as client:
            await called(client, "search_rules", query="times")
            app.providers.chosen.failure = ProviderUnavailableError("down", provider="fake")  # type: ignore[attr-defined]
            saved, text = await called(client, "save_rule", **CENTS)
            assert (saved["saved"], saved["notice"]) == (True, "down")
            assert "Found by its words for now: down" in text
            found, _ = await called(client, "search_rules", query="integer cents")
            assert found["hits"][0]["rule_id"] == "money-in-cents"

    anyio.run(run)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"allow_writes": False}, "search_rules embed_text health_check reembed_all"),
        ({}, "search_rules embed_text health_check reembed_all save_rule delete_rule"),
        ({"read_only": True}, "search_rules embed_text health_check"),
        ({"tools": "health_check, search_rules"}, "search_rules health_check"),
        ({"tools": "save_rule,search_rules", "allow_writes": False}, "search_rules"),
        ({"tools": "save_rule,search_rules", "read_only": True}, "search_rules"),
    ],
)
def test_settings_decide_which_tools_there_are(tmp_path: Path, given: dict[str, Any], expected: str) -> None:
    assert anyio.run(tools_of, app_in(tmp_path, **given)) == expected.split()


def test_a_tool_that_was_taken_away_is_unknown_and_a_wrong_name_is_told(tmp_path: Path) -> None:
    async def run() -> int:
        async with Client(make_server(app_in(tmp_path, read_only=True))) as client:
            try:
                await client.call_tool("save_rule", CENTS)
            except MCPError as exc:
                return exc.error.code
        return 0

    assert anyio.run(run) == -32602
    with pytest.raises(ConfigError, match="'serach_rules', which is no tool: there are search_rules, embed_text"):
        make_server(app_in(tmp_path, tools="serach_rules"))


def test_tools_that_write_say_so(tmp_path: Path) -> None:
    async def run() -> None:
        async with Client(make_server(app_in(tmp_path))) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            for name in ("save_rule", "delete_rule"):
                annotations = tools[name].annotations
                assert annotations is not None
                assert (annotations.read_only_hint, annotations.destructive_hint) == (False, True)
                properties = tools[name].input_schema["properties"]
                assert all(part.get("description") for part in properties.values())
                assert "anyOf" not in str(tools[name].input_schema)

    anyio.run(run)


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("reviw_code", {}, "Unknown prompt: 'reviw_code'. There are: review_code"),
        ("review_code", {}, "review_code needs the argument 'code'; it takes code, file_path, category"),
        ("review_code", {"code": "x", "language": "c"}, "unknown argument 'language': review_code takes"),
    ],
)
def test_a_wrong_prompt_is_told_as_the_protocol_says(
    tmp_path: Path, name: str, arguments: dict[str, str], problem: str
) -> None:
    async def run() -> tuple[int, str]:
        async with Client(make_server(app_in(tmp_path))) as client:
            try:
                await client.get_prompt(name, arguments)
            except MCPError as exc:
                return exc.error.code, exc.error.message
        return 0, ""

    code, told = anyio.run(run)
    assert code == -32602
    assert told.startswith(problem)
