"""A database whose schema can be read and changed, whichever way leads to it, and what its refusals mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self

from symmetra_mcp.errors import SchemaError, StoreAccessError, StoreError, StoreUnavailableError
from symmetra_mcp.stores.schema import CHANGED_STATE, LOCK_TIMEOUT_S, NEWER_STATE

Row = dict[str, Any]


class SchemaDatabase(ABC):
    """A connection that may change the schema. Used by one thread, and by the command line alone."""

    place: str
    """Where the database is, for people: a host, or a project's letters. Never a user's name, a password or a token."""
    project_ref: str
    """The Supabase project's letters, or empty where it is none or they are not known."""

    @abstractmethod
    def run(self, body: str) -> list[Row]:
        """Run statements in one transaction of their own: all of them take effect, or none.

        Returns:
            The rows of the last statement that returned any.

        Raises:
            StoreError: See `query`; where the connection was lost at the very end, the message says how to find out.
        """

    @abstractmethod
    def query(self, sql: str) -> list[Row]:
        """The rows of one statement.

        Raises:
            StoreUnavailableError: No connection, a timeout, or the server can't answer now.
            StoreAccessError: The password or the token is refused, or may not do this.
            SchemaError: The server refuses the statement.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def server_error(sqlstate: str, message: str, place: str) -> StoreError:
    """Our error for what a database server refused.

    Args:
        sqlstate: The server's five characters, or empty.
        message: The server's first line.
        place: `SchemaDatabase.place`.
    """
    what = message.strip().splitlines()[0][:300] if message.strip() else "no reason given"
    if sqlstate in (NEWER_STATE, CHANGED_STATE):
        return SchemaError(f"{place}: {what}")
    if sqlstate == "42501":
        return StoreAccessError(f"{place}: {what}. Nothing was changed. {_who_may(what)}")
    if sqlstate in ("28P01", "28000"):
        return StoreAccessError(f"{place} refuses the user's name or the password: copy the connection string again")
    if sqlstate == "55P03":
        return StoreUnavailableError(
            f"{place}: another schema change, or a long transaction, held a lock for more than {LOCK_TIMEOUT_S} "
            "seconds. Nothing was changed: run the command again when it has ended"
        )
    if sqlstate == "57014":
        return StoreUnavailableError(
            f"{place}: a statement took longer than the server lets it, and nothing was changed. Run the command again "
            "when the database has less to do; over `SYMMETRA_DB_URL` the limit is the longest"
        )
    if sqlstate == "25006":
        return StoreAccessError(f"{place} is read-only now, so nothing was changed: connect to the primary database")
    if sqlstate in ("0A000", "58P01") and "vector" in what:
        return SchemaError(f"{place}: {what}. Nothing was changed. Use a server that has pgvector 0.7 or newer")
    if sqlstate == "42704" and "role" in what:
        return SchemaError(f"{place}: {what}, so this is no database of Supabase; nothing was changed")
    if sqlstate[:2] in ("08", "53", "57"):
        return StoreUnavailableError(f"{place} can't answer now ({what}). Nothing was changed: run the command again")
    code = f" (SQLSTATE {sqlstate})" if sqlstate else ""
    return SchemaError(f"{place} refused a statement: {what}{code}. Nothing was changed")


def _who_may(problem: str) -> str:
    if "extension" in problem:
        return "Enable the extension `vector` in the dashboard, Database > Extensions, and run the command again"
    return "Connect as `postgres`, or as the role that owns the schema `symmetra`"
