"""The schema of the team's database: numbered SQL files, and the one transaction that installs them.

No statement is sent from here. Whoever sends the text may be killed at any moment, be one of several that do, and reach
the database through a pooler that gives each transaction another connection. So every setting is local to the
transaction, the lock ends with it, and what is installed already is decided by the database, under that lock.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

LOCK_TIMEOUT_S = 60
STATEMENT_TIMEOUT_S = 900
LOCK_KEY = "pg_catalog.hashtext('symmetra-mcp:migrate')"
WAITING = "another schema change is running in this database: waiting for it"
NEWER_STATE = "SY001"
CHANGED_STATE = "SY002"
"""SQLSTATEs of our own: the database is newer than this program; a file differs from the one that was installed."""

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_EXPORT_EPOCH = 20261123000000
"""What the versions are counted from in names of the Supabase CLI. Names never change: it knows migrations by them."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered SQL file. It is harmless when it is run again.

    Attributes:
        version: Its number; a database of version n has every file up to n.
        name: The rest of the file's name.
        sql: Its statements; none that begins or ends a transaction.
    """

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the statements, whatever the line ends of the file."""
        text = self.sql.replace("\r\n", "\n").replace("\r", "\n")
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def label(self) -> str:
        """Number and name, as the file has them."""
        return f"{self.version:04d}_{self.name}"


@cache
def migrations() -> tuple[Migration, ...]:
    """Every migration of this version, in order."""
    from importlib.resources import files

    found = []
    for entry in files("symmetra_mcp.stores").joinpath("sql").iterdir():
        name = _FILE_NAME.fullmatch(entry.name)
        if name is not None:
            found.append(Migration(int(name[1]), name[2], entry.read_text("utf-8")))
    return tuple(sorted(found, key=lambda migration: migration.version))


@cache
def public_access_sql(*, public: bool) -> str:
    """What lets everybody with the project's publishable key read the rules, or what takes that back."""
    from importlib.resources import files

    name = "public_read.sql" if public else "no_public_read.sql"
    return files("symmetra_mcp.stores").joinpath("sql", name).read_text("utf-8")


def install_body(
    migrations: Sequence[Migration],
    *,
    public_read: bool | None = None,
    repair: bool = False,
    public_sql: str | None = None,
) -> str:
    """The statements that install what is missing, to be run in one transaction. Each run installs a file once.

    The last one that returns rows tells in a column `applied` which versions it installed.

    Args:
        migrations: All migrations, in order.
        public_read: Grant or revoke reading by everybody; `None` leaves it as it is.
        repair: Run every file again, whatever is recorded.
        public_sql: Instead of the packaged statements of `public_read`.
    """
    parts = [_opening(migrations)]
    if not repair:
        parts.append(_checksum_guard(migrations))
    for migration in migrations:
        recorded = f"select from symmetra.schema_migrations where version = {migration.version}"
        condition = "true" if repair else f"not exists ({recorded})"
        parts.append(_when(condition, f"{migration.sql.rstrip()}\n;{_record(migration)}", migration.version))
    parts.append(_public_part(public_read, public_sql))
    parts.append("notify pgrst, 'reload schema';")
    parts.append("select coalesce(pg_catalog.current_setting('symmetra.applied', true), '') as applied;")
    return "\n".join(parts) + "\n"


def install_script(
    migrations: Sequence[Migration], *, public_read: bool | None = None, public_sql: str | None = None
) -> str:
    """A whole transaction as people read it and paste it into an SQL editor. It may be run any number of times."""
    parts = [
        f"-- symmetra-mcp: schema version {_newest(migrations)}, in one transaction. Harmless when it is run again.",
        "begin;",
        _opening(migrations),
    ]
    for migration in migrations:
        parts += [f"-- {migration.label}", _ended(migration.sql), _record(migration).strip()]
    parts += [_public_part(public_read, public_sql), "notify pgrst, 'reload schema';", "commit;"]
    return "\n\n".join(part for part in parts if part) + "\n"


def exported_files(migrations: Sequence[Migration]) -> dict[str, str]:
    """Each migration as the Supabase CLI takes it: file name to text. The CLI runs each in a transaction of its own."""
    return {
        f"{_EXPORT_EPOCH + migration.version}_symmetra_{migration.name}.sql": "\n\n".join(
            [
                f"-- symmetra-mcp {migration.label}. Written by `symmetra-mcp schema export`; not to be edited.",
                _VERSION_TABLE,
                _ended(migration.sql),
                _record(migration).strip(),
                "notify pgrst, 'reload schema';\n",
            ]
        )
        for migration in migrations
    }


def _newest(migrations: Sequence[Migration]) -> int:
    return max((migration.version for migration in migrations), default=0)


