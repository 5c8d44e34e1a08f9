"""`symmetra-mcp schema`: the team's database, from empty to ready."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from symmetra_mcp import terminal
from symmetra_mcp.errors import ConfigError, SymmetraError
from symmetra_mcp.stores.schema import WAITING, exported_files, install_script, migrations
from symmetra_mcp.stores.schema_open import open_database
from symmetra_mcp.terminal import examples, json_option
from symmetra_mcp.text import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from symmetra_mcp.stores.schema_database import SchemaDatabase
    from symmetra_mcp.stores.schema_install import Applied, SchemaStatus

_PROGRESS_EVERY_S = 5.0
_STATE_STYLES = {"installed": "green", "missing": "yellow", "changed": "red", "unknown": "red"}

_ref_option = click.option("--project-id", metavar="REF", default="", help="The Supabase project's 20 letters.")


@click.group(
    epilog=examples(
        "symmetra-mcp schema status",
        "symmetra-mcp schema apply",
        "symmetra-mcp schema print        # to paste into the dashboard's SQL editor",
    )
)
def schema() -> None:
    """Install the schema of a team's Supabase project, and keep it up to date.

    The way there is SYMMETRA_DB_URL, the database's connection string; else SUPABASE_ACCESS_TOKEN, a personal access
    token, together with --project-id or the project's address.
    """


@schema.command(
    epilog=examples(
        "symmetra-mcp schema apply --dry-run",
        "symmetra-mcp schema apply --project-id abcdefghijklmnopqrst",
        "symmetra-mcp schema apply --public-read",
    )
)
@_ref_option
@click.option(
    "--public-read/--no-public-read",
    default=None,
    help="Whether everybody with the publishable key may read every rule. Default: as it is; at first nobody.",
)
@click.option("--repair", is_flag=True, help="Install every file again, whatever is recorded; no rule is lost.")
@click.option("--dry-run", is_flag=True, help="Only tell what is missing.")
@json_option
def apply(project_id: str, public_read: bool | None, repair: bool, dry_run: bool, as_json: bool) -> None:
    """Install what is missing, in one transaction: all of it or nothing."""
    from symmetra_mcp.stores.schema_api import ManagementApi
    from symmetra_mcp.stores.schema_install import apply_migrations, read_status

    with _database(project_id) as database:
        status = read_status(database, migrations(), indexes=False)
        if status.is_locked and not dry_run and isinstance(database, ManagementApi):
            click.echo(f"Notice: {WAITING}", err=True)  # the API hands no notice of the server on
        applied = apply_migrations(
            database, migrations(), status=status, public_read=public_read, repair=repair, dry_run=dry_run
        )
    terminal.show(applied.to_dict() if as_json else _applied_text(applied), as_json=as_json)


@schema.command(
    "print", epilog=examples("symmetra-mcp schema print", 'symmetra-mcp schema print | psql "$SYMMETRA_DB_URL"')
)
@click.option("--public-read", is_flag=True, help="Let everybody with the publishable key read every rule.")
def print_(public_read: bool) -> None:
    """Write the whole schema as one script, for the SQL editor; it may be run again."""
    terminal.write(install_script(migrations(), public_read=public_read or None), as_data=True)


@schema.command(epilog=examples("symmetra-mcp schema status", "symmetra-mcp schema status --json"))
@_ref_option
@json_option
def status(project_id: str, as_json: bool) -> None:
    """Show what is installed; exit code 1 when something is missing or differs."""
    from symmetra_mcp.stores.schema_install import read_status

    with _database(project_id) as database:
        found = read_status(database, migrations())
    terminal.show(found.to_dict() if as_json else _status_table(found), as_json=as_json)
    if found.problem:
        raise click.exceptions.Exit(1)


@schema.command(
    epilog=examples(
        "symmetra-mcp schema index",
        "symmetra-mcp schema index --space openai/text-embedding-3-small@384",
    )
)
@_ref_option
@click.option("--space", "space_id", default="", metavar="ID", help="This space, however few vectors it has.")
def index(project_id: str, space_id: str) -> None:
    """Build the vector indexes that pay, while everybody goes on working.

    Below 20,000 vectors a search without one is as quick and exact. Needs SYMMETRA_DB_URL, and not the pooler's port
    6543. Killed half-way, run it again.
    """
    from symmetra_mcp.stores.schema_index import build_index, direct_only, spaces_to_index
    from symmetra_mcp.stores.schema_install import read_status

    with _database(project_id) as database:
        direct = direct_only(database)
        found = read_status(direct, migrations())
        if found.problem:
            raise ConfigError(f"{found.place}: {found.problem}")
        spaces = spaces_to_index(found.indexes, space_id)
        for space in spaces:
            tell = _IndexLines(space.space_id)
            tell(f"{counted(space.vectors, 'vector')}", 0, 0)
            build_index(direct, space, tell)
    names = ", ".join(space.space_id for space in spaces)
    terminal.show(f"Built: {names}." if spaces else "Nothing to build: no index is missing that pays.", as_json=False)


@schema.command(epilog=examples("symmetra-mcp schema export --supabase-cli ."))
@click.option(
    "--supabase-cli",
    "folder",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder that holds `supabase/`; files are written to its `migrations`.",
)
def export(folder: Path) -> None:
    """Write the schema as migrations of the Supabase CLI, for `supabase db push`."""
    target = folder / "supabase" / "migrations"
    texts = exported_files(migrations())
    try:
        differing = [name for name, text in texts.items() if _differs(target / name, text)]
        if differing:
            raise click.ClickException(
                f"{str(target / differing[0])!r} is there with other text, and migrations that were pushed must not "
                "change, so nothing was written. Move it away if it was never pushed"
            )
        target.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (target / name).write_bytes(text.encode())
    except OSError as exc:
        raise click.ClickException(f"{str(target)!r} can't be written: {exc.strerror or exc}") from None
    click.echo(f"Wrote {counted(len(texts), 'migration')} to {target}", err=True)


def _differs(path: Path, text: str) -> bool:
    return path.exists() and path.read_bytes().replace(b"\r\n", b"\n") != text.encode()


@contextmanager
def _database(project_id: str) -> Iterator[SchemaDatabase]:
    """The database that the settings lead to; our errors within end the command with their text."""
    settings = terminal.settings()
    try:
        with open_database(settings, project_id, _tell_server_notice) as database:
            yield database
    except SymmetraError as exc:
        raise click.ClickException(str(exc)) from None


def _tell_server_notice(message: str) -> None:
    """Of what the server tells, only that it makes us wait: the rest is that something exists already."""
    if message == WAITING:
        click.echo(f"Notice: {message}", err=True)


class _IndexLines:
    """Progress of one index on stderr: a line for each phase, and now and then one within a phase."""

    def __init__(self, space_id: str) -> None:
        self._space_id = space_id
        self._phase = ""
        self._told_at = 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase == self._phase and now - self._told_at < _PROGRESS_EVERY_S:
            return
        self._phase, self._told_at = phase, now
        share = f", {done:,} of {total:,}" if total else ""
        click.echo(f"Index of {self._space_id}: {phase}{share}", err=True)


def _applied_text(applied: Applied) -> str:
    lines = []
    if applied.dry_run:
        what = ", ".join(applied.labels) or "nothing"
        lines.append(f"Would install in {applied.before.place}: {what}. Nothing was changed.")
    elif applied.labels:
        lines += [f"Installed in {applied.before.place}:", *(f"  {label}" for label in applied.labels)]
        lines.append(f"The schema is at version {applied.version}.")
    else:
        lines.append(f"The schema in {applied.before.place} is up to date (version {applied.version}).")
    if applied.adopted is not None:
        lines.append(f"The older table `rules` is followed: {counted(applied.adopted, 'rule')} of it are here too.")
    if applied.public_read != applied.before.public_read:
        verb = "would be" if applied.dry_run else "is"
        who = "everybody with the publishable key" if applied.public_read else "members alone"
        lines.append(f"Reading {verb} open to {who}.")
    return "\n".join(lines)


def _status_table(found: SchemaStatus) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    pgvector = found.pgvector or (
        f"not installed; {found.pgvector_available} can be" if found.pgvector_available else "not there"
    )
    head = [
        f"{found.place[0].upper()}{found.place[1:]}: PostgreSQL {found.server_version}, pgvector {pgvector}",
        f"Schema version {found.version}; reading is open to "
        f"{'everybody with the publishable key' if found.public_read else 'members alone'}",
    ]
    files = Table("File", "State", "Installed at (UTC)", box=None, pad_edge=False)
    for migration in found.migrations:
        state = Text(migration.state, style=_STATE_STYLES[migration.state])
        files.add_row(f"{migration.version:04d}_{migration.name}", state, migration.applied_at)
    parts: list[RenderableType] = [*map(Text, head), files]
    if found.indexes:
        spaces = Table("Space", "Vectors", "Index", box=None, pad_edge=False)
        for space in found.indexes:
            spaces.add_row(
                space.space_id, f"{space.vectors:,}", _index_state(space.valid, space.indexed, space.advised)
            )
        parts.append(spaces)
    if found.problem:
        parts.append(Text(f"{found.problem[0].upper()}{found.problem[1:]}", style="yellow"))
    return Group(*parts)


def _index_state(valid: bool, indexed: bool, advised: bool) -> str:
    if valid:
        return "built"
    if indexed:
        return "unfinished: run `symmetra-mcp schema index`"
    return "missing: run `symmetra-mcp schema index`" if advised else "not needed"
