"""`symmetra-mcp schema`, against a real Postgres and a double of the Management API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from supabase_stack.management import REF, TOKEN, management_api
from supabase_stack.postgres import Server

from symmetra_mcp import schema_command
from symmetra_mcp.cli import cli
from symmetra_mcp.stores.schema import Migration, migrations

PASSWORD = "owner-password"
OTHER_REF = "zyxwvutsrqponmlkjihg"
Run = Callable[..., Result]
LABELS = [migration.label for migration in migrations()]


@pytest.fixture
def name(server: Server) -> str:
    return server.create_database()


@pytest.fixture
def url(server: Server, name: str) -> str:
    return server.url(name, "owner", PASSWORD)


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: str, **environment: str) -> Result:
        result = CliRunner().invoke(cli, ["schema", *arguments], env=environment)
        assert PASSWORD not in result.output
        assert TOKEN not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return invoke


def test_an_empty_database_becomes_ready(run: Run, url: str) -> None:
    before = run("status", SYMMETRA_DB_URL=url)
    assert before.exit_code == 1
    assert "0001_tables" in before.stdout
    assert "run `symmetra-mcp schema apply`" in before.stdout

    planned = run("apply", "--dry-run", "--json", SYMMETRA_DB_URL=url)
    assert json.loads(planned.stdout)["applied"] == LABELS
    assert run("status", SYMMETRA_DB_URL=url).stdout == before.stdout

    applied = run("apply", SYMMETRA_DB_URL=url)
    assert applied.exit_code == 0
    assert f"The schema is at version {len(LABELS)}." in applied.stdout

    after = run("status", "--json", SYMMETRA_DB_URL=url)
    assert after.exit_code == 0
    answer = json.loads(after.stdout)
    assert (answer["version"], answer["complete"], answer["public_read"]) == (len(LABELS), True, False)
    assert {found["state"] for found in answer["migrations"]} == {"installed"}
    assert "up to date" in run("apply", SYMMETRA_DB_URL=url).stdout


def test_public_reading_is_opened_and_closed(run: Run, url: str) -> None:
    opened = run("apply", "--public-read", SYMMETRA_DB_URL=url)
    assert "Reading is open to everybody with the publishable key." in opened.stdout
    assert json.loads(run("apply", "--repair", "--json", SYMMETRA_DB_URL=url).stdout)["public_read"] is True
    assert "Reading is open to members alone." in run("apply", "--no-public-read", SYMMETRA_DB_URL=url).stdout


def test_the_printed_script_installs_everything_twice(run: Run, server: Server, name: str, url: str) -> None:
    for arguments in ((), ("--public-read",)):
        script = run("print", *arguments).stdout
        with server.connect(name, "owner") as connection:
            connection.execute(script.encode())
            connection.execute(script.encode())
    answer = json.loads(run("status", "--json", SYMMETRA_DB_URL=url).stdout)
    assert (answer["complete"], answer["public_read"]) == (True, True)


def test_a_token_and_a_project_are_enough(run: Run, server: Server, name: str) -> None:
    with management_api(server.url(name)) as api:
        environment = {"SUPABASE_ACCESS_TOKEN": TOKEN, "SYMMETRA_SUPABASE_API_URL": api.url}
        applied = run("apply", "--project-id", REF, "--json", **environment)
        assert json.loads(applied.stdout)["applied"] == LABELS
        keys = {"SYMMETRA_SUPABASE_URL": f"https://{REF}.supabase.co", "SYMMETRA_SUPABASE_KEY": "sb_secret_x"}
        assert run("status", **environment, **keys).exit_code == 0
        with server.connect(name) as holder:
            holder.execute("select pg_advisory_lock(hashtext('symmetra-mcp:migrate'))")
            status = json.loads(run("status", "--json", **environment, **keys).stdout)
            assert status["is_locked"] is True
        refused = run("index", **environment, **keys)
        assert (refused.exit_code, "set `SYMMETRA_DB_URL`" in refused.stderr) == (1, True)


@pytest.mark.slow
def test_waiting_for_another_is_told_over_the_api_too(
    run: Run, server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symmetra_mcp.stores.schema.LOCK_TIMEOUT_S", 1)
    with management_api(server.url(name)) as api, server.connect(name) as holder:
        holder.execute("select pg_advisory_lock(hashtext('symmetra-mcp:migrate'))")
        environment = {"SUPABASE_ACCESS_TOKEN": TOKEN, "SYMMETRA_SUPABASE_API_URL": api.url}
        refused = run("apply", "--project-id", REF, **environment)
    assert refused.exit_code == 1
    assert "Notice: another schema change is running in this database: waiting for it" in refused.stderr
    assert "run the command again when it has ended" in refused.stderr


def test_a_key_alone_leads_to_three_ways(run: Run) -> None:
    keys = {"SYMMETRA_SUPABASE_URL": f"https://{REF}.supabase.co", "SYMMETRA_SUPABASE_KEY": "sb_secret_hidden"}
    refused = run("apply", **keys)
    assert refused.exit_code == 1
    for part in ("SYMMETRA_DB_URL", "SUPABASE_ACCESS_TOKEN", "schema print", f"/dashboard/project/{REF}/sql/new"):
        assert part in refused.stderr
    assert "sb_secret_hidden" not in refused.output
    assert "--project-id REF" in run("apply").stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--project-id", "short"], {}, "20 lower-case letters, not 'short'"),
        (["--project-id", OTHER_REF], {"SYMMETRA_SUPABASE_URL": f"https://{REF}.supabase.co"}, "different projects"),
        (
            ["--project-id", OTHER_REF],
            {"SYMMETRA_DB_URL": f"postgresql://postgres:x@db.{REF}.supabase.co/postgres"},
            "different projects",
        ),
        (
            [],
            {
                "SYMMETRA_DB_URL": f"postgresql://postgres.{OTHER_REF}:x@aws-0-eu.pooler.supabase.com/postgres",
                "SYMMETRA_SUPABASE_URL": f"https://{REF}.supabase.co",
            },
            "different projects",
        ),
        ([], {"SUPABASE_ACCESS_TOKEN": TOKEN}, "name the project too, by --project-id"),
        ([], {"SYMMETRA_DB_URL": "postgresql://postgres:p@ss@host/db"}, "this is no connection string"),
    ],
)
def test_settings_that_lead_nowhere_or_to_two_projects_are_refused(
    run: Run, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    refused = run("apply", *arguments, **{"SYMMETRA_SUPABASE_KEY": "sb_secret_x"} | environment) if (
        "SYMMETRA_SUPABASE_URL" in environment
    ) else run("apply", *arguments, **environment)  # fmt: skip
    assert refused.exit_code == 1
    assert message in refused.stderr


def test_errors_of_the_database_end_the_command_with_their_text(run: Run, server: Server, name: str) -> None:
    refused = run("apply", SYMMETRA_DB_URL=server.url(name, "owner", "wr0ng-secret"))
    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: the database at 127.0.0.1:")
    assert "wr0ng-secret" not in refused.output
    assert "Traceback" not in refused.output


PROGRAM = """
from symmetra_mcp import schema_command
from symmetra_mcp.stores.schema import Migration, migrations
from symmetra_mcp.cli import cli
found = migrations()
slow = Migration(len(found) + 1, "slow", "select pg_sleep(600);")
schema_command.migrations = lambda: (*found, slow)
cli(["schema", "apply"])
"""


@pytest.mark.slow
def test_a_command_killed_in_the_middle_leaves_nothing_and_is_run_again(
    run: Run, server: Server, name: str, url: str
) -> None:
    def sleeps() -> bool:
        with server.connect("postgres") as connection:
            asked = "select 1 from pg_stat_activity where datname = %s and wait_event = 'PgSleep'"
            return connection.execute(asked, [name]).fetchone() is not None

    environment = os.environ | {"SYMMETRA_DB_URL": url}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment) as process:
        deadline = time.monotonic() + 60
        while not sleeps():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert json.loads(run("status", "--json", SYMMETRA_DB_URL=url).stdout)["version"] == 0
    assert run("apply", SYMMETRA_DB_URL=url).exit_code == 0
    assert run("status", SYMMETRA_DB_URL=url).exit_code == 0


def test_an_index_is_built_for_a_space_on_request(run: Run, server: Server, name: str, url: str) -> None:
    run("apply", SYMMETRA_DB_URL=url)
    assert "Nothing to build" in run("index", SYMMETRA_DB_URL=url).stdout
    unknown = run("index", "--space", "local/none@3", SYMMETRA_DB_URL=url)
    assert (unknown.exit_code, "no space 'local/none@3'" in unknown.stderr) == (1, True)


def test_index_is_refused_before_the_schema_is_complete_and_over_the_transaction_pooler(run: Run, url: str) -> None:
    refused = run("index", SYMMETRA_DB_URL=url)
    assert (refused.exit_code, "run `symmetra-mcp schema apply`" in refused.stderr) == (1, True)
    pooler = run("index", SYMMETRA_DB_URL="postgresql://postgres:x@127.0.0.1:6543/postgres")
    assert (pooler.exit_code, "session pooler (port 5432)" in pooler.stderr) == (1, True)


def test_a_space_s_index_is_built_with_progress_on_stderr(
    run: Run, server: Server, name: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = """
