from __future__ import annotations

import pytest

from symmetra_mcp.ingest.identity import Candidate, match_edited, new_id, normalized, slug, text_key
from symmetra_mcp.ingest.model import Statement
from symmetra_mcp.types import Source


def statement(text: str, path: str = "AGENTS.md", *headings: str) -> Statement:
    return Statement(text[:30], text, (Source(path, 1, 1, "agents-md", headings),))


@pytest.mark.parametrize(
    "other",
    ["use `Types`,  always.", "- Use **types**, always", "> USE types, always!", "1. Use types, always"],
)
def test_markers_case_blanks_and_the_last_stop_do_not_make_another_rule(other: str) -> None:
    assert normalized(other) == normalized("Use types, always")


def test_short_texts_count_with_their_heading_and_long_ones_do_not() -> None:
    assert text_key("Keep it short", ("Titles",)) != text_key("Keep it short", ("Bodies",))
    long = "Prefer iteration and modularization over duplicating code"
    assert text_key(long, ("A",)) == text_key(long, ("B",))


def test_id_is_readable_and_depends_on_project_path_heading_and_text_alone() -> None:
    one = statement("Use types in public functions", "AGENTS.md", "Style")
    rule_id = new_id(one, "p")
    assert rule_id.startswith("use-types-in-public-functions-")
    assert len(rule_id.rsplit("-", 1)[1]) == 8
    assert rule_id == new_id(one, "p")
    others = [
        new_id(one, "q"),
        new_id(statement("Use types in public functions", "b.md", "Style"), "p"),
        new_id(statement("Use types in public functions", "AGENTS.md", "Other"), "p"),
    ]
    assert len({rule_id, *others}) == 4


def test_taken_id_is_made_longer() -> None:
    one = statement("Use types")
    first = new_id(one, "p")
    second = new_id(one, "p", {first})
    assert second.startswith(first)
    assert second != first


@pytest.mark.parametrize(("text", "expected"), [("必须使用类型", "必须使用类型"), ("***", ""), ("A  b!c", "a-b-c")])
def test_slug_keeps_words_of_every_script(text: str, expected: str) -> None:
    assert slug(text) == expected


def test_slug_is_cut_between_words() -> None:
    assert slug("consideration of the many alternatives that exist") == "consideration-of-the-many-alternatives"


def test_edited_text_under_the_same_heading_is_matched() -> None:
    gone = [
        Candidate("old-1", "a", ("H",), "Always validate the input of public functions"),
        Candidate("old-2", "b", ("H",), "Never log the password of a user"),
    ]
    new = [
        Candidate("1", "c", ("H",), "Never log the password or token of a user"),
        Candidate("2", "d", ("H",), "Always validate all the input of public functions"),
    ]
    assert match_edited(gone, new) == {"1": "old-2", "2": "old-1"}


def test_unlike_text_under_the_same_heading_is_another_rule() -> None:
    gone = [Candidate("old", "a", ("H",), "Always validate the input of public functions")]
    assert match_edited(gone, [Candidate("1", "b", ("H",), "Keep modules small and focused")]) == {}


def test_other_heading_needs_more_likeness() -> None:
    gone = [Candidate("old", "a", ("H",), "Always validate the input of all public functions")]
    near = Candidate("1", "b", ("I",), "Always validate the input of all public methods")
    far = Candidate("2", "c", ("I",), "Always check the input of every public method")
    assert match_edited(gone, [near]) == {"1": "old"}
    assert match_edited(gone, [far]) == {}


def test_edited_chinese_text_is_matched() -> None:
    gone = [Candidate("old", "a", ("规范",), "必须为所有公共函数添加类型注解和文档")]
    assert match_edited(gone, [Candidate("1", "b", ("规范",), "必须为所有公共函数添加类型注解和说明")]) == {"1": "old"}


@pytest.mark.timeout(60)
@pytest.mark.slow
def test_thousands_of_edited_rules_in_a_file_are_matched_without_comparing_each_with_each() -> None:
    words = [f"w{number}" for number in range(1500)]
    gone = [
        Candidate(f"old-{n}", f"t{n}", ("H",), f"Always use {w} with care in public code") for n, w in enumerate(words)
    ]
    new = [
        Candidate(str(n), f"u{n}", ("H",), f"Always use {w} with great care in public code")
        for n, w in enumerate(words)
    ]
    assert match_edited(gone, new) == {str(n): f"old-{n}" for n in range(1500)}
