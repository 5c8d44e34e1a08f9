from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symmetra_mcp.errors import RuleFileError
from symmetra_mcp.ingest.decode import clean, decode
from symmetra_mcp.ingest.dialects import NATIVE
from symmetra_mcp.ingest.export import FORMATS, RuleFormat, dump_rules
from symmetra_mcp.ingest.model import ParsedFile
from symmetra_mcp.ingest.native import read_rules
from symmetra_mcp.ingest.parse import parse_file
from symmetra_mcp.types import PRIORITIES, Rule, Scope, Source

YAML = """\
rules:
  - rule_id: py-1
    title: Early returns
    guidance: Return early.
    rationale: Nesting hides the main path.
    category: style
    priority: HIGH
    tech_stack: Python, Django
    tags: [nesting, flow]
    contexts: [agent]
    globs: "*.py"
    project_id: other
  - id: no
    description: Say no in text.
"""


def parse(path: str, text: str) -> ParsedFile:
    return parse_file(path, NATIVE, text.encode())


def test_yaml_is_read_with_aliases_lines_and_text_that_stays_text() -> None:
    first, second = parse("symmetra-rules.yaml", YAML).statements
    assert (first.rule_id, first.priority, first.tech_stacks, first.keywords) == (
        "py-1",
        "high",
        ("python", "django"),
        ("nesting", "flow"),
    )
    assert first.rationale == "Nesting hides the main path."
    assert first.sources == (Source("symmetra-rules.yaml", 2, 12, "native", (), Scope("files", ("**/*.py",), "*.py")),)
    assert (second.rule_id, second.guidance, second.title) == ("no", "Say no in text.", "Say no in text")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.yaml", "- rule_id: a\n  guidance: Use types.\n"),
        ("a.yaml", "rule_id: a\nguidance: Use types.\n"),
        ("a.yaml", "rules:\n- rule_id: a\n  guidance: Use types.\n"),
        ("a.json", '[{"rule_id": "a", "guidance": "Use types."}]'),
        ("a.json", '{"rule_id": "a", "guidance": "Use types."}'),
        ("a.json", '{"version": 1, "rules": [{"rule_id": "a", "guidance": "Use types."}]}'),
        ("a.jsonl", '\n{"rule_id": "a", "guidance": "Use types."}\n'),
        (".symmetra/rules/a.md", "---\nrule_id: a\ntitle: Types\n---\n\nUse types.\n"),
    ],
)
def test_every_form_gives_the_same_rule(path: str, text: str) -> None:
    parsed = parse(path, text)
    assert [(s.rule_id, s.guidance) for s in parsed.statements] == [("a", "Use types.")]
    assert parsed.statements[0].sources[0].line_start > 0
    assert parsed.warnings == ()


def test_markdown_section_rationale_is_the_rationale() -> None:
    text = "---\ntitle: Types\n---\nUse types.\n\n## Rationale\n\nThey help.\n\n## More\n\nEverywhere.\n"
    (statement,) = parse(".symmetra/rules/a.md", text).statements
    assert (statement.guidance, statement.rationale) == ("Use types.\n\n## More\n\nEverywhere.", "They help.")


def test_markdown_without_the_fields_of_a_rule_is_split_as_other_markdown() -> None:
    parsed = parse(".symmetra/rules/a.md", "# A\n- Always use types in code.\n- Never use globals for state.\n")
    assert len(parsed.statements) == 2


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("title: x", "no guidance"),
        ("guidance: '  '", "no guidance"),
        ("{guidance: x, priority: urgent}", "priority 'urgent' is none of low, medium, high, critical"),
        ("{guidance: x, rule_id: good}", "rule_id 'good' is given twice in this file"),
        ('{guidance: x, rule_id: "a\\u0007b"}', "control or hidden"),
        ('{guidance: x, rule_id: "a\\u200bb"}', "control or hidden"),
        (f"{{guidance: x, rule_id: {'a' * 201}}}", "longer than 200"),
        ("{guidance: [x]}", "'guidance' must be text"),
        ("{guidance: x, keywords: {a: b}}", "'keywords' must be a list"),
        ("{guidance: x, scope: {mode: sometimes}}", "scope mode 'sometimes'"),
        ("just text", "not a mapping"),
    ],
)
def test_bad_entry_is_reported_with_its_line_and_the_others_are_read(entry: str, message: str) -> None:
    parsed = parse("r.yaml", f"- rule_id: good\n  guidance: Use types.\n- {entry}\n- guidance: Use tests.\n")
    assert [s.guidance for s in parsed.statements] == ["Use types.", "Use tests."]
    (warning,) = parsed.warnings
    assert warning.startswith("r.yaml:3: ")
    assert message in warning
    assert not parsed.complete


def test_unknown_key_is_reported() -> None:
    parsed = parse("r.yaml", "- guidance: Use types.\n  colour: red\n")
    assert parsed.warnings == ("r.yaml:1: unknown key 'colour' is ignored",)
    assert parsed.complete


def test_unreadable_line_of_jsonl_is_reported_and_the_others_are_read() -> None:
    parsed = parse("r.jsonl", '{"guidance": "Use types."}\n{oops\n')
    assert [s.guidance for s in parsed.statements] == ["Use types."]
    assert parsed.warnings[0].startswith("r.jsonl:2: not JSON")


