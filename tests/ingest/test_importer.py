from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_rules import MemoryRules

from symmetra_mcp.errors import RuleFileError
from symmetra_mcp.ingest.dialects import dialect_of
from symmetra_mcp.ingest.importer import UPSERT_BATCH, import_files, read_files
from symmetra_mcp.ingest.model import ParsedFile
from symmetra_mcp.ingest.parse import parse_file
from symmetra_mcp.ingest.plan import ImportPlan, plan_import
from symmetra_mcp.ingest.report import ImportReport
from symmetra_mcp.types import Rule, Scope, Source

Write = Callable[[str, str], Path]

ITEMS = [
    "Always validate the input of public functions",
    "Never log passwords, tokens or other secrets",
    "Prefer small functions that do one thing well",
    "Use parametrized tests for tables of cases",
    "Avoid global state in library modules",
]


def page(items: list[str], heading: str = "Style") -> str:
    return f"# Guide\n\n## {heading}\n\n" + "".join(f"- {item}.\n" for item in items)


def run(store: MemoryRules, project: Path, *paths: Path, prune: bool = False, dry_run: bool = False) -> ImportReport:
    async def go() -> ImportReport:
        return await import_files(store, paths or (project,), project_id="p", prune=prune, dry_run=dry_run)

    return anyio.run(go)


def counts(report: ImportReport) -> dict[str, int]:
    numbers = report.to_dict()["counts"]
    assert isinstance(numbers, dict)
    return {name: number for name, number in numbers.items() if number}


def parsed(path: str, text: str) -> ParsedFile:
    dialect = dialect_of(path)
    assert dialect is not None
    return parse_file(path, dialect, text.encode())


def plan(existing: list[Rule], *files: ParsedFile, prune: bool = False) -> ImportPlan:
    return plan_import(existing, files, project_id="p", prune_under=[""] if prune else None)


def stored(*files: ParsedFile) -> list[Rule]:
    return list(plan([], *files).added)


def ids(rules: list[Rule]) -> dict[str, str]:
    return {rule.guidance: rule.rule_id for rule in rules}


def test_second_import_of_unchanged_files_changes_nothing(store: MemoryRules, project: Path, write: Write) -> None:
    write("AGENTS.md", page(ITEMS))
    assert counts(run(store, project)) == {"added": 5}
    assert counts(run(store, project, prune=True)) == {"unchanged": 5}


def test_dry_run_writes_nothing_and_tells_the_same(store: MemoryRules, project: Path, write: Write) -> None:
    write("AGENTS.md", page(ITEMS))
    dry = run(store, project, dry_run=True)
    assert store.rules == {}
    assert dry.dry_run
    assert dry.added == run(store, project).added


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(ITEMS))
def test_reordering_keeps_every_id(order: list[str]) -> None:
    before = stored(parsed("AGENTS.md", page(ITEMS)))
    after = plan(before, parsed("AGENTS.md", page(order)))
    assert (after.added, after.changed, after.removed, after.stale) == ((), (), (), ())


@settings(max_examples=40)
@given(which=st.integers(0, 4), word=st.sampled_from(["carefully", "everywhere", "please"]))
def test_edited_item_keeps_its_id_and_its_neighbours_are_unchanged(which: int, word: str) -> None:
    before = stored(parsed("AGENTS.md", page(ITEMS)))
    edited = [f"{item} {word}" if number == which else item for number, item in enumerate(ITEMS)]
    after = plan(before, parsed("AGENTS.md", page(edited)), prune=True)
    assert [rule.rule_id for rule in after.changed] == [ids(before)[f"{ITEMS[which]}."]]
    assert (len(after.unchanged), after.added, after.removed) == (4, (), ())


def test_lines_alone_make_a_rule_moved() -> None:
    before = stored(parsed("AGENTS.md", page(ITEMS)))
    after = plan(before, parsed("AGENTS.md", "\n\n" + page(ITEMS)))
    assert len(after.moved) == 5
    assert after.changed == ()


def test_rule_that_moves_to_another_file_keeps_its_id() -> None:
    before = stored(parsed("AGENTS.md", page(ITEMS)), parsed("GEMINI.md", page(["Use types everywhere in the code"])))
    after = plan(
        before,
        parsed("AGENTS.md", page(ITEMS[1:])),
        parsed("GEMINI.md", page(["Use types everywhere in the code", ITEMS[0]])),
        prune=True,
    )
    assert (after.added, after.removed) == ((), ())
    assert ids(list(after.moved))[f"{ITEMS[0]}."] == ids(before)[f"{ITEMS[0]}."]


