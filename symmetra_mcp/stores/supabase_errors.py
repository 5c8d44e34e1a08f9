"""What PostgREST, Supabase's gateway and Postgres answer when something is wrong, as our errors with their next step.

The codes are those of PostgREST (https://docs.postgrest.org/en/stable/references/errors.html), of Postgres
(https://www.postgresql.org/docs/current/errcodes-appendix.html) and the statuses of Supabase's gateway
(https://supabase.com/docs/guides/troubleshooting/http-status-codes). Of their messages nothing is repeated: they may
quote a rule or a key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from symmetra_mcp.errors import SchemaError, StoreAccessError, StoreError, StoreUnavailableError


class TooMuchAtOnceError(StoreUnavailableError):
    """The request took too long or was too large: a smaller one may work."""


class ConflictError(StoreError):
    """The database's state is another than the request supposes.

    Attributes:
        detail: What the database tells about it: JSON, or plain text.
    """

    def __init__(self, message: str, detail: str) -> None:
        self.detail = detail
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is no result.

    Attributes:
        status: Of HTTP; 0 where no answer came.
        code: PostgREST's or Postgres's; empty where the body has none.
        message: Theirs, to tell cases apart; never shown.
        detail: Theirs.
        retry_after_s: What the server asks to wait.
        sent: Whether the request left this machine.
    """

    status: int
    code: str = ""
    message: str = ""
    detail: str = ""
    retry_after_s: float | None = None
    sent: bool = True

    @property
    def is_passing(self) -> bool:
        """Whether the same request may succeed in a moment, and was certainly or harmlessly not done."""
        return self.code in _PASSING or (not self.code and self.status in _PASSING_STATUS)

    @property
    def was_not_done(self) -> bool:
        """Whether the request certainly changed nothing."""
        return (
            not self.sent
            or self.status in (401, 403, 404, 429)
            or self.code in ("PGRST000", "PGRST001", "PGRST002", "PGRST003")
        )


_PASSING = frozenset(
    {"PGRST000", "PGRST001", "PGRST002", "PGRST003", "57P01", "57P02", "57P03", "40001", "40P01", "53300"}
)
_PASSING_STATUS = frozenset({0, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})

APPLY = (
    "Run `symmetra-mcp schema apply`, or paste what `symmetra-mcp schema print` prints into the project's SQL editor"
)


def error_of(refusal: Refusal, place: str, *, writing: bool) -> StoreError:
    """The error that tells a user what to do.

    Args:
        refusal: What was answered.
        place: The project's address, for the message.
        writing: Whether the request was to change something.
    """
    by_code = _BY_CODE.get(refusal.code)
    if by_code is not None:
        return by_code(refusal, place, writing)
    if refusal.status in _BY_STATUS:
        return _BY_STATUS[refusal.status](refusal, place, writing)
    if refusal.code[:2] in ("08", "57") or refusal.status >= 500 or refusal.status == 0:
        return _unavailable(refusal, place, writing)
    return StoreError(
        f"the database at {place} refused a request ({_named(refusal)}). `symmetra-mcp schema status` tells whether "
        "its tables and functions are what this version needs"
    )


def _named(refusal: Refusal) -> str:
    parts = [
        f"code {refusal.code}" if refusal.code.isalnum() else "",
        f"HTTP {refusal.status}" if refusal.status else "",
    ]
    return ", ".join(part for part in parts if part) or "no answer"


def _no_function(refusal: Refusal, place: str, writing: bool) -> StoreError:
    return SchemaError(
        f"Vector search function not found: the database at {place} has not the functions that this version calls "
        f"({_named(refusal)}). {APPLY}"
    )


def _two_functions(refusal: Refusal, place: str, writing: bool) -> StoreError:
    return SchemaError(
        f"the database at {place} has two functions that fit one call ({_named(refusal)}): an older version left "
        f"one. {APPLY}"
    )


def _may_not(refusal: Refusal, place: str, writing: bool) -> StoreError:
    if writing:
        return StoreAccessError(
            f"the key may read the rules at {place}, or not even that, but not write them: set `SYMMETRA_SUPABASE_KEY` "
            "to the project's secret key (`sb_secret_...`)"
        )
    return StoreAccessError(
        f"the key may not read the rules at {place}: set `SYMMETRA_SUPABASE_KEY` to the project's secret key, or let "
        "everybody with the publishable key read by `symmetra-mcp schema apply --public-read`"
    )


