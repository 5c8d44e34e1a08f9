from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from memory_rules import MemoryRules

SAMPLE = Path(__file__).parents[3] / "shared" / "rulefiles" / "rulefiles.tar.gz"


@pytest.fixture
def store() -> MemoryRules:
    return MemoryRules()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()
    return tmp_path


@pytest.fixture
def write(project: Path) -> Callable[[str, str], Path]:
    def write_file(path: str, text: str) -> Path:
        file = project / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
        return file

    return write_file


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real rule files, unpacked where no assistant reads them."""
    if not SAMPLE.exists():
        pytest.skip(f"the sample of real rule files is not at {SAMPLE}")
    folder = tmp_path_factory.mktemp("sample")
    with tarfile.open(SAMPLE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "rulefiles"
