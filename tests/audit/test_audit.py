"""The whole audit over a real store, with a provider that embeds by words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray
from rules_of import rule
from supabase_stack.project import Project

from symmetra_mcp.app import App
from symmetra_mcp.audit.findings import AuditReport, Kind
from symmetra_mcp.audit.run import audit
from symmetra_mcp.config import load_settings
from symmetra_mcp.errors import ProviderUnavailableError
from symmetra_mcp.providers.base import EmbeddingProvider
from symmetra_mcp.providers.cache import CachingProvider
from symmetra_mcp.providers.select import ProviderChoice
from symmetra_mcp.reembed import complete_space
from symmetra_mcp.stores.base import RuleStore
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.stores.supabase import SupabaseStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import InputType, Rule

WORDS = ("table", "log", "retry", "index", "queue", "token", "budget")
T = TypeVar("T")


def with_rules(
    rules: list[Rule],
    use: Callable[[App], Awaitable[T]],
    *,
    embedded: int | None = None,
    provider: EmbeddingProvider | None = None,
) -> T:
    """Use an app over a store that holds some rules, of which the first so many are embedded; by default all."""
    provider = provider or FakeProvider(dimensions=256)

    async def run() -> T:
        settings = load_settings()
        app = App(settings, SqliteStore(settings.data_folder), ProviderChoice(provider))
        try:
            await app.store.open()
            await app.store.upsert_rules(rules[:embedded])
            if embedded != 0:
                await complete_space(app.store, provider)
            await app.store.upsert_rules(rules)
            return await use(app)
        finally:
            await app.aclose()

    return anyio.run(run)


@pytest.fixture(autouse=True)
def _without_starter_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMMETRA_STARTER_RULES", "0")


def looked_at(
    *rules: Rule, project: str = "", kinds: tuple[Kind, ...] = (), embedded: int | None = None
) -> AuditReport:
    chosen = {"kinds": kinds} if kinds else {}
    return with_rules(list(rules), lambda app: audit(app, project_id=project, **chosen), embedded=embedded)


RULES = [
    rule("Indent with tabs.", line=1),
    rule("Use 4 spaces for indentation.", path="CLAUDE.md", line=2),
    rule("Always validate user input on the server.", line=3),
    rule("User input must always be validated on the server.", path="CLAUDE.md", line=4),
    rule("Follow best practices.", line=5),
    rule("Name database tables in the plural.", line=6),
]


def test_every_kind_is_counted_and_findings_come_in_the_order_of_kinds() -> None:
    report = looked_at(*RULES)
    assert report.counts == {"duplicates": 1, "contradictions": 1, "long": 0, "vague": 1, "unfound": 0, "globs": 0}
    assert [finding.kind for finding in report.findings] == ["duplicates", "contradictions", "vague"]
    assert (report.rules, report.space, report.notes) == (6, "fake/words@256", ())


def test_only_the_kinds_asked_for_are_looked_for() -> None:
    report = looked_at(*RULES, kinds=("vague", "globs"))
    assert report.counts == {"vague": 1, "globs": 0}
    assert report.space == ""


def test_nothing_embedded_is_told_and_words_are_compared() -> None:
    report = looked_at(*RULES, embedded=0)
    assert report.counts["duplicates"] == report.counts["contradictions"] == 1
    assert report.notes[0].startswith("nothing is embedded: rules were compared by their words alone")


def test_rules_that_are_not_embedded_yet_are_compared_by_words() -> None:
    report = looked_at(*RULES, embedded=3)
    assert report.counts["duplicates"] == 1
    assert report.notes[0].startswith("3 of 6 rules are not embedded")


def test_a_project_meets_the_shared_rules_and_no_other_project() -> None:
    rules = [
        replace(each, project_id=name) for each, name in zip(RULES, ["a", "shared", "a", "b", "b", "b"], strict=True)
    ]
    assert looked_at(*rules, project="a").counts["contradictions"] == 1
    assert looked_at(*rules, project="a").counts["duplicates"] == 0
    assert looked_at(*rules, project="a").rules == 2
    assert looked_at(*rules, project="b").counts["contradictions"] == 0


def test_a_rule_that_others_keep_out_of_the_first_five_is_told_with_their_names() -> None:
    crowd = [replace(rule(f"Payments {word}.", line=n), title="Payments") for n, word in enumerate(WORDS)]
    lost = replace(rule("Payments.\n\nConsider what came up in last year's review.", line=99), title="Payments")
    [finding] = looked_at(*crowd, lost, kinds=("unfound",)).findings
    assert (finding.shape, finding.rules[0].rule_id) == ("outranked", "AGENTS.md-99")
    assert finding.about.startswith("not even 'Payments' finds it: AGENTS.md-")
    assert finding.about.endswith("come first")


def test_a_rule_too_far_from_its_own_title_is_told_with_the_similarity_that_it_lacks() -> None:
    lost = replace(rule(f"Overview\n\n{'Ledgers. ' * 60}", line=99), title="Overview")
    [finding] = looked_at(*RULES, lost, kinds=("unfound",)).findings
    assert (finding.shape, finding.rules[0].rule_id) == ("below-threshold", "AGENTS.md-99")
    assert finding.about.startswith(
        "not even 'Overview' finds it: no rule applies, as the nearest has a similarity of "
    )


def test_without_a_provider_rules_are_asked_for_by_words_and_that_is_told() -> None:
    async def broken(app: App) -> AuditReport:
        app.providers.chosen.failure = ProviderUnavailableError("it is down", provider="fake")  # type: ignore[attr-defined]
        return await audit(app, kinds=("unfound",))

    report = with_rules(RULES, broken)
    assert report.counts == {"unfound": 0}
    assert report.notes == ("while rules were asked for, meaning could not be compared in fake/words@256: it is down",)


def test_questions_are_embedded_together_and_first_sentences_only_where_a_title_does_not_find_its_rule() -> None:
    """Each text is sent once, as the searches find the vectors in the cache."""

    class Counting(FakeProvider):
        requests: list[tuple[str, ...]]

        async def _embed(self, texts: Sequence[str], input_type: InputType) -> NDArray[np.float32]:
            if input_type == "query":
                self.requests.append(tuple(texts))
            return await super()._embed(texts, input_type)

    provider = Counting(dimensions=256)
    provider.requests = []
    crowd = [replace(rule(f"Payments {word}.", line=n), title="Payments") for n, word in enumerate(WORDS, 10)]
    lost = replace(rule("Consider what came up in last year's review.", line=99), title="Payments")
    rules = [*RULES, *crowd, lost]
    report = with_rules(rules, lambda app: audit(app, kinds=("unfound",)), provider=CachingProvider(provider))
    assert report.counts == {"unfound": 0}
    titles, sentences = provider.requests
    assert sorted(titles) == sorted({each.title for each in rules})
    assert lost.guidance.rstrip(".") in sentences
    assert not {each.guidance.rstrip(".") for each in RULES} & set(sentences)


def test_of_many_rules_those_are_asked_for_whose_titles_tell_them_least_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("symmetra_mcp.audit.run.MAX_ASKED", 8)
    crowd = [replace(rule(f"Payments {word}.", line=n), title="Payments") for n, word in enumerate(WORDS, 10)]
    lost = replace(rule("Payments.\n\nConsider what came up in last year's review.", line=100), title="Payments")
    report = looked_at(*RULES, *crowd, lost, kinds=("unfound",))
    assert [finding.rules[0].rule_id for finding in report.findings] == ["AGENTS.md-100"]
    assert report.notes == (
        "asked for 8 of 14 rules, whose titles tell them least from others: --thorough asks for all",
    )


@pytest.mark.slow
def test_a_teams_store_gives_the_same_findings(emptied_project: Project) -> None:
    provider = FakeProvider()

    async def over(store: RuleStore) -> AuditReport:
        app = App(load_settings(), store, ProviderChoice(provider))
        try:
            await store.open()
            await store.upsert_rules(RULES)
            await complete_space(store, provider)
            return await audit(app)
        finally:
            await app.aclose()

    embedded = anyio.run(over, SqliteStore(load_settings().data_folder))
    team = anyio.run(over, SupabaseStore(emptied_project.address()))
    assert team.counts == embedded.counts
    assert [finding.rules for finding in team.findings] == [finding.rules for finding in embedded.findings]
