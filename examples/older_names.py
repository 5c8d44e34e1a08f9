"""Code written for the older Symmetra, under its names: embeddings, and the health check.

Needs no key and no network; with `OPENAI_API_KEY` or `COHERE_API_KEY` set, that vendor embeds. Run it with
`python examples/older_names.py`. The health check is that of your own store, or of the one in `SYMMETRA_DATA_DIR`.
"""

from __future__ import annotations

import json

from symmetra_mcp.cloud_vector_search import cloud_vector_search_engine
from symmetra_mcp.embedding_config import generate_batch_embeddings, get_embedding_manager

RULES = (
    "Send every payment with an idempotency key, so that a retry does not charge twice.",
    "Store passwords as salted hashes, never as they were typed.",
    "Add a database column as nullable first, and fill it in batches.",
)


def similarity(one: list[float], other: list[float]) -> float:
    """The cosine of two vectors of unit length."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def main() -> None:
    """Embed a few rules, find the one that answers a question, and check the health of the store."""
    manager = get_embedding_manager()
    info = manager.get_provider_info()
    print(f"{info['provider']} embeds with {info['model']}, {info['dimensions']} numbers a text")
    question = manager.generate_embedding("may we charge a card again after a timeout?")
    vectors = generate_batch_embeddings(RULES)
    found = [(similarity(question, vector), rule) for vector, rule in zip(vectors, RULES, strict=True)]
    for score, rule in sorted(found, reverse=True):
        print(f"{score:.2f}  {rule}")
    print(json.dumps(cloud_vector_search_engine.health_check(), indent=2))
    manager.close()


if __name__ == "__main__":
    main()
