"""`symmetra-mcp install`: this server into the configuration of an MCP client, and out of it again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from symmetra_mcp.clients import CLIENTS, SERVER_NAME, McpClient, start_command
from symmetra_mcp.errors import ConfigError
from symmetra_mcp.terminal import examples, show

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHOWN_OPENLY = re.compile(r"SYMMETRA_(PROJECT|PROJECT_DIR|DATA_DIR|RULES|EMBEDDING_BACKEND|LOG_LEVEL|STARTER_RULES)")
_HIDDEN = "***"


@click.command(
    epilog=examples(
        "symmetra-mcp install cursor",
        "symmetra-mcp install claude-desktop --env SYMMETRA_PROJECT_DIR=/home/ada/shop",
        "symmetra-mcp install claude-code --project --dry-run",
        "symmetra-mcp install vscode --uninstall",
    )
)
@click.argument("client", type=click.Choice([client.name for client in CLIENTS]))
@click.option("--project", "for_project", is_flag=True, help="For the project in this folder, instead of for you.")
@click.option("--env", "pairs", multiple=True, metavar="NAME=VALUE", help="A setting that the client hands on.")
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
@click.option("--uninstall", is_flag=True, help="Take the entry out again.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def install(
    client: str, for_project: bool, pairs: tuple[str, ...], dry_run: bool, uninstall: bool, as_json: bool
) -> None:
    """Tell CLIENT how to start this server.

    Changes our entry in the client's file and nothing else: comments, order and other servers stay. The former file is
    kept beside it.
    """
    from symmetra_mcp.client_files import planned, write_change

    chosen = next(each for each in CLIENTS if each.name == client)
    if uninstall and pairs:
        raise click.UsageError("--env and --uninstall: an entry that is taken out has no settings")
    entry = None if uninstall else chosen.entry(start_command(), _environment(pairs))
    try:
        change = planned(chosen, _file_of(chosen, for_project=for_project), entry)
        if change.is_change and not dry_run:
            change = write_change(change)
    except ConfigError as exc:
        raise click.ClickException(str(exc)) from None
    if as_json:
        answer = {
            "client": chosen.name,
            "file": str(change.path),
            "changed": change.is_change and not dry_run,
            "would_change": change.is_change,
            "entry": _hidden(entry),
            "backup": str(change.backup or ""),
        }
        show(answer, as_json=True)
        return
    show(
        "\n".join(_lines(chosen, entry, change.path, change.backup, is_change=change.is_change, dry_run=dry_run)),
        as_json=False,
    )


def _lines(
    client: McpClient, entry: dict[str, Any] | None, path: Path, backup: Path | None, *, is_change: bool, dry_run: bool
) -> list[str]:
    if not is_change:
        state = f"has no server {SERVER_NAME!r}" if entry is None else f"starts the server {SERVER_NAME!r} already"
        return [f"{client.title} {state}: {path} is as it was."]
    if dry_run:
        verb = "would be taken out of" if entry is None else "would be written to"
    else:
        verb = "is taken out of" if entry is None else "is written to"
    lines = [f"The server {SERVER_NAME!r} {verb} {path}."]
    if entry is not None:
        lines.append(json.dumps({SERVER_NAME: _hidden(entry)}, indent=2, ensure_ascii=False))
    if dry_run:
        return [*lines, "Nothing was changed."]
    if backup is not None:
        lines.append(f"The former file is {backup}.")
    return lines if entry is None else [*lines, client.then]


def _environment(pairs: tuple[str, ...]) -> dict[str, str]:
    environment = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise click.BadParameter("give NAME=VALUE", param_hint="--env")  # a value may be a key: it is not repeated
        environment[name] = value
    return environment


def _file_of(client: McpClient, *, for_project: bool) -> Path:
    if not for_project:
        return client.user_file()
    if not client.project_file:
        raise click.UsageError(f"{client.title} has one file for all projects: leave out --project")
    return Path.cwd() / client.project_file


def _hidden(entry: dict[str, Any] | None) -> dict[str, Any] | None:
    """An entry as it may be shown: of settings that may be keys, the names alone."""
    if entry is None or "env" not in entry:
        return entry
    shown = {name: value if _SHOWN_OPENLY.fullmatch(name) else _HIDDEN for name, value in entry["env"].items()}
    return {**entry, "env": shown}
