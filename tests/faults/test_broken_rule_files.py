"""Rule files that vanish or break while a server runs: it answers on, and forgets nothing it could not read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from product import Product, bullets, call, make_project, play, search, starter_rule_is_found

RULE = "Always weigh the copper ingots twice."
QUESTION = "weigh the copper ingots"
OTHER_RULE = "Never melt silver on a Sunday."
OTHER_QUESTION = "melt silver on sunday"
LOOKED_AGAIN_S = 2.1
"""A server looks at rule files again when this long has passed since it last did."""

VANISH = """
import os
from pathlib import Path
import symmetra_mcp.ingest.importer as importer

find = importer.discover

def discover(paths, root):
    found = find(paths, root)
    if os.path.exists(os.environ["VANISH"] + ".now"):
        Path(os.environ["VANISH"]).unlink(missing_ok=True)
    return found

importer.discover = discover
"""
"""A `sitecustomize` that deletes a file after it was found and before it is read, once it is told to."""


METALS = ("copper", "nickel", "cobalt", "chromium", "titanium", "platinum")


def rule_about(metal: str) -> str:
    return f"Always weigh the {metal} ingots twice."


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = make_project(tmp_path / "mint", OTHER_RULE)
    (project / ".cursor" / "rules").mkdir(parents=True)
    for metal in METALS:
        (project / ".cursor" / "rules" / f"{metal}.mdc").write_text(bullets(rule_about(metal)))
    return project


def invalid_utf8(file: Path) -> None:
    file.write_bytes(b"# Rules\n\n- \xff\xfe\x00\xd8 \x80\x81 never \xc3\x28 trust bytes.\n" + bytes(range(256)) * 20)


def two_megabytes(file: Path) -> None:
    file.write_text(bullets(*(f"Always polish lens number {number}." for number in range(70_000))))


def link_to_itself(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def link_around(file: Path) -> None:
    file.unlink()
    file.symlink_to("other.mdc")
    (file.parent / "other.mdc").symlink_to(file.name)
    (file.parent / "loop").symlink_to(file.parent)


def link_to_nothing(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere.mdc")


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


Break = Callable[[Path], None]
BREAKS: list[Break] = [invalid_utf8, two_megabytes, link_to_itself, link_around, link_to_nothing, pipe]


@pytest.mark.slow
@pytest.mark.parametrize("named", [False, True], ids=["found in the project", "named in SYMMETRA_RULES"])
def test_files_that_turn_unreadable_keep_their_rules_and_the_server_answers_on(
    product: Product, project: Path, named: bool
) -> None:
    files = [project / ".cursor" / "rules" / f"{metal}.mdc" for metal in METALS]
    own = project / "AGENTS.md"
    environment = {"SYMMETRA_RULES": ":".join(map(str, [own, *files]))} if named else {}
    server = product.server(project, **environment)

    async def run() -> None:
        async with server.client() as client:
            await search(client, OTHER_QUESTION)
            for break_it, file in zip(BREAKS, files, strict=True):
                break_it(file)
            own.write_text(bullets(OTHER_RULE, "Always light the furnace from the left."))
            await anyio.sleep(LOOKED_AGAIN_S)
            for metal in METALS:
                answer = await search(client, f"weigh the {metal} ingots")
                assert answer["hits"][0]["guidance"] == rule_about(metal)
            assert (await search(client, OTHER_QUESTION))["hits"][0]["guidance"] == OTHER_RULE
            assert "furnace" in (await search(client, "light the furnace"))["hits"][0]["guidance"]
            await starter_rule_is_found(client)
            _, text, _ = await call(client, "health_check")
            assert ("can't be found" in text) is named

    play(run)
    assert "Traceback" not in server.stderr
    assert server.exit_code == 0


@pytest.mark.slow
def test_a_file_deleted_between_being_found_and_being_read_keeps_its_rules(
    product: Product, project: Path, tmp_path: Path
) -> None:
    file = project / ".cursor" / "rules" / "copper.mdc"
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "sitecustomize.py").write_text(VANISH)
    product.environment = {"PYTHONPATH": str(tmp_path / "probe"), "VANISH": str(file)}
    product.json("import", ".", cwd=project)
    Path(f"{file}.now").write_text("")

    report = product.json("import", ".", "--prune", cwd=project)

    assert not file.exists()
    assert [skipped["reason"] for skipped in report["skipped"]] == ["can't be read: No such file or directory"]
    assert report["counts"]["removed"] == 0
    assert product.json("search", QUESTION, "--no-sync", cwd=project)["hits"][0]["guidance"] == RULE
    assert product.json("import", ".", "--prune", cwd=project)["counts"]["removed"] == 1  # gone for good now


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["the file", "a folder in its place", "the whole project"])
def test_rules_of_a_file_that_is_gone_leave_and_come_back_with_it(product: Product, project: Path, gone: str) -> None:
    file = project / ".cursor" / "rules" / "copper.mdc"
    server = product.server(project)

    async def run() -> None:
        async with server.client() as client:
            assert (await search(client, QUESTION))["hits"][0]["guidance"] == RULE
            moved = project.with_name("moved")
            if gone == "the whole project":
                await anyio.Path(project).rename(moved)
            else:
                file.unlink()
            if gone == "a folder in its place":
                file.mkdir()
            await anyio.sleep(LOOKED_AGAIN_S)
            await starter_rule_is_found(client)
            if gone == "the whole project":
                assert (await search(client, QUESTION))["hits"][0]["guidance"] == RULE
                await anyio.Path(moved).rename(project)
            else:
                assert RULE not in [hit["guidance"] for hit in (await search(client, QUESTION))["hits"]]
                shutil.rmtree(file, ignore_errors=True)
                file.write_text(bullets(RULE))
            (project / "AGENTS.md").write_text(bullets(OTHER_RULE, "Always light the furnace from the left."))
            await anyio.sleep(LOOKED_AGAIN_S)
            assert (await search(client, QUESTION))["hits"][0]["guidance"] == RULE

    play(run)
    assert server.exit_code == 0
