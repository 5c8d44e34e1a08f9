"""`symmetra-mcp spaces`: which vectors are there, where searches compare, and dropping what nobody needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from symmetra_mcp.terminal import examples, json_option, settings, show, with_app
from symmetra_mcp.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from symmetra_mcp.app import App
    from symmetra_mcp.stores.base import SpaceStatus

project_id_option = click.option(
    "--project-id", metavar="REF", help="Those of this Supabase project, by its 20 letters."
)


@click.group()
def spaces() -> None:
    """Manage embedding spaces: the vectors of each provider's model, kept beside each other."""


@spaces.command("list", epilog=examples("symmetra-mcp spaces list", "symmetra-mcp spaces list --json"))
@project_id_option
@json_option
def list_spaces(project_id: str | None, as_json: bool) -> None:
    """Show every space, how complete it is, and which one searches compare in."""
    from symmetra_mcp.schemas import space_answer

    async def run(app: App) -> None:
        answers = [space_answer(status) for status in await app.spaces()]
        if as_json:
            show([answer.model_dump() for answer in answers], as_json=True)
        elif not answers:
            show("Nothing is embedded yet: `symmetra-mcp reembed`.", as_json=False)
        else:
            from symmetra_mcp.tables import spaces_table

            show(spaces_table(answers), as_json=False)

    with_app(run, settings(project_id))


@spaces.command(epilog=examples("symmetra-mcp spaces activate openai/text-embedding-3-small@384"))
@click.argument("space")
@project_id_option
def activate(space: str, project_id: str | None) -> None:
    """Have searches compare in SPACE; the others stay.

    SPACE is its name as `spaces list` shows it, or a part that no other has, such as `openai`.
    """

    async def run(app: App) -> None:
        status = _named(await app.spaces(), space)
        await app.switch_to(status.space)
        lines = [f"Searches compare in {status.space}.", *await lines_after_switch(app, status)]
        show("\n".join(lines), as_json=False)

    with_app(run, settings(project_id))


@spaces.command(epilog=examples("symmetra-mcp spaces drop local", "symmetra-mcp spaces drop local --yes"))
@click.argument("space")
@click.option("--yes", is_flag=True, help="Don't ask.")
@project_id_option
def drop(space: str, yes: bool, project_id: str | None) -> None:
    """Delete the vectors of SPACE, which searches must not compare in. Rules stay.

    SPACE is its name as `spaces list` shows it, or a part that no other has, such as `local`.
    """

    async def run(app: App) -> None:
        status = _named(await app.spaces(), space)
        if status.active:
            raise click.ClickException(f"searches compare in {status.space}: activate another space first")
        if not yes:
            click.confirm(f"Delete the vectors of {status.space}?", abort=True, err=True)
        dropped = await app.drop_space(status.space)
        show(f"{status.space} is dropped: {counted(dropped, 'vector')} deleted.", as_json=False)

    with_app(run, settings(project_id))


async def lines_after_switch(app: App, status: SpaceStatus) -> list[str]:
    """What to know of the space that searches compare in now."""
    lines = []
    if status.missing:
        lines.append(
            f"{counted(status.missing, 'text')} of {status.passages} match by their words until they are embedded."
        )
    if notice := await app.space_notice():
        lines.append(f"Notice: {notice}.")
    return lines


def _named(statuses: Sequence[SpaceStatus], name: str) -> SpaceStatus:
    """The space that a name means."""
    found = [status for status in statuses if str(status.space) == name]
    found = found or [status for status in statuses if name in str(status.space)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(str(status.space) for status in found or statuses) or "none"
    problem = f"{name!r} means several spaces" if found else f"no space {name!r}"
    raise click.ClickException(f"{problem}: {known}")
