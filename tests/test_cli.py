"""The real command, in its own process, with the real model; what needs no process of its own runs in this one.

Starting a process and reading the starter rules takes most of a second. So one project is imported once: tests that
only ask share it, tests that change something get a copy.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from click.testing import CliRunner, Result

from symmetra_mcp.cli import cli
from symmetra_mcp.terminal import progress
from symmetra_mcp.text import STAGES

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]

RULES = (
    "# Payments\n\n- Always send an idempotency key with every payment request.\n"
    "- Never store card numbers, not even in a caf\u00e9.\n"
)


@dataclass(frozen=True)
class Shop:
    """A project, a data folder, and the command run with both."""

    python: str
    folder: Path
    data: Path
    first_import: dict[str, Any]

    def run(
        self, *arguments: str, stdin: str | bytes = "", stdout: IO[str] | int = subprocess.PIPE, **environment: str
    ) -> Done:
        own = {"SYMMETRA_DATA_DIR": str(self.data), **environment}
        done = subprocess.run(
            [self.python, "-m", "symmetra_mcp", *arguments],
            cwd=self.folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("SYMMETRA_")} | own,
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=100,
            check=False,
        )
        answer = (done.stdout or b"").decode().replace("\r\n", "\n")
        return subprocess.CompletedProcess(done.args, done.returncode, answer, done.stderr.decode())


def make_shop(folder: Path) -> Path:
    (folder / ".git").mkdir(parents=True)
    (folder / "AGENTS.md").write_text(RULES, "utf-8")
    return folder


@pytest.fixture(scope="module")
def shop(python: str, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """An imported project that its tests only read."""
    place = tmp_path_factory.mktemp("imported")
    made = Shop(python, make_shop(place / "shop"), place / "data", {})
    made.first_import.update(json.loads(made.run("import", ".", "--json", SYMMETRA_PROJECT="shop").stdout))
    return made


@pytest.fixture
def ask(shop: Shop) -> Run:
    """The command over the shared project: for what changes nothing."""
    return lambda *arguments, **options: shop.run(*arguments, **{"SYMMETRA_PROJECT": "shop", **options})


@pytest.fixture
def project(shop: Shop, tmp_path: Path) -> Path:
    return shutil.copytree(shop.folder, tmp_path / "shop")


@pytest.fixture
def run(shop: Shop, project: Path, data_dir: Path) -> Run:
    """The command over a copy of the shared project and its data."""
    shutil.copytree(shop.data, data_dir)
    copy = Shop(shop.python, project, data_dir, {})
    return lambda *arguments, **options: copy.run(*arguments, **{"SYMMETRA_PROJECT": "shop", **options})


@pytest.fixture
def run_fresh(python: str, tmp_path: Path, data_dir: Path) -> Run:
    """The command on a machine that never ran it."""
    return Shop(python, make_shop(tmp_path / "shop"), data_dir, {}).run


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command in this process, over the test's data folder: for what needs neither a process nor the model."""
    monkeypatch.setenv("SYMMETRA_STARTER_RULES", "0")
    return lambda *arguments, **environment: CliRunner().invoke(cli, arguments, env=environment)


def test_a_fresh_install_answers_a_question_from_the_projects_files_and_the_starter_rules(run_fresh: Run) -> None:
    done = run_fresh("search", "retry a payment request with an idempotency key", "--json")

    answer = json.loads(done.stdout)
    assert done.returncode == 0
    progress = tuple(f"{stage}: " for stage in STAGES.values())  # what a busy machine is told after some seconds
    assert [line for line in done.stderr.splitlines() if not line.startswith(progress)] == []
    assert answer["verdict"] == "applies"
    assert answer["hits"][0]["guidance"] == "Always send an idempotency key with every payment request."
    assert answer["hits"][0]["source"] == "AGENTS.md:3"
    assert answer["space"] == "local/all-MiniLM-L6-v2@384"
    assert answer["rules_considered"] == 141


