"""Requests as SQL, as PostgREST writes it: a function call, and the table requests that supabase-py sends."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from supabase_stack.catalog import Catalog, Function, Table
from supabase_stack.errors import RefusedError, unknown

MAX_ROWS = 1000
"""Supabase's limit for the rows of one answer; what is beyond is left out without a word."""
_OPERATORS = {"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "like": "like", "ilike": "ilike"}
_ARRAY_OPERATORS = {"cs": "@>", "cd": "<@", "ov": "&&"}
_OTHER_OPERATORS = "is|match|imatch|isdistinct|fts|plfts|phfts|wfts|sl|sr|nxr|nxl|adj"
_READING = ("order", "limit", "offset")
_WORDS = ("select", *_READING, "on_conflict", "columns")
_COUNT_NEW = "set_config('pgrst.inserted', (coalesce({}, '0')::int {} 1)::text, true)"
_NEW = "nullif(current_setting('pgrst.inserted', true), '')"


@dataclass(frozen=True)
class Call:
    """A statement whose one row holds how many rows there are, their JSON, and how many of them an upsert found new."""

    statement: sql.Composed
    values: Sequence[Any]
    reads_only: bool
    status: int
    settings: dict[str, str]
    returns_nothing: bool = False


@dataclass(frozen=True)
class Request:
    """What a request asks for."""

    method: str
    parameters: list[tuple[str, str]]
    body: bytes
    prefer: dict[str, str]
    wants_object: bool

    def parameter(self, name: str, default: str = "") -> str:
        return next((value for key, value in self.parameters if key == name), default)


def function_call(catalog: Catalog, name: str, request: Request) -> Call:
    """`POST /rpc/<name>`: arguments by name from a JSON object."""
    if request.method != "POST" or request.parameters:
        raise unknown("function call but by POST and without a query")
    given = _object(request.body)
    function = catalog.function(name, set(given))
    values: list[Any] = []
    source, arguments = sql.SQL("(values (1)) as b"), sql.SQL("")
    if given:
        typed = sql.SQL(", ").join(
            sql.SQL("{} " + function.arguments[argument]).format(sql.Identifier(argument)) for argument in given
        )
        source = sql.SQL("json_to_record(%s::json) as b ({})").format(typed)
        arguments = sql.SQL(", ").join(sql.SQL("{0} := b.{0}").format(sql.Identifier(argument)) for argument in given)
        values.append(request.body.decode())
    called = sql.SQL("{}({})").format(sql.Identifier("public", name), arguments)
    return Call(
        _function_statement(function, called, source, request),
        values,
        function.reads_only,
        204 if function.returns_nothing else 200,
        {name: value for name, value in function.settings.items() if name == "statement_timeout"},
        function.returns_nothing,
    )


def _function_statement(
    function: Function, called: sql.Composed, source: sql.Composable, request: Request
) -> sql.Composed:
    many = function.returns_set and not request.wants_object
    if function.is_scalar or function.returns_nothing:
        answer = "coalesce(json_agg(t.s), '[]')" if many else "coalesce(json_agg(t.s) -> 0, 'null')"
        statement = "select count(*), " + answer + "::text from (select {} as s from {} limit {}) as t"
        return sql.SQL(statement).format(called, source, MAX_ROWS)
    answer = "coalesce(json_agg(t), '[]')" if many else "coalesce(json_agg(t) -> 0, 'null')"
    statement = "select count(*), " + answer + "::text from (select c.* from {}, lateral {} as c limit {}) as t"
    return sql.SQL(statement).format(source, called, MAX_ROWS)


def table_call(catalog: Catalog, name: str, request: Request) -> Call:
    """A request on a table: select, insert, upsert, update or delete."""
    table = catalog.table(name)
    if request.method in ("GET", "HEAD"):
        return _select(table, request)
    return _change(table, request)


def _select(table: Table, request: Request) -> Call:
    where, values = _where(table, request)
    limit = min(int(request.parameter("limit", str(MAX_ROWS))), MAX_ROWS)
    statement = sql.SQL("select {} from {}{}{} limit {} offset {}").format(
        _columns(table, request),
        _named(table),
        where,
        _order(table, request),
        limit,
        int(request.parameter("offset", "0")),
    )
    return Call(_as_json(statement, request), values, True, 200, {})


def _change(table: Table, request: Request) -> Call:
    if any(name in _READING for name, _ in request.parameters):
        raise unknown("order or limit of a change")
    returned = request.prefer.get("return") == "representation"
    returning = sql.SQL(" returning {}").format(_columns(table, request) if returned else sql.SQL("1"))
    if request.method == "POST":
        statement, values = _insert(table, request)
        status = 201
    else:
        where, conditions = _where(table, request)
        status = 200 if returned else 204
        if request.method == "DELETE":
            statement, values = sql.SQL("delete from {}{}").format(_named(table), where), conditions
        else:
            names, source = _rows(table, request)
            assignments = sql.SQL(", ").join(sql.SQL("{0} = b.{0}").format(sql.Identifier(each)) for each in names)
            statement = sql.SQL("update {} set {} from {}{}").format(_named(table), assignments, source, where)
            values = [request.body.decode(), *conditions]
    whole = sql.SQL("with changed as ({}{}) select count(*), {}, {} from (select * from changed) as t").format(
        statement, returning, sql.SQL(_aggregate(request) if returned else "''"), sql.SQL(_NEW)
    )
    return Call(whole, values, False, status, {}, returns_nothing=not returned)


def _insert(table: Table, request: Request) -> tuple[sql.Composed, list[Any]]:
    names, source = _rows(table, request)
    statement = sql.SQL("insert into {} ({}) select {} from {} where {} <> ''").format(
        _named(table),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join(sql.Identifier("b", each) for each in names),
        source,
        sql.SQL(_COUNT_NEW.format(_NEW, "+")),
    )
    resolution = request.prefer.get("resolution", "")
    if resolution:
        key = [_unquoted(each) for each in _split(request.parameter("on_conflict"))] or list(table.primary_key)
        update = sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(each)) for each in names)
        counted = sql.SQL(_COUNT_NEW.format(_NEW, "-") + " <> ''")
        merge = sql.SQL("update set {} where {}").format(update, counted)
        then = merge if resolution == "merge-duplicates" else sql.SQL("nothing")
        statement += sql.SQL(" on conflict ({}) do {}").format(sql.SQL(", ").join(map(sql.Identifier, key)), then)
    return statement, [request.body.decode()]


