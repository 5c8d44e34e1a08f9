from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from supabase_stack.real import REAL_PROJECT

import symmetra_mcp
from symmetra_mcp import terminal

pytest_plugins = ["supabase_stack.project"]

REPOSITORY = Path(__file__).resolve().parents[1]
hypothesis.settings.register_profile("no clock", deadline=None)  # how long an example takes is the machine's matter
hypothesis.settings.load_profile("no clock")
SCRUBBED = ("SYMMETRA_", "OPENAI_", "COHERE_", "CO_API", "SUPABASE_", "CLAUDE_", "OTEL_")


def pytest_report_header() -> str:
    return f"symmetra-mcp {symmetra_mcp.__version__} from {Path(symmetra_mcp.__file__).parent}"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No setting of the machine reaches a test, and no test reaches the user's data folder or project."""
    for name in list(os.environ):
        if name.startswith(SCRUBBED):
            monkeypatch.delenv(name)
    place = tmp_path_factory.mktemp("place")
    monkeypatch.setenv("SYMMETRA_DATA_DIR", str(place / "data"))
    (place / "work").mkdir()
    monkeypatch.chdir(place / "work")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting anywhere but to this machine fails at once, in this process and in those it starts."""
    if all(REAL_PROJECT.values()):
        return
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if host and host not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {host!r}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.fixture(autouse=True)
def _no_giving_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that a test runs in this process would lower its priority for good."""
    monkeypatch.setattr(terminal, "_NICENESS", 0)


@pytest.fixture
def data_dir() -> Path:
    return Path(os.environ["SYMMETRA_DATA_DIR"])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The measured data beside the repository; tests that need it are skipped where it is not."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder `shared` with the labelled data does not lie beside the repository")
    return folder


@pytest.fixture(scope="session")
def python() -> str:
    return sys.executable