def test_a_dry_run_tells_and_writes_nothing(run_fresh: Run, run_here: Any) -> None:
    done = run_fresh("import", ".", "--dry-run", SYMMETRA_STARTER_RULES="0")

    assert "1 file, project shop-" in done.stdout
    assert "2 added" in done.stdout
    assert "Dry run: nothing was written" in done.stdout
    assert json.loads(run_here("rules", "list", "--json").stdout) == []


def test_a_person_reads_the_same_as_text(ask: Run) -> None:
    done = ask("search", "which vector database should we use?")

    assert done.returncode == 0
    assert "1. Vector Database Selection  high · architecture" in done.stdout
    assert "starter/architecture.yaml:" in done.stdout


def test_a_question_that_no_rule_is_about_gets_an_honest_none(ask: Run) -> None:
    done = ask("search", "best pizza dough recipe with sourdough starter", "--json")

    answer = json.loads(done.stdout)
    assert answer["verdict"] == "none"
    assert answer["hits"] == []
    assert len(answer["nearest"]) == 3


@pytest.mark.slow
def test_the_query_can_come_from_a_pipe(ask: Run) -> None:
    done = ask("search", "-", "--json", "--limit", "1", stdin="charge_card(number, amount)  # payment request")

    assert json.loads(done.stdout)["hits"][0]["source"].startswith("AGENTS.md:")
    assert done.stderr == ""


@pytest.mark.slow
def test_of_a_long_text_from_a_pipe_the_head_is_searched_for_and_the_cut_is_told(ask: Run) -> None:
    diff = b"\xff charge_card(number)  # payment request\n" * 1_000

    done = ask("search", "-", "--json", stdin=diff)

    assert done.returncode == 0
    assert done.stderr == "Notice: the query is the first 20,000 of 41,000 characters from stdin\n"
    assert any(hit["source"].startswith("AGENTS.md:") for hit in json.loads(done.stdout)["hits"])


def test_a_whole_rule_has_its_id_its_project_and_its_keywords(shop: Shop, run_here: Any) -> None:
    text = run_here("rules", "show", "vector-db-choice", SYMMETRA_DATA_DIR=str(shop.data)).stdout

    assert text.startswith("# Vector Database Selection\n")
    assert "\nRule: vector-db-choice (project starter)\n" in text
    assert "\nKeywords: embeddings, pgvector, " in text


@pytest.mark.slow
def test_a_slip_in_a_filter_is_told_beside_the_answer(ask: Run) -> None:
    done = ask("search", "payment", "--category", "securty", "--tech", "pyton", "--json")

    assert done.returncode == 0
    assert json.loads(done.stdout)["hits"] == []
    category, tech = done.stderr.splitlines()
    assert category.startswith("Notice: no category 'securty'; there are: ai-ml, architecture,")
    assert category.endswith("Did you mean 'security'?")
    assert tech.startswith("Notice: no rule for the tech stack 'pyton'; there are: ")
    assert tech.endswith("Did you mean 'python'?")


@pytest.mark.parametrize(
    "arguments",
    [("search", "payment"), ("rules", "list"), ("rules", "show", "x"), ("rules", "export"), ("rules", "delete", "x")],
    ids=" ".join,
)
def test_a_project_that_is_not_there_is_refused(shop: Shop, arguments: tuple[str, ...], run_here: Any) -> None:
    done = run_here(*arguments, "--project", "shpo", SYMMETRA_DATA_DIR=str(shop.data))

    assert done.exit_code == 1
    assert done.stderr == "Error: no project 'shpo'; there are: shop, starter. Did you mean 'shop'?\n"
    assert done.stdout == ""


@pytest.mark.slow
def test_no_line_of_a_piped_answer_ends_in_blanks(run: Run, run_here: Any, project: Path) -> None:
    (project / "AGENTS.md").write_text(
        "# Retry\n\nAlways retry like this:\n\n```python\nif failed:\n    retry()\n```\n"
    )

    for text in (run("search", "retry what failed").stdout, run_here("rules", "list").stdout):
        assert len(text.splitlines()) > 3
        assert [line for line in text.splitlines() if line != line.rstrip()] == []


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("rules", "list"), marks=pytest.mark.slow),
        pytest.param(("rules", "export"), marks=pytest.mark.slow),
        ("--help",),
    ],
    ids=" ".join,
)
def test_a_full_disk_under_stdout_is_told_in_a_sentence(ask: Run, arguments: tuple[str, ...]) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("only Linux has /dev/full")
    with full.open("w") as stdout:
        done = ask(*arguments, stdout=stdout)

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Error: ")
    assert "No space left on device" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("rules", "list"), ("rules", "export")], ids=" ".join)
