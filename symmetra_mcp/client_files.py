"""Our entry in the file of an MCP client, and nothing else of it: comments, order and other servers stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from symmetra_mcp.clients import SERVER_NAME, McpClient
from symmetra_mcp.errors import ConfigError
from symmetra_mcp.jsonc import JsoncError, parsed, with_member, without_member
from symmetra_mcp.whole_files import write_whole


@dataclass(frozen=True, slots=True)
class FileChange:
    """What becomes of a file.

    Attributes:
        path: The file.
        before: Its bytes, or `None` where there is none.
        after: Its bytes then.
        backup: Where `write_change` kept the former bytes; `None` where there were none, or nothing was written.
    """

    path: Path
    before: bytes | None
    after: bytes
    backup: Path | None = None

    @property
    def is_change(self) -> bool:
        """Whether anything differs."""
        return self.after != (self.before or b"")


def planned(client: McpClient, path: Path, entry: Mapping[str, Any] | None) -> FileChange:
    """The file with our entry, or without it where `entry` is `None`. Nothing is written.

    Raises:
        ConfigError: The file can't be read, or is not what such a file should be.
    """
    try:
        before = path.read_bytes() if path.exists() else None
        text = (before or b"").decode("utf-8")
        after = _edited(client, text, entry)
    except OSError as exc:
        raise ConfigError(f"{str(path)!r} can't be read: {exc.strerror or exc}") from None
    except ValueError as exc:  # no UTF-8, no JSON, no TOML
        raise ConfigError(
            f"{str(path)!r} is damaged, so nothing was changed: {exc}. Repair it, then try again"
        ) from None
    return FileChange(path, before, after.encode("utf-8"))


def write_change(change: FileChange) -> FileChange:
    """Write a planned change; the file is whole at every moment, and its former bytes are kept beside it.

    Raises:
        ConfigError: It can't be written, or somebody else has changed it since.
    """
    path = change.path.resolve()  # a link stays a link
    backup = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = 0o600  # keys may come into it
        if change.before is not None:
            mode = path.stat().st_mode & 0o777
            backup = _backup_path(path)
            write_whole(backup, change.before, mode=mode)
        if (path.read_bytes() if path.exists() else None) != change.before:
            raise ConfigError(f"{str(path)!r} has just been changed by another program: try again")
        write_whole(path, change.after, mode=mode)
    except OSError as exc:
        raise ConfigError(f"{str(path)!r} can't be written: {exc.strerror or exc}") from None
    return FileChange(change.path, change.before, change.after, backup)


def _edited(client: McpClient, text: str, entry: Mapping[str, Any] | None) -> str:
    where = (*client.servers, SERVER_NAME)
    if client.form == "toml":
        return _edited_toml(text, where, entry)
    if entry is None:
        return without_member(text, where)
    if _at(parsed(text), where) == entry:
        return text
    return with_member(text, where, dict(entry))


def _at(data: Any, where: Sequence[str]) -> Any:
    for name in where:
        data = data.get(name) if isinstance(data, dict) else None
    return data


def _edited_toml(text: str, where: Sequence[str], entry: Mapping[str, Any] | None) -> str:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        (group, name) = where
        servers = document.get(group)
        if servers is not None and not isinstance(servers, dict):
            raise JsoncError(f"`{group}` is no table")
        if entry is None:
            if servers is None or name not in servers:
                return text
            del servers[name]
            if not servers:
                del document[group]
            return tomlkit.dumps(document)
        if servers is not None and name in servers and servers[name].unwrap() == entry:
            return text
        if servers is None:
            document[group] = servers = tomlkit.table(is_super_table=True)
        servers[name] = dict(entry)
        return tomlkit.dumps(document)
    except TOMLKitError as exc:
        raise JsoncError(str(exc)) from None


def _backup_path(path: Path) -> Path:
    """A name that is free."""
    stem = f"{path.name}.backup-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    candidates = (path.with_name(stem if not number else f"{stem}-{number}") for number in range(1000))
    return next(candidate for candidate in candidates if not candidate.exists())
