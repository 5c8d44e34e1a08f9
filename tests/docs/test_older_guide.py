"""What the older Symmetra's guide to its cloud embeddings promised, run for real in this version's names."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from loopback import Fault, LoopbackVendor, expected_vector
from supabase_stack.project import Project

from symmetra_mcp.app import App
from symmetra_mcp.cli import cli
from symmetra_mcp.probes import probe_passages
from symmetra_mcp.reembed import ReembedReport

pytestmark = pytest.mark.slow  # real processes, some seventy seconds of them

REPOSITORY = Path(__file__).resolve().parents[2]
KEY = "sk-of-this-test"
TEXTS = 155
"""Distinct texts of the starter rules."""

# The guide's blocks in this version's names, with values of our own.

EXPORTED_KEY = f'export OPENAI_API_KEY="{KEY}"'

KEY_AND_BACKEND = f"""
OPENAI_API_KEY={KEY}
SYMMETRA_EMBEDDING_BACKEND=openai  # `auto` would choose the same
"""

FIRST_MIGRATION = """
symmetra-mcp migrate --project-id abcdefghijklmnopqrst
symmetra-mcp migrate --dry-run
"""

AUTOMATIC_SELECTION = """
from symmetra_mcp.embedding_config import get_embedding_manager

manager = get_embedding_manager()
embedding = manager.generate_embedding("where embeddings are kept")
"""

MANUAL_SELECTION = """
from symmetra_mcp.embedding_config import EmbeddingBackend, EmbeddingManager

manager = EmbeddingManager(EmbeddingBackend.OPENAI)
embeddings = manager.generate_batch_embeddings(["small services", "a database kept safe"])
"""

BATCH = """
from symmetra_mcp.embedding_config import generate_batch_embeddings

embeddings = generate_batch_embeddings(["one rule", "another rule", "a third rule"])
"""

ALL_SETTINGS = f"""
SYMMETRA_EMBEDDING_BACKEND=auto    # or one by name

OPENAI_API_KEY={KEY}
COHERE_API_KEY=co-of-this-test     # may be left out

# The local model
SYMMETRA_EMBEDDING_MODEL=all-MiniLM-L6-v2
"""

HEALTH = """
from symmetra_mcp.cloud_vector_search import cloud_vector_search_engine

health = cloud_vector_search_engine.health_check()
print(health)
"""

FULL_MIGRATION = """
symmetra-mcp migrate \\
  --project-id abcdefghijklmnopqrst \\
  --batch-size 50
"""

SEARCH_TEST = """
symmetra-mcp migrate \\
  --project-id abcdefghijklmnopqrst \\
  --test-only