def test_a_reader_that_left_ends_the_command_without_a_word(ask: Run, arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = ask(*arguments, stdout=write)
    finally:
        os.close(write)

    assert done.returncode == 1
    assert done.stderr == ""


@pytest.mark.slow
def test_a_terminal_without_unicode_gets_every_answer(ask: Run) -> None:
    text = ask("search", "store card numbers", PYTHONIOENCODING="ascii")
    as_json = ask("search", "store card numbers", "--json", PYTHONIOENCODING="ascii")
    exported = ask("rules", "export", "--project", "shop", "--format", "json", PYTHONIOENCODING="ascii")

    assert [done.stderr for done in (text, as_json, exported)] == [""] * 3
    assert "Never store card numbers, not even in a caf?" in text.stdout
    assert as_json.stdout.isascii()
    assert "not even in a café" in json.loads(as_json.stdout)["hits"][0]["guidance"]
    assert "not even in a café" in exported.stdout


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("missing/rules.yaml", "No such file or directory"),
        ("file/rules.yaml", "Not a directory"),
        ("", "Is a directory"),
    ],
    ids=["no-folder", "file-as-folder", "folder"],
)
def test_an_export_that_cannot_be_written_is_told_with_its_path(run_here: Any, output: str, problem: str) -> None:
    Path("file").write_text("")

    done = run_here("rules", "export", "--format", "yaml", "--output", output)

    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: '{output or '.'}' can't be written: {problem}. Give --output")


def test_long_work_tells_lines_where_stderr_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("symmetra_mcp.text._PROGRESS_EVERY_S", 0.0)
    with progress() as on_progress:
        for done in range(1, 41):
            on_progress("embed", done, 40)

    captured = capsys.readouterr()
    assert captured.err.splitlines() == [f"Embedding rules: {done} of 40" for done in range(4, 41, 4)]
    assert captured.out == ""


def test_importing_twice_changes_and_embeds_nothing(shop: Shop, run: Run) -> None:
    second = json.loads(run("import", ".", "--json").stdout)

    assert shop.first_import["counts"]["added"] == 2
    assert shop.first_import["embedding"]["embedded"] == 2
    assert second["counts"] == {"added": 0, "changed": 0, "moved": 0, "unchanged": 2, "removed": 0, "stale": 0}
    assert second["embedding"]["embedded"] == 0


@pytest.mark.slow
def test_rules_that_left_the_file_are_kept_until_pruned(run: Run, project: Path) -> None:
    (project / "AGENTS.md").write_text("# Payments\n\n- Always send an idempotency key with every payment request.\n")

    kept = run("import", ".")
    pruned = run("import", ".", "--prune")

    assert "No longer stated: never-store-card-numbers" in kept.stdout
    assert "1 rule has left these files: --prune removes it" in kept.stdout
    assert "Removed never-store-card-numbers" in pruned.stdout
    assert "1 unchanged, 1 removed" in pruned.stdout


def test_an_import_without_a_rule_file_says_what_it_looked_for(run_here: Any) -> None:
    Path("docs").mkdir()

    done = run_here("import", "docs")

    assert done.exit_code == 0
    assert "No rule files below docs: looked for AGENTS.md" in done.stdout


@pytest.mark.slow
def test_an_edited_rule_keeps_its_id_and_is_embedded_alone(shop: Shop, run: Run, run_here: Any, project: Path) -> None:
    text = (project / "AGENTS.md").read_text("utf-8")
    (project / "AGENTS.md").write_text(
        text.replace("every payment request", "each payment and refund request"), "utf-8"
    )

    again = json.loads(run("import", ".", "--json").stdout)

    assert again["counts"]["changed"] == 1
    assert again["embedding"]["embedded"] == 1
    listed = json.loads(run_here("rules", "list", "--project", "shop", "--json").stdout)
    assert {rule["rule_id"] for rule in listed} == set(shop.first_import["added"])


