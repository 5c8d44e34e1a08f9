"""An import of twenty thousand rules, killed again and again, loses nothing and embeds next to nothing twice."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import numpy as np
import pytest
from product import Product, play, search, starter_rule_is_found, until

from symmetra_mcp.passages import content_hash, passages
from symmetra_mcp.providers.local import LocalProvider
from symmetra_mcp.stores.sqlite_rows import RULE_COLUMNS, rule_of_row

RULES = 20_000
VERBS = (
    "retry",
    "cache",
    "validate",
    "encrypt",
    "rotate",
    "archive",
    "compress",
    "index",
    "log",
    "trace",
    "mask",
    "pin",
)
NOUNS = ("invoice", "token", "session", "order", "payment", "email", "avatar", "report", "webhook", "cookie", "ledger")
TOOLS = ("redis", "kafka", "nginx", "docker", "sqlite", "pandas", "celery", "django", "vue", "terraform", "graphql")

COUNT_EMBEDDED = """
import os
from symmetra_mcp.providers.base import EmbeddingProvider

embed = EmbeddingProvider.embed_documents

async def counted(self, texts):
    handle = os.open(os.environ["EMBEDDED_TEXTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{len(texts)}\\n".encode())
    os.close(handle)
    return await embed(self, texts)

EmbeddingProvider.embed_documents = counted
"""
"""A `sitecustomize` that tells how many texts go to the model, before they do."""


MISSING = "passages WHERE content_hash NOT IN (SELECT content_hash FROM vectors)"


def guidance(number: int) -> str:
    verb, noun, tool = VERBS[number % 11], NOUNS[number // 11 % 11], TOOLS[number // 121 % 11]
    return f"Always {verb} the {noun} with {tool}, case {number}."


def more(product: Product, table: str, count: int) -> Callable[[], bool]:
    before = product.count(table)
    return lambda: product.count(table) >= before + count


def after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def moments(product: Product) -> list[tuple[str, Callable[[], Callable[[], bool]]]]:
    """What to wait for before each kill, in the order in which an import gets there."""
    some = random.Random(20_240_229)
    starting, reading = some.uniform(0.2, 0.5), some.uniform(0.7, 1.1)
    return [
        (f"{starting:.1f} s after the start", lambda: after(starting)),
        ("with the database there", lambda: product.database.exists),
        ("with the import's lock there", lambda: (product.data_dir / "symmetra.db.import.lock").exists),
        (f"{reading:.1f} s after the start", lambda: after(reading)),
        ("while writing: 1 rule more", lambda: more(product, "rules WHERE project_id = 'big'", 1)),
        ("while writing: 4,000 rules more", lambda: more(product, "rules WHERE project_id = 'big'", 4_000)),
        ("with all rules written", lambda: lambda: product.count("rules WHERE project_id = 'big'") == RULES),
        ("while embedding: 1 vector more", lambda: more(product, "vectors", 1)),
        ("while embedding: 700 vectors more", lambda: more(product, "vectors", 700)),
        (
            "while embedding: half of what was left",
            lambda: more(product, "vectors", max(product.count(MISSING) // 2, 1)),
        ),
    ]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_import_killed_ten_times_ends_with_every_rule_once_and_whole(
    product: Product, tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    probe = tmp_path / "probe"
    probe.mkdir()
    (probe / "sitecustomize.py").write_text(COUNT_EMBEDDED)
    log = tmp_path / "embedded.txt"
    product.environment = {"PYTHONPATH": str(probe), "EMBEDDED_TEXTS": str(log)}
    expected = {f"rule-{number:05}": guidance(number) for number in range(RULES)}
    source = tmp_path / "rules.jsonl"
    source.write_text("".join(json.dumps({"rule_id": key, "guidance": text}) + "\n" for key, text in expected.items()))
    command = ("import", str(source), "--project", "big")

    interrupted = 0
    for name, moment in moments(product):
        reached = moment()
        with product.start(*command) as process:
            until(lambda: reached() or process.poll() is not None, 100, name)  # noqa: B023 - called here only
            process.kill()
        assert process.returncode == -9, f"{name}: the import had ended by itself, {process.returncode}"
        stored = dict(product.rows("SELECT rule_id, guidance FROM rules WHERE project_id = 'big'"))
        record_testsuite_property(
            name, f"{len(stored)} rules, {product.count('vectors')} vectors, {embedded(log)} embedded"
        )
        assert expected.items() >= stored.items()
        play(a_server_answers, product, next(iter(sorted(stored, reverse=True)), ""), expected)
        interrupted += 2  # the import, and the server, which embeds what is missing until its client closes

    last = product.json(*command)

    assert last["counts"]["removed"] == last["counts"]["changed"] == last["counts"]["stale"] == 0
    assert last["embedding"]["missing"] == 0
    stored = product.rows("SELECT rule_id, guidance FROM rules WHERE project_id = 'big'")
    assert len(stored) == RULES
    assert dict(stored) == expected
    passages_match_their_rules(product)
    every_passage_has_its_vector(product)
    product.is_healthy()
    record_testsuite_property("embedded", f"{embedded(log)} texts in {interrupted} interrupted runs and the last")
    assert embedded(log) <= RULES + interrupted * LocalProvider().page_texts


async def a_server_answers(product: Product, stored: str, expected: dict[str, str]) -> None:
    async with product.server().client() as client:
        await starter_rule_is_found(client)
        if stored:
            answer = await search(client, expected[stored], project="big", limit=20, max_tokens=4000)
            assert expected[stored] in [hit["guidance"] for hit in answer["hits"]], (
                answer
            )  # by words, if not embedded yet


def embedded(log: Path) -> int:
    return sum(map(int, log.read_text().split())) if log.exists() else 0


def passages_match_their_rules(product: Product) -> None:
    rows = product.rows(f"SELECT rule_no, {RULE_COLUMNS} FROM rules")
    expected = {
        (number, ordinal, passage.content_hash, passage.text)
        for number, *columns in rows
        for ordinal, passage in enumerate(passages(rule_of_row(columns)))
    }
    assert set(product.rows("SELECT rule_no, ordinal, content_hash, text FROM passages")) == expected


def every_passage_has_its_vector(product: Product) -> None:
    """Exactly one, in the one space there is; of some, it is compared with a vector made anew."""
    rows = product.rows(
        "SELECT p.text, p.content_hash, count(v.content_hash), min(v.vector) FROM passages AS p "
        "LEFT JOIN vectors AS v USING (content_hash) GROUP BY p.content_hash"
    )
    assert {count for _, _, count, _ in rows} == {1}
    assert all(content_hash(text) == key for text, key, _, _ in rows)
    assert product.rows("SELECT count(*) FROM spaces") == [(1,)]
    some = rows[:: len(rows) // 100]
    fresh = anyio.run(LocalProvider().embed_documents, [text for text, *_ in some]).vectors
    cosines = [float(np.frombuffer(blob, "<f4") @ vector) for (*_, blob), vector in zip(some, fresh, strict=True)]
    assert min(cosines) > 0.99
