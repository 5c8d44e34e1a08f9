from __future__ import annotations

from itertools import pairwise

import pytest

from symmetra_mcp.ingest.blocks import drop_comments, fenced_regions
from symmetra_mcp.ingest.sizes import MAX_RULE_CHARS, cut
from symmetra_mcp.ingest.split import Piece, split


def rules(text: str) -> list[Piece]:
    return [piece for piece in split(text.split("\n")) if piece.is_rule]


def texts(text: str) -> list[str]:
    return [piece.text for piece in rules(text)]


def test_sentences_of_a_list_become_a_rule_each_with_heading_and_lines() -> None:
    text = "# Guide\n\n## Testing\n\n- Always write tests for new code.\n- Never mock the thing under test.\n"
    assert rules(text) == [
        Piece("Always write tests for new code.", 5, 5, ("Guide", "Testing")),
        Piece("Never mock the thing under test.", 6, 6, ("Guide", "Testing")),
    ]


def test_short_items_stay_one_rule() -> None:
    assert texts("## Naming\n- Use camelCase\n- Use nouns\n- Avoid abbreviations") == [
        "- Use camelCase\n- Use nouns\n- Avoid abbreviations"
    ]


def test_children_and_the_code_after_an_item_stay_with_it() -> None:
    text = (
        "- Always validate input at the boundary:\n"
        "  - length\n"
        "  - type\n"
        "```py\n"
        "validate(x)\n"
        "```\n"
        "- Never trust headers from clients."
    )
    assert texts(text) == [
        "Always validate input at the boundary:\n  - length\n  - type\n```py\nvalidate(x)\n```",
        "Never trust headers from clients.",
    ]


def test_an_item_that_is_only_a_title_opens_a_section() -> None:
    text = (
        "- **Errors**:\n"
        "  - Always raise errors of our own tree.\n"
        "  - Never swallow an exception without reason.\n"
        "- Use types in every public function."
    )
    assert [(piece.text, piece.start, piece.heading_path) for piece in rules(text)] == [
        ("Always raise errors of our own tree.", 2, ("Errors",)),
        ("Never swallow an exception without reason.", 3, ("Errors",)),
        ("Use types in every public function.", 4, ()),
    ]


@pytest.mark.parametrize(
    "heading",
    ["## Style", "##Style", "Style\n-----", "**Style**", "**Style:**", "__Style__", "Style:", "<style_rules>"],
)
def test_headings_come_in_many_forms(heading: str) -> None:
    end = "\n</style_rules>" if heading.startswith("<") else ""
    text = f"{heading}\n\n- Always use four blanks for indentation.\n- Never use tabs in source files.{end}"
    (path,) = {piece.heading_path for piece in rules(text)}
    assert path in (("Style",), ("style rules",))


def test_heading_levels_may_jump_and_repeat() -> None:
    text = "# A\n#### B\nAlways do the first thing.\n## C\nAlways do the second thing.\n# A\nAlways do the third thing."
    assert [piece.heading_path for piece in rules(text)] == [("A", "B"), ("A", "C"), ("A",)]


def test_a_lead_line_is_part_of_the_heading_path() -> None:
    text = (
        "## Testing\n"
        "When you write unit tests:\n"
        "- Use real objects rather than mocks.\n"
        "- Keep each test about one thing."
    )
    assert {piece.heading_path for piece in rules(text)} == {("Testing", "When you write unit tests")}


@pytest.mark.parametrize("label", ["**Good:**", "### Bad example", "**Example**", "Example:", "❌ **BAD:**"])
def test_labels_of_examples_open_no_section(label: str) -> None:
    text = f"## Returns\nPrefer early returns over nesting.\n\n{label}\n\n```py\nreturn 1\n```"
    (rule,) = rules(text)
    assert rule.heading_path == ("Returns",)
    assert "return 1" in rule.text


def test_unclosed_fence_does_not_swallow_what_follows() -> None:
    text = "```py\nx = 1\n\n## Rules\n- Always close your code fences.\n- Never leave them open like this."
    assert texts(text)[-2:] == ["Always close your code fences.", "Never leave them open like this."]


def test_fence_whose_closing_line_was_forgotten_ends_before_the_next_code() -> None:
    lines = ["```py", "x = 1", "## Rules", "- Always.", "```js", "y", "```", ""]
    assert fenced_regions(lines) == {4: 7}


def test_longer_fences_hold_shorter_ones() -> None:
    lines = ["````md", "```py", "x", "```", "````", "~~~", "```", "~~~"]
    assert fenced_regions(lines) == {0: 5, 5: 8}


def test_headings_and_bullets_inside_code_are_code() -> None:
    assert texts("Always format code like this:\n\n```md\n# No heading\n- Never a rule of its own here.\n```") == [
        "Always format code like this:\n\n```md\n# No heading\n- Never a rule of its own here.\n```"
    ]