create table if not exists symmetra.vectors (space_no int, embedding extensions.vector(3));
insert into symmetra.vectors select 1, array[random(), random(), 1] from generate_series(1, 100);
create or replace function symmetra.index_statement(space_no int) returns text language sql as $$
  select 'create index concurrently if not exists space_1 on symmetra.vectors using hnsw '
    '(embedding extensions.vector_cosine_ops) where space_no = 1'
$$;
create or replace function symmetra.index_advice()
returns table (space_no int, space_id text, vectors bigint, indexed boolean, valid boolean, advised boolean)
language sql as $$
  select 1, 'local/a@3', 100, to_regclass('symmetra.space_1') is not null,
    to_regclass('symmetra.space_1') is not null, false
$$;
"""
    monkeypatch.setattr(schema_command, "migrations", lambda: (Migration(1, "index", sql),))
    run("apply", SYMMETRA_DB_URL=url)
    assert "not needed" in run("status", SYMMETRA_DB_URL=url).stdout
    assert "Nothing to build" in run("index", SYMMETRA_DB_URL=url).stdout
    built = run("index", "--space", "local/a@3", SYMMETRA_DB_URL=url)
    assert (built.exit_code, built.stdout) == (0, "Built: local/a@3.\n")
    assert built.stderr.startswith("Index of local/a@3: 100 vectors\n")
    assert "built" in run("status", SYMMETRA_DB_URL=url).stdout


def test_an_export_is_what_the_supabase_cli_reads_and_never_overwrites(run: Run, tmp_path: Path) -> None:
    assert run("export", "--supabase-cli", str(tmp_path)).exit_code == 0
    folder = tmp_path / "supabase" / "migrations"
    names = sorted(path.name for path in folder.iterdir())
    assert names[0] == "20261123000001_symmetra_tables.sql"
    assert len(names) == len(LABELS)
    first = folder / names[0]
    first.write_bytes(first.read_bytes().replace(b"\n", b"\r\n"))
    assert run("export", "--supabase-cli", str(tmp_path)).exit_code == 0
    (folder / names[1]).unlink()
    first.write_text("select 1;\n", encoding="utf-8")
    refused = run("export", "--supabase-cli", str(tmp_path))
    assert (refused.exit_code, "there with other text" in refused.stderr) == (1, True)
    assert first.read_text(encoding="utf-8") == "select 1;\n"
    assert not (folder / names[1]).exists()


def test_an_export_into_a_file_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "supabase").write_text("", encoding="utf-8")
    refused = run("export", "--supabase-cli", str(tmp_path))
    assert (refused.exit_code, "can't be written" in refused.stderr) == (1, True)
