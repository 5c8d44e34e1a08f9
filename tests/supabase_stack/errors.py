"""What PostgREST answers when something is wrong: its own codes, and the status that each SQLSTATE becomes.

After PostgREST's source, `PostgREST/Error.hs` (read in the version of August 2026).
"""

from __future__ import annotations

import json
from typing import Any

_BY_CODE = {
    "23503": 409,
    "23505": 409,
    "25006": 405,
    "21000": 500,
    "53400": 500,
    "57P01": 503,
    "P0001": 400,
    "42883": 404,
    "42P01": 404,
    "42P17": 500,
    "42501": 403,
}
_BY_CLASS = {
    "08": 503,
    "53": 503,
    "0L": 403,
    "0P": 403,
    "28": 403,
    **dict.fromkeys(("09", "25", "2D", "38", "39", "3B", "40", "54", "55", "57", "58", "F0", "HV", "P0", "XX"), 500),
}


class RefusedError(Exception):
    """An answer that is no result. Without a code it is not PostgREST's: the API gateway's before it, or our own."""

    def __init__(
        self, status: int, code: str, message: str, details: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.hint = hint

    def body(self) -> bytes:
        told: dict[str, Any] = {"message": self.message, "hint": self.hint}
        if self.code:
            told = {"code": self.code, "message": self.message, "details": self.details, "hint": self.hint}
        return json.dumps(told).encode()


def unknown(what: str) -> RefusedError:
    """The refusal of what PostgREST may do and this gateway does not: passed over, a test would mean nothing."""
    return RefusedError(501, "", f"this gateway knows no {what}: write it in tests/supabase_stack")


def status_of(sqlstate: str, message: str) -> int:
    """The status of an error of Postgres: `PTxyz` is what the function asks for."""
    if sqlstate[:2] == "PT":
        return int(sqlstate[2:]) if sqlstate[2:].isdigit() else 500
    if sqlstate == "22023" and message.startswith("role") and message.endswith("does not exist"):
        return 401
    if sqlstate == "21000" and message.endswith("requires a WHERE clause"):
        return 400
    return _BY_CODE.get(sqlstate, _BY_CLASS.get(sqlstate[:2], 400))
