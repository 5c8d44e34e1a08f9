from __future__ import annotations

import pytest
from rules_of import corpus, rule

from symmetra_mcp.audit.contradictions import contradictions
from symmetra_mcp.audit.findings import Finding
from symmetra_mcp.audit.pairs import near_pairs, nearness
from symmetra_mcp.types import Rule

OTHERS = [
    rule(text, line=100 + number)
    for number, text in enumerate(
        [
            "Name database tables in the plural.",
            "Log with structlog and bind the request id.",
            "Retry a failed payment with an idempotency key.",
            "Every endpoint has a rate limit.",
        ]
    )
]


def found_in(*rules: Rule, with_vectors: bool = True) -> list[Finding]:
    looked_at = corpus(*rules, *OTHERS, with_vectors=with_vectors)
    pairs = near_pairs(looked_at)
    return contradictions(looked_at, pairs, nearness(pairs))


OPPOSED = [
    ("opposed", "Use default exports.", "Never use default exports."),
    ("opposed", "Always commit lock files to the repository.", "Do not commit lock files."),
    ("opposed", "Mock the database in unit tests.", "Don't mock the database."),
    (
        "opposed",
        "Docstrings must follow the Google style guide.",
        "No docstrings follow the Google style guide.",
    ),
    ("reversed", "Prefer interfaces over types.", "Prefer types over interfaces."),
    ("reversed", "Use `pathlib` instead of `os.path`.", "Use `os.path` rather than `pathlib`."),
    ("reversed", "Prefer composition over inheritance.", "Avoid composition."),
    ("reversed", "Prefer `async/await` over raw promises.", "Use raw promises."),
    ("numbers", "Keep lines under 100 characters.", "Lines have at most 120 characters."),
    ("numbers", "Maximum line length: 88.", "Line length is limited to 100 characters."),
    ("numbers", "Test coverage must be at least 80%.", "Maintain at least 90% test coverage."),
    ("numbers", "Functions have no more than 20 lines.", "Keep functions under 50 lines."),
    ("numbers", "Indent with two spaces.", "Indent with four spaces."),
    ("alternatives", "Indent with tabs.", "Use 4 spaces for indentation."),
    ("alternatives", "Use single quotes for strings.", "Strings are quoted: use double quotes."),
    ("alternatives", "Use snake_case for variables.", "Variables should be camelCase."),
    ("alternatives", "Use npm to install packages.", "Use pnpm as the package manager."),
]


@pytest.mark.parametrize(("shape", "one", "other"), OPPOSED, ids=[one for _, one, _ in OPPOSED])
@pytest.mark.parametrize("with_vectors", [True, False], ids=["meaning", "words"])
def test_rules_that_oppose_each_other_are_found(shape: str, one: str, other: str, with_vectors: bool) -> None:
    [finding] = found_in(rule(one, line=1), rule(other, path="CLAUDE.md", line=2), with_vectors=with_vectors)
    assert finding.shape == shape
    assert [each.places for each in finding.rules] == [("AGENTS.md:1",), ("CLAUDE.md:2",)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Use default exports for pages.", "Never use default exports in libraries without a reason."),
        ("Write type arguments that aren't inferred.", "Don't write type arguments that are inferred."),
        ("Keep functions under 20 lines.", "Keep files under 300 lines."),
        ("Lines have at most 100 characters.", "A commit's subject has at most 50 characters."),
        ("Prefer interfaces over types.", "Prefer types over enums."),
        ("Use single quotes, double quotes in JSX.", "Use double quotes in JSX."),
        ("Use snake_case for functions.", "Use PascalCase for classes."),
        ("Do not commit secrets.", "Commit lock files."),
        ("Never concatenate strings.", "Use adjacent strings to concatenate string literals."),
        ("Avoid `use client` for data fetching.", "Use Apollo Client for data fetching."),
        ("Always write comments.", "Avoid unnecessary comments."),
        ("Headings have 0-3 spaces of indentation.", "Indent headings with four spaces."),
        ("Timeout of at least 5 seconds.", "Timeout of at most 30 seconds."),
        ("Never store card numbers.", "Never store card numbers in logs."),
    ],
)
def test_rules_that_can_both_hold_are_not(one: str, other: str) -> None:
    assert found_in(rule(one, line=1), rule(other, line=2)) == []


def test_rules_for_other_files_projects_or_languages_do_not_contradict() -> None:
    one, other = "Indent with tabs.", "Use 4 spaces for indentation."
    assert found_in(rule(one, "**/*.go", line=1), rule(other, "**/*.py", line=2)) == []
    assert found_in(rule(one, line=1, stack="go"), rule(other, line=2, stack="python")) == []
    assert found_in(rule(one, line=1, project="a"), rule(other, line=2, project="b")) == []
    assert len(found_in(rule(one, line=1, project="a"), rule(other, line=2, project="shared"))) == 1
