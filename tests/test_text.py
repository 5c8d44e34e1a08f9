from __future__ import annotations

from typing import Any

import pytest

from symmetra_mcp.schemas import HitAnswer, NearAnswer, OmittedAnswer, ReembedAnswer, SearchResult
from symmetra_mcp.text import ProgressLines, reembed_text, rule_text, search_text, unknown_name
from symmetra_mcp.types import Rule, Source


def hit(rule_id: str, project_id: str) -> HitAnswer:
    return HitAnswer(
        rule_id=rule_id,
        project_id=project_id,
        title=rule_id.title(),
        guidance="Do it.",
        priority="high",
        score=0.5,
        matched=["meaning"],
    )


def result(*hits: HitAnswer, **fields: Any) -> SearchResult:
    return SearchResult(
        **{
            "verdict": "applies" if hits else "none",
            "hits": list(hits),
            "mode": "hybrid",
            "space": "fake/words@64",
            "rules_considered": 3,
            **fields,
        }
    )


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_hits_of_several_projects_name_theirs() -> None:
    text = search_text(result(hit("retries", "api"), hit("retries", "web"), hit("naming", "starter")))

    assert "— retries (project api) · score 0.50" in text
    assert "— retries (project web) · score 0.50" in text
    assert "— naming (project starter) · score 0.50" in text


def test_hits_of_one_project_and_the_starter_rules_need_no_project() -> None:
    assert "(project" not in search_text(result(hit("retries", "api"), hit("naming", "starter")))


def test_rules_beside_the_hits_name_their_project_where_there_are_several() -> None:
    near = [NearAnswer(rule_id="a", project_id=name, title=name) for name in ("api", "web")]
    left_out = OmittedAnswer(rule_id="b", project_id="web", title="B", reason="over budget: 9 tokens")

    assert "api (a (project api)); web (a (project web))." in search_text(result(nearest=near))
    assert "Nearest, but not near enough: api (a)." in search_text(result(nearest=near[:1]))
    assert "B (b (project web)): over budget: 9 tokens." in search_text(result(hit("c", "api"), omitted=[left_out]))
    assert "B (b): over budget: 9 tokens." in search_text(result(hit("c", "web"), omitted=[left_out]))


def test_the_nearest_rules_stand_in_the_order_of_the_number_they_show() -> None:
    nearest = [
        NearAnswer(rule_id=name, title=name.upper(), similarity=similarity)
        for name, similarity in (("a", 0.1), ("b", None), ("c", 0.3), ("d", -0.2))
    ]

    text = search_text(result(nearest=nearest))

    assert "C (c), similarity 0.30; A (a), similarity 0.10; D (d), similarity -0.20; B (b)." in text


def test_one_is_not_told_in_the_plural() -> None:
    one = search_text(result(hit("a", "p"), rules_considered=1, out_of_scope=1))
    embedded = reembed_text(ReembedAnswer(space="fake/words@64", embedded=1, missing=0, texts=1))

    assert one.startswith("1 rule applies (hybrid search in fake/words@64; 1 rule considered, 1 more is about other")
    assert embedded == "1 text embedded in space fake/words@64, 0 of 1 missing."


def test_a_whole_rule_shows_its_id_its_project_and_its_keywords() -> None:
    rule = Rule("api", "retries", "Retries", "Retry twice.", keywords=("http", "backoff"), sources=(Source("a.md", 3),))

    assert rule_text(rule) == (
        "# Retries\n\npriority medium\n\nRetry twice.\n\nSource: a.md:3\n\nRule: retries (project api)\n\n"
        "Keywords: http, backoff\n"
    )


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("Securty", ["data", "security"], "no category 'Securty'; there are: data, security. Did you mean 'security'?"),
        ("zzz", ["testing", "security"], "no category 'zzz'; there are: security, testing."),
        ("zzz", [], "no category 'zzz'; there is none yet."),
        ("zzz", [f"c{n:02}" for n in range(25)], f"{', '.join(f'c{n:02}' for n in range(20))} and 5 more."),
    ],
    ids=["close", "far", "none", "many"],
)  # fmt: skip
def test_an_unknown_name_is_answered_with_the_names_there_are(name: str, known: list[str], message: str) -> None:
    assert unknown_name("category", name, known).endswith(message)


def test_quick_work_tells_no_progress() -> None:
    lines = ProgressLines(Clock())

    assert [lines.line("embed", done, 10) for done in range(1, 11)] == [""] * 10


def test_long_work_tells_a_line_each_tenth_and_each_five_seconds_at_most() -> None:
    clock = Clock()
    lines = ProgressLines(clock)
    told = []
    for done in range(1, 101):
        clock.now += 2
        told.append(lines.line("embed", done, 100))

    shown = [line for line in told if line]
    assert shown[:2] == ["Embedding rules: 10 of 100", "Embedding rules: 20 of 100"]
    assert len(shown) == 10


def test_a_stage_that_hardly_moves_still_tells_that_it_lives() -> None:
    clock = Clock()
    lines = ProgressLines(clock)
    told = []
    for done in range(1, 41):
        clock.now += 3
        told.append(lines.line("read", done, 10_000))

    assert [line for line in told if line] == ["Reading rule files: 20 of 10000", "Reading rule files: 40 of 10000"]


def test_each_stage_counts_for_itself() -> None:
    clock = Clock()
    lines = ProgressLines(clock)
    clock.now += 6
    read = lines.line("read", 100, 100)
    clock.now += 6
    embedded = lines.line("embed", 20, 100)

    assert (read, embedded) == ("Reading rule files: 100 of 100", "Embedding rules: 20 of 100")
