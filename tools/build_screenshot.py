"""Draw docs/search.svg, the picture in README.md, from a real search of a fresh store."""

from __future__ import annotations

import io
import re
import tempfile
from pathlib import Path

import anyio
from rich.console import Console
from rich.text import Text

from symmetra_mcp.app import open_app
from symmetra_mcp.config import load_settings
from symmetra_mcp.schemas import search_result
from symmetra_mcp.search import SearchRequest
from symmetra_mcp.tables import search_answer

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "search.svg"
QUERY = "which vector database should we use?"
WIDTH = 100
_FONT_FACES = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""rich links fonts from elsewhere; a picture should load nothing."""


async def draw() -> str:
    """The answer as an SVG."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False, force_terminal=True)
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(data_dir=Path(folder) / "data", project_dir=Path(folder))
        async with open_app(settings) as app:
            answer = await app.search(SearchRequest(query=QUERY))
    console.print(Text(f'$ symmetra-mcp search "{QUERY}"', style="bold"))
    console.print(search_answer(search_result(answer)))
    return _FONT_FACES.sub("", console.export_svg(title="symmetra-mcp", unique_id="symmetra"))


if __name__ == "__main__":
    PICTURE.write_text(anyio.run(draw), "utf-8")
    print(PICTURE.name)