def _rows(table: Table, request: Request) -> tuple[list[str], sql.Composed]:
    """The columns that a body gives, and the body as rows of `b`."""
    try:
        body = json.loads(request.body)
    except ValueError:
        raise RefusedError(400, "PGRST102", "Empty or invalid json") from None
    rows = body if isinstance(body, list) else [body]
    named = [_unquoted(each) for each in _split(request.parameter("columns"))]
    names = named or list(rows[0] if rows else {})
    for each in names:
        if each not in table.columns:
            raise RefusedError(
                400, "PGRST204", f"Could not find the '{each}' column of '{table.name}' in the schema cache"
            )
    if not names:
        raise unknown("body without columns")
    typed = sql.SQL(", ").join(sql.SQL("{} " + table.columns[each]).format(sql.Identifier(each)) for each in names)
    reader = "json_to_recordset" if isinstance(body, list) else "json_to_record"
    source = "%s::json"
    if request.prefer.get("missing") == "default":
        defaults = ", ".join(f"'{each}', {table.defaults[each]}" for each in names if table.defaults[each])
        elements = "%s::jsonb" if isinstance(body, list) else "jsonb_build_array(%s::jsonb)"
        source = f"(select json_agg(jsonb_build_object({defaults}) || e) from jsonb_array_elements({elements}) as e)"
        reader = "json_to_recordset"
    return names, sql.SQL(reader + "(" + source + ") as b ({})").format(typed)


