"""A project for a test: a database with the product's schema, and a gateway in front of it.

With `SYMMETRA_TEST_SUPABASE_URL`, `SYMMETRA_TEST_SUPABASE_KEY` and `SYMMETRA_TEST_SUPABASE_DB_URL` set, tests that need
no faults run against a real project instead: its schema `symmetra` is dropped and installed anew for each test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from pydantic import SecretStr
from supabase import Client, create_client
from supabase.lib.client_options import SyncClientOptions

from supabase_stack.gateway import Gateway
from supabase_stack.keys import PUBLISHABLE_KEY, SECRET_KEY, token
from supabase_stack.postgres import Server
from supabase_stack.real import REAL_PROJECT
from symmetra_mcp.config import SupabaseAddress
from symmetra_mcp.stores.schema import migrations
from symmetra_mcp.stores.schema_direct import DirectDatabase
from symmetra_mcp.stores.schema_install import apply_migrations

_DROP = """
drop schema if exists symmetra cascade;
do $$ declare f record; begin
  for f in select p.oid::regprocedure as signature from pg_proc as p where p.pronamespace = 'public'::regnamespace
    and (p.proname ~ '^symmetra_' or p.proname = 'match_rules')
  loop execute format('drop function %s cascade', f.signature); end loop;
end $$;
"""
_EMPTY = """
delete from symmetra.rules; delete from symmetra.facets; delete from symmetra.scopes;
update symmetra.state set active_space = null; delete from symmetra.spaces; delete from symmetra.notes;
delete from symmetra.leases; delete from symmetra.uploads; delete from symmetra.removed_rules;
"""


@dataclass
class Project:
    """Where a test's rules are.

    Attributes:
        url: The address that `SYMMETRA_SUPABASE_URL` takes.
        db_url: The connection string of the role that owns the tables.
        gateway: For faults and counts; `None` for a real project.
    """

    url: str
    key: str
    db_url: str
    dsn: str
    gateway: Gateway | None

    @property
    def faulty(self) -> Gateway:
        """The gateway, where faults can be switched on."""
        if self.gateway is None:
            pytest.skip("a real project takes no faults")
        return self.gateway

    def address(self, key: str = "") -> SupabaseAddress:
        return SupabaseAddress(self.url, SecretStr(key or self.key))

    def environment(self, key: str = "") -> dict[str, str]:
        """What a process needs to use it."""
        return {"SYMMETRA_SUPABASE_URL": self.url, "SYMMETRA_SUPABASE_KEY": key or self.key}

    def connect(self) -> psycopg.Connection[Any]:
        """A connection of the database's administrator."""
        return psycopg.connect(self.dsn, autocommit=True)

    def execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            found = connection.execute(statement, values or None)
            return found.fetchall() if found.description else []

    publishable_key = PUBLISHABLE_KEY
    token = staticmethod(token)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def installed(server: Server) -> str:
    """A database with the product's schema, to copy from."""
    name = server.create_database()
    install(server.url(name, "owner", "owner-password"))
    return name


def install(url: str) -> None:
    """The product's schema, as `symmetra-mcp schema apply` installs it."""
    with DirectDatabase(url) as database:
        apply_migrations(database, migrations())


@contextmanager
def served(server: Server, name: str) -> Iterator[Project]:
    """A gateway in front of a database."""
    gateway = Gateway(server.url(name, "authenticator", "authenticator"))
    gateway.start()
    try:
        yield Project(gateway.url, SECRET_KEY, server.url(name, "owner", "owner-password"), server.url(name), gateway)
    finally:
        gateway.stop()


@pytest.fixture
def project(request: pytest.FixtureRequest) -> Iterator[Project]:
    """A project with the product's schema and no rules."""
    if all(REAL_PROJECT.values()):
        with psycopg.connect(REAL_PROJECT["DB_URL"], autocommit=True) as connection:
            connection.execute(_DROP)
        install(REAL_PROJECT["DB_URL"])
        yield Project(REAL_PROJECT["URL"], REAL_PROJECT["KEY"], REAL_PROJECT["DB_URL"], REAL_PROJECT["DB_URL"], None)
        return
    server: Server = request.getfixturevalue("server")
    name = server.create_database(template=request.getfixturevalue("installed"))
    with served(server, name) as made:
        yield made
    server.drop_database(name)


@pytest.fixture(scope="session")
def _standing(server: Server, installed: str) -> Iterator[Project]:
    with served(server, server.create_database(template=installed)) as made:
        yield made


@pytest.fixture
def emptied_project(request: pytest.FixtureRequest) -> Project:
    """A project that other tests have used before and whose rows are gone: quicker than a new one."""
    if all(REAL_PROJECT.values()):
        project: Project = request.getfixturevalue("project")
        return project
    standing: Project = request.getfixturevalue("_standing")
    standing.execute(_EMPTY)
    standing.faulty.connect_anew()
    standing.faulty.faults.clear()
    standing.faulty.requests.clear()
    return standing


@pytest.fixture
def bare_project(server: Server) -> Iterator[Project]:
    """A project as its owner gets it, without our schema."""
    name = server.create_database()
    with served(server, name) as made:
        yield made
    server.drop_database(name)


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """Makes clients as they are, but for their transport, which knows no proxy and tries nothing again."""
    made: list[httpx.Client] = []

    def client(project: Project, key: str = "", timeout_s: float = 10) -> Client:
        made.append(httpx.Client(trust_env=False, timeout=timeout_s))
        options = SyncClientOptions(httpx_client=made[-1], postgrest_client_retry=False)
        return create_client(project.url, key or project.key, options)

    yield client
    for each in made:
        each.close()
