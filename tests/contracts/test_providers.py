"""What every provider promises, run over each of them. A new provider is one more line in `PROVIDERS`."""

from __future__ import annotations

import asyncio
from asyncio import Runner
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from loopback import LoopbackVendor
from numpy.typing import NDArray

from symmetra_mcp.providers.base import EmbeddingProvider
from symmetra_mcp.providers.cohere import CohereProvider
from symmetra_mcp.providers.local import LocalProvider
from symmetra_mcp.providers.openai import OpenAIProvider

PROVIDERS: dict[str, Callable[[LoopbackVendor], EmbeddingProvider]] = {
    "local": lambda vendor: LocalProvider(),
    "openai": lambda vendor: OpenAIProvider("sk-contract-0001", base_url=vendor.openai_base_url),
    "openai-compatible": lambda vendor: OpenAIProvider(
        "none", model="nomic-embed-text", dimensions=768, base_url=vendor.openai_base_url
    ),
    "cohere": lambda vendor: CohereProvider("co-contract-0001", base_url=vendor.cohere_base_url),
    "cohere-v4": lambda vendor: CohereProvider("co-contract-0001", model="embed-v4.0", base_url=vendor.cohere_base_url),
}

TEXTS = [
    "Validate all user input on the server.",
    "Prefer composition over inheritance.",
    "Every database migration must be reversible, and must have been run against a copy of production first.",
    "No `console.log` in committed code.",
    "Secrets come from the environment; they are never written to the repository, to a log or to an error message. "
    * 6,
    "Use tabs.",
    "def f(x: int) -> int:\n    return x + 1  # PEP 8",
    "Cache what is read often and changes seldom.",
    "Buttons need an accessible name.",
    "Retry with exponential backoff and jitter.",
    "Tests must not depend on each other.",
]


@pytest.fixture(scope="module")
def vendor() -> Iterator[LoopbackVendor]:
    with LoopbackVendor(extra_models={"nomic-embed-text": 768}) as vendor:
        yield vendor


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as runner:
        yield runner


@pytest.fixture(scope="module", params=list(PROVIDERS))
def provider(request: pytest.FixtureRequest, vendor: LoopbackVendor, runner: Runner) -> Iterator[EmbeddingProvider]:
    provider = PROVIDERS[request.param](vendor)
    yield provider
    runner.run(provider.aclose())


@pytest.fixture(scope="module")
def documents(provider: EmbeddingProvider, runner: Runner) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    return lambda texts: runner.run(provider.embed_documents(texts)).vectors


@pytest.fixture(scope="module")
def query(provider: EmbeddingProvider, runner: Runner) -> Callable[[str], NDArray[np.float32]]:
    return lambda text: runner.run(provider.embed_query(text)).vectors[0]


Documents = Callable[[Sequence[str]], NDArray[np.float32]]
Query = Callable[[str], NDArray[np.float32]]


def test_documents_are_unit_float32_vectors_of_the_providers_space(provider: EmbeddingProvider, runner: Runner) -> None:
    embeddings = runner.run(provider.embed_documents(TEXTS))

    assert embeddings.space == provider.space
    assert embeddings.vectors.shape == (len(TEXTS), provider.space.dimensions)
    assert embeddings.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings.vectors, axis=1), 1, atol=1e-5)


def test_query_is_one_unit_float32_vector_of_the_providers_space(provider: EmbeddingProvider, runner: Runner) -> None:
    embeddings = runner.run(provider.embed_query("how do I handle secrets?"))

    assert embeddings.space == provider.space
    assert embeddings.vectors.shape == (1, provider.space.dimensions)
    assert embeddings.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings.vectors), 1, atol=1e-5)


def test_many_queries_at_once_have_the_vectors_that_each_has_alone(
    provider: EmbeddingProvider, runner: Runner, query: Query
) -> None:
    together = runner.run(provider.embed_queries(TEXTS))

    assert together.space == provider.space
    assert np.sum(together.vectors * np.stack([query(text) for text in TEXTS]), axis=1).min() >= 0.99999


def test_vectors_come_in_the_order_of_the_texts(documents: Documents) -> None:
    forwards = documents(TEXTS)
    backwards = documents(TEXTS[::-1])

    assert (np.argmax(forwards @ backwards[::-1].T, axis=1) == np.arange(len(TEXTS))).all()


def test_a_texts_vector_does_not_depend_on_its_batch(documents: Documents) -> None:
    together = documents(TEXTS)
    alone = np.concatenate([documents([text]) for text in TEXTS])

    assert np.sum(together * alone, axis=1).min() >= 0.99999


def test_equal_texts_have_equal_vectors(documents: Documents) -> None:
    vectors = documents([TEXTS[0], *TEXTS, TEXTS[0]])

    assert vectors[0] @ vectors[-1] >= 0.99999


def test_no_texts_give_no_vectors(provider: EmbeddingProvider, runner: Runner) -> None:
    embeddings = runner.run(provider.embed_documents([]))

    assert embeddings.space == provider.space
    assert embeddings.vectors.shape == (0, provider.space.dimensions)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\n",
        "\x00\x07",
        "\ufeff",
        "Prüfe jede Eingabe",
        "入力を検証する",
        "👩‍👩‍👧 🚀",
        "e\u0301" * 50,
        "\ud800",
        "a\udfffb",
    ],
    ids=["empty", "white", "control", "bom", "german", "japanese", "emoji", "accents", "surrogate", "inner-surrogate"],
)
def test_any_text_has_a_vector(text: str, documents: Documents, query: Query) -> None:
    alone = query(text)
    among_others = documents([*TEXTS[:3], text])[-1]

    np.testing.assert_allclose(np.linalg.norm(alone), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(among_others), 1, atol=1e-5)


def test_text_beyond_the_limit_is_embedded_as_its_head(provider: EmbeddingProvider, query: Query) -> None:
    head = "rule " * provider.max_input_tokens

    assert query(head) @ query(head + "and then something else altogether " * 100) >= 0.99999


def test_both_sides_find_the_same_text(documents: Documents, query: Query) -> None:
    sides = documents(TEXTS) @ np.stack([query(text) for text in TEXTS]).T

    assert (np.argmax(sides, axis=0) == np.arange(len(TEXTS))).all()


def test_concurrent_queries_each_get_their_own_vector(
    provider: EmbeddingProvider, query: Query, runner: Runner
) -> None:
    texts = [f"{TEXTS[n % len(TEXTS)]} ({n})" for n in range(50)]

    async def together() -> NDArray[np.float32]:
        answers = await asyncio.gather(*(provider.embed_query(text) for text in texts))
        return np.concatenate([answer.vectors for answer in answers])

    alone = np.stack([query(text) for text in texts])
    assert np.sum(runner.run(together()) * alone, axis=1).min() >= 0.99999


def test_provider_can_be_closed_twice_and_used_again(provider: EmbeddingProvider, query: Query, runner: Runner) -> None:
    before = query(TEXTS[0])

    async def close_twice() -> None:
        await provider.aclose()
        await provider.aclose()

    runner.run(close_twice())
    assert before @ query(TEXTS[0]) >= 0.99999


def test_warming_up_twice_changes_nothing(provider: EmbeddingProvider, query: Query, runner: Runner) -> None:
    before = query(TEXTS[0])

    async def warm_up_twice() -> None:
        await provider.warm_up()
        await provider.warm_up()

    runner.run(warm_up_twice())
    assert before @ query(TEXTS[0]) >= 0.99999
