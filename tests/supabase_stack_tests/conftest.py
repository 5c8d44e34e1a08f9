from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from supabase import Client
from supabase_stack.example import AUTH, FUNCTIONS, SCHEMA, THINGS
from supabase_stack.postgres import Server
from supabase_stack.project import Project, served


@pytest.fixture(scope="module")
def stage(server: Server) -> Iterator[Project]:
    name = server.create_database()
    with server.connect(name) as connection:
        connection.execute("grant create on schema public to owner; set role owner")
        connection.execute("set search_path = public, extensions")
        connection.execute((AUTH + SCHEMA + FUNCTIONS).encode())
        connection.execute("reset role; alter function public.die() owner to postgres")
    with served(server, name) as made:
        yield made
    server.drop_database(name)


@pytest.fixture
def filled(stage: Project) -> Project:
    """Three things, no faults, and nothing seen."""
    stage.execute("delete from public.things")
    statement = "insert into public.things select * from json_populate_recordset(null::public.things, %s)"
    stage.execute(statement, json.dumps(THINGS))
    stage.faulty.faults.clear()
    stage.faulty.requests.clear()
    return stage


@pytest.fixture
def client(filled: Project, connect: Callable[..., Client]) -> Client:
    return connect(filled)
