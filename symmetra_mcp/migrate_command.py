"""`symmetra-mcp migrate`: every rule to the provider that the settings choose, told step by step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import click

from symmetra_mcp.app import App
from symmetra_mcp.errors import SchemaError, SymmetraError
from symmetra_mcp.migration_story import Story, story_of
from symmetra_mcp.search import SearchRequest
from symmetra_mcp.spaces_command import lines_after_switch
from symmetra_mcp.terminal import examples, give_way, settings, with_app
from symmetra_mcp.text import counted

_UNTIL_THEY_ARE_SEEN_S = (0.2, 0.5, 1.0, 2.0)
"""PostgREST reads the schema anew when it is told to, a moment later."""
_TEST_QUERY = "vector database architecture"
"""What `migrate` asks, as the older system's migration did."""


@click.command(
    epilog=examples(
        "symmetra-mcp migrate --dry-run",
        "symmetra-mcp migrate --batch-size 50",
        "symmetra-mcp migrate --rollback",
        "symmetra-mcp migrate --project-id abcdefghijklmnopqrst --test-only",
    )
)
@click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Most texts in a request.")
@click.option("--dry-run", is_flag=True, help="Only tell texts, tokens, cost and time; nobody is asked.")
@click.option("--force", is_flag=True, help="Embed again what is embedded too.")
@click.option("--rollback", is_flag=True, help="Have searches compare again where they did before the last switch.")
@click.option("--test-only", is_flag=True, help="Change nothing: ask the provider, search once, show the best matches.")
@click.option("--project-id", metavar="REF", help="The rules of this Supabase project, by its 20 letters.")
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON, a line each; the last is the result.")
def migrate(
    batch_size: int | None,
    dry_run: bool,
    force: bool,
    rollback: bool,
    test_only: bool,
    project_id: str | None,
    as_json: bool,
) -> None:
    """Move every rule to the provider that the settings choose, without a gap for those who search.

    The new vectors are built beside the old ones. When all are there and a check has found rules by their own texts,
    searches switch; until then, and when anything fails, they go on in the old ones. A run that was cut off goes on
    when it is run again.
    """
    working = dry_run or force or batch_size is not None
    if test_only and (working or rollback):
        raise click.UsageError("--test-only changes nothing: leave out --batch-size, --dry-run, --force and --rollback")
    if rollback and working:
        raise click.UsageError("--rollback embeds nothing: leave out --batch-size, --dry-run and --force")

    async def run(app: App) -> None:
        with story_of(as_json=as_json) as story, _failure_told(story):
            await _install_functions(app, project_id or "", story)
            if rollback:
                await _roll_back(app, story)
                return
            await _connect(app, story, ask_provider=not dry_run)
            if test_only:
                await _test_search(app, story)
            else:
                await _migrate(app, story, batch_size, dry_run=dry_run, force=force)

    with_app(run, settings(project_id))


@contextmanager
def _failure_told(story: Story) -> Iterator[None]:
    """What a script reads of a failure, and what becomes of the work."""
    try:
        yield
    except SymmetraError as exc:
        story.failed(str(exc))
        raise
    except anyio.get_cancelled_exc_class():  # Ctrl-C
        story.failed("interrupted")
        raise


async def _install_functions(app: App, project_ref: str, story: Story) -> None:
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
    from symmetra_mcp.stores.schema import migrations
    from symmetra_mcp.stores.schema_install import apply_migrations
    from symmetra_mcp.stores.schema_open import open_database

    def install() -> None:
        with open_database(app.settings, project_ref) as database:
            apply_migrations(database, migrations())

    await anyio.to_thread.run_sync(install)
    story.tell("created", "Created the vector search functions in the database")
    for pause_s in _UNTIL_THEY_ARE_SEEN_S:
        try:
            await app.ready()
            return
        except SchemaError:
            await anyio.sleep(pause_s)
    await app.ready()


