"""A model file that is damaged or missing: words answer, and the answer says so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from product import STARTER_QUESTION, Product, call, make_project, play, search, starter_rule_is_found

import symmetra_mcp

MODEL, TOKENIZER = "minilm-l6-v2-int8.onnx", "tokenizer.json"
PACKAGE = Path(symmetra_mcp.__file__).parent
RULE = "Always weigh the copper ingots twice."


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1_000_000])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "break_it", "cause"),
    [
        (MODEL, flip_a_byte, "is damaged or not ours"),
        (MODEL, cut, "is damaged or not ours"),
        (MODEL, Path.unlink, "can't be read"),
        (TOKENIZER, flip_a_byte, "is damaged or not ours"),
    ],
    ids=["a byte of the model", "half a model", "no model", "a byte of the tokenizer"],
)
def test_words_answer_where_the_model_cant_be_used(
    product: Product, tmp_path: Path, name: str, break_it: Callable[[Path], None], cause: str
) -> None:
    shutil.copytree(PACKAGE, tmp_path / "site" / "symmetra_mcp", ignore=shutil.ignore_patterns("__pycache__"))
    break_it(tmp_path / "site" / "symmetra_mcp" / "_data" / name)
    whole = product.environment
    product.environment = {"PYTHONPATH": str(tmp_path / "site")}
    project = make_project(tmp_path / "mint", RULE)
    server = product.server(project)

    async def run() -> None:
        async with server.client() as client:
            for query, expected in (("weigh the copper ingots", RULE), (STARTER_QUESTION, "")):
                answer = await search(client, query)
                assert answer["mode"] == "words"
                assert cause in answer["degraded"]
                assert "pip install --force-reinstall symmetra-mcp" in answer["degraded"]
                assert answer["hits"]
                assert expected in answer["hits"][0]["guidance"]
            _, text, health = await call(client, "health_check")
            assert health["status"] == "degraded"
            assert health["components"]["embedding"]["status"] == "unhealthy"
            assert "pip install --force-reinstall symmetra-mcp" in health["components"]["embedding"]["problem"]
            assert "pip install --force-reinstall symmetra-mcp" in text

    play(run)
    assert server.exit_code == 0
    imported = product.run("import", ".", cwd=project)
    assert imported.returncode == 1
    assert imported.stderr.startswith("Error: the model file ")
    assert "Traceback" not in imported.stderr

    product.environment = whole
    product.json("import", ".", cwd=project)
    product.is_healthy()

    async def mended() -> None:
        async with product.server(project).client() as client:
            assert (await starter_rule_is_found(client))["mode"] == "hybrid"

    play(mended)
