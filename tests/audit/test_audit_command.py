"""`symmetra-mcp rules audit`, as people and scripts run it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from symmetra_mcp.app import App
from symmetra_mcp.cli import cli
from symmetra_mcp.config import Settings
from symmetra_mcp.providers.select import ProviderChoice
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.testing import FakeProvider

AGENTS = """# Style

- Indent code with tabs.
- Prefer interfaces over type aliases in public APIs.
- Always validate user input on the server.
- Follow best practices.
- Retry a failed payment with the idempotency key of its order.
"""
CLAUDE = """# Style

- Use 4 spaces for the indentation of code.
- Prefer type aliases over interfaces in public APIs.
- User input must always be validated on the server.
- Retry a failed payment with the idempotency key of its order.
"""
CURSOR = """---
globs: lib/**/*.ts
---
- Name every module after the table that it reads.
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / ".git").mkdir(parents=True)
    (folder / ".cursor" / "rules").mkdir(parents=True)
    (folder / "AGENTS.md").write_text(AGENTS)
    (folder / "CLAUDE.md").write_text(CLAUDE)
    (folder / ".cursor" / "rules" / "modules.mdc").write_text(CURSOR)
    return folder


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["rules", "audit", *arguments])


@pytest.fixture(autouse=True)
def _in_the_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMMETRA_STARTER_RULES", "0")
    monkeypatch.setenv("SYMMETRA_PROJECT", "shop")
    monkeypatch.chdir(project)


@pytest.fixture
def _words_for_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors by words: the bundled model is not what is tested."""

    def make_app(settings: Settings, *, usage_folder: Path | None = None) -> App:
        return App(settings, SqliteStore(settings.data_folder), ProviderChoice(FakeProvider(dimensions=256)))

    monkeypatch.setattr("symmetra_mcp.app.make_app", make_app)


def test_the_real_command_finds_what_is_wrong_with_a_projects_files(python: str) -> None:
    """In its own process, with the bundled model, from the files alone."""
    done = subprocess.run(
        [python, "-m", "symmetra_mcp", "rules", "audit", "--json", "--fail-on", "contradictions"],
        env=dict(os.environ),
        capture_output=True,
        timeout=100,
        check=False,
    )
    answer = json.loads(done.stdout)
    assert done.returncode == 1
    assert answer["counts"] == {"duplicates": 2, "contradictions": 2, "long": 0, "vague": 1, "unfound": 0, "globs": 1}
    assert answer["space"] == "local/all-MiniLM-L6-v2@384"
    shapes = {finding["shape"]: finding for finding in answer["findings"]}
    assert set(shapes) == {"exact", "near", "alternatives", "reversed", "few-words", "matches-nothing"}
    assert [rule["places"] for rule in shapes["reversed"]["rules"]] == [["AGENTS.md:4"], ["CLAUDE.md:4"]]
    assert shapes["near"]["similarity"] > 0.8


@pytest.mark.usefixtures("_words_for_meaning")
def test_people_get_counts_then_each_finding_with_its_texts_places_and_next_step() -> None:
    result = _run("--kind", "contradictions,globs")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        "Kind            Findings",
        "contradictions         2  Contradictions worth a look",
        "globs                  1  Globs that match nothing",
    ]
    at = lines.index("Contradictions worth a look")
    texts = "\n".join(lines[at:])
    assert "    AGENTS.md:4 Prefer interfaces over type aliases in public APIs." in texts
    assert "    CLAUDE.md:4 Prefer type aliases over interfaces in public APIs." in texts
    assert "  each prefers what the other advises against  similarity " in texts
    assert "    → decide which one holds" in texts
    assert lines[-1].startswith("3 findings in 9 rules (meaning and words, fake/words@256)")


@pytest.mark.usefixtures("_words_for_meaning")
@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        ((), 0),
        (("--fail-on", "contradictions"), 1),
        (("--fail-on", "long,globs"), 1),
        (("--fail-on", "long"), 0),
        (("--fail-on", "globs", "--kind", "long"), 2),
        (("--kind", "typos"), 2),
        (("--kind", ","), 2),
    ],
)
def test_the_exit_code_is_1_only_where_findings_of_the_named_kinds_are(
    arguments: tuple[str, ...], exit_code: int
) -> None:
    assert _run(*arguments).exit_code == exit_code


@pytest.mark.usefixtures("_words_for_meaning")
def test_a_project_that_is_not_there_is_refused() -> None:
    result = _run("--project", "shopp")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "shop" in result.stderr


@pytest.mark.usefixtures("_words_for_meaning")
def test_starter_rules_are_looked_at_only_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYMMETRA_STARTER_RULES")
    assert json.loads(_run("--json", "--kind", "vague").stdout)["rules"] == 9
    assert json.loads(_run("--json", "--kind", "vague", "--project", "starter").stdout)["rules"] == 139
