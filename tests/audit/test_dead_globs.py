from __future__ import annotations

from pathlib import Path

from rules_of import rule

from symmetra_mcp.audit.dead_globs import files_below, glob_findings


def found(root: Path, *globs: str, limit: int = 100) -> list[tuple[str, str]]:
    findings = glob_findings([rule("Name it.", *globs)], {"shop": files_below(root, limit)})
    return [(finding.shape, finding.about) for finding in findings]


def make(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("")
    return root


def test_a_glob_that_no_file_matches_is_dead(tmp_path: Path) -> None:
    make(tmp_path, "src/a.py", "node_modules/x/a.ts")
    dead = ("matches-nothing", "the glob '**/*.ts' matches none of the 1 files of the project")
    assert found(tmp_path, "**/*.ts") == [dead]
    assert found(tmp_path, "**/*.py") == []
    assert found(tmp_path, "!**/*.md") == []


def test_of_a_list_that_matches_something_only_globs_of_folders_are_told(tmp_path: Path) -> None:
    make(tmp_path, "src/a.js")
    assert found(tmp_path, "**/*.js", "**/*.jsx") == []
    [(shape, about)] = found(tmp_path, "**/*.js", "lib/**")
    assert (shape, about.split(",")[0]) == ("matches-nothing", "the glob 'lib/**'")
    [(_, about)] = found(tmp_path, "**/*.ts", "lib/**")
    assert about.startswith("the globs '**/*.ts' and 'lib/**' match none")


def test_a_glob_that_cannot_be_read_is_told_even_without_the_folder(tmp_path: Path) -> None:
    [(shape, about)] = found(make(tmp_path, "a.ts"), "**/*.{ts,tsx")
    assert (shape, about) == ("unreadable", "the glob '**/*.{ts,tsx' can't be read: '{' and '}' are not in pairs")
    assert [each.shape for each in glob_findings([rule("Name it.", "src/[a")], {})] == ["unreadable"]
    assert glob_findings([rule("Name it.", "src/**")], {}) == []


def test_in_a_folder_with_too_many_files_no_glob_is_called_dead(tmp_path: Path) -> None:
    make(tmp_path, *(f"{number}.py" for number in range(5)))
    assert not files_below(tmp_path, 4).complete
    assert found(tmp_path, "**/*.ts", limit=4) == []
    assert len(found(tmp_path, "**/*.ts", limit=5)) == 1
