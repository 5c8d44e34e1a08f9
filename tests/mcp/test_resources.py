"""Whole rules as resources: the address in an answer gives back that very rule, through the SDK's own client."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from pydantic import AnyUrl

from symmetra_mcp.app import App
from symmetra_mcp.config import load_settings
from symmetra_mcp.providers.select import ProviderChoice
from symmetra_mcp.server import make_server
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.testing import FakeProvider

AWKWARD_IDS = [
    "two words",
    "a/b",
    "a%2Fb",
    "../up",
    "a/../b",
    "/etc/passwd",
    "C:\\rules",
    "no#1",
    "why?",
    "a&b=c;d,e",
    "100%",
    "größe-规则",
    "{rule_id}",
    "...",
]


def app_with(folder: Path, *rule_ids: str) -> App:
    """An app over long rules with these ids: a search answers with an excerpt of each."""
    (folder / ".git").mkdir()
    rules = [
        {
            "rule_id": rule_id,
            "title": f"Rule {number}",
            "guidance": "\n\n".join(
                f"Paragraph {part}: archive each invoice of year{number}part{part}, " + f"word{number} " * 60
                for part in range(9)
            ),
        }
        for number, rule_id in enumerate(rule_ids)
    ]
    (folder / "symmetra-rules.json").write_text(json.dumps({"rules": rules}), "utf-8")
    settings = load_settings(project_dir=folder, project="shop", starter_rules=False)
    return App(settings, SqliteStore(settings.data_folder), ProviderChoice(FakeProvider()))


def excerpt_of(client: Client, number: int) -> Any:
    return client.call_tool("search_rules", {"query": f"word{number}", "limit": 1, "max_tokens": 20_000})


def test_the_address_of_an_excerpt_gives_back_that_very_rule(tmp_path: Path) -> None:
    async def run() -> None:
        async with Client(make_server(app_with(tmp_path, *AWKWARD_IDS))) as client:
            for number, rule_id in enumerate(AWKWARD_IDS):
                result = await excerpt_of(client, number)
                (hit,) = (result.structured_content or {})["hits"]
                assert (hit["rule_id"], hit["excerpt"]) == (rule_id, True)
                named = re.search(r"\(An excerpt; (\S+) has all of it\.\)", result.content[0].text)
                assert named is not None
                assert str(AnyUrl(named[1])) == named[1], "a client that normalizes addresses asks for another one"
                read = await client.read_resource(named[1])
                assert read.contents[0].text.startswith(f"# Rule {number}\n")  # type: ignore[union-attr]

    anyio.run(run)


@pytest.mark.parametrize("rule_id", [".", ".."])
def test_an_id_that_addresses_fold_away_is_offered_as_a_command(tmp_path: Path, rule_id: str) -> None:
    async def run() -> str:
        async with Client(make_server(app_with(tmp_path, rule_id))) as client:
            return str((await excerpt_of(client, 0)).content[0].text)

    text = anyio.run(run)
    assert f"(An excerpt; `symmetra-mcp rules show {rule_id} -p shop` has all of it.)" in text
    assert "rule://" not in text


def test_an_address_is_decoded_once(tmp_path: Path) -> None:
    async def run() -> None:
        async with Client(make_server(app_with(tmp_path, "a/b"))) as client:
            await excerpt_of(client, 0)
            await client.read_resource("rule://shop/a%2Fb")
            with pytest.raises(MCPError, match="no rule 'a%2Fb' in project 'shop'"):
                await client.read_resource("rule://shop/a%252Fb")

    anyio.run(run)
