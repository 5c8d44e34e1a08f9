from __future__ import annotations

import os
from pathlib import Path

import pytest

from symmetra_mcp.import_log import FILE_NAME, ImportRecord, forget_project, read_imports, record_import

SHOP = ImportRecord("shop", "/home/me/shop", (".",))
DOCS = ImportRecord("docs", "/home/me/docs", ("AGENTS.md", ".cursor/rules"))


def test_imports_are_read_back_oldest_first(tmp_path: Path) -> None:
    assert read_imports(tmp_path) == []
    record_import(tmp_path, SHOP)
    record_import(tmp_path, DOCS)
    assert read_imports(tmp_path) == [SHOP, DOCS]


def test_an_import_of_the_same_paths_replaces_the_older(tmp_path: Path) -> None:
    renamed = ImportRecord("renamed", SHOP.root, SHOP.paths)
    for record in (SHOP, DOCS, renamed):
        record_import(tmp_path, record)
    assert read_imports(tmp_path) == [DOCS, renamed]


def test_imports_of_other_paths_of_one_project_are_all_kept(tmp_path: Path) -> None:
    more = ImportRecord("shop", SHOP.root, ("more.md",))
    record_import(tmp_path, SHOP)
    record_import(tmp_path, more)
    assert read_imports(tmp_path) == [SHOP, more]


def test_a_project_is_forgotten_with_all_its_imports(tmp_path: Path) -> None:
    for record in (SHOP, DOCS, ImportRecord("shop", SHOP.root, ("more.md",))):
        record_import(tmp_path, record)
    forget_project(tmp_path, "shop")
    assert read_imports(tmp_path) == [DOCS]
    forget_project(tmp_path, "never imported")
    assert read_imports(tmp_path) == [DOCS]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'[{"project_id": "shop", "ro', id="cut"),
        pytest.param(b"\xff\xfe\x00", id="binary"),
        pytest.param(b'{"project_id": "shop"}', id="no-list"),
        pytest.param(b"[1, null]", id="no-objects"),
        pytest.param(b'[{"project_id": "shop"}]', id="fields-missing"),
        pytest.param(b'[{"project_id": "shop", "root": "/", "paths": null}]', id="no-paths"),
    ],
)
def test_a_file_that_cannot_be_read_counts_as_empty_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    assert read_imports(tmp_path) == []
    record_import(tmp_path, SHOP)
    assert read_imports(tmp_path) == [SHOP]


def test_any_path_is_read_back(tmp_path: Path) -> None:
    odd = ImportRecord("p", "C:\\Users\\Zoë", ("Regeln für 🚀.md", "\udcff broken", "a'b\"c"))
    record_import(tmp_path, odd)
    assert read_imports(tmp_path) == [odd]


def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_import(tmp_path, SHOP)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            record_import(tmp_path, DOCS)
    assert read_imports(tmp_path) == [SHOP]
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_folder_that_is_not_there_is_an_error_on_writing_only(tmp_path: Path) -> None:
    assert read_imports(tmp_path / "nowhere") == []
    with pytest.raises(FileNotFoundError):
        record_import(tmp_path / "nowhere", SHOP)