def _where(table: Table, request: Request) -> tuple[sql.Composed, list[Any]]:
    parts: list[sql.Composable] = []
    values: list[Any] = []
    for name, text in request.parameters:
        if name in _WORDS:
            continue
        if name not in table.columns:
            if name in ("and", "or", "not.and", "not.or"):
                raise unknown(repr(name))
            raise RefusedError(400, "42703", f"column {table.name}.{name} does not exist")
        parts.append(_condition(table.name, name, text, values))
    if not parts:
        return sql.SQL("").format(), values
    return sql.SQL(" where {}").format(sql.SQL(" and ").join(parts)), values


def _condition(table: str, column: str, text: str, values: list[Any]) -> sql.Composable:
    negated, text = text.startswith("not."), text.removeprefix("not.")
    operator, _, value = text.partition(".")
    name = sql.Identifier(table, column)
    if operator == "is" and value in ("null", "true", "false"):
        condition = sql.SQL("{} is " + value).format(name)
    elif operator == "in":
        quoted = (
            '"{}"'.format(_unquoted(each).replace("\\", "\\\\").replace('"', '\\"')) for each in _split(value[1:-1])
        )
        values.append("{" + ",".join(quoted) + "}")
        condition = sql.SQL("{} = any (%s)").format(name)
    elif operator in _OPERATORS or operator in _ARRAY_OPERATORS:
        values.append(value.replace("*", "%") if operator in ("like", "ilike") else value)
        condition = sql.SQL("{} " + {**_OPERATORS, **_ARRAY_OPERATORS}[operator] + " %s").format(name)
    elif re.fullmatch(r"\w+\(\w+\)|" + _OTHER_OPERATORS, text.partition(".")[0]):
        raise unknown(f"filter {text!r}")
    else:
        raise RefusedError(400, "PGRST100", f'"failed to parse filter ({text})" (line 1, column 1)')
    return sql.SQL("not ({})").format(condition) if negated else condition


def _columns(table: Table, request: Request) -> sql.Composable:
    wanted = request.parameter("select", "*")
    if wanted == "*":
        return sql.SQL("{}.*").format(sql.Identifier(table.name))
    names = [_unquoted(each) for each in _split(wanted)]
    for each in names:
        if not re.fullmatch(r"\w+", each):
            raise unknown(f"select of {each!r}")
        if each not in table.columns:
            raise RefusedError(400, "42703", f"column {table.name}.{each} does not exist")
    return sql.SQL(", ").join(sql.Identifier(table.name, each) for each in names)


def _order(table: Table, request: Request) -> sql.Composable:
    terms: list[sql.Composable] = []
    for term in _split(request.parameter("order")):
        column, *how = term.split(".")
        way = " desc" if "desc" in how else " asc"
        way += " nulls first" if "nullsfirst" in how else " nulls last" if "nullslast" in how else ""
        terms.append(sql.SQL("{}" + way).format(sql.Identifier(table.name, _unquoted(column))))
    return sql.SQL(" order by {}").format(sql.SQL(", ").join(terms)) if terms else sql.SQL("")


def _as_json(statement: sql.Composed, request: Request) -> sql.Composed:
    whole = "select count(*), " + _aggregate(request) + " from ({}) as t"
    return sql.SQL(whole).format(statement)


def _aggregate(request: Request) -> str:
    return "coalesce(json_agg(t) -> 0, 'null')::text" if request.wants_object else "coalesce(json_agg(t), '[]')::text"


def _named(table: Table) -> sql.Identifier:
    return sql.Identifier("public", table.name)


def _object(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body or b"{}")
    except ValueError:
        raise RefusedError(400, "PGRST102", "Empty or invalid json") from None
    if not isinstance(given, dict):
        raise RefusedError(400, "PGRST102", "Empty or invalid json")
    return given


def _split(text: str) -> list[str]:
    """Split at commas that stand outside of quotation marks."""
    return [part for part in re.findall(r'(?:"(?:[^"\\]|\\.)*"|[^,])+', text) if part]


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if len(text) > 1 and text[0] == text[-1] == '"' else text
