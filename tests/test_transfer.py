from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from supabase_stack.project import Project

from symmetra_mcp.cli import cli
from symmetra_mcp.errors import StoreAccessError, StoreUnavailableError
from symmetra_mcp.passages import passages
from symmetra_mcp.probes import probe_passages
from symmetra_mcp.reembed import complete_space
from symmetra_mcp.stores.base import RuleStore
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.stores.supabase import SupabaseStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.transfer import TransferReport, copy_rules
from symmetra_mcp.types import Rule, RuleKey, Scope, Source

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def rule(rule_id: str, guidance: str = "", **fields: Any) -> Rule:
    given = {"project_id": "shop", "rule_id": rule_id, "title": rule_id.capitalize(), "guidance": guidance or rule_id}
    return Rule(**given | fields)


RULES = [
    rule("one", "Pin dependencies.\0\x10 Kept as it is.", tech_stacks=("python",), keywords=("lock", "pip")),
    rule("two", "数据库。 🚀", priority="critical", category="Größe"),
    rule("three", sources=(Source("a.md", 3, 9, heading_path=("A",), scope=Scope("files", ("*.py", "!t.py"))),)),
    rule("four", project_id="blog", rationale="Because."),
]


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[RuleStore]:
    store = SqliteStore(tmp_path / "here")
    await store.open()
    yield store
    await store.aclose()


@pytest.fixture(params=["sqlite", "supabase"])
async def there(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RuleStore]:
    if request.param == "sqlite":
        store: RuleStore = SqliteStore(tmp_path / "there")
    else:
        project: Project = request.getfixturevalue("emptied_project")
        store = SupabaseStore(project.address())
    await store.open()
    yield store
    await store.aclose()


async def filled(store: RuleStore, *providers: FakeProvider) -> None:
    await store.upsert_rules(RULES)
    for provider in providers:
        await complete_space(store, provider)


async def every_vector(store: RuleStore, provider: FakeProvider) -> dict[str, bytes]:
    texts = [passage for each in await store.list_rules() for passage in passages(each)]
    hashes = [passage.content_hash for passage in (*texts, *probe_passages())]
    return {key: vector.tobytes() for key, vector in (await store.get_vectors(provider.space, hashes)).items()}


async def test_rules_and_vectors_arrive_as_they_were_and_nothing_is_embedded(here: RuleStore, there: RuleStore) -> None:
    one, other = FakeProvider("one"), FakeProvider("other", dimensions=32)
    await filled(here, other, one)
    embedded = (len(one.embedded), len(other.embedded))
    report = await copy_rules(here, there)
    assert await there.list_rules() == await here.list_rules() == sorted(RULES, key=lambda each: each.key)
    for provider in (one, other):
        assert await every_vector(there, provider) == await every_vector(here, provider)
    assert (len(one.embedded), len(other.embedded)) == embedded
    assert report == TransferReport(
        added=tuple(sorted(each.key for each in RULES)),
        vectors={one.space.space_id: 4, other.space.space_id: 4},
        activated=one.space,
    )
    assert await there.active_space() == one.space
    assert await copy_rules(here, there) == TransferReport(unchanged=4)


async def test_a_round_trip_loses_nothing(here: RuleStore, there: RuleStore, tmp_path: Path) -> None:
    provider = FakeProvider()
    await filled(here, provider)
    await copy_rules(here, there)
    back = SqliteStore(tmp_path / "back")
    await back.open()
    await copy_rules(there, back)
    assert await back.list_rules() == await here.list_rules()
    assert await every_vector(back, provider) == await every_vector(here, provider)
    await back.aclose()


async def test_the_targets_own_space_stays_active(here: RuleStore, there: RuleStore) -> None:
    own, other = FakeProvider("own"), FakeProvider("other")
    await there.upsert_rules([rule("own")])
    await complete_space(there, own)
    await filled(here, other)
    assert (await copy_rules(here, there)).activated is None
    assert await there.active_space() == own.space


async def test_only_what_differs_is_written_and_what_only_the_target_has_is_pruned_on_request(
    here: RuleStore, there: RuleStore
) -> None:
    await here.upsert_rules(RULES)
    await there.upsert_rules([rule("one", "Older."), rule("gone"), RULES[1], rule("kept", project_id="elsewhere")])
    planned = await copy_rules(here, there, dry_run=True)
    assert (planned.added, planned.changed, planned.unchanged, planned.only_in_target) == (
        (RuleKey("blog", "four"), RuleKey("shop", "three")),
        (RuleKey("shop", "one"),),
        1,
        (RuleKey("shop", "gone"),),
    )
    assert len(await there.list_rules()) == 4
    done = await copy_rules(here, there, prune=True)
    assert (done.removed, done.only_in_target) == ((RuleKey("shop", "gone"),), ())
    keys = [each.key for each in await there.list_rules()]
    assert keys == [("blog", "four"), ("elsewhere", "kept"), ("shop", "one"), ("shop", "three"), ("shop", "two")]


async def test_a_project_alone_is_copied_and_starter_rules_only_by_name(here: RuleStore, there: RuleStore) -> None:
    await here.upsert_rules([*RULES, rule("brought", project_id="starter")])
    await copy_rules(here, there, project_ids=["blog"])
    assert await there.count_rules() == {"blog": 1}
    await copy_rules(here, there)
    assert await there.count_rules() == {"blog": 1, "shop": 3}
    await copy_rules(here, there, project_ids=["starter"])
    assert (await there.count_rules())["starter"] == 1


