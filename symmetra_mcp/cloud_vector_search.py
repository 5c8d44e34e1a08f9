"""The health check by the name that the older Symmetra had: a thin door over `App.health`.

The name is kept for code that uses it. New code opens an app (`symmetra_mcp.app.open_app`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from symmetra_mcp.app import open_app
from symmetra_mcp.blocking import run_blocking
from symmetra_mcp.errors import SymmetraError

if TYPE_CHECKING:
    from symmetra_mcp.app import App
    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.types import ComponentHealth

__all__ = ["CloudVectorSearchEngine", "cloud_vector_search_engine"]

_OWN_PLACE = ("store", "rules", "embedding")


class CloudVectorSearchEngine:
    """Searches and embeddings of the store that the settings name."""

    def health_check(self) -> dict[str, Any]:
        """Ask the store and the embedding provider whether they work.

        Returns:
            `status`, and `components` by the store's and the provider's names, such as `sqlite` and `openai`: `status`,
            `rule_count` or `embedding_dimensions`, and where something is wrong `error` with the next step. Other parts
            are there only where they have a problem.

        Raises:
            ConfigError: A setting can't be used.
        """
        return run_blocking(self.health_check_async)

    async def health_check_async(self) -> dict[str, Any]:
        """`health_check` for async code."""
        async with open_app() as app:
            report = await app.health()
            space = await _space_in_use(app)
        store, rules, embedding = (report.components[name] for name in _OWN_PLACE)
        others = {
            name: _component(part)
            for name, part in report.components.items()
            if part.problem and name not in _OWN_PLACE
        }
        count = rules.details.get("rule_count", 0)
        return {
            "status": report.status,
            "components": {
                # The store's place tells of its rules too: not yet embedded, they degrade the whole.
                str(store.details.get("kind") or "store"): _component(
                    store if store.problem else rules, rule_count=count
                ),
                space.provider if space else "embedding": _component(
                    embedding, **({"embedding_dimensions": space.dimensions} if space else {})
                ),
                **others,
            },
        }


async def _space_in_use(app: App) -> EmbeddingSpace | None:
    """The space that searches compare in, or would; `None` where not even that can be found out."""
    for ask in (app.store.active_space, app.providers.chosen_space):
        with suppress(SymmetraError):
            space = await ask()
            if space is not None:
                return space
    return None


def _component(health: ComponentHealth, **figures: Any) -> dict[str, Any]:
    error = {"error": f"{health.problem}. {health.next_step}"} if health.problem else {}
    return {"status": health.status, **figures, **error}


cloud_vector_search_engine = CloudVectorSearchEngine()
"""The engine that the older system's code imports."""
