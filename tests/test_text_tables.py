"""Answers as a terminal of a given width and as a file show them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from symmetra_mcp.ingest.model import Skipped
from symmetra_mcp.ingest.report import FileReport, ImportReport
from symmetra_mcp.schemas import HitAnswer, NearAnswer, SearchResult
from symmetra_mcp.tables import import_report, rules_table, search_answer
from symmetra_mcp.types import Rule, RuleKey, Source

RULES = [
    Rule(
        "api",
        "always-send-an-idempotency-key-with-faad7e19",
        "Always send an idempotency key with every payment request",
        "Do it.",
        category="architecture",
        priority="critical",
        sources=(Source("services/payments/AGENTS.md", 30),),
    ),
    Rule("api", "no-cards", "No card numbers", "Do it.", category="security", sources=(Source("AGENTS.md", 4),)),
]
REPORT = ImportReport("api", "/work/api")


def shown(answer: RenderableType, width: int = 100_000) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False).print(answer)
    return stream.getvalue()


def reported(report: ImportReport, **arguments: Any) -> str:
    return shown(import_report(report, None, **{"verbose": False, **arguments}))


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_a_list_of_rules_cuts_no_id_category_priority_or_source(width: int) -> None:
    text = shown(rules_table(RULES), width)

    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    for rule in RULES:
        assert sum(line.split()[0] == rule.rule_id for line in lines) == 1
    words = " ".join(text.split())
    for fact in ("architecture", "critical", "security", "medium", "services/payments/AGENTS.md:30", "AGENTS.md:4"):
        assert fact in words
    assert "…" not in text
    assert {*RULES[0].title.split(), *RULES[1].title.split()} <= set(words.split())


def test_a_file_gets_a_rule_a_line() -> None:
    lines = shown(rules_table(RULES)).splitlines()

    assert lines[0].split() == ["Rule", "Title", "Category", "Priority", "Source"]
    assert RULES[0].title in lines[1]
    assert lines[3] == "2 in api"


@pytest.mark.parametrize("width", [80, 160])
def test_a_list_of_several_projects_names_the_project_of_each_rule(width: int) -> None:
    other = replace(RULES[1], project_id="web")

    assert "Project" not in shown(rules_table(RULES), width)
    assert shown(rules_table([RULES[0], other]), width).count("web") == 2
    assert shown(rules_table([RULES[0], other]), width).count("api") == 2


def test_an_empty_list_advises_to_import_only_where_nothing_is_stored() -> None:
    assert "symmetra-mcp import PATH" in shown(rules_table([]))
    assert shown(rules_table([], filtered=True)) == "No rules.\n"


def test_hits_of_several_projects_name_theirs() -> None:
    hits = [
        HitAnswer(
            rule_id="retries",
            project_id=name,
            title="Retries",
            guidance="Do it.",
            excerpt=True,
            priority="low",
            score=1,
            matched=[],
        )
        for name in ("api", "web")
    ]
    result = SearchResult(verdict="applies", hits=hits, mode="words", rules_considered=2)

    assert "retries (project web) · an excerpt: `symmetra-mcp rules show retries --project web`" in shown(
        search_answer(result)
    )
    assert "(project" not in shown(search_answer(result.model_copy(update={"hits": hits[:1]})))


def test_the_nearest_rules_stand_in_the_order_of_the_number_they_show() -> None:
    nearest = [
        NearAnswer(rule_id=name, title=name.upper(), similarity=similarity)
        for name, similarity in (("a", 0.1), ("b", None), ("c", 0.3))
    ]
    result = SearchResult(verdict="none", hits=[], nearest=nearest, mode="hybrid", rules_considered=3)

    assert "   0.30  C (c)\n   0.10  A (a)\n         B (b)\n" in shown(search_answer(result))


def test_removed_and_stale_rules_are_named() -> None:
    report = replace(REPORT, removed=(RuleKey("api", "old"),), stale=(RuleKey("api", "older"),))

    assert "Removed old\n" in reported(report)
    assert "Would remove old\n" in reported(replace(report, dry_run=True))
    assert "No longer stated: older\n" in reported(report)
    assert "1 rule has left these files: --prune removes it\n" in reported(report)


def test_only_the_first_of_many_removed_rules_are_named_unless_all_are_wanted() -> None:
    report = replace(REPORT, removed=tuple(RuleKey("api", f"old-{n}") for n in range(30)))

    assert "… and 10 more" in reported(report)
    assert "old-29" not in reported(report)
    assert "old-29" in reported(report, verbose=True)


def test_an_import_that_found_no_rule_file_says_where_it_looked_and_for_what() -> None:
    text = reported(REPORT, paths=[Path("docs/rules")])

    assert "No rule files below docs/rules: looked for AGENTS.md, CLAUDE.md" in text
    assert "No rule files" not in reported(replace(REPORT, skipped=(Skipped("a.md", "it is binary"),)))
    assert "No rule files" not in reported(replace(REPORT, files=(FileReport("a.md", "markdown", 0, 1, 0),)))


@pytest.mark.parametrize("warning", ["r.yaml:3: no guidance", "r.yaml, entry 2: no guidance"])
def test_a_warning_that_names_its_place_is_not_given_another(warning: str) -> None:
    file = FileReport("r.yaml", "native", 1, 0, 0, (warning, "the encoding was guessed"))

    text = reported(replace(REPORT, files=(file,)))

    assert f"Warning: {warning}\n" in text
    assert "Warning: r.yaml: the encoding was guessed\n" in text


def test_one_is_not_told_in_the_plural() -> None:
    file = FileReport("r.yaml", "native", 1, 0, 0)

    text = reported(replace(REPORT, files=(file,), duplicates=1))

    assert "1 file, project api" in text
    assert "1 statement repeats a rule" in text
