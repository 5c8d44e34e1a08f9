"""`resources/list` in pages, and cursors that no list gave, through the SDK's own client."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import Resource

from symmetra_mcp.app import App
from symmetra_mcp.config import load_settings
from symmetra_mcp.providers.select import ProviderChoice
from symmetra_mcp.server import make_server
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import Rule

ERAS = ["legacy", "2026-07-28"]


@asynccontextmanager
async def client_of(
    folder: Path, rules: Sequence[Rule], mode: str = "2026-07-28", **options: Any
) -> AsyncIterator[tuple[Client, App]]:
    (folder / ".git").mkdir(exist_ok=True)
    settings = load_settings(project_dir=folder, project="shop", **{"starter_rules": False} | options)
    app = App(settings, SqliteStore(settings.data_folder), ProviderChoice(FakeProvider()))
    await app.ready()
    await app.store.upsert_rules(rules)
    async with Client(make_server(app), mode=mode) as client:
        yield client, app


def rule(rule_id: str, project: str = "shop", **fields: Any) -> Rule:
    return Rule(project, rule_id, f"Title of {rule_id}", "Do the right thing.", **fields)


async def pages_of(client: Client) -> list[list[Resource]]:
    pages, cursor = [], None
    while True:
        page = await client.list_resources(cursor=cursor)
        pages.append(page.resources)
        cursor = page.next_cursor
        if cursor is None:
            return pages


@pytest.mark.parametrize("mode", ERAS)
def test_the_rules_that_a_search_counts_are_listed(tmp_path: Path, mode: str) -> None:
    rules = [
        rule("b c", category="security", priority="high"),
        rule("a"),
        rule("for-all", "shared"),
        rule("else", "blog"),
        rule("of-the-package", "starter"),
        rule(".."),  # no address names it
    ]

    async def run() -> None:
        async with client_of(tmp_path, rules, mode) as (client, _):
            (page,) = await pages_of(client)
            assert [str(entry.uri) for entry in page] == [
                "rule://shared/for-all",
                "rule://shop/a",
                "rule://shop/b%20c",
            ]
            entry = page[2]
            assert (entry.name, entry.title) == ("b c", "Title of b c")
            assert (entry.mime_type, entry.description) == ("text/markdown", "security, priority high")
            read = await client.read_resource(str(entry.uri))
            assert read.contents[0].text.startswith("# Title of b c")  # type: ignore[union-attr]

    anyio.run(run)


def test_rule_files_are_read_before_they_are_listed_and_starter_rules_count(tmp_path: Path) -> None:
    (tmp_path / "CLAUDE.md").write_text("# Money\n\n- Always keep amounts of money as integer cents.\n")

    async def run() -> None:
        async with client_of(tmp_path, [], starter_rules=True) as (client, _):
            (own, *others), *more = await pages_of(client)
            assert str(own.uri).startswith("rule://shop/")
            assert others
            assert all(str(entry.uri).startswith("rule://starter/") for page in (others, *more) for entry in page)

    anyio.run(run)


@pytest.mark.parametrize(
    "count", [100, 101, pytest.param(10_000, marks=pytest.mark.slow)], ids=lambda count: f"{count}-rules"
)
def test_every_rule_is_on_one_page(tmp_path: Path, count: int) -> None:
    rules = [rule(f"rule-{number:05}", "shop" if number % 3 else "shared") for number in range(count)]

    async def run() -> None:
        async with client_of(tmp_path, rules) as (client, _):
            pages = await pages_of(client)
            assert [len(page) for page in pages] == [100] * (count // 100) + [count % 100] * bool(count % 100)
            assert max(len(json.dumps([entry.model_dump(mode="json") for entry in page])) for page in pages) < 50_000
            named = [(str(entry.uri).split("/")[2], entry.name) for page in pages for entry in page]
            assert named == sorted((one.project_id, one.rule_id) for one in rules)

    anyio.run(run)


def test_rules_that_come_and_go_meanwhile_shift_no_page(tmp_path: Path) -> None:
    rules = [rule(f"rule-{number:03}") for number in range(250)]

    async def run() -> None:
        async with client_of(tmp_path, rules) as (client, app):
            first = await client.list_resources()
            await app.store.upsert_rules([rule("rule-000-new"), rule("a", "shared")])
            await app.store.delete_rules([one.key for one in rules[50:100]])  # the one the cursor names too
            second = await client.list_resources(cursor=first.next_cursor)
            assert [entry.name for entry in second.resources] == [one.rule_id for one in rules[100:200]]

    anyio.run(run)


def test_a_long_title_is_cut(tmp_path: Path) -> None:
    async def run() -> None:
        async with client_of(tmp_path, [Rule("shop", "long", "word\n" * 5_000, "Text.")]) as (client, _):
            (entry,) = (await client.list_resources()).resources
            assert entry.title == ("word " * 40)[:199].rstrip() + "…"

    anyio.run(run)


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


FOREIGN = [
    "2",
    "page=2",
    "größe",
    "a" * 5_000,
    encoded('["shop", "rule-010"]'),
    encoded('00000000["shop", "rule-010"]'),
]


@pytest.mark.parametrize("mode", ERAS)
def test_a_cursor_that_no_list_gave_is_refused_in_a_sentence(tmp_path: Path, mode: str) -> None:
    async def refused(client: Client, method: str, cursor: str) -> None:
        with pytest.raises(MCPError) as told:
            await getattr(client, method)(cursor=cursor)
        assert told.value.error.code == -32602
        assert told.value.error.message.startswith("unknown cursor: ")
        assert len(told.value.error.message) < 120

    async def run() -> None:
        async with client_of(tmp_path, [rule(f"rule-{number:03}") for number in range(101)], mode) as (client, _):
            ours = (await client.list_resources()).next_cursor
            assert ours is not None
            for cursor in [*FOREIGN, ours[:-1], ours[1:], ours + "A"]:
                await refused(client, "list_resources", cursor)
            for method in ("list_tools", "list_prompts", "list_resource_templates"):
                await refused(client, method, ours)
                await getattr(client, method)(cursor="")

    anyio.run(run)
