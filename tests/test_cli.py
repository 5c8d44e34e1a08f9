"""The real command, in its own process, with the real model."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / ".git").mkdir(parents=True)
    (folder / "AGENTS.md").write_text(
        "# Payments\n\n- Always send an idempotency key with every payment request.\n- Never store card numbers.\n"
    )
    return folder


@pytest.fixture
def run(python: str, project: Path) -> Run:
    def run_command(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-m", "symmetra_mcp", *arguments],
            cwd=project,
            env={**os.environ, **environment},
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=100,
            check=False,
        )

    return run_command


def test_a_fresh_install_answers_a_question_from_the_projects_files_and_the_starter_rules(run: Run) -> None:
    done = run("search", "retry a payment request with an idempotency key", "--json")

    answer = json.loads(done.stdout)
    assert done.returncode == 0
    assert done.stderr == ""
    assert answer["verdict"] == "applies"
    assert answer["hits"][0]["guidance"] == "Always send an idempotency key with every payment request."
    assert answer["hits"][0]["source"] == "AGENTS.md:3"
    assert answer["space"] == "local/all-MiniLM-L6-v2@384"
    assert answer["rules_considered"] == 141


def test_a_person_reads_the_same_as_text(run: Run) -> None:
    done = run("search", "which vector database should we use?")

    assert done.returncode == 0
    assert "1. Vector Database Selection  high · architecture" in done.stdout
    assert "starter/architecture.yaml:" in done.stdout


def test_a_question_that_no_rule_is_about_gets_an_honest_none(run: Run) -> None:
    done = run("search", "best pizza dough recipe with sourdough starter", "--json")

    answer = json.loads(done.stdout)
    assert answer["verdict"] == "none"
    assert answer["hits"] == []
    assert len(answer["nearest"]) == 3


def test_the_query_can_come_from_a_pipe(run: Run) -> None:
    done = run("search", "-", "--json", "--limit", "1", stdin="charge_card(number, amount)  # payment request")

    assert json.loads(done.stdout)["hits"][0]["source"].startswith("AGENTS.md:")


def test_importing_twice_changes_and_embeds_nothing(run: Run) -> None:
    first = json.loads(run("import", ".", "--json").stdout)
    second = json.loads(run("import", ".", "--json").stdout)

    assert first["counts"]["added"] == 2
    assert first["embedding"]["embedded"] == 2
    assert second["counts"] == {"added": 0, "changed": 0, "moved": 0, "unchanged": 2, "removed": 0, "stale": 0}
    assert second["embedding"]["embedded"] == 0


def test_a_dry_run_tells_and_writes_nothing(run: Run) -> None:
    done = run("import", ".", "--dry-run", SYMMETRA_STARTER_RULES="0")

    assert "1 files, project shop-" in done.stdout
    assert "2 added" in done.stdout
    assert "Dry run: nothing was written" in done.stdout
    assert json.loads(run("rules", "list", "--json", SYMMETRA_STARTER_RULES="0").stdout) == []


def test_rules_that_left_the_file_are_kept_until_pruned(run: Run, project: Path) -> None:
    run("import", ".")
    (project / "AGENTS.md").write_text("# Payments\n\n- Never store card numbers.\n")

    kept = run("import", ".")
    pruned = json.loads(run("import", ".", "--prune", "--json").stdout)

    assert "1 rules have left these files: --prune removes them" in kept.stdout
    assert pruned["counts"]["removed"] == 1


def test_an_edited_rule_keeps_its_id_and_is_embedded_alone(run: Run, project: Path) -> None:
    run("import", ".")
    before = {rule["rule_id"] for rule in json.loads(run("rules", "list", "--json").stdout)}
    text = (project / "AGENTS.md").read_text()
    (project / "AGENTS.md").write_text(text.replace("every payment request", "each payment and refund request"))

    again = json.loads(run("import", ".", "--json").stdout)

    assert again["counts"]["changed"] == 1
    assert again["embedding"]["embedded"] == 1
    assert {rule["rule_id"] for rule in json.loads(run("rules", "list", "--json").stdout)} == before


def test_exported_rules_read_back_the_same(run: Run, project: Path, tmp_path: Path) -> None:
    exported = tmp_path / "rules.yaml"
    assert run("rules", "export", "--project", "starter", "--output", str(exported)).returncode == 0

    imported = json.loads(run("import", str(exported), "--project", "copy", "--json").stdout)

    assert imported["counts"]["added"] == 139
    assert imported["embedding"]["embedded"] == 0
    keys = ("rule_id", "title", "guidance", "rationale", "category", "priority", "tech_stacks", "contexts", "keywords")
    for rule_id in ("vector-db-choice", "minimal-nonroot-images"):
        shown = [
            json.loads(run("rules", "show", rule_id, "--project", name, "--json").stdout or "[]")
            for name in ("starter", "copy")
        ]
        assert [{key: rule[key] for key in keys} for rule in shown[0]] == [
            {key: rule[key] for key in keys} for rule in shown[1]
        ]


def test_deleting_asks_first(run: Run) -> None:
    refused = run("rules", "delete", "vector-db-choice", stdin="n\n")
    done = run("rules", "delete", "vector-db-choice", "--yes", "--json")

    assert refused.returncode == 1
    assert json.loads(done.stdout) == {"deleted": 1}
    assert run("rules", "show", "vector-db-choice").returncode == 1


def test_health_tells_every_part(run: Run) -> None:
    answer = json.loads(run("health", "--thorough", "--json").stdout)

    assert answer["status"] == "healthy"
    assert set(answer["components"]) == {"store", "embedding", "rules", "project"}
    assert answer["components"]["embedding"]["details"]["embedding_dimensions"] == 384
    assert answer["components"]["rules"]["details"]["rule_count"] == 139


def test_embed_prints_a_unit_vector(run: Run) -> None:
    answer = json.loads(run("embed", "vector database architecture", "--query", "--json").stdout)

    assert len(answer["vector"]) == answer["dimensions"] == 384
    assert sum(number * number for number in answer["vector"]) == pytest.approx(1, abs=1e-4)


def test_reembed_embeds_what_is_missing_only(run: Run) -> None:
    done = json.loads(run("reembed", "--json").stdout)
    assert (done["embedded"], done["missing"]) == (0, 0)
    texts = done["texts"]
    assert f"{texts} of {texts} texts would be embedded" in run("reembed", "--dry-run", "--force").stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "message"),
    [
        (("search",), {}, 2, "Missing argument 'QUERY'"),
        (("search", "x", "--limit", "0"), {}, 2, "0 is not in the range 1<=x<=50"),
        (("search", " "), {}, 1, "the query is empty"),
        (("search", "x" * 30_000), {}, 1, "at most 20,000 are read"),
        (("serach", "x"), {}, 2, "No such command 'serach'"),
        (("import", "missing.md"), {}, 1, "does not exist"),
        (("rules", "show", "nothing"), {}, 1, "no rule 'nothing'"),
        (("rules", "delete"), {}, 2, "give rule ids"),
        (("rules", "list", "--project", "a/b"), {}, 2, "a project's name is up to 100 letters"),
        (("health",), {"SYMMETRA_EMBEDDING_BACKEND": "sbert"}, 1, "`SYMMETRA_EMBEDDING_BACKEND`: input should be"),
        (("search", "x"), {"SYMMETRA_RULES": "nowhere"}, 1, "`SYMMETRA_RULES` names"),
    ],
)
def test_mistakes_are_told_on_stderr_with_a_sensible_exit_code(
    run: Run, arguments: tuple[str, ...], environment: dict[str, str], code: int, message: str
) -> None:
    done = run(*arguments, **environment)

    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_every_command_has_help_with_examples(run: Run) -> None:
    for command in ("", "search", "import", "rules list", "rules show", "rules export", "rules delete", "embed"):
        done = run(*command.split(), "--help")
        assert done.returncode == 0
        assert "Examples:" in done.stdout


def test_an_unusable_data_folder_is_named_with_the_way_out(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    done = run("search", "anything", SYMMETRA_DATA_DIR=str(tmp_path / "file" / "data"))

    assert done.returncode == 1
    assert "file/data" in done.stderr
    assert "SYMMETRA_DATA_DIR" in done.stderr


def test_a_damaged_store_is_set_aside_and_rebuilt_from_the_files(run: Run, data_dir: Path) -> None:
    run("import", ".")
    for suffix in ("-wal", "-shm"):
        (data_dir / f"symmetra.db{suffix}").unlink(missing_ok=True)
    (data_dir / "symmetra.db").write_bytes(b"not a database, but bytes worth keeping" * 100)

    done = run("search", "idempotency key for a payment", "--json")

    assert json.loads(done.stdout)["hits"][0]["source"] == "AGENTS.md:3"
    assert "was set aside as" in done.stderr
    kept = list(data_dir.glob("symmetra.damaged-*.db"))
    assert len(kept) == 1
    assert kept[0].read_bytes().startswith(b"not a database")


def test_rules_imported_from_elsewhere_survive_a_damaged_store(run: Run, data_dir: Path, tmp_path: Path) -> None:
    shared = tmp_path / "team-rules"
    shared.mkdir()
    (shared / "AGENTS.md").write_text("- Always pin the version of every base image.\n")
    run("import", str(shared), "--project", "shared")
    (data_dir / "symmetra.db").write_bytes(b"\0" * 8192)

    done = run("search", "base image version", "--json")

    assert json.loads(done.stdout)["hits"][0]["project_id"] == "shared"


def test_a_deleted_store_is_filled_again_from_everything_that_was_imported(
    run: Run, data_dir: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "team-rules"
    shared.mkdir()
    (shared / "AGENTS.md").write_text("- Always pin the version of every base image.\n")
    run("import", str(shared), "--project", "shared")
    for part in data_dir.glob("symmetra.db*"):
        part.unlink()

    done = run("search", "base image version", "--json")

    assert json.loads(done.stdout)["hits"][0]["project_id"] == "shared"


def test_rules_of_another_project_do_not_answer_here(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / ".git").mkdir(parents=True)
    (other / "AGENTS.md").write_text("- Always paint the bike shed green before launch.\n")
    run("import", str(other))

    here = json.loads(run("search", "paint the bike shed", "--json").stdout)
    everywhere = json.loads(run("search", "paint the bike shed", "--project", "*", "--json").stdout)

    assert "bike shed" not in json.dumps(here["hits"])
    assert "bike shed" in everywhere["hits"][0]["guidance"]
