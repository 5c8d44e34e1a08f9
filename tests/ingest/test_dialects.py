from __future__ import annotations

import pytest

from symmetra_mcp.ingest.dialects import dialect_of
from symmetra_mcp.ingest.model import ParsedFile
from symmetra_mcp.ingest.parse import parse_file
from symmetra_mcp.types import Scope

BODY = "- Always validate input before you use it.\n"


def parse(path: str, text: str) -> ParsedFile:
    dialect = dialect_of(path)
    assert dialect is not None
    return parse_file(path, dialect, text.encode())


def scope(path: str, head: str = "") -> Scope:
    (statement,) = parse(path, f"---\n{head}\n---\n{BODY}" if head else BODY).statements
    return statement.sources[0].scope


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (".cursor/rules/a.mdc", "cursor-mdc"),
        (".cursor/rules/deep/er/a.mdc", "cursor-mdc"),
        (".cursor/rules/a.md", "cursor-mdc"),
        ("collection/a.mdc", "cursor-mdc"),
        (".cursorrules", "cursorrules"),
        ("a/b/AGENTS.md", "agents-md"),
        ("CLAUDE.md", "claude-md"),
        ("CLAUDE.local.md", "claude-md"),
        ("GEMINI.md", "gemini-md"),
        (".claude/rules/x/a.md", "claude-rules"),
        (".github/copilot-instructions.md", "copilot-repository"),
        (".github/instructions/a/b.instructions.md", "copilot-instructions"),
        ("anywhere/b.instructions.md", "copilot-instructions"),
        (".windsurfrules", "windsurfrules"),
        (".windsurf/rules/a.md", "windsurf-rules"),
        (".clinerules", "clinerules"),
        (".clinerules/a.md", "cline-rules"),
        (".roo/rules/a.md", "roo-rules"),
        (".roo/rules-code/1_a.xml", "roo-rules"),
        (".roorules", "roorules"),
        (".kiro/steering/a.md", "kiro-steering"),
        (".symmetra/rules/a.yaml", "native"),
        (".symmetra/rules/x/a.md", "native"),
        ("symmetra-rules.jsonl", "native"),
    ],
)
def test_dialect_is_told_by_path(path: str, name: str) -> None:
    dialect = dialect_of(path)
    assert dialect is not None
    assert dialect.name == name


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        ".clinerules/workflows/release.md",
        ".clinerules/hooks/pre.md",
        ".clinerules/skills/x/SKILL.md",
        ".claude/commands/a.md",
        "package.json",
        "docs/rules.yaml",
        "MY-AGENTS.md",
    ],
)
def test_other_files_are_no_rule_files(path: str) -> None:
    assert dialect_of(path) is None