@pytest.mark.slow
def test_exported_rules_read_back_the_same(run: Run, run_here: Any, tmp_path: Path) -> None:
    exported = tmp_path / "rules.yaml"
    assert run("rules", "export", "--project", "starter", "--output", str(exported)).returncode == 0

    imported = json.loads(run("import", str(exported), "--project", "copy", "--json").stdout)

    assert imported["counts"]["added"] == 139
    assert imported["embedding"]["embedded"] == 0
    keys = ("rule_id", "title", "guidance", "rationale", "category", "priority", "tech_stacks", "contexts", "keywords")
    starter, copy = (
        {
            rule["rule_id"]: rule
            for rule in json.loads(run_here("rules", "export", "--project", name, "--json").stdout)["rules"]
        }
        for name in ("starter", "copy")
    )
    assert {rule_id: {key: rule.get(key) for key in keys} for rule_id, rule in starter.items()} == {
        rule_id: {key: rule.get(key) for key in keys} for rule_id, rule in copy.items()
    }


@pytest.mark.slow
def test_deleted_starter_rules_stay_away_until_they_are_restored(run: Run, run_here: Any) -> None:
    def deleted() -> bool:
        return bool(run_here("rules", "show", "actionable-errors", "--project", "starter").exit_code)

    run_here("rules", "delete", "actionable-errors", "agent-loop-limits", "--project", "starter", "--yes")
    assert run("health").returncode == 0
    assert deleted()

    assert json.loads(run_here("rules", "restore", "--json").stdout) == {"restored": 2}
    assert not deleted()
    assert run_here("rules", "restore").stdout == "0 starter rules restored\n"


@pytest.mark.slow
def test_deleting_asks_first(run: Run, run_here: Any) -> None:
    refused = run("rules", "delete", "vector-db-choice", stdin="n\n")
    done = run("rules", "delete", "vector-db-choice", "--yes")

    assert refused.returncode == 1
    assert "Delete 1 rule? [y/N]" in refused.stderr
    assert done.stdout == "1 rule deleted\n"
    assert run_here("rules", "show", "vector-db-choice").exit_code == 1


def test_health_tells_every_part(ask: Run) -> None:
    answer = json.loads(ask("health", "--thorough", "--json").stdout)

    assert answer["status"] == "healthy"
    assert set(answer["components"]) == {"store", "embedding", "rules", "project"}
    assert answer["components"]["embedding"]["details"]["embedding_dimensions"] == 384
    assert answer["components"]["rules"]["details"]["rule_count"] == 141


