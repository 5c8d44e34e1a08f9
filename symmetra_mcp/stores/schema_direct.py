"""A connection to Postgres itself, by `SYMMETRA_DB_URL`."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from typing_extensions import override

from symmetra_mcp.errors import ConfigError, StoreAccessError, StoreError, StoreUnavailableError
from symmetra_mcp.stores.schema_database import Row, SchemaDatabase, server_error

if TYPE_CHECKING:
    import psycopg

TRANSACTION_POOLER_PORT = "6543"
_CONNECT_TIMEOUT_S = 15
_URL = re.compile(r"postgres(?:ql)?://[^:@/?#\s]+(?::[^@/?#\s]*)?@[^@/?#\s]*(?:/[^@?#\s]*)?(?:\?[^@#\s]*)?")
"""Where a password holds one of these characters as it is, libpq takes a part of it for the host, and would say so."""
_HOST = re.compile(r"[A-Za-z0-9._:,\[\]-]+|/[^\s@]*")
_REF_OF_HOST = re.compile(r"db\.([a-z]{20})\.supabase\.(?:co|com|net|red)")
_REF_OF_USER = re.compile(r"[\w-]+\.([a-z]{20})")
_SUPABASE_HOST = re.compile(r".*\.supabase\.(?:co|com|net|red)")
_FORM = (
    "`SYMMETRA_DB_URL`: this is no connection string. It has the form `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`, "
    "and in the password `@`, `:`, `/`, `?`, `#` and `%` are written `%40`, `%3A`, `%2F`, `%3F`, `%23` and `%25`"
)
_AUTHENTICATION = re.compile(r"password authentication failed|SASL|no password supplied|SCRAM|authentication failed")


class DirectDatabase(SchemaDatabase):
    """Postgres by its own protocol: directly, or through Supabase's pooler.

    Args:
        url: A connection string with its password.
        on_notice: Called with what the server has to say while it works.
        connect_timeout_s: How long to wait for a connection.

    Raises:
        ConfigError: This is no connection string; the message holds no part of it.
    """

    def __init__(
        self, url: str, *, on_notice: Callable[[str], None] | None = None, connect_timeout_s: int = _CONNECT_TIMEOUT_S
    ) -> None:
        self._parameters = _parameters(url)
        self._on_notice = on_notice
        self._connect_timeout_s = connect_timeout_s
        self._connection: psycopg.Connection[dict[str, Any]] | None = None
        self._host = str(self._parameters.get("host") or "localhost")
        self._port = str(self._parameters.get("port") or "5432")
        self.place = f"the database at {self._host}:{self._port}"
        self.project_ref = _project_ref(self._host, str(self._parameters.get("user") or ""))

    @property
    def is_transaction_pooler(self) -> bool:
        """Whether each transaction may get another connection of the server: nothing outlives it then."""
        return self._port == TRANSACTION_POOLER_PORT

    @override
    def run(self, body: str) -> list[Row]:
        # The end of the transaction is a message of its own: a server that has lost its client in the middle does not
        # read that far.
        with self._translated(committing=True), self._opened().transaction():
            cursor = self._opened().execute(body.encode())
            rows: list[Row] = []
            while True:
                if cursor.description is not None:
                    rows = cursor.fetchall() or rows
                if not cursor.nextset():
                    return rows

    @override
    def query(self, sql: str) -> list[Row]:
        with self._translated():
            return self._opened().execute(sql.encode()).fetchall()

    def execute(self, sql: str) -> None:
        """Run one statement that can't be part of a transaction.

        Raises:
            StoreError: As for `query`.
        """
        with self._translated():
            self._opened().execute(sql.encode())

    def cancel(self) -> None:
        """End the statement that another thread is waiting for."""
        if self._connection is not None:
            import psycopg

            with suppress(psycopg.Error):
                self._connection.cancel_safe(timeout=5)

    def another(self) -> DirectDatabase:
        """A second connection to the same database."""
        other = copy(self)
        other._connection = None
        return other

    @override
    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> psycopg.Connection[dict[str, Any]]:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> psycopg.Connection[dict[str, Any]]:
        import psycopg
        from psycopg.rows import dict_row

        parameters: dict[str, Any] = {
            "application_name": "symmetra-mcp schema",
            "connect_timeout": self._connect_timeout_s,
        }
        if _SUPABASE_HOST.fullmatch(self._host):
            parameters["sslmode"] = "require"
        problem = ""
        try:
            connection = psycopg.connect(
                "",
                autocommit=True,
                prepare_threshold=None,  # a pooler hands the next statement to a connection that has not prepared it
                row_factory=dict_row,
                **(parameters | self._parameters),
            )
        except psycopg.Error as exc:
            problem = str(exc) or type(exc).__name__
        if problem:
            raise self._connect_error(problem)
        if self._on_notice is not None:
            on_notice = self._on_notice
            connection.add_notice_handler(lambda notice: on_notice(notice.message_primary or ""))
        return connection

    def _connect_error(self, problem: str) -> StoreError:
        """Why there is no connection. The driver's own text names the user, so it is told only where it is harmless."""
        if _AUTHENTICATION.search(problem):
            return StoreAccessError(
                f"{self.place} refuses the user's name or the password: copy the connection string from the dashboard, "
                "Connect, again, and put the database's password into it"
            )
        if re.search(r"tenant or user not found|ENOTFOUND", problem, re.IGNORECASE):
            return StoreAccessError(
                f"{self.place} knows no such project: the region in the host or the letters after `postgres.` are "
                "wrong, or the project is paused. Copy the connection string from the dashboard, Connect, again"
            )
        if self._host.startswith("db.") and self.project_ref and "refused" not in problem:
            reason = "that host has an IPv6 address alone, and this network may have none"
            step = "Use the string of the session pooler (dashboard, Connect, Session pooler; port 5432)"
        else:
            reason, step = _reason(problem), "Check host and port in `SYMMETRA_DB_URL`, and that the project is running"
        return StoreUnavailableError(f"{self.place} can't be connected to: {reason}. {step}")

    def _translated(self, *, committing: bool = False) -> _Translated:
        return _Translated(self, committing=committing)