@pytest.mark.parametrize(
    ("path", "head", "expected"),
    [
        (
            ".cursor/rules/a.mdc",
            "globs: **/*.py\nalwaysApply: false",
            Scope("files", ("**/*.py",), "globs: **/*.py; alwaysApply: false"),
        ),
        (
            ".cursor/rules/a.mdc",
            "alwaysApply: true\nglobs: *.py",
            Scope("everywhere", (), "globs: *.py; alwaysApply: true", True),
        ),
        (
            ".cursor/rules/a.mdc",
            "description: For APIs\nalwaysApply: false",
            Scope("on_request", (), "alwaysApply: false"),
        ),
        (".cursor/rules/a.mdc", "description:\nglobs:\nalwaysApply: false", Scope("manual", (), "alwaysApply: false")),
        (".cursor/rules/a.mdc", "globs: **/*", Scope("everywhere", (), "globs: **/*")),
        (".cursor/rules/a.mdc", "", Scope()),
        (
            "x.instructions.md",
            "applyTo: '**/*.ts,**/*.tsx'",
            Scope("files", ("**/*.ts", "**/*.tsx"), "applyTo: '**/*.ts,**/*.tsx'"),
        ),
        ("x.instructions.md", "applyTo:\n  - src/**", Scope("files", ("src/**",), "applyTo: - src/**")),
        ("x.instructions.md", "description: For tests", Scope("on_request")),
        (".claude/rules/a.md", "paths:\n  - src/**/*.go", Scope("files", ("src/**/*.go",), "paths: - src/**/*.go")),
        (".claude/rules/a.md", "paths: src/**", Scope("files", ("src/**",), "paths: src/**")),
        (".claude/rules/a.md", "", Scope()),
        (".clinerules/a.md", "paths: ['src/**']", Scope("files", ("src/**",), "paths: ['src/**']")),
        (".windsurf/rules/a.md", "trigger: always_on", Scope("everywhere", (), "trigger: always_on", True)),
        (
            ".windsurf/rules/a.md",
            "trigger: model_decision\ndescription: x",
            Scope("on_request", (), "trigger: model_decision"),
        ),
        (".windsurf/rules/a.md", "trigger: manual", Scope("manual", (), "trigger: manual")),
        (
            ".windsurf/rules/a.md",
            "trigger: glob\nglobs: *.ts",
            Scope("files", ("**/*.ts",), "globs: *.ts; trigger: glob"),
        ),
        (".kiro/steering/a.md", "inclusion: always", Scope("everywhere", (), "inclusion: always", True)),
        (
            ".kiro/steering/a.md",
            "inclusion: fileMatch\nfileMatchPattern: 'a/*.ts'",
            Scope("files", ("a/*.ts",), "fileMatchPattern: 'a/*.ts'; inclusion: fileMatch"),
        ),
        (".kiro/steering/a.md", "inclusion: manual", Scope("manual", (), "inclusion: manual")),
        (".roo/rules/a.md", "", Scope()),
        (".roo/rules-docs/a.md", "", Scope("on_request", (), "mode: docs")),
        ("AGENTS.md", "", Scope()),
        ("packages/a/AGENTS.md", "", Scope("files", ("packages/a/**",))),
        ("packages/a/.cursorrules", "", Scope("files", ("packages/a/**",))),
        ("packages/a/.cursor/rules/x.mdc", "globs: *.py", Scope("files", ("packages/a/**/*.py",), "globs: *.py")),
        (
            "packages/a/.cursor/rules/x.mdc",
            "alwaysApply: true",
            Scope("files", ("packages/a/**",), "alwaysApply: true", True),
        ),
        ("collection/x.mdc", "globs: *.py", Scope("files", ("**/*.py",), "globs: *.py")),
        (".github/copilot-instructions.md", "", Scope()),
    ],
)
def test_scope_is_read_as_its_tool_reads_it(path: str, head: str, expected: Scope) -> None:
    assert scope(path, head) == expected


def test_xml_file_gives_a_rule_for_each_element_with_its_lines() -> None:
    text = (
        "<guidelines>\n  <section name='testing'>\n"
        "    <rule>Always write a test before the fix.</rule>\n"
        "    <rule>Never delete a failing test to pass.</rule>\n"
        "  </section>\n</guidelines>\n"
    )
    parsed = parse(".roo/rules/a.xml", text)
    assert [(s.guidance, s.sources[0].line_start, s.heading_path) for s in parsed.statements] == [
        ("Always write a test before the fix.", 3, ("guidelines", "testing")),
        ("Never delete a failing test to pass.", 4, ("guidelines", "testing")),
    ]


def test_broken_xml_still_gives_its_rules() -> None:
    text = (
        "<a>\n"
        "<b>\n"
        "<rule>Always close your tags &amp; files.</rule>\n"
        "<rule>Never nest more than you need.</rule>\n"
        "</c>\n"
        "</a>"
    )
    assert [s.guidance for s in parse(".roo/rules/a.xml", text).statements] == [
        "Always close your tags & files.",
        "Never nest more than you need.",
    ]


@pytest.mark.parametrize("end", ["}", ",}"], ids=["valid", "trailing-comma"])
def test_text_that_looks_like_json_is_read_by_its_keys(end: str) -> None:
    text = (
        '{\n  "rules": {\n    "testing": [\n'
        '      "Always write tests for new code.",\n      "Never mock what you own here."\n    ]\n  }\n' + end
    )
    parsed = parse(".cursorrules", text)
    assert [(s.guidance, s.sources[0].line_start) for s in parsed.statements] == [
        ("Always write tests for new code.", 4),
        ("Never mock what you own here.", 5),
    ]
    assert parsed.statements[0].category == "testing"


def test_import_line_is_no_rule() -> None:
    parsed = parse("CLAUDE.md", "@AGENTS.md\n")
    assert (parsed.statements, parsed.note) == ((), "only imports other files")


@pytest.mark.parametrize(("text", "note"), [("", "empty"), ("---\na: b\n---\n\n", "nothing below the frontmatter")])
def test_file_without_a_rule_says_why(text: str, note: str) -> None:
    assert parse("a.mdc", text).note == note
