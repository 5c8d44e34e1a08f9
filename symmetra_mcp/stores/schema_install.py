"""What is installed in a database, what is missing, and installing it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from symmetra_mcp.errors import SchemaError, StoreAccessError
from symmetra_mcp.stores.schema import LOCK_KEY, Migration, install_body
from symmetra_mcp.stores.schema_database import SchemaDatabase

MIN_SERVER = 150_000
MIN_PGVECTOR = (0, 7)
MigrationState = Literal["installed", "missing", "changed", "unknown"]

_SERVER = f"""
select pg_catalog.current_setting('server_version') as server_version,
  pg_catalog.current_setting('server_version_num')::int as server_number,
  current_user::text as "user",
  (select default_version from pg_catalog.pg_available_extensions where name = 'vector') as pgvector_available,
  (select extversion from pg_catalog.pg_extension where extname = 'vector') as pgvector,
  exists (select from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = 'symmetra' and c.relname = 'schema_migrations') as has_versions,
  exists (select from pg_catalog.pg_proc as p join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
    where n.nspname = 'symmetra' and p.proname = 'index_advice') as has_advice,
  (select pg_catalog.pg_get_userbyid(nspowner)::text from pg_catalog.pg_namespace where nspname = 'symmetra') as owner,
  coalesce((select pg_catalog.pg_has_role(nspowner, 'usage') from pg_catalog.pg_namespace where nspname = 'symmetra'),
    pg_catalog.has_database_privilege(pg_catalog.current_database(), 'create')) as may_install,
  exists (select from pg_catalog.pg_namespace as n cross join lateral pg_catalog.aclexplode(n.nspacl) as a
    join pg_catalog.pg_roles as r on r.oid = a.grantee
    where n.nspname = 'symmetra' and r.rolname = 'anon' and a.privilege_type = 'USAGE') as public_read,
  exists (select from pg_catalog.pg_locks where locktype = 'advisory' and granted and objsubid = 1
    and database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
    and (classid::bigint << 32 | objid::bigint) = {LOCK_KEY}::bigint) as is_locked
"""
_VERSIONS = """
select version, name, checksum,
  pg_catalog.to_char(applied_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as applied_at
from symmetra.schema_migrations order by version
"""
_ADVICE = "select space_no, space_id, vectors, indexed, valid, advised from symmetra.index_advice() order by space_no"


@dataclass(frozen=True, slots=True)
class IndexAdvice:
    """Whether searches of a space are worth an index.

    Attributes:
        space_no: The database's number of the space.
        space_id: The space, as `EmbeddingSpace.id`.
        vectors: How many it holds.
        indexed: There is an index, finished or not.
        valid: There is a finished one.
        advised: There are so many vectors that one pays.
    """

    space_no: int
    space_id: str
    vectors: int
    indexed: bool
    valid: bool
    advised: bool


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """One migration in one database."""

    version: int
    name: str
    state: MigrationState
    applied_at: str = ""


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """What a database has of the schema.

    Attributes:
        place: Where it is, as `SchemaDatabase.place`.
        project_ref: The Supabase project's letters, or empty.
        server_version: PostgreSQL's, as the server writes it.
        server_number: The same as a number, such as 170006.
        user: Who we are there.
        owner: Who owns the schema, or empty.
        may_install: Whether we may install it.
        pgvector: The installed version, or empty.
        pgvector_available: The version that can be installed, or empty.
        public_read: Whether everybody with the publishable key may read.
        is_locked: Whether a schema change is under way.
        migrations: Every known migration, and every other that was installed.
        indexes: For each space, where the schema can tell.
    """

    place: str
    project_ref: str
    server_version: str
    server_number: int
    user: str
    owner: str
    may_install: bool
    pgvector: str
    pgvector_available: str
    public_read: bool
    is_locked: bool
    migrations: tuple[MigrationStatus, ...]
    indexes: tuple[IndexAdvice, ...]

    @property
    def version(self) -> int:
        """The newest migration that is installed, or 0."""
        return max((found.version for found in self.migrations if found.state != "missing"), default=0)

    @property
    def missing(self) -> tuple[MigrationStatus, ...]:
        """What `apply` would install."""
        return tuple(found for found in self.migrations if found.state == "missing")

    @property
    def problem(self) -> str:
        """What stands in the way of programs, and the next step; empty if nothing does."""
        newer = [found for found in self.migrations if found.state == "unknown"]
        changed = [f"{found.version:04d}_{found.name}" for found in self.migrations if found.state == "changed"]
        if newer:
            return f"its schema (version {self.version}) is newer than this symmetra-mcp knows: upgrade symmetra-mcp"
        if changed:
            return (
                f"installed with other text than this symmetra-mcp has: {', '.join(changed)}. "
                "`symmetra-mcp schema apply --repair` installs every file again"
            )
        if self.missing:
            return "the schema is not complete: run `symmetra-mcp schema apply`"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        from dataclasses import asdict

        answer = asdict(self)
        return {**answer, "version": self.version, "complete": not self.problem, "problem": self.problem}


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did, or would do.

    Attributes:
        before: What the database had.
        labels: The migrations installed, or to be installed.
        version: The newest migration afterwards.
        public_read: Whether everybody with the publishable key may read afterwards.
        dry_run: Whether nothing was done.
        adopted: Rules of the older system's table that are followed; `None` where there is no such table.
    """

    before: SchemaStatus
    labels: tuple[str, ...]
    version: int
    public_read: bool
    dry_run: bool
    adopted: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "place": self.before.place,
            "project_ref": self.before.project_ref,
            "version_before": self.before.version,
            "version": self.version,
            "applied": list(self.labels),
            "public_read": self.public_read,
            "dry_run": self.dry_run,
            "adopted": self.adopted,
        }


