"""Stores made for one evaluation and gone after it: of a labelled set's rules, or a copy of the team's."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from symmetra_mcp.app import App, open_app
from symmetra_mcp.config import Settings, load_settings, settings_with, variable_of
from symmetra_mcp.errors import ConfigError, EvaluationError
from symmetra_mcp.project import STARTER_PROJECT
from symmetra_mcp.transfer import copy_rules

if TYPE_CHECKING:
    from symmetra_mcp.evaluation.beir import LabelledSet
    from symmetra_mcp.types import ProgressCallback

PROJECT = "eval"
"""Project of a labelled set's rules."""
_OF_PROVIDERS = ("embedding_", "openai_", "cohere_", "co_", "spending_limit")
_FILE_CHARACTERS = 16_000_000
"""Rules in one file, so that none is larger than an import reads: a character takes up to four bytes."""


def refuse_other_settings(variables: Iterable[str]) -> None:
    """Refuse variables that are no provider's: both configurations search the same rules.

    Raises:
        ConfigError: One is not.
    """
    comparable = {variable_of(name) for name in Settings.model_fields if name.startswith(_OF_PROVIDERS)}
    known = set(map(variable_of, Settings.model_fields))
    for variable in variables:
        if variable in known - comparable:
            raise ConfigError(
                f"`{variable}` can't be compared: both configurations search the same rules. "
                f"There are: {', '.join(sorted(comparable))}"
            )


@asynccontextmanager
async def corpus_app(
    labelled: LabelledSet, variables: Mapping[str, str], *, on_progress: ProgressCallback | None = None
) -> AsyncIterator[App]:
    """An app over a temporary store that holds a labelled set's rules, imported and embedded.

    What vendors bill is counted where it always is, and the spending limit holds.

    Args:
        labelled: The rules.
        variables: Settings that win over the environment.
        on_progress: Hears how far it is.

    Raises:
        EvaluationError: Rules could not be imported.
        ConfigError: A setting can't be used.
        ProviderError: Embedding failed.
    """
    with tempfile.TemporaryDirectory(prefix="symmetra-eval-") as name:
        folder = Path(name)
        settings = settings_with(
            variables,
            data_dir=folder / "store",
            project_dir=folder,
            project=PROJECT,
            store="embedded",
            starter_rules=False,
            rules=(),
            query_cache=False,
        )
        async with open_app(settings, usage_folder=load_settings().data_folder) as app:
            files = await anyio.to_thread.run_sync(_write_rules, labelled, folder)
            result = await app.import_rules(files, project_id=PROJECT, on_progress=on_progress)
            missing = len(labelled.rules) - len(result.report.added)
            if missing:
                reasons = [warning for file in result.report.files for warning in file.warnings]
                raise EvaluationError(f"{missing} rules could not be imported: {'; '.join(reasons[:5])}")
            yield app


@asynccontextmanager
async def copied_app(
    app: App, variables: Mapping[str, str], *, on_progress: ProgressCallback | None = None
) -> AsyncIterator[App]:
    """An app over a copy of another's rules, embedded as other settings choose; the other's store is left alone.

    Args:
        app: Whose rules, project in hand and count of costs are taken.
        variables: Settings that win over the environment.
        on_progress: Hears how far it is.

    Raises:
        ConfigError: A setting can't be used.
        ProviderError: Embedding failed.
        StoreError: A store failed.
    """
    with tempfile.TemporaryDirectory(prefix="symmetra-eval-") as name:
        project_id = app.project.project_id if app.project is not None else ""
        settings = settings_with(
            variables, data_dir=Path(name), store="embedded", project=project_id, query_cache=False
        )
        async with open_app(settings, usage_folder=app.settings.data_folder) as copy:
            await copy.ready()
            project_ids = sorted({*await app.count_rules(), STARTER_PROJECT})
            await copy_rules(app.store, copy.store, project_ids=project_ids, prune=True, on_progress=on_progress)
            await copy.reembed(on_progress=on_progress)
            yield copy


def _write_rules(labelled: LabelledSet, folder: Path) -> list[Path]:
    paths = []
    for number, text in enumerate(_parts(labelled.rules.values()), 1):
        path = folder / f"rules-{number}.jsonl"
        path.write_text(text, "utf-8")
        paths.append(path)
    return paths


def _parts(lines: Iterable[str]) -> Iterator[str]:
    part: list[str] = []
    size = 0
    for line in lines:
        if part and size + len(line) > _FILE_CHARACTERS:
            yield "\n".join(part) + "\n"
            part, size = [], 0
        part.append(line)
        size += len(line)
    yield "\n".join(part) + "\n"
