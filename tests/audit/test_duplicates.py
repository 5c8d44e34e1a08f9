from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rules_of import corpus, rule

from symmetra_mcp.audit.corpus import Corpus
from symmetra_mcp.audit.duplicates import exact_duplicates, near_duplicates
from symmetra_mcp.audit.findings import Finding
from symmetra_mcp.audit.pairs import near_pairs, nearness
from symmetra_mcp.passages import passages
from symmetra_mcp.types import Rule, Scope, Source

OTHERS = [
    rule(text, line=100 + number)
    for number, text in enumerate(
        [
            "Name database tables in the plural.",
            "Database migrations are reviewed by the data team.",
            "Log with structlog and bind the request id.",
            "Log no request bodies.",
            "Retry a failed payment with an idempotency key.",
        ]
    )
]


def near(looked_at: Corpus) -> list[Finding]:
    pairs = near_pairs(looked_at)
    return near_duplicates(looked_at, pairs, nearness(pairs))


def ids(finding: Finding) -> list[str]:
    return [each.rule_id for each in finding.rules]


REPEATED = [
    (
        "Never bump versions by hand - always use the release agent.",
        "Use the release agent, never bump versions by hand.",
    ),
    ("User input must always be validated on the server.", "Always validate user input on the server."),
    ("Write unit tests for new features.", "Add unit tests for every new feature."),
]


@pytest.mark.parametrize(("one", "other"), REPEATED)
def test_a_rule_in_other_words_is_a_near_duplicate(one: str, other: str) -> None:
    [finding] = near(corpus(rule(one, line=1), rule(other, path="b.md", line=2), *OTHERS))
    assert (finding.shape, sorted(ids(finding))) == ("near", ["AGENTS.md-1", "b.md-2"])
    assert finding.similarity is not None


@pytest.mark.parametrize(("one", "other"), REPEATED[:2])
def test_without_vectors_words_alone_find_what_repeats_nearly_all_of_them(one: str, other: str) -> None:
    [finding] = near(corpus(rule(one, line=1), rule(other, path="b.md", line=2), *OTHERS, with_vectors=False))
    assert finding.similarity is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Name branches in kebab-case.", "Name files in kebab-case."),
        ("Write type arguments that are inferred.", "Don't write type arguments that are inferred."),
        ("Don't write type arguments that are inferred.", "Write type arguments that aren't inferred."),
        ("Use upper case for exported constants.", "Use upper case for unexported constants."),
        ("Keep lines under 100 characters.", "Keep lines under 120 characters."),
        ("Prefer interfaces over type aliases.", "Prefer type aliases over interfaces."),
        ("Import `useState` from the compat package.", "Import `useMemo` from the compat package."),
    ],
)
def test_rules_that_differ_in_the_word_that_matters_are_not(one: str, other: str) -> None:
    assert near(corpus(rule(one, line=1), rule(other, line=2), *OTHERS)) == []


def test_several_repeats_are_one_finding() -> None:
    texts = ["Always validate user input.", "Validate user input.", "User input must be validated."]
    [finding] = near(corpus(*[rule(text, line=number) for number, text in enumerate(texts)], *OTHERS))
    assert len(finding.rules) == 3
    assert finding.about == "3 rules say nearly the same, all in AGENTS.md"


def test_repeats_that_no_file_meets_together_are_left_alone() -> None:
    one, other = REPEATED[1]
    assert near(corpus(rule(one, "web/**", line=1), rule(other, "api/**", line=2), *OTHERS)) == []


def test_how_near_is_near_follows_the_space() -> None:
    """A model that gives all texts a common part raises every cosine, and finds the same repeats."""
    rules = [rule(text, line=number) for number, pair in enumerate(REPEATED) for text in pair]
    rules = [replace(each, rule_id=str(number)) for number, each in enumerate([*rules, *OTHERS])]
    plain = corpus(*rules)
    vectors = {
        text.content_hash: row for each, row in zip(rules, plain.meaning, strict=True) for text in passages(each)
    }
    raised = {key: np.append(row, 3.0).astype(np.float32) / np.sqrt(10) for key, row in vectors.items()}
    assert min(f.similarity or 0 for f in near(Corpus(rules, raised, 257))) > 0.95
    assert list(map(ids, near(Corpus(rules, raised, 257)))) == list(map(ids, near(plain)))


def copied(text: str, *places: tuple[str, tuple[str, ...]]) -> Rule:
    sources = tuple(Source(path, 3, 3, scope=Scope("files", globs) if globs else Scope()) for path, globs in places)
    return Rule("shop", text, text, text, sources=sources)


def test_files_that_state_the_same_are_told_once_for_all_their_rules() -> None:
    both = (("AGENTS.md", ()), ("CLAUDE.md", ()))
    [finding] = exact_duplicates(corpus(copied("Commit lock files.", *both), copied("Never log tokens.", *both)))
    assert finding.about == "AGENTS.md and CLAUDE.md state the same 2 rules, word for word"
    assert finding.rules[0].places == ("AGENTS.md:3", "CLAUDE.md:3")


def test_a_rule_stated_for_two_folders_is_no_repeat() -> None:
    apart = copied("Commit lock files.", ("web/AGENTS.md", ("web/**",)), ("api/AGENTS.md", ("api/**",)))
    assert exact_duplicates(corpus(apart)) == []


def test_a_shared_rule_that_a_project_states_too_is_told() -> None:
    text = "Give every request to the payment service an idempotency key."
    [finding] = exact_duplicates(corpus(rule(text, project="shared"), rule(text, project="a"), rule("x", project="b")))
    assert (finding.shape, [each.project_id for each in finding.rules]) == ("exact", ["shared", "a"])
    assert exact_duplicates(corpus(rule(text, project="a"), rule(text, project="b"))) == []
