from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from product import Product, until

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if sys.platform != "linux":
        reason = pytest.mark.skip(reason="these tests read /proc to see which processes live")
        for item in items:
            if FOLDER in item.path.parents:
                item.add_marker(reason)


def end_all(product: Product) -> None:
    """Nothing that was started on the data folder lives on; what does is ended, and the test fails."""
    try:
        until(lambda: not product.processes(), 10, "every process ends with its client")
    finally:
        for pid in product.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def product(python: str, tmp_path: Path) -> Iterator[Product]:
    work, notes = tmp_path / "work", tmp_path / "notes"
    work.mkdir()
    notes.mkdir()
    product = Product(python, tmp_path / "data", work, notes)
    yield product
    end_all(product)


class Disk:
    """A small file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self, options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder], check=True, capture_output=True)

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.folder], check=True, capture_output=True)

    def fill(self) -> Path:
        """Take all that is free."""
        filler = self.folder / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"\0" * 4096)
        return filler


@pytest.fixture
def disk(product: Product) -> Iterator[Disk]:
    """A mounted disk of 3 MB that holds the data folder."""
    disk = Disk(product.work.parent / "disk")
    disk.folder.mkdir()
    try:
        disk.mount("size=3m")
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"a small disk can't be mounted here: {exc}")
    product.data_dir = disk.folder / "data"
    yield disk
    try:
        end_all(product)
    finally:
        subprocess.run(["umount", "--lazy", disk.folder], check=True)