def test_rule_stated_twice_is_one_with_both_sources_and_scopes() -> None:
    result = plan([], parsed("b/AGENTS.md", page(ITEMS[:2])), parsed("a/AGENTS.md", page(ITEMS[:2], "Other")))
    assert result.duplicates == 2
    first = result.added[0]
    assert [source.path for source in first.sources] == ["a/AGENTS.md", "b/AGENTS.md"]
    assert first.scopes == (Scope("files", ("a/**",)), Scope("files", ("b/**",)))
    assert first.heading_path == ("Guide", "Other")


def test_short_text_under_two_headings_is_two_rules() -> None:
    text = "## Titles\nKeep it short.\n\n## Bodies\nKeep it short.\n"
    assert len(stored(parsed("AGENTS.md", text))) == 2


def test_technologies_of_a_rule_stated_twice_are_united() -> None:
    text = "- Always keep functions small and focused on one thing.\n"
    files = [
        parsed(f".cursor/rules/{n}.mdc", f"---\nglobs: {g}\n---\n{text}") for n, g in (("a", "*.py"), ("b", "*.rb"))
    ]
    assert stored(*files)[0].tech_stacks == ("python", "ruby")
    assert stored(*files, parsed("AGENTS.md", text))[0].tech_stacks == ()


def test_order_of_files_makes_no_difference() -> None:
    files = [parsed(f"{name}/AGENTS.md", page(ITEMS[n:])) for n, name in enumerate("abcd")]
    shuffled = random.Random(1).sample(files, k=len(files))
    assert plan([], *files) == plan([], *shuffled)


def test_importing_one_file_leaves_the_sources_of_others() -> None:
    a, b = parsed("a/AGENTS.md", page(ITEMS)), parsed("b/AGENTS.md", page(ITEMS))
    before = stored(a, b)
    after = plan(before, parsed("b/AGENTS.md", page(ITEMS[:4])))
    assert len(after.unchanged) == 4
    (left,) = after.changed
    assert [source.path for source in left.sources] == ["a/AGENTS.md"]
    assert (after.removed, after.stale) == ((), ())


def test_vanished_rule_is_stale_without_pruning_and_removed_with_it() -> None:
    before = stored(parsed("AGENTS.md", page(ITEMS)))
    gone = [rule.key for rule in before if rule.guidance == f"{ITEMS[4]}."]
    assert list(plan(before, parsed("AGENTS.md", page(ITEMS[:4]))).stale) == gone
    assert list(plan(before, parsed("AGENTS.md", page(ITEMS[:4])), prune=True).removed) == gone


def test_pruning_stays_below_the_given_paths() -> None:
    before = stored(parsed("a/AGENTS.md", page(ITEMS[:2])), parsed("b/AGENTS.md", page(ITEMS[2:])))
    result = plan_import(before, [], project_id="p", prune_under=["a"])
    assert {key.rule_id for key in result.removed} == {
        rule.rule_id for rule in before if rule.sources[0].path == "a/AGENTS.md"
    }


def test_rules_of_an_unreadable_file_or_folder_are_never_removed() -> None:
    before = stored(parsed("a/AGENTS.md", page(ITEMS)))
    broken = ParsedFile("a/AGENTS.md", "agents-md", problem="can't be read")
    assert plan(before, broken, prune=True).removed == ()
    assert plan_import(before, [], project_id="p", prune_under=[""], unreadable=["a"]).removed == ()


def test_rules_of_a_partly_readable_file_are_never_removed() -> None:
    before = stored(
        parsed("symmetra-rules.yaml", "- {rule_id: a, guidance: Use a.}\n- {rule_id: b, guidance: Use b.}\n")
    )
    after = plan(
        before, parsed("symmetra-rules.yaml", "- {rule_id: a, guidance: Use a.}\n- {rule_id: b}\n"), prune=True
    )
    assert (after.removed, len(after.unchanged)) == ((), 1)


