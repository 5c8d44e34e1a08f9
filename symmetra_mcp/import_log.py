"""Which paths were imported, kept beside the store: a store that begins anew reads them again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from symmetra_mcp.whole_files import write_whole

FILE_NAME = "imports.json"


@dataclass(frozen=True, slots=True)
class ImportRecord:
    """One import: everything `import_files` needs to repeat it."""

    project_id: str
    root: str
    paths: tuple[str, ...]


def read_imports(folder: Path) -> list[ImportRecord]:
    """Every import recorded, oldest first; a file that can't be read counts as empty."""
    try:
        entries = json.loads((folder / FILE_NAME).read_text("utf-8"))
        return [ImportRecord(entry["project_id"], entry["root"], tuple(entry["paths"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def record_import(folder: Path, record: ImportRecord) -> None:
    """Remember an import, replacing older ones of the same paths; the file is whole at every moment.

    Raises:
        OSError: The folder can't be written.
    """
    kept = [entry for entry in read_imports(folder) if (entry.root, entry.paths) != (record.root, record.paths)]
    _write(folder, [*kept, record])


def forget_project(folder: Path, project_id: str) -> None:
    """Don't read a project's files again.

    Raises:
        OSError: The folder can't be written.
    """
    _write(folder, [entry for entry in read_imports(folder) if entry.project_id != project_id])


def _write(folder: Path, records: Sequence[ImportRecord]) -> None:
    entries = [{"project_id": entry.project_id, "root": entry.root, "paths": entry.paths} for entry in records]
    write_whole(folder / FILE_NAME, json.dumps(entries, indent=1).encode())