def test_comments_vanish_without_moving_lines() -> None:
    lines = [
        "a <!-- b --> c",
        "<!--",
        "hidden",
        "--> d",
        "```",
        "<!-- kept -->",
        "```",
        "`<!--` e",
        "<!-- never closed",
    ]
    assert drop_comments(lines) == [
        "a  c",
        "",
        "",
        " d",
        "```",
        "<!-- kept -->",
        "```",
        "`<!--` e",
        "<!-- never closed",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "You are an expert in Python and data science.",
        "## Overview\nThis project is a web server written in Go.",
        "## Commands\n- `npm test` runs the tests of the project\n- `npm run build` builds all the packages",
        "## Structure\n```\nsrc/\n├── a\n└── b\n```",
        "| File | Title |\n|---|---|\n| [a](a.md) | x |\n| [b](b.md) | y |\n| [c](c.md) | z |",
        "- [Use of types](a.md)\n- [Always test](b.md)\n- [Never mock](c.md)",
    ],
    ids=["persona", "overview", "commands", "tree", "link-table", "link-list"],
)
def test_what_only_describes_is_context(text: str) -> None:
    pieces = split(f"{text}\n\n## Style\n\nAlways use types.".split("\n"))
    assert [piece.text for piece in pieces if piece.is_rule] == ["Always use types."]


def test_a_strong_command_below_a_describing_heading_is_a_rule() -> None:
    text = "## Commands\n- `make x` builds the whole thing\n- Never run `make clean` on the shared server."
    assert texts(text) == ["Never run `make clean` on the shared server."]


def test_persona_is_dropped_and_the_commands_beside_it_stay() -> None:
    assert texts("You are an expert in Rust. Always handle errors with Result. Avoid unwrap.") == [
        "Always handle errors with Result. Avoid unwrap."
    ]


def test_items_without_a_command_stay_together_as_one_rule_of_their_section() -> None:
    text = (
        "## Components\n"
        "- Always name components in PascalCase please.\n"
        "- Functional components with hooks and types\n"
        "- Small presentational pieces without any state"
    )
    first, second = rules(text)
    assert (first.fragments, second.fragments) == (0, 2)
    assert "Functional" in second.text
    assert "Small" in second.text


def test_ordered_steps_stay_in_order() -> None:
    text = (
        "## Release process\n"
        "1. Run the whole test suite first.\n"
        "2. Update the changelog by hand now.\n"
        "3. Push the tag to the server."
    )
    assert len(texts(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "## 规范\n- 必须使用类型注解\n- 禁止使用全局变量来保存状态",
        "## ルール\n- 必ずテストを書くこと。外部依存はモックする\n- 例外を握りつぶさないこと。ログに残す",
        "## Правила\n- Пиши тесты для нового кода всегда\n- Не используй глобальные переменные здесь",  # noqa: RUF001
    ],
    ids=["chinese", "japanese", "russian"],
)
def test_rules_in_other_scripts_are_not_dropped(text: str) -> None:
    assert "".join(texts(text)).count("\n") <= 1
    assert all(line[2:] in "\n".join(texts(text)) for line in text.split("\n")[1:])


def test_a_list_pasted_as_one_line_is_told_apart() -> None:
    line = "- You are an expert in Go.- Style - " + " - ".join(
        f"Always prefer option {name} over the other ways we had"
        for name in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
    assert len(texts(line)) == 10


def test_file_of_one_commanding_paragraph_gives_a_rule() -> None:
    assert texts("Follow PEP 8.") == ["Follow PEP 8."]


@pytest.mark.parametrize(
    "text",
    [
        "Use words. " * 2000,
        "a" * 10_000,
        "必须使用类型。" * 1000,
        "\n\n".join(f"Always use paragraph {n} " + "word " * 60 for n in range(60)),
        "```py\n" + "x = 1\n" * 3000 + "```",
    ],
    ids=["sentences", "one-word", "cjk", "paragraphs", "code"],
)
def test_no_part_is_longer_than_a_rule_may_be_and_nothing_is_lost(text: str) -> None:
    parts = cut(text, 0)
    assert max(len(part) for part, _, _ in parts) <= MAX_RULE_CHARS
    joined = "".join(part for part, _, _ in parts).replace("```py", "").replace("```", "")
    assert "".join(joined.split()) == "".join(text.replace("```py", "").replace("```", "").split())


def test_parts_know_their_lines() -> None:
    text = "\n".join(f"- Always use option {n} " + "x" * 80 for n in range(60))
    parts = cut(text, 10)
    assert parts[0][1] == 10
    assert all(last == first for (_, _, last), (_, first, _) in pairwise(parts))
    assert parts[-1][2] == 70


def test_deep_nesting_is_read_without_recursing_away() -> None:
    text = "\n".join("  " * depth + f"- Use level {depth} of nesting:" for depth in range(400))
    assert rules(text)
