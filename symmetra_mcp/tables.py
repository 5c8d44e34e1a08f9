"""Answers laid out for a terminal, as renderables: the command line prints them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from symmetra_mcp.text import considered, counted, named, nearest_first, shows_projects

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

    from symmetra_mcp.ingest.report import ImportReport
    from symmetra_mcp.reembed import ReembedReport
    from symmetra_mcp.schemas import HitAnswer, SearchResult, SpaceAnswer
    from symmetra_mcp.types import Rule

_SHOWN = 20
_NARROWEST_TITLE = 24
"""Columns that a title needs: with fewer, a rule takes several lines."""
_COLUMN_GAP = 2
_PRIORITY_STYLES = {"critical": "bold red", "high": "yellow", "medium": "", "low": "dim"}


def search_answer(result: SearchResult) -> RenderableType:
    """A search's answer."""
    parts: list[RenderableType] = []
    with_project = shows_projects(result)
    if result.degraded:
        parts.append(Text(f"Degraded: {result.degraded}", style="yellow"))
    for number, hit in enumerate(result.hits, 1):
        parts += [
            _hit_head(number, hit),
            Padding(Text(hit.guidance.strip()), (0, 0, 0, 3), expand=False),
            _hit_foot(hit, with_project=with_project),
            Text(),
        ]
    if not result.hits:
        parts.append(Text("No rule applies.", style="bold"))
    if result.nearest:
        parts.append(Text("Nearest, but not near enough:"))
        for near in nearest_first(result):
            similarity = "    " if near.similarity is None else f"{near.similarity:.2f}"
            parts.append(Text(f"   {similarity}  {near.title} ({named(near, with_project=with_project)})"))
    parts += [
        Text(f"Left out: {rule.title} ({named(rule, with_project=with_project)}): {rule.reason}", style="dim")
        for rule in result.omitted
    ]
    parts.append(Text(_summary(result), style="dim"))
    return Group(*parts)


def import_report(
    report: ImportReport, embedding: ReembedReport | None, *, verbose: bool, paths: Sequence[Path] = ()
) -> RenderableType:
    """What an import did.

    Args:
        report: What was read and written.
        embedding: What was embedded, if anything was to be.
        verbose: Show every file and every remark.
        paths: What was asked to be read, as the person wrote it.
    """
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
    warnings = [_placed(file.path, warning) for file in report.files for warning in file.warnings]
    warned = [Text(f"Warning: {warning}", style="yellow") for warning in (*report.warnings, *warnings)]
    parts += _first(warned, all_=verbose)
    parts += _first(_gone(report), all_=verbose)
    if not (report.files or report.skipped or report.links):
        parts.append(Text(_nothing_to_read(report, paths), style="yellow"))
    parts.append(Text(_import_summary(report, embedding)))
    return Group(*parts)


def spaces_table(answers: Sequence[SpaceAnswer]) -> RenderableType:
    """Spaces, a line each, the one that searches compare in marked."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Space", no_wrap=True)
    table.add_column("Searches")
    for name in ("Texts", "Missing", "Refused"):
        table.add_column(name, justify="right")
    table.add_column("Left")
    for answer in answers:
        left = answer.left_at[:16].replace("T", " ")
        counts = (f"{answer.texts:,}", f"{answer.missing:,}", f"{answer.refused:,}")
        table.add_row(answer.space, "compare here" if answer.active else "", *counts, f"{left} UTC" if left else "")
    return table


def rules_table(rules: Sequence[Rule], *, filtered: bool = False) -> RenderableType:
    """Rules, one a line, and how many there are of each project.

    Args:
        rules: What to list.
        filtered: Whether more rules may be stored than these.
    """
    if not rules:
        return Text("No rules." if filtered else "No rules. `symmetra-mcp import PATH` reads some.")
    counts = Counter(rule.project_id for rule in rules)
    total = ", ".join(f"{count} in {project}" for project, count in sorted(counts.items()))
    return Group(_RuleList(rules), Text(total, style="dim"))


class _RuleList:
    """Rules as a table where the terminal is wide enough for it, else a few lines each: no id is ever cut."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        several = len({rule.project_id for rule in rules}) > 1
        names = ("Rule", "Project", "Title", "Category", "Priority", "Source")
        self._shown = [name for name in names if several or name != "Project"]
        self._rows = [self._cells(rule) for rule in rules]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        widths = {name: max(cell_len(name), *(row[name].cell_len for row in self._rows)) for name in self._shown}
        title = widths.pop("Title")
        room = options.max_width - sum(widths.values()) - _COLUMN_GAP * len(widths)
        if room < min(title, _NARROWEST_TITLE):
            yield from self._paragraphs()
        else:
            yield self._table(min(title, room))

    def _cells(self, rule: Rule) -> dict[str, Text]:
        return {
            "Rule": Text(rule.rule_id),
            "Project": Text(rule.project_id),
            "Title": Text(rule.title),
            "Category": Text(rule.category),
            "Priority": Text(rule.priority, style=_PRIORITY_STYLES[rule.priority]),
            "Source": Text(str(rule.sources[0]) if rule.sources else ""),
        }

    def _table(self, title_width: int) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in self._shown:
            table.add_column(
                name, overflow="fold", no_wrap=name != "Title", width=title_width if name == "Title" else None
            )
        for row in self._rows:
            table.add_row(*(row[name] for name in self._shown))
        return table

    def _paragraphs(self) -> Iterator[RenderableType]:
        for row in self._rows:
            rule_id, *facts = (row[name] for name in self._shown if row[name].plain)
            yield Text(rule_id.plain, style="bold", overflow="fold")
            yield Padding(Text(" · ").join(facts), (0, 0, 0, 3), expand=False)


