from __future__ import annotations

from dataclasses import replace

import pytest
from rules_of import rule

from symmetra_mcp import search
from symmetra_mcp.audit import wording
from symmetra_mcp.audit.wording import long_rules, vague_rules
from symmetra_mcp.passages import MAX_PASSAGES


def sentences(count: int) -> str:
    return " ".join(f"Name payment {number} after its order." for number in range(count))


def test_a_rule_is_long_where_an_answer_holds_a_part_of_it() -> None:
    assert wording.LONG_TOKENS == search._LONGEST_GUIDANCE
    [finding] = long_rules([rule(sentences(60))])
    assert finding.about.startswith("some 493 tokens in 4 passages, of which an answer holds the best one alone")
    assert list(long_rules([rule(sentences(40))])) == []


def test_what_no_vector_holds_is_told() -> None:
    [finding] = long_rules([rule(sentences(1000))])
    assert finding.shape == "not-embedded-whole"
    assert f"what follows {MAX_PASSAGES} passages" in finding.about


@pytest.mark.parametrize("text", ["Follow best practices.", "Write clean, maintainable code.", "- - -", "Be specific."])
def test_a_rule_that_fits_everything_is_vague(text: str) -> None:
    [finding] = vague_rules([rule(text)])
    assert finding.shape == "few-words"


@pytest.mark.parametrize(
    "text",
    [
        "Use Vitest for all tests.",
        "Avoid `cast`.",
        "Use the visitor pattern.",
        "Avoid hard-coded numbers.",
        "テストを必ず書くこと",
    ],
)
def test_a_short_rule_about_something_is_not(text: str) -> None:
    assert list(vague_rules([rule(text)])) == []


def test_keywords_make_a_vague_rule_findable() -> None:
    assert list(vague_rules([replace(rule("Keep it simple."), keywords=("retry", "backoff"))])) == []
