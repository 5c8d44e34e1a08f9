"""The public signatures, as `mypy --strict tests/typing/api.py` reads them. Never run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

from symmetra_mcp.config import Settings, checked_project_id, load_settings
from symmetra_mcp.errors import (
    NoProviderError,
    ProviderError,
    ProviderNotInstalledError,
    RateLimitError,
    RuleNotFoundError,
    SpaceMismatchError,
    SymmetraError,
)
from symmetra_mcp.fusion import fuse
from symmetra_mcp.health import check_health
from symmetra_mcp.import_log import ImportRecord, forget_project, read_imports, record_import
from symmetra_mcp.passages import Passage, content_hash, passage_body, passages, rule_terms
from symmetra_mcp.project import Project, files_digest, project_id_of, project_in_hand, rule_files
from symmetra_mcp.providers.base import EmbeddingProvider, Embeddings, checked
from symmetra_mcp.providers.select import ProviderChoice
from symmetra_mcp.reembed import ReembedReport, complete_space
from symmetra_mcp.scopes import matching_glob, relative_path, tech_stacks_of
from symmetra_mcp.search import Omitted, RuleMatch, SearchAnswer, SearchRequest, search
from symmetra_mcp.spaces import EmbeddingSpace
from symmetra_mcp.stores.base import Candidate, Matches, MatchQuery, RuleFilter, RuleStore, SpaceStatus
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.tokens import cut_to_tokens, estimate_tokens
from symmetra_mcp.types import Detail, HealthReport, Priority, Rule, RuleKey, Scope, ScopeMode, Source
from symmetra_mcp.words import Bm25, Field, TermCounts, count_terms, query_terms, terms


def values(rule: Rule, scope: Scope, space: EmbeddingSpace) -> None:
    assert_type(rule.key, RuleKey)
    assert_type(rule.priority, Priority)
    assert_type(rule.sources, tuple[Source, ...])
    assert_type(rule.scopes, tuple[Scope, ...])
    assert_type(rule.heading_path, tuple[str, ...])
    assert_type(scope.mode, ScopeMode)
    assert_type(space.space_id, str)
    rule.title = "other"  # type: ignore[misc]  # values are frozen
    scope.mode = "nowhere"  # type: ignore[misc, assignment]  # a closed set
    Rule("p", "r", "t", "g", priority="urgent")  # type: ignore[arg-type]  # a closed set


def settings() -> None:
    assert_type(load_settings(), Settings)
    assert_type(load_settings().data_folder, Path)
    assert_type(load_settings().working_folder, Path)
    assert_type(load_settings().rules, tuple[str, ...] | None)
    assert_type(checked_project_id("p"), str)


def errors(
    mismatch: SpaceMismatchError, limit: RateLimitError, none: NoProviderError, missing: RuleNotFoundError
) -> None:
    assert_type(mismatch.expected, EmbeddingSpace)
    assert_type(limit.retry_after_s, float | None)
    assert_type(none.causes, tuple[ProviderError, ...])
    assert_type(missing.rule_id, str)
    symmetra: SymmetraError = missing
    importing: ImportError = ProviderNotInstalledError("m", provider="p")
    assert [symmetra, importing]


async def providers(provider: EmbeddingProvider, vectors: NDArray[np.float32], space: EmbeddingSpace) -> None:
    assert_type(provider.space, EmbeddingSpace)
    assert_type(provider.max_input_tokens, int)
    assert_type(await provider.embed_documents(["text"]), Embeddings)
    assert_type(await provider.embed_query("text"), Embeddings)
    assert_type(await provider.warm_up(), None)
    assert_type(await provider.aclose(), None)
    assert_type((await provider.embed_query("text")).vectors, NDArray[np.float32])
    assert_type(checked(vectors, 1, space), Embeddings)
    fake: EmbeddingProvider = FakeProvider(model="words", dimensions=64)
    assert fake
    EmbeddingProvider()  # type: ignore[abstract]  # a vendor implements it


async def stores(folder: Path, key: RuleKey, space: EmbeddingSpace, embeddings: Embeddings) -> None:
    store: RuleStore = SqliteStore(folder)
    assert_type(store.notices, list[str])
    assert_type(await store.open(), None)
    assert_type(await store.aclose(), None)
    assert_type(await store.upsert_rules([]), None)
    assert_type(await store.delete_rules([key]), int)
    assert_type(await store.list_rules(), list[Rule])
    assert_type(await store.list_rules("project"), list[Rule])
    assert_type(await store.get_rule(key), Rule)
    assert_type(await store.count_rules(), Mapping[str, int])
    assert_type(await store.active_space(), EmbeddingSpace | None)
    assert_type(await store.activate_space(space), bool)
    assert_type(await store.space_statuses(), list[SpaceStatus])
    assert_type(await store.count_passages(), int)
    assert_type(
        await store.missing_passages(space, after="", limit=1, again=False),
        tuple[list[Passage], str],
    )
    assert_type(await store.without_vector(space, ["hash"]), set[str])
    assert_type(await store.put_vectors(["hash"], embeddings), None)
    assert_type(await store.match(MatchQuery("text")), Matches)
    assert_type(await store.describe(), Mapping[str, Detail])
    assert_type(await store.verify(), str)
    assert_type(store.exclusive("task", wait=False), AbstractAsyncContextManager[bool])
    assert_type(store.take_rebuilt(), bool)
    assert_type(await store.get_note("name"), str)
    assert_type(await store.set_note("name", "text"), None)
    await store.missing_passages(space, "")  # type: ignore[call-arg]  # keyword-only after the space
    RuleStore()  # type: ignore[abstract]  # a store implements it


def matches(found: Matches, candidate: Candidate) -> None:
    assert_type(found.candidates, tuple[Candidate, ...])
    assert_type(found.best_similarity, float | None)
    assert_type(candidate.similarity, float | None)
    MatchQuery("text", rule_filter=RuleFilter(min_priority="high"), limit=5)
    RuleFilter(min_priority="urgent")  # type: ignore[arg-type]  # a closed set


async def searching(store: RuleStore, provider: EmbeddingProvider) -> None:
    answer = await search(store, ProviderChoice(provider), SearchRequest("query", file_path="a.py", limit=3))
    assert_type(answer, SearchAnswer)
    assert_type(answer.hits, tuple[RuleMatch, ...])
    assert_type(answer.below, tuple[RuleMatch, ...])
    assert_type(answer.omitted, tuple[Omitted, ...])
    assert_type(answer.space, EmbeddingSpace | None)
    assert_type(
        await complete_space(store, provider, force=False, dry_run=True, wait=True, on_progress=None), ReembedReport
    )
    assert_type(await check_health(store, ProviderChoice(provider), thorough=True), HealthReport)


def texts(rule: Rule, scopes: Sequence[Scope], vectors: NDArray[np.float32]) -> None:
    assert_type(passages(rule), list[Passage])
    assert_type(passage_body(rule, "text"), str)
    assert_type(content_hash("text"), str)
    assert_type(rule_terms(rule), TermCounts)
    assert_type(terms("text"), list[str])
    assert_type(query_terms("text", 5), dict[str, str])
    assert_type(count_terms([Field("text", 1.0)]), TermCounts)
    assert_type(Bm25([b""]).scores(["a"]), tuple[NDArray[np.float32], float])
    assert_type(fuse(vectors, vectors), NDArray[np.float32])
    assert_type(estimate_tokens("text"), int)
    assert_type(cut_to_tokens("text", 5), str)
    assert_type(relative_path("a", "b"), str)
    assert_type(matching_glob(scopes, "a"), str | None)
    assert_type(tech_stacks_of("a.py"), tuple[str, ...])


def projects(settings: Settings, project: Project, record: ImportRecord, folder: Path) -> None:
    assert_type(project_in_hand(settings), Project | None)
    assert_type(project.project_ids, tuple[str, ...])
    assert_type(project_id_of(folder), str)
    assert_type([rule_files(each) for each in project.folders], list[list[Path]])
    assert_type(files_digest([folder]), str)
    assert_type(read_imports(folder), list[ImportRecord])
    assert_type(record_import(folder, record), None)
    assert_type(forget_project(folder, "p"), None)
