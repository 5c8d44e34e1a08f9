"""What the server answers before the SDK is imported is what the SDK answers, byte for byte."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_MODERN_VERSION

from symmetra_mcp.app import make_app
from symmetra_mcp.config import load_settings
from symmetra_mcp.server import make_server
from symmetra_mcp.stdio.snapshot import FILE, Snapshot, ToolChoice

REPOSITORY = Path(__file__).resolve().parents[2]
META = {
    "io.modelcontextprotocol/protocolVersion": LATEST_MODERN_VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
}
HELLO = {"capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
SETTINGS = [
    {},
    {"SYMMETRA_ALLOW_WRITES": "1"},
    {"SYMMETRA_READ_ONLY": "true"},
    {"SYMMETRA_ALLOW_WRITES": "yes", "SYMMETRA_READ_ONLY": "1"},
    {"SYMMETRA_TOOLS": "health_check, search_rules"},
    {"SYMMETRA_TOOLS": "reembed_all", "SYMMETRA_READ_ONLY": "on"},
]


def quick(choice: ToolChoice | None, version: str, method: str) -> str | None:
    snapshot = Snapshot(FILE, choice)
    if version == LATEST_MODERN_VERSION:
        return snapshot.answer({"method": method, "params": {"_meta": META}})
    greeting = snapshot.answer({"method": "initialize", "params": {"protocolVersion": version, **HELLO}})
    return greeting if method == "initialize" else snapshot.answer({"method": method})


@pytest.mark.parametrize("version", [*HANDSHAKE_PROTOCOL_VERSIONS, LATEST_MODERN_VERSION])
@pytest.mark.parametrize("environment", SETTINGS[:2])
def test_every_answer_is_the_sdks(version: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ask = runpy.run_path(str(REPOSITORY / "tools" / "build_snapshot.py"))["live_answers"]

    live = ask(load_settings(), version)

    assert len(live) >= 4
    for method, answer in live.items():
        assert quick(ToolChoice.of({}, environment, ".env"), version, method) == answer, method


@pytest.mark.parametrize("environment", SETTINGS)
def test_it_lists_the_tools_that_the_settings_leave(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    live = [tool.name for tool in make_server(make_app(load_settings()))._tool_manager.list_tools()]

    listed = quick(ToolChoice.of({}, environment, ".env"), "2025-11-25", "tools/list")

    assert listed is not None
    assert [tool["name"] for tool in json.loads(listed)["tools"]] == live


@pytest.mark.parametrize(
    "environment",
    [{"SYMMETRA_TOOLS": "search"}, {"SYMMETRA_TOOLS": "${TOOLS}"}, {"SYMMETRA_READ_ONLY": "maybe"}],
)
def test_where_a_setting_is_not_plain_the_server_lists_the_tools(environment: dict[str, str]) -> None:
    choice = ToolChoice.of({}, environment, ".env")

    assert quick(choice, "2025-11-25", "tools/list") is None
    assert quick(choice, "2025-11-25", "initialize") is not None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_where_a_projects_file_may_choose_the_tools_the_server_lists_them(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / ".env"
    file.write_text("symmetra_read_only = 1\n", encoding)
    assert ToolChoice.of({}, {}, str(file)) is None
    file.write_text("DATABASE_URL = x\n", encoding)
    assert ToolChoice.of({}, {}, str(file)) is not None


def test_options_win_over_the_environment() -> None:
    choice = ToolChoice.of({"tools": ("embed_text",), "read_only": True}, {"SYMMETRA_TOOLS": "reembed_all"}, ".env")

    listed = quick(choice, "2025-11-25", "tools/list")

    assert listed is not None
    assert [tool["name"] for tool in json.loads(listed)["tools"]] == ["embed_text"]


ODD: list[dict[str, Any]] = [
    {"method": "tools/list", "params": {"cursor": "x"}},
    {"method": "tools/list", "params": []},
    {"method": "tools/list", "params": {"_meta": {**META, "io.modelcontextprotocol/protocolVersion": "2099-01-01"}}},
    {"method": "tools/list", "params": {"_meta": {"io.modelcontextprotocol/protocolVersion": LATEST_MODERN_VERSION}}},
    {"method": "tools/list", "params": {"_meta": {**META, "traceparent": "00-1-1-01"}}},
    {"method": "server/discover", "params": {"_meta": {**META, "io.modelcontextprotocol/clientInfo": 5}}},
    {"method": "initialize", "params": {"protocolVersion": "2099-01-01", **HELLO}},
    {"method": "initialize", "params": {"protocolVersion": "2025-11-25", "clientInfo": HELLO["clientInfo"]}},
    {"method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}},
    {"method": "resources/list"},
    {"method": "tools/call", "params": {"name": "search_rules"}},
]


@pytest.mark.parametrize("message", ODD)
@pytest.mark.parametrize("greeted", [True, False])
def test_what_is_not_asked_as_expected_is_left_to_the_server(message: dict[str, Any], greeted: bool) -> None:
    snapshot = Snapshot(FILE, ToolChoice())
    if greeted:
        assert snapshot.answer({"method": "initialize", "params": {"protocolVersion": "2025-11-25", **HELLO}})

    assert snapshot.answer(message) is None


def test_nothing_is_listed_to_a_client_that_has_not_said_hello() -> None:
    assert Snapshot(FILE, ToolChoice()).answer({"method": "tools/list"}) is None
