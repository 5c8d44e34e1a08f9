"""Vectors that depend on the text, the model and the side, so that a test can check every row it gets.

A text's vector is the sum of one fixed random vector a word, so texts that share words are similar and ranking is
real; a small part for the text as a whole keeps texts of equal words apart. Models share nothing, so vectors of two
models are as unrelated as those of real ones. Cohere's sides differ by one fixed vector a side: the query and the
document vector of one text have a cosine of about 0.9.
"""

from __future__ import annotations

import re
import threading
import zlib
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from loopback.models import MODELS, readable_part

Vector = NDArray[np.float32]
VectorKind = Literal["words", "table"]

TABLE_ROWS = 4096
SIDE_WEIGHT = 0.48
"""1 / sqrt(1 + 0.48 ** 2) is 0.90: the cosine of a text's two sides."""
DOCUMENT_SIDE = "search_document"

_WHOLE_TEXT_ROWS = 512
_WHOLE_TEXT_WEIGHT = 0.3
"""Relative to one word: texts of ten words that differ in nothing but order have a cosine of 0.99."""
_SHARED_SPACES = {"embed-v5.0-fast": "embed-v5.0-pro"}
"""Cohere's fifth generation: queries by one model find the documents of the other."""
_WORD = re.compile(r"\w+")


def expected_vector(
    text: str,
    model: str,
    dimensions: int,
    input_type: str | None = None,
    *,
    kind: VectorKind = "words",
    truncate: str = "END",
) -> Vector:
    """The vector that the vendor answers with.

    Args:
        text: As it is sent.
        model: Id of the model.
        dimensions: Length of the vector.
        input_type: Cohere's side, such as `search_query`; `None` for OpenAI.
        kind: The vendor's setting `vectors`.
        truncate: Which end of a text that is too long Cohere leaves out.

    Returns:
        Shape `(dimensions,)`, float32, unit length; equal to the vendor's bit for bit in base64.
    """
    known = MODELS.get(model)
    if known is not None and known.vendor == "cohere":
        text = readable_part(text, known.max_input_tokens, truncate)
    return _row(embed([text], model, dimensions, input_type, kind), 0)


def embed(
    texts: Sequence[str], model: str, dimensions: int, input_type: str | None, kind: VectorKind = "words"
) -> NDArray[np.float32]:
    """Vectors of texts as the model reads them: shape `(len(texts), dimensions)`, float32, unit length."""
    source = _source(kind, _SHARED_SPACES.get(model, model), dimensions)
    vectors = np.empty((len(texts), dimensions), np.float32)
    side = None if input_type in (None, DOCUMENT_SIDE) else source.side(str(input_type))
    for row, text in enumerate(texts):
        vector = _unit(source.raw(text))
        vectors[row] = vector if side is None else _unit(vector + side)
    return vectors


class _Source:
    """Raw vectors of one model at one length."""

    def __init__(self, space: str, dimensions: int) -> None:
        self._space = space
        self._dimensions = dimensions

    def side(self, input_type: str) -> Vector:
        return np.asarray(_unit(self._random(f"side {input_type}")) * SIDE_WEIGHT, np.float32)

    def raw(self, text: str) -> Vector:
        raise NotImplementedError

    def _random(self, name: str, rows: int | None = None) -> NDArray[np.float32]:
        seed = int.from_bytes(blake2b(f"{self._space}\0{name}".encode(), digest_size=8).digest(), "little")
        shape = self._dimensions if rows is None else (rows, self._dimensions)
        drawn: NDArray[np.float32] = np.random.default_rng(seed).standard_normal(shape, np.float32)
        return drawn


class _Table(_Source):
    """One of 4096 vectors by the text's checksum: ranking is chance, and a batch costs next to nothing."""

    def __init__(self, space: str, dimensions: int) -> None:
        super().__init__(space, dimensions)
        self._rows = self._random("table", TABLE_ROWS)

    def raw(self, text: str) -> Vector:
        return _row(self._rows, zlib.crc32(text.encode()) % TABLE_ROWS)


class _Words(_Source):
    """The sum of a vector a word. Words' vectors are kept: drawing one costs as much as adding thirty."""

    def __init__(self, space: str, dimensions: int) -> None:
        super().__init__(space, dimensions)
        self._whole_texts = np.float32(_WHOLE_TEXT_WEIGHT) * self._random("text", _WHOLE_TEXT_ROWS)
        self._positions: dict[str, int] = {}
        self._rows = np.empty((1024, dimensions), np.float32)
        self._lock = threading.Lock()  # tests compute what they expect while the vendor answers

    def raw(self, text: str) -> Vector:
        summed: Vector = _row(self._whole_texts, zlib.crc32(text.encode()) % _WHOLE_TEXT_ROWS).copy()
        words = _WORD.findall(text.lower())
        if words:
            with self._lock:
                known = self._positions
                positions = [known[word] if word in known else self._add(word) for word in words]
                summed += self._rows.take(positions, axis=0).sum(axis=0)
        return summed

    def _add(self, word: str) -> int:
        position = len(self._positions)
        if position == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        self._rows[position] = self._random(f"word {word}")
        self._positions[word] = position
        return position


@lru_cache(maxsize=32)
def _source(kind: VectorKind, space: str, dimensions: int) -> _Source:
    return _Table(space, dimensions) if kind == "table" else _Words(space, dimensions)


def _row(rows: NDArray[np.float32], position: int) -> Vector:
    row: Vector = rows[position]
    return row


def _unit(vector: Vector) -> Vector:
    """Row by row, because a sum over a whole batch may round a row in another order."""
    return np.asarray(vector / np.sqrt(vector.dot(vector)), np.float32)
