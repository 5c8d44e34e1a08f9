"""A vendor on the loopback interface under the product as users run it: how it is set, and what must be stored."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio
import numpy as np
from loopback import Fault, LoopbackVendor, expected_vector
from product import Product, call, make_project, play, search

from symmetra_mcp.probes import probe_passages

VendorName = Literal["openai", "cohere"]
VENDORS: tuple[VendorName, ...] = ("openai", "cohere")
LOCAL = "local/all-MiniLM-L6-v2@384"
RULE = "Always weigh the copper ingots twice."
QUESTION = "weigh the copper ingots"
OTHER_RULES = ("Never melt silver on a Sunday.", "Keep the ledger of the mint in two places.")

QUICKLY = """
from symmetra_mcp.providers import breaker, remote

remote.BATCH_TIMEOUT_S = 0.5
remote.BATCH_ATTEMPTS = 3
remote.FIRST_BACKOFF_S = 0.01
breaker.FIRST_PAUSE_S = 0.01
breaker.LONGEST_PAUSE_S = 0.02
"""
"""A `sitecustomize` that shortens pauses and a batch's patience: what happens is tested, not how long it takes."""

_MODELS = {"openai": "text-embedding-3-small", "cohere": "embed-english-light-v3.0"}
_ADDRESSES = {"openai": "OPENAI_BASE_URL", "cohere": "CO_API_URL"}
KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "cohere": "COHERE_API_KEY"}
KEYS = {"openai": "sk-loopback-0001", "cohere": "co-loopback-0001"}
_PATHS = {"openai": "/v1/embeddings", "cohere": "/v2/embed"}

REFUSED_KEY = "refused the key"
DOWN = "failed to answer"
BROKEN = "can't be reached"
SILENT = "did not answer"
NO_LIST = "no JSON|no list of embeddings"
REDIRECTED = "answered with a redirect"
NOT_FINITE = "not finite"
COUNT = "embeddings for"

CAUSES: Mapping[Fault, str] = {
    Fault.RATE_LIMIT: "asks for fewer requests",
    Fault.SERVER_ERROR: DOWN,
    Fault.UNAVAILABLE: DOWN,
    Fault.HTML_BAD_GATEWAY: DOWN,
    Fault.QUOTA: "used up",
    Fault.WRONG_KEY: REFUSED_KEY,
    Fault.FORBIDDEN: REFUSED_KEY,
    Fault.ECHO_KEY: "refused a text",
    Fault.REDIRECT: REDIRECTED,
    Fault.REDIRECT_FOUND: REDIRECTED,
    Fault.REDIRECT_ELSEWHERE: REDIRECTED,
    Fault.HANG: SILENT,
    Fault.STALL: SILENT,
    Fault.HALF_CLOSED: BROKEN,
    Fault.RESET: BROKEN,
    Fault.GARBAGE: NO_LIST,
    Fault.SHORT: "383 numbers where 384 were asked for",
    Fault.LONG: "385 numbers where 384 were asked for",
    Fault.NAN: NOT_FINITE,
    Fault.INFINITE: NOT_FINITE,
    Fault.ZERO: "a zero vector",
    Fault.NOT_UNIT: "length 3",
    Fault.DUPLICATE_INDEX: COUNT,
    Fault.UNKNOWN_INDEX: f"{COUNT}|{NO_LIST}",
    Fault.MISSING_ROW: f"{COUNT}|{NO_LIST}",
    Fault.EMPTY_DATA: f"{COUNT}|{NO_LIST}",
    Fault.OTHER_MODEL: "the vectors of another model",
    Fault.QUARTER: "96 numbers where 384 were asked for|no vector",
}
"""What a lasting fault is told as."""
HARMLESS = frozenset({Fault.SHUFFLED, Fault.FLOAT_LISTS})
"""Answered rightly all the same."""
LASTING = frozenset({Fault.QUOTA, Fault.WRONG_KEY, Fault.FORBIDDEN})
"""What a person has to act upon: asked again after minutes, or once somebody checks the health."""
UNTOLD_BY_COHERE = frozenset({Fault.SHUFFLED, Fault.DUPLICATE_INDEX, Fault.UNKNOWN_INDEX, Fault.OTHER_MODEL})
"""Its answers name neither a row's index nor the model, so nobody can tell."""


@dataclass(frozen=True)
class Filled:
    """A data folder whose rules are embedded in a vendor's space, and in the stand-in where one is kept."""

    data_dir: Path
    project: Path


def keys_of(*names: VendorName) -> dict[str, str]:
    return {KEY_VARIABLES[name]: KEYS[name] for name in names}


def addresses(vendor: LoopbackVendor) -> dict[str, str]:
    return {"OPENAI_BASE_URL": vendor.openai_base_url, "CO_API_URL": vendor.cohere_base_url}


def space_of(vendor: LoopbackVendor, name: VendorName) -> str:
    return f"{name}/{_MODELS[name]}@384+127.0.0.1:{vendor.port}"


def requests_to(vendor: LoopbackVendor, name: VendorName) -> int:
    """Requests for embeddings since the last reset, of the last two hundred."""
    return sum(request.path == _PATHS[name] for request in vendor.stats.recent)


def shorten(product: Product) -> None:
    """Have every process of the product wait for little."""
    folder = product.notes / "quickly"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(QUICKLY)
    product.environment["PYTHONPATH"] = str(folder)


async def becomes(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 30) -> None:
    """Ask until it is so."""
    with anyio.move_on_after(seconds):
        while not await condition():  # noqa: ASYNC110 - another process sets no event
            await anyio.sleep(0.02)
        return
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def fill(product: Product, project: Path, *, backup: bool = True, **environment: str) -> Filled:
    """Let a server embed a project's rules, until search and stand-in are complete."""
    make_project(project, RULE, *OTHER_RULES)

    async def run() -> None:
        async with product.server(project, **environment).client() as client:

            async def is_complete() -> bool:
                _, _, health = await call(client, "health_check")
                rules = health["components"]["rules"]["details"]
                return rules.get("texts_not_embedded") == 0 and (not backup or "backup_space" in rules)

            await search(client, QUESTION)
            await becomes(is_complete, "every rule is embedded")

    play(run)
    return Filled(product.data_dir, project)


def stored_vectors_are_right(product: Product, vendor: LoopbackVendor, name: VendorName) -> int:
    """Every vector of the vendor's space in the file is the one of its text; says how many there are."""
    texts = {passage.content_hash: passage.text for passage in probe_passages()}
    texts.update(product.rows("SELECT content_hash, text FROM passages"))
    rows = product.rows(f"SELECT content_hash, vector FROM vectors WHERE space_id = '{space_of(vendor, name)}'")
    side = "search_document" if name == "cohere" else None
    for key, blob in rows:
        vector = np.frombuffer(blob, "<f4")
        assert abs(float(np.linalg.norm(vector)) - 1) < 1e-4
        np.testing.assert_allclose(vector, expected_vector(texts[key], _MODELS[name], 384, side), atol=1e-5)
    return len(rows)


def cached_vectors_are_right(product: Product, name: VendorName, queries: Iterable[str]) -> int:
    """Every vector in the query cache is the one of a query that was asked; says how many there are."""
    side = "search_query" if name == "cohere" else None
    right = np.stack([expected_vector(query, _MODELS[name], 384, side) for query in queries])
    with closing(sqlite3.connect(product.data_dir / "query_cache.db")) as connection:
        rows = connection.execute("SELECT vector FROM query_vectors").fetchall()
    for (blob,) in rows:
        assert np.abs(right - np.frombuffer(blob, "<f4")).max(axis=1).min() < 1e-5
    return len(rows)
