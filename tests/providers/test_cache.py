"""Queries embedded once: which vectors may be shared, among callers, restarts and processes, and what a disk can do."""

from __future__ import annotations

import asyncio
import gc
import random
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typing_extensions import override

import symmetra_mcp
from symmetra_mcp.errors import ProviderUnavailableError
from symmetra_mcp.providers import cache_file
from symmetra_mcp.providers.base import Embeddings
from symmetra_mcp.providers.cache import FILE_NAME, CachingProvider, VectorCache, cache_key
from symmetra_mcp.providers.cache_file import CacheKey
from symmetra_mcp.spaces import EmbeddingSpace
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import InputType

pytestmark = pytest.mark.anyio

PACKAGE_PARENT = Path(symmetra_mcp.__file__).resolve().parents[1]
SPACE = EmbeddingSpace("openai", "text-embedding-3-small", 64, variant="v")
TEXT = "how are secrets stored"
SUFFIXES = ("", "-wal", "-shm")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / FILE_NAME


class HeldProvider(FakeProvider):
    """Answers queries once `go` is set, and tells how many began and how many were cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.began = 0
        self.cancelled = 0

    @override
    async def _embed(self, texts: Sequence[str], input_type: InputType) -> NDArray[np.float32]:
        self.began += 1
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await super()._embed(texts, input_type)


class ChangingProvider(FakeProvider):
    """A provider whose model can be replaced while it runs, and while it embeds if `next_model` is set."""

    next_model = ""

    def become(self, model: str) -> None:
        self._space = replace(self._space, model=model)

    @override
    async def _embed(self, texts: Sequence[str], input_type: InputType) -> NDArray[np.float32]:
        if self.next_model:
            self.become(self.next_model)
        return await super()._embed(texts, input_type)


def vector_of(key: CacheKey) -> Embeddings:
    numbers = np.random.default_rng(list(key.digest)).standard_normal((1, key.space.dimensions))
    return Embeddings((numbers / np.linalg.norm(numbers)).astype(np.float32), key.space)


def keys(count: int, space: EmbeddingSpace = SPACE) -> list[CacheKey]:
    return [cache_key(space, "query", f"question {number}") for number in range(count)]


async def stored(path: Path, wanted: Sequence[CacheKey], **options: Any) -> None:
    cache = VectorCache(path, **options)
    for key in wanted:
        await cache.store(key, vector_of(key))
    assert cache.problem == ""
    await cache.aclose()


async def loaded(path: Path, wanted: Sequence[CacheKey]) -> list[Embeddings | None]:
    cache = VectorCache(path)
    found = [await cache.load(key) for key in wanted]
    assert cache.problem == ""
    await cache.aclose()
    return found


def agree(found: Embeddings | None, key: CacheKey) -> bool:
    """Whether what was found is exactly what was stored under the key."""
    return found is not None and found.space == key.space and bool((found.vectors == vector_of(key).vectors).all())


def sql(path: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement, values).fetchall()


def file_exists(path: Path) -> bool:
    return path.exists()


def file_bytes(path: Path) -> int:
    return path.stat().st_size


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def overwrite(path: Path, content: bytes | bytearray) -> None:
    path.write_bytes(content)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(cache_key(replace(SPACE, provider="cohere"), "query", TEXT), id="provider"),
        pytest.param(cache_key(replace(SPACE, model="text-embedding-3-large"), "query", TEXT), id="model"),
        pytest.param(cache_key(replace(SPACE, dimensions=65), "query", TEXT), id="dimensions"),
        pytest.param(cache_key(replace(SPACE, variant="revision-2"), "query", TEXT), id="variant"),
        pytest.param(cache_key(replace(SPACE, normalized=False), "query", TEXT), id="normalization"),
        pytest.param(cache_key(SPACE, "document", TEXT), id="side"),
        pytest.param(cache_key(SPACE, "query", TEXT.upper()), id="case"),
        pytest.param(cache_key(SPACE, "query", TEXT.replace(" ", "  ")), id="inner-space"),
        pytest.param(cache_key(SPACE, "query", TEXT + "\ud800"), id="lone-surrogate"),
    ],
)
async def test_another_vector_has_another_key(path: Path, other: CacheKey) -> None:
    await stored(path, [cache_key(SPACE, "query", TEXT)])
    assert await loaded(path, [other]) == [None]


def test_parts_that_read_the_same_when_joined_have_different_keys() -> None:
    one = cache_key(replace(SPACE, variant="vquery"), "query", TEXT)
    other = cache_key(SPACE, "query", "query" + TEXT)
    assert one.digest != other.digest
    assert len(one.digest) == 32


@pytest.mark.parametrize("same", ["  caf\u00e9\nbar\n", "cafe\u0301\nbar", "caf\u00e9\r\nbar"])
def test_differences_that_nobody_sees_share_a_key(same: str) -> None:
    assert cache_key(SPACE, "query", same) == cache_key(SPACE, "query", "caf\u00e9\nbar")


async def test_a_query_is_embedded_once(path: Path) -> None:
    inner = FakeProvider()
    provider = CachingProvider(inner, VectorCache(path))
    first = await provider.embed_query(f" {TEXT}\n")
    second = await provider.embed_query(TEXT)
    await provider.aclose()
    assert inner.embedded == [TEXT]
    assert (second.space, second.vectors.shape, second.vectors.dtype) == (inner.space, (1, 64), np.float32)
    assert np.array_equal(first.vectors, second.vectors)
    assert (provider.cache.hits, provider.cache.misses) == (1, 1)


async def test_a_query_is_remembered_by_the_next_process(path: Path) -> None:
    first, second = (CachingProvider(FakeProvider(), VectorCache(path)) for _ in range(2))
    embedded = await first.embed_query(TEXT)
    await first.aclose()
    assert not file_exists(path.with_name(path.name + "-wal"))
    second._inner.failure = AssertionError("asked for what is on disk")  # type: ignore[attr-defined]
    assert np.array_equal((await second.embed_query(TEXT)).vectors, embedded.vectors)
    assert second.cache.recall(cache_key(second.space, "query", TEXT)) is not None
    await second.aclose()
    assert (second.cache.hits, second.cache.misses) == (2, 0)


async def test_queries_embedded_together_are_remembered_and_only_new_ones_are_sent(path: Path) -> None:
    inner = FakeProvider()
    provider = CachingProvider(inner, VectorCache(path))
    alone = await provider.embed_query(TEXT)
    together = await provider.embed_queries(["first", f" {TEXT}", "second", "first "])
    assert inner.embedded == [TEXT, "first", "second"]
    again = await provider.embed_query("second")
    assert inner.embedded == [TEXT, "first", "second"]
    assert together.space == inner.space
    assert np.array_equal(together.vectors[[1, 2]], np.concatenate([alone.vectors, again.vectors]))
    assert np.array_equal(together.vectors[0], together.vectors[3])
    await provider.aclose()
    keys_of_all = [cache_key(provider.space, "query", text) for text in ("first", TEXT, "second")]
    assert None not in await loaded(path, keys_of_all)


async def test_a_query_is_embedded_as_a_query() -> None:
    class Sided(FakeProvider):
        sides: list[InputType]

        async def _embed(self, texts: Sequence[str], input_type: InputType) -> NDArray[np.float32]:
            self.sides.append(input_type)
            return await super()._embed(texts, input_type)

    inner = Sided()
    inner.sides = []
    await CachingProvider(inner).embed_query(TEXT)
    assert inner.sides == ["query"]


async def test_an_answer_does_not_wait_for_the_disk_and_closing_does(path: Path) -> None:
    class SlowDisk(VectorCache):
        @override
        async def store(self, key: CacheKey, embeddings: Embeddings) -> None:
            await writable.wait()
            await super().store(key, embeddings)
            events.append("stored")

        @override
        async def aclose(self) -> None:
            await super().aclose()
            events.append("closed")

    events: list[str] = []
    writable = asyncio.Event()
    provider = CachingProvider(FakeProvider(), SlowDisk(path))
    await provider.embed_query(TEXT)
    assert events == []
    asyncio.get_running_loop().call_soon(writable.set)
    await provider.aclose()
    assert events == ["stored", "closed"]
    assert await loaded(path, [cache_key(provider.space, "query", TEXT)]) != [None]


async def test_without_a_file_memory_serves() -> None:
    inner = FakeProvider()
    provider = CachingProvider(inner)
    for _ in range(2):
        await provider.embed_query(TEXT)
    await provider.aclose()
    assert inner.embedded == [TEXT]
    assert provider.cache.problem == ""


async def test_memory_forgets_what_was_not_used_for_longest() -> None:
    cache = VectorCache(memory_entries=2)
    first, second, third = keys(3)
    for key in (first, second):
        cache.remember(key, vector_of(key))
    assert cache.recall(first) is not None
    cache.remember(third, vector_of(third))
    assert [cache.recall(key) is not None for key in (first, second, third)] == [True, False, True]


async def test_documents_are_not_cached_and_other_questions_go_to_the_provider() -> None:
    class Told(FakeProvider):
        told: list[str]

        page_texts = 7

        async def warm_up(self) -> None:
            self.told.append("warm_up")

        def try_again(self) -> None:
            self.told.append("try_again")

        async def aclose(self) -> None:
            self.told.append("aclose")

    inner = Told()
    inner.told = []
    provider = CachingProvider(inner)
    await provider.embed_query(TEXT)
    for _ in range(2):
        assert (await provider.embed_documents([TEXT, "b"])).vectors.shape == (2, 64)
    await provider.warm_up()
    provider.try_again()
    await provider.aclose()
    assert inner.embedded == [TEXT, TEXT, "b", TEXT, "b"]
    assert inner.told == ["warm_up", "try_again", "aclose"]
    assert (provider.space, provider.max_input_tokens, provider.page_texts) == (inner.space, 256, 7)


async def test_a_space_is_first_asked_for_off_the_event_loop() -> None:
    class Slow(FakeProvider):
        asked_in: list[int]

        @property
        def space(self) -> EmbeddingSpace:
            self.asked_in.append(threading.get_ident())
            return super().space

    inner = Slow()
    inner.asked_in = []
    await CachingProvider(inner).embed_query(TEXT)
    assert inner.asked_in[0] != threading.get_ident()


async def test_a_caller_who_changes_an_answer_changes_no_other(path: Path) -> None:
    provider = CachingProvider(FakeProvider(), VectorCache(path))
    expected = (await FakeProvider().embed_query(TEXT)).vectors
    for _ in range(3):
        answers = await asyncio.gather(*(provider.embed_query(TEXT) for _ in range(3)))
        for answer in answers:
            assert np.array_equal(answer.vectors, expected)
            answer.vectors[:] = 0
    await provider.aclose()
    (on_disk,) = await loaded(path, [cache_key(provider.space, "query", TEXT)])
    assert on_disk is not None
    assert np.array_equal(on_disk.vectors, expected)


async def test_a_replaced_model_is_asked_itself() -> None:
    inner = ChangingProvider("one")
    provider = CachingProvider(inner)
    one = await provider.embed_query(TEXT)
    inner.become("two")
    two = await provider.embed_query(TEXT)
    assert (one.space.model, two.space.model) == ("one", "two")
    assert not np.array_equal(one.vectors, two.vectors)
    inner.become("one")
    assert np.array_equal((await provider.embed_query(TEXT)).vectors, one.vectors)
    assert inner.embedded == [TEXT, TEXT]


async def test_queries_whose_model_is_replaced_meanwhile_are_all_of_the_new_one() -> None:
    inner = ChangingProvider("one")
    provider = CachingProvider(inner)
    await provider.embed_query(TEXT)
    inner.next_model = "two"
    answer = await provider.embed_queries([TEXT, "another"])
    assert answer.space.model == "two"
    assert np.array_equal(answer.vectors, (await FakeProvider("two").embed_queries([TEXT, "another"])).vectors)


async def test_an_answer_of_a_model_replaced_meanwhile_is_not_kept() -> None:
    inner = ChangingProvider("one")
    inner.next_model = "two"
    provider = CachingProvider(inner)
    assert (await provider.embed_query(TEXT)).space.model == "two"
    inner.next_model = ""
    inner.become("one")
    assert (await provider.embed_query(TEXT)).space.model == "one"
    assert inner.embedded == [TEXT, TEXT]


@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "memory"])
async def test_fifty_identical_queries_at_once_are_one_request(path: Path, *, on_disk: bool) -> None:
    inner = HeldProvider()
    provider = CachingProvider(inner, VectorCache(path) if on_disk else None)
    await provider.warm_up()
    callers = [asyncio.create_task(provider.embed_query(TEXT)) for _ in range(50)]
    await inner.begun.wait()
    inner.go.set()
    answers = await asyncio.gather(*callers)
    await provider.aclose()
    assert inner.began == 1
    assert all(np.array_equal(answer.vectors, answers[0].vectors) for answer in answers)


async def test_a_caller_who_leaves_takes_no_answer_from_the_others() -> None:
    inner = HeldProvider()
    provider = CachingProvider(inner)
    await provider.warm_up()
    callers = [asyncio.create_task(provider.embed_query(TEXT)) for _ in range(3)]
    await inner.begun.wait()
    callers[0].cancel()
    await asyncio.wait(callers[:1])
    inner.go.set()
    answers = await asyncio.gather(*callers[1:])
    assert callers[0].cancelled()
    assert (inner.began, inner.cancelled, len(answers)) == (1, 0, 2)


async def test_a_request_that_nobody_waits_for_is_cancelled_and_joined_by_nobody() -> None:
    inner = HeldProvider()
    provider = CachingProvider(inner)
    await provider.warm_up()
    caller = asyncio.create_task(provider.embed_query(TEXT))
    await inner.begun.wait()
    caller.cancel()
    # Runs after the cancelled caller and before the cancelled request.
    late = asyncio.create_task(provider.embed_query(TEXT))
    await asyncio.wait([caller])
    inner.go.set()
    assert (await late).vectors.shape == (1, 64)
    assert caller.cancelled()
    assert (inner.began, inner.cancelled) == (2, 1)


async def test_a_failure_reaches_all_who_wait_and_nobody_after() -> None:
    inner = HeldProvider()
    inner.failure = ProviderUnavailableError("the provider is down", provider="fake")
    provider = CachingProvider(inner)
    await provider.warm_up()
    callers = [asyncio.create_task(provider.embed_query(TEXT)) for _ in range(5)]
    await inner.begun.wait()
    inner.go.set()
    failures = await asyncio.gather(*callers, return_exceptions=True)
    assert failures == [inner.failure] * 5
    inner.failure = None
    assert (await provider.embed_query(TEXT)).vectors.shape == (1, 64)
    assert inner.began == 2


async def test_a_failure_that_nobody_waits_for_is_not_logged() -> None:
    class Stubborn(HeldProvider):
        async def _embed(self, texts: Sequence[str], input_type: InputType) -> NDArray[np.float32]:
            try:
                return await super()._embed(texts, input_type)
            except asyncio.CancelledError:
                raise ProviderUnavailableError("broken off", provider="fake") from None

    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    inner = Stubborn()
    provider = CachingProvider(inner)
    await provider.warm_up()
    caller = asyncio.create_task(provider.embed_query(TEXT))
    await inner.begun.wait()
    caller.cancel()
    await asyncio.wait([caller])
    await provider.aclose()
    del caller
    gc.collect()
    assert inner.cancelled == 1
    assert complaints == []


def test_event_loops_in_turn_share_a_provider(path: Path) -> None:
    inner = FakeProvider()
    provider = CachingProvider(inner, VectorCache(path))

    async def ask(text: str) -> None:
        await provider.embed_query(text)
        await provider.aclose()

    for text in (TEXT, "other", TEXT):
        asyncio.run(ask(text))
    assert inner.embedded == [TEXT, "other"]


async def test_nothing_is_touched_before_the_first_use(path: Path) -> None:
    cache = VectorCache(path)
    await cache.aclose()
    assert not path.parent.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="files have no POSIX mode there")
async def test_only_the_user_may_read_the_file_and_an_existing_folder_stays_as_it_is(path: Path) -> None:
    path.parent.mkdir(mode=0o755)
    cache = VectorCache(path)
    (key,) = keys(1)
    await cache.store(key, vector_of(key))
    modes = {suffix: stat.S_IMODE(path.with_name(path.name + suffix).stat().st_mode) for suffix in SUFFIXES}
    await cache.aclose()
    assert modes == dict.fromkeys(SUFFIXES, 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755


async def test_a_file_holds_no_text_of_a_query(path: Path) -> None:
    provider = CachingProvider(FakeProvider(), VectorCache(path))
    await provider.embed_query("xyzzyplugh")
    await provider.aclose()
    assert b"xyzzy" not in content_of(path)


async def test_a_changed_byte_anywhere_in_a_vector_is_a_miss_and_the_row_goes(path: Path) -> None:
    (key,) = keys(1)
    await stored(path, [key])
    ((good,),) = sql(path, "SELECT vector FROM query_vectors")
    cache = VectorCache(path)
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        sql(path, "UPDATE query_vectors SET vector = ?", bytes(bad))
        assert await cache.load(key) is None
        assert sql(path, "SELECT * FROM query_vectors") == []
        await cache.store(key, vector_of(key))
    await cache.aclose()
    assert cache.misses == len(good)


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        (np.full(64, np.nan), "not-finite"),
        (np.full(64, np.inf), "infinite"),
        (np.zeros(64), "zero"),
        (np.full(64, 0.2), "not-unit-length"),
        (np.full(63, 63**-0.5), "short"),
        (np.full(128, 128**-0.5), "long"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_row_that_holds_no_vector_of_the_space_is_a_miss_and_goes(
    path: Path, numbers: NDArray[np.float64], problem: str
) -> None:
    (key,) = keys(1)
    await stored(path, [key])
    blob = numbers.astype("<f4").tobytes()
    sql(path, "UPDATE query_vectors SET vector = ?, crc = ?", blob, zlib.crc32(key.digest + blob))
    assert await loaded(path, [key]) == [None]
    assert sql(path, "SELECT * FROM query_vectors") == []


async def test_a_row_cut_within_a_number_is_a_miss(path: Path) -> None:
    (key,) = keys(1)
    await stored(path, [key])
    blob = vector_of(key).vectors.tobytes()[:-1]
    sql(path, "UPDATE query_vectors SET vector = ?, crc = ?", blob, zlib.crc32(key.digest + blob))
    assert await loaded(path, [key]) == [None]


@pytest.mark.parametrize("column", ["vector", "crc", "used"])
@pytest.mark.parametrize("value", ["text", 1.5, 2**62, b"\x00"], ids=["text", "real", "integer", "blob"])
async def test_a_value_of_a_wrong_type_never_fails_a_search(path: Path, column: str, value: object) -> None:
    (key,) = keys(1)
    await stored(path, [key])
    sql(path, f"UPDATE query_vectors SET {column} = ?", value)
    (found,) = await loaded(path, [key])
    assert agree(found, key) if column == "used" else found is None


async def test_a_key_that_leads_to_the_row_of_another_is_a_miss(path: Path) -> None:
    one, other = keys(2)
    await stored(path, [one])
    sql(path, "UPDATE query_vectors SET key = ?", other.digest)
    assert await loaded(path, [other]) == [None]


async def never_wrong(path: Path, wanted: Sequence[CacheKey]) -> int:
    """Look everything up in a damaged file, and use it on; how many were found."""
    cache = VectorCache(path)
    found = [(key, await cache.load(key)) for key in wanted]
    assert all(answer is None or agree(answer, key) for key, answer in found)
    fresh = cache_key(SPACE, "query", "asked after the damage")
    await cache.store(fresh, vector_of(fresh))
    assert agree(await cache.load(fresh), fresh)
    assert cache.problem == ""
    await cache.aclose()
    return sum(answer is not None for _, answer in found)


@pytest.mark.slow
async def test_flipped_bits_anywhere_in_the_file_give_no_error_and_no_wrong_vector(path: Path) -> None:
    wanted = keys(30)
    await stored(path, wanted)
    good = content_of(path)
    rng = random.Random(7)
    found = 0
    for _ in range(150):
        bad = bytearray(good)
        for _ in range(rng.choice((1, 1, 8, 64))):
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        overwrite(path, bad)
        found += await never_wrong(path, wanted)
    assert 0 < found < 150 * len(wanted)  # damage did some harm, and what it left was used


@pytest.mark.slow
async def test_a_wrong_byte_in_the_header_gives_no_error_and_no_wrong_vector(path: Path) -> None:
    wanted = keys(3)
    await stored(path, wanted)
    good = content_of(path)
    for position in range(100):
        for mask in (0xFF, 0x01, 0x03):
            bad = bytearray(good)
            bad[position] ^= mask
            overwrite(path, bad)
            await never_wrong(path, wanted)


@pytest.mark.slow
async def test_damage_that_a_running_server_meets_gives_no_error_and_no_wrong_vector(path: Path) -> None:
    wanted = keys(30)
    await stored(path, wanted)
    good = content_of(path)
    rng = random.Random(11)
    for _ in range(40):
        overwrite(path, good)
        cache = VectorCache(path)
        assert agree(await cache.load(wanted[0]), wanted[0])
        await cache.store(wanted[1], vector_of(wanted[1]))
        for suffix in ("", "-wal"):
            with path.with_name(path.name + suffix).open("r+b") as file:
                content = file.read()
                for _ in range(50):
                    file.seek(rng.randrange(len(content)))
                    file.write(rng.randbytes(1))
        for key in wanted:
            found = await cache.load(key)
            assert found is None or agree(found, key)
            await cache.store(key, vector_of(key))
        await cache.aclose()
        for suffix in SUFFIXES:
            path.with_name(path.name + suffix).unlink(missing_ok=True)


@pytest.mark.parametrize("size_bytes", [0, 1, 50, 100, 1000, 4096, 5000, 8192, 12288, 20000])
async def test_a_truncated_file_is_begun_anew_or_used_as_far_as_it_goes(path: Path, size_bytes: int) -> None:
    wanted = keys(30)
    await stored(path, wanted)
    overwrite(path, content_of(path)[:size_bytes])
    await never_wrong(path, wanted)


async def test_a_file_that_is_no_database_is_begun_anew(path: Path) -> None:
    path.parent.mkdir()
    for suffix in SUFFIXES:
        path.with_name(path.name + suffix).write_bytes(b"not a database at all " * 1000)
    assert await never_wrong(path, keys(1)) == 0
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


async def test_a_database_of_another_make_is_begun_anew(path: Path) -> None:
    path.parent.mkdir()
    sql(path, "CREATE TABLE query_vectors (key TEXT, used INTEGER)")
    assert await never_wrong(path, keys(1)) == 0


async def test_a_file_deleted_under_a_running_server_is_begun_anew(path: Path) -> None:
    one, other = keys(2)
    cache = VectorCache(path)
    await cache.store(one, vector_of(one))
    for suffix in SUFFIXES:
        path.with_name(path.name + suffix).unlink()
    assert await cache.load(one) is None
    await cache.store(other, vector_of(other))
    found = await loaded(path, [one, other])
    await cache.aclose()
    assert found[0] is None
    assert agree(found[1], other)


async def test_a_file_that_another_process_replaced_is_not_deleted(path: Path) -> None:
    one, other = keys(2)
    await stored(path, [one])
    cache = VectorCache(path)
    assert await cache.load(one) is not None
    replacement = path.with_name("replacement.db")
    await stored(replacement, [other])
    for suffix in SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    replacement.replace(path)
    assert agree(await cache.load(other), other)
    await cache.aclose()


@pytest.mark.slow
@pytest.mark.parametrize(("dimensions", "cap"), [(64, 400_000), (384, 400_000), (3072, 2_000_000)])
async def test_the_cap_holds_after_many_writes(path: Path, dimensions: int, cap: int) -> None:
    cache = VectorCache(path, max_bytes=cap)
    wanted = keys(10_000 if dimensions == 384 else 1_000, replace(SPACE, dimensions=dimensions))
    vector = vector_of(wanted[0])
    largest = 0
    for number, key in enumerate(wanted):
        await cache.store(key, vector)
        if number % 50 == 0:
            largest = max(largest, file_bytes(path))
            assert file_bytes(path.with_name(path.name + "-wal")) < 1_500_000
    assert cache.problem == ""
    await cache.aclose()
    kept = sql(path, "SELECT count(*), sum(length(vector)) FROM query_vectors")[0]
    assert max(largest, file_bytes(path)) <= cap
    assert kept[1] > cap / 3
    last = len(wanted) - kept[0]
    assert sql(path, "SELECT key FROM query_vectors ORDER BY rowid") == [(key.digest,) for key in wanted[last:]]


async def test_rows_used_lately_outlive_older_ones(path: Path) -> None:
    wanted = keys(220, replace(SPACE, dimensions=384))
    await stored(path, wanted[:100])
    sql(path, "UPDATE query_vectors SET used = 1000")
    assert (await loaded(path, wanted[:1]))[0] is not None
    await stored(path, wanted[100:], max_bytes=400_000)
    found = await loaded(path, [wanted[0], wanted[1]])
    assert [answer is not None for answer in found] == [True, False]


async def test_a_read_writes_nothing_unless_its_note_of_use_is_old(path: Path) -> None:
    (key,) = keys(1)
    await stored(path, [key])
    noted = int(time.time()) - 60
    sql(path, "UPDATE query_vectors SET used = ?", noted)
    await loaded(path, [key])
    assert sql(path, "SELECT used FROM query_vectors") == [(noted,)]
    sql(path, "UPDATE query_vectors SET used = ?", noted - 4000)
    await loaded(path, [key])
    assert sql(path, "SELECT used FROM query_vectors")[0][0] >= noted


@pytest.fixture
def blocked(path: Path) -> Path:
    """The cache's file, in a folder that can't be made: a file is in its place, which stops root too."""
    path.parent.write_text("in the way")
    return path


async def test_a_folder_that_cant_be_used_leaves_memory_and_says_why(blocked: Path) -> None:
    inner = FakeProvider()
    provider = CachingProvider(inner, VectorCache(blocked))
    for _ in range(2):
        await provider.embed_query(TEXT)
    await provider.aclose()
    assert inner.embedded == [TEXT]
    assert str(blocked) in provider.cache.problem
    assert "`SYMMETRA_QUERY_CACHE`" in provider.cache.problem


@pytest.mark.parametrize("is_over", [True, False], ids=["after-the-pause", "within-the-pause"])
async def test_a_file_is_tried_again_after_a_pause(
    blocked: Path, monkeypatch: pytest.MonkeyPatch, *, is_over: bool
) -> None:
    monkeypatch.setattr(cache_file, "PAUSE_S", 0.0 if is_over else 3600.0)
    cache = VectorCache(blocked)
    (key,) = keys(1)
    await cache.store(key, vector_of(key))
    assert cache.problem
    blocked.parent.unlink()
    await cache.store(key, vector_of(key))
    await cache.aclose()
    assert (file_exists(blocked), cache.problem == "") == (is_over, is_over)


async def test_a_file_that_another_process_locks_is_left_alone_and_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_file, "PAUSE_S", 0.0)
    monkeypatch.setattr(cache_file, "BUSY_TIMEOUT_S", 0.0)
    one, other = keys(2)
    await stored(path, [one])
    cache = VectorCache(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as rival:
        rival.execute("BEGIN IMMEDIATE")
        await cache.store(other, vector_of(other))
        assert "locked" in cache.problem
        assert agree(await cache.load(one), one)
    await cache.store(other, vector_of(other))
    assert cache.problem == ""
    await cache.aclose()
    assert sql(path, "SELECT count(*) FROM query_vectors") == [(2,)]


PROGRAM = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
sys.path.insert(0, sys.argv[3])
from providers.test_cache import agree, keys, vector_of
from symmetra_mcp.providers import cache_file
from symmetra_mcp.providers.cache import VectorCache

path = Path(sys.argv[1])
"""


