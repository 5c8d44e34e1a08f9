"""The command line: every power of the server, for people and scripts.

Answers go to stdout, progress, notices and errors to stderr. Exit code 0: it worked; 1: it failed, or nobody reads the
answer any more; 2: wrong usage.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import click

from symmetra_mcp import __version__, terminal
from symmetra_mcp.app import App
from symmetra_mcp.audit_command import audit
from symmetra_mcp.errors import ProviderError
from symmetra_mcp.eval_command import evaluate
from symmetra_mcp.install_command import install
from symmetra_mcp.migrate_command import migrate
from symmetra_mcp.schema_command import schema
from symmetra_mcp.search import (
    DEFAULT_LIMIT,
    DEFAULT_MAX_TOKENS,
    MAX_LIMIT,
    MAX_QUERY_CHARACTERS,
    MIN_MAX_TOKENS,
    SearchRequest,
)
from symmetra_mcp.spaces_command import spaces
from symmetra_mcp.terminal import (
    ProjectId,
    check_project,
    examples,
    give_way,
    json_option,
    progress,
    project_option,
    sync,
    with_app,
    write,
)
from symmetra_mcp.text import counted, rule_text, unknown_name
from symmetra_mcp.transfer_command import pull, push
from symmetra_mcp.types import Priority, Rule, RuleKey

if TYPE_CHECKING:
    from symmetra_mcp.ingest.export import RuleFormat
    from symmetra_mcp.running import RunningNow
    from symmetra_mcp.types import InputType

_STDIN_CHUNK = 65_536
_LOOPBACK, _PORT = "127.0.0.1", 8000


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        'symmetra-mcp search "where should embeddings be stored?"',
        "symmetra-mcp import .            # read this project's rule files",
        "symmetra-mcp                     # serve MCP over stdio, as editors start it",
    ),
)
@click.version_option(__version__, "-V", "--version", message="symmetra-mcp %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Hand an AI coding assistant the few of your team's rules that matter for what it is about to write.

    Without a command: serve MCP over stdio.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(serve)


@cli.command(
    epilog=examples(
        "symmetra-mcp serve --read-only                        # nothing that changes anything",
        "symmetra-mcp serve --tools search_rules,health_check  # these two alone",
        "symmetra-mcp serve --http                             # http://127.0.0.1:8000/mcp",
        "symmetra-mcp serve --http --host 0.0.0.0              # SYMMETRA_HTTP_TOKEN and SYMMETRA_HTTP_URL are set",
    )
)
@click.option("--http", "over_http", is_flag=True, help="Serve Streamable HTTP at /mcp instead of stdio.")
@click.option(
    "--host",
    metavar="ADDRESS",
    help="With --http: where to listen; 127.0.0.1 by default. Any address that other machines reach needs tokens "
    "(SYMMETRA_HTTP_TOKEN or SYMMETRA_HTTP_ISSUER), and a proxy before it that speaks TLS: this server doesn't.",
)
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="With --http: 8000 by default; 0 takes a port that is free."
)
@click.option("--read-only", is_flag=True, help="Leave out every tool that changes anything.")
@click.option("--allow-writes", is_flag=True, help="Let the assistant save and delete rules.")
@click.option("--tools", metavar="NAMES", help="Tools that the assistant gets, comma-separated.")
def serve(
    over_http: bool, host: str | None, port: int | None, read_only: bool, allow_writes: bool, tools: str | None
) -> None:
    """Serve MCP: over stdio until the client closes it, or over HTTP. The options win over the settings."""
    if not over_http and (host is not None or port is not None):
        raise click.UsageError("--host and --port go with --http")
    given = {"read_only": read_only or None, "allow_writes": allow_writes or None, "tools": tools}
    flags = {name: value for name, value in given.items() if value is not None}
    if over_http:
        from symmetra_mcp.http.serving import run as run_http

        run_http(_LOOPBACK if host is None else host, _PORT if port is None else port, flags)

    from symmetra_mcp.stdio.front import open_front
    from symmetra_mcp.stdio.start import run

    run(open_front(flags), flags)


@cli.command(
    epilog=examples(
        'symmetra-mcp search "where should embeddings be stored?"',
        'symmetra-mcp search "retry a failed payment" --file src/payments/client.py',
        "git diff | symmetra-mcp search - --limit 8 --json",
    )
)
@click.argument("query")
@click.option("--file", "file_path", default="", metavar="PATH", help="File in hand: rules for others are left out.")
@click.option("--category", "-c", default="", help="Only this category.")
@click.option("--priority", type=click.Choice(get_args(Priority)), default="low", help="This priority or higher.")
@click.option("--tech", "-t", "tech_stacks", multiple=True, help="Only rules for this tech stack, and general ones.")
@click.option("--project", "-p", type=ProjectId(every=True), default="", help="Project by name; '*' for all.")
@click.option("--limit", "-n", type=click.IntRange(1, MAX_LIMIT), default=DEFAULT_LIMIT, show_default=True)
@click.option("--max-tokens", type=click.IntRange(MIN_MAX_TOKENS), default=DEFAULT_MAX_TOKENS, show_default=True)
@click.option("--no-sync", is_flag=True, help="Don't read the project's rule files first.")
@json_option
def search(
    query: str,
    file_path: str,
    category: str,
    priority: Priority,
    tech_stacks: tuple[str, ...],
    project: str,
    limit: int,
    max_tokens: int,
    no_sync: bool,
    as_json: bool,
) -> None:
    """Find the rules that matter for QUERY: a sentence or code; '-' reads its first 20,000 characters from stdin."""
    from symmetra_mcp.schemas import search_result
    from symmetra_mcp.tables import search_answer

    path = str(Path(file_path).absolute()) if file_path else ""
    if query == "-":
        query = _query_from_stdin()

    async def run(app: App) -> None:
        request = SearchRequest(
            query=query,
            category=category,
            min_priority=priority,
            tech_stacks=tech_stacks,
            file_path=path,
            limit=limit,
            max_tokens=max_tokens,
        )
        if not no_sync:
            await sync(app)
        every = project == "*"
        if not every:
            await check_project(app, project)
        if category or tech_stacks:
            _notice_unknown(await app.list_rules(), category, tech_stacks)
        with suppress(ProviderError):  # the search says what is wrong
            await app.warm_up_reranker()
        answer = await app.search(request, project_id="" if every else project, all_projects=every)
        result = search_result(answer)
        terminal.show(result.to_dict() if as_json else search_answer(result), as_json=as_json)

    with_app(run)


@cli.command(
    "import",
    epilog=examples(
        "symmetra-mcp import .                       # every rule file of this project",
        "symmetra-mcp import AGENTS.md .cursor --dry-run",
        "symmetra-mcp import ~/team-rules --project shared --prune",
    ),
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@project_option
@click.option("--dry-run", is_flag=True, help="Show what would happen; write nothing.")
@click.option("--prune", is_flag=True, help="Remove the rules that have left these files.")
@click.option("--verbose", "-v", is_flag=True, help="Show every file.")
@json_option
def import_(paths: tuple[Path, ...], project: str, dry_run: bool, prune: bool, verbose: bool, as_json: bool) -> None:
    """Read rule files: Cursor, AGENTS.md, Claude, Copilot, Windsurf, Cline, Roo, Kiro, Gemini, and our own YAML.

    PATHS are files or folders of one project. Rules imported as project "shared" count in every project.
    """
    from symmetra_mcp.schemas import reembed_answer
    from symmetra_mcp.tables import import_report

    async def run(app: App) -> None:
        with progress() as on_progress:
            result = await app.import_rules(
                paths, project_id=project, prune=prune, dry_run=dry_run, on_progress=on_progress
            )
        answer = result.report.to_dict()
        if result.embedding is not None:
            answer["embedding"] = reembed_answer(result.embedding).to_dict()
        if as_json:
            terminal.show(answer, as_json=True)
        else:
            terminal.show(import_report(result.report, result.embedding, verbose=verbose, paths=paths), as_json=False)

    with_app(run)


@cli.group()
def rules() -> None:
    """List, show, audit, export, delete and restore rules, and move them to and from a team's store."""


