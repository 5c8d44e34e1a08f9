from __future__ import annotations

import pytest

from symmetra_mcp.ingest.frontmatter import Frontmatter, read_frontmatter


def read(text: str) -> Frontmatter:
    return read_frontmatter(text.split("\n"))


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("globs: **/*", "**/*"),
        ("globs: *.py", "*.py"),
        ("globs: **/*.{ts,tsx}, src/**", "**/*.{ts,tsx}, src/**"),
        ("globs: *.py # Python", "*.py"),
        ("globs: {a,b}/*.ts", "{a,b}/*.ts"),
        ("globs: {a,b}", "{a,b}"),
        ("globs: [*.py, *.ts]", "[*.py, *.ts]"),
        ('globs: "a.py"', "a.py"),
        ("globs: @types/*.ts", "@types/*.ts"),
        ("globs: !tests/**", "!tests/**"),
        ("globs:", None),
        ("globs: null", None),
    ],
)
def test_globs_as_people_write_them_are_read(line: str, value: str | None) -> None:
    front = read(f"---\ndescription: Use: types\n{line}\nalwaysApply: false\n---\nbody")
    assert (front.get("globs"), front.text("description"), front.warnings) == (value, "Use: types", ())
    assert front.body_start == 5


def test_list_of_unquoted_patterns_is_read() -> None:
    assert read("---\nglobs:\n  - *.py\n  - **/*.ts\n---\n").get("globs") == ["*.py", "**/*.ts"]


def test_values_stay_text() -> None:
    front = read("---\na: no\nb: 1.10\nc: 2024-01-02\nd: true\n---")
    assert dict(front.values) == {"a": "no", "b": "1.10", "c": "2024-01-02", "d": "true"}
    assert front.is_true("d")


def test_blank_lines_before_the_opening_line_are_allowed() -> None:
    front = read("\n\n---\nglobs: *.py\n---\nbody")
    assert (front.get("globs"), front.body_start) == ("*.py", 5)


def test_unclosed_frontmatter_ends_where_its_keys_end() -> None:
    front = read("---\ndescription: x\nglobs: *.py\n# Title\n- Use types")
    assert (front.get("globs"), front.body_start) == ("*.py", 3)


def test_a_rule_across_the_page_far_below_does_not_close_frontmatter() -> None:
    front = read("---\ndescription: x\n\n## Title\n- Use types\n\n---\n\nmore")
    assert (front.text("description"), front.body_start) == ("x", 2)


def test_rule_across_the_page_is_no_frontmatter() -> None:
    assert read("---\nSome prose.\n---\nmore") == Frontmatter()


def test_empty_frontmatter_is_present() -> None:
    assert read("---\n---\nbody").present


def test_duplicate_key_is_reported_and_the_last_counts() -> None:
    front = read("---\nglobs: *.py\nglobs: *.ts\n---\n")
    assert front.get("globs") == "*.ts"
    assert "more than once" in front.warnings[0]


def test_line_that_nothing_can_be_made_of_is_reported_and_the_rest_is_read() -> None:
    front = read("---\nglobs: *.py\n%% what\n\tis: [this\n---\nbody")
    assert front.get("globs") == "*.py"
    assert "could not be understood" in front.warnings[0]


def test_raw_text_is_kept() -> None:
    assert read("---\nglobs: **/*\n---\n").raw == "globs: **/*"


@pytest.mark.parametrize("hostile", ["[" * 100_000, "{a: " * 50_000, "- " * 100_000], ids=["flow", "map", "block"])
def test_deep_nesting_neither_crashes_nor_fails_the_file(hostile: str) -> None:
    assert read(f"---\nglobs: *.py\nx: {hostile}\n---\nbody").get("globs") == "*.py"
