"""`symmetra-mcp migrate`: every rule to the provider that the settings choose, told step by step."""

from __future__ import annotations

import math

import anyio
import click

from symmetra_mcp.app import App
from symmetra_mcp.errors import SchemaError
from symmetra_mcp.search import SearchRequest
from symmetra_mcp.terminal import examples, json_option, settings, show, with_app
from symmetra_mcp.text import counted
from symmetra_mcp.types import Stage

_UNTIL_THEY_ARE_SEEN_S = (0.2, 0.5, 1.0, 2.0)
"""PostgREST reads the schema anew when it is told to, a moment later."""
_TEST_QUERY = "vector database architecture"
"""What `migrate` asks, as the older system's migration did."""


@click.command(
    epilog=examples(
        "symmetra-mcp migrate --dry-run",
        "symmetra-mcp migrate --batch-size 50",
        "symmetra-mcp migrate --project-id abcdefghijklmnopqrst --test-only",
    )
)
@click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Most texts in a request; saved after each N.")
@click.option("--dry-run", is_flag=True, help="Only count what would be embedded; nobody is asked.")
@click.option("--force", is_flag=True, help="Embed again what is embedded too.")
@click.option("--test-only", is_flag=True, help="Change nothing: ask the provider, search once, show the best matches.")
@click.option("--project-id", metavar="REF", help="The rules of this Supabase project, by its 20 letters.")
@json_option
def migrate(
    batch_size: int | None, dry_run: bool, force: bool, test_only: bool, project_id: str | None, as_json: bool
) -> None:
    """Move every rule to the provider that the settings choose: what `reembed` does, told step by step."""
    if test_only and (dry_run or force or batch_size is not None):
        raise click.UsageError("--test-only changes nothing: leave out --batch-size, --dry-run and --force")

    async def run(app: App) -> None:
        await _install_functions(app, project_id or "")
        await _connect(app, ask_provider=not dry_run)
        if test_only:
            await _test_search(app, as_json=as_json)
        else:
            await _migrate(app, batch_size, dry_run=dry_run, force=force, as_json=as_json)

    with_app(run, settings(project_id))


async def _install_functions(app: App, project_ref: str) -> None:
    """Install the functions that the team's store calls, where they are missing and something lets us.

    Raises:
        SchemaError: They are missing, and neither a connection string nor a token is set.
    """
    try:
        await app.ready()
        return
    except SchemaError:
        if not app.store.is_shared or not (app.settings.db_url or app.settings.supabase_access_token):
            raise
    from symmetra_mcp.schema_command import open_database
    from symmetra_mcp.stores.schema import migrations
    from symmetra_mcp.stores.schema_install import apply_migrations

    def install() -> None:
        with open_database(app.settings, project_ref) as database:
            apply_migrations(database, migrations())

    await anyio.to_thread.run_sync(install)
    click.echo("Created the vector search functions in the database", err=True)
    for pause_s in _UNTIL_THEY_ARE_SEEN_S:
        try:
            await app.ready()
            return
        except SchemaError:
            await anyio.sleep(pause_s)
    await app.ready()


async def _connect(app: App, *, ask_provider: bool) -> None:
    """Say on stderr that provider and store can be used; either fails before anything is changed."""
    space = await app.providers.chosen_space()
    if ask_provider:
        await app.providers.chosen.embed_documents([_TEST_QUERY])  # not as a query, which a cache would answer
        click.echo(f"Connected to {space.provider} ({space.model}, {space.dimensions} dimensions)", err=True)
    rules = sum((await app.count_rules()).values())
    described = await app.store.describe()
    place = f"Supabase, {described['url']}" if app.store.is_shared else f"the rule store {described['path']}"
    click.echo(f"Connected to {place} ({counted(rules, 'rule')})", err=True)


async def _migrate(app: App, batch_size: int | None, *, dry_run: bool, force: bool, as_json: bool) -> None:
    from symmetra_mcp.reembed import page_size
    from symmetra_mcp.schemas import reembed_answer
    from symmetra_mcp.text import reembed_text

    size = page_size(app.providers.chosen, batch_size)
    told = 0

    def tell(stage: Stage, done: int, total: int) -> None:
        nonlocal told
        told += 1
        batches = max(told, math.ceil(total / size))
        click.echo(f"Batch {told} of {batches}: {done} of {counted(total, 'text')} embedded", err=True)

    report = await app.reembed(force=force, dry_run=dry_run, batch_texts=batch_size, on_progress=tell)
    answer = reembed_answer(report)
    if as_json:
        show(answer.to_dict(), as_json=True)
    elif dry_run:
        show(f"{reembed_text(answer)} Batches: {math.ceil(answer.missing / size)}.", as_json=False)
    else:
        end = (
            "Migration complete."
            if not answer.missing
            else "Rules came in meanwhile: run `symmetra-mcp migrate` again."
        )
        show(f"{reembed_text(answer)}\n{end}", as_json=False)
    if answer.missing and not dry_run:
        raise click.exceptions.Exit(1)


async def _test_search(app: App, *, as_json: bool) -> None:
    """Search once and show what is found; a search that can't compare by meaning fails the test."""
    from symmetra_mcp.schemas import search_result

    answer = await app.search(SearchRequest(query=_TEST_QUERY))
    if answer.space is None or answer.space != await app.store.active_space():
        raise click.ClickException(f"the test search failed: {answer.degraded}")
    for notice in (answer.degraded, await app.space_notice()):
        if notice:
            click.echo(f"Notice: {notice}", err=True)
    if as_json:
        show(search_result(answer).to_dict(), as_json=True)
        return
    lines = [f"The search for {_TEST_QUERY!r} in {answer.space} works."]
    lines.append("Top matches:" if answer.hits else "No rule is about it. Nearest:")
    for number, match in enumerate(answer.hits or answer.below, 1):
        category = f"[{match.rule.category}] " if match.rule.category else ""
        similarity = "by its words" if match.similarity is None else f"Similarity: {match.similarity:.3f}"
        lines += [f"  {number}. {category}{match.rule.title}", f"     Rule: {match.rule.rule_id} | {similarity}"]
    show("\n".join(lines), as_json=False)
