"""What every provider promises, run over each of them. A new provider is one more line in `PROVIDERS`."""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from symmetra_mcp.providers.base import EmbeddingProvider
from symmetra_mcp.providers.local import LocalProvider

PROVIDERS: dict[str, Callable[[], EmbeddingProvider]] = {"local": LocalProvider}

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


@pytest.fixture(scope="module", params=list(PROVIDERS))
def provider(request: pytest.FixtureRequest) -> EmbeddingProvider:
    return PROVIDERS[request.param]()


def documents(provider: EmbeddingProvider, texts: Sequence[str]) -> NDArray[np.float32]:
    return asyncio.run(provider.embed_documents(texts)).vectors


def query(provider: EmbeddingProvider, text: str) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = asyncio.run(provider.embed_query(text)).vectors[0]
    return vectors


def test_documents_are_unit_float32_vectors_of_the_providers_space(provider: EmbeddingProvider) -> None:
    embeddings = asyncio.run(provider.embed_documents(TEXTS))

    assert embeddings.space == provider.space
    assert embeddings.vectors.shape == (len(TEXTS), provider.space.dimensions)
    assert embeddings.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings.vectors, axis=1), 1, atol=1e-5)


def test_query_is_one_unit_float32_vector_of_the_providers_space(provider: EmbeddingProvider) -> None:
    embeddings = asyncio.run(provider.embed_query("how do I handle secrets?"))

    assert embeddings.space == provider.space
    assert embeddings.vectors.shape == (1, provider.space.dimensions)
    assert embeddings.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings.vectors), 1, atol=1e-5)


def test_vectors_come_in_the_order_of_the_texts(provider: EmbeddingProvider) -> None:
    forwards = documents(provider, TEXTS)
    backwards = documents(provider, TEXTS[::-1])

    assert (np.argmax(forwards @ backwards[::-1].T, axis=1) == np.arange(len(TEXTS))).all()


def test_a_texts_vector_does_not_depend_on_its_batch(provider: EmbeddingProvider) -> None:
    together = documents(provider, TEXTS)
    alone = np.concatenate([documents(provider, [text]) for text in TEXTS])

    assert np.sum(together * alone, axis=1).min() >= 0.99999


def test_equal_texts_have_equal_vectors(provider: EmbeddingProvider) -> None:
    vectors = documents(provider, [TEXTS[0], *TEXTS, TEXTS[0]])

    assert vectors[0] @ vectors[-1] >= 0.99999


def test_no_texts_give_no_vectors(provider: EmbeddingProvider) -> None:
    embeddings = asyncio.run(provider.embed_documents([]))

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
def test_any_text_has_a_vector(provider: EmbeddingProvider, text: str) -> None:
    alone = query(provider, text)
    among_others = documents(provider, [*TEXTS[:3], text])[-1]

    np.testing.assert_allclose(np.linalg.norm(alone), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(among_others), 1, atol=1e-5)


def test_text_beyond_the_limit_is_embedded_as_its_head(provider: EmbeddingProvider) -> None:
    head = "rule " * provider.max_input_tokens

    assert query(provider, head) @ query(provider, head + "and then something else altogether " * 100) >= 0.99999


def test_both_sides_find_the_same_text(provider: EmbeddingProvider) -> None:
    sides = documents(provider, TEXTS) @ np.stack([query(provider, text) for text in TEXTS]).T

    assert (np.argmax(sides, axis=0) == np.arange(len(TEXTS))).all()


def test_concurrent_queries_each_get_their_own_vector(provider: EmbeddingProvider) -> None:
    texts = [f"{TEXTS[n % len(TEXTS)]} ({n})" for n in range(50)]

    async def together() -> NDArray[np.float32]:
        answers = await asyncio.gather(*(provider.embed_query(text) for text in texts))
        return np.concatenate([answer.vectors for answer in answers])

    assert np.sum(asyncio.run(together()) * documents(provider, texts), axis=1).min() >= 0.99999


def test_provider_can_be_closed_twice_and_used_again(provider: EmbeddingProvider) -> None:
    before = query(provider, TEXTS[0])

    async def close_twice() -> None:
        await provider.aclose()
        await provider.aclose()

    asyncio.run(close_twice())
    assert before @ query(provider, TEXTS[0]) >= 0.99999


def test_warming_up_twice_changes_nothing(provider: EmbeddingProvider) -> None:
    before = query(provider, TEXTS[0])

    async def warm_up_twice() -> None:
        await provider.warm_up()
        await provider.warm_up()

    asyncio.run(warm_up_twice())
    assert before @ query(provider, TEXTS[0]) >= 0.99999
