from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from symmetra_mcp.ingest.dialects import dialect_of
from symmetra_mcp.ingest.model import ParsedFile
from symmetra_mcp.ingest.parse import parse_file
from symmetra_mcp.ingest.sizes import MAX_RULE_CHARS

MARKDOWN = """\
# A|## B|- Always use types in code.|  - nested item of a list|1. First do this thing|```py|```|~~~|===|---|<!--
|-->|> quote|Prose that says you must do it.||**Bold**|Title:|<tag>|</tag>|@AGENTS.md|You are an expert.|必须使用类型。
|globs: *.py|{|"a": ["""
LINES = st.sampled_from([*MARKDOWN.replace("\n", "").split("|"), "| a | b |", "\t- tab", "x" * 3000])
PATHS = st.sampled_from(["AGENTS.md", ".cursor/rules/a.mdc", ".roo/rules/a.xml", ".cursorrules", "symmetra-rules.yaml"])


def parse(path: str, data: bytes) -> ParsedFile:
    dialect = dialect_of(path)
    assert dialect is not None
    return parse_file(path, dialect, data)


@settings(max_examples=300, deadline=None)
@given(path=PATHS, lines=st.lists(LINES, max_size=25))
@example(path="AGENTS.md", lines=["```", "===", "<tag>", "~~~", "# A", "# A", "# A", "~~~"])  # a heading of marks alone
def test_whatever_the_lines_rules_have_a_title_a_size_and_a_place(path: str, lines: list[str]) -> None:
    for statement in parse(path, "\n".join(lines).encode()).statements:
        source = statement.sources[0]
        assert statement.title
        assert statement.guidance.strip()
        assert path.endswith("yaml") or len(statement.guidance) <= MAX_RULE_CHARS
        assert 1 <= source.line_start <= source.line_end <= len(lines)


@settings(max_examples=100, deadline=None)
@given(path=PATHS, data=st.binary(max_size=400))
def test_whatever_the_bytes_a_file_is_read_or_reported(path: str, data: bytes) -> None:
    parsed = parse(path, data)
    assert parsed.statements or parsed.problem or parsed.note or parsed.warnings


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(
        st.sampled_from(["- Always use {} in public code.", "", "## Part {}", "Some words {}."]), max_size=30
    )
)
def test_line_numbers_point_at_the_rule(lines: list[str]) -> None:
    written = [line.format(f"w{number}") for number, line in enumerate(lines)]
    for statement in parse("AGENTS.md", "\n".join(written).encode()).statements:
        source = statement.sources[0]
        found = "\n".join(written[source.line_start - 1 : source.line_end])
        assert statement.guidance.split("\n")[0].removeprefix("- ") in found


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("AGENTS.md", "a" * 1_000_000),
        ("AGENTS.md", "- " * 400_000),
        ("AGENTS.md", "".join(f"- Always use option {number}\n" for number in range(15_000))),
        ("AGENTS.md", "- Use a b c d e:\n  - Use b x y z w\n  - Use c d e f g\n" * 3_000),
        ("AGENTS.md", "```js\n" * 60_000),
        ("AGENTS.md", "<!--" * 200_000),
        ("AGENTS.md", "[a](" * 200_000),
        ("AGENTS.md", "curl " * 200_000),
        ("AGENTS.md", "# " + " " * 900_000 + "x"),
        (".roo/rules/a.xml", "<a>" * 30_000 + "x" + "</a>" * 30_000),
        (".cursorrules", '{"a":' + "[" * 500_000 + "}"),
        ("a.mdc", "---\nglobs: " + "{*," * 200_000 + "\n---\nAlways x"),
    ],
    ids=lambda value: value[:12].strip() if isinstance(value, str) else None,
)
def test_hostile_files_are_read_in_good_time(path: str, text: str) -> None:
    assert parse(path, text.encode()).problem == ""
