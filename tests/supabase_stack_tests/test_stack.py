"""A test's project: as users have it, new or emptied for each test, and a real one left as it was but for our part."""

from __future__ import annotations

import re
import threading

import httpx
import pytest
from supabase import create_client
from supabase.lib.client_options import SyncClientOptions
from supabase_stack import project as project_module
from supabase_stack.keys import PUBLISHABLE_KEY
from supabase_stack.postgres import Server
from supabase_stack.project import Project, served
from supabase_stack.real import REAL_PROJECT

from symmetra_mcp.stores.schema import migrations

KEPT = {"schema_migrations", "state", "postings", "term_statistics"}
CASCADES = """
select confrelid::regclass::text, conrelid::regclass::text from pg_constraint where contype = 'f' and confdeltype = 'c'
"""
OF_THE_USER = """
create table public.orders as select 1 as id;
create function public.orders_of(text) returns int language sql as 'select 1';
"""

pytestmark = pytest.mark.skipif(all(REAL_PROJECT.values()), reason="about the project of the tests' own")


def write_note(project: Project) -> None:
    project.execute("insert into symmetra.notes values ('kept', 'something')")


def notes(project: Project) -> int:
    count: int = project.execute("select count(*) from symmetra.notes")[0][0]
    return count


def installed_versions(project: Project) -> list[int]:
    return [row[0] for row in project.execute("select version from symmetra.schema_migrations order by 1")]


def test_supabase_py_as_it_is_finds_the_products_schema(project: Project) -> None:
    assert installed_versions(project) == [migration.version for migration in migrations()]
    with httpx.Client(trust_env=False) as http:
        client = create_client(project.url, project.key, SyncClientOptions(httpx_client=http))
        status = client.rpc("symmetra_status", {}).execute().data
    assert isinstance(status, dict)
    assert [seen.role for seen in project.faulty.requests] == ["service_role"]
    assert project.faulty.count("symmetra_status") == 1


def test_a_project_has_nothing_of_another(server: Server, installed: str) -> None:
    for _ in range(2):
        with served(server, server.create_database(template=installed)) as made:
            assert notes(made) == 0
            write_note(made)
            assert notes(made) == 1


@pytest.mark.parametrize("turn", [1, 2])
def test_an_emptied_project_has_nothing_of_the_test_before(emptied_project: Project, turn: int) -> None:
    assert notes(emptied_project) == 0
    write_note(emptied_project)


def test_emptying_reaches_every_table(project: Project) -> None:
    tables = {
        name for (name,) in project.execute("select tablename::text from pg_tables where schemaname = 'symmetra'")
    }
    reached = set(re.findall(r"delete from symmetra\.(\w+)", project_module._EMPTY))
    cascades = [(a.split(".")[-1], b.split(".")[-1]) for a, b in project.execute(CASCADES)]
    while more := {held for holder, held in cascades if holder in reached} - reached:
        reached |= more
    assert tables - reached == KEPT


def test_a_bare_project_has_none_of_our_functions(bare_project: Project) -> None:
    headers = {"apikey": bare_project.key}
    with httpx.Client(base_url=bare_project.url, headers=headers, trust_env=False) as client:
        answer = client.post("/rest/v1/rpc/symmetra_status", json={})
    assert (answer.status_code, answer.json()["code"]) == (404, "PGRST202")
    assert bare_project.execute("select to_regnamespace('symmetra')") == [(None,)]


def test_what_serves_a_project_ends_with_the_test(server: Server, installed: str) -> None:
    before = set(threading.enumerate())
    name = server.create_database(template=installed)
    with served(server, name) as made:
        url = made.url
        httpx.post(f"{url}/rest/v1/rpc/symmetra_status", headers={"apikey": made.key}, json={}, trust_env=False)
    assert not {thread for thread in threading.enumerate() if thread.is_alive()} - before
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)
    with server.connect("postgres") as connection:
        found = connection.execute("select count(*) from pg_stat_activity where datname = %s", [name]).fetchone()
    assert found == (0,)


def test_keys_are_of_the_roles_that_they_name(bare_project: Project) -> None:
    bare_project.execute("create function public.whoami() returns text language sql as 'select current_user::text'")
    bare_project.execute("notify pgrst, 'reload schema'")
    keys = {
        "service_role": bare_project.key,
        "anon": PUBLISHABLE_KEY,
        "authenticated": bare_project.token("authenticated"),
    }
    told = {}
    for role, key in keys.items():
        answer = httpx.post(f"{bare_project.url}/rest/v1/rpc/whoami", headers={"apikey": key}, json={}, trust_env=False)
        told[role] = answer.json()
    assert told == {role: role for role in keys}


def test_a_real_project_loses_what_is_ours_and_nothing_else(
    request: pytest.FixtureRequest, bare_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bare_project.connect() as connection:
        connection.execute("set role owner")
        connection.execute(OF_THE_USER)
    project_module.install(bare_project.db_url)
    write_note(bare_project)
    for name, value in (("URL", bare_project.url), ("KEY", bare_project.key), ("DB_URL", bare_project.db_url)):
        monkeypatch.setitem(REAL_PROJECT, name, value)
    real: Project = request.getfixturevalue("project")
    assert (real.url, real.gateway) == (bare_project.url, None)
    assert installed_versions(real) == [migration.version for migration in migrations()]
    assert notes(real) == 0
    assert real.execute("select id, public.orders_of('x') from public.orders") == [(1, 1)]
    with pytest.raises(pytest.skip.Exception):
        _ = real.faulty
