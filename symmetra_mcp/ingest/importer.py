"""An import from end to end: find the files, read them, plan, write."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import anyio
import anyio.from_thread
import anyio.to_thread

from symmetra_mcp.ingest.discover import Discovery, RuleFile, discover, project_root
from symmetra_mcp.ingest.model import ParsedFile
from symmetra_mcp.ingest.parse import max_bytes, parse_file
from symmetra_mcp.ingest.plan import ImportPlan, plan_import
from symmetra_mcp.ingest.report import ImportReport, report_of
from symmetra_mcp.types import ProgressCallback, Rule, RuleKey

UPSERT_BATCH = 500


class RuleWriter(Protocol):
    """What an import needs of a store."""

    async def list_rules(self, project_id: str) -> list[Rule]:
        """Every rule of a project."""
        ...

    async def upsert_rules(self, rules: Sequence[Rule]) -> None:
        """Store rules, replacing those of the same key."""
        ...

    async def delete_rules(self, keys: Sequence[RuleKey]) -> int:
        """Delete rules; returns how many there were."""
        ...


@dataclass(frozen=True, slots=True)
class ReadFiles:
    """Rule files found and parsed."""

    discovery: Discovery
    parsed: tuple[ParsedFile, ...]
    prune_under: tuple[str, ...]


async def import_files(
    store: RuleWriter,
    paths: Sequence[Path],
    *,
    project_id: str,
    root: Path | None = None,
    prune: bool = False,
    dry_run: bool = False,
    on_progress: ProgressCallback | None = None,
) -> ImportReport:
    """Bring the rules of a project in step with the rule files at or below `paths`.

    Args:
        store: Where the rules are kept.
        paths: Files and folders; a folder is searched for every dialect.
        project_id: The project that the rules belong to.
        root: The folder that paths and scopes are relative to; found from `paths` when not given.
        prune: Remove rules whose files, at or below `paths`, no longer state them.
        dry_run: Report what would be done, and write nothing.
        on_progress: Called on the event loop's thread.

    Raises:
        RuleFileError: A path does not exist or lies outside the root. What can't be read below it is reported instead.
    """
    files = await anyio.to_thread.run_sync(partial(read_files, paths, root=root, on_read=_from_thread(on_progress)))
    existing = await store.list_rules(project_id)
    plan = await anyio.to_thread.run_sync(partial(_plan, existing, files, project_id=project_id, prune=prune))
    if not dry_run:
        await _apply(store, plan, on_progress)
    return report_of(
        plan,
        files.parsed,
        project_id=project_id,
        root=files.discovery.root.as_posix(),
        skipped=files.discovery.skipped,
        links=files.discovery.links,
        dry_run=dry_run,
    )


def _from_thread(on_progress: ProgressCallback | None) -> Callable[[int, int], None] | None:
    """The progress of reading, told on the event loop's thread by the thread that reads."""
    if on_progress is None:
        return None
    return lambda done, total: anyio.from_thread.run_sync(lambda: on_progress("read", done, total))


def read_files(
    paths: Sequence[Path], *, root: Path | None = None, on_read: Callable[[int, int], None] | None = None
) -> ReadFiles:
    """Find and parse the rule files at or below `paths`. Reads the disk and takes its time: call it in a thread.

    Raises:
        RuleFileError: A path does not exist or lies outside the root.
    """
    folder = root or common_root(paths)
    discovery = discover(paths, folder)
    parsed: list[ParsedFile] = []
    for number, file in enumerate(discovery.files, 1):
        parsed.append(_parse(file))
        if on_read:
            on_read(number, len(discovery.files))
    return ReadFiles(discovery, tuple(parsed), _relative_paths(paths, discovery.root))


def common_root(paths: Sequence[Path]) -> Path:
    """The project that all `paths` belong to, or the folder around their projects."""
    roots = {project_root(path) for path in paths} or {Path.cwd()}
    return Path(os.path.commonpath([str(root) for root in roots]))


def _parse(file: RuleFile) -> ParsedFile:
    try:
        with file.location.open("rb") as stream:
            data = stream.read(max_bytes(file.path) + 1)
    except OSError as exc:
        return ParsedFile(file.path, file.dialect.name, problem=f"can't be read: {exc.strerror or type(exc).__name__}")
    return parse_file(file.path, file.dialect, data, base=file.base)


def _relative_paths(paths: Sequence[Path], root: Path) -> tuple[str, ...]:
    relative = (os.path.relpath(os.path.realpath(path), root) for path in paths)
    return tuple("" if path == "." else Path(path).as_posix() for path in relative)


def _plan(existing: Sequence[Rule], files: ReadFiles, *, project_id: str, prune: bool) -> ImportPlan:
    return plan_import(
        existing,
        files.parsed,
        project_id=project_id,
        prune_under=files.prune_under if prune else None,
        unreadable=[*(skipped.path for skipped in files.discovery.skipped), *_not_looked_at(existing, files)],
    )


def _not_looked_at(existing: Sequence[Rule], files: ReadFiles) -> list[str]:
    """Files that state rules, lie on the disk, and were not looked for: someone named them in another import."""
    read = {file.path for file in files.parsed} | {path for path, _ in files.discovery.links}
    stated = {source.path for rule in existing for source in rule.sources} - read
    return [path for path in sorted(stated) if (files.discovery.root / path).is_file()]


async def _apply(store: RuleWriter, plan: ImportPlan, on_progress: ProgressCallback | None) -> None:
    writes = plan.writes
    for start in range(0, len(writes), UPSERT_BATCH):
        batch = writes[start : start + UPSERT_BATCH]
        await store.upsert_rules(batch)
        if on_progress:
            on_progress("write", start + len(batch), len(writes))
    if plan.removed:
        await store.delete_rules(plan.removed)
