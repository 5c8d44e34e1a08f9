"""`server.json` for registries and the bundle for Claude Desktop: made of the settings, and judged by others' tools."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from symmetra_mcp import __version__
from symmetra_mcp.config import Settings, variable_of

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "tools" / "build_manifests.py"
SECRETS = {
    "OPENAI_API_KEY",
    "COHERE_API_KEY",
    "CO_API_KEY",
    "SYMMETRA_HTTP_TOKEN",
    "SYMMETRA_SUPABASE_KEY",
    "SUPABASE_KEY",
    "SUPABASE_SERVICE_ROLE_KEY",
    "SYMMETRA_DB_URL",
    "SUPABASE_ACCESS_TOKEN",
}


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "skillsaw", "lint", "."]
    return subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)


def test_server_json_is_made_of_the_settings_and_the_version() -> None:
    done = subprocess.run([sys.executable, TOOL, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads((REPOSITORY / "server.json").read_text("utf-8"))
    (package,) = data["packages"]
    assert data["version"] == package["version"] == __version__
    variables = {variable["name"]: variable for variable in package["environmentVariables"]}
    assert set(variables) == set(map(variable_of, Settings.model_fields))
    assert {name for name, variable in variables.items() if variable.get("isSecret")} == SECRETS
    assert variables["SYMMETRA_EMBEDDING_BACKEND"]["choices"] == ["auto", "openai", "cohere", "local"]


@pytest.mark.slow
def test_the_registrys_linter_finds_nothing_wrong_and_would(tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    shutil.copy(REPOSITORY / "server.json", path)
    done = linted(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "mcp-registry" in done.stdout
    path.write_text(
        path.read_text("utf-8").replace('"description": "Hands', f'"description": "{"x" * 101}', 1), "utf-8"
    )
    assert linted(tmp_path).returncode == 1


def test_the_bundle_asks_for_keys_as_secrets_and_starts_this_version(tmp_path: Path) -> None:
    manifest: dict[str, Any] = runpy.run_path(str(TOOL))["manifest"]()
    assert manifest["version"] == __version__
    asked = manifest["user_config"]
    environment = manifest["server"]["mcp_config"]["env"]
    assert environment == {variable_of(name): f"${{user_config.{name}}}" for name in asked}
    assert {variable_of(name) for name in asked if asked[name].get("sensitive")} == SECRETS & set(environment)
    assert [tool["name"] for tool in manifest["tools"]] == ["search_rules", "embed_text", "health_check", "reembed_all"]


def test_what_claude_desktop_hands_on_for_an_empty_answer_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest: dict[str, Any] = runpy.run_path(str(TOOL))["manifest"]()
    for name, value in manifest["server"]["mcp_config"]["env"].items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.openai_api_key, settings.supabase_url, settings.project_dir) == (None, "", None)
