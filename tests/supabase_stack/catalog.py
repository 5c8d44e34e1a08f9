"""The schema cache: which functions and tables there are, read at the start and when the database says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg

from supabase_stack.errors import RefusedError

_FUNCTIONS = """
select p.proname, p.provolatile, p.proretset, t.typname,
  t.typtype in ('b', 'd', 'e') or (t.typtype = 'p' and t.typname <> 'record'), coalesce(p.proconfig, '{}'),
  array(select p.proargnames[i] from generate_series(1, p.pronargs) as i),
  array(select format_type(p.proargtypes[i - 1], null) from generate_series(1, p.pronargs) as i), p.pronargdefaults
from pg_proc as p join pg_type as t on t.oid = p.prorettype
where p.pronamespace = 'public'::regnamespace and p.prokind = 'f' order by p.oid
"""
_TABLES = """
select c.relname, array_agg(a.attname::text order by a.attnum),
  array_agg(format_type(a.atttypid, a.atttypmod) order by a.attnum),
  array_agg(coalesce(pg_get_expr(d.adbin, d.adrelid), '') order by a.attnum),
  array(select k.attname::text from pg_constraint as x join pg_attribute as k on k.attrelid = c.oid
    and k.attnum = any (x.conkey) where x.conrelid = c.oid and x.contype = 'p')
from pg_class as c join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  left join pg_attrdef as d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v', 'p') group by c.oid, c.relname
"""


@dataclass(frozen=True)
class Function:
    name: str
    reads_only: bool
    returns_set: bool
    returns_nothing: bool
    is_scalar: bool
    settings: Mapping[str, str]
    arguments: Mapping[str, str]
    required: frozenset[str]

    @property
    def signature(self) -> str:
        return f"public.{self.name}({', '.join(f'{each} => {kind}' for each, kind in self.arguments.items())})"


@dataclass(frozen=True)
class Table:
    name: str
    columns: Mapping[str, str]
    defaults: Mapping[str, str]
    primary_key: tuple[str, ...]


@dataclass
class Catalog:
    functions: list[Function] = field(default_factory=list)
    tables: dict[str, Table] = field(default_factory=dict)
    role_settings: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, connection: psycopg.Connection[Any]) -> Catalog:
        connection.execute("set search_path = public, extensions")
        functions = [_function(row) for row in connection.execute(_FUNCTIONS).fetchall()]
        tables = {}
        for name, columns, types, defaults, key in connection.execute(_TABLES).fetchall():
            tables[name] = Table(
                name, dict(zip(columns, types, strict=True)), dict(zip(columns, defaults, strict=True)), tuple(key)
            )
        roles = connection.execute("select rolname, rolconfig from pg_roles where rolconfig is not null").fetchall()
        settings = {role: dict(line.split("=", 1) for line in lines) for role, lines in roles}
        connection.execute("reset search_path")
        return cls(functions, tables, settings)

    def function(self, name: str, given: set[str]) -> Function:
        """The one function that takes these arguments.

        Raises:
            RefusedError: None does, or several do.
        """
        fitting = [
            each
            for each in self.functions
            if each.name == name and given <= set(each.arguments) and each.required <= given
        ]
        names = ", ".join(sorted(given))
        if not fitting:
            called = f"public.{name}" + (f"({names})" if given else " without parameters")
            searched = f" with parameter{'s' * (len(given) > 1)} {names}" if given else " without parameters"
            raise RefusedError(
                404,
                "PGRST202",
                f"Could not find the function {called} in the schema cache",
                f"Searched for the function public.{name}{searched} or with a single unnamed json/jsonb parameter, but "
                "no matches were found in the schema cache.",
            )
        if len(fitting) > 1:
            told = ", ".join(each.signature for each in fitting)
            raise RefusedError(
                300,
                "PGRST203",
                f"Could not choose the best candidate function between: {told}",
                hint="Try renaming the parameters or the function itself in the database so function overloading can "
                "be resolved",
            )
        return fitting[0]

    def table(self, name: str) -> Table:
        """A table by name.

        Raises:
            RefusedError: There is none.
        """
        if name not in self.tables:
            raise RefusedError(404, "PGRST205", f"Could not find the table 'public.{name}' in the schema cache")
        return self.tables[name]


def _function(row: tuple[Any, ...]) -> Function:
    name, volatility, returns_set, returned, is_scalar, settings, names, types, defaults = row
    arguments = dict(zip(names, types, strict=True))
    return Function(
        name=name,
        reads_only=volatility in ("s", "i"),
        returns_set=returns_set,
        returns_nothing=returned == "void",
        is_scalar=is_scalar,
        settings=dict(line.split("=", 1) for line in settings),
        arguments=arguments,
        required=frozenset(names[: len(names) - defaults]),
    )
