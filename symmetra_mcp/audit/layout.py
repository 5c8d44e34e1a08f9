"""An audit's report laid out for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from symmetra_mcp.text import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from symmetra_mcp.audit.findings import AuditReport, Concerned, Finding, Kind

_TITLES: dict[Kind, str] = {
    "duplicates": "Stated more than once",
    "contradictions": "Contradictions worth a look",
    "long": "Too long to be handed out whole",
    "vague": "Too vague to be found",
    "unfound": "Not found by their own words",
    "globs": "Globs that match nothing",
}
_SHOWN = 10
_RULES_SHOWN = 5
_LINE = 160


def audit_table(report: AuditReport) -> RenderableType:
    """Kinds with their counts, then each finding with the texts that it is about, each in a line."""
    parts: list[RenderableType] = [_counts(report)]
    several = len({rule.project_id for finding in report.findings for rule in finding.rules}) > 1
    for kind in report.kinds:
        found = [finding for finding in report.findings if finding.kind == kind]
        if found:
            parts += [Text(), Text(_TITLES[kind], style="bold")]
            parts += [part for finding in found[:_SHOWN] for part in _finding(finding, with_project=several)]
        if len(found) > _SHOWN:
            parts.append(Text(f"… and {len(found) - _SHOWN} more: --json shows them", style="dim"))
    parts += [Text(), *(Text(f"Note: {note}", style="yellow") for note in report.notes)]
    where = f"meaning and words, {report.space}" if report.space else "words only"
    total = counted(len(report.findings), "finding")
    parts.append(Text(f"{total} in {counted(report.rules, 'rule')} ({where})", style="dim"))
    return Group(*parts)


def _counts(report: AuditReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Kind")
    table.add_column("Findings", justify="right")
    table.add_column("")
    for kind, count in report.counts.items():
        table.add_row(kind, str(count), Text(_TITLES[kind], style="" if count else "dim"))
    return table


def _finding(finding: Finding, *, with_project: bool) -> list[RenderableType]:
    similarity = "" if finding.similarity is None else f"  similarity {finding.similarity:.2f}"
    parts: list[RenderableType] = [
        Padding(Text.assemble(finding.about, (similarity, "cyan")), (0, 0, 0, 2), expand=False),
        *(_rule(rule, with_project=with_project) for rule in finding.rules[:_RULES_SHOWN]),
    ]
    if len(finding.rules) > _RULES_SHOWN:
        more = f"… and {len(finding.rules) - _RULES_SHOWN} more rules"
        parts.append(Padding(Text(more, style="dim"), (0, 0, 0, 4), expand=False))
    parts.append(Padding(Text(f"→ {finding.next_step}", style="green"), (0, 0, 0, 4), expand=False))
    return parts


def _rule(rule: Concerned, *, with_project: bool) -> RenderableType:
    text = " ".join(rule.text.split())
    shown = text if len(text) <= _LINE else f"{text[: _LINE - 2]} …"
    name = f"{rule.project_id}/{rule.rule_id}" if with_project else rule.rule_id
    place = f"{rule.places[0]} " if rule.places else ""
    more = f"(and {len(rule.places) - 1} more) " if len(rule.places) > 1 else ""
    line = Text.assemble((f"{place}{more}", "cyan"), shown, (f"  {name}", "dim"))
    return Padding(line, (0, 0, 0, 4), expand=False)
