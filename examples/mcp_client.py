"""Talk to the server as an editor does: over stdio, with the official MCP client.

Needs no key and no network. Run it with `python examples/mcp_client.py`. The store lies in a temporary folder, or in
`SYMMETRA_DATA_DIR` where that is set.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import anyio
from mcp import Client, StdioServerParameters

from symmetra_mcp.config import load_settings

CLAUDE_MD = """# Database

- Always add a database column as nullable first, fill it in batches, and only then make it required.
"""


async def main(folder: Path) -> None:
    """Start the server in a project, list its tools, search, and read a whole rule."""
    project = folder / "shop"
    (project / ".git").mkdir(parents=True)  # what marks the root of a project
    (project / "CLAUDE.md").write_text(CLAUDE_MD, "utf-8")
    # An MCP client hands a server few variables of its own environment: what counts is named here.
    environment = {
        "SYMMETRA_DATA_DIR": str(load_settings().data_dir or folder / "data"),
        "SYMMETRA_PROJECT": "example-shop",
    }
    server = StdioServerParameters(command=sys.executable, args=["-m", "symmetra_mcp"], env=environment, cwd=project)
    async with Client(server) as client:
        for tool in (await client.list_tools()).tools:
            print(f"tool {tool.name}: {(tool.description or '').partition('.')[0]}.")
        found = await client.call_tool(
            "search_rules", {"query": "add a required column to the orders table of the database", "limit": 2}
        )
        hits = (found.structured_content or {})["hits"]
        for hit in hits:
            print(f"hit {hit['rule_id']} ({hit['priority']}) from {hit['source']}: {hit['title']}")
        rule = await client.read_resource(f"rule://{hits[0]['project_id']}/{hits[0]['rule_id']}")
        for part in rule.contents:
            print(getattr(part, "text", ""))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        anyio.run(main, Path(temporary))