@rules.command("list", epilog=examples("symmetra-mcp rules list --project starter --category security"))
@project_option
@click.option("--category", "-c", default="", help="Only this category.")
@json_option
def list_(project: str, category: str, as_json: bool) -> None:
    """List rules."""
    from symmetra_mcp.tables import rules_table

    async def run(app: App) -> None:
        await check_project(app, project)
        every = await app.list_rules(project or None)
        _notice_unknown(every, category)
        found = [rule for rule in every if not category or rule.category.casefold() == category.casefold()]
        filtered = bool(category or project)
        terminal.show(
            [_summary(rule) for rule in found] if as_json else rules_table(found, filtered=filtered), as_json=as_json
        )

    with_app(run)


@rules.command(epilog=examples("symmetra-mcp rules show vector-db-choice"))
@click.argument("rule_id")
@project_option
@json_option
def show(rule_id: str, project: str, as_json: bool) -> None:
    """Show a whole rule."""

    async def run(app: App) -> None:
        found = await _rules_named(app, rule_id, project)
        if as_json:
            terminal.show([_whole(rule) for rule in found], as_json=True)
        else:
            write("\n".join(rule_text(rule) for rule in found))

    with_app(run)


@rules.command(epilog=examples("symmetra-mcp rules export --project starter --output rules.yaml"))
@project_option
@click.option(
    "--format", "format_", type=click.Choice(terminal.EXPORT_FORMATS), help="Default: by the file's name, else yaml."
)
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="File to write; default: stdout.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def export(project: str, format_: RuleFormat | None, output: Path | None, as_json: bool) -> None:
    """Write rules in a form that `import` reads back."""
    from symmetra_mcp.ingest.export import dump_rules

    if as_json:
        format_ = "json"
    if format_ is None:
        format_ = terminal.format_of(output)

    async def run(app: App) -> None:
        await check_project(app, project)
        text = dump_rules(await app.list_rules(project or None), format_)
        if output is None:
            write(text, as_data=True)
            return
        await terminal.write_file(output, text)

    with_app(run)


