"""A database that was damaged, cut short, or deleted under a server's feet."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from product import (
    STARTER_ANSWER,
    STARTER_QUESTION,
    Product,
    Server,
    call,
    make_project,
    play,
    search,
    starter_rule_is_found,
)

RULE = "Always weigh the copper ingots twice."
QUESTION = "weigh the copper ingots"
ELSEWHERE_RULE = "Never melt silver on a Sunday."
ELSEWHERE_QUESTION = "melt silver on sunday"
GARBAGE = b"no database, but bytes worth keeping. " * 2_000
SERVERS = 10


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    coins = (f"Always stamp coin number {number} on both sides." for number in range(200))
    return make_project(tmp_path_factory.mktemp("projects") / "mint", RULE, *coins)


@pytest.fixture(scope="module")
def template(python: str, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a project, another project imported from elsewhere, and the starter rules."""
    folder = tmp_path_factory.mktemp("template")
    product = Product(python, folder / "data", folder, folder)
    product.json("import", ".", cwd=project)
    product.json("import", str(make_project(folder / "elsewhere", ELSEWHERE_RULE)), "--project", "shared")
    with closing(sqlite3.connect(product.database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return product.data_dir


@pytest.fixture
def filled(product: Product, template: Path) -> dict[str, int]:
    """A copy of that folder for each test: rules of each project."""
    shutil.copytree(template, product.data_dir)
    return product.count_rules()


def garbage(file: Path) -> bytes:
    return GARBAGE


def page_overwritten(file: Path) -> bytes:
    data = file.read_bytes()
    return data[:4096] + b"\xa5" * 4096 * 40 + data[4096 * 41 :]


def cut_to_half(file: Path) -> bytes:
    data = file.read_bytes()
    return data[: len(data) // 2 // 4096 * 4096]


def cut_within_a_page(file: Path) -> bytes:
    return file.read_bytes()[:70_000]


def zeros(file: Path) -> bytes:
    return bytes(8192)


Damage = Callable[[Path], bytes]
DAMAGES: list[Damage] = [garbage, page_overwritten, cut_to_half, cut_within_a_page, zeros]


@pytest.fixture(params=DAMAGES, ids=lambda damage: damage.__name__)
def damage(request: pytest.FixtureRequest) -> Damage:
    return request.param  # type: ignore[no-any-return]


def kept_files(product: Product) -> list[Path]:
    return sorted(product.data_dir.glob("symmetra.damaged-*.db"))


async def answers_in_the_end(client: Any, query: str) -> tuple[dict[str, Any], list[str]]:
    """An answer, and what was told before it: an assistant that is told to try again does."""
    told = []
    for _ in range(3):
        is_error, text, answer = await call(client, "search_rules", query=query)
        if not is_error:
            return answer, told
        told.append(text)
    raise AssertionError(f"three errors: {told}")


@pytest.mark.slow
def test_a_store_damaged_before_the_start_is_set_aside_told_and_filled_again(
    product: Product, project: Path, filled: dict[str, int], damage: Damage
) -> None:
    damaged = damage(product.database)
    product.database.write_bytes(damaged)

    async def run() -> list[str]:
        async with product.server(project).client() as client:
            answer, told = await answers_in_the_end(client, QUESTION)
            assert answer["hits"][0]["guidance"] == RULE
            assert (await search(client, ELSEWHERE_QUESTION))["hits"][0]["guidance"] == ELSEWHERE_RULE
            await starter_rule_is_found(client)
            _, _, health = await call(client, "health_check", thorough=True)
            return [*told, *health.get("notices", [])]

    told = play(run)
    (kept,) = kept_files(product)
    assert kept.read_bytes() == damaged
    assert any(f"set aside as {str(kept)!r}" in text for text in told), told
    assert product.count_rules() == filled
    product.is_healthy()


@pytest.mark.slow
def test_a_store_damaged_while_a_server_runs_is_found_by_a_later_search(
    product: Product, project: Path, filled: dict[str, int]
) -> None:
    async def run() -> list[str]:
        async with product.server(project).client() as client:
            await search(client, QUESTION)
            damaged = page_overwritten(product.database)
            with product.database.open("r+b") as file:
                file.write(damaged)
            found = product.run("rules", "list")  # another process meets the damage first
            assert found.returncode == 1
            assert "Run the same again in a moment" in found.stderr
            answer, told = await answers_in_the_end(client, QUESTION)
            assert answer["hits"][0]["guidance"] == RULE
            assert (await search(client, ELSEWHERE_QUESTION))["hits"][0]["guidance"] == ELSEWHERE_RULE
            await starter_rule_is_found(client)
            return told

    play(run)
    assert len(kept_files(product)) == 1
    assert filled.items() <= product.count_rules().items()
    product.is_healthy()


@pytest.mark.slow
def test_garbage_in_the_write_ahead_log_loses_no_rule(product: Product, project: Path, filled: dict[str, int]) -> None:
    log = product.database.with_name("symmetra.db-wal")
    log.write_bytes(GARBAGE)

    async def run() -> None:
        async with product.server(project).client() as client:
            answer, _ = await answers_in_the_end(client, QUESTION)
            assert answer["hits"][0]["guidance"] == RULE

    play(run)
    assert product.count_rules() == filled
    product.is_healthy()


@pytest.mark.slow
@pytest.mark.parametrize("inside", [True, False], ids=["in a project", "outside any project"])
def test_a_store_deleted_under_a_running_server_is_filled_again_by_the_next_search(
    product: Product, project: Path, filled: dict[str, int], inside: bool
) -> None:
    query, expected = (QUESTION, RULE) if inside else (ELSEWHERE_QUESTION, ELSEWHERE_RULE)

    async def run() -> None:
        async with product.server(project if inside else None).client() as client:
            await search(client, query)
            for part in product.data_dir.glob("symmetra.db*"):
                part.unlink()
            answer = await search(client, query)
            assert answer["hits"], answer
            assert answer["hits"][0]["guidance"] == expected
            await starter_rule_is_found(client)

    play(run)
    assert product.count_rules() == filled
    product.is_healthy()


@pytest.mark.slow
def test_ten_servers_on_one_damaged_store_set_it_aside_once_and_all_answer(
    product: Product, project: Path, filled: dict[str, int]
) -> None:
    product.database.write_bytes(GARBAGE)
    servers = [product.server(project if number % 2 else None) for number in range(SERVERS)]
    answers: list[str] = []

    async def use(server: Server) -> None:
        async with server.client() as client:
            answer, _ = await answers_in_the_end(client, STARTER_QUESTION)
            answers.append(answer["hits"][0]["rule_id"])
            answer, _ = await answers_in_the_end(client, ELSEWHERE_QUESTION)
            answers.append(answer["hits"][0]["guidance"])

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            for server in servers:
                tasks.start_soon(use, server)

    play(run)
    assert sorted(answers) == sorted([STARTER_ANSWER, ELSEWHERE_RULE] * SERVERS)
    (kept,) = kept_files(product)
    assert kept.read_bytes() == GARBAGE
    assert product.count_rules() == filled
    product.run("reembed")
    product.is_healthy()


@pytest.mark.slow
def test_five_running_servers_follow_when_one_of_them_sets_the_damaged_store_aside(
    product: Product, project: Path, filled: dict[str, int]
) -> None:
    async def run() -> None:
        ready, damaged = anyio.Event(), anyio.Event()
        waiting = 5

        async def use() -> None:
            nonlocal waiting
            async with product.server(project).client() as client:
                await search(client, QUESTION)
                waiting -= 1
                if not waiting:
                    ready.set()
                await damaged.wait()
                for query, expected in ((QUESTION, RULE), (ELSEWHERE_QUESTION, ELSEWHERE_RULE)):
                    answer, _ = await answers_in_the_end(client, query)
                    assert answer["hits"][0]["guidance"] == expected
                await starter_rule_is_found(client)

        async with anyio.create_task_group() as tasks:
            for _ in range(waiting):
                tasks.start_soon(use)
            await ready.wait()
            with product.database.open("r+b") as file:
                file.write(page_overwritten(product.database))
            await anyio.to_thread.run_sync(lambda: product.run("rules", "list"))
            damaged.set()

    play(run)
    assert len(kept_files(product)) == 1
    assert product.count_rules() == filled
    product.run("reembed")
    product.is_healthy()