"""

HEALTH_IN_THE_SHELL = """
python -c "
import json
from symmetra_mcp.cloud_vector_search import cloud_vector_search_engine
health = cloud_vector_search_engine.health_check()
print(json.dumps(health, indent=2))
"
"""

KEY_NOT_FOUND = f"""
export OPENAI_API_KEY="{KEY}"
echo "OPENAI_API_KEY={KEY}" >> .env
"""

WHAT_IS_AVAILABLE = """
python -c "
from symmetra_mcp.embedding_config import get_embedding_manager
manager = get_embedding_manager()
print(manager.get_provider_info())
"
"""

INSTALLATION = "pip install openai cohere sentence-transformers"

FUNCTION_NOT_FOUND = "symmetra-mcp migrate --project-id abcdefghijklmnopqrst"

DIMENSIONS_MISMATCH = "symmetra-mcp migrate --force"

SLOW = """
symmetra-mcp migrate --batch-size 100
export SYMMETRA_EMBEDDING_BACKEND=openai
"""

PYTHON_BLOCKS = (AUTOMATIC_SELECTION, MANUAL_SELECTION, BATCH, HEALTH)
SHELL_BLOCKS = (
    EXPORTED_KEY,
    KEY_AND_BACKEND,
    FIRST_MIGRATION,
    ALL_SETTINGS,
    FULL_MIGRATION,
    SEARCH_TEST,
    HEALTH_IN_THE_SHELL,
    KEY_NOT_FOUND,
    WHAT_IS_AVAILABLE + INSTALLATION,
    FUNCTION_NOT_FOUND,
    DIMENSIONS_MISMATCH,
    SLOW,
)


@dataclass
class Machine:
    """A user's machine: a folder to work in, a data folder, and the vendor to reach.

    Attributes:
        variables: The user's own environment.
    """

    place: Path
    vendor: LoopbackVendor
    variables: dict[str, str]

    @property
    def work(self) -> Path:
        return self.place / "work"

    @property
    def data(self) -> Path:
        return self.place / "data"

    def shell(self, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script where `python` and `symmetra-mcp` are those under test."""
        return subprocess.run(
            ["bash", "-c", script],
            cwd=self.work,
            env={
                "PATH": os.pathsep.join([str(self.place / "bin"), "/usr/bin", "/bin"]),
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "HOME": str(self.place),
                "SYMMETRA_DATA_DIR": str(self.data),
                "OPENAI_BASE_URL": self.vendor.openai_base_url,
                "CO_API_URL": self.vendor.cohere_base_url,
                **self.variables,
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def python(self, program: str, **variables: str) -> str:
        """Run a Python program that must succeed, and return what it printed."""
        done = self.shell(f"python -c {shlex.quote(program)}", **variables)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def keys_sent(self) -> set[str]:
        return {request.headers["authorization"] for request in self.vendor.stats.recent}


def make_machine(place: Path, vendor: LoopbackVendor) -> Machine:
    for folder in ("work", "bin"):
        (place / folder).mkdir(parents=True)
    for name, command in {"python": "", "symmetra-mcp": "-m symmetra_mcp "}.items():
        file = place / "bin" / name
        file.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {command}"$@"\n')
        file.chmod(0o755)
    return Machine(place, vendor, {})


@pytest.fixture(scope="module")
def vendor() -> Iterator[LoopbackVendor]:
    with LoopbackVendor() as vendor:
        yield vendor


@pytest.fixture
def machine(tmp_path: Path, vendor: LoopbackVendor) -> Machine:
    """A new machine without a key."""
    vendor.reset()
    return make_machine(tmp_path / "machine", vendor)


@pytest.fixture(scope="module")
def migrated_once(tmp_path_factory: pytest.TempPathFactory, vendor: LoopbackVendor) -> Path:
    """A data folder whose rules are embedded by OpenAI."""
    vendor.reset()  # the test before may have left it with a fault
    machine = make_machine(tmp_path_factory.mktemp("migrated"), vendor)
    done = machine.shell("symmetra-mcp migrate", OPENAI_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    return machine.data


@pytest.fixture
def migrated(migrated_once: Path, machine: Machine) -> Machine:
    """A machine with OpenAI's key and rules embedded by OpenAI."""
    shutil.copytree(migrated_once, machine.data)
    machine.variables["OPENAI_API_KEY"] = KEY
    machine.vendor.reset()
    return machine


def batches(vendor: LoopbackVendor) -> list[int]:
    """Texts of each request with several rules: not of those that try the connection, nor of unrelated questions."""
    probes = {probe.text for probe in probe_passages()}
    sizes = [len(request.body["input"]) for request in vendor.stats.recent if request.body["input"][0] not in probes]
    return [size for size in sizes if size > 1]


EMBED = "from symmetra_mcp.embedding_config import *; print(get_embedding_manager().generate_embedding('one')[:2])"
FIRST_NUMBERS = [round(float(number), 5) for number in expected_vector("one", "text-embedding-3-small", 384)[:2]]


def first_numbers(printed: str) -> list[float]:
    return [round(number, 5) for number in ast.literal_eval(printed)]


def last_event(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert all("event" in event for event in events)
    result: dict[str, Any] = events[-1]
    return result


# Setting up


def test_an_exported_key_is_all_that_openai_needs(machine: Machine) -> None:
    done = machine.shell(f"{EXPORTED_KEY}\npython -c {shlex.quote(EMBED)}")
    assert first_numbers(done.stdout) == FIRST_NUMBERS
    assert machine.keys_sent() == {f"Bearer {KEY}"}


@pytest.mark.parametrize("settings", [KEY_AND_BACKEND, ALL_SETTINGS], ids=["key-and-backend", "all-settings"])
def test_the_settings_may_stand_in_an_env_file(machine: Machine, settings: str) -> None:
    (machine.work / ".env").write_text(settings)
    assert first_numbers(machine.python(EMBED)) == FIRST_NUMBERS
    assert machine.keys_sent() == {f"Bearer {KEY}"}


def test_a_key_may_be_added_to_the_env_file_by_the_shell(machine: Machine) -> None:
    _, to_the_file = KEY_NOT_FOUND.strip().splitlines()
    assert first_numbers(machine.shell(f"{to_the_file}\npython -c {shlex.quote(EMBED)}").stdout) == FIRST_NUMBERS
    both = machine.shell(f"{KEY_NOT_FOUND}\npython -c {shlex.quote(EMBED)}")
    assert (both.returncode, first_numbers(both.stdout)) == (0, FIRST_NUMBERS)


def test_a_missing_key_is_named_where_openai_is_insisted_on(machine: Machine) -> None:
    done = machine.shell("symmetra-mcp migrate", SYMMETRA_EMBEDDING_BACKEND="openai", OPENAI_BASE_URL="")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: `OPENAI_API_KEY` is not set")
    assert machine.vendor.stats.requests == 0


# In Python


@pytest.mark.parametrize(
    ("keys", "provider", "requests"),
    [
        ({"OPENAI_API_KEY": KEY, "COHERE_API_KEY": "co"}, "openai", 1),
        ({"COHERE_API_KEY": "co"}, "cohere", 1),
        ({}, "local", 0),
    ],
    ids=["openai", "cohere", "local"],
)
def test_a_provider_is_chosen_by_the_keys(machine: Machine, keys: dict[str, str], provider: str, requests: int) -> None:
    told = "\nprint(len(embedding), manager.get_provider_info()['provider'])"
    assert machine.python(AUTOMATIC_SELECTION + told, **keys) == f"384 {provider}\n"
    assert machine.vendor.stats.requests == requests


def test_a_backend_can_be_named_and_embeds_a_batch(machine: Machine) -> None:
    told = "\nprint([len(embedding) for embedding in embeddings])"
    keys = {"OPENAI_API_KEY": KEY, "COHERE_API_KEY": "co"}
    assert machine.python(MANUAL_SELECTION + told, **keys) == "[384, 384]\n"
    assert batches(machine.vendor) == [2]


def test_many_texts_are_embedded_by_one_call_in_few_requests(machine: Machine) -> None:
    told = "\nprint([len(embedding) for embedding in embeddings])"
    assert machine.python(BATCH + told, OPENAI_API_KEY=KEY) == "[384, 384, 384]\n"
    assert batches(machine.vendor) == [3]


# Health


HEALTHY = {
    "status": "healthy",
    "components": {
        "sqlite": {"status": "healthy", "rule_count": 139},
        "openai": {"status": "healthy", "embedding_dimensions": 384},
    },
}


def test_the_health_check_has_the_shape_that_was_promised(migrated: Machine) -> None:
    assert ast.literal_eval(migrated.python(HEALTH)) == HEALTHY


def test_the_health_check_works_from_the_shell(migrated: Machine) -> None:
    done = migrated.shell(HEALTH_IN_THE_SHELL)
    assert json.loads(done.stdout) == HEALTHY


def test_the_provider_info_says_what_is_available(machine: Machine) -> None:
    info = ast.literal_eval(machine.shell(WHAT_IS_AVAILABLE).stdout)
    assert (info["provider"], info["dimensions"]) == ("local", 384)
    assert info["available"] == {
        "openai": "`OPENAI_API_KEY` is not set",
        "cohere": "`COHERE_API_KEY` is not set",
        "local": "bundled model, needs no key and no network",
    }


def test_what_the_guide_installs_by_hand_is_a_dependency_or_an_extra() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {
        re.split(r"[<>=]", line)[0] for line in [*project["dependencies"], *project["optional-dependencies"]["local"]]
    }
    assert set(INSTALLATION.split()[2:]) <= needed


# Migrating


@pytest.mark.parametrize(
    "script", [FULL_MIGRATION, SEARCH_TEST, FUNCTION_NOT_FOUND], ids=["full", "test-only", "function"]
)
def test_a_project_without_its_key_is_refused_by_the_name_of_the_setting(machine: Machine, script: str) -> None:
    done = machine.shell(script, OPENAI_API_KEY=KEY)
    assert (done.returncode, done.stdout) == (1, "")
    assert "`SYMMETRA_SUPABASE_KEY` is not" in done.stderr
    assert machine.vendor.stats.requests == 0
    assert not machine.data.exists()


@pytest.mark.parametrize("project_id", ["", "short", "ABCDEFGHIJKLMNOPQRST"])
def test_a_project_id_that_is_none_is_refused(machine: Machine, project_id: str) -> None:
    done = machine.shell(f"symmetra-mcp migrate --project-id '{project_id}'")
    assert (done.returncode, "20 lower-case letters" in done.stderr) == (1, True)


def test_another_project_than_the_address_means_is_refused(machine: Machine) -> None:
    address = {"SYMMETRA_SUPABASE_URL": f"https://{'z' * 20}.supabase.co", "SYMMETRA_SUPABASE_KEY": "sb_secret_x"}
    done = machine.shell(FUNCTION_NOT_FOUND, OPENAI_API_KEY=KEY, **address)
    assert (done.returncode, "nothing was changed" in done.stderr) == (1, True)


OLDER_TABLE = """
create type rule_category as enum ('architecture', 'security');
create table public.rules (id uuid primary key default gen_random_uuid(), rule_id text unique not null,
  title text not null, guidance text not null, rationale text, category rule_category, priority text default 'medium',
  contexts text[], tech_stacks text[], keywords text[], project_id text, embedding extensions.vector(384));
insert into public.rules (rule_id, title, guidance, category)
  select 'rule-' || n, 'Choice ' || n, 'Keep embeddings in place ' || n, 'architecture' from generate_series(2, 10) n;
insert into public.rules (rule_id, title, guidance, category) values ('vector-db-choice', 'Vector Database Selection',
  'Use a vector database for the architecture of the embeddings', 'architecture');
"""


def test_migrating_the_older_project_creates_the_functions_and_embeds_its_rules(
    machine: Machine, bare_project: Project
) -> None:
    with psycopg.connect(bare_project.db_url, autocommit=True) as connection:
        connection.execute(OLDER_TABLE)
    team = {**bare_project.environment(), "OPENAI_API_KEY": KEY}
    missing = machine.shell(FUNCTION_NOT_FOUND, **team)
    assert missing.returncode == 1
    assert "Vector search function not found" in missing.stderr
    assert "symmetra-mcp schema apply" in missing.stderr
    migrated = machine.shell(FULL_MIGRATION, **team, SYMMETRA_DB_URL=bare_project.db_url)
    assert migrated.stderr.splitlines() == [
        "Created the vector search functions in the database",
        "Connected to openai (text-embedding-3-small, 384 dimensions)",
        f"Connected to Supabase, {bare_project.url} (10 rules)",
        "Batch 1 of 1: 10 of 10 texts embedded",
    ]
    assert migrated.stdout.endswith("Migration complete.\n")
    assert ast.literal_eval(machine.shell(f"python -c {shlex.quote(HEALTH)}", **team).stdout) == {
        "status": "healthy",
        "components": {
            "supabase": {"status": "healthy", "rule_count": 10},
            "openai": {"status": "healthy", "embedding_dimensions": 384},
        },
    }
    tested = machine.shell(SEARCH_TEST, **team)
    assert tested.returncode == 0
    assert "  1. [architecture] Vector Database Selection\n     Rule: vector-db-choice | Similarity: " in tested.stdout
    assert bare_project.execute("select count(*), count(embedding) from public.rules") == [(10, 0)]


def test_a_dry_run_counts_and_asks_nobody(machine: Machine) -> None:
    done = machine.shell("symmetra-mcp migrate --dry-run", OPENAI_API_KEY=KEY)
    assert done.returncode == 0
    assert done.stdout.startswith(f"{TEXTS} of {TEXTS} texts would be embedded in space openai/text-embedding-3-small")
    assert machine.vendor.stats.requests == 0


def test_a_full_migration_tells_each_step_and_sends_batches_of_the_size_asked_for(machine: Machine) -> None:
    here = FULL_MIGRATION.replace("--project-id abcdefghijklmnopqrst \\\n", "\\\n")
    done = machine.shell(here, OPENAI_API_KEY=KEY)
    assert done.returncode == 0
    connected, store, *told = done.stderr.splitlines()
    assert connected == "Connected to openai (text-embedding-3-small, 384 dimensions)"
    assert store == f"Connected to the rule store {machine.data / 'symmetra.db'} (139 rules)"
    steps = [re.fullmatch(rf"Batch (\d) of 4: (\d+) of {TEXTS} texts embedded", line) for line in told]
    assert [step and step[1] for step in steps] == ["1", "2", "3", "4"]
    reached = [0, *(int(step[2]) for step in steps if step)]  # batches are on their way together, and end in any order
    assert sorted(after - before for before, after in pairwise(reached)) == [TEXTS - 150, 50, 50, 50]
    embedded, end = done.stdout.splitlines()
    assert embedded.startswith(f"{TEXTS} texts embedded in space openai/text-embedding-3-small@384")
    assert end == "Migration complete."
    assert max(batches(machine.vendor)) <= 50


def test_no_request_is_larger_than_the_batch_size(machine: Machine) -> None:
    done = machine.shell("symmetra-mcp migrate --batch-size 10", OPENAI_API_KEY=KEY)
    assert f"Batch 16 of 16: {TEXTS} of {TEXTS} texts embedded" in done.stderr
    assert max(batches(machine.vendor)) == 10
    the_connection_tried = 1
    assert machine.vendor.stats.texts == TEXTS + len(probe_passages()) + the_connection_tried


def test_a_migration_moves_the_searches_of_rules_that_another_provider_embedded(machine: Machine) -> None:
    machine.shell("symmetra-mcp reembed")
    done = machine.shell(f"{DIMENSIONS_MISMATCH} --json", OPENAI_API_KEY=KEY)
    answer = last_event(done)
    assert (answer["embedded"], answer["missing"]) == (TEXTS, 0)
    assert answer["switched_from"].startswith("local/all-MiniLM-L6-v2@384")
    found = json.loads(machine.shell('symmetra-mcp search "vector database" --json', OPENAI_API_KEY=KEY).stdout)
    assert found["space"].startswith("openai/")
    assert "degraded" not in found


def test_migrating_again_embeds_nothing_and_force_embeds_everything(migrated: Machine) -> None:
    again = last_event(migrated.shell("symmetra-mcp migrate --json"))
    assert (again["embedded"], batches(migrated.vendor)) == (0, [])
    forced = last_event(migrated.shell(f"{DIMENSIONS_MISMATCH} --json"))
    assert (forced["embedded"], sum(batches(migrated.vendor))) == (TEXTS, TEXTS)


def test_a_larger_batch_size_is_taken_and_a_backend_may_be_exported(machine: Machine) -> None:
    migrate, export = SLOW.strip().splitlines()
    done = machine.shell(f"{export}\n{migrate}", OPENAI_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    assert f"Batch 2 of 2: {TEXTS} of {TEXTS} texts embedded" in done.stderr


def test_a_batch_size_below_one_is_wrong_usage(machine: Machine) -> None:
    assert machine.shell("symmetra-mcp migrate --batch-size 0").returncode == 2


def test_a_vendor_that_refuses_the_key_is_told_before_anything_changes(machine: Machine) -> None:
    machine.shell("symmetra-mcp reembed")
    machine.vendor.inject(Fault.WRONG_KEY, times=None)
    done = machine.shell("symmetra-mcp migrate", OPENAI_API_KEY=KEY)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: openai refused the key")
    assert machine.vendor.stats.requests == 1
    found = json.loads(machine.shell('symmetra-mcp search "vector database" --json', OPENAI_API_KEY=KEY).stdout)
    assert found["space"].startswith("local/")


def test_a_migration_that_rules_came_into_is_not_called_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    async def outrun(app: App, **_: Any) -> ReembedReport:
        return ReembedReport(app.providers.chosen.space, embedded=150, missing=5, passages=TEXTS)

    monkeypatch.setattr(App, "reembed", outrun)
    result = CliRunner().invoke(cli, ["migrate"])
    assert result.exit_code == 1
    assert result.stdout.endswith("Rules came in meanwhile: run `symmetra-mcp migrate` again.\n")


def test_going_back_is_the_former_setting_and_asks_the_vendor_nothing(machine: Machine) -> None:
    machine.shell("symmetra-mcp reembed")
    machine.shell("symmetra-mcp migrate", OPENAI_API_KEY=KEY)
    machine.vendor.reset()
    back = "SYMMETRA_EMBEDDING_BACKEND=local symmetra-mcp migrate --json"
    answer = last_event(machine.shell(back, OPENAI_API_KEY=KEY))
    assert (answer["embedded"], answer["missing"]) == (0, 0)
    assert answer["switched_from"].startswith("openai/")
    assert machine.vendor.stats.requests == 0


@pytest.mark.parametrize(
    "change",
    [{"OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""}, {"SYMMETRA_EMBEDDING_BACKEND": "local"}],
    ids=["no-key", "local"],
)
def test_rules_of_a_vendor_that_may_not_be_asked_are_searched_in_the_stand_in(
    migrated: Machine, change: dict[str, str]
) -> None:
    done = migrated.shell('symmetra-mcp search "where should embeddings be stored?" --json', **change)
    answer = json.loads(done.stdout)
    assert answer["space"].startswith("local/all-MiniLM-L6-v2@384")
    assert "vector-db-choice" in [hit["rule_id"] for hit in answer["hits"]]
    assert "stands in" in answer["degraded"]
    assert migrated.vendor.stats.requests == 0


# Testing the search


def test_the_search_test_shows_the_best_matches_and_changes_nothing(migrated: Machine) -> None:
    done = migrated.shell(SEARCH_TEST.replace("--project-id abcdefghijklmnopqrst", ""))
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert lines[0].startswith("The search for 'vector database architecture' in openai/text-embedding-3-small@384")
    assert lines[2] == "  1. [architecture] Vector Database Selection"
    assert re.fullmatch(r"     Rule: vector-db-choice \| Similarity: 0\.\d{3}", lines[3])
    assert batches(migrated.vendor) == []


def test_the_search_test_has_the_same_in_json(migrated: Machine) -> None:
    answer = last_event(migrated.shell("symmetra-mcp migrate --test-only --json"))
    assert (answer["hits"] or answer["nearest"])[0]["rule_id"] == "vector-db-choice"


def test_the_search_test_fails_where_nothing_is_embedded(machine: Machine) -> None:
    done = machine.shell("symmetra-mcp migrate --test-only", OPENAI_API_KEY=KEY)
    assert (done.returncode, done.stdout) == (1, "")
    assert "none of 139 rules is embedded yet: run `symmetra-mcp reembed`" in done.stderr


def test_the_search_test_fails_while_the_vendor_does(migrated: Machine) -> None:
    migrated.vendor.inject(Fault.UNAVAILABLE, times=None)
    done = migrated.shell("symmetra-mcp migrate --test-only", SYMMETRA_EMBEDDING_TIMEOUT="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "openai failed to answer" in done.stderr


def test_the_search_test_tells_when_the_rules_are_still_elsewhere(machine: Machine) -> None:
    machine.shell("symmetra-mcp reembed")
    done = machine.shell("symmetra-mcp migrate --test-only", OPENAI_API_KEY=KEY)
    assert done.returncode == 0
    assert "in local/all-MiniLM-L6-v2@384" in done.stdout
    assert "Notice: the settings choose openai/text-embedding-3-small" in done.stderr


@pytest.mark.parametrize("option", ["--force", "--dry-run", "--batch-size 5"])
def test_the_search_test_refuses_options_that_it_could_not_honour(machine: Machine, option: str) -> None:
    done = machine.shell(f"symmetra-mcp migrate --test-only {option}")
    assert done.returncode == 2
    assert "--test-only changes nothing" in done.stderr


# The guide itself, where it lies beside the repository

_RENAMED = {
    "from symmetra.": "from symmetra_mcp.",
    "python scripts/migrate_to_cloud_embeddings.py": "symmetra-mcp migrate",
    "python scripts/cloud_generate_embeddings.py": "symmetra-mcp migrate",
}


def asked_in_python(program: str) -> frozenset[str]:
    """Modules and names that a program imports, and the methods and members it uses."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.add(node.func.id)
    return frozenset(found)


def asked_in_shell(script: str) -> frozenset[str]:
    """Commands with their options, and variables that are set; the values of both aside."""
    found: set[str] = set()
    for program in re.findall(r'python -c "(.*?)"', script, re.DOTALL):
        found |= asked_in_python(program)
    rest = re.sub(r'python -c ".*?"', "", script, flags=re.DOTALL).replace("\\\n", " ")
    for line in rest.splitlines():
        words = shlex.split(line, comments=True)
        variables = [word.partition("=")[0] for word in words if re.match(r"[A-Z_]+=", word)]
        if variables:
            found |= {" ".join([*words[:1], *variables]) if words[0] in ("export", "echo") else variables[0]}
        elif words[:2] == ["symmetra-mcp", "migrate"]:
            found.add(" ".join(sorted(word for word in words if word.startswith("--"))) or "migrate")
        elif words:
            found.add(line.strip())
    return frozenset(found)


ASKED: dict[str, Callable[[str], frozenset[str]]] = {"python": asked_in_python, "bash": asked_in_shell}


def test_no_block_of_the_guide_is_without_a_counterpart(shared: Path) -> None:
    text = (shared / "guide-of-the-older-system.md").read_text("utf-8")
    for old, new in _RENAMED.items():
        text = text.replace(old, new)
    ours: dict[str, Any] = {"python": list(map(asked_in_python, PYTHON_BLOCKS))}
    ours["bash"] = list(map(asked_in_shell, SHELL_BLOCKS))
    blocks = re.findall(r"^```(python|bash)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 17
    for language, block in blocks:
        asked = ASKED[language](block)
        assert not asked or any(asked <= counterpart for counterpart in ours[language]), block
