"""Write what the server answers at every start, so that it can before the SDK is imported.

    python tools/build_snapshot.py [--check]

The answers are asked of the server itself, in every version of the protocol; run it again when a tool, the
instructions or the version change.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from mcp.server.runner import serve_dual_era_loop  # noqa: E402
from mcp.shared.message import SessionMessage  # noqa: E402
from mcp_types import JSONRPCRequest  # noqa: E402
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_MODERN_VERSION  # noqa: E402

from symmetra_mcp.app import make_app  # noqa: E402
from symmetra_mcp.config import Settings  # noqa: E402
from symmetra_mcp.server import initialization_options, make_server  # noqa: E402
from symmetra_mcp.stdio.snapshot import FILE  # noqa: E402
from symmetra_mcp.upkeep import Upkeep  # noqa: E402
from symmetra_mcp.writing_tools import make_writing_tools  # noqa: E402

LISTS = ("tools/list", "resources/templates/list", "prompts/list")
LEGACY = ("initialize", *LISTS, "ping")
MODERN = ("server/discover", *LISTS)


def live_answers(settings: Settings, version: str) -> dict[str, str]:
    """What a server says to each question that opens a connection: JSON as it is sent, by method.

    Args:
        settings: Its settings; its data folder is made.
        version: The protocol's version.
    """
    is_modern = version == LATEST_MODERN_VERSION
    if is_modern:
        meta = {
            "io.modelcontextprotocol/protocolVersion": version,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "snapshot", "version": "1"},
        }
        questions: dict[str, Any] = {method: {"_meta": meta} for method in MODERN}
    else:
        hello = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "snapshot", "version": "1"}}
        questions = {method: hello if method == "initialize" else None for method in LEGACY}

    async def ask() -> dict[str, str]:
        server = make_server(make_app(settings))
        low_level = server._lowlevel_server
        to_server, from_client = anyio.create_memory_object_stream[SessionMessage | Exception](len(questions))
        to_client, from_server = anyio.create_memory_object_stream[SessionMessage](len(questions))
        answers = {}
        async with low_level.lifespan(low_level) as state, to_server, from_server, anyio.create_task_group() as tasks:

            async def serve() -> None:
                options = initialization_options(server)
                await serve_dual_era_loop(low_level, from_client, to_client, lifespan_state=state, init_options=options)

            tasks.start_soon(serve)
            for method, params in questions.items():
                request = JSONRPCRequest(jsonrpc="2.0", id=method, method=method, params=params)
                await to_server.send(SessionMessage(request))
                answer = (await from_server.receive()).message.model_dump_json(by_alias=True, exclude_unset=True)
                beginning = f'{{"jsonrpc":"2.0","id":"{method}","result":'
                if not answer.startswith(beginning):
                    raise SystemExit(f"{method} in {version}: {answer}")
                answers[method] = answer.removeprefix(beginning).removesuffix("}")
            tasks.cancel_scope.cancel()
        return answers

    return anyio.run(ask)


def snapshot(folder: Path) -> str:
    """The file that the server reads.

    Args:
        folder: An empty folder for the servers that are asked.
    """
    settings = Settings(allow_writes=True, store="embedded", embedding_backend="local", data_dir=folder, rules=())
    by_version = {version: live_answers(settings, version) for version in HANDSHAKE_PROTOCOL_VERSIONS}
    initialize = {version: json.loads(answers.pop("initialize")) for version, answers in by_version.items()}
    legacy = by_version[HANDSHAKE_PROTOCOL_VERSIONS[-1]]
    if any(answers != legacy for answers in by_version.values()):
        raise SystemExit("the SDK answers differently in the versions before the last: the snapshot has one for all")
    held = {
        "modern_version": LATEST_MODERN_VERSION,
        "writing": [tool.name for tool in make_writing_tools(Upkeep(make_app(settings)))],
        "initialize": initialize,
        "legacy": {method: json.loads(answer) for method, answer in legacy.items()},
        "modern": {
            method: json.loads(answer) for method, answer in live_answers(settings, LATEST_MODERN_VERSION).items()
        },
    }
    return json.dumps(held, ensure_ascii=False, indent=1) + "\n"


def main() -> None:
    """Write the file, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where the file is not what it should be"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        content = snapshot(Path(folder))
    file = Path(FILE)
    if arguments.check:
        if not file.is_file() or file.read_text("utf-8") != content:
            raise SystemExit(f"{file.relative_to(REPOSITORY)} is not what the server says: run tools/build_snapshot.py")
        return
    file.write_text(content, "utf-8")
    print(f"{file.relative_to(REPOSITORY)}: {len(content):,} bytes")


if __name__ == "__main__":
    main()
