"""What an import tells the person who ran it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from symmetra_mcp.ingest.model import Flag, ParsedFile, Skipped
from symmetra_mcp.ingest.plan import ImportPlan
from symmetra_mcp.types import RuleKey


@dataclass(frozen=True, slots=True)
class FileReport:
    """What one file gave.

    Attributes:
        note: Why it gave no rule, or empty.
    """

    path: str
    format: str
    rules: int
    context: int
    fragments: int
    warnings: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did, or would do when `dry_run`.

    Attributes:
        skipped: Paths that could not be read, whose rules were left alone.
        links: Paths that only point to another file, with that file.
        flags: Places that a person should look at.
        stale: Rules that no file read now states any more, and that were not removed.
        duplicates: Statements that repeat a rule stated elsewhere.
    """

    project_id: str
    root: str
    files: tuple[FileReport, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    flags: tuple[Flag, ...] = ()
    added: tuple[RuleKey, ...] = ()
    changed: tuple[RuleKey, ...] = ()
    moved: tuple[RuleKey, ...] = ()
    unchanged: tuple[RuleKey, ...] = ()
    removed: tuple[RuleKey, ...] = ()
    stale: tuple[RuleKey, ...] = ()
    duplicates: int = 0
    warnings: tuple[str, ...] = ()
    dry_run: bool = False

    def to_dict(self) -> dict[str, object]:
        """The report as plain lists, dictionaries, strings and numbers, with a count beside each list of ids."""
        outcomes = ("added", "changed", "moved", "unchanged", "removed", "stale")
        return {
            "project_id": self.project_id,
            "root": self.root,
            "dry_run": self.dry_run,
            "counts": {name: len(getattr(self, name)) for name in outcomes},
            "duplicates": self.duplicates,
            "files": [_plain(asdict(file)) for file in self.files],
            "skipped": [asdict(skipped) for skipped in self.skipped],
            "links": [{"path": path, "target": target} for path, target in self.links],
            "flags": [asdict(flag) for flag in self.flags],
            "warnings": list(self.warnings),
            **{name: [key.rule_id for key in getattr(self, name)] for name in outcomes},
        }


def _plain(fields: dict[str, object]) -> dict[str, object]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}


def report_of(
    plan: ImportPlan,
    parsed: Sequence[ParsedFile],
    *,
    project_id: str,
    root: str,
    skipped: Sequence[Skipped] = (),
    links: Sequence[tuple[str, str]] = (),
    dry_run: bool = False,
) -> ImportReport:
    """The report of a plan and the files it was made from."""
    unreadable = (Skipped(file.path, file.problem) for file in parsed if file.problem)
    return ImportReport(
        project_id=project_id,
        root=root,
        files=tuple(
            FileReport(f.path, f.format, len(f.statements), f.context, f.fragments, f.warnings, f.note)
            for f in parsed
            if not f.problem
        ),
        skipped=tuple(sorted((*skipped, *unreadable), key=lambda one: one.path)),
        links=tuple(links),
        flags=tuple(flag for file in parsed for flag in file.flags),
        added=tuple(rule.key for rule in plan.added),
        changed=tuple(rule.key for rule in plan.changed),
        moved=tuple(rule.key for rule in plan.moved),
        unchanged=plan.unchanged,
        removed=plan.removed,
        stale=plan.stale,
        duplicates=plan.duplicates,
        warnings=plan.warnings,
        dry_run=dry_run,
    )
