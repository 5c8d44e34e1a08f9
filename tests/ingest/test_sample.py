"""The importer on real rule files of public repositories; skipped where the sample is not at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from symmetra_mcp.ingest.blocks import plain
from symmetra_mcp.ingest.importer import ReadFiles, read_files
from symmetra_mcp.ingest.plan import plan_import
from symmetra_mcp.ingest.sizes import MAX_RULE_CHARS


@pytest.fixture(scope="module")
def files(sample: Path) -> ReadFiles:
    return read_files([sample], root=sample)


def test_every_file_is_read_and_gives_a_rule_or_says_why(files: ReadFiles) -> None:
    assert len(files.parsed) + len(files.discovery.links) == 247
    assert files.discovery.skipped == ()
    assert [file.path for file in files.parsed if file.problem] == []
    silent = [file for file in files.parsed if not file.statements]
    assert all(file.note for file in silent)
    assert len(silent) <= 22


def test_frontmatter_of_every_file_is_understood(files: ReadFiles) -> None:
    warned = [(file.path, warning) for file in files.parsed for warning in file.warnings if "frontmatter" in warning]
    assert warned == []


def test_about_as_many_rules_as_were_counted_by_hand(files: ReadFiles) -> None:
    rules = sum(len(file.statements) for file in files.parsed)
    assert 5500 < rules < 7000


def test_no_rule_is_empty_oversized_or_untitled(files: ReadFiles) -> None:
    for file in files.parsed:
        for statement in file.statements:
            source = statement.sources[0]
            assert 0 < len(statement.guidance) <= MAX_RULE_CHARS, source
            assert 0 < len(statement.title) <= 80, source
            assert 0 < source.line_start <= source.line_end, source
            assert plain(statement.title), source


def test_re_encodings_give_the_rules_of_the_original(files: ReadFiles) -> None:
    by_name = {
        Path(file.path).name: [statement.guidance for statement in file.statements]
        for file in files.parsed
        if file.path.startswith("_encoding_variants/")
    }
    for name in ("crlf.mdc", "lone_cr.mdc", "utf16le.mdc", "gb18030.mdc", "nul.mdc"):
        assert by_name[name] == by_name["bom.mdc"], name
    bicep = by_name["bom_crlf.instructions.md"]
    for name in ("mixed_eol", "leading_blank_lines", "unclosed_frontmatter"):
        assert by_name[f"{name}.instructions.md"] == bicep, name


@pytest.mark.slow
def test_second_import_changes_nothing_and_ids_are_unique(files: ReadFiles) -> None:
    first = plan_import([], files.parsed, project_id="p")
    assert len({rule.rule_id for rule in first.added}) == len(first.added)
    second = plan_import(first.added, files.parsed, project_id="p", prune_under=[""])
    assert len(second.unchanged) == len(first.added)
    assert second.writes == ()
    assert second.removed == ()
