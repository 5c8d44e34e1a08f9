"""Answers that are the same at every start, written down when the package was built.

Clients open with the same few questions. These answers need neither the SDK nor the settings, but for which tools there
are. What is not asked exactly as expected is left to the SDK. Only modules of the standard library that are quick to
import may be imported here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_data", "snapshot.json")
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
_CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
_CLIENT_KEY = "io.modelcontextprotocol/clientInfo"
_TOOL_SETTINGS = ("SYMMETRA_ALLOW_WRITES", "SYMMETRA_READ_ONLY", "SYMMETRA_TOOLS")
_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"", "0", "false", "no", "off"})


class ToolChoice:
    """Which tools the settings leave, as far as that is plain without reading all settings."""

    def __init__(self, *, read_only: bool = False, allow_writes: bool = False, names: Sequence[str] = ()) -> None:
        """Choose.

        Args:
            read_only: Only those that change nothing.
            allow_writes: Those that write rules too.
            names: These alone; empty for all.
        """
        self.read_only = read_only
        self.allow_writes = allow_writes
        self.names = names

    @classmethod
    def of(cls, flags: Mapping[str, Any], environment: Mapping[str, str], env_file: str) -> ToolChoice | None:
        """What flags and environment say, or `None` where the settings themselves must be asked.

        Args:
            flags: Settings that the command line gave: they win.
            environment: The environment.
            env_file: The `.env` of the working folder, whether it exists or not.
        """
        values = {name.upper(): value.strip() for name, value in environment.items() if name.upper() in _TOOL_SETTINGS}
        writes, read_only, names = (values.get(name, "") for name in _TOOL_SETTINGS)
        if {writes.lower(), read_only.lower()} - _YES - _NO or "${" in names or _mentions_tools(env_file):
            return None
        return cls(
            read_only=flags.get("read_only", read_only.lower() in _YES),
            allow_writes=flags.get("allow_writes", writes.lower() in _YES),
            names=flags.get("tools", tuple(name.strip() for name in names.split(",") if name.strip())),
        )

    def leaves(self, tools: Sequence[dict[str, Any]], writing: Sequence[str]) -> list[dict[str, Any]] | None:
        """The tools that are left, or `None` where a name is no tool's.

        Args:
            tools: Every tool, as clients see it.
            writing: Names of those that write rules.
        """
        if set(self.names) - {tool["name"] for tool in tools}:
            return None
        return [
            tool
            for tool in tools
            if (self.allow_writes or tool["name"] not in writing)
            and (not self.read_only or tool["annotations"]["readOnlyHint"])
            and (not self.names or tool["name"] in self.names)
        ]


class Snapshot:
    """Answers to the questions that open a connection."""

    def __init__(self, file: str, choice: ToolChoice | None) -> None:
        """Read the answers.

        Args:
            file: Where `tools/build_snapshot.py` wrote them.
            choice: Which tools there are; `None` answers no `tools/list`.

        Raises:
            OSError: The file can't be read.
            ValueError: The file is damaged.
        """
        with open(file, "rb") as stream:
            held = json.load(stream)
        self._initialize: dict[str, dict[str, Any]] = held["initialize"]
        self._legacy: dict[str, dict[str, Any]] = held["legacy"]
        self._modern: dict[str, dict[str, Any]] = held["modern"]
        self._modern_version: str = held["modern_version"]
        for answers in (self._legacy, self._modern):
            listed = answers.pop("tools/list")
            left = choice and choice.leaves(listed["tools"], held["writing"])
            if left is not None:
                answers["tools/list"] = {**listed, "tools": left}
        self._version: str | None = None

    def answer(self, message: dict[str, Any]) -> str | None:
        """The result for a request as JSON, or `None` where the SDK must answer.

        Args:
            message: A request that is well-formed as JSON-RPC.
        """
        result = self._result(message)
        return None if result is None else compact(result)

    def _result(self, message: dict[str, Any]) -> dict[str, Any] | None:
        method, params = message["method"], message.get("params")
        if params is None:
            params = {}
        if not isinstance(params, dict) or (set(params) - {"_meta"} and method != "initialize"):
            return None
        if method == "initialize":
            return self._greeting(params)
        meta = params.get("_meta")
        if isinstance(meta, dict) and VERSION_KEY in meta:
            return self._modern.get(method) if self._is_modern(meta) else None
        return self._legacy.get(method) if self._version is not None and meta is None else None

    def _greeting(self, params: dict[str, Any]) -> dict[str, Any] | None:
        version = params.get("protocolVersion")
        if self._version is not None or not isinstance(version, str) or version not in self._initialize:
            return None
        if set(params) - {"protocolVersion", "capabilities", "clientInfo"}:
            return None
        if not isinstance(params.get("capabilities"), dict) or not _names_itself(params.get("clientInfo")):
            return None
        self._version = version
        return self._initialize[version]

    def _is_modern(self, meta: dict[str, Any]) -> bool:
        return (
            meta[VERSION_KEY] == self._modern_version
            and isinstance(meta.get(_CAPABILITIES_KEY), dict)
            and (_CLIENT_KEY not in meta or _names_itself(meta[_CLIENT_KEY]))
            and not set(meta) - {VERSION_KEY, _CAPABILITIES_KEY, _CLIENT_KEY}
        )


def compact(value: object) -> str:
    """JSON as the SDK writes it, byte for byte."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def snapshot_of_this_start(flags: Mapping[str, Any]) -> Snapshot | None:
    """The answers for a server that starts here and now, or `None` where there are none: the SDK then answers all.

    Args:
        flags: What the command line says of tools.
    """
    try:
        return Snapshot(FILE, ToolChoice.of(flags, os.environ, ".env"))
    except (OSError, ValueError, LookupError):
        return None


def _names_itself(client: Any) -> bool:
    return isinstance(client, dict) and isinstance(client.get("name"), str) and isinstance(client.get("version"), str)


def _mentions_tools(env_file: str) -> bool:
    """Whether a file may set which tools there are; what can't be read may."""
    try:
        if not os.path.isfile(env_file):
            return os.path.exists(env_file) and not os.path.isdir(env_file)  # a pipe can be read only once
        with open(env_file, "rb") as stream:
            letters = stream.read().replace(b"\0", b"").upper()
    except OSError:
        return True
    return any(name.encode() in letters for name in _TOOL_SETTINGS)