async def _connect(app: App, story: Story, *, ask_provider: bool) -> None:
    """Tell that provider and store can be used; either fails before anything is changed."""
    space = await app.providers.chosen_space()
    if ask_provider:
        await app.providers.chosen.embed_documents([_TEST_QUERY])  # not as a query, which a cache would answer
        text = f"Connected to {space.provider} ({space.model}, {space.dimensions} dimensions)"
        story.tell("connected", text, provider=space.provider, model=space.model, dimensions=space.dimensions)
    rules = sum((await app.count_rules()).values())
    described = await app.store.describe()
    place = f"Supabase, {described['url']}" if app.store.is_shared else f"the rule store {described['path']}"
    story.tell("connected", f"Connected to {place} ({counted(rules, 'rule')})", store=described["kind"], rules=rules)


async def _migrate(app: App, story: Story, batch_size: int | None, *, dry_run: bool, force: bool) -> None:
    from symmetra_mcp.embedding_run import RunLimits
    from symmetra_mcp.schemas import reembed_answer
    from symmetra_mcp.text import reembed_text

    give_way()
    story.request_texts = RunLimits.of(app.providers.chosen, batch_size).request_texts
    report = await app.reembed(
        force=force, dry_run=dry_run, batch_texts=batch_size, on_progress=story.batch, on_wait=story.waiting
    )
    answer = reembed_answer(report)
    if dry_run:
        batches = math.ceil(answer.missing / story.request_texts)
        story.end("plan", f"{reembed_text(answer)} Batches: {batches}.", **answer.to_dict(), batches=batches)
        return
    lines = [reembed_text(answer)]
    if report.probed:
        lines.append(f"Checked: rules are found by their own texts ({report.probed} asked).")
    if report.switched_from is not None:
        lines.append("Back again: `symmetra-mcp migrate --rollback`.")
    lines.append(
        "Migration complete." if not answer.missing else "Rules came in meanwhile: run `symmetra-mcp migrate` again."
    )
    story.end("done", "\n".join(lines), **answer.to_dict(), probed=report.probed)
    if answer.missing:
        raise click.exceptions.Exit(1)


async def _roll_back(app: App, story: Story) -> None:
    """Switch to the space that searches left last."""
    statuses = await app.spaces()
    left = [status for status in statuses if status.left_at and not status.active]
    if not left:
        raise click.ClickException("there is no space to go back to: searches never left one")
    former = max(left, key=lambda status: status.left_at)
    now_active = next((str(status.space) for status in statuses if status.active), "")
    await app.switch_to(former.space)
    lines = [f"Searches compare in {former.space} again; they compared in {now_active} before."]
    lines += await lines_after_switch(app, former)
    fields = {"space": str(former.space), "switched_from": now_active, "missing": former.missing}
    story.end("rolled_back", "\n".join(lines), **fields)


async def _test_search(app: App, story: Story) -> None:
    """Search once and show what is found; a search that can't compare by meaning fails the test."""
    from symmetra_mcp.schemas import search_result

    answer = await app.search(SearchRequest(query=_TEST_QUERY))
    if answer.space is None or answer.space != await app.store.active_space():
        raise click.ClickException(f"the test search failed: {answer.degraded}")
    for notice in (answer.degraded, await app.space_notice()):
        if notice:
            story.tell("notice", f"Notice: {notice}", notice=notice)
    lines = [f"The search for {_TEST_QUERY!r} in {answer.space} works."]
    lines.append("Top matches:" if answer.hits else "No rule is about it. Nearest:")
    for number, match in enumerate(answer.hits or answer.below, 1):
        category = f"[{match.rule.category}] " if match.rule.category else ""
        similarity = "by its words" if match.similarity is None else f"Similarity: {match.similarity:.3f}"
        lines += [f"  {number}. {category}{match.rule.title}", f"     Rule: {match.rule.rule_id} | {similarity}"]
    story.end("searched", "\n".join(lines), **search_result(answer).to_dict())