def _refused_key(refusal: Refusal, place: str, writing: bool) -> StoreError:
    if refusal.code == "PGRST303" or "expired" in refusal.message.lower():
        return StoreAccessError(f"the key for {place} has expired: set `SYMMETRA_SUPABASE_KEY` to a new one")
    if refusal.code == "PGRST301" and "got 1" in refusal.message:
        return StoreAccessError(
            f"the server at {place} knows no `sb_...` keys, being an older installation: set `SYMMETRA_SUPABASE_KEY` "
            "to its service-role key, a long text with two dots"
        )
    return StoreAccessError(
        f"the server at {place} refused the key: copy it anew from the project's settings, API keys, into "
        "`SYMMETRA_SUPABASE_KEY`, and check that `SYMMETRA_SUPABASE_URL` is the same project's"
    )


def _too_slow(refusal: Refusal, place: str, writing: bool) -> StoreError:
    return TooMuchAtOnceError(
        f"the database at {place} stopped a request that took too long ({_named(refusal)}). Try again in a moment; if "
        "a search takes so long, `symmetra-mcp schema index` builds its index"
    )


def _too_large(refusal: Refusal, place: str, writing: bool) -> StoreError:
    return TooMuchAtOnceError(f"the server at {place} takes no request as large as this one ({_named(refusal)})")


def _unavailable(refusal: Refusal, place: str, writing: bool) -> StoreError:
    if writing and refusal.was_not_done:
        done = " Nothing was changed."
    else:
        done = " It is not known whether the last change was made: the same again is harmless." if writing else ""
    return StoreUnavailableError(
        f"Supabase can't be reached at {place} ({_named(refusal)}).{done} Try again in a moment"
    )


def _paused(refusal: Refusal, place: str, writing: bool) -> StoreError:
    return StoreUnavailableError(
        f"the Supabase project at {place} is paused (HTTP 540): restore it in its dashboard, https://supabase.com/dashboard"
    )


def _busy(refusal: Refusal, place: str, writing: bool) -> StoreError:
    wait = f" It asks to wait {refusal.retry_after_s:.0f} seconds." if refusal.retry_after_s else ""
    return StoreUnavailableError(
        f"Supabase at {place} answers that there are too many requests (HTTP 429).{wait} Try again"
    )


def _no_room(refusal: Refusal, place: str, writing: bool) -> StoreError:
    return StoreUnavailableError(
        f"the database at {place} can't be written now: its disk is full, or it is read-only ({_named(refusal)}). "
        "Nothing of the last change was stored. Enlarge or free it in the project's dashboard"
    )


def _too_long(refusal: Refusal, place: str, writing: bool) -> StoreError:
    return StoreError("a rule's id or its project's name is too long for the database: keep it under 1,000 characters")


def _conflict(refusal: Refusal, place: str, writing: bool) -> StoreError:
    return ConflictError(
        f"the database at {place} is in another state than expected. Try the same again", refusal.detail
    )


def _wrong_vectors(refusal: Refusal, place: str, writing: bool) -> StoreError:
    return StoreError(
        f"vectors don't fit the embedding space they were meant for, in the database at {place}: nothing was stored. "
        "Run `symmetra-mcp reembed`"
    )


def _elsewhere(refusal: Refusal, place: str, writing: bool) -> StoreError:
    return StoreError(
        f"{place} answers as no Supabase project does ({_named(refusal)}): set `SYMMETRA_SUPABASE_URL` to "
        "`https://REF.supabase.co`, without a path"
    )


_BY_CODE: dict[str, Callable[[Refusal, str, bool], StoreError]] = {
    "PGRST202": _no_function,
    "PGRST205": _no_function,
    "42883": _no_function,
    "42P01": _no_function,
    "42703": _no_function,
    "3F000": _no_function,
    "PGRST106": _no_function,
    "PGRST203": _two_functions,
    "42725": _two_functions,
    "42501": _may_not,
    "PGRST301": _refused_key,
    "PGRST302": _refused_key,
    "PGRST303": _refused_key,
    "57014": _too_slow,
    "55P03": _too_slow,
    "25006": _no_room,
    "53100": _no_room,
    "54000": _too_long,
    "PT409": _conflict,
    "PT422": _wrong_vectors,
    "22000": _wrong_vectors,
}
_BY_STATUS: dict[int, Callable[[Refusal, str, bool], StoreError]] = {
    401: _refused_key,
    403: _refused_key,
    404: _elsewhere,
    405: _elsewhere,
    413: _too_large,
    414: _too_large,
    429: _busy,
    504: _too_slow,
    540: _paused,
    544: _too_slow,
}
