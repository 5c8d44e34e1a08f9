"""Search through what it answers; how scores are made is tested where they are made."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from symmetra_mcp.calibration import Calibrations
from symmetra_mcp.errors import ProviderUnavailableError, RateLimitError, StoreUnavailableError
from symmetra_mcp.providers.select import ProviderChoice
from symmetra_mcp.reembed import complete_space
from symmetra_mcp.search import (
    DEFAULT_LIMIT,
    DEFAULT_MAX_TOKENS,
    MAX_LIMIT,
    MAX_QUERY_CHARACTERS,
    MIN_MAX_TOKENS,
    Omitted,
    QueryError,
    SearchAnswer,
    SearchRequest,
    search,
)
from symmetra_mcp.stores.base import Matches, MatchQuery
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.tokens import estimate_tokens
from symmetra_mcp.types import Rule, RuleKey, Scope, Source

pytestmark = pytest.mark.anyio

PIN = "Pin every dependency to an exact version in the lock file."
NAMES = "Name database migrations after what they change."
HOOKS = "Call React hooks at the top level of a component only."


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "data")
    await store.open()
    yield store
    await store.aclose()


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(dimensions=256)


def rule(rule_id: str, guidance: str, **fields: Any) -> Rule:
    return Rule(
        **{"project_id": "shop", "rule_id": rule_id, "title": rule_id.capitalize(), "guidance": guidance} | fields
    )


def scoped(rule_id: str, guidance: str, *globs: str) -> Rule:
    return rule(rule_id, guidance, sources=(Source("AGENTS.md", scope=Scope("files", globs)),))


async def fill(store: SqliteStore, provider: FakeProvider, *rules: Rule) -> None:
    await store.upsert_rules(rules)
    await complete_space(store, provider)


async def answer(store: SqliteStore, provider: FakeProvider, query: str, **fields: Any) -> SearchAnswer:
    return await search(store, ProviderChoice(provider), SearchRequest(query, **fields))


def hits(found: SearchAnswer) -> list[str]:
    return [hit.rule.rule_id for hit in found.hits]


async def answer_by_words(store: SqliteStore, provider: FakeProvider, query: str, **fields: Any) -> SearchAnswer:
    """An answer in which every rule that holds a word of the question counts, near or not."""
    provider.failure = ProviderUnavailableError("down", provider="fake")
    return await answer(store, provider, query, **fields)


RULES = (rule("pin", PIN), rule("names", NAMES), rule("hooks", HOOKS, tech_stacks=("react",)))


# What an answer says


async def test_a_rule_that_applies_comes_first_and_says_why(store: SqliteStore, provider: FakeProvider) -> None:
    await fill(store, provider, *RULES)
    found = await answer(store, provider, "pin a dependency to an exact version")
    first = found.hits[0]
    assert (first.rule, first.guidance, first.excerpt, first.also) == (RULES[0], PIN, False, ())
    assert first.similarity is not None
    assert 0.5 < first.similarity <= 1
    assert first.why.meaning is True
    assert set(first.why.words) >= {"pin", "dependency", "exact", "version"}
    assert first.why.glob == ""
    assert (found.mode, found.degraded, found.space) == ("hybrid", "", provider.space)
    assert (found.considered, found.out_of_scope, found.below, found.omitted) == (3, 0, (), ())
    assert estimate_tokens(PIN) < found.tokens <= DEFAULT_MAX_TOKENS
    assert len(found.hits) <= DEFAULT_LIMIT


async def test_a_question_that_no_rule_is_about_gets_the_nearest_rules_as_such(
    store: SqliteStore, provider: FakeProvider
) -> None:
    await fill(store, provider, *RULES)
    found = await answer(store, provider, "zebra kangaroo giraffe elephant")
    assert (found.hits, found.omitted, found.tokens) == ((), (), 0)
    assert {near.rule.rule_id for near in found.below} == {"pin", "names", "hooks"}
    assert found.min_similarity is not None
    assert all(near.similarity is not None and near.similarity < found.min_similarity for near in found.below)
    assert not any(near.why.meaning for near in found.below)
    assert (found.mode, found.degraded, found.considered) == ("hybrid", "", 3)


async def test_no_more_rules_are_called_nearest_than_help(store: SqliteStore, provider: FakeProvider) -> None:
    await fill(store, provider, *(rule(f"r{i}", f"Guidance number{i} about topic{i}.") for i in range(30)))
    found = await answer(store, provider, "zebra kangaroo giraffe elephant", limit=20)
    assert found.hits == ()
    assert 1 <= len(found.below) <= 5


async def test_an_empty_store_answers_nothing_found(store: SqliteStore, provider: FakeProvider) -> None:
    found = await answer(store, provider, "pin dependencies")
    assert (found.hits, found.below, found.omitted, found.considered, found.tokens) == ((), (), (), 0, 0)


async def test_no_more_hits_than_the_limit(store: SqliteStore, provider: FakeProvider) -> None:
    texts = ["red sky", "green field", "blue sea", "black night", "white snow", "gray stone", "gold ring"]
    await fill(store, provider, *(rule(f"r{i}", f"Review {text} code.") for i, text in enumerate(texts)))
    for limit in (1, 3):
        found = await answer(store, provider, "review code", limit=limit)
        assert len(found.hits) == limit
        assert found.considered == 7


async def test_filters_of_the_request_are_those_of_the_store(store: SqliteStore, provider: FakeProvider) -> None:
    await fill(
        store,
        provider,
        rule("low", "Review code slowly.", priority="low", category="ux"),
        rule("high", "Review code twice.", priority="high", category="security", tech_stacks=("python",)),
        rule("blog", "Review code kindly.", project_id="blog", priority="high", category="security"),
    )
    for fields, expected in (
        ({"project_ids": ("blog",)}, {"blog"}),
        ({"excluded_project_ids": ("blog",)}, {"low", "high"}),
        ({"category": "Security"}, {"high", "blog"}),
        ({"min_priority": "high"}, {"high", "blog"}),
        ({"tech_stacks": ("go",)}, {"low", "blog"}),
    ):
        found = await answer(store, provider, "review code", **fields)
        assert found.considered == len(expected), fields
        assert set(hits(found)) <= expected, fields
        assert found.hits, fields


# When something is missing


async def test_words_answer_while_the_provider_is_down_and_the_answer_says_so(
    store: SqliteStore, provider: FakeProvider
) -> None:
    await fill(store, provider, *RULES)
    provider.failure = ProviderUnavailableError("no answer within 10 seconds", provider="fake")
    found = await answer(store, provider, "name the migrations")
    assert hits(found) == ["names"]
    assert found.hits[0].similarity is None
    assert found.hits[0].why.meaning is False
    assert (found.mode, found.space, found.min_similarity) == ("words", None, None)
    assert "no answer within 10 seconds" in found.degraded
    provider.failure = None
    again = await answer(store, provider, "name the migrations")
    assert (hits(again)[0], again.mode, again.degraded) == ("names", "hybrid", "")


async def test_a_provider_down_and_no_word_found_is_an_empty_answer_that_says_why(
    store: SqliteStore, provider: FakeProvider
) -> None:
    await fill(store, provider, *RULES)
    provider.failure = RateLimitError("the limit is reached", provider="fake", retry_after_s=3)
    found = await answer(store, provider, "kubernetes")
    assert (found.hits, found.mode, found.considered) == ((), "words", 3)
    assert "the limit is reached" in found.degraded


async def test_an_error_that_is_no_providers_is_not_taken_for_an_outage(
    store: SqliteStore, provider: FakeProvider
) -> None:
    await fill(store, provider, *RULES)
    provider.failure = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        await answer(store, provider, "name the migrations")


async def test_rules_embedded_by_another_model_are_matched_by_words_and_the_repair_is_named(
    store: SqliteStore, provider: FakeProvider
) -> None:
    await fill(store, provider, *RULES)
    stranger = FakeProvider("another", dimensions=256)
    found = await answer(store, stranger, "name the migrations")
    assert hits(found) == ["names"]
    assert (found.mode, found.space) == ("words", None)
    assert "symmetra-mcp reembed" in found.degraded
    assert str(provider.space) in found.degraded
    assert str(stranger.space) in found.degraded
    assert stranger.embedded == []


async def test_a_search_answers_in_the_space_it_began_in_while_another_becomes_active(
    store: SqliteStore, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store, provider, *RULES)
    new = FakeProvider("another", dimensions=256)
    embed_query = provider.embed_query

    async def switching(text: str) -> Any:
        await complete_space(store, new)
        return await embed_query(text)

    monkeypatch.setattr(provider, "embed_query", switching)
    found = await answer(store, provider, "name the migrations")
    assert (hits(found), found.mode, found.space, found.degraded) == (["names"], "hybrid", provider.space, "")


async def test_a_complete_space_stands_in_while_the_active_ones_provider_is_down(
    store: SqliteStore, provider: FakeProvider
) -> None:
    await fill(store, provider, *RULES)
    backup = FakeProvider("backup", dimensions=32)
    await complete_space(store, backup, activate=False)
    provider.failure = ProviderUnavailableError("the connection broke", provider="fake")
    found = await search(store, ProviderChoice(provider, others=[backup]), SearchRequest("name the migrations"))
    assert (hits(found), found.mode, found.space) == (["names"], "hybrid", backup.space)
    assert "the connection broke" in found.degraded
    assert str(backup.space) in found.degraded
    provider.failure = None
    found = await search(store, ProviderChoice(provider, others=[backup]), SearchRequest("name the migrations"))
    assert (found.space, found.degraded) == (provider.space, "")


async def test_a_space_that_lacks_a_rule_does_not_stand_in(store: SqliteStore, provider: FakeProvider) -> None:
    backup = FakeProvider("backup", dimensions=32)
    await fill(store, backup, *RULES[:1])
    await store.activate_space(provider.space)
    await fill(store, provider, *RULES)
    provider.failure = ProviderUnavailableError("the connection broke", provider="fake")
    found = await search(store, ProviderChoice(provider, others=[backup]), SearchRequest("name the migrations"))
    assert (hits(found), found.mode, found.space) == (["names"], "words", None)


async def test_rules_not_embedded_at_all_are_matched_by_words_and_the_answer_says_so(
    store: SqliteStore, provider: FakeProvider
) -> None:
    await store.upsert_rules(RULES)
    found = await answer(store, provider, "name the migrations")
    assert hits(found)[0] == "names"
    assert (found.mode, found.space) == ("words", None)
    assert "embedded" in found.degraded


async def test_rules_not_embedded_yet_are_found_by_words_and_counted(
    store: SqliteStore, provider: FakeProvider
) -> None:
    await fill(store, provider, *RULES)
    await store.upsert_rules([rule("new", "Write changelog entries for users.")])
    found = await answer(store, provider, "write changelog entries for users, name migrations")
    assert "new" in hits(found)
    assert found.mode == "hybrid"
    assert "1 of 4" in found.degraded


class BrokenStore(SqliteStore):
    """Fails where it is told to."""

    failing = "match"

    async def match(self, query: MatchQuery) -> Matches:
        if self.failing == "match" or (self.failing == "match by meaning" and query.vector is not None):
            raise StoreUnavailableError("the disk is gone")
        return await super().match(query)

    async def active_space(self) -> Any:
        if self.failing == "active_space":
            raise StoreUnavailableError("the disk is gone")
        return await super().active_space()


@pytest.mark.parametrize(
    ("failing", "provider_down"),
    [("match", False), ("match", True), ("match by meaning", False), ("active_space", False), ("active_space", True)],
)
async def test_a_store_that_fails_is_an_error_and_no_empty_answer(
    tmp_path: Path, provider: FakeProvider, failing: str, provider_down: bool
) -> None:
    store = BrokenStore(tmp_path / "data")
    await store.open()
    store.failing = failing
    provider.failure = ProviderUnavailableError("down", provider="fake") if provider_down else None
    with pytest.raises(StoreUnavailableError, match="the disk is gone"):
        await answer(store, provider, "name the migrations")
    await store.aclose()


async def test_a_store_that_is_closed_is_an_error_and_no_empty_answer(
    store: SqliteStore, provider: FakeProvider
) -> None:
    await store.aclose()
    with pytest.raises(StoreUnavailableError, match="not open"):
        await answer(store, provider, "name the migrations")


# Folding and the token budget


async def test_rules_that_say_the_same_answer_once_and_are_named(store: SqliteStore, provider: FakeProvider) -> None:
    await fill(
        store,
        provider,
        rule("pin", PIN),
        rule("pin-again", f"**{PIN.upper()}**", project_id="blog"),
        rule("names", NAMES),
    )
    found = await answer_by_words(store, provider, "pin every dependency to an exact version in the lock file")
    assert sorted([found.hits[0].rule.rule_id, *(also.rule_id for also in found.hits[0].also)]) == ["pin", "pin-again"]
    (omitted,) = found.omitted
    assert omitted == Omitted(found.hits[0].also[0], "duplicate", of=found.hits[0].rule.rule_id)
    assert len([hit for hit in found.hits if hit.rule.rule_id.startswith("pin")]) == 1


async def test_rules_that_say_something_else_about_the_same_are_both_kept(
    store: SqliteStore, provider: FakeProvider
) -> None:
    await fill(store, provider, rule("use", "Use tabs for indentation."), rule("dont", "Never mix tabs with blanks."))
    found = await answer_by_words(store, provider, "tabs for indentation")
    assert found.omitted == ()
    assert hits(found)[0] == "use"


async def test_duplicates_take_no_place_of_the_limit(store: SqliteStore, provider: FakeProvider) -> None:
    copies = [rule(f"copy{i}", PIN, project_id=f"p{i}") for i in range(6)]
    await fill(store, provider, *copies, rule("version", "Raise the version in the lock file of a dependency."))
    found = await answer_by_words(store, provider, "version of a dependency in the lock file", limit=2)
    assert len(found.hits) == 2
    assert "version" in hits(found)
    assert len(found.omitted) == 5


WORDY = "Review code carefully and "


async def test_hits_beyond_the_token_budget_are_left_out_and_listed(store: SqliteStore, provider: FakeProvider) -> None:
    rules = [rule(f"r{i}", WORDY + " ".join(f"topic{i}{j}" for j in range(60))) for i in range(5)]
    await fill(store, provider, *rules)
    found = await answer_by_words(store, provider, "review code carefully", max_tokens=500)
    assert found.hits
    assert found.tokens <= 500
    left_out = [omitted for omitted in found.omitted if omitted.reason == "budget"]
    assert left_out
    assert all(omitted.tokens > 0 for omitted in left_out)
    assert len({*hits(found), *(omitted.rule.rule_id for omitted in left_out)}) == len(found.hits) + len(left_out)
    everything = await answer_by_words(store, provider, "review code carefully", max_tokens=50_000)
    assert hits(everything)[: len(found.hits)] == hits(found)
    assert len(everything.hits) == len(found.hits) + len(left_out)


async def test_a_small_rule_behind_a_large_one_still_fits(store: SqliteStore, provider: FakeProvider) -> None:
    await fill(
        store,
        provider,
        rule("first", "Review code carefully, twice."),
        rule("large", "Review code carefully. " + " ".join(f"word{i}" for i in range(150))),
        rule("small", "Review carefully."),
    )
    found = await answer_by_words(store, provider, "review code carefully, twice", max_tokens=300)
    assert hits(found) == ["first", "small"]
    assert [(omitted.rule.rule_id, omitted.reason) for omitted in found.omitted] == [("large", "budget")]


@pytest.mark.parametrize("max_tokens", [MIN_MAX_TOKENS, 300])
async def test_the_best_rule_is_always_there_cut_where_it_must_be(
    store: SqliteStore, provider: FakeProvider, max_tokens: int
) -> None:
    guidance = "Review code carefully. " + "Read each line of the change, then its tests. " * 30
    await fill(store, provider, rule("large", guidance), rule("other", NAMES))
    found = await answer_by_words(store, provider, "review code carefully", max_tokens=max_tokens)
    assert found.hits[0].rule == rule("large", guidance)
    assert found.hits[0].excerpt
    assert found.hits[0].guidance.startswith("Review code carefully.")
    assert found.hits[0].guidance.endswith(" …")
    assert estimate_tokens(found.hits[0].guidance) < max_tokens
    assert found.tokens <= max_tokens


async def test_a_long_rule_answers_with_its_best_passage(store: SqliteStore, provider: FakeProvider) -> None:
    sections = [
        f"About {word}: " + " ".join(f"{word}{i}" for i in range(150)) + "." for word in ("alpha", "bravo", "delta")
    ]
    await fill(store, provider, rule("long", "\n\n".join(sections)), rule("names", NAMES))
    found = await answer(store, provider, "bravo10 bravo11 bravo12 bravo13 bravo14 bravo15")
    first = found.hits[0]
    assert first.rule.rule_id == "long"
    assert first.excerpt
    assert "bravo12" in first.guidance
    assert len(first.guidance) < len(first.rule.guidance) / 2
    assert not first.guidance.startswith("Long. ")
    assert first.guidance in first.rule.guidance


# The file in hand


async def test_rules_for_other_files_are_left_out_and_counted(store: SqliteStore, provider: FakeProvider) -> None:
    await fill(
        store,
        provider,
        scoped("py", "Review python code carefully.", "**/*.py"),
        scoped("web", "Review web code carefully.", "web/**"),
        rule("every", "Review every code carefully."),
    )
    found = await answer(
        store, provider, "review code carefully", file_path="/home/me/shop/src/a.py", root="/home/me/shop"
    )
    assert set(hits(found)) == {"py", "every"}
    assert (found.considered, found.out_of_scope) == (2, 1)
    globs = {hit.rule.rule_id: hit.why.glob for hit in found.hits}
    assert globs == {"py": "**/*.py", "every": ""}
    windows = await answer(store, provider, "review code", file_path="C:\\shop\\web\\b.ts", root="C:\\shop")
    assert set(hits(windows)) == {"web", "every"}


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        pytest.param({"file_path": "src/a.py"}, "python", id="file"),
        pytest.param({"file_path": "src/A.TSX"}, "react", id="other-file"),
        pytest.param({"preferred_project_ids": ("blog",)}, "blog", id="project"),
    ],
)
async def test_rules_for_what_is_in_hand_go_first_where_they_fit_as_well(
    store: SqliteStore, provider: FakeProvider, fields: dict[str, Any], first: str
) -> None:
    await store.upsert_rules(
        [
            rule("none", "Handle errors early.", title="Errors"),
            rule("python", "Handle errors today.", title="Errors", tech_stacks=("python",)),
            rule("react", "Handle errors always.", title="Errors", tech_stacks=("react",)),
            rule("blog", "Handle errors gladly.", title="Errors", project_id="blog"),
        ]
    )
    assert hits(await answer_by_words(store, provider, "handle errors"))[0] == "none"
    found = await answer_by_words(store, provider, "handle errors", **fields)
    assert hits(found)[0] == first
    assert found.considered == 4


async def test_a_deleted_rule_answers_no_more(store: SqliteStore, provider: FakeProvider) -> None:
    await fill(store, provider, *RULES)
    await store.delete_rules([RuleKey("shop", "names")])
    found = await answer(store, provider, "name database migrations after what they change")
    assert "names" not in hits(found)
    assert found.considered == 2


async def many(store: SqliteStore, provider: FakeProvider) -> None:
    """Enough rules that their space is calibrated, so that more than chance is asked of a hit."""
    subjects, deeds = ("retry", "cache", "login", "price", "queue", "index"), ("log", "test", "name", "check", "limit")
    rules = [rule(f"{deed}-{of}", f"Always {deed} every {of} before it is used.") for deed in deeds for of in subjects]
    await fill(store, provider, *rules)
    await complete_space(store, provider)


async def test_more_than_chance_is_asked_of_a_hit_once_a_space_is_calibrated(
    store: SqliteStore, provider: FakeProvider
) -> None:
    await many(store, provider)
    request = SearchRequest("the price of a cup of tea in the old town by the river")
    by_chance = await search(store, ProviderChoice(provider), request)
    calibrated = await search(store, ProviderChoice(provider), request, calibrations=Calibrations(store))
    assert by_chance.hits
    assert (calibrated.hits, bool(calibrated.below)) == ((), True)
    assert calibrated.min_similarity > by_chance.min_similarity


async def test_a_word_that_a_rule_holds_is_enough(store: SqliteStore, provider: FakeProvider) -> None:
    await many(store, provider)
    parts = " ".join(f"part{number}" for number in range(14))
    await store.upsert_rules([rule("ledger", f"Keep the ledger of {parts}.")])
    await complete_space(store, provider)
    found = await search(store, ProviderChoice(provider), SearchRequest("ledger"), calibrations=Calibrations(store))
    assert found.hits[0].similarity < found.min_similarity
    assert (hits(found), found.hits[0].confidence) == (["ledger"], "low")
    near = await search(
        store,
        ProviderChoice(provider),
        SearchRequest("always log every price before it is used"),
        calibrations=Calibrations(store),
    )
    assert (near.hits[0].rule.rule_id, near.hits[0].confidence) == ("log-price", "high")


async def test_the_language_of_code_counts_as_the_files_does(store: SqliteStore, provider: FakeProvider) -> None:
    await fill(
        store,
        provider,
        rule("go", "Close every channel.", title="Channels", tech_stacks=("go",)),
        rule("rust", "Close every channel.", title="Channels.", tech_stacks=("rust",)),
    )
    assert hits(await answer(store, provider, "let mut channel = Vec::<u8>::new(); // close"))[0] == "rust"
    assert hits(await answer(store, provider, "channel := make(chan int) // close"))[0] == "go"


# Questions that can't be asked


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"query": ""}, "query is empty", id="empty"),
        pytest.param({"query": " \n\t"}, "query is empty", id="blank"),
        pytest.param({"query": "x" * (MAX_QUERY_CHARACTERS + 1)}, f"at most {MAX_QUERY_CHARACTERS:,}", id="too-long"),
        pytest.param({"limit": 0}, f"limit must be 1 to {MAX_LIMIT}, got 0", id="no-limit"),
        pytest.param({"limit": MAX_LIMIT + 1}, f"limit must be 1 to {MAX_LIMIT}", id="limit-too-high"),
        pytest.param(
            {"max_tokens": MIN_MAX_TOKENS - 1}, f"max_tokens must be at least {MIN_MAX_TOKENS}", id="too-few-tokens"
        ),
    ],
)
def test_a_question_that_cannot_be_searched_for_says_what_to_send(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        SearchRequest(**{"query": "fine"} | fields)


async def test_the_longest_question_is_answered(store: SqliteStore, provider: FakeProvider) -> None:
    await fill(store, provider, *RULES)
    code = ("pin dependency version " * 2000)[:MAX_QUERY_CHARACTERS]
    assert hits(await answer(store, provider, code))[0] == "pin"


@pytest.mark.parametrize("query", ["🚀", "\ud83d", "'; DROP TABLE rules; --", "* OR NEAR(", "%_", "\0", "the"])
async def test_any_characters_can_be_asked(store: SqliteStore, provider: FakeProvider, query: str) -> None:
    await fill(store, provider, *RULES)
    found = await answer(store, provider, query)
    assert found.considered == 3
