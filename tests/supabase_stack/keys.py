"""API keys and tokens, as Supabase's gateway and PostgREST check them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jwt

from supabase_stack.errors import RefusedError

SECRET_KEY = "sb_secret_N7UND0UgjKTVK-Uodkm0Hg"
PUBLISHABLE_KEY = "sb_publishable_ACJWlzQHlZjBrEguHvfOxg"
JWT_SECRET = "a-secret-of-the-tests-own-with-at-least-32-characters"
ROLES = {SECRET_KEY: "service_role", PUBLISHABLE_KEY: "anon"}


def token(role: str, *, secret: str = JWT_SECRET, **claims: Any) -> str:
    """A token as Supabase's sign-in makes it, or a key in the older form."""
    return jwt.encode({"role": role, **claims}, secret, "HS256")


def claims_of(headers: Mapping[str, str]) -> dict[str, Any]:
    """What the request's key says of its sender; `role` is among it.

    Raises:
        RefusedError: No key, an unknown one, or a token that does not hold.
    """
    key = headers.get("apikey", "")
    if not key:
        raise RefusedError(
            401, "", "No API key found in request", hint="No `apikey` request header or url param was found."
        )
    bearer = headers.get("authorization", "").removeprefix("Bearer ").strip()
    if key.startswith("sb_"):
        if key not in ROLES:
            hint = "Double check your Supabase `anon` or `service_role` API key."
            raise RefusedError(401, "", "Invalid API key", hint=hint)
        if bearer in ("", key):
            return {"role": ROLES[key]}
    credential = bearer or key
    parts = len(credential.split("."))
    if parts != 3:
        raise RefusedError(401, "PGRST301", f"Expected 3 parts in JWT; got {parts}")
    try:
        claims: dict[str, Any] = jwt.decode(credential, JWT_SECRET, ["HS256"], options={"verify_aud": False})
    except jwt.ExpiredSignatureError:
        raise RefusedError(401, "PGRST303", "JWT expired") from None
    except jwt.PyJWTError:
        raise RefusedError(401, "PGRST301", "No suitable key or wrong key type") from None
    return {"role": "anon", **claims}