def test_rules_added_by_hand_and_of_other_projects_are_left_alone() -> None:
    by_hand = Rule("p", "mine", "Mine", "Use mine.")
    other = Rule("q", "theirs", "Theirs", "Use theirs.", sources=(Source("AGENTS.md"),))
    result = plan([by_hand, other], parsed("AGENTS.md", page(ITEMS)), prune=True)
    assert (result.removed, result.stale, len(result.added)) == ((), (), 5)


def test_ids_given_in_files_are_used_and_their_fields_win() -> None:
    text = f"- rule_id: mine\n  title: Mine\n  category: security\n  guidance: {ITEMS[0]}.\n"
    result = plan([], parsed("AGENTS.md", page(ITEMS[:2])), parsed("symmetra-rules.yaml", text))
    mine = next(rule for rule in result.added if rule.rule_id == "mine")
    assert (mine.title, mine.category, [s.path for s in mine.sources]) == (
        "Mine",
        "security",
        ["symmetra-rules.yaml", "AGENTS.md"],
    )
    again = plan(list(result.added), parsed("AGENTS.md", page(ITEMS[:2])), parsed("symmetra-rules.yaml", text))
    assert len(again.unchanged) == 2


def test_one_id_for_two_texts_is_reported_and_the_first_counts() -> None:
    files = [parsed(f"{n}/symmetra-rules.yaml", f"- {{rule_id: x, guidance: Use {n}.}}\n") for n in "ab"]
    result = plan([], *files)
    assert [rule.guidance for rule in result.added] == ["Use a."]
    assert result.warnings[0].startswith(
        "b/symmetra-rules.yaml:1: rule_id 'x' is also given in a/symmetra-rules.yaml:1"
    )


def test_change_of_scope_is_a_change() -> None:
    text = "---\nglobs: {}\n---\n- Always keep functions small and focused.\n"
    before = stored(parsed(".cursor/rules/a.mdc", text.format("*.py")))
    after = plan(before, parsed(".cursor/rules/a.mdc", text.format("*.ts")))
    assert [rule.rule_id for rule in after.changed] == [before[0].rule_id]


def test_deleted_file_is_pruned_from_disk(store: MemoryRules, project: Path, write: Write) -> None:
    write("AGENTS.md", page(ITEMS))
    file = write("a/AGENTS.md", page(["Always write tests for the code you add"]))
    run(store, project)
    file.unlink()
    assert counts(run(store, project)) == {"unchanged": 5}
    assert counts(run(store, project, prune=True)) == {"unchanged": 5, "removed": 1}
    assert len(store.rules) == 5


def test_file_that_became_too_large_keeps_its_rules(store: MemoryRules, project: Path, write: Write) -> None:
    write("AGENTS.md", page(ITEMS))
    run(store, project)
    write("AGENTS.md", "x" * 2_000_000)
    report = run(store, project, prune=True)
    assert [skipped.path for skipped in report.skipped] == ["AGENTS.md"]
    assert len(store.rules) == 5


def test_large_imports_are_written_in_batches(store: MemoryRules, project: Path, write: Write) -> None:
    write(
        "AGENTS.md", page([f"Always use option number {number} with great care" for number in range(UPSERT_BATCH + 3)])
    )
    run(store, project)
    assert store.batches == [UPSERT_BATCH, 3]


def test_progress_is_told_while_reading_and_writing(store: MemoryRules, project: Path, write: Write) -> None:
    write("AGENTS.md", page(ITEMS))
    seen: list[tuple[str, int, int]] = []

    async def go() -> None:
        await import_files(store, [project], project_id="p", on_progress=lambda *told: seen.append(told))

    anyio.run(go)
    assert seen == [("read", 1, 1), ("write", 5, 5)]


def test_report_is_plain_data(store: MemoryRules, project: Path, write: Write) -> None:
    write("AGENTS.md", page([*ITEMS, "Run rm -rf build before you start over"]))
    write("CLAUDE.md", "AGENTS.md")
    write("GEMINI.md", "")
    write(".cursorrules", "\x00\x01\x02\x03\x04" * 10)
    told = json.loads(json.dumps(run(store, project).to_dict()))
    assert told["counts"]["added"] == 6
    assert told["links"] == [{"path": "CLAUDE.md", "target": "AGENTS.md"}]
    assert told["skipped"] == [{"path": ".cursorrules", "reason": "not a text file (it holds binary data)"}]
    assert [(flag["path"], flag["line"], flag["kind"]) for flag in told["flags"]] == [
        ("AGENTS.md", 10, "dangerous-command")
    ]
    assert [(file["path"], file["rules"], file["note"]) for file in told["files"]] == [
        ("AGENTS.md", 6, ""),
        ("GEMINI.md", 0, "empty"),
    ]