@rules.command(epilog=examples("symmetra-mcp rules delete old-rule", "symmetra-mcp rules delete --project demo --all"))
@click.argument("rule_ids", nargs=-1)
@project_option
@click.option("--all", "all_", is_flag=True, help="Every rule of --project.")
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@json_option
def delete(rule_ids: tuple[str, ...], project: str, all_: bool, yes: bool, as_json: bool) -> None:
    """Delete rules by id, or a whole project.

    A file's rules come back when the file is imported again, starter rules by `rules restore`.
    """
    if all_ == bool(rule_ids) or (all_ and not project):
        raise click.UsageError("give rule ids, or --project NAME --all")

    async def run(app: App) -> None:
        keys: list[RuleKey] = []
        if all_:
            keys = [rule.key for rule in await app.list_rules(project)]
        for rule_id in rule_ids:
            keys += [rule.key for rule in await _rules_named(app, rule_id, project)]
        if not yes and keys:
            click.confirm(f"Delete {counted(len(keys), 'rule')}?", abort=True, err=True)
        deleted = await (app.delete_project(project) if all_ else app.delete_rules(keys))
        terminal.show({"deleted": deleted} if as_json else f"{counted(deleted, 'rule')} deleted", as_json=as_json)

    with_app(run)


@rules.command(epilog=examples("symmetra-mcp rules restore"))
@json_option
def restore(as_json: bool) -> None:
    """Bring back the starter rules that were deleted."""

    async def run(app: App) -> None:
        restored = await app.restore_starter_rules()
        terminal.show(
            {"restored": restored} if as_json else f"{counted(restored, 'starter rule')} restored", as_json=as_json
        )

    with_app(run)


@cli.command(epilog=examples('symmetra-mcp embed "retry with exponential backoff" --query --json'))
@click.argument("text")
@click.option("--query", "as_query", is_flag=True, help="Embed as a search query rather than a document.")
@json_option
def embed(text: str, as_query: bool, as_json: bool) -> None:
    """Embed TEXT; --json prints the whole vector."""
    from symmetra_mcp.passages import content_hash
    from symmetra_mcp.schemas import embedding_answer
    from symmetra_mcp.text import embedding_text

    if not text:
        raise click.ClickException("the text is empty: give the text to embed")
    side: InputType = "query" if as_query else "document"

    async def run(app: App) -> None:
        answer = embedding_answer(await app.embed(text, side), side, content_hash(text), whole=as_json)
        terminal.show(answer.to_dict() if as_json else embedding_text(answer), as_json=as_json)

    with_app(run)


@cli.command(epilog=examples("symmetra-mcp health --thorough"))
@click.option("--thorough", is_flag=True, help="Read the whole store to check its integrity.")
@json_option
def health(thorough: bool, as_json: bool) -> None:
    """Check the store, the embedding provider and the rules; exit code 1 when searches can't be answered."""
    from symmetra_mcp.schemas import health_answer
    from symmetra_mcp.text import health_text

    async def run(app: App) -> None:
        answer = health_answer(await app.health(thorough=thorough), __version__)
        terminal.show(answer.to_dict() if as_json else health_text(answer), as_json=as_json)
        if answer.status == "unhealthy":
            raise click.exceptions.Exit(1)

    with_app(run)