class _Translated:
    """Turns what psycopg raises within into our errors, without the chain: it may hold the connection's parameters."""

    def __init__(self, database: DirectDatabase, *, committing: bool) -> None:
        self._database = database
        self._committing = committing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        import psycopg

        if not isinstance(error, psycopg.Error):
            return
        state, place = error.sqlstate or "", self._database.place
        translated = server_error(state, error.diag.message_primary or "", place)
        if (
            isinstance(error, psycopg.OperationalError)
            and (not state or state[:2] in ("08", "57"))
            and state != "57014"
        ):
            outcome = (
                "The change is one transaction, so all of it was made or nothing: run the command again to complete it"
                if self._committing
                else "Run the command again"
            )
            translated = StoreUnavailableError(f"{place} closed the connection. {outcome}")
        raise translated from None


def _parameters(url: str) -> dict[str, Any]:
    """The parts of a connection string, checked so that no part of the password can be taken for another."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    text = url.strip()
    if "[YOUR-PASSWORD]" in unquote(text).upper():
        raise ConfigError("`SYMMETRA_DB_URL` still holds `[YOUR-PASSWORD]`: put the database's password in its place")
    if "://" in text and not _URL.fullmatch(text):
        raise ConfigError(_FORM)
    parts: dict[str, Any] | None = None
    with suppress(psycopg.Error):  # its text holds the string
        parts = dict(conninfo_to_dict(text))
    if parts is None or not _HOST.fullmatch(str(parts.get("host") or "localhost")):
        raise ConfigError(_FORM)
    if not re.fullmatch(r"\d*", str(parts.get("port") or "")):
        raise ConfigError(_FORM)
    return parts


def _project_ref(host: str, user: str) -> str:
    found = _REF_OF_HOST.fullmatch(host)
    if found is None and _SUPABASE_HOST.fullmatch(host):
        found = _REF_OF_USER.fullmatch(user)
    return found[1] if found is not None else ""


def _reason(problem: str) -> str:
    for pattern, reason in (
        ("refused", "nothing listens there"),
        ("timeout|timed out", "it does not answer"),
        ("resolve|translate host|not known|No address|name resolution", "there is no host of this name"),
        ("unreachable|Cannot assign|No route", "no network leads there"),
        ("too many|remaining connection|max client", "it has no connection left"),
        ("starting up|shutting down|recovery", "it is starting or stopping"),
        ('database "[^"]*" does not exist', "it has no database of this name"),
        ("pg_hba.conf", "it takes no connection of this kind"),
        ("SSL|certificate", "no encrypted connection comes about"),
    ):
        if re.search(pattern, problem, re.IGNORECASE):
            return reason
    return "the connection breaks off"
