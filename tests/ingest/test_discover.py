from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from symmetra_mcp.errors import RuleFileError
from symmetra_mcp.ingest.discover import discover, project_root

Write = Callable[[str, str], Path]
RULE = "- Always do the right thing here.\n"


def found(project: Path, *paths: Path) -> list[str]:
    return [file.path for file in discover(paths or (project,), project).files]


def test_every_dialect_is_found_and_nothing_else(project: Path, write: Write) -> None:
    rule_files = [
        ".clinerules/a.md",
        ".claude/rules/sub/a.md",
        ".cursor/rules/build/a.mdc",
        ".cursorrules",
        ".github/copilot-instructions.md",
        ".github/instructions/a.instructions.md",
        ".kiro/steering/a.md",
        ".roo/rules-code/1.xml",
        ".roorules",
        ".symmetra/rules/a.yaml",
        ".windsurf/rules/a.md",
        ".windsurfrules",
        "AGENTS.md",
        "GEMINI.md",
        "packages/a/CLAUDE.md",
        "symmetra-rules.json",
    ]
    others = ["README.md", ".clinerules/workflows/a.md", "package.json", "src/rules.yaml"]
    pruned = [
        "node_modules/x/AGENTS.md",
        ".venv/AGENTS.md",
        "dist/AGENTS.md",
        ".git/AGENTS.md",
        "vendor/x/.cursorrules",
    ]
    for path in (*rule_files, *others, *pruned):
        write(path, RULE)
    assert found(project) == sorted(rule_files)


def test_virtual_environment_of_any_name_is_not_searched(project: Path, write: Write) -> None:
    write("python/pyvenv.cfg", "")
    write("python/lib/AGENTS.md", RULE)
    assert found(project) == []


def test_named_file_is_read_whatever_it_is_called(project: Path, write: Write) -> None:
    paths = [write("docs/style.md", RULE), write("x/team.yaml", RULE), write("x/y.jsonl", "")]
    assert found(project, *paths) == ["docs/style.md", "x/team.yaml", "x/y.jsonl"]


def test_named_folder_without_a_known_dialect_is_taken_at_its_word(project: Path, write: Write) -> None:
    write("docs/rules/style.md", RULE)
    write("docs/rules/README.md", "# Index")
    assert found(project, project / "docs/rules") == ["docs/rules/style.md"]


def test_documentation_of_a_project_without_rules_is_not_imported(project: Path, write: Write) -> None:
    write("docs/guide.md", RULE)
    assert found(project) == []


def test_file_of_no_use_is_refused_by_name(project: Path, write: Write) -> None:
    with pytest.raises(RuleFileError, match=r"main\.py is no rule file"):
        discover([write("main.py", "")], project)


def test_missing_path_is_refused_by_name(project: Path) -> None:
    with pytest.raises(RuleFileError, match="nowhere does not exist"):
        discover([project / "nowhere"], project)


def test_path_outside_the_root_is_refused(project: Path, write: Write) -> None:
    write("a/AGENTS.md", RULE)
    with pytest.raises(RuleFileError, match="outside the project root"):
        discover([project], project / "a")


def test_link_to_a_rule_file_is_imported_once(project: Path, write: Write) -> None:
    write("AGENTS.md", RULE)
    (project / "CLAUDE.md").symlink_to("AGENTS.md")
    discovery = discover([project], project)
    assert [file.path for file in discovery.files] == ["AGENTS.md"]
    assert discovery.links == (("CLAUDE.md", "AGENTS.md"),)


def test_links_to_a_file_that_is_none_by_itself_are_imported_once(project: Path, write: Write) -> None:
    write("docs/team.md", RULE)
    for name in ("CLAUDE.md", "GEMINI.md"):
        (project / name).symlink_to("docs/team.md")
    assert found(project) == ["CLAUDE.md"]


def test_linked_folder_is_searched_once_and_cycles_end(project: Path, write: Write) -> None:
    write("docs/rules/a.md", RULE)
    (project / ".claude").mkdir()
    (project / ".claude/rules").symlink_to("../docs/rules")
    (project / "docs/rules/loop").symlink_to("..")
    (project / "docs/up").symlink_to("../..")
    assert found(project) == [".claude/rules/a.md"]


def test_link_out_of_the_root_is_refused_and_reported(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.md").write_text(RULE)
    (project / "AGENTS.md").symlink_to(outside / "secret.md")
    (project / ".cursor").mkdir()
    (project / ".cursor/rules").symlink_to(outside)
    discovery = discover([project], project)
    assert discovery.files == ()
    assert [skipped.path for skipped in discovery.skipped] == [".cursor/rules", "AGENTS.md"]


def test_dangling_link_is_reported(project: Path) -> None:
    (project / "AGENTS.md").symlink_to("gone.md")
    assert [skipped.reason for skipped in discover([project], project).skipped] == ["the link leads nowhere"]


def test_link_that_git_checked_out_as_text_is_followed(project: Path, write: Write) -> None:
    write("AGENTS.md", RULE)
    write("CLAUDE.md", "AGENTS.md")
    write("docs/team.md", RULE)
    write("GEMINI.md", "docs/team.md\n")
    discovery = discover([project], project)
    assert [file.path for file in discovery.files] == ["AGENTS.md", "docs/team.md"]
    assert discovery.links == (("CLAUDE.md", "AGENTS.md"), ("GEMINI.md", "docs/team.md"))


def test_imported_files_are_pulled_in_once_with_the_folder_of_their_importer(project: Path, write: Write) -> None:
    write("pkg/CLAUDE.md", f"@AGENTS.md\n@../docs/team.md\n- @../docs/team.md\n{RULE}")
    write("pkg/AGENTS.md", "@CLAUDE.md\n")
    write("docs/team.md", RULE)
    discovery = discover([project], project)
    assert [(file.path, file.base) for file in discovery.files] == [
        ("docs/team.md", "pkg"),
        ("pkg/AGENTS.md", "pkg"),
        ("pkg/CLAUDE.md", "pkg"),
    ]


def test_import_out_of_the_root_is_reported(project: Path, write: Write) -> None:
    write("CLAUDE.md", "@../../etc/passwd.md\n@~/.claude/mine.md\n")
    (skipped,) = discover([project], project).skipped
    assert "out of the project root" in skipped.reason


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_unreadable_folder_is_reported(project: Path, write: Write) -> None:
    write("locked/AGENTS.md", RULE)
    (project / "locked").chmod(0)
    try:
        assert [skipped.path for skipped in discover([project], project).skipped] == ["locked"]
    finally:
        (project / "locked").chmod(0o755)


def test_root_is_the_nearest_repository_else_what_holds_the_dot_folder(tmp_path: Path) -> None:
    (tmp_path / "plain/.cursor/rules").mkdir(parents=True)
    (tmp_path / "repo/.git").mkdir(parents=True)
    (tmp_path / "repo/a/b").mkdir(parents=True)
    (tmp_path / "plain/.cursor/rules/x.mdc").write_text(RULE)
    (tmp_path / "plain/notes.md").write_text(RULE)
    assert project_root(tmp_path / "repo/a/b") == tmp_path / "repo"
    assert project_root(tmp_path / "plain/.cursor/rules/x.mdc") == tmp_path / "plain"
    assert project_root(tmp_path / "plain/.cursor") == tmp_path / "plain"
    assert project_root(tmp_path / "plain/notes.md") == tmp_path / "plain"
    assert project_root(tmp_path / "plain") == tmp_path / "plain"
