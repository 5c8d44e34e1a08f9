"""What holds for every answer: it fits the published schema, its two forms agree, and it stays small."""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path
from typing import Any

import anyio
import jsonschema
from mcp import Client

from symmetra_mcp.app import App
from symmetra_mcp.config import load_settings
from symmetra_mcp.errors import ProviderUnavailableError
from symmetra_mcp.providers.select import ProviderChoice
from symmetra_mcp.search import DEFAULT_MAX_TOKENS
from symmetra_mcp.server import make_server
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.tokens import estimate_tokens
from symmetra_mcp.types import Priority, Rule, Source

WORDS = ("cache", "retry", "token", "invoice", "session", "queue", "schema", "größe", "规则", "<b>", "`x=1`", "user_id")
PRIORITIES: tuple[Priority, ...] = ("low", "medium", "high", "critical")


def made_rules(count: int) -> list[Rule]:
    """Rules of every length, from two words to far more than an answer holds."""
    rng = random.Random(20260728)

    def words(most: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(2, most)))

    return [
        Rule(
            "shop",
            f"rule-{number}-{words(4).replace(' ', '-')[:60]}",
            words(10),
            "\n\n".join(words(rng.choice([12, 40, 150])) for _ in range(rng.choice([1, 1, 3, 8]))),
            category=rng.choice(["", "data", "a category"]),
            priority=rng.choice(PRIORITIES),
            sources=(Source(rng.choice(["AGENTS.md", "deep/" * 10 + "rules.md"]), 3),),
        )
        for number in range(count)
    ]


async def app_of(folder: Path, provider: FakeProvider, rules: list[Rule]) -> App:
    settings = load_settings(project_dir=folder, project="shop", starter_rules=False, allow_writes=True)
    app = App(settings, SqliteStore(settings.data_folder), ProviderChoice(provider))
    await app.ready()
    await app.store.upsert_rules(rules)
    return app


def answers(folder: Path, rules: list[Rule], *calls: tuple[str, dict[str, Any]]) -> list[tuple[dict[str, Any], Any]]:
    """The schema and the answer of each call."""

    async def run() -> list[tuple[dict[str, Any], Any]]:
        app = await app_of(folder, FakeProvider(), rules)
        async with Client(make_server(app)) as client:
            schemas = {tool.name: tool.output_schema for tool in (await client.list_tools()).tools}
            return [(schemas[name] or {}, await client.call_tool(name, arguments)) for name, arguments in calls]

    return anyio.run(run)


def test_a_search_of_any_rules_keeps_to_its_size_and_says_the_same_twice(tmp_path: Path) -> None:
    rng = random.Random(7)
    searches: list[tuple[str, dict[str, Any]]] = [
        ("search_rules", {"query": " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 6)))}) for _ in range(25)
    ]
    bounds = [DEFAULT_MAX_TOKENS] * len(searches)
    for most in (100, 500, 5_000):
        searches.append(("search_rules", {"query": "cache retry token", "limit": 50, "max_tokens": most}))
        bounds.append(most)
    searches.append(("search_rules", {"query": "nothing of the kind at all"}))
    bounds.append(DEFAULT_MAX_TOKENS)

    found = answers(tmp_path, made_rules(150), *searches)

    for (schema, answer), bound in zip(found, bounds, strict=True):
        content, text = answer.structured_content, answer.content[0].text
        jsonschema.validate(content, schema)
        assert content.get("tokens", 0) <= bound
        assert sum(estimate_tokens(hit["guidance"]) for hit in content["hits"]) <= bound
        named = [*content["hits"], *content.get("omitted", []), *content.get("nearest", [])]
        assert all(rule["rule_id"] in text for rule in named)
        size = max(estimate_tokens(text), estimate_tokens(json.dumps(content, ensure_ascii=False)))
        beside = 0 if bound == DEFAULT_MAX_TOKENS else 600  # a head, facts of each hit, and what was left out
        assert size <= bound + beside
    assert all(answer.structured_content["hits"] for _, answer in found[:25])
    many = found[25][1]
    assert len(many.structured_content["omitted"]) == 10
    assert " more rules were left out: " in many.structured_content["notice"]
    assert many.structured_content["notice"] in many.content[0].text


def test_every_tool_keeps_to_its_schema_and_tells_its_ids_in_both_forms(tmp_path: Path) -> None:
    rules = [Rule("shop", "cents", "Cents", "Keep amounts in cents.")]
    found = answers(
        tmp_path,
        rules,
        ("search_rules", {"query": "keep amounts in cents"}),
        ("embed_text", {"text": "x", "include_vector": True}),
        ("health_check", {"thorough": True}),
        ("reembed_all", {"dry_run": True}),
        ("reembed_all", {"force": True}),
        ("save_rule", {"title": "Amounts in cents", "guidance": "Keep amounts in cents."}),
        ("save_rule", {"title": "Colors", "guidance": "Name each color."}),
        ("delete_rule", {"rule_id": "colors"}),
        ("delete_rule", {"rule_id": "colors", "confirm": True}),
    )

    for schema, answer in found:
        assert not answer.is_error, answer.content
        jsonschema.validate(answer.structured_content, schema)
        for key in ("rule_id", "space", "content_hash"):
            if key in answer.structured_content:
                assert answer.structured_content[key] in answer.content[0].text
    assert found[6][1].structured_content["rule_id"] == "colors"


def test_answers_without_a_provider_keep_to_the_schema(tmp_path: Path) -> None:
    provider = FakeProvider()
    provider.failure = ProviderUnavailableError("the model file is gone", provider="fake")

    async def run() -> None:
        app = await app_of(tmp_path, provider, made_rules(20))
        async with Client(make_server(app)) as client:
            schemas = {tool.name: tool.output_schema or {} for tool in (await client.list_tools()).tools}
            for name, arguments in (("search_rules", {"query": "cache"}), ("health_check", {})):
                answer = await client.call_tool(name, arguments)
                jsonschema.validate(answer.structured_content, schemas[name])

    anyio.run(run)


WRONG: list[Any] = [None, [], {}, {"a": 1}, "\0", -1, 2**70, "x" * 200_000, True]


def test_a_wrong_argument_of_any_tool_is_named_in_one_plain_sentence(tmp_path: Path) -> None:
    async def run() -> None:
        app = await app_of(tmp_path, FakeProvider(), made_rules(3))
        async with Client(make_server(app)) as client:
            for tool in (await client.list_tools()).tools:
                for name, wrong in product(tool.input_schema["properties"], WRONG):
                    odd = {name: wrong} if wrong != "\0" else {f"{name}{'x' * 100_000}": wrong}
                    answer = await client.call_tool(tool.name, odd)
                    text = json.dumps([part.model_dump() for part in answer.content])
                    if answer.is_error:
                        assert "pydantic" not in text
                        assert "Traceback" not in text
                        assert len(text) < 1_500
                        assert f'Error executing tool {tool.name}"' not in text, "nothing says what to do"

    anyio.run(run)
