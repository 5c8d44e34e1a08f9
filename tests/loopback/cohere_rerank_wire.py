"""Cohere's `POST /v2/rerank`: rules and answers; its errors are those of its other address.

Source: https://docs.cohere.com/reference/rerank. What the fifth generation is billed by is not documented there; it is
taken to be tokens of input, as resellers list it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from typing_extensions import override

from loopback.cohere_wire import CohereWire
from loopback.faults import Fault, RequestSize, Row
from loopback.models import Model, count_tokens
from loopback.vectors import Vector, VectorKind, embed
from loopback.wire import EmbedRequest, Refusal

CONTEXTS = {
    "rerank-v3.5": 4096,
    "rerank-v4.0-fast": 32_768,
    "rerank-v4.0-pro": 32_768,
    "rerank-v5.0-fast": 32_768,
    "rerank-v5.0-pro": 32_768,
}
"""Models and how many tokens they read. Source: https://docs.cohere.com/docs/rerank."""
MAX_DOCUMENTS = 10_000
DOCUMENTS_PER_UNIT = 100
_DIMENSIONS = 256


def relevance(query: str, documents: Sequence[str], model: str) -> Vector:
    """The scores that the vendor answers with, 0 to 1: shape `(len(documents),)`. They grow with shared words."""
    vectors = embed([query, *documents], model, _DIMENSIONS, None)
    return np.asarray(np.clip(vectors[1:] @ vectors[0], 0, 1), np.float32)


class CohereRerankWire(CohereWire):
    """Documents in the order of their relevance. No limits: production keys have 1,000 requests a minute."""

    @override
    def parse(self, content: Mapping[str, Any]) -> EmbedRequest:
        """Check a request: `texts` are its documents, `sent_texts` its query alone."""
        name, query, documents = content.get("model"), content.get("query"), content.get("documents")
        if name not in CONTEXTS:
            raise self._refusal(
                404,
                f"model '{name}' not found, make sure the correct model ID was used and that you have access to the "
                "model.",
            )
        if not isinstance(query, str) or not query:
            raise self._refusal(400, "invalid request: query must not be empty")
        if not isinstance(documents, list) or not documents or not all(isinstance(one, str) for one in documents):
            raise self._refusal(400, "invalid request: list of documents must not be empty")
        if len(documents) > MAX_DOCUMENTS:
            raise self._refusal(400, f"invalid request: at most {MAX_DOCUMENTS} documents, received {len(documents)}")
        model = Model(name, "cohere", 1, (), CONTEXTS[name])
        tokens = sum(count_tokens(query) + count_tokens(document) for document in documents)
        return EmbedRequest(model, documents, [query], tokens, 1, ())

    @override
    def over_limit(self, request: EmbedRequest) -> Refusal | None:
        return None

    @override
    def take(self, request: EmbedRequest) -> None:
        pass

    @override
    def size(self, request: EmbedRequest) -> RequestSize:
        return "rerank"

    @override
    def vectors(self, request: EmbedRequest, model_id: str, kind: VectorKind) -> Vector:
        """One number a document."""
        return relevance(request.sent_texts[0], request.texts, model_id)[:, None]

    @override
    def reply(self, request: EmbedRequest, rows: Sequence[Row], fault: Fault | None) -> bytes:
        """Results by relevance, each with the document's index, and what is billed."""
        found = [(index, float(scores[0]) if len(scores) else None) for index, scores in rows]
        if fault is not Fault.SHUFFLED:
            found.sort(key=lambda result: -(result[1] or 0.0))
        by_tokens = request.model.model_id.startswith("rerank-v5")
        units = -(-len(request.texts) // DOCUMENTS_PER_UNIT)
        answer = {
            "id": self.trace_id(),
            "results": [{"index": index, "relevance_score": score} for index, score in found],
            "meta": {
                "api_version": {"version": "2"},
                "billed_units": {"input_tokens": request.tokens} if by_tokens else {"search_units": units},
            },
        }
        return json.dumps(answer).encode()