def test_embed_prints_a_unit_vector(ask: Run) -> None:
    answer = json.loads(ask("embed", "vector database architecture", "--query", "--json").stdout)

    assert len(answer["vector"]) == answer["dimensions"] == 384
    assert sum(number * number for number in answer["vector"]) == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_reembed_embeds_what_is_missing_only(ask: Run) -> None:
    done = json.loads(ask("reembed", "--json").stdout)
    assert (done["embedded"], done["missing"]) == (0, 0)
    texts = done["texts"]
    assert f"{texts} of {texts} texts would be embedded" in ask("reembed", "--dry-run", "--force").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [(("serach", "x"), 2, "No such command 'serach'"), (("search", " "), 1, "the query is empty")],
    ids=["usage", "failure"],
)
def test_a_mistake_ends_the_process_with_its_exit_code(
    ask: Run, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = ask(*arguments)

    assert done.returncode == code
    assert message in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "message"),
    [
        (("search",), {}, 2, "Missing argument 'QUERY'"),
        (("search", "x", "--limit", "0"), {}, 2, "0 is not in the range 1<=x<=50"),
        (("search", "x" * 30_000), {}, 1, "at most 20,000 are read"),
        (("import", "missing.md"), {}, 1, "does not exist"),
        (("import", ".", "--project", "*"), {}, 2, "a project's name is up to 100 letters"),
        (("rules", "show", "nothing"), {}, 1, "no rule 'nothing'"),
        (("rules", "delete"), {}, 2, "give rule ids"),
        (("rules", "list", "--project", "a/b"), {}, 2, "a project's name is up to 100 letters"),
        (("embed", ""), {}, 1, "the text is empty"),
        (("health",), {"SYMMETRA_EMBEDDING_BACKEND": "sbert"}, 1, "`SYMMETRA_EMBEDDING_BACKEND`: input should be"),
        (("search", "x"), {"SYMMETRA_RULES": "nowhere"}, 1, "`SYMMETRA_RULES` names"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_mistakes_are_told_on_stderr_with_a_sensible_exit_code(
    run_here: Any, arguments: tuple[str, ...], environment: dict[str, str], code: int, message: str
) -> None:
    done = run_here(*arguments, **environment)

    assert done.exit_code == code
    assert message in done.stderr
    assert done.stdout == ""


def test_every_command_has_help_with_examples(run_here: Any) -> None:
    for command in ("", "search", "import", "rules list", "rules show", "rules export", "rules delete", "embed"):
        done = run_here(*command.split(), "--help")
        assert done.exit_code == 0
        assert "Examples:" in done.stdout


def test_an_unusable_data_folder_is_named_with_the_way_out(ask: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    done = ask("search", "anything", SYMMETRA_DATA_DIR=str(tmp_path / "file" / "data"))

    assert done.returncode == 1
    assert "file/data" in done.stderr
    assert "SYMMETRA_DATA_DIR" in done.stderr


@pytest.mark.slow
def test_a_damaged_store_is_set_aside_and_rebuilt_from_the_files(run: Run, data_dir: Path) -> None:
    for suffix in ("-wal", "-shm"):
        (data_dir / f"symmetra.db{suffix}").unlink(missing_ok=True)
    (data_dir / "symmetra.db").write_bytes(b"not a database, but bytes worth keeping" * 100)

    done = run("search", "idempotency key for a payment", "--json")

    assert json.loads(done.stdout)["hits"][0]["source"] == "AGENTS.md:3"
    assert "was set aside as" in done.stderr
    kept = list(data_dir.glob("symmetra.damaged-*.db"))
    assert len(kept) == 1
    assert kept[0].read_bytes().startswith(b"not a database")


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["damaged", "deleted"])
def test_rules_imported_from_elsewhere_survive_the_loss_of_the_store(
    run: Run, data_dir: Path, tmp_path: Path, lost: str
) -> None:
    shared = tmp_path / "team-rules"
    shared.mkdir()
    (shared / "AGENTS.md").write_text("- Always pin the version of every base image.\n")
    run("import", str(shared), "--project", "shared")
    if lost == "damaged":
        (data_dir / "symmetra.db").write_bytes(b"\0" * 8192)
    else:
        for part in data_dir.glob("symmetra.db*"):
            part.unlink()

    done = run("search", "base image version", "--json")

    assert json.loads(done.stdout)["hits"][0]["project_id"] == "shared"


@pytest.mark.slow
def test_rules_of_another_project_answer_only_where_all_are_asked_for(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / ".git").mkdir(parents=True)
    (other / "AGENTS.md").write_text("- Always paint the card numbers of the bike shed green.\n")
    run("import", str(other), "--project", "sheds")

    here = run("search", "card numbers of the bike shed").stdout
    everywhere = run("search", "card numbers of the bike shed", "--project", "*").stdout

    assert "bike shed" not in here
    assert "(project" not in here
    assert "Always paint the card numbers of the bike shed green" in everywhere
    assert "(project sheds)" in everywhere
    assert "(project shop)" in everywhere


@pytest.mark.slow
def test_a_tool_that_is_not_there_ends_the_server_with_one_line(python: str) -> None:
    environment = {**os.environ, "SYMMETRA_TOOLS": "serach_rules"}
    program = [python, "-m", "symmetra_mcp"]
    done = subprocess.run(program, input="", env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "`SYMMETRA_TOOLS` names 'serach_rules', which is no tool" in done.stderr
