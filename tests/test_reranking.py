"""Searches with a re-ranker: what it may change, and what it may not."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from click.testing import CliRunner
from loopback import Fault, LoopbackVendor
from numpy.typing import NDArray
from typing_extensions import override

from symmetra_mcp.cli import cli
from symmetra_mcp.errors import ProviderUnavailableError
from symmetra_mcp.providers.select import ProviderChoice
from symmetra_mcp.reembed import complete_space
from symmetra_mcp.rerankers.base import Reranker
from symmetra_mcp.reranking import Reranking
from symmetra_mcp.search import SearchAnswer, SearchRequest, search
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import Rule

pytestmark = pytest.mark.anyio

QUESTION = "rotate the keys of the copper vault"
RULES = {
    "vault": "Rotate the keys of the copper vault every month.",
    "keys": "Keep the keys of the vault away from the logs.",
    "copper": "The copper vault has two keys and one door.",
    "rotate": "Rotate the vault's keys when somebody leaves.",
}


class ByName(Reranker):
    """Gives each rule the score that a test sets for its title."""

    def __init__(self, scores: dict[str, float], *, timeout_s: float = 5.0) -> None:
        super().__init__("fake", "by-name", timeout_s=timeout_s)
        self.scores = scores
        self.read: list[str] = []
        self.answer: Callable[[Sequence[str]], Any] | None = None

    @override
    async def _rerank(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        self.read = list(documents)
        if self.answer is not None:
            return await self.answer(documents)  # type: ignore[no-any-return]
        return np.array([self.scores[document.partition("\n")[0]] for document in documents], np.float32)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "data")
    await store.open()
    rules = [Rule("mint", name, name, guidance) for name, guidance in RULES.items()]
    await store.upsert_rules(
        [*rules, replace(rules[1], project_id="elsewhere", guidance="Vault keys: copper, rotate.")]
    )
    await complete_space(store, FakeProvider(dimensions=256))
    yield store
    await store.aclose()


async def ask(
    store: SqliteStore, reranker: Reranker | None, query: str = QUESTION, *, candidates: int = 40, **fields: Any
) -> SearchAnswer:
    request = SearchRequest(query, **({"project_ids": ("mint",)} | fields))
    reranking = Reranking(reranker, candidates) if reranker is not None else None
    return await search(store, ProviderChoice(FakeProvider(dimensions=256)), request, reranking)


def names(answer: SearchAnswer) -> list[str]:
    return [hit.rule.rule_id for hit in answer.hits]


BACKWARDS = {"vault": 0.1, "keys": 0.2, "copper": 0.3, "rotate": 0.9}


async def test_hits_come_in_the_re_rankers_order_and_the_answer_names_it(store: SqliteStore) -> None:
    reranker = ByName(BACKWARDS)
    answer = await ask(store, reranker)

    assert names(answer) == ["rotate", "copper", "keys", "vault"]
    assert (answer.reranked_by, answer.degraded) == ("fake/by-name", "")
    assert sorted(reranker.read) == sorted(f"{name}\n{guidance}" for name, guidance in RULES.items())
    plain = await ask(store, None)
    assert names(plain)[0] == "vault"
    assert plain.reranked_by == ""
    assert {hit.rule.rule_id: hit.similarity for hit in answer.hits} == pytest.approx(
        {hit.rule.rule_id: hit.similarity for hit in plain.hits}
    )


async def test_only_the_best_are_read_and_the_others_follow_in_their_order(store: SqliteStore) -> None:
    plain = names(await ask(store, None))
    answer = await ask(store, ByName(BACKWARDS | {plain[1]: 1.0}), candidates=2)

    assert names(answer) == [plain[1], plain[0], *plain[2:]]
    scores = [hit.score for hit in answer.hits]
    assert scores == sorted(scores, reverse=True)


async def test_a_rule_of_the_project_goes_before_one_that_fits_about_as_well(store: SqliteStore) -> None:
    scores = {"vault": 0.8, "keys": 0.9, "copper": 0.0, "rotate": 0.0}
    where = {"project_ids": (), "preferred_project_ids": ("elsewhere",)}

    async def first(**changed: float) -> tuple[str, str]:
        hit = (await ask(store, ByName(scores | changed), **where)).hits[0]
        return hit.rule.project_id, hit.rule.rule_id

    assert await first(keys=0.7) == ("elsewhere", "keys")
    assert await first(keys=0.3) == ("mint", "vault")


async def test_a_question_about_nothing_here_stays_one(store: SqliteStore) -> None:
    answer = await ask(store, ByName(dict.fromkeys(RULES, 1.0)), "zebra umbrella saxophone")
    assert answer.hits == ()
    assert answer.below


async def fails(documents: Sequence[str]) -> Any:
    raise ProviderUnavailableError("fake is on fire", provider="fake")


async def sleeps(documents: Sequence[str]) -> Any:
    await anyio.sleep_forever()


async def lacks_one(documents: Sequence[str]) -> Any:
    return np.ones(len(documents) - 1, np.float32)


async def is_no_number(documents: Sequence[str]) -> Any:
    return np.full(len(documents), np.nan, np.float32)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (fails, "fake is on fire"),
        (sleeps, "did not answer within 0.05 s"),
        (lacks_one, r"scores of shape \(3,\) where \(4,\)"),
        (is_no_number, "not finite"),
    ],
    ids=["down", "slow", "short", "nan"],
)
async def test_a_re_ranker_that_fails_leaves_the_order_and_is_told(
    store: SqliteStore, answer: Callable[[Sequence[str]], Any], says: str
) -> None:
    reranker = ByName(BACKWARDS, timeout_s=0.05)
    reranker.answer = answer
    found = await ask(store, reranker)

    plain = await ask(store, None)
    assert (found.hits, found.reranked_by) == (plain.hits, "")
    assert found.degraded.startswith("the rules are not re-ranked: ")
    assert re.search(says, found.degraded)


async def test_after_three_failures_searches_no_longer_wait(store: SqliteStore) -> None:
    reranker = ByName(BACKWARDS, timeout_s=0.05)
    reranker.answer = sleeps
    for _ in range(3):
        await ask(store, reranker)
    reranker.read = []

    found = await ask(store, reranker)

    assert "asked again in" in found.degraded
    assert reranker.read == []


# As users run it


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Any:
    with LoopbackVendor() as vendor:
        monkeypatch.setenv("CO_API_URL", vendor.cohere_base_url)
        monkeypatch.setenv("COHERE_API_KEY", "co-loopback-0001")
        monkeypatch.setenv("SYMMETRA_EMBEDDING_BACKEND", "local")
        yield vendor


def run(*arguments: str) -> Any:
    done = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_a_key_alone_sends_nothing_and_the_setting_does(
    vendor: LoopbackVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = "which vector database should we use?"
    plain = run("search", question)
    assert vendor.stats.requests == 0

    monkeypatch.setenv("SYMMETRA_RERANK", "cohere")
    monkeypatch.setenv("SYMMETRA_RERANK_PRICE", "0.02")
    answer = run("search", question)
    assert answer["reranked_by"] == "cohere/rerank-v5.0-fast"
    assert "reranked_by" not in plain
    (request,) = vendor.stats.recent
    assert (request.path, request.body["query"], len(request.body["documents"])) == ("/v2/rerank", question, 40)

    vendor.inject(Fault.UNAVAILABLE, times=None)
    failed = run("search", question)
    assert failed["hits"] == plain["hits"]
    assert failed["degraded"] == "the rules are not re-ranked: cohere failed to answer (503)"
    health = run("health")
    assert (health["status"], health["components"]["reranker"]["status"]) == ("degraded", "degraded")
    vendor.clear_faults()
    reranker = run("health")["components"]["reranker"]
    assert (reranker["status"], reranker["details"]["model"]) == ("healthy", "rerank-v5.0-fast")

    (row,) = run("usage")["rows"]
    assert (row["purpose"], row["model"]) == ("rerank", "rerank-v5.0-fast")
    assert row["requests"] == vendor.stats.requests
    assert row["cost_usd"] == pytest.approx(row["tokens"] * 0.02 / 1e6)
