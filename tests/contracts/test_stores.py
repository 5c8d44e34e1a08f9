"""What every rule store promises. A store joins by one line in `STORES`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from supabase_stack.project import Project

from symmetra_mcp.calibration import Calibrations
from symmetra_mcp.errors import InvalidEmbeddingError, RuleNotFoundError, SpaceMismatchError, StoreError
from symmetra_mcp.passages import passages
from symmetra_mcp.probes import QUANTILE, probe_passages
from symmetra_mcp.providers.base import EmbeddingProvider, Embeddings
from symmetra_mcp.reembed import complete_space
from symmetra_mcp.spaces import EmbeddingSpace
from symmetra_mcp.stores.base import Candidate, Matches, MatchQuery, RuleFilter, RuleStore, SpaceStatus
from symmetra_mcp.stores.mirror import MirroredStore
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.stores.supabase import SupabaseStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import Rule, RuleKey, Scope, Source

pytestmark = pytest.mark.anyio


def _embedded(request: pytest.FixtureRequest, place: Path) -> Callable[[], RuleStore]:
    return lambda: SqliteStore(place / "data")


def _supabase(request: pytest.FixtureRequest, place: Path) -> Callable[[], RuleStore]:
    project: Project = request.getfixturevalue("emptied_project")
    return lambda: SupabaseStore(project.address())


def _mirrored(request: pytest.FixtureRequest, place: Path) -> Callable[[], RuleStore]:
    project: Project = request.getfixturevalue("emptied_project")
    return lambda: MirroredStore(SupabaseStore(project.address()), SqliteStore(place / "copy"))


STORES = [
    pytest.param(_embedded, id="sqlite"),
    pytest.param(_supabase, id="supabase"),
    pytest.param(_mirrored, id="supabase-with-copy", marks=pytest.mark.slow),
]

FULL_RULE = Rule(
    project_id="shop",
    rule_id="validate-input",
    title="Validate input at the edge",
    guidance="Check every field of a request.\n\n- Types\n- Lengths",
    rationale="What is inside trusts what is inside.",
    category="security",
    priority="critical",
    tech_stacks=("python", "fastapi"),
    contexts=("ide-assistant", "agent"),
    keywords=("schema", "pydantic"),
    sources=(
        Source(
            path="services/api/AGENTS.md",
            line_start=12,
            line_end=30,
            format="agents-md",
            heading_path=("API", "Requests"),
            scope=Scope("files", ("services/api/**", "!**/*.test.py"), raw="services/api", always=False),
        ),
        Source(
            path=".cursor/rules/api.mdc",
            line_start=1,
            line_end=9,
            format="cursor-mdc",
            scope=Scope("files", ("*.{py,pyi}",), raw='globs: "*.{py,pyi}"', always=True),
        ),
        Source(path="CLAUDE.md", format="claude-md", scope=Scope("on_request", raw="description only")),
    ),
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=STORES)
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], RuleStore]:
    """Makes stores of one place: what one writes, the others read."""
    make: Callable[[], RuleStore] = request.param(request, tmp_path)
    return make


@pytest.fixture
async def store(make_store: Callable[[], RuleStore]) -> AsyncIterator[RuleStore]:
    store = make_store()
    await store.open()
    yield store
    await store.aclose()


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


def rule(rule_id: str, guidance: str = "Do the right thing.", **fields: Any) -> Rule:
    return Rule(
        **{"project_id": "shop", "rule_id": rule_id, "title": rule_id.capitalize(), "guidance": guidance} | fields
    )


def scoped(rule_id: str, *globs: str, **fields: Any) -> Rule:
    return rule(rule_id, sources=(Source("AGENTS.md", scope=Scope("files", globs)),), **fields)


def long_rule(rule_id: str = "long", sections: tuple[str, ...] = ("alpha", "bravo", "charlie")) -> Rule:
    guidance = "\n\n".join(" ".join(f"{word}{i}" for i in range(150)) + "." for word in sections)
    return rule(rule_id, guidance)


async def embed_missing(store: RuleStore, provider: EmbeddingProvider) -> None:
    page, _ = await store.missing_passages(provider.space)
    embeddings = await provider.embed_documents([passage.text for passage in page])
    await store.put_vectors([passage.content_hash for passage in page], embeddings)


async def fill(store: RuleStore, provider: EmbeddingProvider, *rules: Rule) -> None:
    await store.upsert_rules(rules)
    await embed_missing(store, provider)
    await store.activate_space(provider.space)


async def ask(store: RuleStore, provider: EmbeddingProvider, text: str, **fields: Any) -> Matches:
    embeddings = await provider.embed_query(text)
    return await store.match(MatchQuery(text, embeddings.vectors[0], embeddings.space, **fields))


def found(matches: Matches) -> list[str]:
    return [candidate.rule.rule_id for candidate in matches.candidates]


def cosine(provider: FakeProvider, one: str, other: str) -> float:
    return float(provider._vector(one) @ provider._vector(other))


# Rules


async def test_a_rule_is_read_back_with_every_field(store: RuleStore) -> None:
    await store.upsert_rules([FULL_RULE])
    assert await store.get_rule(FULL_RULE.key) == FULL_RULE
    assert await store.list_rules() == [FULL_RULE]


async def test_a_rule_without_optional_fields_is_read_back_alike(store: RuleStore) -> None:
    bare = Rule(project_id="p", rule_id="r", title="", guidance="")
    await store.upsert_rules([bare])
    assert await store.get_rule(bare.key) == bare


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("Ship it 🚀 with 👩‍👩‍👧 and 🇩🇪", id="emoji"),
        pytest.param("数据库不要直接访问。データ", id="cjk"),
        pytest.param("לא לשמור סיסמאות \u202e reversed", id="right-to-left"),
        pytest.param("e\u0301 is not \u00e9", id="combining"),
        pytest.param("line\r\nline\rline\u2028line\x0bline", id="line-breaks"),
        pytest.param("before\0after", id="nul"),
        pytest.param("\ufeff  blanks kept \t\n", id="blanks"),
        pytest.param("'; DROP TABLE rules; --%_\\\"", id="quotes"),
        pytest.param("x" * 300_000, id="long"),
    ],
)
async def test_any_text_is_read_back_unchanged(store: RuleStore, provider: FakeProvider, text: str) -> None:
    written = Rule(
        project_id="p",
        rule_id=text[:50],
        title=text,
        guidance=text,
        rationale=text,
        category=text,
        keywords=(text,),
        sources=(Source(text, heading_path=(text,), scope=Scope(raw=text)),),
    )
    await fill(store, provider, written)
    assert await store.get_rule(written.key) == written
    (candidate,) = (await ask(store, provider, text[:200])).candidates
    assert candidate.rule == written


@pytest.mark.parametrize("field", ["rule_id", "title", "guidance", "rationale", "category"])
async def test_half_a_surrogate_pair_is_refused_and_nothing_is_written(store: RuleStore, field: str) -> None:
    broken = replace(rule("broken"), **{field: "secret text \ud83d"})
    with pytest.raises(StoreError) as caught:
        await store.upsert_rules([rule("fine"), broken])
    assert "secret" not in str(caught.value)
    assert await store.list_rules() == []
    await store.upsert_rules([rule("fine")])
    assert await store.count_rules() == {"shop": 1}


async def test_asking_with_half_a_surrogate_pair_is_a_store_error_or_finds_nothing(store: RuleStore) -> None:
    await store.upsert_rules([rule("one")])
    with pytest.raises(StoreError):
        await store.get_rule(RuleKey("shop", "\ud83d"))
    assert found(await store.match(MatchQuery("\ud83d"))) == []
    assert found(await store.match(MatchQuery("right \ud83d thing"))) == ["one"]


async def test_a_rule_written_again_is_replaced_in_place(store: RuleStore, provider: FakeProvider) -> None:
    await fill(store, provider, long_rule("changing"), rule("other", "Something else."))
    changed = rule("changing", "Use tabs for indentation.", title="Tabs", priority="high", category="ux")
    await fill(store, provider, changed)
    assert await store.list_rules() == [changed, rule("other", "Something else.")]
    assert await store.count_passages() == 2
    assert (await ask(store, provider, "bravo3 bravo4")).candidates[0].words == ()
    assert (await ask(store, provider, "indentation tabs")).candidates[0].rule == changed


async def test_several_changes_in_one_call_are_written_all_or_none(store: RuleStore) -> None:
    await store.upsert_rules([rule("one", "old")])
    bad: Any = rule("two", title=object())
    with pytest.raises(Exception):  # noqa: B017, PT011 - which one is not promised; that nothing was written is
        await store.upsert_rules([rule("one", "new"), bad])
    assert await store.list_rules() == [rule("one", "old")]


async def test_writing_no_rules_is_allowed(store: RuleStore) -> None:
    await store.upsert_rules([])
    assert await store.list_rules() == []


async def test_rules_are_listed_by_project_and_id_whatever_the_order_of_writing(store: RuleStore) -> None:
    keys = [("b", "1"), ("a", "2"), ("b", "0"), ("a", "10"), ("a", "1")]
    await store.upsert_rules([rule(rule_id, project_id=project) for project, rule_id in keys])
    assert [tuple(each.key) for each in await store.list_rules()] == sorted(keys)
    assert [each.rule_id for each in await store.list_rules("b")] == ["0", "1"]
    assert await store.list_rules("no such project") == []


async def test_one_id_in_two_projects_is_two_rules(store: RuleStore) -> None:
    ours, theirs = rule("tabs", "Ours."), rule("tabs", "Theirs.", project_id="blog")
    await store.upsert_rules([ours, theirs])
    assert await store.get_rule(RuleKey("shop", "tabs")) == ours
    assert await store.get_rule(RuleKey("blog", "tabs")) == theirs


async def test_deleting_counts_what_existed_and_removes_only_that(store: RuleStore, provider: FakeProvider) -> None:
    await fill(store, provider, rule("one"), rule("two"), rule("one", project_id="blog"))
    deleted = await store.delete_rules([RuleKey("shop", "one"), RuleKey("shop", "gone"), RuleKey("shop", "one")])
    assert deleted == 1
    assert [tuple(each.key) for each in await store.list_rules()] == [("blog", "one"), ("shop", "two")]
    assert (await ask(store, provider, "right thing")).considered == 2
    assert await store.delete_rules([]) == 0


async def test_rules_are_counted_by_project(store: RuleStore) -> None:
    assert await store.count_rules() == {}
    await store.upsert_rules([rule("one"), rule("two"), rule("one", project_id="blog")])
    assert await store.count_rules() == {"blog": 1, "shop": 2}


async def test_a_missing_rule_is_an_error_that_names_its_id(store: RuleStore) -> None:
    await store.upsert_rules([rule("there")])
    with pytest.raises(RuleNotFoundError, match="'elsewhere'") as caught:
        await store.get_rule(RuleKey("shop", "elsewhere"))
    assert caught.value.rule_id == "elsewhere"


async def test_rules_outlive_the_store_object(make_store: Callable[[], RuleStore], provider: FakeProvider) -> None:
    first = make_store()
    await first.open()
    await fill(first, provider, FULL_RULE)
    await first.aclose()
    second = make_store()
    await second.open()
    assert await second.list_rules() == [FULL_RULE]
    assert await second.active_space() == provider.space
    assert found(await ask(second, provider, "validate")) == ["validate-input"]
    await second.aclose()


async def test_opening_and_closing_twice_is_harmless(store: RuleStore) -> None:
    await store.upsert_rules([FULL_RULE])
    await store.open()
    assert await store.list_rules() == [FULL_RULE]
    await store.aclose()
    await store.aclose()
    await store.open()
    assert await store.list_rules() == [FULL_RULE]


async def test_a_store_that_is_not_open_says_so(make_store: Callable[[], RuleStore]) -> None:
    store = make_store()
    with pytest.raises(StoreError, match="not open"):
        await store.list_rules()
    with pytest.raises(StoreError, match="not open"):
        await store.upsert_rules([FULL_RULE])


# Spaces and vectors


async def test_a_new_store_is_empty_and_answers(store: RuleStore, provider: FakeProvider) -> None:
    assert await store.active_space() is None
    assert await store.space_statuses() == []
    assert await store.count_passages() == 0
    assert await store.missing_passages(provider.space) == ([], "")
    assert await store.match(MatchQuery("anything")) == Matches((), 0)
    assert await ask(store, provider, "anything") == Matches((), 0)
    assert await store.verify() == ""
    assert store.take_rebuilt() is False
    assert store.notices == []


async def test_one_space_is_active_at_a_time(store: RuleStore) -> None:
    old, new = FakeProvider("old").space, FakeProvider("new").space
    for space in (old, new, new, old):
        await store.activate_space(space)
        assert await store.active_space() == space
        active = [status.space for status in await store.space_statuses() if status.active]
        assert active == [space]


async def test_spaces_report_how_complete_they_are(store: RuleStore) -> None:
    old, new = FakeProvider("old"), FakeProvider("new")
    await fill(store, old, long_rule(), rule("short"))
    page, _ = await store.missing_passages(new.space, limit=1)
    await store.put_vectors([page[0].content_hash], await new.embed_documents([page[0].text]))
    texts = len(passages(long_rule())) + 1
    assert await store.count_passages() == texts
    statuses = sorted(await store.space_statuses(), key=lambda status: status.space.model)
    assert statuses == [
        SpaceStatus(new.space, active=False, passages=texts, missing=texts - 1),
        SpaceStatus(old.space, active=True, passages=texts, missing=0),
    ]


async def test_vectors_of_deleted_rules_do_not_count_as_embedded(store: RuleStore, provider: FakeProvider) -> None:
    await fill(store, provider, rule("one", "First."), rule("two", "Second."))
    await store.delete_rules([RuleKey("shop", "one")])
    await store.upsert_rules([rule("three", "Third.")])
    assert await store.space_statuses() == [SpaceStatus(provider.space, active=True, passages=2, missing=1)]


@pytest.mark.parametrize("limit", [1, 3, 4, 512])
@pytest.mark.parametrize("embedding", [False, True], ids=["reading-only", "embedding-each-page"])
async def test_pages_of_missing_texts_hold_each_once(
    store: RuleStore, provider: FakeProvider, limit: int, embedding: bool
) -> None:
    rules = [long_rule(), *(rule(f"r{i}", f"Guidance {i}.") for i in range(5)), rule("same", project_id="blog")]
    await store.upsert_rules([*rules, rule("same")])
    wanted = sorted({passage.text for each in rules for passage in passages(each)})
    seen: list[str] = []
    after = ""
    while len(seen) <= len(wanted):
        page, after = await store.missing_passages(provider.space, after=after, limit=limit)
        if not page:
            break
        assert len(page) <= limit
        seen += [passage.text for passage in page]
        if embedding:
            embeddings = await provider.embed_documents([passage.text for passage in page])
            await store.put_vectors([passage.content_hash for passage in page], embeddings)
    assert sorted(seen) == wanted
    left, _ = await store.missing_passages(provider.space)
    assert len(left) == (0 if embedding else len(wanted))


async def test_texts_that_have_a_vector_are_missing_only_when_asked_for_again(
    store: RuleStore, provider: FakeProvider
) -> None:
    await fill(store, provider, rule("one", "First."))
    await store.upsert_rules([rule("two", "Second.")])
    missing, _ = await store.missing_passages(provider.space)
    again, _ = await store.missing_passages(provider.space, again=True)
    assert missing == passages(rule("two", "Second."))
    assert sorted(text.text for text in again) == ["One. First.", "Two. Second."]


async def test_a_text_shared_by_rules_is_embedded_once(store: RuleStore, provider: FakeProvider) -> None:
    await fill(store, provider, rule("tabs"), rule("tabs", project_id="blog"), rule("tabs", project_id="docs"))
    assert provider.embedded == ["Tabs. Do the right thing."]
    matches = await ask(store, provider, "tabs")
    assert [candidate.similarity for candidate in matches.candidates] == [matches.best_similarity] * 3
    assert matches.unembedded == 0


async def test_a_renamed_or_moved_rule_keeps_its_vector(store: RuleStore, provider: FakeProvider) -> None:
    await fill(store, provider, rule("tabs"))
    await store.delete_rules([RuleKey("shop", "tabs")])
    await store.upsert_rules([rule("indent", title="Tabs", project_id="blog")])
    assert await store.missing_passages(provider.space) == ([], "")


async def test_hashes_without_a_vector_are_told_by_space(store: RuleStore, provider: FakeProvider) -> None:
    other = FakeProvider("other")
    await store.put_vectors(["a", "b"], await provider.embed_documents(["one", "two"]))
    await store.put_vectors(["c"], await other.embed_documents(["three"]))
    assert await store.without_vector(provider.space, ["a", "b", "c", "d"]) == {"c", "d"}
    assert await store.without_vector(other.space, ["a", "b", "c", "d"]) == {"a", "b", "d"}
    assert await store.without_vector(FakeProvider("unknown").space, ["a"]) == {"a"}
    assert await store.without_vector(provider.space, []) == set()


@pytest.mark.parametrize("hashes", [["a"], ["a", "b", "c"], []], ids=["fewer", "more", "none"])
async def test_vectors_without_a_hash_each_are_refused(
    store: RuleStore, provider: FakeProvider, hashes: list[str]
) -> None:
    await store.upsert_rules([rule("one"), rule("two")])
    embeddings = await provider.embed_documents(["one", "two"])
    with pytest.raises(InvalidEmbeddingError):
        await store.put_vectors(hashes, embeddings)
    assert len((await store.missing_passages(provider.space))[0]) == 2
    assert await store.space_statuses() == []


async def test_vectors_put_again_replace_the_old(store: RuleStore, provider: FakeProvider) -> None:
    await fill(store, provider, rule("one"))
    (passage,) = passages(rule("one"))
    turned = Embeddings(-provider._vector(passage.text)[None], provider.space)
    await store.put_vectors([passage.content_hash], turned)
    assert (await ask(store, provider, passage.text)).best_similarity == pytest.approx(-1, abs=1e-5)


# Matching


async def test_a_match_carries_everything_it_was_judged_by(store: RuleStore, provider: FakeProvider) -> None:
    await fill(store, provider, FULL_RULE, rule("other", "Keep the changelog."))
    matches = await ask(store, provider, "validate request schema")
    first = matches.candidates[0]
    text = passages(FULL_RULE)[0].text
    assert first == Candidate(
        rule=FULL_RULE,
        score=first.score,
        relevance=first.score,
        similarity=pytest.approx(cosine(provider, "validate request schema", text), abs=1e-5),
        words=first.words,
        passage="",
        matched_glob="",
    )
    assert set(first.words) == {"validate", "request", "schema"}
    assert matches.best_similarity == first.similarity
    assert (matches.considered, matches.out_of_scope, matches.unembedded) == (2, 0, 0)
    assert found(matches) == ["validate-input", "other"]
    assert first.score > matches.candidates[1].score


async def test_words_alone_find_only_rules_that_hold_one(store: RuleStore, provider: FakeProvider) -> None:
    await fill(store, provider, rule("one", "Pin dependencies."), rule("two", "Write docstrings."))
    matches = await store.match(MatchQuery("dependency pinning"))
    assert found(matches) == ["one"]
    assert matches == Matches(matches.candidates, considered=2)
    assert matches.candidates[0].similarity is None
    assert sorted(matches.candidates[0].words) == ["dependency", "pinning"]
    assert (await store.match(MatchQuery("kubernetes"))).candidates == ()


async def test_words_of_every_field_are_found(store: RuleStore) -> None:
    await store.upsert_rules([FULL_RULE, rule("other")])
    for word in ("edge", "lengths", "trusts", "pydantic", "Requests", "validate"):
        assert found(await store.match(MatchQuery(word))) == ["validate-input"], word


async def test_a_rule_without_a_vector_is_found_by_its_words_and_counted(
    store: RuleStore, provider: FakeProvider
) -> None:
    await fill(store, provider, rule("embedded", "Pin dependencies."))
    await store.upsert_rules([rule("new", "Name the migrations.")])
    matches = await ask(store, provider, "migrations")
    new = next(candidate for candidate in matches.candidates if candidate.rule.rule_id == "new")
    assert (new.similarity, new.words, new.passage) == (None, ("migrations",), "")
    assert (matches.considered, matches.unembedded) == (2, 1)
    assert sorted(found(matches)) == ["embedded", "new"]


async def test_a_query_before_anything_is_embedded_matches_by_words(store: RuleStore, provider: FakeProvider) -> None:
    await store.upsert_rules([rule("one", "Pin dependencies."), rule("two", "Name the migrations.")])
    matches = await ask(store, provider, "migrations")
    assert found(matches)[0] == "two"
    assert (matches.best_similarity, matches.unembedded) == (None, 2)


async def test_a_query_from_another_space_is_refused(store: RuleStore, provider: FakeProvider) -> None:
    await fill(store, provider, rule("one"))
    stranger = FakeProvider("another model")
    with pytest.raises(SpaceMismatchError, match="symmetra-mcp reembed") as caught:
        await ask(store, stranger, "one")
    assert (caught.value.expected, caught.value.actual) == (provider.space, stranger.space)
    assert found(await ask(store, provider, "one")) == ["one"]


async def test_vectors_of_a_space_that_is_not_active_are_not_compared(store: RuleStore) -> None:
    old, new = FakeProvider("old"), FakeProvider("new")
    await fill(store, old, rule("one", "First."), rule("two", "Second."))
    await embed_missing(store, new)
    assert (await ask(store, old, "First")).best_similarity == pytest.approx(
        cosine(old, "First", "One. First."), abs=1e-5
    )
    await store.activate_space(new.space)
    assert (await ask(store, new, "First")).best_similarity == pytest.approx(
        cosine(new, "First", "One. First."), abs=1e-5
    )


async def test_a_complete_space_can_be_compared_in_beside_the_active_one(store: RuleStore) -> None:
    active, backup = FakeProvider("active"), FakeProvider("backup", dimensions=32)
    await fill(store, active, rule("one", "First."), rule("two", "Second."))
    assert await store.complete_spaces() == [active.space]
    await embed_missing(store, backup)
    assert sorted(map(str, await store.complete_spaces())) == sorted(map(str, (active.space, backup.space)))
    for provider in (active, backup, active, backup):
        assert (await ask(store, provider, "First")).best_similarity == pytest.approx(
            cosine(provider, "First", "One. First."), abs=1e-5
        )
    assert await store.active_space() == active.space


async def test_a_space_that_lacks_a_text_is_not_compared_in(store: RuleStore) -> None:
    active, backup = FakeProvider("active"), FakeProvider("backup", dimensions=32)
    await fill(store, active, rule("one", "First."))
    await embed_missing(store, backup)
    await fill(store, active, rule("two", "Second."))
    assert await store.complete_spaces() == [active.space]
    with pytest.raises(SpaceMismatchError):
        await ask(store, backup, "First")


# Spaces beside each other


async def test_a_space_is_switched_to_only_when_it_is_complete_where_that_is_asked(store: RuleStore) -> None:
    old, new = FakeProvider("old"), FakeProvider("new")
    await fill(store, old, rule("one"))
    assert await store.activate_space(new.space, if_complete=True) is False
    assert await store.active_space() == old.space
    await embed_missing(store, new)
    assert await store.activate_space(new.space, if_complete=True) is True
    assert await store.active_space() == new.space
    await store.upsert_rules([rule("later", "Came in between.")])
    assert await store.activate_space(old.space, if_complete=True) is False
    assert await store.active_space() == new.space
    assert await store.activate_space(old.space) is True


async def test_the_space_that_searches_left_last_is_known(store: RuleStore) -> None:
    first, second, third = (FakeProvider(name).space for name in ("first", "second", "third"))
    for space in (first, second, third, third, first):
        await store.activate_space(space)
    left = {status.space: status.left_at for status in await store.space_statuses()}
    assert max(left, key=lambda space: left[space]) == third
    assert left[second] < left[third]
    assert left[first] < left[second], "left for the second, and active again since"


async def test_a_dropped_space_is_gone_and_the_others_are_not(store: RuleStore) -> None:
    old, new = FakeProvider("old"), FakeProvider("new")
    await fill(store, old, rule("one"), rule("two", "Something else."))
    await embed_missing(store, new)
    assert await store.drop_space(new.space) == 2
    assert [status.space for status in await store.space_statuses()] == [old.space]
    assert await store.get_vectors(new.space, ["x"]) == {}
    assert found(await ask(store, old, "right thing")) != []
    assert await store.drop_space(new.space) == 0
    with pytest.raises(StoreError, match="activate another space first"):
        await store.drop_space(old.space)
    assert await store.active_space() == old.space
    assert (await store.space_statuses())[0].missing == 0
    await embed_missing(store, new)
    assert set(await store.complete_spaces()) == {old.space, new.space}


async def test_a_refused_text_is_named_with_its_rule_and_the_space_is_complete_without_it(store: RuleStore) -> None:
    provider = FakeProvider()
    await store.upsert_rules(
        [rule("fine"), rule("bad", "Refused words."), rule("alike", "Refused words.", title="Bad")]
    )
    hashes = {passage.text: passage.content_hash for passage in (await store.missing_passages(provider.space))[0]}
    bad = [key for text, key in hashes.items() if "Refused" in text]
    await store.refuse_texts(provider.space, dict.fromkeys(bad, "too long 🚀"))
    assert {(each.content_hash, each.reason, each.key.rule_id) for each in await store.refusals(provider.space)} == {
        (bad[0], "too long 🚀", "alike")
    }
    assert bad[0] not in [each.content_hash for each in (await store.missing_passages(provider.space))[0]]
    assert bad[0] in [each.content_hash for each in (await store.missing_passages(provider.space, again=True))[0]]
    await embed_missing(store, provider)
    (status,) = await store.space_statuses()
    assert (status.passages, status.missing, status.refused) == (2, 0, 1)
    assert await store.complete_spaces() == [provider.space]
    assert await store.activate_space(provider.space, if_complete=True)
    matches = await ask(store, provider, "refused words")
    assert {"bad", "alike"} <= set(found(matches))
    assert matches.unembedded == 0


async def test_a_refusal_ends_with_a_vector_or_with_its_text(store: RuleStore) -> None:
    provider = FakeProvider()
    await store.upsert_rules([rule("one"), rule("two", "Something else.")])
    hashes = [passage.content_hash for passage in (await store.missing_passages(provider.space))[0]]
    await store.refuse_texts(provider.space, dict.fromkeys(hashes, "refused"))
    assert len(await store.refusals(provider.space)) == 2
    await store.put_vectors(hashes[:1], await provider.embed_documents(["a"]))
    assert [each.content_hash for each in await store.refusals(provider.space)] == hashes[1:]
    await store.delete_rules([RuleKey("shop", "one"), RuleKey("shop", "two")])
    assert await store.refusals(provider.space) == []
    (status,) = await store.space_statuses()
    assert (status.passages, status.missing, status.refused) == (0, 0, 0)
    assert await store.refusals(FakeProvider("unknown").space) == []


async def test_a_text_that_has_a_vector_keeps_it_when_it_is_refused_later(store: RuleStore) -> None:
    provider = FakeProvider()
    await fill(store, provider, rule("one"))
    (passage,) = (await store.missing_passages(provider.space, again=True))[0]
    await store.refuse_texts(provider.space, {passage.content_hash: "refused"})
    (status,) = await store.space_statuses()
    assert (status.passages, status.missing, status.refused) == (1, 0, 0)
    assert await store.refusals(provider.space) == []
    assert len(await store.get_vectors(provider.space, [passage.content_hash])) == 1


async def test_how_near_the_texts_come_is_told_in_a_space_beside_the_active_one(store: RuleStore) -> None:
    old, new = FakeProvider("old"), FakeProvider("new")
    await fill(store, old, rule("one"), rule("two", "Something else."), rule("three", "Thirdly, a thing."))
    with pytest.raises(SpaceMismatchError):
        await store.nearest(new.space, (await new.embed_query("right")).vectors, 2)
    await embed_missing(store, new)
    texts = [passage.text for passage in (await store.missing_passages(new.space, again=True))[0]]
    queries = (await new.embed_documents(["something right", "a thing"])).vectors
    answers = await store.nearest(new.space, queries, 2)
    for query, answer in zip(queries, answers, strict=True):
        expected = sorted((float(query @ new._vector(text)) for text in texts), reverse=True)[:2]
        assert answer == pytest.approx(expected, abs=1e-3)
    assert await store.active_space() == old.space


async def test_a_spaces_variant_tells_it_from_others(store: RuleStore) -> None:
    space = EmbeddingSpace("openai", "nomic-embed-text", 8, variant="localhost:11434")
    await store.activate_space(space)
    assert await store.active_space() == space
    assert await store.active_space() != replace(space, variant="")


async def test_a_long_rule_is_as_similar_as_its_best_passage(store: RuleStore, provider: FakeProvider) -> None:
    await fill(store, provider, long_rule(), rule("short"))
    texts = [passage.text for passage in passages(long_rule())]
    assert len(texts) > 3
    query = "charlie3 charlie4 charlie5 charlie6 charlie7"
    cosines = [cosine(provider, query, text) for text in texts]
    matches = await ask(store, provider, query)
    assert matches.candidates[0].rule == long_rule()
    assert matches.candidates[0].passage == texts[int(np.argmax(cosines))]
    assert "charlie5" in matches.candidates[0].passage
    assert matches.candidates[0].similarity == pytest.approx(max(cosines), abs=1e-5)


async def test_the_best_passage_is_right_while_the_rule_is_embedded_in_part(
    store: RuleStore, provider: FakeProvider
) -> None:
    await store.upsert_rules([long_rule()])
    later = passages(long_rule())[1:]
    embeddings = await provider.embed_documents([passage.text for passage in later])
    await store.put_vectors([passage.content_hash for passage in later], embeddings)
    await store.activate_space(provider.space)
    query = "charlie145 charlie146 charlie147"
    (candidate,) = (await ask(store, provider, query)).candidates
    assert candidate.passage == max((passage.text for passage in later), key=lambda text: cosine(provider, query, text))


@pytest.mark.parametrize("limit", [1, 2, 5, 50])
async def test_no_more_than_the_limit_is_returned_and_it_is_the_best(
    store: RuleStore, provider: FakeProvider, limit: int
) -> None:
    words = ["red", "green", "blue", "black", "white"]
    rules = [rule(word, " ".join(words[: i + 1])) for i, word in enumerate(words)]
    await fill(store, provider, *rules)
    everything = await ask(store, provider, "white black", limit=50)
    matches = await ask(store, provider, "white black", limit=limit)
    assert matches.candidates == everything.candidates[:limit]
    assert matches.considered == 5
    assert found(everything)[0] == "white"
    scores = [candidate.score for candidate in everything.candidates]
    assert scores == sorted(scores, reverse=True)


FILTERED = (
    rule("py", category="security", priority="high", tech_stacks=("python",)),
    rule("js", category="Security", priority="low", tech_stacks=("javascript", "react")),
    rule("any", category="testing", priority="critical"),
    rule("odd", category="Größe", priority="medium", project_id="blog"),
    scoped("web", "web/**/*.{ts,tsx}", project_id="blog"),
    scoped("not-tests", "**/*.py", "!**/test_*.py"),
)


@pytest.mark.parametrize(
    ("rule_filter", "expected", "out_of_scope"),
    [
        pytest.param(RuleFilter(), {"py", "js", "any", "odd", "web", "not-tests"}, 0, id="none"),
        pytest.param(RuleFilter(project_ids=("blog",)), {"odd", "web"}, 0, id="project"),
        pytest.param(
            RuleFilter(project_ids=("blog", "shop", "x")),
            {"py", "js", "any", "odd", "web", "not-tests"},
            0,
            id="projects",
        ),
        pytest.param(RuleFilter(project_ids=("nowhere",)), set(), 0, id="unknown-project"),
        pytest.param(RuleFilter(excluded_project_ids=("shop",)), {"odd", "web"}, 0, id="excluded-project"),
        pytest.param(RuleFilter(project_ids=("shop",), excluded_project_ids=("shop",)), set(), 0, id="excluded-wins"),
        pytest.param(RuleFilter(category="SECURITY"), {"py", "js"}, 0, id="category-case"),
        pytest.param(RuleFilter(category="GRÖSSE"), {"odd"}, 0, id="category-case-folded"),
        pytest.param(RuleFilter(category="secur"), set(), 0, id="category-is-whole"),
        pytest.param(RuleFilter(min_priority="high"), {"py", "any"}, 0, id="priority-high"),
        pytest.param(RuleFilter(min_priority="critical"), {"any"}, 0, id="priority-critical"),
        pytest.param(
            RuleFilter(min_priority="medium"), {"py", "any", "odd", "web", "not-tests"}, 0, id="priority-medium"
        ),
        pytest.param(
            RuleFilter(tech_stacks=("Python",)), {"py", "any", "odd", "web", "not-tests"}, 0, id="stack-and-none"
        ),
        pytest.param(
            RuleFilter(tech_stacks=("python", "react")),
            {"py", "js", "any", "odd", "web", "not-tests"},
            0,
            id="stacks-any-of",
        ),
        pytest.param(RuleFilter(path="web/a/b.tsx"), {"py", "js", "any", "odd", "web"}, 1, id="path-web"),
        pytest.param(RuleFilter(path="src/a.py"), {"py", "js", "any", "odd", "not-tests"}, 1, id="path-python"),
        pytest.param(RuleFilter(path="src/test_a.py"), {"py", "js", "any", "odd"}, 2, id="path-negated"),
        pytest.param(
            RuleFilter(path="src/test_a.py", project_ids=("blog",)), {"odd"}, 1, id="out-of-scope-counts-after-filters"
        ),
        pytest.param(
            RuleFilter(project_ids=("shop",), category="security", min_priority="high", tech_stacks=("python",)),
            {"py"},
            0,
            id="together",
        ),
    ],
)
async def test_filters_decide_which_rules_may_answer(
    store: RuleStore, provider: FakeProvider, rule_filter: RuleFilter, expected: set[str], out_of_scope: int
) -> None:
    await fill(store, provider, *FILTERED)
    hybrid = await ask(store, provider, "the right thing", rule_filter=rule_filter)
    words = await store.match(MatchQuery("the right thing", rule_filter=rule_filter))
    for matches in (hybrid, words):
        assert set(found(matches)) == expected
        assert (matches.considered, matches.out_of_scope) == (len(expected), out_of_scope)


async def test_a_rule_scoped_by_several_sources_applies_where_any_does(store: RuleStore) -> None:
    await store.upsert_rules([FULL_RULE])
    one = (await store.match(MatchQuery("validate", rule_filter=RuleFilter(path="services/api/main.go")))).candidates
    other = (await store.match(MatchQuery("validate", rule_filter=RuleFilter(path="lib/deep/x.pyi")))).candidates
    anywhere = (await store.match(MatchQuery("validate", rule_filter=RuleFilter(path="README.md")))).candidates
    assert [candidate.rule for candidate in (*one, *other, *anywhere)] == [FULL_RULE] * 3


async def test_the_glob_that_matched_is_told(store: RuleStore) -> None:
    await store.upsert_rules([scoped("web", "web/**", "*.{ts,tsx}"), rule("everywhere")])
    matches = await store.match(MatchQuery("right thing", rule_filter=RuleFilter(path="lib/a.ts")))
    globs = {candidate.rule.rule_id: candidate.matched_glob for candidate in matches.candidates}
    assert globs == {"web": "*.{ts,tsx}", "everywhere": ""}


@pytest.mark.parametrize(
    ("preference", "first"),
    [
        pytest.param({}, "red", id="none"),
        pytest.param({"preferred_tech_stacks": ("React",)}, "green", id="tech-stack"),
        pytest.param({"preferred_project_ids": ("blog",)}, "blue", id="project"),
    ],
)
async def test_a_preference_decides_between_rules_that_fit_alike(
    store: RuleStore, preference: dict[str, Any], first: str
) -> None:
    await store.upsert_rules(
        [
            rule("red", title="Same"),
            rule("green", title="Same", tech_stacks=("react",)),
            rule("blue", title="Same", project_id="blog"),
            rule("unlike", "Cats and dogs."),
        ]
    )
    matches = await store.match(MatchQuery("the right thing", **preference))
    assert found(matches)[0] == first
    assert sorted(found(matches)) == ["blue", "green", "red"]
    assert matches.considered == 4


async def test_a_preference_changes_the_score_and_not_the_relevance(store: RuleStore, provider: FakeProvider) -> None:
    await fill(store, provider, rule("pin", "Pin dependencies."), rule("cats", "Cats.", tech_stacks=("python",)))
    plain = await ask(store, provider, "pin dependencies")
    preferring = await ask(store, provider, "pin dependencies", preferred_tech_stacks=("python",))
    assert [each.relevance for each in plain.candidates] == [each.score for each in plain.candidates]
    assert [each.relevance for each in preferring.candidates] == [each.relevance for each in plain.candidates]
    assert preferring.candidates[1].score > plain.candidates[1].score


async def test_a_preference_lifts_no_rule_that_does_not_fit(store: RuleStore, provider: FakeProvider) -> None:
    await fill(store, provider, rule("fits", "Pin dependencies."), rule("cats", "Cats.", tech_stacks=("python",)))
    matches = await ask(store, provider, "pin dependencies", preferred_tech_stacks=("python",))
    assert found(matches) == ["fits", "cats"]


async def test_the_background_is_what_unrelated_questions_stay_below(store: RuleStore, provider: FakeProvider) -> None:
    rules = [rule("one", "Pin dependencies."), rule("two", "Name the migrations."), scoped("md", "*.md")]
    await fill(store, provider, *rules)
    assert (await ask(store, provider, "pin dependencies")).background is None
    probes = probe_passages()
    await store.put_vectors(
        [probe.content_hash for probe in probes], await provider.embed_documents([probe.text for probe in probes])
    )

    def background(*counted: Rule) -> float:
        nearest = [max(cosine(provider, probe.text, passages(each)[0].text) for each in counted) for probe in probes]
        return float(np.quantile(nearest, QUANTILE))

    matches = await ask(store, provider, "pin dependencies")
    assert matches.background == pytest.approx(background(*rules), abs=1e-4)
    in_hand = await ask(store, provider, "pin dependencies", rule_filter=RuleFilter(path="src/a.py"))
    assert (in_hand.considered, in_hand.background) == (2, matches.background)
    await store.upsert_rules([replace(rules[0], category="ux")])
    filtered = await ask(store, provider, "pin dependencies", rule_filter=RuleFilter(category="ux"))
    assert filtered.background == pytest.approx(background(rules[0]), abs=1e-4)
    assert (await store.match(MatchQuery("pin dependencies"))).background is None


async def test_a_very_long_query_is_answered(store: RuleStore, provider: FakeProvider) -> None:
    await fill(store, provider, rule("one", "Pin dependencies."), rule("two", "Cats."))
    text = "pin dependencies " + " ".join(f"word{i}" for i in range(5000))
    matches = await ask(store, provider, text)  # 5,000 words have a direction of their own: what is near is chance
    assert {each.rule.rule_id: set(each.words) for each in matches.candidates} == {
        "one": {"pin", "dependencies"},
        "two": set(),
    }
    assert found(await store.match(MatchQuery(text))) == ["one"]


async def test_a_completed_space_is_calibrated_alike_in_every_store(
    store: RuleStore, provider: FakeProvider, tmp_path: Path
) -> None:
    subjects = ("retry", "cache", "login", "price", "queue", "index", "token", "order")
    deeds = ("log", "test", "name", "check", "document", "limit")
    rules = [rule(f"{deed}-{of}", f"Always {deed} every {of} before it is used.") for deed in deeds for of in subjects]
    reference = SqliteStore(tmp_path / "reference")
    await reference.open()
    for each in (store, reference):
        await each.upsert_rules(rules)
        await complete_space(each, provider)
    learnt = await Calibrations(store).of(provider.space)
    expected = await Calibrations(reference).of(provider.space)
    await reference.aclose()
    assert learnt.texts == expected.texts == len(rules)
    assert (learnt.margin, learnt.related) == pytest.approx((expected.margin, expected.related), abs=1e-4)
    assert learnt.margin > 0


# Beside the rules


async def test_a_note_is_kept_replaced_and_empty_when_unknown(make_store: Callable[[], RuleStore]) -> None:
    store = make_store()
    await store.open()
    assert await store.get_note("digest") == ""
    await store.set_note("digest", "one")
    await store.set_note("other", "kept 🗒")
    await store.set_note("digest", "two")
    await store.aclose()
    again = make_store()
    await again.open()
    assert (await again.get_note("digest"), await again.get_note("other")) == ("two", "kept 🗒")
    await again.aclose()


async def test_a_description_names_its_kind_and_counts_vectors(store: RuleStore, provider: FakeProvider) -> None:
    await fill(store, provider, rule("one"), rule("two"))
    described = await store.describe()
    assert described["kind"] in ("sqlite", "supabase")
    assert described["vectors"] == 2


async def test_a_task_is_held_by_one_at_a_time(make_store: Callable[[], RuleStore]) -> None:
    one, other = make_store(), make_store()
    await one.open()
    await other.open()
    happened: list[str] = []

    async def second() -> None:
        async with other.exclusive("embedding") as held:
            happened.append(f"second holds {held}")

    async with anyio.create_task_group() as tasks, one.exclusive("embedding") as held:
        happened.append(f"first holds {held}")
        async with other.exclusive("embedding", wait=False) as refused:
            happened.append(f"not waiting holds {refused}")
        async with other.exclusive("another task", wait=False) as unrelated:
            happened.append(f"another task holds {unrelated}")
        tasks.start_soon(second)
        await anyio.wait_all_tasks_blocked()
        happened.append("first done")
    assert happened == [
        "first holds True",
        "not waiting holds False",
        "another task holds True",
        "first done",
        "second holds True",
    ]
    await one.aclose()
    await other.aclose()


async def test_a_task_is_free_again_after_a_failure(make_store: Callable[[], RuleStore]) -> None:
    one, other = make_store(), make_store()
    await one.open()
    with pytest.raises(RuntimeError, match="work failed"):
        async with one.exclusive("embedding"):
            raise RuntimeError("work failed")
    async with other.exclusive("embedding", wait=False) as held:
        assert held
    await one.aclose()
    await other.aclose()


async def test_giving_up_a_task_that_was_not_held_frees_nobody_elses(make_store: Callable[[], RuleStore]) -> None:
    one, other = make_store(), make_store()
    await one.open()
    async with one.exclusive("embedding"):
        async with other.exclusive("embedding", wait=False):
            pass
        async with other.exclusive("embedding", wait=False) as held:
            assert not held
    await one.aclose()
    await other.aclose()


async def test_a_project_is_read_in_pages_by_id(store: RuleStore) -> None:
    ids = ["B", "a", "a b", "ä", "规则"]  # by code point, in every store
    await store.upsert_rules([*map(rule, reversed(ids)), rule("other", project_id="blog")])

    first = await store.page_of_rules("shop", limit=2)
    second = await store.page_of_rules("shop", after="a", limit=2)
    rest = await store.page_of_rules("shop", after="a c", limit=500)

    assert [[each.rule_id for each in page] for page in (first, second, rest)] == [ids[:2], ids[2:4], ids[3:]]
    assert first[0] == rule("B")
    assert await store.page_of_rules("nowhere") == []


async def test_the_revision_tells_of_every_change_of_rules_whoever_makes_it(
    store: RuleStore, make_store: Callable[[], RuleStore], provider: FakeProvider
) -> None:
    await store.upsert_rules([rule("one")])
    first = await store.rules_revision()
    await embed_missing(store, provider)
    assert await store.rules_revision() == first

    other = make_store()
    await other.open()
    await other.upsert_rules([rule("one", "Do it in another way.")])
    second = await store.rules_revision()
    await other.delete_rules([RuleKey("shop", "one")])
    third = await store.rules_revision()
    await other.aclose()

    assert len({first, second, third}) == 3