def _hit_head(number: int, hit: HitAnswer) -> Text:
    head = Text.assemble((f"{number}. {hit.title}", "bold"), "  ")
    head.append(hit.priority, style=_PRIORITY_STYLES.get(hit.priority, ""))
    head.append(f" · {hit.category}" if hit.category else "")
    return head


def _hit_foot(hit: HitAnswer, *, with_project: bool) -> RenderableType:
    similarity = "" if hit.similarity is None else f"similarity {hit.similarity:.2f}"
    sure = f"confidence {hit.confidence}" if hit.confidence else ""
    facts = [named(hit, with_project=with_project), hit.source, similarity, sure, *hit.matched]
    if hit.also:
        facts.append("same as " + ", ".join(hit.also))
    if hit.excerpt:
        where = f" --project {hit.project_id}" if with_project else ""
        facts.append(f"an excerpt: `symmetra-mcp rules show {hit.rule_id}{where}`")
    return Padding(Text(" · ".join(fact for fact in facts if fact), style="cyan"), (0, 0, 0, 3), expand=False)


def _summary(result: SearchResult) -> str:
    where = f"meaning and words, {result.space}" if result.space else "words only"
    order = f"; in the order of {result.reranked_by}" if result.reranked_by else ""
    return f"{considered(result)} ({where}{order})"


def _files_table(report: ImportReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("File", "Format"):
        table.add_column(column, overflow="fold")
    for column in ("Rules", "Context"):
        table.add_column(column, justify="right")
    for file in report.files:
        table.add_row(Text(file.path), file.format, str(file.rules), str(file.context))
    return table


def _placed(path: str, warning: str) -> str:
    """A warning with its file's path in front, where it does not say its place itself."""
    return warning if warning.startswith((f"{path}:", f"{path},")) else f"{path}: {warning}"


def _gone(report: ImportReport) -> list[Text]:
    removed = "Would remove" if report.dry_run else "Removed"
    return [
        *(Text(f"{removed} {key.rule_id}", style="dim") for key in report.removed),
        *(Text(f"No longer stated: {key.rule_id}", style="dim") for key in report.stale),
    ]


def _nothing_to_read(report: ImportReport, paths: Sequence[Path]) -> str:
    where = ", ".join(map(str, paths)) or report.root
    return (
        f"No rule files below {where}: looked for AGENTS.md, CLAUDE.md, GEMINI.md, .cursor/rules, "
        ".github/copilot-instructions.md, symmetra-rules.yaml and the files of other assistants. "
        "Any other Markdown or YAML file is read when it is named itself"
    )


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
    lines = [f"{counted(len(report.files), 'file')}, project {report.project_id}: {', '.join(counts)}"]
    if report.duplicates:
        repeat = "statement repeats" if report.duplicates == 1 else "statements repeat"
        lines.append(f"{report.duplicates} {repeat} a rule that stands elsewhere and became part of it")
    if report.stale:
        left, them = ("1 rule has", "it") if len(report.stale) == 1 else (f"{len(report.stale)} rules have", "them")
        lines.append(f"{left} left these files: --prune removes {them}")
    if report.dry_run:
        lines.append("Dry run: nothing was written")
    elif embedding is not None:
        lines.append(
            f"{counted(embedding.embedded, 'text')} embedded in {embedding.space}, {embedding.missing} missing"
        )
    return "\n".join(lines)