def _opening(migrations: Sequence[Migration]) -> str:
    return f"""\
set local lock_timeout = '{LOCK_TIMEOUT_S}s';
set local statement_timeout = '{STATEMENT_TIMEOUT_S}s';
{_block(_LOCK)}
{_VERSION_TABLE}
{_block(_NEWER_GUARD.format(newest=_newest(migrations)))}
{_block(_KEEP_PUBLIC_READ)}"""


_VERSION_TABLE = """\
create schema if not exists symmetra;
revoke all on schema symmetra from public;
create table if not exists symmetra.schema_migrations (
  version int primary key,
  name text not null,
  checksum text not null,
  applied_at timestamptz not null default now(),
  applied_by text not null default current_user
);
alter table symmetra.schema_migrations enable row level security;
revoke all on symmetra.schema_migrations from public;"""

# A program that was killed lets go of the lock within seconds, not when the statement ends that it had sent. Servers on
# some systems do not know how to watch their client, and refuse the setting.
_LOCK = f"""
  begin
    perform pg_catalog.set_config('client_connection_check_interval', '2s', true);
  exception when others then null;
  end;
  if not pg_catalog.pg_try_advisory_xact_lock({LOCK_KEY}) then
    raise notice '{WAITING}';
    perform pg_catalog.pg_advisory_xact_lock({LOCK_KEY});
  end if;
"""

_NEWER_GUARD = f"""
  if exists (select from symmetra.schema_migrations where version > {{newest}}) then
    raise exception using errcode = '{NEWER_STATE}',
      message = 'its schema is newer than this symmetra-mcp knows (version {{newest}}): upgrade symmetra-mcp';
  end if;
"""

# Files that grant access begin by revoking it from everybody, so it is remembered first.
_KEEP_PUBLIC_READ = """
  perform pg_catalog.set_config('symmetra.applied', '', true);
  perform pg_catalog.set_config('symmetra.public_read', '', true);
  if exists (select from pg_catalog.pg_roles where rolname = 'anon') then
    if pg_catalog.has_schema_privilege('anon', 'symmetra', 'usage') then
      perform pg_catalog.set_config('symmetra.public_read', 'on', true);
    end if;
  end if;
"""


def _checksum_guard(migrations: Sequence[Migration]) -> str:
    if not migrations:
        return ""
    rows = ", ".join(f"({migration.version}, '{migration.checksum}')" for migration in migrations)
    return _block(
        f"""
  if exists (select from symmetra.schema_migrations as m join (values {rows}) as own (version, checksum) using (version)
      where m.checksum <> own.checksum) then
    raise exception using errcode = '{CHANGED_STATE}', message = (
      select 'installed with other text than this symmetra-mcp has: '
        || string_agg(pg_catalog.lpad(m.version::text, 4, '0') || '_' || m.name, ', ' order by m.version)
        || '. `symmetra-mcp schema apply --repair` installs every file again'
      from symmetra.schema_migrations as m join (values {rows}) as own (version, checksum) using (version)
      where m.checksum <> own.checksum);
  end if;
"""
    )


def _ended(sql: str) -> str:
    text = sql.rstrip()
    return text if text.endswith(";") else f"{text}\n;"


def _record(migration: Migration) -> str:
    """Statements that note a migration as installed."""
    return f"""
insert into symmetra.schema_migrations (version, name, checksum)
values ({migration.version}, '{migration.name}', '{migration.checksum}')
on conflict (version) do update set name = excluded.name, checksum = excluded.checksum,
  applied_at = excluded.applied_at, applied_by = excluded.applied_by
where (schema_migrations.name, schema_migrations.checksum) is distinct from (excluded.name, excluded.checksum);
"""


def _public_part(public_read: bool | None, public_sql: str | None) -> str:
    if public_read is not None:
        return public_sql if public_sql is not None else public_access_sql(public=public_read)
    sql = public_sql if public_sql is not None else public_access_sql(public=True)
    return _when("pg_catalog.current_setting('symmetra.public_read', true) = 'on'", sql)


def _when(condition: str, sql: str, version: int | None = None) -> str:
    """Statements that run where a condition holds. `execute` takes several, and reads each when its turn has come."""
    noted = (
        ""
        if version is None
        else f"""
    perform pg_catalog.set_config('symmetra.applied', pg_catalog.concat_ws(',',
      nullif(pg_catalog.current_setting('symmetra.applied', true), ''), '{version}'), true);"""
    )
    return _block(f"\n  if {condition} then\n    execute {_quoted(sql)};{noted}\n  end if;\n")


def _block(body: str) -> str:
    return f"do {_quoted('begin' + body + 'end')};"


def _quoted(text: str) -> str:
    """A string of SQL between dollar signs, with a tag that the text does not hold."""
    number = 0
    while (tag := f"$symmetra{number}$") in text:
        number += 1
    return f"{tag}{text}{tag}"