def test_missing_path_fails_before_anything_is_written(store: MemoryRules, project: Path) -> None:
    with pytest.raises(RuleFileError, match="does not exist"):
        run(store, project, project / "nowhere")
    assert store.rules == {}


def test_export_imported_again_beside_its_sources_adds_nothing(store: MemoryRules, project: Path, write: Write) -> None:
    from symmetra_mcp.ingest.export import dump_rules

    write("AGENTS.md", page(ITEMS))
    run(store, project)
    before = {rule.guidance: rule.rule_id for rule in store.rules.values()}
    write("symmetra-rules.yaml", dump_rules(list(store.rules.values()), "yaml"))
    report = run(store, project, prune=True)
    assert (report.added, report.removed) == ((), ())
    assert {rule.guidance: rule.rule_id for rule in store.rules.values()} == before


def test_reading_alone_needs_no_store(project: Path, write: Write) -> None:
    write("AGENTS.md", page(ITEMS))
    files = read_files([project])
    assert [len(file.statements) for file in files.parsed] == [5]
    assert files.prune_under == ("",)


def test_a_data_file_that_a_program_wrote_may_be_larger_than_one_that_a_person_wrote(tmp_path: Path) -> None:
    rules = tmp_path / "rules.jsonl"
    rules.write_text("".join(f'{{"title": "Rule {i}", "guidance": "Do {"x" * 900} {i}."}}\n' for i in range(1_300)))
    (tmp_path / "AGENTS.md").write_text("- Always keep it short.\n" * 50_000)

    read = {file.path: file for file in read_files([rules, tmp_path / "AGENTS.md"], root=tmp_path).parsed}

    assert rules.stat().st_size > 1024 * 1024
    assert len(read["rules.jsonl"].statements) == 1_300
    assert "larger than 1,024 KiB" in read["AGENTS.md"].problem


def test_pruning_leaves_alone_what_was_imported_by_name_and_still_exists(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "AGENTS.md").write_text("- Always name every constraint.\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "guide.md").write_text("- Never use global mutable state.\n")
    store = MemoryRules()

    async def run() -> list[str]:
        await import_files(store, [tmp_path / "docs" / "guide.md"], project_id="p", root=tmp_path)
        await import_files(store, [tmp_path], project_id="p", root=tmp_path, prune=True)
        kept = [rule.guidance for rule in await store.list_rules("p")]
        (tmp_path / "docs" / "guide.md").unlink()
        await import_files(store, [tmp_path], project_id="p", root=tmp_path, prune=True)
        return [*kept, "--", *(rule.guidance for rule in await store.list_rules("p"))]

    found = anyio.run(run)
    assert sorted(found[: found.index("--")]) == ["Always name every constraint.", "Never use global mutable state."]
    assert found[found.index("--") + 1 :] == ["Always name every constraint."]


def test_a_file_that_can_not_be_stored_does_not_keep_the_others_out(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "AGENTS.md").write_text("- Always name every constraint.\n")
    rules = tmp_path / ".symmetra" / "rules"
    rules.mkdir(parents=True)
    (rules / "half.json").write_text('{"rules": [{"title": "Half \\ud800", "guidance": "Always \\ud800 mend it."}]}')
    (rules / "escape\x1b[31m.yaml").write_text("rules: []\n")
    Path(os.fsdecode(os.fsencode(rules) + b"/bad\xff.md")).write_text("- Always rename me.\n")
    store = MemoryRules()

    report = anyio.run(lambda: import_files(store, [tmp_path], project_id="p", root=tmp_path))

    kept = sorted(rule.guidance for rule in anyio.run(store.list_rules, "p"))
    assert kept == ["Always name every constraint.", "Always \ufffd mend it."]
    assert [skipped.path for skipped in report.skipped] == [
        ".symmetra/rules/bad\\udcff.md",
        ".symmetra/rules/escape\\x1b[31m.yaml",
    ]
    assert all("rename it" in skipped.reason for skipped in report.skipped)