def read_status(database: SchemaDatabase, migrations: Sequence[Migration], *, indexes: bool = True) -> SchemaStatus:
    """Ask a database what it has; changes nothing.

    Args:
        database: Which one.
        migrations: All migrations, in order.
        indexes: Ask for indexes too, which counts vectors.

    Raises:
        StoreError: It can't be asked.
    """
    server = database.query(_SERVER)[0]
    recorded = database.query(_VERSIONS) if server["has_versions"] else []
    advice: tuple[IndexAdvice, ...] = ()
    if indexes and server["has_advice"] and recorded:
        with suppress(SchemaError):  # another version's, or damaged: the rest is what leads to its repair
            advice = read_advice(database)
    return SchemaStatus(
        place=database.place,
        project_ref=database.project_ref,
        server_version=str(server["server_version"]),
        server_number=int(server["server_number"]),
        user=str(server["user"]),
        owner=str(server["owner"] or ""),
        may_install=bool(server["may_install"]),
        pgvector=str(server["pgvector"] or ""),
        pgvector_available=str(server["pgvector_available"] or ""),
        public_read=bool(server["public_read"]),
        is_locked=bool(server["is_locked"]),
        migrations=_compared(migrations, recorded),
        indexes=advice,
    )


def read_advice(database: SchemaDatabase) -> tuple[IndexAdvice, ...]:
    """Which spaces have an index, and which are worth one.

    Raises:
        StoreError: The database can't be asked, or has not our schema.
    """
    return tuple(IndexAdvice(**row) for row in database.query(_ADVICE))


