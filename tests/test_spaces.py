from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from symmetra_mcp.errors import InvalidEmbeddingError
from symmetra_mcp.providers.base import UNIT_LENGTH_TOLERANCE, checked
from symmetra_mcp.spaces import EmbeddingSpace

SPACE = EmbeddingSpace("openai", "text-embedding-3-small", 4)


@pytest.mark.parametrize(
    ("space", "space_id"),
    [
        pytest.param(SPACE, "openai/text-embedding-3-small@4", id="normalized"),
        pytest.param(EmbeddingSpace("local", "m", 384, normalized=False), "local/m@384/raw", id="raw"),
    ],
)
def test_a_space_is_named_by_all_that_decides_comparison(space: EmbeddingSpace, space_id: str) -> None:
    assert space.space_id == space_id
    assert str(space) == space_id


@pytest.mark.parametrize(
    "other",
    [
        EmbeddingSpace("cohere", "text-embedding-3-small", 4),
        EmbeddingSpace("openai", "text-embedding-3-large", 4),
        EmbeddingSpace("openai", "text-embedding-3-small", 5),
        EmbeddingSpace("openai", "text-embedding-3-small", 4, normalized=False),
    ],
    ids=["provider", "model", "dimensions", "normalized"],
)
def test_spaces_that_differ_in_anything_are_different(other: EmbeddingSpace) -> None:
    assert other != SPACE
    assert other.space_id != SPACE.space_id


@pytest.mark.parametrize(
    ("provider", "model", "dimensions"),
    [
        pytest.param("", "m", 4, id="no-provider"),
        pytest.param("p", "", 4, id="no-model"),
        pytest.param("p", "m", 0, id="no-dimensions"),
        pytest.param("p", "m", -1, id="negative-dimensions"),
    ],
)
def test_a_space_that_cannot_be_is_refused(provider: str, model: str, dimensions: int) -> None:
    with pytest.raises(ValueError, match=r"provider and a model|must be positive"):
        EmbeddingSpace(provider, model, dimensions)


def rows(*vectors: list[float]) -> NDArray[np.float32]:
    return np.asarray(vectors, np.float32)


ONE = [1.0, 0.0, 0.0, 0.0]


def test_a_good_answer_is_handed_on_with_its_space() -> None:
    vectors = rows(ONE, [0.5, 0.5, 0.5, -0.5])
    embeddings = checked(vectors, 2, SPACE)
    np.testing.assert_array_equal(embeddings.vectors, vectors)
    assert embeddings.space == SPACE


def test_an_answer_of_another_number_type_or_order_becomes_contiguous_float32() -> None:
    vectors = np.asfortranarray(rows(ONE, [0.0, 1.0, 0.0, 0.0]).astype(np.float64))
    embeddings = checked(vectors, 2, SPACE)  # type: ignore[arg-type]  # what a vendor's list of floats becomes
    assert embeddings.vectors.dtype == np.float32
    assert embeddings.vectors.flags.c_contiguous


@pytest.mark.parametrize(
    ("vectors", "problem"),
    [
        pytest.param(rows(ONE), r"shape \(1, 4\) where \(2, 4\)", id="too-few"),
        pytest.param(rows(ONE, ONE, ONE), r"shape \(3, 4\)", id="too-many"),
        pytest.param(np.empty((0, 4), np.float32), r"shape \(0, 4\)", id="none"),
        pytest.param(rows([1.0, 0.0, 0.0], [1.0, 0.0, 0.0]), r"shape \(2, 3\)", id="too-short"),
        pytest.param(rows([*ONE, 0.0], [*ONE, 0.0]), r"shape \(2, 5\)", id="too-long"),
        pytest.param(np.asarray(ONE, np.float32), r"shape \(4,\)", id="flat"),
        pytest.param(rows(ONE, [np.nan, 0.0, 0.0, 1.0]), "not finite", id="nan"),
        pytest.param(rows(ONE, [np.inf, 0.0, 0.0, 0.0]), "not finite", id="infinite"),
        pytest.param(rows(ONE, [0.0, 0.0, 0.0, 0.0]), "zero vector", id="zero"),
        pytest.param(rows(ONE, [2.0, 0.0, 0.0, 0.0]), "length 1.0000 to 2.0000", id="too-large"),
        pytest.param(rows(ONE, [1 - 3 * UNIT_LENGTH_TOLERANCE, 0.0, 0.0, 0.0]), "where 1 was", id="a-little-off"),
    ],
)
def test_an_answer_that_is_no_embedding_is_refused_by_name(vectors: NDArray[np.float32], problem: str) -> None:
    with pytest.raises(InvalidEmbeddingError, match=problem) as caught:
        checked(vectors, 2, SPACE)
    assert (caught.value.provider, caught.value.model) == ("openai", "text-embedding-3-small")
    assert "nothing of it was stored" in str(caught.value)


def test_rounding_of_a_unit_vector_is_accepted() -> None:
    checked(rows([1 + UNIT_LENGTH_TOLERANCE / 2, 0.0, 0.0, 0.0]), 1, SPACE)


def test_vectors_of_any_length_belong_to_a_raw_space() -> None:
    raw = EmbeddingSpace("p", "m", 4, normalized=False)
    assert checked(rows([3.0, 0.0, 0.0, 0.0]), 1, raw).space == raw
    with pytest.raises(InvalidEmbeddingError, match="zero vector"):
        checked(rows([0.0] * 4), 1, raw)
