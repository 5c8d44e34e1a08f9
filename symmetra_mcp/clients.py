"""MCP clients and where each keeps its list of servers; from their documentation, as of November 2026."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

SERVER_NAME = "symmetra"
"""Our entry in a client's list."""


@dataclass(frozen=True, slots=True)
class McpClient:
    """One client.

    Attributes:
        name: As `symmetra-mcp install` takes it.
        title: As people know it.
        form: How its file is written.
        servers: Names of the objects around the list of servers.
        user_file: Its file for every project of this user.
        project_file: Its file for one project, below the project's folder; empty where it has none.
        typed: An entry tells that it is started over stdio.
        workspace: What stands for the project's folder in its file; empty where it starts servers there.
        then: What the user does next.
    """

    name: str
    title: str
    form: Literal["json", "toml"]
    servers: tuple[str, ...]
    user_file: Callable[[], Path]
    project_file: str = ""
    typed: bool = False
    workspace: str = ""
    then: str = ""

    def entry(self, command: list[str], environment: Mapping[str, str]) -> dict[str, Any]:
        """How its file names a server."""
        made: dict[str, Any] = {"type": "stdio"} if self.typed else {}
        made["command"] = command[0]
        if command[1:]:
            made["args"] = command[1:]
        workspace = {"SYMMETRA_PROJECT_DIR": self.workspace} if self.workspace else {}
        if workspace | dict(environment):
            made["env"] = workspace | dict(environment)
        return made


def _application_data() -> Path:
    """Where desktop programs of this system keep their settings."""
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


CLIENTS: tuple[McpClient, ...] = (
    McpClient(
        "claude-desktop",
        "Claude Desktop",
        "json",
        ("mcpServers",),
        lambda: _application_data() / "Claude" / "claude_desktop_config.json",
        then="Quit Claude Desktop and start it again. It starts servers outside of your project: "
        "--env SYMMETRA_PROJECT_DIR=/path/to/it names one.",
    ),
    McpClient(
        "claude-code",
        "Claude Code",
        "json",
        ("mcpServers",),
        lambda: Path(os.environ.get("CLAUDE_CONFIG_DIR") or Path.home()) / ".claude.json",
        ".mcp.json",
        typed=True,
        then="Start a new session; `/mcp` shows the server.",
    ),
    McpClient(
        "cursor",
        "Cursor",
        "json",
        ("mcpServers",),
        lambda: Path.home() / ".cursor" / "mcp.json",
        ".cursor/mcp.json",
        typed=True,
        workspace="${workspaceFolder}",
        then="Cursor's settings, under MCP, show the server.",
    ),
    McpClient(
        "vscode",
        "VS Code",
        "json",
        ("servers",),
        lambda: _application_data() / "Code" / "User" / "mcp.json",
        ".vscode/mcp.json",
        typed=True,
        workspace="${workspaceFolder}",
        then="The command `MCP: List Servers` shows the server.",
    ),
    McpClient(
        "windsurf",
        "Windsurf",
        "json",
        ("mcpServers",),
        lambda: Path.home() / ".codeium" / "windsurf" / "mcp_config.json",
        then="Press refresh among Cascade's MCP servers.",
    ),
    McpClient(
        "codex",
        "Codex",
        "toml",
        ("mcp_servers",),
        lambda: Path(os.environ.get("CODEX_HOME") or Path.home() / ".codex") / "config.toml",
        ".codex/config.toml",
        then="Start a new session; `/mcp` shows the server.",
    ),
    McpClient(
        "gemini",
        "Gemini CLI",
        "json",
        ("mcpServers",),
        lambda: Path.home() / ".gemini" / "settings.json",
        ".gemini/settings.json",
        then="Start a new session; `/mcp` shows the server.",
    ),
)


def start_command() -> list[str]:
    """How a client starts this very program: by its full path, since clients know few folders of a shell's PATH."""
    own = Path(sys.argv[0]).absolute()
    if own.name.startswith("symmetra-mcp") and own.exists():
        if (uvx := shutil.which("uvx")) is not None and _is_of_uvx(own):
            return [uvx, "symmetra-mcp"]
        return [str(own)]
    return [sys.executable, "-m", "symmetra_mcp"]


def _is_of_uvx(program: Path) -> bool:
    """Whether it lies in uv's cache, which uv may empty at any time."""
    return "archive-v0" in program.parts or "environments-v2" in program.parts
