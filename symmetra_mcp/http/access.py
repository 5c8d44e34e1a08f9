"""Where the server listens over HTTP, and what must be set before it may: all of it decided before a port is open."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from symmetra_mcp.config import variable_of
from symmetra_mcp.errors import ConfigError

if TYPE_CHECKING:
    from symmetra_mcp.config import Settings

SHORTEST_TOKEN = 32
"""Characters of a shared token: as random hexadecimal digits, these are 128 bits."""
PATH = "/mcp"
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""What a bearer token may consist of (RFC 6750, section 2.1)."""
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_DEFAULT_PORT = 80
"""The port that clients leave out."""
_ONLY_WITH_AN_ISSUER = ("http_jwks_url", "http_key_file", "http_audience", "http_scopes")


@dataclass(frozen=True, slots=True)
class Place:
    """An address of this machine to listen on.

    Attributes:
        host: As the user gave it.
        address: As the system has it, with the port first asked for.
        family: IPv4 or IPv6.
    """

    host: str
    address: tuple[str, int]
    family: socket.AddressFamily

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine reach it."""
        return ipaddress.ip_address(self.address[0]).is_loopback

    @property
    def is_every_address(self) -> bool:
        """Whether it stands for all addresses of this machine."""
        return ipaddress.ip_address(self.address[0]).is_unspecified

    @property
    def name(self) -> str:
        """The host as an address on the web has it."""
        return f"[{self.host}]" if ":" in self.host else self.host.lower()

    def listen(self) -> socket.socket:
        """Open the port.

        Raises:
            ConfigError: That is not possible.
        """
        try:
            return socket.create_server(self.address, family=self.family, backlog=1024)
        except OSError as exc:
            why = os.strerror(exc.errno) if exc.errno else exc.strerror
            raise ConfigError(
                f"port {self.address[1]} of {self.host} can't be opened: {why}. "
                "Choose another by `--port`; 0 takes one that is free"
            ) from None


def place_of(host: str, port: int) -> Place:
    """Find an address to listen on.

    Args:
        host: A name or an address.
        port: A port; 0 for any that is free.

    Raises:
        ConfigError: The name means nothing here.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE) if host else []
    except (OSError, UnicodeError):
        found = []
    for family, _, _, _, address in found:
        if family in (socket.AF_INET, socket.AF_INET6):
            return Place(host, (str(address[0]), port), family)
    raise ConfigError(f"`--host` {host!r} is no address of this machine: 127.0.0.1 is, for programs of this machine")


def check_access(settings: Settings, place: Place) -> None:
    """Refuse to listen where strangers could come in.

    Args:
        settings: Who may come in.
        place: Where.

    Raises:
        ConfigError: Something is missing, or does not go together.
    """
    _check_tokens(settings)
    verified = settings.http_token is not None or bool(settings.http_issuer)
    how = "`SYMMETRA_HTTP_TOKEN`, or `SYMMETRA_HTTP_ISSUER` and its keys, in the environment (`.env` does not count)"
    if not place.is_loopback and not verified:
        raise ConfigError(f"`--host` {place.host} is open to other machines, so clients must show a token: set {how}")
    elsewhere = [host for host in _own_hosts(settings) if not _is_loopback_name(host)]
    if elsewhere and not verified:
        raise ConfigError(
            f"clients may name {elsewhere[0]!r}, so they come from elsewhere and must show a token: set {how}"
        )
    if place.is_every_address and not elsewhere:
        raise ConfigError(
            f"`--host` {place.host} has no name that clients could use: set `SYMMETRA_HTTP_URL`, the address by which "
            "they reach the server, or `SYMMETRA_HTTP_ALLOWED_HOSTS`"
        )
    if settings.http_issuer and not place.is_loopback and not settings.http_url:
        raise ConfigError(
            "`SYMMETRA_HTTP_ISSUER` is set and `SYMMETRA_HTTP_URL` is not: set the address by which clients reach the "
            "server, which tokens are issued for"
        )


def allowed_hosts(settings: Settings, place: Place, port: int) -> list[str]:
    """Hosts that a request may name; a page that has its own name lead here (DNS rebinding) names another.

    Args:
        settings: Those that are set.
        place: Where the server listens.
        port: At which port.
    """
    names = list(_LOOPBACK_NAMES) if place.is_every_address else [*_LOOPBACK_NAMES, place.name]
    here = [f"{name}:{port}" for name in names] + (list(names) if port == _DEFAULT_PORT else [])
    return list(dict.fromkeys([*here, *_own_hosts(settings)]))


def allowed_origins(settings: Settings, place: Place, port: int) -> list[str]:
    """Pages that may call: the server's own, and those that are set.

    Args:
        settings: Those that are set.
        place: Where the server listens.
        port: At which port.
    """
    own = [f"http://{name}:{port}" for name in _LOOPBACK_NAMES] if place.is_loopback else []
    if own and port == _DEFAULT_PORT:
        own += [f"http://{name}" for name in _LOOPBACK_NAMES]
    if settings.http_url:
        own.append(f"{urlsplit(settings.http_url).scheme}://{_host_of(settings.http_url)}")
    return [*own, *settings.http_allowed_origins]


def _check_tokens(settings: Settings) -> None:
    """Refuse settings that do not go together."""
    token = settings.http_token
    if token is not None and settings.http_issuer:
        raise ConfigError("`SYMMETRA_HTTP_TOKEN` and `SYMMETRA_HTTP_ISSUER` are both set: set one of them")
    if token is not None and not _TOKEN.fullmatch(token.get_secret_value()):
        raise ConfigError(
            "`SYMMETRA_HTTP_TOKEN` holds a character that no token can hold: it may have letters, digits and `-._~+/`"
        )
    if token is not None and len(token.get_secret_value()) < SHORTEST_TOKEN:
        raise ConfigError(
            f"`SYMMETRA_HTTP_TOKEN` is shorter than {SHORTEST_TOKEN} characters and could be guessed: "
            "`openssl rand -hex 32` makes one"
        )
    if not settings.http_issuer:
        for name in _ONLY_WITH_AN_ISSUER:
            if getattr(settings, name):
                raise ConfigError(
                    f"`{variable_of(name)}` is set and `SYMMETRA_HTTP_ISSUER` is not: set the issuer whose tokens count"
                )
    elif bool(settings.http_jwks_url) == bool(settings.http_key_file):
        raise ConfigError(
            "`SYMMETRA_HTTP_ISSUER` needs its public keys from one place: set `SYMMETRA_HTTP_JWKS_URL`, which the "
            "issuer's `/.well-known/openid-configuration` calls `jwks_uri`, or `SYMMETRA_HTTP_KEY_FILE`"
        )


def _own_hosts(settings: Settings) -> list[str]:
    """Hosts that the settings name."""
    url = [_host_of(settings.http_url)] if settings.http_url else []
    return [*url, *settings.http_allowed_hosts]


def _host_of(url: str) -> str:
    """Host and port as a client writes them: without a port that the scheme has anyhow."""
    parts = urlsplit(url)
    usual = {"http": 80, "https": 443}[parts.scheme]
    return parts.netloc.lower().removesuffix(f":{usual}")


def _is_loopback_name(host: str) -> bool:
    return re.sub(r":\d+$", "", host) in _LOOPBACK_NAMES
