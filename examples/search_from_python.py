"""Import the rule files of a project and search them, in Python: what the server and the command line do.

Needs no key and no network. Run it with `python examples/search_from_python.py`. The store lies in a temporary folder,
or in `SYMMETRA_DATA_DIR` where that is set.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import anyio

from symmetra_mcp.app import open_app
from symmetra_mcp.config import load_settings
from symmetra_mcp.search import SearchRequest

TEAM_RULES = Path(__file__).with_name("team-rules.yaml")
AGENTS_MD = """# Shop

## Error handling

- Always wrap errors of the payment provider in `PaymentError`, and keep the original as its cause.
- Never show a stack trace to a customer.

## Frontend

- Use the design tokens of `theme.css`; never write a color by hand.
"""


def write_project(folder: Path) -> None:
    """A small project: an AGENTS.md, and rules in our own form."""
    (folder / ".git").mkdir(parents=True)  # what marks the root of a project
    (folder / "AGENTS.md").write_text(AGENTS_MD, "utf-8")
    shutil.copy(TEAM_RULES, folder / "symmetra-rules.yaml")


async def main(folder: Path) -> None:
    """Import, then ask with a file in hand."""
    project = folder / "shop"
    write_project(project)
    data_dir = load_settings().data_dir or folder / "data"
    async with open_app(load_settings(data_dir=data_dir, project="example-shop", project_dir=project)) as app:
        imported = await app.import_rules([project])
        print(f"{len(imported.report.files)} files, {len(imported.report.added)} rules added")
        request = SearchRequest(query="retry a payment that timed out", file_path="src/payments/client.py", limit=3)
        answer = await app.search(request)
        for hit in answer.hits:
            source = hit.rule.sources[0]
            print(f"{hit.score:.2f}  {hit.rule.title}  [{hit.rule.priority}, {source}]  {', '.join(hit.why.words)}")
        print(f"{answer.considered} rules considered, {answer.out_of_scope} more are about other files ({answer.mode})")
        await app.delete_project("example-shop")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        anyio.run(main, Path(temporary))
