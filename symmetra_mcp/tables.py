"""Answers laid out for a terminal, as renderables: the command line prints them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from symmetra_mcp.ingest.report import ImportReport
    from symmetra_mcp.reembed import ReembedReport
    from symmetra_mcp.schemas import HitAnswer, SearchResult
    from symmetra_mcp.types import Rule

_SHOWN = 20
_PRIORITY_STYLES = {"critical": "bold red", "high": "yellow", "medium": "", "low": "dim"}


def search_answer(result: SearchResult) -> RenderableType:
    """A search's answer."""
    parts: list[RenderableType] = []
    if result.degraded:
        parts.append(Text(f"Degraded: {result.degraded}", style="yellow"))
    for number, hit in enumerate(result.hits, 1):
        parts += [
            _hit_head(number, hit),
            Padding(Text(hit.guidance.strip()), (0, 0, 0, 3), expand=False),
            _hit_foot(hit),
            Text(),
        ]
    if not result.hits:
        parts.append(Text("No rule applies.", style="bold"))
    if result.nearest:
        parts.append(Text("Nearest, but not near enough:"))
        parts += [Text(f"   {near.similarity or 0:.2f}  {near.title} ({near.rule_id})") for near in result.nearest]
    parts += [Text(f"Left out: {rule.title} ({rule.rule_id}): {rule.reason}", style="dim") for rule in result.omitted]
    parts.append(Text(_summary(result), style="dim"))
    return Group(*parts)


def import_report(report: ImportReport, embedding: ReembedReport | None, *, verbose: bool) -> RenderableType:
    """What an import did."""
    parts: list[RenderableType] = []
    if verbose:
        parts.append(_files_table(report))
    parts += [Text(f"Skipped {skipped.path}: {skipped.reason}", style="red") for skipped in report.skipped]
    empty = [file for file in report.files if not file.rules]
    parts += _first(
        [
            Text(f"No rule in {file.path}: {file.note or 'it describes rather than rules'}", style="dim")
            for file in empty
        ]
    )
    flagged = [
        Text(f"{flag.path}:{flag.line}: {flag.kind.replace('-', ' ')}: {flag.excerpt}", style="yellow")
        for flag in report.flags
    ]
    if flagged:
        parts += [Text("A person should look at:", style="bold yellow"), *_first(flagged, all_=verbose)]
    warnings = [f"{file.path}: {warning}" for file in report.files for warning in file.warnings]
    warned = [Text(f"Warning: {warning}", style="yellow") for warning in (*report.warnings, *warnings)]
    parts += _first(warned, all_=verbose)
    parts.append(Text(_import_summary(report, embedding)))
    return Group(*parts)


def rules_table(rules: Sequence[Rule]) -> RenderableType:
    """Rules, one a line, and how many there are of each project."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("Rule", "Title", "Category", "Priority", "Source"):
        table.add_column(column, overflow="fold" if column == "Rule" else "ellipsis", no_wrap=column != "Rule")
    for rule in rules:
        source = str(rule.sources[0]) if rule.sources else ""
        priority = Text(rule.priority, style=_PRIORITY_STYLES[rule.priority])
        table.add_row(Text(rule.rule_id), Text(rule.title), Text(rule.category), priority, Text(source))
    counts = Counter(rule.project_id for rule in rules)
    total = ", ".join(f"{count} in {project}" for project, count in sorted(counts.items())) or "no rules"
    return Group(table, Text(total, style="dim")) if rules else Text("No rules. `symmetra-mcp import PATH` reads some.")


def _hit_head(number: int, hit: HitAnswer) -> Text:
    head = Text.assemble((f"{number}. {hit.title}", "bold"), "  ")
    head.append(hit.priority, style=_PRIORITY_STYLES.get(hit.priority, ""))
    head.append(f" · {hit.category}" if hit.category else "")
    return head


def _hit_foot(hit: HitAnswer) -> RenderableType:
    similarity = "" if hit.similarity is None else f"similarity {hit.similarity:.2f}"
    facts = [hit.rule_id, hit.source, similarity, *hit.matched]
    if hit.also:
        facts.append("same as " + ", ".join(hit.also))
    if hit.excerpt:
        facts.append(f"an excerpt: `symmetra-mcp rules show {hit.rule_id}`")
    return Padding(Text(" · ".join(fact for fact in facts if fact), style="cyan"), (0, 0, 0, 3), expand=False)


def _summary(result: SearchResult) -> str:
    where = f"meaning and words, {result.space}" if result.space else "words only"
    others = f", {result.out_of_scope} more are about other files" if result.out_of_scope else ""
    return f"{result.rules_considered} rules considered{others} ({where})"


def _files_table(report: ImportReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("File", "Format"):
        table.add_column(column, overflow="fold")
    for column in ("Rules", "Context"):
        table.add_column(column, justify="right")
    for file in report.files:
        table.add_row(Text(file.path), file.format, str(file.rules), str(file.context))
    return table


def _first(lines: Sequence[Text], *, all_: bool = False) -> list[Text]:
    if all_ or len(lines) <= _SHOWN:
        return list(lines)
    return [*lines[:_SHOWN], Text(f"… and {len(lines) - _SHOWN} more: --verbose or --json shows them", style="dim")]


def _import_summary(report: ImportReport, embedding: ReembedReport | None) -> str:
    counts = [
        f"{len(keys)} {name}"
        for name, keys in (
            ("added", report.added),
            ("changed", report.changed),
            ("moved", report.moved),
            ("unchanged", report.unchanged),
            ("removed", report.removed),
        )
        if keys or name in ("added", "changed", "unchanged")
    ]
    lines = [f"{len(report.files)} files, project {report.project_id}: {', '.join(counts)}"]
    if report.duplicates:
        lines.append(f"{report.duplicates} statements repeat a rule that stands elsewhere and were merged into it")
    if report.stale:
        lines.append(f"{len(report.stale)} rules have left these files: --prune removes them")
    if report.dry_run:
        lines.append("Dry run: nothing was written")
    elif embedding is not None:
        lines.append(f"{embedding.embedded} texts embedded in {embedding.space}, {embedding.missing} missing")
    return "\n".join(lines)
