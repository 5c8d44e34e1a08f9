"""The health check by the name that the older Symmetra had: a thin door over `App.health`.

The name is kept for code that uses it. New code opens an app (`symmetra_mcp.app.open_app`).
"""

from __future__ import annotations

from typing import Any

from symmetra_mcp.app import open_app
from symmetra_mcp.blocking import run_blocking
from symmetra_mcp.types import ComponentHealth

__all__ = ["CloudVectorSearchEngine", "cloud_vector_search_engine"]


class CloudVectorSearchEngine:
    """Searches and embeddings of the store that the settings name."""

    def health_check(self) -> dict[str, Any]:
        """Ask the store and the embedding provider whether they work.

        Returns:
            `status`, and `components` by the store's and the provider's names: `status`, `rule_count` or
            `embedding_dimensions`, and `error` with the next step where something is wrong.

        Raises:
            ConfigError: A setting can't be used.
        """
        return run_blocking(self.health_check_async)

    async def health_check_async(self) -> dict[str, Any]:
        """`health_check` for async code."""
        async with open_app() as app:
            report = await app.health()
        store, rules, embedding = (report.components[name] for name in ("store", "rules", "embedding"))
        count = rules.details.get("rule_count", 0)
        provider = str(embedding.details.get("provider") or app.providers.chosen.space.provider)
        dimensions = embedding.details.get("embedding_dimensions", app.providers.chosen.space.dimensions)
        return {
            "status": report.status,
            "components": {
                str(store.details.get("kind") or "store"): _component(store, rule_count=count),
                provider: _component(embedding, embedding_dimensions=dimensions),
            },
        }


def _component(health: ComponentHealth, **figures: Any) -> dict[str, Any]:
    error = {"error": f"{health.problem}. {health.next_step}"} if health.problem else {}
    return {"status": health.status, **figures, **error}


cloud_vector_search_engine = CloudVectorSearchEngine()