def test_a_title_and_a_category_are_one_line_however_they_are_written() -> None:
    (statement,) = parse(
        "r.yaml", "- title: |\n    Use\n      types\n  category: 'a\tb'\n  guidance: Use types.\n"
    ).statements
    assert (statement.title, statement.category) == ("Use types", "a b")


def test_a_title_of_blanks_is_none() -> None:
    (statement,) = parse("r.json", '[{"title": " \\n ", "guidance": "Use types."}]').statements
    assert statement.title == "Use types"


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("r.yaml", "rules: [", "not YAML: "),
        ("r.yaml", "[" * 100_000, "not YAML: nested more than 40 levels deep"),
        ("r.yaml", "- a: *missing", "not YAML: found undefined alias"),
        ("r.yaml", "- ? [a]\n  : b\n", "not YAML: found unhashable key"),
        ("r.json", '{"rules": [', "not JSON: Expecting value in line 1"),
        ("r.json", "[" * 100_000, "not JSON: nested too deeply"),
        ("r.json", "9" * 5_000, "not JSON: a number is too long"),
    ],
    ids=["bracket", "yaml-deep", "alias", "key", "json", "json-deep", "digits"],
)
def test_file_that_is_not_what_it_says_is_a_problem_in_plain_words(path: str, text: str, message: str) -> None:
    problem = parse(path, text).problem
    assert problem.startswith(message)
    assert "Error" not in problem


def test_escapes_do_not_smuggle_hidden_characters() -> None:
    (statement,) = parse("r.json", '[{"guidance": "Use\\u200b types.\\u202e"}]').statements
    assert statement.guidance == "Use types."


TEXT = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60).map(clean).map(lambda text: text.replace("\r", ""))
)
FILLED = TEXT.filter(lambda text: bool(text.strip()))
LINES = TEXT.map(lambda text: " ".join(text.split()))
MARKDOWN = st.lists(
    st.sampled_from(
        ["---", "## Rationale", "# x", "- a", "```", "", "  b", "rule_id: x", "a: b", "<!-- c -->", "é *", "\t"]
    ),
    min_size=1,
).map("\n".join)
GUIDANCE = FILLED | MARKDOWN.filter(lambda text: bool(text.strip()))
IDS = st.from_regex(r"[a-z0-9][a-z0-9 :#-]{0,20}[a-z0-9]", fullmatch=True)
SCOPES = st.builds(
    Scope,
    mode=st.sampled_from(["everywhere", "files", "on_request", "manual"]),
    globs=st.lists(st.sampled_from(["**/*.py", "a.py", "x/\\[id\\]/**", "{a,b}/*", "!c"]), max_size=3).map(tuple),
    raw=TEXT,
    always=st.booleans(),
)
SOURCES = st.builds(
    Source,
    path=st.just("a/b.md"),
    line_start=st.integers(0, 9),
    line_end=st.integers(0, 9),
    format=st.sampled_from(["cursor-mdc", "agents-md"]),
    heading_path=st.lists(TEXT, max_size=3).map(tuple),
    scope=SCOPES,
)
RULES = st.builds(
    Rule,
    project_id=st.just("p"),
    rule_id=IDS,
    title=LINES.filter(bool),
    guidance=GUIDANCE,
    rationale=st.just("") | GUIDANCE,
    category=LINES,
    priority=st.sampled_from(PRIORITIES),
    tech_stacks=st.lists(st.sampled_from(["python", "c++", "no", "1.0"]), max_size=3).map(tuple),
    contexts=st.lists(FILLED, max_size=2).map(tuple),
    keywords=st.lists(FILLED, max_size=2).map(tuple),
    sources=st.lists(SOURCES, min_size=1, max_size=3).map(tuple),
)


def placeless(rule: Rule) -> Rule:
    return replace(rule, sources=tuple(replace(s, path="", line_start=0, line_end=0) for s in rule.sources))


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=30, deadline=None)
@given(rules=st.lists(RULES, max_size=4, unique_by=lambda rule: rule.rule_id))
def test_export_read_again_gives_the_same_rules(format: RuleFormat, rules: list[Rule]) -> None:
    text = decode(dump_rules(rules, format).encode()).text
    assert [placeless(rule) for rule in read_rules(text, format, project_id="p")] == [placeless(rule) for rule in rules]


def test_export_shows_where_a_rule_came_from_and_reads_well() -> None:
    source = Source("AGENTS.md", 3, 4, "agents-md", ("Style",), Scope("files", ("a/**",), "x"))
    rule = Rule("p", "r", "Types", "Use types.\nAlways.", "They help.", sources=(source,))
    assert dump_rules([rule], "md") == (
        "---\nrule_id: r\ntitle: Types\npriority: medium\nscope:\n  mode: files\n  globs:\n  - a/**\n  raw: x\n"
        "source:\n- path: AGENTS.md\n  format: agents-md\n  lines: 3-4\n  headings:\n  - Style\n---\n\n"
        "Use types.\nAlways.\n\n## Rationale\n\nThey help.\n"
    )
    assert "guidance: |-\n    Use types.\n    Always." in dump_rules([rule], "yaml")


def test_reading_an_export_with_a_bad_entry_is_refused() -> None:
    with pytest.raises(RuleFileError, match="no guidance"):
        read_rules("- title: x", "yaml", project_id="p")
