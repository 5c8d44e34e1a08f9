"""The server of the tests: set up as Supabase's is, and gone with whoever started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from supabase_stack import postgres
from supabase_stack.postgres import Server

CHILD = """
import sys
from supabase_stack.postgres import Server
server = Server()
server.create_database()
print(server.port, server._folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def name(server: Server) -> str:
    return server.create_database()


def refused(server: Server, name: str, statement: str, role: str) -> str:
    """SQLSTATE of what a role may not do, as the gateway would do it."""
    with psycopg.connect(server.url(name, "authenticator", "authenticator")) as connection:
        connection.execute("select set_config('role', %s, true)", [role])
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(statement)
    return caught.value.sqlstate or ""


def eventually(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.02)
    return is_so()


def is_served(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_what_the_owner_makes_is_granted_to_no_key(server: Server, name: str, role: str) -> None:
    with server.connect(name, "owner") as connection:
        connection.execute("create table public.things (id int)")
        connection.execute("create function public.answer() returns int language sql as 'select 42'")
    assert refused(server, name, "select from public.things", role) == "42501"
    assert refused(server, name, "select public.answer()", role) == "42501"


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
def test_a_server_starts_from_a_closed_folder_though_another_takes_its_port(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: Server
) -> None:
    programs = tmp_path / "closed" / "programs"
    programs.parent.mkdir(mode=0o700)
    programs.symlink_to(postgres._wheel_binaries().parent)
    own_port = postgres._free_port()
    ports = iter([server.port, own_port])
    monkeypatch.setattr(postgres, "_free_port", lambda: next(ports))
    with Server(programs / "bin") as other:
        assert other.port == own_port
        assert other._folder.is_dir()
        with other.connect(other.create_database()) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
    assert not is_served(own_port)
    assert not other._folder.exists()
    other.stop()


def test_programs_that_are_not_there_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(postgres, "_place", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError):
        Server(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_server_goes_with_tests_that_were_killed() -> None:
    folder = Path(postgres.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        port, data = child.stdout.readline().split()
        assert is_served(int(port))
        assert Path(data).is_dir()
        os.killpg(child.pid, signal.SIGKILL)
    assert eventually(lambda: not is_served(int(port)) and not Path(data).exists())
