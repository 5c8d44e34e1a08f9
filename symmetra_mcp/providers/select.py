"""Which provider embeds. A provider's module is imported only once it is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symmetra_mcp.config import Settings
    from symmetra_mcp.providers.base import EmbeddingProvider


def select_provider(settings: Settings) -> EmbeddingProvider:
    """The provider that the settings ask for.

    `auto` and `local` are the bundled model, the one provider of this version.
    """
    del settings
    from symmetra_mcp.providers.local import LocalProvider

    return LocalProvider()
