"""The first search, while the model is still being loaded in another thread."""

from __future__ import annotations

from pathlib import Path

import pytest
from product import Product, make_project, play, search

RULE = "Always weigh the copper ingots twice."

MEET = """
import importlib.abc, importlib.machinery, sys, threading, time

importing_numpy = threading.Event()

class Slowly(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in ("onnxruntime", "numpy.__config__"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module
        def wait(module):
            if name == "onnxruntime":
                importing_numpy.wait(10)
            else:
                importing_numpy.set()
                time.sleep(1)
            execute(module)
        spec.loader.exec_module = wait
        return spec

sys.meta_path.insert(0, Slowly())
"""
"""A `sitecustomize` under which the model's library is loaded in the middle of a search's import of numpy."""


@pytest.mark.slow
def test_a_search_that_needs_numpy_while_the_models_library_loads_answers_by_meaning(
    product: Product, tmp_path: Path
) -> None:
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "sitecustomize.py").write_text(MEET)
    server = product.server(make_project(tmp_path / "mint", RULE), PYTHONPATH=str(tmp_path / "probe"))

    async def run() -> None:
        async with server.client() as client:
            answer = await search(client, "weigh the copper ingots")
            assert answer["hits"][0]["guidance"] == RULE
            assert answer["mode"] == "hybrid"

    play(run)
    assert server.stderr == ""
    assert server.exit_code == 0
