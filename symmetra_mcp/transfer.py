"""Rules from one store to another, with their vectors: nothing is embedded again, and nothing is lost on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from symmetra_mcp.errors import StoreAccessError
from symmetra_mcp.probes import probe_passages
from symmetra_mcp.project import STARTER_PROJECT
from symmetra_mcp.providers.base import Embeddings

if TYPE_CHECKING:
    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.stores.base import RuleStore
    from symmetra_mcp.types import ProgressCallback, Rule, RuleKey

BATCH_RULES = 200
PAGE_TEXTS = 500


@dataclass(frozen=True, slots=True)
class TransferReport:
    """What was moved, or in a dry run would be.

    Attributes:
        only_in_target: Rules of the projects moved that the source has not: they stay, unless pruning was asked for.
        vectors: Vectors written, by the key of their space.
        activated: The space that the target's searches compare in from now on, where it had none before.
    """

    added: tuple[RuleKey, ...] = ()
    changed: tuple[RuleKey, ...] = ()
    unchanged: int = 0
    removed: tuple[RuleKey, ...] = ()
    only_in_target: tuple[RuleKey, ...] = ()
    vectors: dict[str, int] = field(default_factory=dict)
    activated: EmbeddingSpace | None = None
    dry_run: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "added": [list(key) for key in self.added],
            "changed": [list(key) for key in self.changed],
            "unchanged": self.unchanged,
            "removed": [list(key) for key in self.removed],
            "only_in_target": [list(key) for key in self.only_in_target],
            "vectors": dict(self.vectors),
            "activated_space": None if self.activated is None else self.activated.space_id,
            "dry_run": self.dry_run,
        }


@dataclass(frozen=True, slots=True)
class _Difference:
    """One project, compared."""

    added: list[Rule]
    changed: list[Rule]
    unchanged: int
    only_in_target: list[RuleKey]


async def copy_rules(
    source: RuleStore,
    target: RuleStore,
    *,
    project_ids: Sequence[str] = (),
    prune: bool = False,
    dry_run: bool = False,
    on_progress: ProgressCallback | None = None,
) -> TransferReport:
    """Bring a store in step with another: rules by key and content, vectors by space and text.

    Safe to run again: what is there already is not written a second time.

    Args:
        source: Read from.
        target: Written to.
        project_ids: Projects to move; by default all but the starter rules, which every installation brings along.
        prune: Remove the rules of these projects that the source has not.
        dry_run: Compare only.
        on_progress: Hears how far it is.

    Raises:
        StoreAccessError: The target can't be written with this key.
        StoreError: A store failed; what was written before is kept.
    """
    if not target.may_write():
        raise StoreAccessError("the key may read the team's rules and not write them: set the project's secret key")
    wanted = tuple(project_ids) or tuple(name for name in await source.count_rules() if name != STARTER_PROJECT)
    report = TransferReport(dry_run=dry_run)
    if dry_run:
        for project_id in wanted:
            report = _with(report, await _compare(source, target, project_id), prune=prune)
        return report
    async with target.exclusive("import"):
        for project_id in wanted:  # one at a time: a store may hold more rules than memory should
            found = await _compare(source, target, project_id)
            await _write(target, [*found.added, *found.changed], on_progress)
            if prune:
                await target.delete_rules(found.only_in_target)
            report = _with(report, found, prune=prune)
        vectors = await _copy_vectors(source, target, on_progress)
        return replace(report, vectors=vectors, activated=await _activate(source, target))


def _with(report: TransferReport, found: _Difference, *, prune: bool) -> TransferReport:
    return replace(
        report,
        added=(*report.added, *(rule.key for rule in found.added)),
        changed=(*report.changed, *(rule.key for rule in found.changed)),
        unchanged=report.unchanged + found.unchanged,
        removed=(*report.removed, *(found.only_in_target if prune else ())),
        only_in_target=(*report.only_in_target, *(() if prune else found.only_in_target)),
    )


async def _compare(source: RuleStore, target: RuleStore, project_id: str) -> _Difference:
    there = {rule.key: rule for rule in await target.list_rules(project_id)}
    added, changed, unchanged = [], [], 0
    for rule in await source.list_rules(project_id):
        known = there.pop(rule.key, None)
        if known is None:
            added.append(rule)
        elif known != rule:
            changed.append(rule)
        else:
            unchanged += 1
    return _Difference(added, changed, unchanged, sorted(there))


async def _write(target: RuleStore, rules: Sequence[Rule], on_progress: ProgressCallback | None) -> None:
    for start in range(0, len(rules), BATCH_RULES):
        batch = rules[start : start + BATCH_RULES]
        await target.upsert_rules(batch)
        if on_progress is not None:
            on_progress("write", start + len(batch), len(rules))


async def _copy_vectors(source: RuleStore, target: RuleStore, on_progress: ProgressCallback | None) -> dict[str, int]:
    """Give the target's texts the vectors that the source has of them, in every space.

    Returns:
        Vectors written, by space.
    """
    written: dict[str, int] = {}
    for status in await source.space_statuses():
        space, count, after = status.space, 0, ""
        while True:
            page, after = await target.missing_passages(space, after=after, limit=PAGE_TEXTS)
            if not page:
                break
            count += await _copy_page(source, target, space, [passage.content_hash for passage in page])
            if on_progress is not None:
                on_progress("vectors", count, max(status.passages, count))
        probes = [probe.content_hash for probe in probe_passages()]
        await _copy_page(source, target, space, sorted(await target.without_vector(space, probes)))
        if count:
            written[space.space_id] = count
    return written


async def _copy_page(source: RuleStore, target: RuleStore, space: EmbeddingSpace, hashes: Sequence[str]) -> int:
    import numpy as np

    vectors = await source.get_vectors(space, hashes)
    if vectors:
        await target.put_vectors(list(vectors), Embeddings(np.stack(list(vectors.values())), space))
    return len(vectors)


async def _activate(source: RuleStore, target: RuleStore) -> EmbeddingSpace | None:
    """Have the target compare in the source's space, where it compares in none yet and lacks no vector of it."""
    space = await source.active_space()
    if space is None or await target.active_space() is not None or space not in await target.complete_spaces():
        return None
    await target.activate_space(space)
    return space
