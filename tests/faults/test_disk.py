"""A data folder that is full, can't be written, or comes and goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Disk
from product import Product, call, make_project, play, search, starter_rule_is_found

RULE = "Always weigh the copper ingots twice."
QUESTION = "weigh the copper ingots"
WAY_OUT = "Free or repair it, or set `SYMMETRA_DATA_DIR` to a folder that can be written"


def many(path: Path, count: int) -> Path:
    entries = (
        {"rule_id": f"r{i}", "guidance": f"Always polish lens {i}. {'Fine grit only. ' * 20}"} for i in range(count)
    )
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "mint", RULE)


@pytest.mark.slow
def test_an_import_onto_a_full_disk_is_told_and_earlier_rules_answer_on(
    product: Product, disk: Disk, project: Path, tmp_path: Path
) -> None:
    product.json("import", ".", cwd=project)
    before = product.count_rules()
    big = many(tmp_path / "big.jsonl", 600)

    async def run() -> None:
        async with product.server(project).client() as client:
            await search(client, QUESTION)
            refused = product.run("import", str(big), "--project", "big")
            assert refused.returncode == 1
            assert f"the disk that holds {str(product.data_dir)!r} is full" in refused.stderr
            assert WAY_OUT in refused.stderr
            assert "Traceback" not in refused.stderr
            filler = disk.fill()
            assert (await search(client, QUESTION))["hits"][0]["guidance"] == RULE
            disk.remount("size=40m")
            filler.unlink()

    play(run)
    counts = product.count_rules()
    assert {name: counts[name] for name in before} == before
    done = product.json("import", str(big), "--project", "big")
    assert done["counts"]["added"] + done["counts"]["unchanged"] == 600
    assert product.count_rules() == {**before, "big": 600}
    product.is_healthy()


@pytest.mark.slow
def test_on_a_disk_without_a_free_byte_a_new_server_says_what_to_do_and_answers_once_there_is_room(
    product: Product, disk: Disk, project: Path
) -> None:
    product.json("import", ".", cwd=project)
    filler = disk.fill()

    async def run() -> None:
        async with product.server(project).client() as client:
            is_error, text, _ = await call(client, "search_rules", query=QUESTION)
            assert is_error
            assert str(product.data_dir) in text
            assert "SYMMETRA_DATA_DIR" in text
            filler.unlink()
            assert (await search(client, QUESTION))["hits"][0]["guidance"] == RULE

    play(run)
    product.is_healthy()


@pytest.fixture(params=["a file in its place", pytest.param("read-only", marks=pytest.mark.slow)])
def broken(request: pytest.FixtureRequest, product: Product, tmp_path: Path) -> Callable[[], None]:
    """A data folder that can't be used; calling it makes it usable."""
    if request.param == "read-only":
        disk: Disk = request.getfixturevalue("disk")
        disk.remount("ro")
        return lambda: disk.remount("rw")
    place = tmp_path / "taken"
    place.write_text("")
    product.data_dir = place / "data"
    return place.unlink


@pytest.mark.slow
def test_an_unusable_folder_is_told_at_the_first_search_and_the_same_server_works_once_it_is_usable(
    product: Product, project: Path, broken: Callable[[], None]
) -> None:
    server = product.server(project)

    async def run() -> None:
        async with server.client() as client:
            assert len((await client.list_tools()).tools) == 4
            is_error, text, _ = await call(client, "search_rules", query=QUESTION)
            assert is_error
            assert str(product.data_dir) in text
            assert "SYMMETRA_DATA_DIR" in text
            _, _, health = await call(client, "health_check")
            assert health["status"] == "unhealthy"
            assert str(product.data_dir) in health["components"]["store"]["problem"]
            broken()
            assert (await search(client, QUESTION))["hits"][0]["guidance"] == RULE
            await starter_rule_is_found(client)

    play(run)
    assert "Traceback" not in server.stderr
    assert server.exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("search", "x"), ("import", "."), ("rules", "list"), ("reembed",)])
def test_every_command_ends_with_a_sentence_where_the_folder_is_unusable(
    product: Product, project: Path, disk: Disk, arguments: tuple[str, ...]
) -> None:
    disk.remount("ro")

    done = product.run(*arguments, cwd=project)

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1
    assert str(product.data_dir) in done.stderr
    assert "SYMMETRA_DATA_DIR" in done.stderr


@pytest.mark.slow
def test_a_folder_that_was_moved_away_and_comes_back_serves_the_same_server_again(
    product: Product, project: Path, tmp_path: Path
) -> None:
    async def run() -> None:
        async with product.server(project).client() as client:
            await search(client, QUESTION)
            product.data_dir.rename(tmp_path / "elsewhere")
            product.data_dir.write_text("in the way")
            is_error, text, _ = await call(client, "search_rules", query=QUESTION)
            assert is_error
            assert "SYMMETRA_DATA_DIR" in text
            product.data_dir.unlink()
            (tmp_path / "elsewhere").rename(product.data_dir)
            assert (await search(client, QUESTION))["hits"][0]["guidance"] == RULE

    play(run)
    product.is_healthy()
