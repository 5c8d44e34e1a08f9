"""The composition root: settings in, everything wired. The MCP tools and the command line are two faces of it.

Making an `App` does no I/O. The store is opened at the first call that needs it, and again at the next one if that
fails, so a server with an unusable data folder still starts, and says what is wrong when it is asked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import from_thread

from symmetra_mcp.calibration import Calibrations
from symmetra_mcp.config import Settings, load_settings
from symmetra_mcp.errors import ConfigError, StoreError, StoreUnavailableError, SymmetraError
from symmetra_mcp.health import check_health, check_reranker, other_space_notice
from symmetra_mcp.import_log import forget_project
from symmetra_mcp.jobs import Job, Jobs
from symmetra_mcp.metering import UsageReport, usage_report
from symmetra_mcp.project import SHARED_PROJECT, STARTER_PROJECT, Project, project_in_hand
from symmetra_mcp.reembed import ReembedReport, complete_space
from symmetra_mcp.rule_intake import RuleIntake
from symmetra_mcp.running import running_now
from symmetra_mcp.search import SearchAnswer, SearchRequest, search
from symmetra_mcp.types import ComponentHealth

if TYPE_CHECKING:
    from symmetra_mcp.ingest.report import ImportReport
    from symmetra_mcp.providers.base import EmbeddingProvider, Embeddings
    from symmetra_mcp.providers.local import LocalProvider
    from symmetra_mcp.providers.select import ProviderChoice
    from symmetra_mcp.reranking import Reranking
    from symmetra_mcp.running import RunningNow
    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.stores.base import RuleStore, SpaceStatus
    from symmetra_mcp.types import Detail, HealthReport, InputType, ProgressCallback, Rule, RuleKey
    from symmetra_mcp.usage import UsageLog


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import read and wrote, and what it embedded; nothing is embedded in a dry run."""

    report: ImportReport
    embedding: ReembedReport | None


