"""Write `server.json`, by which MCP registries list this server, and the bundle that Claude Desktop installs.

    python tools/build_manifests.py [--check] [--bundle FOLDER]

Both are made of the settings and the version. `server.json` has the form of
https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json, the bundle's manifest that of
https://github.com/modelcontextprotocol/mcpb/blob/main/MANIFEST.md. `npx @anthropic-ai/mcpb pack FOLDER` makes the one
file that a person opens with Claude Desktop; uv installs the package of the same version when that is done.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from symmetra_mcp import __version__  # noqa: E402
from symmetra_mcp.app import make_app  # noqa: E402
from symmetra_mcp.config import Settings, variable_of  # noqa: E402
from symmetra_mcp.tools import make_tools  # noqa: E402
from symmetra_mcp.upkeep import Upkeep  # noqa: E402

NAME = "io.github.symmetra-mcp/symmetra-mcp"
"""README.md holds it too, for the registry looks there whether the package is the server's."""
ASKED_FOR = {
    "project_dir": ("Project folder", "directory"),
    "openai_api_key": ("OpenAI key", "string"),
    "cohere_api_key": ("Cohere key", "string"),
    "supabase_url": ("Supabase address", "string"),
    "supabase_key": ("Supabase key", "string"),
}
"""Settings that Claude Desktop asks for: title and kind. What is left empty counts as not set."""
DESCRIPTION = "Hands an AI assistant the few of your team's coding rules that matter for what it writes."


def server() -> dict[str, Any]:
    """What `server.json` holds."""
    variables = [_variable(variable_of(name), field) for name, field in Settings.model_fields.items()]
    package = {
        "registryType": "pypi",
        "registryBaseUrl": "https://pypi.org",
        "identifier": "symmetra-mcp",
        "version": __version__,
        "runtimeHint": "uvx",
        "transport": {"type": "stdio"},
        "environmentVariables": variables,
    }
    return {
        "$schema": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json",
        "name": NAME,
        "title": "Symmetra rules",
        "description": DESCRIPTION,
        "version": __version__,
        "packages": [package],
    }


def manifest() -> dict[str, Any]:
    """What the bundle's `manifest.json` holds."""
    fields = {name: Settings.model_fields[name] for name in ASKED_FOR}
    tools = make_tools(Upkeep(make_app(Settings())))
    return {
        "manifest_version": "0.4",
        "name": "symmetra-mcp",
        "display_name": "Symmetra rules",
        "version": __version__,
        "description": DESCRIPTION,
        "author": {"name": "The symmetra-mcp authors"},
        "license": "Apache-2.0",
        "server": {
            "type": "uv",
            "entry_point": "server.py",
            "mcp_config": {
                "command": "uv",
                "args": ["run", "--directory", "${__dirname}", "server.py"],
                "env": {variable_of(name): f"${{user_config.{name}}}" for name in ASKED_FOR},
            },
        },
        "tools": [{"name": tool.name, "description": tool.title or tool.name} for tool in tools],
        "compatibility": {"platforms": ["darwin", "linux", "win32"], "runtimes": {"python": ">=3.11"}},
        "user_config": {
            name: {
                "type": ASKED_FOR[name][1],
                "title": ASKED_FOR[name][0],
                "description": (field.description or "").replace("`", ""),
                "required": False,
                **({"sensitive": True} if SecretStr in _kinds(field.annotation) else {}),
            }
            for name, field in fields.items()
        },
    }


def write_bundle(folder: Path) -> None:
    """The files of the bundle."""
    folder.mkdir(parents=True, exist_ok=True)
    project = f'[project]\nname = "symmetra-mcp-bundle"\nversion = "{__version__}"\nrequires-python = ">=3.11"\n'
    files = {
        "manifest.json": text_of(manifest()),
        "pyproject.toml": f'{project}dependencies = ["symmetra-mcp=={__version__}"]\n',
        "server.py": '"""Starts the server."""\n\nfrom symmetra_mcp.__main__ import main\n\nraise SystemExit(main())\n',
    }
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")


def _variable(name: str, field: FieldInfo) -> dict[str, Any]:
    """One setting as the registry describes it; none is required."""
    described: dict[str, Any] = {"name": name, "description": (field.description or "").replace("`", "")}
    kinds = _kinds(field.annotation)
    if SecretStr in kinds:
        described["isSecret"] = True
    elif bool in kinds:
        described |= {"format": "boolean", "default": str(field.default).lower()}
    elif kinds & {int, float}:
        described["format"] = "number"
    elif Path in kinds:
        described["format"] = "filepath"
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if choices:
        described["choices"] = choices
    if (isinstance(field.default, str) and field.default) or isinstance(field.default, int | float):
        described.setdefault("default", str(field.default))
    return described


def _kinds(annotation: Any) -> set[Any]:
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        return {kind for part in get_args(annotation) for kind in _kinds(part)}
    return {annotation}


def text_of(manifest: dict[str, Any]) -> str:
    """A manifest as the file holds it."""
    return json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the file, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the file differs")
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="write the bundle's files into this folder too")
    arguments = parser.parse_args()
    if arguments.bundle is not None:
        write_bundle(arguments.bundle)
    path, text = REPOSITORY / "server.json", text_of(server())
    if not arguments.check:
        path.write_text(text, "utf-8")
    elif not path.exists() or path.read_text("utf-8") != text:
        print(f"{path.name} differs: run python tools/build_manifests.py", file=sys.stderr)
        return 1
    if not re.search(rf"mcp-name: {re.escape(NAME)}\s", (REPOSITORY / "README.md").read_text("utf-8")):
        print(f"README.md lacks `mcp-name: {NAME}`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
