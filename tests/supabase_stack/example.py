"""A database of small tables and functions, and how a test asks for them: by supabase-py, or as raw requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from postgrest import APIError
from supabase import Client

from supabase_stack.project import Project

SCHEMA = """
create table public.things (id int primary key, name text unique, note text default 'none', tags text[] not null
  default '{}', owner text, parent int references public.things deferrable initially deferred);
alter table public.things enable row level security;
create policy own on public.things to authenticated using (owner = auth_sub()) with check (owner = auth_sub());
grant select, insert, update, delete on public.things to service_role, authenticated;
create table public.many as select i as id from generate_series(1, 1500) as i;
grant select on public.many to service_role;
"""
FUNCTIONS = """
create function public.say(word text default 'hello', times int default 2) returns text language sql immutable
  as $$ select repeat(word, times) $$;
create function public.whoami() returns json language sql stable as $$ select json_build_object('role', current_user,
  'claims', current_setting('request.jwt.claims')::json, 'path', current_setting('search_path'),
  'method', current_setting('request.method'), 'url', current_setting('request.path'),
  'agent', current_setting('request.headers')::json ->> 'user-agent',
  'timeout', current_setting('statement_timeout'), 'read_only', current_setting('transaction_read_only')) $$;
create function public.hasty() returns text language sql set statement_timeout = '20ms'
  as $$ select pg_sleep(2)::text $$;
create function public.write_thing(id int, name text) returns void language sql
  as $$ insert into public.things (id, name) values (id, name) $$;
create function public.write_quietly(id int) returns void language plpgsql stable
  as $$ begin perform public.write_thing(id, 'quiet'); end $$;
create function public.write_and_fail(id int, state text) returns void language plpgsql as $$ begin
  perform public.write_thing(id, 'failing');
  raise exception 'broken off' using errcode = state, detail = 'a detail', hint = 'a hint'; end $$;
create function public.numbers(n int) returns setof int language sql stable as $$ select generate_series(1, n) $$;
create function public.rows_of(n int) returns table (id int, name text) language sql stable
  as $$ select i, 'n' || i from generate_series(1, n) as i $$;
create function public.one_row() returns public.many language sql stable as $$ select 7 $$;
create function public.as_jsonb(given jsonb) returns jsonb language sql immutable as $$ select given $$;
create function public.length_of(v vector) returns int language sql immutable as $$ select vector_dims(v) $$;
create function public.doubled(a int) returns int language sql as $$ select 2 * a $$;
create function public.doubled(a text) returns text language sql as $$ select a || a $$;
create function public.nap(s float8) returns text language sql as $$ select pg_sleep(s)::text $$;
create function public.die() returns boolean language sql security definer
  as $$ select pg_terminate_backend(pg_backend_pid()) $$;
create function public.written() returns int language plpgsql as
  $$ begin perform public.write_thing(99, 'from a view'); return 1; end $$;
create view public.writing as select public.written() as n;
grant select on public.writing to service_role;
create function public.closed() returns int language sql as $$ select 1 $$;
revoke execute on function public.closed() from public;
"""
AUTH = """create function public.auth_sub() returns text language sql stable
  as $$ select current_setting('request.jwt.claims', true)::json ->> 'sub' $$;"""
THINGS = [
    {"id": 1, "name": "one", "tags": ["a b", "c"], "owner": "u1", "note": None},
    {"id": 2, "name": 'tw"o, 2', "tags": ["c"], "owner": "u2", "note": "x"},
    {"id": 3, "name": "three", "tags": [], "owner": "u1", "note": "y"},
]


def post(project: Project, path: str, body: Any = None, **headers: str) -> httpx.Response:
    sent = {"apikey": project.key, **{name.replace("_", "-"): value for name, value in headers.items()}}
    content = b"" if body is None else json.dumps(body).encode()
    return httpx.post(f"{project.url}/rest/v1/{path}", content=content, headers=sent, trust_env=False)


def get(project: Project, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    sent = {"apikey": project.key, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx.request(method, f"{project.url}/rest/v1/{path}", headers=sent, trust_env=False)


def refusal(project: Project, work: Callable[[], Any]) -> tuple[int, str | None]:
    """Status and code that a client's call ends with."""
    with pytest.raises(APIError) as caught:
        work()
    return project.faulty.requests[-1].status, caught.value.code


def names(project: Project) -> dict[int, str]:
    return dict(project.execute("select id, name from public.things order by id"))


def call(client: Client, function: str, **arguments: Any) -> Any:
    return client.rpc(function, arguments).execute().data
