"""An app whose rules move from one provider to another, slowly enough to be watched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
from mcp_types import ElicitRequestParams, ElicitResult

from symmetra_mcp.app import App
from symmetra_mcp.config import load_settings
from symmetra_mcp.providers.base import Embeddings
from symmetra_mcp.providers.select import ProviderChoice
from symmetra_mcp.reembed import complete_space
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import Rule

RULES = 400


class Vendor(FakeProvider):
    """Takes its time, and sends a bill."""

    is_remote = True
    price_usd_per_million = 1000.0

    def __init__(self, model: str = "vendor", delay_s: float = 0.0) -> None:
        super().__init__(model)
        self.delay_s = delay_s

    async def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        await anyio.sleep(self.delay_s)
        return await super().embed_documents(texts)


async def made_app(folder: Path, chosen: FakeProvider, others: tuple[FakeProvider, ...] = ()) -> App:
    """An app whose rules are embedded with the first of the others, if there is one."""
    settings = load_settings(project_dir=folder, starter_rules=False)
    app = App(settings, SqliteStore(settings.data_folder), ProviderChoice(chosen, others=others))
    await app.ready()
    await app.store.upsert_rules([Rule("shop", f"r{i}", "Title", f"Guidance number {i}.") for i in range(RULES)])
    for provider in others:
        await complete_space(app.store, provider)
    return app


def answering(action: Any, go: bool, heard: list[str]) -> Callable[..., Any]:
    """A client's user who gives this answer to each question, and the questions."""

    async def answer(context: Any, params: ElicitRequestParams) -> ElicitResult:
        heard.append(params.message)
        return ElicitResult(action=action, content={"go": go} if action == "accept" else None)

    return answer
