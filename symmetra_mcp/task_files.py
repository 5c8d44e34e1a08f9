"""Tasks of MCP clients, a file each: a task's id is good for asking after the server's end too, however that came."""

from __future__ import annotations

import re
import secrets
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from symmetra_mcp.whole_files import write_whole

FOLDER_NAME = "tasks"
TTL_MS = 86_400_000
"""How long a task can be asked for, from its beginning."""
POLL_INTERVAL_MS = 1_000
_ID = re.compile(r"[A-Za-z0-9_-]{20,64}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _new_id() -> str:
    return secrets.token_urlsafe(24)


class TaskRecord(BaseModel):
    """One task, with the fields of SEP-2663 as they go over the wire, and what it takes to go on with it.

    Attributes:
        task_id: Hard to guess: whoever knows it may ask for the result.
        status: The last three are final; `input_required` is told and never kept, as whoever goes on asks anew.
        created_at: ISO 8601, UTC.
        last_updated_at: ISO 8601, UTC.
        ttl_ms: How long it is kept.
        poll_interval_ms: How often to ask.
        status_message: For people.
        input_requests: Questions that wait for an answer, by id.
        result: A completed task's `CallToolResult`.
        error: A failed task's JSON-RPC error.
        force: Argument of the call that began it.
        owner: Client, issuer and subject of the token that it was begun with; `None` where none is asked for.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    task_id: str = Field(default_factory=_new_id)
    status: Literal["working", "input_required", "completed", "failed", "cancelled"] = "working"
    created_at: str = Field(default_factory=_now)
    last_updated_at: str = Field(default_factory=_now)
    ttl_ms: int = TTL_MS
    poll_interval_ms: int = POLL_INTERVAL_MS
    status_message: str | None = None
    input_requests: dict[str, dict[str, Any]] | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    force: bool = False
    owner: tuple[str | None, ...] | None = None

    @property
    def is_expired(self) -> bool:
        """Whether nobody may ask for it any more."""
        age_s = datetime.now(UTC).timestamp() - datetime.fromisoformat(self.created_at).timestamp()
        return age_s * 1000 > self.ttl_ms

    def wire(self) -> dict[str, Any]:
        """As a client reads it."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"force", "owner"})

    def changed(self, **changes: Any) -> TaskRecord:
        """The same task, updated now."""
        return self.model_copy(update={"last_updated_at": _now(), **changes})


class TaskFiles:
    """Tasks in a folder; each file is whole at every moment."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; it is made when a task is first written."""
        self._folder = folder

    def read(self, task_id: str) -> TaskRecord | None:
        """A task, or `None` where there is none of this id, or none any more."""
        if not _ID.fullmatch(task_id):
            return None
        try:
            record = TaskRecord.model_validate_json(self._path(task_id).read_bytes())
        except (OSError, ValidationError):
            return None
        return None if record.is_expired else record

    def write(self, record: TaskRecord) -> None:
        """Keep a task, and delete those whose time is over.

        Raises:
            OSError: The folder can't be written.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(self._path(record.task_id), record.model_dump_json(by_alias=True, exclude_none=True).encode())
        self._delete_old()

    def _delete_old(self) -> None:
        kept_from = time.time() - 2 * TTL_MS / 1000
        with suppress(OSError):
            for path in self._folder.iterdir():
                if path.stat().st_mtime < kept_from:
                    path.unlink(missing_ok=True)

    def _path(self, task_id: str) -> Path:
        return self._folder / f"{task_id}.json"