def check_server(status: SchemaStatus) -> None:
    """Refuse a server that can't hold the schema, and a role that may not install it.

    Raises:
        SchemaError: PostgreSQL or pgvector is too old, or pgvector is not there.
        StoreAccessError: The role may not.
    """
    if status.server_number < MIN_SERVER:
        raise SchemaError(
            f"{status.place} is PostgreSQL {status.server_version}, and symmetra-mcp needs 15 or newer: upgrade the "
            "project (dashboard, Project Settings > Infrastructure)"
        )
    vector = status.pgvector or status.pgvector_available
    if not vector:
        raise SchemaError(f"{status.place} has no extension `vector`: install pgvector 0.7 or newer on the server")
    if _numbers(vector) < MIN_PGVECTOR:
        able = _numbers(status.pgvector_available) >= MIN_PGVECTOR
        step = "run `alter extension vector update` there" if able else "upgrade the server's pgvector"
        raise SchemaError(f"{status.place} has pgvector {vector}, and symmetra-mcp needs 0.7 or newer: {step}")
    if not status.may_install:
        whose = f"the schema `symmetra` belongs to {status.owner!r}" if status.owner else "it may create no schema"
        raise StoreAccessError(
            f"the role {status.user!r} can't install the schema in {status.place}: {whose}. Connect as "
            f"{status.owner or 'postgres'!r}"
        )


def apply_migrations(
    database: SchemaDatabase,
    migrations: Sequence[Migration],
    *,
    status: SchemaStatus | None = None,
    public_read: bool | None = None,
    repair: bool = False,
    dry_run: bool = False,
) -> Applied:
    """Install what is missing, in one transaction. Run at once by several, each file is installed once.

    Args:
        database: Where to.
        migrations: All migrations, in order.
        status: What `read_status` found just before.
        public_read: Let everybody with the publishable key read, or no longer; `None` leaves it as it is.
        repair: Install every file again, whatever is recorded.
        dry_run: Only tell.

    Raises:
        SchemaError: The database is newer, or a file differs from the one installed, or a statement is refused.
        StoreAccessError: The role may not.
        StoreUnavailableError: The database can't be reached, or a lock was held for too long. Nothing was changed.
    """
    status = status or read_status(database, migrations, indexes=False)
    check_server(status)
    _check_recorded(status, repair=repair)
    known = {migration.version: migration for migration in migrations}
    planned = tuple(known) if repair else tuple(found.version for found in status.missing)
    public_after = status.public_read if public_read is None else public_read
    if dry_run or (not planned and public_after == status.public_read):
        labels = tuple(known[version].label for version in planned)
        adopted = None if dry_run else _adopted(database)
        return Applied(status, labels, max(known, default=0), public_after, dry_run, adopted)
    rows = database.run(install_body(migrations, public_read=public_read, repair=repair))
    done = rows[-1].get("applied") if rows else None
    versions = planned if done is None else tuple(int(version) for version in str(done).split(",") if version)
    labels = tuple(known[version].label for version in versions)
    return Applied(status, labels, max(known), public_after, dry_run, _adopted(database))


def _adopted(database: SchemaDatabase) -> int | None:
    """Rules of the older system's table, which is adopted now where it came after our schema."""
    known = database.query("select to_regprocedure('symmetra.older_rule_count()') is not null as known")
    if not known[0]["known"]:
        return None
    count = database.run("select symmetra.older_rule_count() as count;")[-1]["count"]
    return None if count is None else int(count)


def _check_recorded(status: SchemaStatus, *, repair: bool) -> None:
    newer = any(found.state == "unknown" for found in status.migrations)
    changed = any(found.state == "changed" for found in status.migrations)
    if newer or (changed and not repair):
        raise SchemaError(f"{status.place}: {status.problem}")


def _compared(migrations: Sequence[Migration], recorded: Sequence[dict[str, Any]]) -> tuple[MigrationStatus, ...]:
    found = {int(row["version"]): row for row in recorded}
    states: list[MigrationStatus] = []
    for migration in migrations:
        row = found.pop(migration.version, None)
        if row is None:
            states.append(MigrationStatus(migration.version, migration.name, "missing"))
            continue
        state: MigrationState = "installed" if row["checksum"] == migration.checksum else "changed"
        states.append(MigrationStatus(migration.version, migration.name, state, str(row["applied_at"])))
    states += [
        MigrationStatus(version, str(row["name"]), "unknown", str(row["applied_at"])) for version, row in found.items()
    ]
    return tuple(sorted(states, key=lambda status: status.version))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
