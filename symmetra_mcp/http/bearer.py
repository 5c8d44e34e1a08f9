"""Whether a token that a client shows is good: the one that a team shares, or one that an issuer has signed."""

from __future__ import annotations

import hashlib
import hmac
import logging
from typing import TYPE_CHECKING, Any

import jwt
from mcp.server.auth.provider import AccessToken, TokenVerifier
from mcp.server.auth.settings import AuthSettings
from pydantic import AnyHttpUrl, SecretStr

from symmetra_mcp.http.keys import ALGORITHMS, Keys, KeysOfAddress, KeysOfFile

if TYPE_CHECKING:
    from symmetra_mcp.config import Settings

logger = logging.getLogger(__name__)

_CLOCKS_DIFFER_S = 30.0


class SharedToken:
    """The token that all clients of a team send."""

    def __init__(self, token: SecretStr) -> None:
        """Accept one token.

        Args:
            token: That one.
        """
        self._token = token

    async def verify_token(self, token: str) -> AccessToken | None:
        """Compare a token, in a time that tells nothing of it."""
        if not hmac.compare_digest(token.encode(), self._token.get_secret_value().encode()):
            return None
        return AccessToken(token=_fingerprint(token), client_id="team", scopes=[])


class SignedTokens:
    """Tokens in JWT form, for this server, from one issuer."""

    def __init__(self, keys: Keys, *, issuer: str, audience: str, resource: str) -> None:
        """Accept the tokens of an issuer.

        Args:
            keys: Its public keys.
            issuer: `iss` of its tokens.
            audience: What must be in `aud`.
            resource: This server's address.
        """
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._resource = resource

    async def verify_token(self, token: str) -> AccessToken | None:
        """Check signature, issuer, audience and times.

        Raises:
            KeysUnavailableError: The signature can't be checked now.
        """
        try:
            return await self._verified(token)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as exc:
            logger.info("a token was refused: %s", type(exc).__name__)  # the text of the error may hold parts of it
            return None

    async def _verified(self, token: str) -> AccessToken | None:
        header = jwt.get_unverified_header(token)
        if header.get("alg") not in ALGORITHMS:
            raise jwt.InvalidAlgorithmError
        key = await self._keys.find(header.get("kid"))
        if key is None:
            raise jwt.InvalidKeyError
        claims = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            audience=self._audience,
            issuer=self._issuer,
            leeway=_CLOCKS_DIFFER_S,
            options={"require": ["exp", "iss", "aud"]},
        )
        subject = claims.get("sub")
        return AccessToken(
            token=_fingerprint(token),
            client_id=str(claims.get("client_id") or claims.get("azp") or subject or ""),
            scopes=_words(claims.get("scope")) + _words(claims.get("scp")),
            expires_at=int(claims["exp"]),
            resource=self._resource,
            subject=None if subject is None else str(subject),
            claims={"iss": self._issuer},
        )


def verification(settings: Settings, address: str) -> tuple[AuthSettings, TokenVerifier] | tuple[None, None]:
    """How clients are verified, as the SDK wants it; nothing where they need no token.

    Args:
        settings: Which tokens count.
        address: Where the server listens, for clients that reach it there.

    Raises:
        ConfigError: The file of keys can't be used.
    """
    if settings.http_token is not None:
        # Without a resource the SDK tells nobody of an issuer, which there is not.
        return AuthSettings(issuer_url=AnyHttpUrl(address), resource_server_url=None), SharedToken(settings.http_token)
    if not settings.http_issuer:
        return None, None
    resource = settings.http_url or address
    keys = (
        KeysOfAddress(settings.http_jwks_url) if settings.http_key_file is None else KeysOfFile(settings.http_key_file)
    )
    told: Any = {"issuer_url": settings.http_issuer, "resource_server_url": resource}  # as text they keep their form
    auth = AuthSettings(**told, required_scopes=list(settings.http_scopes), validate_token_resource=True)
    audience = settings.http_audience or resource
    return auth, SignedTokens(keys, issuer=settings.http_issuer, audience=audience, resource=resource)


def _fingerprint(token: str) -> str:
    """What stands for a token from then on, so that it can't get into a log."""
    return hashlib.sha256(token.encode()).hexdigest()


def _words(value: Any) -> list[str]:
    """Scopes as one text with spaces, or as a list."""
    if isinstance(value, str):
        return value.split()
    return [str(word) for word in value] if isinstance(value, list) else []
