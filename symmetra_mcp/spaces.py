"""Embedding spaces: which vectors may be compared with which.

OpenAI's, Cohere's and MiniLM's vectors can all have 384 numbers, and a cosine across them is noise that no length check
catches. So every vector carries the space it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EmbeddingSpace:
    """The model that made a vector, as far as it decides what the vector may be compared with.

    Attributes:
        provider: The vendor's name, such as `openai`, `cohere` or `local`.
        model: The vendor's id of the model.
        dimensions: Length of every vector.
        normalized: Whether vectors have unit length, so that a dot product is a cosine.
        variant: What else decides comparability where the model's name does not: the revision of a local model, the
            server that an own base URL names. Empty for a vendor's own API.
    """

    provider: str
    model: str
    dimensions: int
    normalized: bool = True
    variant: str = ""

    def __post_init__(self) -> None:
        if not self.provider or not self.model:
            raise ValueError("an embedding space needs a provider and a model")
        if self.dimensions < 1:
            raise ValueError(f"dimensions must be positive, got {self.dimensions}")

    @property
    def space_id(self) -> str:
        """The key that stores use: equal exactly when vectors may be compared."""
        suffix = "" if self.normalized else "/raw"
        variant = f"+{self.variant}" if self.variant else ""
        return f"{self.provider}/{self.model}@{self.dimensions}{suffix}{variant}"

    def __str__(self) -> str:
        return self.space_id
