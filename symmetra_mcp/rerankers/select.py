"""Which re-ranker the settings choose; its module is imported only then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symmetra_mcp.config import Settings
    from symmetra_mcp.rerankers.base import Reranker
    from symmetra_mcp.rerankers.cohere import RerankMeter


def select_reranker(settings: Settings, *, meter: Callable[[str, str], RerankMeter] | None = None) -> Reranker | None:
    """The re-ranker that the settings choose, or `None` where they choose none.

    Args:
        settings: Which, its model, key and time.
        meter: Makes what counts the requests of a vendor's model.
    """
    if settings.rerank == "cohere":
        from symmetra_mcp.providers.cohere_sdk import PROVIDER
        from symmetra_mcp.rerankers import cohere

        model = settings.rerank_model or cohere.DEFAULT_MODEL
        return cohere.CohereReranker(
            settings.cohere_key,
            model=model,
            base_url=settings.co_api_url,
            timeout_s=settings.rerank_timeout,
            meter=meter(PROVIDER, model) if meter is not None else None,
        )
    if settings.rerank == "local":
        from symmetra_mcp.rerankers import local

        return local.LocalReranker(settings.rerank_model or local.DEFAULT_MODEL, timeout_s=settings.rerank_timeout)
    return None
