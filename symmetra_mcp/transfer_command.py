"""`symmetra-mcp rules push` and `rules pull`: between this machine, the team's store and files."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from symmetra_mcp.errors import StoreAccessError, SymmetraError
from symmetra_mcp.project import STARTER_PROJECT, project_id_of
from symmetra_mcp.stores.select import embedded_store, team_store
from symmetra_mcp.terminal import ProjectId, examples, format_of, json_option, progress, settings, show, write_file
from symmetra_mcp.text import counted
from symmetra_mcp.transfer import TransferReport, copy_rules

if TYPE_CHECKING:
    from symmetra_mcp.config import Settings
    from symmetra_mcp.ingest.report import ImportReport
    from symmetra_mcp.stores.base import RuleStore

_projects_option = click.option(
    "--project",
    "-p",
    "projects",
    type=ProjectId(),
    multiple=True,
    help="Only this project; can be repeated.",
)
_prune_option = click.option("--prune", is_flag=True, help="Remove there what is not here any more.")
_dry_run_option = click.option("--dry-run", is_flag=True, help="Show what would happen; write nothing.")


@click.command(
    epilog=examples(
        "symmetra-mcp rules push --dry-run",
        "symmetra-mcp rules push --project shop --prune",
        "symmetra-mcp rules push AGENTS.md .cursor --project shop",
    )
)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@_projects_option
@_prune_option
@_dry_run_option
@json_option
def push(paths: tuple[Path, ...], projects: tuple[str, ...], prune: bool, dry_run: bool, as_json: bool) -> None:
    """Send rules to the team's store: those of this machine with their vectors, or those of the files PATHS."""
    if paths and len(projects) > 1:
        raise click.UsageError("rule files belong to one project: give --project once")
    chosen = settings()
    absolute = tuple(Path(os.path.abspath(path)) for path in paths)

    async def send() -> None:
        async with AsyncExitStack() as stores:
            team = await _opened(stores, team_store(chosen))
            if paths:
                report = await _import(chosen, team, absolute, projects[0] if projects else "", prune, dry_run)
                _show_import(report, paths, as_json=as_json)
                return
            own = await _opened(stores, embedded_store(chosen))
            await _show_copy(
                own, team, projects, prune=prune, dry_run=dry_run, as_json=as_json, there="the team's store"
            )

    _run(send)


@click.command(
    epilog=examples(
        "symmetra-mcp rules pull",
        "symmetra-mcp rules pull --project shop --output rules.yaml",
    )
)
@_projects_option
@_prune_option
@_dry_run_option
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Write a file instead.")
@json_option
def pull(projects: tuple[str, ...], prune: bool, dry_run: bool, output: Path | None, as_json: bool) -> None:
    """Fetch the team's rules with their vectors to this machine, or into a file that `import` reads back."""
    if output is not None and (prune or dry_run or as_json):
        raise click.UsageError("--output writes a file: leave out --prune, --dry-run and --json")
    chosen = settings()

    async def fetch() -> None:
        async with AsyncExitStack() as stores:
            team = await _opened(stores, team_store(chosen))
            if output is not None:
                await _write_rules(team, projects, output)
                return
            own = await _opened(stores, embedded_store(chosen))
            place = "the store of this machine"
            await _show_copy(team, own, projects, prune=prune, dry_run=dry_run, as_json=as_json, there=place)

    _run(fetch)


def _run(work: Callable[[], Awaitable[None]]) -> None:
    try:
        anyio.run(work)
    except SymmetraError as exc:
        raise click.ClickException(str(exc)) from None


async def _opened(stores: AsyncExitStack, store: RuleStore) -> RuleStore:
    stores.push_async_callback(store.aclose)
    await store.open()
    return store


async def _show_copy(
    source: RuleStore,
    target: RuleStore,
    projects: tuple[str, ...],
    *,
    prune: bool,
    dry_run: bool,
    as_json: bool,
    there: str,
) -> None:
    counts = await source.count_rules()
    for name in projects:
        if name not in counts and not prune:
            known = ", ".join(counts) or "none"
            raise click.ClickException(f"no project {name!r} to copy from; there are: {known}")
    with progress() as on_progress:
        report = await copy_rules(
            source, target, project_ids=projects, prune=prune, dry_run=dry_run, on_progress=on_progress
        )
    show(report.to_dict() if as_json else _text(report, there), as_json=as_json)


def _text(report: TransferReport, there: str) -> str:
    would = "would be " if report.dry_run else ""
    parts = [
        f"{counted(len(report.added), 'rule')} {would}added",
        f"{len(report.changed)} changed",
        f"{report.unchanged} the same",
        f"{len(report.removed)} removed",
    ]
    lines = [f"In {there}: {', '.join(parts)}."]
    if not (report.added or report.changed or report.unchanged or report.only_in_target or report.removed):
        lines.append("Nothing to copy: starter rules are copied only when they are named, by --project starter.")
    if report.only_in_target:
        lines.append(f"{counted(len(report.only_in_target), 'rule')} only there: --prune removes what is not here.")
    lines += [f"{counted(number, 'vector')} of {space} copied." for space, number in report.vectors.items()]
    if report.activated is not None:
        lines.append(f"Searches compare in {report.activated} from now on.")
    return "\n".join(lines)


async def _import(
    chosen: Settings, team: RuleStore, paths: tuple[Path, ...], project: str, prune: bool, dry_run: bool
) -> ImportReport:
    """Read files into the team's store; its servers embed what is new."""
    from symmetra_mcp.ingest.importer import common_root, import_files

    if not team.may_write():
        raise StoreAccessError("the key may read the team's rules and not write them: set the project's secret key")
    root = common_root(paths)
    own_id = project or chosen.project or project_id_of(root, shared_store=True)
    with progress() as on_progress:
        async with team.exclusive("import"):
            return await import_files(
                team, paths, project_id=own_id, root=root, prune=prune, dry_run=dry_run, on_progress=on_progress
            )


def _show_import(report: ImportReport, paths: tuple[Path, ...], *, as_json: bool) -> None:
    from symmetra_mcp.tables import import_report

    if as_json:
        show(report.to_dict(), as_json=True)
        return
    show(import_report(report, None, verbose=False, paths=paths), as_json=False)
    if not report.dry_run:
        click.echo("Run `symmetra-mcp reembed`, or any server whose key may write embeds what is new", err=True)


async def _write_rules(team: RuleStore, projects: tuple[str, ...], output: Path) -> None:
    from symmetra_mcp.ingest.export import dump_rules

    names = projects or tuple(name for name in await team.count_rules() if name != STARTER_PROJECT)
    rules = [rule for name in names for rule in await team.list_rules(name)]
    await write_file(output, dump_rules(rules, format_of(output)))