def program(path: Path, body: str) -> list[str]:
    tests = str(Path(__file__).resolve().parents[1])
    return [sys.executable, "-c", PROGRAM + body, str(path), str(PACKAGE_PARENT), tests]


def run(path: Path, body: str) -> str:
    done = subprocess.run(program(path, body), capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of a file there")
@pytest.mark.slow
def test_a_disk_that_is_full_leaves_memory_and_says_why(path: Path) -> None:
    body = """
import resource
async def main():
    cache = VectorCache(path)
    for key in keys(3):
        await cache.store(key, vector_of(key))
    assert cache.problem == ""
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    cache_file.PAUSE_S = 0.0
    for key in keys(200):
        await cache.store(key, vector_of(key))
        cache.remember(key, vector_of(key))
    assert all(agree(cache.recall(key), key) for key in keys(200))
    print(cache.problem)
    await cache.aclose()
asyncio.run(main())
"""
    assert "can't be used" in run(path, body)
    assert path.exists()


async def test_two_processes_share_what_each_has_embedded(path: Path) -> None:
    one, other = keys(2)
    cache = VectorCache(path)
    await cache.store(one, vector_of(one))
    body = """
async def main():
    cache = VectorCache(path)
    one, other = keys(2)
    print(agree(await cache.load(one), one))
    await cache.store(other, vector_of(other))
    await cache.aclose()
asyncio.run(main())
"""
    assert await asyncio.to_thread(run, path, body) == "True"
    assert agree(await cache.load(other), other)
    await cache.aclose()


@pytest.mark.slow
def test_processes_that_write_and_evict_at_once_keep_the_file_sound(path: Path) -> None:
    body = """
cache_file.PAUSE_S = 0.0
async def main():
    cache = VectorCache(path, max_bytes=100_000)
    for _ in range(2):
        for key in keys(200):
            found = await cache.load(key)
            assert found is None or agree(found, key)
            await cache.store(key, vector_of(key))
    await cache.aclose()
asyncio.run(main())
"""
    writers = [subprocess.Popen(program(path, body), stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [writer.communicate(timeout=100)[1] for writer in writers] == [""] * 3
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    assert file_bytes(path) < 200_000
    assert sql(path, "SELECT count(*) > 50 FROM query_vectors") == [(1,)]
