"""The models that the loopback vendor serves, and what each of them reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

VendorName = Literal["openai", "cohere"]

BYTES_PER_TOKEN = 4
"""A stand-in for a tokenizer: exact to count by, and near enough to English for limits to bite where they should."""


@dataclass(frozen=True, slots=True)
class Model:
    """One embedding model.

    Attributes:
        model_id: The vendor's id.
        vendor: Whose it is.
        native_dimensions: Length of its vectors where a request does not choose one.
        choices: Lengths that a request may choose; empty where it may choose none.
        max_input_tokens: Tokens of one text that it reads.
    """

    model_id: str
    vendor: VendorName
    native_dimensions: int
    choices: range | tuple[int, ...]
    max_input_tokens: int


_V4 = (256, 512, 1024, 1536)
_V5 = (256, 512, 768, 1024, 1536, 2048)
MODELS = {
    model.model_id: model
    for model in (
        Model("text-embedding-3-small", "openai", 1536, range(1, 1537), 8192),
        Model("text-embedding-3-large", "openai", 3072, range(1, 3073), 8192),
        Model("text-embedding-ada-002", "openai", 1536, (), 8192),
        Model("embed-english-light-v3.0", "cohere", 384, (), 512),
        Model("embed-multilingual-light-v3.0", "cohere", 384, (), 512),
        Model("embed-english-v3.0", "cohere", 1024, (), 512),
        Model("embed-multilingual-v3.0", "cohere", 1024, (), 512),
        Model("embed-v4.0", "cohere", 1536, _V4, 128_000),
        Model("embed-v5.0-pro", "cohere", 1536, _V5, 128_000),
        Model("embed-v5.0-fast", "cohere", 1536, _V5, 128_000),
    )
}
"""Sources: https://platform.openai.com/docs/guides/embeddings, https://docs.cohere.com/docs/cohere-embed."""


def find_model(model_id: object, vendor: VendorName, extra_models: Mapping[str, int]) -> Model | None:
    """A model by its id; `extra_models` are those of a server that speaks OpenAI's API, by their dimensions."""
    if not isinstance(model_id, str):
        return None
    if vendor == "openai" and model_id in extra_models:
        return Model(model_id, "openai", extra_models[model_id], (), 8192)
    model = MODELS.get(model_id)
    return model if model is not None and model.vendor == vendor else None


def count_tokens(text: str) -> int:
    """Bytes of UTF-8 divided by four, rounded up; at least one.

    Raises:
        UnicodeEncodeError: The text holds half a surrogate pair.
    """
    return max(1, -(-len(text.encode()) // BYTES_PER_TOKEN))


def readable_part(text: str, max_tokens: int, truncate: str) -> str:
    """What a model reads of a text: its beginning (`END` is cut off) or its end (`START` is cut off)."""
    encoded = text.encode()
    most = max_tokens * BYTES_PER_TOKEN
    if len(encoded) <= most:
        return text
    kept = encoded[-most:] if truncate == "START" else encoded[:most]
    return kept.decode(errors="ignore")
