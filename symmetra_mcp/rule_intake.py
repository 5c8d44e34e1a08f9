"""How rules come into the store: starter rules, rule files, and what a store that begins anew had before."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from symmetra_mcp import __version__
from symmetra_mcp.errors import ProviderError, RuleFileError, StoreUnavailableError, SymmetraError
from symmetra_mcp.import_log import ImportRecord, read_imports, record_import
from symmetra_mcp.project import Project, RuleFolder, files_digest, project_id_of, rule_files

if TYPE_CHECKING:
    from symmetra_mcp.config import Settings
    from symmetra_mcp.ingest.report import ImportReport
    from symmetra_mcp.providers.select import ProviderChoice
    from symmetra_mcp.stores.base import RuleStore
    from symmetra_mcp.types import ProgressCallback

_LOOK_AGAIN_S = 2.0
"""Seconds after which a search looks again whether the known rule files changed."""
_RESTORED = "earlier imports read again"
_WALK_AGAIN_S = 30.0
"""Seconds after which it looks for new ones: a walk through a large repository takes a while."""
_WALKING_SHARE = 0.005
"""How much of the time goes into such walks while nobody searches."""


class RuleIntake:
    """Opens the store, fills it, and keeps it in step with the project's rule files. It embeds nothing."""

    def __init__(self, settings: Settings, store: RuleStore, providers: ProviderChoice) -> None:
        self._settings = settings
        self._store = store
        self._providers = providers
        self._opening = anyio.Lock()
        self._reading = anyio.Lock()
        self._opened = False
        self._refilled = False
        self._looked_at = float("-inf")
        self._walked_at: dict[RuleFolder, float] = {}
        self._walk_s: dict[RuleFolder, float] = {}
        self._rule_files: dict[RuleFolder, list[Path]] = {}

    async def ready(self) -> None:
        """Open the store and bring the starter rules in, once; read everything again after a store began anew.

        Raises:
            StoreError: The store can't be used.
        """
        async with self._opening:
            if not self._opened:
                await self._store.open()
            if self._store.is_shared:  # a team fills its store itself
                self._opened = True
                return
            filled = await self._store.get_note(_RESTORED)  # asked each time: the file may be another one by now
            if self._store.take_rebuilt() or not filled or not self._opened:
                await self.install_starter_rules()
                await self._restore()
                self._refilled = True
                self.look_again()
            self._opened = True

    def take_refilled(self) -> bool:
        """Whether rules were read into a store that began anew since this was last asked: they need embedding."""
        refilled, self._refilled = self._refilled, False
        return refilled

    async def install_starter_rules(self, *, again: bool = False) -> None:
        """Write the starter rules, where they are wanted and not there.

        Args:
            again: Write those that were deleted too.
        """
        from symmetra_mcp.starter import install_starter_rules, starter_rules_installed

        if again or (self._settings.starter_rules and not await starter_rules_installed(self._store)):
            async with self._store.exclusive("import"):
                try:
                    chosen = await self._providers.chosen_space()
                except ProviderError:  # whoever searches is told; the rules are there meanwhile
                    chosen = None
                vectors = chosen is None or chosen.provider == "local" or self._providers.backup is not None
                await install_starter_rules(self._store, chosen, with_vectors=vectors, again=again)

    async def _restore(self) -> None:
        """Fill a store that began anew, once: what was imported before is written in a file beside it."""
        if await self._store.get_note(_RESTORED):
            return
        async with self._store.exclusive("restore"):
            if not await self._store.get_note(_RESTORED):
                await self._import_again()
                await self._store.set_note(_RESTORED, "yes")

    async def _import_again(self) -> None:
        """Read every path that was ever imported and still exists."""
        for record in read_imports(self._settings.data_folder):
            existing = [Path(path) for path in record.paths if await anyio.Path(path).exists()]
            try:
                if existing:
                    folder = RuleFolder(Path(record.root), record.project_id, tuple(existing))
                    await self.import_folder(folder, prune=False)
            except SymmetraError as exc:
                self._store.notices.append(f"{', '.join(record.paths)} could not be read again: {exc}")

    def folder_of(self, paths: Sequence[Path], project_id: str) -> RuleFolder:
        """The one project that some paths belong to.

        Args:
            paths: Files and folders.
            project_id: Its name, where it has another than its folder's.

        Raises:
            RuleFileError: A path does not exist, or they belong to several projects.
        """
        from symmetra_mcp.ingest.discover import project_root

        absolute = [Path(os.path.abspath(path)) for path in paths]
        missing = next((path for path in absolute if not path.exists()), None)
        if missing is not None:
            raise RuleFileError(f"{str(missing)!r} does not exist")
        roots = list(dict.fromkeys(project_root(path) for path in absolute))
        if len(roots) > 1:
            raise RuleFileError(
                f"these paths belong to several projects ({', '.join(map(str, roots))}): import them one at a time"
            )
        own_id = project_id or self._settings.project or project_id_of(roots[0], shared_store=self._store.is_shared)
        return RuleFolder(roots[0], own_id, tuple(absolute))

    async def import_folder(
        self, folder: RuleFolder, *, prune: bool, dry_run: bool = False, on_progress: ProgressCallback | None = None
    ) -> ImportReport:
        """Read rule files, write what changed, and note the paths for a store that begins anew.

        Args:
            folder: The files.
            prune: Remove the rules that have left them.
            dry_run: Report only.
            on_progress: Hears how far it is.

        Raises:
            StoreError: The store failed.
        """
        from symmetra_mcp.ingest.importer import import_files

        async with self._store.exclusive("import"):
            report = await import_files(
                self._store,
                folder.paths,
                project_id=folder.project_id,
                root=folder.root,
                prune=prune,
                dry_run=dry_run,
                on_progress=on_progress,
            )
            if not dry_run and not self._store.is_shared:
                self._record(folder)
            return report

    def _record(self, folder: RuleFolder) -> None:
        record = ImportRecord(folder.project_id, str(folder.root), tuple(map(str, folder.paths)))
        try:
            record_import(self._settings.data_folder, record)
        except OSError as exc:
            raise StoreUnavailableError(
                f"the import could not be recorded in {str(self._settings.data_folder)!r}: {exc}. The rules are "
                "stored; free or repair the folder and import again"
            ) from exc

    async def keep_in_step(
        self, project: Project | None, *, unasked: bool = False, on_progress: ProgressCallback | None = None
    ) -> list[ImportReport]:
        """Read the project's rule files again where one of them changed.

        Args:
            project: The project in hand.
            unasked: Nobody waits for it: new files are looked for a small part of the time only.
            on_progress: Hears how far it is.

        Returns:
            What changed, by folder; empty when nothing did.
        """
        if project is None or not self._looks_due():
            return []
        async with self._reading:
            if not self._looks_due():  # another search has looked meanwhile
                return []
            reports = [await self._keep_folder_in_step(folder, unasked, on_progress) for folder in project.folders]
            self._looked_at = time.monotonic()
            return [report for report in reports if report is not None]

    def look_again(self) -> None:
        """Have the next search look at the rule files, however short ago the last one did."""
        self._looked_at = float("-inf")

    def _looks_due(self) -> bool:
        return time.monotonic() - self._looked_at >= _LOOK_AGAIN_S

    async def _keep_folder_in_step(
        self, folder: RuleFolder, unasked: bool, on_progress: ProgressCallback | None
    ) -> ImportReport | None:
        folder = await anyio.to_thread.run_sync(self._readable_part, folder)
        if not folder.paths:
            return None
        pause_s = max(_WALK_AGAIN_S, self._walk_s.get(folder, 0.0) / _WALKING_SHARE) if unasked else _WALK_AGAIN_S
        began = time.monotonic()
        if began - self._walked_at.get(folder, float("-inf")) >= pause_s:
            self._rule_files[folder] = await anyio.to_thread.run_sync(rule_files, folder)
            self._walked_at[folder] = time.monotonic()
            self._walk_s[folder] = self._walked_at[folder] - began
        files = await anyio.to_thread.run_sync(files_digest, self._rule_files[folder])
        digest = f"{__version__} {files}"  # another version may read the same files differently
        note = f"files of {folder.project_id}"
        if digest == await self._store.get_note(note):
            return None
        report = await self.import_folder(folder, prune=True, on_progress=on_progress)
        await self._store.set_note(note, digest)
        return report

    def _readable_part(self, folder: RuleFolder) -> RuleFolder:
        """The folder without paths that have gone since the start: their rules stay, and the others are followed."""
        there = tuple(path for path in folder.paths if path.is_dir() or path.is_file())
        for path in folder.paths:
            notice = f"{str(path)!r} can't be found: its rules count as they were read last"
            if path not in there and notice not in self._store.notices:
                self._store.notices.append(notice)
        return replace(folder, paths=there)
