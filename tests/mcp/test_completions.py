"""`completion/complete`, through the SDK's own client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference, ResourceTemplateReference

from symmetra_mcp.app import App
from symmetra_mcp.completions import RULE_ADDRESS
from symmetra_mcp.config import load_settings
from symmetra_mcp.errors import StoreUnavailableError
from symmetra_mcp.providers.select import ProviderChoice
from symmetra_mcp.server import make_server
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import Rule

ADDRESS = ResourceTemplateReference(uri=RULE_ADDRESS)
REVIEW = PromptReference(name="review_code")
RULES = [
    Rule("shop", "money-in-cents", "Cents", "Keep cents.", category="data"),
    Rule("shop", "Monolith", "One", "Stay one.", category="architecture"),
    Rule("blog", "no-money", "None", "Take none.", category="data"),
    *(Rule("many", f"rule-{number:03}", "Many", f"Rule {number}.") for number in range(120)),
]


async def completed(folder: Path, *arguments: Any, **more: Any) -> Any:
    settings = load_settings(project_dir=folder, starter_rules=False)
    app = App(settings, SqliteStore(settings.data_folder), ProviderChoice(FakeProvider()))
    await app.ready()
    await app.store.upsert_rules(RULES)
    async with Client(make_server(app)) as client:
        return (await client.complete(*arguments, **more)).completion


def complete(folder: Path, ref: Any, name: str, value: str, **known: str) -> list[str]:
    async def run() -> Any:
        return await completed(folder, ref, {"name": name, "value": value}, context_arguments=known or None)

    values: list[str] = anyio.run(run).values
    return values


@pytest.mark.parametrize(
    ("ref", "name", "value", "known", "expected"),
    [
        (ADDRESS, "project_id", "", {}, ["blog", "many", "shop"]),
        (ADDRESS, "project_id", "SH", {}, ["shop"]),
        (ADDRESS, "rule_id", "mon", {}, ["money-in-cents", "Monolith", "no-money"]),
        (ADDRESS, "rule_id", "mon", {"project_id": "shop"}, ["money-in-cents", "Monolith"]),
        (ADDRESS, "rule_id", "mon", {"project_id": "nowhere"}, []),
        (ADDRESS, "else", "", {}, []),
        (REVIEW, "category", "", {}, ["architecture", "data"]),
        (REVIEW, "file_path", "src", {}, []),
    ],
)
def test_what_fits_is_offered_and_what_begins_so_first(
    tmp_path: Path, ref: Any, name: str, value: str, known: dict[str, str], expected: list[str]
) -> None:
    assert complete(tmp_path, ref, name, value, **known) == expected


def test_no_more_than_a_hundred_are_sent_and_the_rest_is_counted(tmp_path: Path) -> None:
    async def run() -> Any:
        return await completed(tmp_path, ADDRESS, {"name": "rule_id", "value": "rule-"})

    found = anyio.run(run)
    assert (len(found.values), found.total, found.has_more) == (100, 120, True)
    assert found.values[0] == "rule-000"


def test_what_there_is_not_and_an_outage_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def code(ref: Any, name: str) -> tuple[int, str]:
        try:
            complete(tmp_path, ref, name, "")
        except* MCPError as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            assert isinstance(error, MCPError)
            told = error.error.code, error.error.message
        return told

    assert code(PromptReference(name="other"), "x") == (
        -32602,
        "nothing to complete for 'other'. There are: review_code",
    )
    assert code(ResourceTemplateReference(uri="rule://{id}"), "id")[0] == -32602

    async def gone(store: SqliteStore) -> dict[str, int]:
        raise StoreUnavailableError("the disk is gone")

    monkeypatch.setattr(SqliteStore, "count_rules", gone)
    assert code(ADDRESS, "project_id") == (-32603, "the disk is gone")


def test_a_prompt_whose_arguments_nobody_knows_has_nothing_to_offer(tmp_path: Path) -> None:
    async def run() -> Any:
        server = make_server(App(load_settings(), SqliteStore(tmp_path), ProviderChoice(FakeProvider())))
        server.prompt("translate")(lambda text: text)
        async with Client(server) as client:
            return (await client.complete(PromptReference(name="translate"), {"name": "text", "value": "a"})).completion

    found = anyio.run(run)
    assert (found.values, found.total) == ([], 0)
