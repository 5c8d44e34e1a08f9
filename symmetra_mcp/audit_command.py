"""`symmetra-mcp rules audit`: rules that repeat, disagree, or can't be found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from symmetra_mcp.audit.findings import KINDS, Kind
from symmetra_mcp.terminal import (
    check_project,
    examples,
    give_way,
    json_option,
    progress,
    project_option,
    show,
    sync,
    with_app,
)

if TYPE_CHECKING:
    from symmetra_mcp.app import App


class Kinds(click.ParamType[tuple[Kind, ...]]):
    """A comma list of kinds of findings."""

    name = "kind,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Kind, ...]:
        """The kinds, in their own order."""
        if isinstance(value, tuple):
            return value
        named = {name.strip() for name in str(value).split(",") if name.strip()}
        unknown = sorted(named.difference(KINDS))
        if unknown or not named:
            self.fail(f"{', '.join(unknown) or 'nothing'!s} is no kind: give some of {','.join(KINDS)}", param, ctx)
        return tuple(kind for kind in KINDS if kind in named)


@click.command(
    epilog=examples(
        "symmetra-mcp rules audit",
        "symmetra-mcp rules audit --kind duplicates,contradictions",
        "symmetra-mcp rules audit --project shop --json",
        "symmetra-mcp rules audit --fail-on contradictions,globs   # in CI",
    )
)
@project_option
@click.option("--kind", "kinds", type=Kinds(), default=KINDS, help=f"Some of {','.join(KINDS)}; default: all.")
@click.option("--fail-on", type=Kinds(), default=(), help="Exit with code 1 where there are findings of these kinds.")
@click.option("--thorough", is_flag=True, help="Ask for every rule, however many there are.")
@click.option("--no-sync", is_flag=True, help="Don't read the project's rule files first.")
@json_option
def audit(
    project: str, kinds: tuple[Kind, ...], fail_on: tuple[Kind, ...], thorough: bool, no_sync: bool, as_json: bool
) -> None:
    """Find rules that repeat, disagree, are too long or too vague, can't be found, or are about no file.

    Nothing is changed. Starter rules are left out unless --project starter asks for them.
    """
    if not set(fail_on) <= set(kinds):
        raise click.UsageError("--fail-on names a kind that --kind leaves out")

    async def run(app: App) -> None:
        from symmetra_mcp.audit.layout import audit_table
        from symmetra_mcp.audit.run import audit as look

        give_way()
        if not no_sync:
            await sync(app)
        await check_project(app, project)
        with progress() as on_progress:
            report = await look(app, project_id=project, kinds=kinds, thorough=thorough, on_progress=on_progress)
        show(report.to_dict() if as_json else audit_table(report), as_json=as_json)
        if any(report.counts[kind] for kind in fail_on):
            raise click.exceptions.Exit(1)

    with_app(run)