@cli.command(epilog=examples("symmetra-mcp reembed --dry-run"))
@click.option("--dry-run", is_flag=True, help="Only count what would be embedded.")
@click.option("--force", is_flag=True, help="Embed again what is embedded too.")
@json_option
def reembed(dry_run: bool, force: bool, as_json: bool) -> None:
    """Embed every rule that is not embedded yet, and make searches use the present provider."""
    from symmetra_mcp.schemas import reembed_answer
    from symmetra_mcp.text import reembed_text

    told: set[str] = set()

    def tell_wait(running: RunningNow | None) -> None:
        who = f"{running.host} (process {running.pid})" if running else "a run that has just begun"
        if who not in told:
            told.add(who)
            click.echo(f"Waiting for another run: {running or who}", err=True)

    async def run(app: App) -> None:
        give_way()
        with progress() as on_progress:
            report = await app.reembed(force=force, dry_run=dry_run, on_progress=on_progress, on_wait=tell_wait)
        answer = reembed_answer(report)
        terminal.show(answer.to_dict() if as_json else reembed_text(answer), as_json=as_json)

    with_app(run)


@cli.command(epilog=examples("symmetra-mcp usage", "symmetra-mcp usage --all --json"))
@click.option("--all", "all_months", is_flag=True, help="All months, not only the present one (UTC).")
@json_option
def usage(all_months: bool, as_json: bool) -> None:
    """Show what embeddings of OpenAI or Cohere cost: requests, texts, tokens and US dollars by month."""
    from symmetra_mcp.schemas import usage_answer
    from symmetra_mcp.text import usage_text

    async def run(app: App) -> None:
        answer = usage_answer(await app.usage(all_months=all_months))
        terminal.show(answer.to_dict() if as_json else usage_text(answer), as_json=as_json)

    with_app(run)


cli.add_command(evaluate)
cli.add_command(install)
cli.add_command(migrate)
cli.add_command(schema)
cli.add_command(spaces)
rules.add_command(audit)
rules.add_command(push)
rules.add_command(pull)


def main() -> NoReturn:
    """Run the command line."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        cli(prog_name="symmetra-mcp")
    except OSError as exc:  # click's own output, as of --help, can fail too
        terminal.forget_output()
        click.echo(f"Error: {exc}", err=True)
        raise SystemExit(1) from None
    raise SystemExit(0)


def _query_from_stdin() -> str:
    """The part of stdin that a query can hold; what is cut is told on stderr."""
    if sys.stdin is None:
        raise click.ClickException("'-' reads the query from stdin, and stdin is closed")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    query = sys.stdin.read(MAX_QUERY_CHARACTERS)
    rest = sum(len(chunk) for chunk in iter(lambda: sys.stdin.read(_STDIN_CHUNK), ""))
    if rest:
        total = len(query) + rest
        click.echo(f"Notice: the query is the first {len(query):,} of {total:,} characters from stdin", err=True)
    return query


def _notice_unknown(rules: Iterable[Rule], category: str, tech_stacks: Iterable[str] = ()) -> None:
    """Say on stderr which of these names no rule has: a filter with a slip in it gives nothing, and silently."""
    rules = list(rules)
    categories = {rule.category for rule in rules if rule.category}
    stacks = {stack for rule in rules for stack in rule.tech_stacks}
    if category and category.casefold() not in map(str.casefold, categories):
        click.echo(f"Notice: {unknown_name('category', category, categories)}", err=True)
    for name in tech_stacks:
        if name.casefold() not in map(str.casefold, stacks):
            click.echo(f"Notice: {unknown_name('rule for the tech stack', name, stacks)}", err=True)


async def _rules_named(app: App, rule_id: str, project: str) -> list[Rule]:
    await check_project(app, project)
    found = await app.get_rule(rule_id, project)
    if not found:
        where = f" in project {project!r}" if project else ""
        raise click.ClickException(f"no rule {rule_id!r}{where}: `symmetra-mcp rules list` shows the ids")
    return found


def _summary(rule: Rule) -> dict[str, Any]:
    return {
        "project_id": rule.project_id,
        "rule_id": rule.rule_id,
        "title": rule.title,
        "category": rule.category,
        "priority": rule.priority,
        "source": str(rule.sources[0]) if rule.sources else "",
    }


def _whole(rule: Rule) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(rule)
