"""What the commands of the command line share: options, answers on stdout, progress and errors on stderr.

The one module that prints.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import anyio
import click

from symmetra_mcp.app import App, open_app
from symmetra_mcp.config import Settings, checked_project_id, load_project_settings, load_settings
from symmetra_mcp.errors import ConfigError, ProviderError, SymmetraError
from symmetra_mcp.project import SHARED_PROJECT, STARTER_PROJECT
from symmetra_mcp.text import STAGES, ProgressLines, unknown_name
from symmetra_mcp.types import ProgressCallback, Stage

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from symmetra_mcp.ingest.export import RuleFormat

EXPORT_FORMATS: tuple[RuleFormat, ...] = ("yaml", "json", "jsonl", "md")
_WHOLE_LINES = 100_000
_PATIENCE_S = 15.0
"""How long a command waits for a vendor to embed what is new."""
_NICENESS = 10


def examples(*lines: str) -> str:
    """The end of a command's help: lines to copy."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


class ProjectId(click.ParamType[str]):
    """A project's name, or where `every` is set, `*` for every project."""

    name = "project"

    def __init__(self, *, every: bool = False) -> None:
        self.every = every

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, checked."""
        try:
            return str(value) if value == "" or (self.every and value == "*") else checked_project_id(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
project_option = click.option("--project", "-p", type=ProjectId(), default="", help="Project by name.")


def with_app(run: Callable[[App], Awaitable[None]], chosen: Settings | None = None) -> None:
    """Run a command over an app, telling errors on stderr.

    Args:
        run: The command.
        chosen: Settings; by default those of the environment.
    """
    chosen = chosen or settings()

    async def body() -> None:
        async with open_app(chosen) as app:
            await run(app)
            tell_notices(app)

    run_async(body)


def run_async(body: Callable[[], Awaitable[None]]) -> None:
    """Run a command that opens its apps itself, telling errors on stderr."""
    try:
        anyio.run(body)
    except SymmetraError as exc:
        raise click.ClickException(str(exc)) from None


def tell_notices(app: App) -> None:
    """Tell on stderr what the store has to say."""
    for notice in (*app.store.notices, *([app.store.trouble] if app.store.trouble else [])):
        click.echo(f"Notice: {notice}", err=True)


def give_way() -> None:
    """Leave the processors to whoever searches on this machine meanwhile: nobody waits for a step of long work."""
    if sys.platform != "win32":
        with suppress(OSError):
            os.nice(_NICENESS)


def settings(project_ref: str | None = None) -> Settings:
    """The settings, with a certain Supabase project as store where one is named; a wrong one ends the command."""
    try:
        return load_settings() if project_ref is None else load_project_settings(project_ref)
    except ConfigError as exc:
        raise click.ClickException(str(exc)) from None


def show(answer: RenderableType | dict[str, Any] | list[Any], *, as_json: bool) -> None:
    """Show an answer on stdout: as a table or text for people, or as JSON."""
    if as_json:
        write(json_text(answer) + "\n")
        return
    screen = console(sys.stdout)
    if screen.is_terminal:
        screen.print(answer)
        return
    rendered = io.StringIO()
    console(rendered).print(answer)
    write("\n".join(line.rstrip() for line in rendered.getvalue().split("\n")))


def json_text(answer: Any) -> str:
    """JSON as people read it, or in ASCII where stdout can't hold a character of it: that loses none."""
    text = json.dumps(answer, ensure_ascii=False, indent=2)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(answer, indent=2)
    return text


def write(text: str, *, as_data: bool = False) -> None:
    """Write to stdout.

    Args:
        text: What to write, with its line ends.
        as_data: A file or a pipe gets it in UTF-8, whatever the encoding of the terminal.
    """
    if sys.stdout is None:
        return  # closed by whoever started the command
    try:
        if as_data and not sys.stdout.isatty():
            sys.stdout.flush()
            sys.stdout.buffer.write(text.encode())
        else:
            sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # click ends the command without a word
    except OSError as exc:
        forget_output()
        raise click.ClickException(f"the answer can't be written to stdout: {exc.strerror or exc}") from None


async def write_file(output: Path, text: str, *, option: str = "--output") -> None:
    """Write an answer into the file that an option named, and say so."""
    try:
        await anyio.Path(output).write_text(text, "utf-8")
    except OSError as exc:
        problem = f"{str(output)!r} can't be written: {exc.strerror or exc}"
        raise click.ClickException(f"{problem}. Give {option} a file in a folder that takes it") from None
    click.echo(f"Wrote {output}", err=True)


def format_of(output: Path | None) -> RuleFormat:
    """The form of rules that a file's name tells; YAML for stdout."""
    if output is None or output.suffix in (".yaml", ".yml"):
        return "yaml"
    for name in EXPORT_FORMATS:
        if output.suffix == f".{name}":
            return name
    raise click.UsageError(f"can't tell the format from {str(output)!r}: give one of {', '.join(EXPORT_FORMATS)}")


def forget_output() -> None:
    """Let go of what stdout could not take: Python would try once more when it ends, and complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console(stream: TextIO) -> Console:
    """Wraps lines for a terminal alone: a file or a pipe gets them whole."""
    from rich.console import Console

    made = Console(file=stream, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = _WHOLE_LINES
    return made


@contextmanager
def progress() -> Iterator[ProgressCallback]:
    """Progress on stderr: a bar for each stage on a terminal, else now and then a line of work that takes long."""
    screen = console(sys.stderr)
    if not screen.is_terminal:
        lines = ProgressLines()

        def tell(stage: Stage, done: int, total: int) -> None:
            line = lines.line(stage, done, total)
            if line:
                click.echo(line, err=True)

        yield tell
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[Stage, TaskID] = {}
    with Progress(*columns, console=screen, transient=True) as bars:

        def on_progress(stage: Stage, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(STAGES[stage], total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield on_progress


async def sync(app: App) -> None:
    """Read the project's rule files where they changed, and embed what no other process is embedding.

    A vendor that does not answer is waited for a while; the local model for as long as it takes.
    """
    with progress() as on_progress:
        await app.keep_in_step(on_progress=on_progress)
        patience_s = _PATIENCE_S if app.providers.chosen.is_remote else math.inf
        with suppress(ProviderError), anyio.move_on_after(patience_s):  # the search answers, and says what is missing
            await app.embed_missing(wait=False, on_progress=on_progress)
    notice = await app.space_notice()
    if notice:
        click.echo(f"Notice: {notice}", err=True)


async def check_project(app: App, project: str) -> None:
    """Refuse a project that is not there: an empty answer would say that it has no rules."""
    counts = await app.count_rules() if project else {}
    if not project or project in counts or project in (SHARED_PROJECT, STARTER_PROJECT):
        return
    if app.project is None or project not in app.project.project_ids:
        raise click.ClickException(unknown_name("project", project, counts))