async def test_a_copy_that_broke_off_is_completed_by_the_next(
    here: RuleStore, there: RuleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = FakeProvider()
    await filled(here, provider)
    put = there.put_vectors

    async def broken(*args: Any) -> None:
        raise StoreUnavailableError("cut off")

    monkeypatch.setattr(there, "put_vectors", broken)
    with pytest.raises(StoreUnavailableError):
        await copy_rules(here, there)
    monkeypatch.setattr(there, "put_vectors", put)
    report = await copy_rules(here, there)
    assert (report.added, report.unchanged, report.vectors) == ((), 4, {provider.space.space_id: 4})
    assert await every_vector(there, provider) == await every_vector(here, provider)


@pytest.mark.slow
async def test_more_rules_than_a_page_arrive(here: RuleStore, emptied_project: Project) -> None:
    rules = [rule(f"r{number:04}") for number in range(1203)]
    await here.upsert_rules(rules)
    team = SupabaseStore(emptied_project.address())
    await team.open()
    await copy_rules(here, team)
    assert await team.list_rules() == rules
    await team.aclose()


async def test_a_key_that_may_not_write_is_refused_before_anything_is_read(here: RuleStore, project: Project) -> None:
    reader = SupabaseStore(project.address(project.token("authenticated")))
    await reader.open()
    with pytest.raises(StoreAccessError, match="secret key"):
        await copy_rules(here, reader)
    await reader.aclose()


# The commands


class Machine:
    def __init__(self, folder: Path, project: Project) -> None:
        self.folder = folder
        self.environment = {**project.environment(), "SYMMETRA_DATA_DIR": str(folder / "data")}

    def run(self, *arguments: str, **environment: str) -> Any:
        return CliRunner().invoke(cli, arguments, env=self.environment | environment)


@pytest.fixture
def machine(tmp_path: Path, emptied_project: Project) -> Machine:
    rules = [{"rule_id": f"r{n}", "title": f"Rule {n}", "guidance": f"Guidance {n}."} for n in range(3)]
    (tmp_path / "symmetra-rules.json").write_text(json.dumps(rules), "utf-8")
    return Machine(tmp_path, emptied_project)


def test_pushed_and_pulled_rules_are_told_and_arrive(machine: Machine, tmp_path: Path) -> None:
    own = {"SYMMETRA_STORE": "embedded"}
    assert machine.run("import", str(tmp_path / "symmetra-rules.json"), "--project", "team", **own).exit_code == 0
    planned = machine.run("rules", "push", "--dry-run")
    assert planned.stdout == "In the team's store: 3 rules would be added, 0 changed, 0 the same, 0 removed.\n"
    pushed = machine.run("rules", "push", "--json")
    told = json.loads(pushed.stdout)
    assert [key for _, key in told["added"]] == ["r0", "r1", "r2"]
    assert told["vectors"] == {"local/all-MiniLM-L6-v2@384": 3}
    other = {"SYMMETRA_DATA_DIR": str(tmp_path / "another machine")}
    pulled = machine.run("rules", "pull", **other)
    assert pulled.stdout.startswith("In the store of this machine: 3 rules added")
    found = machine.run("search", "guidance", "--project", "team", "--json", **own, **other)
    assert {hit["rule_id"] for hit in json.loads(found.stdout)["hits"]} == {"r0", "r1", "r2"}


def test_files_are_pushed_and_pulled(machine: Machine, tmp_path: Path) -> None:
    pushed = machine.run("rules", "push", str(tmp_path / "symmetra-rules.json"), "--project", "files")
    assert (pushed.exit_code, "3 added" in pushed.stdout) == (0, True)
    assert "symmetra-mcp reembed" in pushed.stderr
    output = tmp_path / "out.json"
    assert machine.run("rules", "pull", "--output", str(output)).exit_code == 0
    assert {each["rule_id"] for each in json.loads(output.read_text("utf-8"))["rules"]} == {"r0", "r1", "r2"}
    assert not (tmp_path / "data").exists()


def test_a_project_that_is_not_there_is_refused(machine: Machine) -> None:
    refused = machine.run("rules", "push", "--project", "nowhere")
    assert (refused.exit_code, "no project 'nowhere'" in refused.stderr) == (1, True)


def test_without_a_teams_store_the_settings_are_named(tmp_path: Path) -> None:
    refused = CliRunner().invoke(cli, ["rules", "push"], env={"SYMMETRA_DATA_DIR": str(tmp_path)})
    assert refused.exit_code == 1
    assert "`SYMMETRA_SUPABASE_URL`" in refused.stderr
    assert "`SYMMETRA_SUPABASE_KEY`" in refused.stderr


def test_vectors_of_any_size_of_number_arrive_bit_for_bit() -> None:
    from symmetra_mcp.stores.supabase_wire import vector_text

    numbers = np.array([0.1, -0.1, 1e-7, -1e-38, 1.0, -1.0, 0.0, 0.05123457, 3.4e38, -0.0], np.float32)
    read = np.array([np.float32(part) for part in vector_text(numbers)[1:-1].split(",")], np.float32)
    assert read.tobytes() == numbers.tobytes()
