"""Public keys that tokens are signed with: of a file, or of an issuer's address, where they change now and then."""

from __future__ import annotations

import json
import logging
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK, PyJWTError
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from typing_extensions import override

from symmetra_mcp.errors import ConfigError, KeysUnavailableError
from symmetra_mcp.providers.wire import is_loopback

logger = logging.getLogger(__name__)

ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})
"""Each has a public and a private key: a secret that both sides share would let whoever checks tokens make some."""
FRESH_S = 600.0
"""How long keys are used before they are read again: a key that was withdrawn counts no longer than that."""
LOOK_AGAIN_S = 30.0
"""How long after a look for a key that is not there the next one is: anybody can name such keys."""
RETRY_S = 5.0
"""How long after a failure the issuer is asked again."""
_TIMEOUT_S = 5.0
_MOST_BYTES = 1 << 20
_SHORTEST_RSA = 2048


class Keys(ABC):
    """Public keys of an issuer."""

    @abstractmethod
    async def find(self, key_id: str | None) -> PyJWK | None:
        """The key that a token names, or the only one where it names none; `None` where there is no such key.

        Args:
            key_id: `kid` of the token's header.

        Raises:
            KeysUnavailableError: That can't be told now.
        """


class KeysOfFile(Keys):
    """Keys that stand in a file, read once."""

    def __init__(self, path: Path) -> None:
        """Read them.

        Args:
            path: A JWK set, or a public key as PEM.

        Raises:
            ConfigError: The file can't be read, or holds no public key that can be used.
        """
        try:
            content = path.expanduser().read_bytes()
        except OSError as exc:
            raise ConfigError(f"`SYMMETRA_HTTP_KEY_FILE` can't be read: {exc.strerror}") from None
        self._keys = _keys_of_pem(content) if content.lstrip().startswith(b"-----BEGIN") else keys_of_set(content)
        if not self._keys:
            raise ConfigError(
                "`SYMMETRA_HTTP_KEY_FILE` holds no public key for RS256 (2,048 bits or more), ES256 or EdDSA: give a "
                "JWK set, or a file that begins with `-----BEGIN PUBLIC KEY-----`"
            )

    @override
    async def find(self, key_id: str | None) -> PyJWK | None:
        if len(self._keys) == 1 and self._keys[0].key_id is None:  # PEM has no place for a name
            return self._keys[0]
        return _found(self._keys, key_id)


class KeysOfAddress(Keys):
    """Keys that an issuer serves: read when the first token comes, and again when they are old or one is missing."""

    def __init__(self, url: str) -> None:
        """Read nothing yet.

        Args:
            url: Where the issuer's JWK set is.
        """
        self._url = url
        self._keys: tuple[PyJWK, ...] = ()
        self._read_at = self._asked_at = float("-inf")
        self._failed = False
        self._reading = anyio.Lock()

    @override
    async def find(self, key_id: str | None) -> PyJWK | None:
        found = _found(self._keys, key_id)
        if found is not None and self._is_fresh():
            return found
        async with self._reading:  # whoever waited here finds what the one before has read
            if not self._is_fresh():
                await self._read()
            found = _found(self._keys, key_id)
            if found is None and (self._failed or time.monotonic() - self._asked_at >= LOOK_AGAIN_S):
                await self._read()
                found = _found(self._keys, key_id)
            return found

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._read_at < FRESH_S

    async def _read(self) -> None:
        if self._failed and time.monotonic() - self._asked_at < RETRY_S:
            raise KeysUnavailableError("the keys could not be read a moment ago")
        self._asked_at, self._failed = time.monotonic(), True
        try:
            keys = keys_of_set(await self._body())
            problem = "" if keys else "there is no key that can be used"
        except KeysUnavailableError as exc:
            problem = str(exc)
        except Exception as exc:  # whatever it is, no token can be checked
            problem = type(exc).__name__
        if problem:
            logger.warning("tokens can't be checked: the keys at %s can't be read (%s)", self._url, problem)
            raise KeysUnavailableError(problem)
        self._keys, self._read_at, self._failed = keys, time.monotonic(), False

    async def _body(self) -> bytes:
        import httpx
        import truststore

        client = httpx.AsyncClient(
            verify=truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # the system's certificates, a company's too
            timeout=_TIMEOUT_S,
            follow_redirects=False,  # keys come from where the settings say, and from nowhere else
            trust_env=not is_loopback(self._url),
        )
        with anyio.fail_after(_TIMEOUT_S):
            async with client, client.stream("GET", self._url, headers={"Accept": "application/json"}) as response:
                if response.status_code != 200:
                    raise KeysUnavailableError(f"status {response.status_code}")
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > _MOST_BYTES:
                        raise KeysUnavailableError("more than 1 MiB")
                return bytes(body)


def keys_of_set(content: bytes) -> tuple[PyJWK, ...]:
    """The keys of a JWK set that can be used; others may stand beside them.

    Args:
        content: JSON.
    """
    try:
        listed = json.loads(content)["keys"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ()
    return tuple(_usable(listed)) if isinstance(listed, list) else ()


def _usable(listed: Iterable[Any]) -> Iterable[PyJWK]:
    for one in listed:
        if not isinstance(one, dict) or one.get("use", "sig") != "sig" or "d" in one:
            continue
        try:
            key = PyJWK(one)
        except (PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
            continue
        if key.algorithm_name in ALGORITHMS and _is_strong(key.key):
            yield key


def _keys_of_pem(content: bytes) -> tuple[PyJWK, ...]:
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        return ()
    if isinstance(key, RSAPublicKey):
        return tuple(_usable([RSAAlgorithm.to_jwk(key, as_dict=True)]))
    if isinstance(key, EllipticCurvePublicKey):
        return tuple(_usable([ECAlgorithm.to_jwk(key, as_dict=True)]))
    if isinstance(key, Ed25519PublicKey):
        return tuple(_usable([OKPAlgorithm.to_jwk(key, as_dict=True)]))
    return ()


def _is_strong(key: Any) -> bool:
    return not isinstance(key, RSAPublicKey) or key.key_size >= _SHORTEST_RSA


def _found(keys: tuple[PyJWK, ...], key_id: str | None) -> PyJWK | None:
    if key_id is None:
        return keys[0] if len(keys) == 1 else None
    return next((key for key in keys if key.key_id == key_id), None)