class App:
    """Everything symmetra-mcp can do.

    Attributes:
        settings: What it was made from.
        store: Where rules are kept.
        providers: What embeds.
        reranking: What orders the rules that were found once more, or `None`.
        jobs: Work that outlives the call that began it.
    """

    def __init__(
        self,
        settings: Settings,
        store: RuleStore,
        providers: ProviderChoice,
        usage_log: UsageLog | None = None,
        reranking: Reranking | None = None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.providers = providers
        self.reranking = reranking
        self._calibrations = Calibrations(store)
        self.jobs = Jobs()
        self._usage_log = usage_log
        self._intake = RuleIntake(settings, store, providers)
        self._project: Project | None = None
        self._project_known = False

    @property
    def project(self) -> Project | None:
        """The project in hand, found out at first use.

        Raises:
            RuleFileError: `SYMMETRA_RULES` names a path that does not exist.
            ConfigError: `SYMMETRA_PROJECT_DIR` does.
        """
        if not self._project_known:
            self._project = project_in_hand(self.settings, shared_store=self.store.is_shared)
            self._project_known = True
        return self._project

    async def aclose(self) -> None:
        """Release the store and the provider."""
        with anyio.CancelScope(shield=True):
            await self.store.aclose()
            await self.providers.aclose()
            if self.reranking is not None:
                await self.reranking.reranker.aclose()
            if self._usage_log is not None:
                await anyio.to_thread.run_sync(self._usage_log.close)

    async def ready(self) -> None:
        """Open the store and bring the starter rules in, once; read everything again after a store began anew.

        Raises:
            StoreError: The store can't be used.
        """
        await self._intake.ready()

    def take_refilled(self) -> bool:
        """Whether rules were read into a store that began anew since this was last asked: they need embedding."""
        return self._intake.take_refilled()

    # Rules in

    async def import_rules(
        self,
        paths: Sequence[Path],
        *,
        project_id: str = "",
        prune: bool = False,
        dry_run: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> ImportResult:
        """Read rule files, write what changed, and embed what is new.

        Args:
            paths: Files and folders.
            project_id: Project to import into; by default the one that the first path belongs to.
            prune: Remove the rules that have left these files.
            dry_run: Report only.
            on_progress: Hears how far it is.

        Raises:
            RuleFileError: A path does not exist.
            StoreError: The store failed.
            ProviderError: Embedding failed; the rules are stored, and match by words.
        """
        folder = self._intake.folder_of(paths, project_id)
        await self.ready()
        report = await self._intake.import_folder(folder, prune=prune, dry_run=dry_run, on_progress=on_progress)
        return ImportResult(report, None if dry_run else await self.embed_missing(on_progress=on_progress))

    async def keep_in_step(
        self, *, unasked: bool = False, on_progress: ProgressCallback | None = None
    ) -> list[ImportReport]:
        """Read the project's rule files again where one of them changed.

        Args:
            unasked: Nobody waits for it: new files are looked for a small part of the time only.
            on_progress: Hears how far it is.

        Returns:
            What changed, by folder; empty when nothing did.
        """
        await self.ready()
        return await self._intake.keep_in_step(self.project, unasked=unasked, on_progress=on_progress)

    async def embed_missing(self, *, wait: bool = True, on_progress: ProgressCallback | None = None) -> ReembedReport:
        """Embed what has no vector yet, in the space that searches compare in.

        Raises:
            ProviderError: Nothing embeds in it now; the rules match by their words, or in the backup space.
        """
        await self.ready()
        provider = await self.providers.serving(await self.store.active_space())
        if not self.store.may_write():  # somebody whose key may write embeds for everybody
            return ReembedReport(provider.space, 0, 0, await self.store.count_passages())
        return await complete_space(self.store, provider, wait=wait, on_progress=on_progress)

    async def keep_backup(self) -> ReembedReport | None:
        """Complete the bundled model's space beside a remote provider's: what searches compare in while that is down.

        Returns:
            What was done; `None` where no backup is kept or none is needed.
        """
        backup, active = self.providers.backup, await self.store.active_space()
        if backup is None or active is None or active.provider == backup.space.provider or not self.store.may_write():
            return None
        return await complete_space(self.store, backup, wait=False, activate=False)

    async def keep_copy(self) -> None:
        """Bring the copy of a team's store in step; nothing to do for the embedded one.

        Raises:
            StoreError: The store or the copy failed.
        """
        await self.ready()
        if self.store.copy_is_stale:
            await self.store.keep_copy()

    async def space_notice(self) -> str:
        """That the rules are embedded in another space than the settings choose, and how to move them; else empty.

        Raises:
            StoreError: The store failed.
        """
        await self.ready()
        return await other_space_notice(self.store, self.providers)

    async def warm_up(self) -> None:
        """Do now what the first search would do: load the model, or import the vendor's SDK."""
        await self.ready()
        provider = await self.providers.serving(await self.store.active_space())
        await provider.warm_up()

    async def warm_up_reranker(self) -> None:
        """Load the re-ranker's model, or import the vendor's SDK; nothing to do where there is none.

        Raises:
            ProviderError: It can't be done; searches say so.
        """
        if self.reranking is not None:
            await self.reranking.reranker.warm_up()

    async def restore_starter_rules(self) -> int:
        """Bring back the starter rules that were deleted.

        Returns:
            How many came back.
        """
        before = len(await self.list_rules(STARTER_PROJECT))
        await self._intake.install_starter_rules(again=True)
        return len(await self.list_rules(STARTER_PROJECT)) - before

    # Rules out

    async def search(
        self, request: SearchRequest, *, project_id: str = "", all_projects: bool = False, may_rerank: bool = True
    ) -> SearchAnswer:
        """Find the rules that matter.

        Args:
            request: The question; its projects are filled in here.
            project_id: Project to search instead of the one in hand.
            all_projects: Search every project.
            may_rerank: Let the re-ranker order them, where there is one.

        Raises:
            StoreError: The store failed.
        """
        await self.ready()
        own = self._own_projects(project_id)
        return await search(
            self.store,
            self.providers,
            replace(
                request,
                project_ids=() if all_projects else self._limits(own, named=bool(project_id)),
                excluded_project_ids=self._excluded,
                preferred_project_ids=own,
                root=request.root or (str(self.project.root) if self.project is not None else ""),
            ),
            self.reranking if may_rerank else None,
            calibrations=self._calibrations,
        )

    def _own_projects(self, project_id: str = "") -> tuple[str, ...]:
        """The projects in hand, the starter rules aside; none where the folder is no project."""
        if project_id:
            return (project_id, SHARED_PROJECT)
        return self.project.project_ids if self.project is not None else ()

    def _limits(self, own: tuple[str, ...], *, named: bool = False) -> tuple[str, ...]:
        """The projects that a search is limited to; none where every rule counts."""
        # All rules of a team's store are the team's: the project in hand goes first, unless it was named.
        if not own or (self.store.is_shared and not named and not self.settings.project):
            return ()
        return (*own, STARTER_PROJECT)

    @property
    def _excluded(self) -> tuple[str, ...]:
        return () if self.settings.starter_rules else (STARTER_PROJECT,)

    async def counted_projects(self) -> list[str]:
        """The projects that have rules and that a search counts, in order.

        Raises:
            StoreError: The store failed.
        """
        await self.ready()
        limits = self._limits(self._own_projects())
        there = await self.store.count_rules()
        return sorted(name for name in there if (not limits or name in limits) and name not in self._excluded)

    async def page_of_rules(self, after: RuleKey | None, limit: int) -> list[Rule]:
        """The rules that a search counts, ordered by key, a page at a time.

        Args:
            after: Key that the page begins behind, whether there is such a rule or not.
            limit: Size of a page.

        Raises:
            StoreError: The store failed.
        """
        page: list[Rule] = []
        for project_id in await self.counted_projects():
            if after is not None and project_id < after.project_id:
                continue
            behind = after.rule_id if after is not None and project_id == after.project_id else ""
            page += await self.store.page_of_rules(project_id, after=behind, limit=limit - len(page))
            if len(page) >= limit:
                break
        return page

    async def searched_rules(self) -> list[Rule]:
        """The rules that a search considers which names no project.

        Raises:
            StoreError: The store failed.
        """
        counted = await self.counted_projects()
        return [rule for rule in await self.list_rules() if rule.project_id in counted]

    async def embed(self, text: str, input_type: InputType) -> Embeddings:
        """Embed one text, as a query or as a document, in the space that searches compare in.

        Raises:
            ProviderError: The provider failed.
        """
        try:
            await self.ready()
            active = await self.store.active_space()
        except StoreError:  # a store that can't be used keeps nobody from a vector
            active = None
        provider = await self.providers.serving(active)
        if input_type == "query":
            return await provider.embed_query(text)
        return await provider.embed_documents([text])

    async def health(self, *, thorough: bool = False) -> HealthReport:
        """Ask every part how it is."""
        problems: dict[str, ComponentHealth] = {}
        try:
            await self.ready()
        except SymmetraError as exc:
            problems["store"] = ComponentHealth("unhealthy", problem=str(exc), next_step="Then check again")
        try:
            project = self.project
            details: dict[str, Detail] = {
                "project_id": project.project_id if project else None,
                "root": str(project.root) if project else None,
                "reads_rule_files": bool(project and project.folders),
            }
            problems["project"] = ComponentHealth("healthy", details)
        except SymmetraError as exc:
            problems["project"] = ComponentHealth("unhealthy", problem=str(exc), next_step="Then check again")
        if self.reranking is not None:
            problems["reranker"] = await check_reranker(self.reranking)
        pays = self.providers.chosen.is_remote or self.settings.rerank == "cohere"
        if pays or self.settings.spending_limit is not None:
            problems["usage"] = await self._usage_health()
        self.providers.try_again()  # somebody asks because something was wrong: perhaps it no longer is
        return await check_health(self.store, self.providers, thorough=thorough, known=problems)

    async def _usage_health(self) -> ComponentHealth:
        report = await self.usage()
        details: dict[str, Detail] = {
            "tokens_this_month": sum(row.tokens for row in report.rows),
            "cost_usd_this_month": round(report.spent_usd, 6),
            "tokens_of_unknown_price": sum(row.tokens_unpriced for row in report.rows) or None,
            "limit_usd": report.limit_usd,
        }
        if report.problem:
            return ComponentHealth("degraded", details, report.problem, "Do what the problem says, then check again")
        return ComponentHealth("healthy", details)

    async def usage(self, *, all_months: bool = False) -> UsageReport:
        """What vendors cost: this month, or in all months."""
        limit_usd = self.settings.spending_limit
        if self._usage_log is None:
            return UsageReport((), 0.0, limit_usd, "")
        return await anyio.to_thread.run_sync(partial(usage_report, self._usage_log, limit_usd, all_months=all_months))

    async def reembed(
        self,
        *,
        force: bool = False,
        dry_run: bool = False,
        batch_texts: int | None = None,
        wait: bool = True,
        on_progress: ProgressCallback | None = None,
        on_wait: Callable[[RunningNow | None], None] | None = None,
    ) -> ReembedReport:
        """Make the space of the provider that the settings choose complete, and searches compare in it.

        Args:
            force: Embed again what has a vector.
            dry_run: Count only.
            batch_texts: Most texts in one request; by default what the provider takes well.
            wait: Where another process is embedding, wait for it; else tell how far it is.
            on_progress: Hears how far it is.
            on_wait: Hears who has the work, while this one waits for it.

        Raises:
            ProviderError: The provider failed; what was embedded before is kept.
            StoreError: The store failed.
            VerificationError: The new space did not pass its check; searches stay where they were.
        """
        await self.ready()
        self.providers.try_again()
        chosen = self.providers.chosen
        await self.providers.chosen_space()
        return await complete_space(
            self.store,
            chosen,
            force=force,
            dry_run=dry_run,
            wait=wait,
            batch_texts=batch_texts,
            on_progress=on_progress,
            on_wait=on_wait,
            make_quick=partial(self._index, on_progress=on_progress) if self.store.is_shared else None,
        )

    async def _index(self, status: SpaceStatus, *, on_progress: ProgressCallback | None) -> str:
        """Build the index of a space in the team's database, where one pays and the settings let us.

        Returns:
            What is left to do. Searches without an index are exact, and slower.
        """
        from symmetra_mcp.stores import schema_index

        if status.passages - status.refused < schema_index.INDEX_PAYS_FROM:
            return ""
        if self.settings.db_url is None:
            return "searches are faster with an index: set `SYMMETRA_DB_URL` and run `symmetra-mcp schema index`"

        def build() -> None:
            def tell(phase: str, done: int, total: int) -> None:
                del phase
                from_thread.check_cancelled()  # ends the build in the database too
                if on_progress is not None and total:
                    from_thread.run_sync(on_progress, "index", done, total)

            schema_index.index_space(self.settings, status.space.space_id, tell)

        try:
            await anyio.to_thread.run_sync(build)
        except (StoreError, ConfigError) as exc:
            return f"the index that makes searches faster was not built: {exc}. Run `symmetra-mcp schema index`"
        return ""

    async def begin_reembedding(self, *, force: bool = False) -> Job:
        """Have a running server re-embed, or join the work that it does already.

        Raises:
            ProviderError: The provider can't be used.
            StoreError: The store failed.
        """
        space = str(await self.providers.chosen_space())
        job = self.jobs.current(force=force)
        if job is None:
            job = self.jobs.start(
                Job(space, force=force),
                lambda told, waits: self.reembed(force=force, on_progress=told, on_wait=waits),
            )
        return job

    async def spaces(self) -> list[SpaceStatus]:
        """Every space that the store holds vectors of."""
        await self.ready()
        return await self.store.space_statuses()

    async def switch_to(self, space: EmbeddingSpace) -> None:
        """Have searches compare in a space that is there already.

        Raises:
            StoreUnavailableError: A run is embedding just now, and may be about to switch.
        """
        await self.ready()
        async with self.store.exclusive("embedding", wait=False) as held:
            if not held:
                running = await running_now(self.store)
                raise StoreUnavailableError(f"wait for the run that embeds just now: {running or 'it has just begun'}")
            await self.store.activate_space(space)

    async def drop_space(self, space: EmbeddingSpace) -> int:
        """Forget a space and its vectors.

        Returns:
            How many vectors it had.

        Raises:
            StoreError: Searches compare in it.
        """
        await self.ready()
        return await self.store.drop_space(space)

    async def list_rules(self, project_id: str | None = None) -> list[Rule]:
        """All rules, or those of one project."""
        await self.ready()
        return await self.store.list_rules(project_id)

    async def get_rule(self, rule_id: str, project_id: str = "") -> list[Rule]:
        """The rules with an id: one, unless several projects use it."""
        rules = await self.list_rules(project_id or None)
        return [rule for rule in rules if rule.rule_id == rule_id]

    async def count_rules(self) -> Mapping[str, int]:
        """Number of rules of each project."""
        await self.ready()
        return await self.store.count_rules()

    async def delete_rules(self, keys: Sequence[RuleKey]) -> int:
        """Delete rules; those of a file come back when the file is imported again.

        Returns:
            How many existed.
        """
        await self.ready()
        return await self.store.delete_rules(keys)

    async def delete_project(self, project_id: str) -> int:
        """Delete every rule of a project, and don't read its files again after a damaged store.

        Returns:
            How many rules there were.
        """
        rules = await self.list_rules(project_id)
        async with self.store.exclusive("import"):
            forget_project(self.settings.data_folder, project_id)
        return await self.delete_rules([rule.key for rule in rules])


def make_app(settings: Settings, *, usage_folder: Path | None = None, local: LocalProvider | None = None) -> App:
    """Wire an app: the store that the settings choose, and the providers that they allow.

    Args:
        settings: What to wire.
        usage_folder: Where requests are counted and the spending limit is kept; by default the store's folder.
        local: The bundled model, where it is there already.
    """
    from symmetra_mcp.metering import RerankMeter, UsageMeter
    from symmetra_mcp.providers.cache import FILE_NAME as CACHE_FILE
    from symmetra_mcp.providers.cache import CachingProvider, VectorCache
    from symmetra_mcp.providers.select import select_providers
    from symmetra_mcp.rerankers.select import select_reranker
    from symmetra_mcp.reranking import Reranking
    from symmetra_mcp.stores.select import chosen_store
    from symmetra_mcp.usage import FILE_NAME as USAGE_FILE
    from symmetra_mcp.usage import UsageLog

    usage_log = UsageLog((usage_folder or settings.data_folder) / USAGE_FILE)
    cache_file = settings.data_folder / CACHE_FILE if settings.query_cache else None

    def cached(provider: EmbeddingProvider) -> EmbeddingProvider:
        """On disk too where an embedding costs a round trip; the local model is as fast as a disk."""
        return CachingProvider(provider, VectorCache(cache_file if provider.is_remote else None))

    providers = select_providers(
        settings, meter=lambda space: UsageMeter(usage_log, space, settings), wrapped=cached, local=local
    )
    reranker = select_reranker(
        settings, meter=lambda provider, model: RerankMeter(usage_log, provider, model, settings)
    )
    reranking = Reranking(reranker, settings.rerank_candidates) if reranker is not None else None
    return App(settings, chosen_store(settings), providers, usage_log, reranking)


@asynccontextmanager
async def open_app(settings: Settings | None = None, *, usage_folder: Path | None = None) -> AsyncIterator[App]:
    """An app that is closed at the end of the block; the arguments are those of `make_app`.

    Raises:
        ConfigError: A setting can't be used.
    """
    app = make_app(settings or load_settings(), usage_folder=usage_folder)
    try:
        yield app
    finally:
        await app.aclose()
