"""`symmetra-mcp install` in a home folder of its own."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner, Result
from mcp import Client, StdioServerParameters

from symmetra_mcp import client_files
from symmetra_mcp.cli import cli
from symmetra_mcp.clients import CLIENTS, McpClient

Run = Callable[..., Result]

by_name = {client.name: client for client in CLIENTS}
with_json = [client for client in CLIENTS if client.form == "json"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, with a project in hand."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("XDG_CONFIG_HOME", "APPDATA", "CODEX_HOME", "CLAUDE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    (tmp_path / "shop").mkdir()
    monkeypatch.chdir(tmp_path / "shop")
    return tmp_path / "home"


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["install", *arguments])

    return invoke


def servers_of(client: McpClient, path: Path) -> dict[str, Any]:
    data = tomllib.loads(path.read_text("utf-8")) if client.form == "toml" else json.loads(path.read_text("utf-8"))
    found: dict[str, Any] = data[client.servers[0]]
    return found


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_without_a_file_gets_one_and_a_second_time_changes_nothing(run: Run, client: McpClient) -> None:
    done = run(client.name)
    assert done.exit_code == 0
    assert f"The server 'symmetra' is written to {client.user_file()}." in done.stdout
    assert client.then in done.stdout
    entry = servers_of(client, client.user_file())["symmetra"]
    assert Path(entry["command"]).is_absolute()
    assert ("type" in entry) == client.typed
    assert entry.get("env", {}).get("SYMMETRA_PROJECT_DIR", "") == client.workspace
    assert client.user_file().stat().st_mode & 0o077 == 0, "keys may come into it"
    before = client.user_file().read_bytes()
    again = run(client.name)
    assert "starts the server 'symmetra' already" in again.stdout
    assert client.user_file().read_bytes() == before
    assert [path.name for path in client.user_file().parent.iterdir()] == [client.user_file().name], "no backups"


@pytest.mark.parametrize("client", with_json, ids=lambda client: client.name)
def test_other_servers_and_comments_stay_and_uninstalling_gives_the_former_file(run: Run, client: McpClient) -> None:
    path = client.user_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    servers = f'"{client.servers[0]}": {{\n\t\t"other": {{"command": "x"}} // by hand\n\t}}'
    former = f'// mine\n{{\n\t{servers},\n\t"a": [1,]\n}}\n'
    path.write_bytes(former.encode())
    path.chmod(0o640)
    done = run(client.name)
    assert done.exit_code == 0
    text = path.read_text("utf-8")
    assert all(line in text for line in ("// mine", '"other": {"command": "x"}', "// by hand", '"a": [1,]'))
    assert '\n\t\t"symmetra": {\n\t\t\t' in text
    assert path.stat().st_mode & 0o777 == 0o640
    (backup,) = [each for each in path.parent.iterdir() if each != path]
    assert backup.read_bytes() == former.encode()
    assert str(backup) in done.stdout
    out = run(client.name, "--uninstall")
    assert "is taken out of" in out.stdout
    assert path.read_bytes() == former.encode()
    assert "has no server 'symmetra'" in run(client.name, "--uninstall").stdout


def test_codex_keeps_its_comments_and_other_tables(run: Run) -> None:
    path = by_name["codex"].user_file()
    path.parent.mkdir()
    former = 'model = "o5" # the best\n\n[mcp_servers.other]\ncommand = "npx"  # by hand\n\n[tui]\ntheme = "dark"\n'
    path.write_text(former, "utf-8")
    assert run("codex", "--env", "SYMMETRA_PROJECT=shop").exit_code == 0
    text = path.read_text("utf-8")
    assert all(line in text for line in former.splitlines())
    data = tomllib.loads(text)
    assert data["mcp_servers"]["symmetra"]["env"] == {"SYMMETRA_PROJECT": "shop"}
    assert (data["mcp_servers"]["other"], data["tui"]) == ({"command": "npx"}, {"theme": "dark"})
    assert run("codex", "--uninstall").exit_code == 0
    assert tomllib.loads(path.read_text("utf-8")) == tomllib.loads(former)
    assert "# the best" in path.read_text("utf-8")


def test_a_dry_run_shows_the_entry_without_its_secrets_and_writes_nothing(run: Run, home: Path) -> None:
    shown = run("cursor", "--dry-run", "--env", "OPENAI_API_KEY=sk-secret", "--env", "SYMMETRA_PROJECT=shop")
    assert shown.exit_code == 0
    assert "would be written to" in shown.stdout
    assert '"OPENAI_API_KEY": "***"' in shown.stdout
    assert '"SYMMETRA_PROJECT": "shop"' in shown.stdout
    assert "sk-secret" not in shown.output
    assert list(home.iterdir()) == []
    answer = json.loads(run("cursor", "--env", "OPENAI_API_KEY=sk-secret", "--json").stdout)
    assert (answer["changed"], answer["entry"]["env"]["OPENAI_API_KEY"], answer["backup"]) == (True, "***", "")
    assert servers_of(by_name["cursor"], Path(answer["file"]))["symmetra"]["env"]["OPENAI_API_KEY"] == "sk-secret"


@pytest.mark.parametrize("client", [each for each in CLIENTS if each.project_file], ids=lambda client: client.name)
def test_a_project_has_a_file_of_its_own(run: Run, client: McpClient, home: Path) -> None:
    assert run(client.name, "--project").exit_code == 0
    assert "symmetra" in servers_of(client, Path.cwd() / client.project_file)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("client", "content"),
    [
        ("cursor", b'{"mcpServers": '),
        ("cursor", b"[]"),
        ("cursor", b"\xff\xfe{}"),
        ("vscode", b'{"servers": []}'),
        ("codex", b"[mcp_servers"),
        ("codex", b"mcp_servers = 3"),
    ],
)
def test_a_damaged_file_is_left_as_it_is(run: Run, client: str, content: bytes) -> None:
    path = by_name[client].user_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    for option in ((), ("--dry-run",)):
        refused = run(client, *option)
        assert refused.exit_code == 1
        assert f"{str(path)!r} is damaged, so nothing was changed" in refused.stderr
    assert path.read_bytes() == content
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_what_is_asked_wrongly_is_told(run: Run) -> None:
    assert "one file for all projects" in run("windsurf", "--project").stderr
    assert "has no settings" in run("cursor", "--uninstall", "--env", "A=b").stderr
    wrong = run("cursor", "--env", "sk-secret")
    assert (wrong.exit_code, "give NAME=VALUE" in wrong.stderr, "sk-secret" in wrong.output) == (2, True, False)
    assert "is not one of" in run("emacs").stderr


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_to_a_file_of_dotfiles_stays_a_link(run: Run, tmp_path: Path) -> None:
    path, kept = by_name["cursor"].user_file(), tmp_path / "dotfiles.json"
    kept.write_text("{}\n", "utf-8")
    path.parent.mkdir()
    path.symlink_to(kept)
    assert run("cursor").exit_code == 0
    assert path.is_symlink()
    assert "symmetra" in servers_of(by_name["cursor"], kept)


def test_a_file_that_another_program_changes_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text("{}", "utf-8")
    change = client_files.planned(by_name["cursor"], path, {"command": "x"})
    path.write_text('{"theirs": 1}', "utf-8")
    with pytest.raises(client_files.ConfigError, match="just been changed"):
        client_files.write_change(change)
    assert path.read_text("utf-8") == '{"theirs": 1}'


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="an administrator may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(run: Run, home: Path) -> None:
    home.chmod(0o500)
    refused = run("cursor")
    assert (refused.exit_code, "can't be written" in refused.stderr) == (1, True)


@pytest.mark.slow
def test_what_is_written_starts_a_server(run: Run) -> None:
    run("claude-code", "--project", "--env", "SYMMETRA_PROJECT=shop")
    entry = servers_of(by_name["claude-code"], Path(".mcp.json"))["symmetra"]

    async def listed() -> list[str]:
        environment = {**os.environ, **entry["env"]}
        server = StdioServerParameters(command=entry["command"], args=entry.get("args", []), env=environment)
        async with Client(server) as client:
            return [tool.name for tool in (await client.list_tools()).tools]

    assert "search_rules" in anyio.run(listed)
