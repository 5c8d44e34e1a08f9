"""Who may come in over HTTP: tokens of an issuer, the token of a team, and the settings that say so."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from http_peer import Answer, Served, served
from issuer import AUDIENCE, ISSUER, Issuer, Key
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from pydantic import SecretStr
from stdio_peer import MODERN, request

from symmetra_mcp.config import Settings, load_settings
from symmetra_mcp.errors import ConfigError, KeysUnavailableError
from symmetra_mcp.http import keys as keys_module
from symmetra_mcp.http.access import Place, allowed_hosts, allowed_origins, check_access, place_of
from symmetra_mcp.http.bearer import SharedToken, SignedTokens
from symmetra_mcp.http.keys import KeysOfAddress, KeysOfFile, keys_of_set

DISCOVER = request(1, "server/discover", _meta=MODERN)
HEADERS = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "server/discover"}
TEAM = "Zq7-Xk2w" * 5
GOOD = Key("first")
OTHER = Key("first")  # another pair under the same name
METADATA = "https://rules.example.com/.well-known/oauth-protected-resource/mcp"


def discover(server: Served, token: str | None, **headers: str) -> Answer:
    shown = {} if token is None else {"Authorization": f"Bearer {token}"}
    return server.ask("POST", DISCOVER, **HEADERS, **shown, **headers)


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def claims(**more: Any) -> dict[str, Any]:
    return {"iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 300, "scope": "rules:read", **more}


def unsigned() -> str:
    return f"{encoded({'alg': 'none', 'kid': 'first'})}.{encoded(claims())}."


def signed_with_the_public_key() -> str:
    """A token whose secret is what everybody can read: accepted where the header alone chooses the algorithm."""
    told = f"{encoded({'alg': 'HS256', 'kid': 'first'})}.{encoded(claims())}"
    signature = hmac.new(GOOD.pem, told.encode(), hashlib.sha256).digest()
    return f"{told}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


# An issuer's tokens, through a real process


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer(GOOD).serving() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def server(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(
        tmp_path_factory.mktemp("served"),
        "--host",
        "0.0.0.0",
        SYMMETRA_LOG_LEVEL="debug",
        SYMMETRA_HTTP_ISSUER=ISSUER,
        SYMMETRA_HTTP_JWKS_URL=issuer.url,
        SYMMETRA_HTTP_URL=AUDIENCE,
        SYMMETRA_HTTP_SCOPES="rules:read",
        SYMMETRA_HTTP_ALLOWED_ORIGINS="https://app.example.com",
    ) as started:
        assert issuer.asked == 0  # an issuer that is down keeps no server from starting
        yield started


REFUSED = {
    "none": lambda: None,
    "no token": lambda: "x",
    "three dots": lambda: "a.b.c",
    "expired": lambda: GOOD.token(exp=int(time.time()) - 60),
    "not yet good": lambda: GOOD.token(nbf=int(time.time()) + 600),
    "for another server": lambda: GOOD.token(aud="https://other.example.com/mcp"),
    "of another issuer": lambda: GOOD.token(iss="https://login.example.org/"),
    "of an issuer without its slash": lambda: GOOD.token(iss=ISSUER.rstrip("/")),
    "without an end": lambda: GOOD.token(without="exp"),
    "without an audience": lambda: GOOD.token(without="aud"),
    "signed by another": lambda: OTHER.token(),
    "unsigned": unsigned,
    "signed with the public key": signed_with_the_public_key,
    "of an unknown key": lambda: GOOD.token(key_id="nobody's"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_token_that_is_not_good_is_refused_and_the_way_to_a_good_one_told(server: Served, case: str) -> None:
    answer = discover(server, REFUSED[case]())
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert f'resource_metadata="{METADATA}"' in answer.headers["www-authenticate"]


def test_a_good_token_is_let_in_and_needs_its_scope(server: Served) -> None:
    assert discover(server, GOOD.token()).status == 200
    assert discover(server, GOOD.token(aud=["https://other.example.com", AUDIENCE])).status == 200
    assert discover(server, GOOD.token(without="scope", scp=["rules:read", "more"])).status == 200
    lacking = discover(server, GOOD.token(scope="rules:write"))
    assert lacking.status == 403
    assert 'error="insufficient_scope"' in lacking.headers["www-authenticate"]


def test_the_resource_is_described(server: Served) -> None:
    answer = server.ask("GET", path="/.well-known/oauth-protected-resource/mcp", Host="rules.example.com")
    assert answer.message == {
        "resource": AUDIENCE,
        "authorization_servers": [ISSUER],
        "scopes_supported": ["rules:read"],
        "bearer_methods_supported": ["header"],
    }


def test_hosts_and_origins_are_checked_on_every_address_before_the_token(server: Served) -> None:
    token = GOOD.token()
    assert discover(server, token, Host="rules.example.com").status == 200
    assert discover(server, token, Origin="https://rules.example.com").status == 200
    for shown in (token, None):
        assert discover(server, shown, Host="evil.example").status == 421
        assert discover(server, shown, Host=f"0.0.0.0:{server.port}").status == 421
        assert discover(server, shown, Origin="https://evil.example").status == 403


def test_a_page_that_is_allowed_may_call_and_another_may_not(server: Served) -> None:
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization, mcp-method"}
    allowed = server.ask("OPTIONS", Origin="https://app.example.com", **asked)
    assert allowed.status == 200
    assert allowed.headers["access-control-allow-origin"] == "https://app.example.com"
    answer = discover(server, GOOD.token(), Origin="https://app.example.com")
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "https://app.example.com")
    assert server.ask("OPTIONS", Origin="https://evil.example", **asked).status == 403


def test_a_session_is_its_users_alone(server: Served) -> None:
    ada, bob = ({"Authorization": f"Bearer {GOOD.token(sub=name, client_id='editor')}"} for name in ("ada", "bob"))
    session = server.greet(**ada)
    assert server.legacy(request(1, "ping"), session, **ada).message["result"] == {}
    assert server.legacy(request(2, "ping"), session, **bob).status == 404


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
def test_a_real_client_talks_with_its_token(server: Served, mode: Any) -> None:
    async def talk() -> None:
        headers = {"Authorization": f"Bearer {GOOD.token()}"}
        async with (
            httpx2.AsyncClient(headers=headers, trust_env=False, timeout=30) as http,
            Client(streamable_http_client(server.url, http_client=http), mode=mode) as client,
        ):
            assert not (await client.call_tool("health_check", {})).is_error

    anyio.run(talk)


def test_no_token_gets_into_the_log(server: Served) -> None:
    shown = [GOOD.token(), GOOD.token(exp=1), signed_with_the_public_key(), "x" * 40]
    for token in shown:
        discover(server, token)
    server.wait_for("a token was refused: ExpiredSignatureError")
    server.wait_for("a token was refused: DecodeError")  # the last
    for token in shown:
        for part in (token, *(part for part in token.split(".") if len(part) > 30)):
            assert part not in server.stderr
    assert "Traceback" not in server.stderr


@pytest.mark.slow
def test_while_the_keys_cannot_be_read_nobody_is_let_in(tmp_path: Path) -> None:
    with (
        Issuer(GOOD).serving() as issuer,
        served(tmp_path, SYMMETRA_HTTP_ISSUER=ISSUER, SYMMETRA_HTTP_JWKS_URL=issuer.url) as server,
    ):
        issuer.status = 500
        answer = discover(server, GOOD.token(aud=server.url))
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        server.wait_for(f"tokens can't be checked: the keys at {issuer.url} can't be read (status 500)")
        assert discover(server, GOOD.token(aud=server.url)).status == 503
        assert discover(server, unsigned()).status == 401
        assert issuer.asked == 1  # it is left alone for a while


@pytest.mark.slow
def test_a_server_for_this_machine_is_its_own_audience_and_reads_keys_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(GOOD.pem)
    settings = {"SYMMETRA_HTTP_ISSUER": ISSUER, "SYMMETRA_HTTP_KEY_FILE": "key.pem"}
    with served(tmp_path, **settings) as server:
        assert discover(server, GOOD.token(aud=server.url)).status == 200
        assert discover(server, GOOD.token()).status == 401
        answer = server.ask("GET", path="/.well-known/oauth-protected-resource/mcp")
        assert answer.message["resource"] == server.url


# The token of a team


@pytest.mark.slow
def test_a_team_shares_a_token(tmp_path: Path) -> None:
    settings = {"SYMMETRA_HTTP_TOKEN": TEAM, "SYMMETRA_HTTP_ALLOWED_HOSTS": "rules.lan:8000"}
    with served(tmp_path, "--host", "0.0.0.0", SYMMETRA_LOG_LEVEL="debug", **settings) as server:
        assert discover(server, TEAM).status == 200
        assert discover(server, TEAM, Host="rules.lan:8000").status == 200
        for wrong in (None, "", TEAM[:-1], TEAM + "x", TEAM.lower(), "\xe4" * 40):
            answer = discover(server, wrong)
            assert answer.status == 401
            assert "resource_metadata" not in answer.headers["www-authenticate"]
        assert server.ask("GET", path="/.well-known/oauth-protected-resource/mcp").status == 404
        session = server.greet(Authorization=f"Bearer {TEAM}")
        assert server.legacy(request(1, "ping"), session).status == 401
        assert TEAM not in server.stderr


def test_a_token_is_in_no_text_of_what_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMMETRA_HTTP_TOKEN", TEAM)
    settings = load_settings()
    verifier = SharedToken(SecretStr(TEAM))
    accepted = anyio.run(verifier.verify_token, TEAM)
    assert accepted is not None
    for holder in (settings, verifier.__dict__, accepted):
        assert TEAM not in f"{holder!r} {holder}"


# Keys


def found(keys: keys_module.Keys, key_id: str | None) -> Any:
    return anyio.run(keys.find, key_id)


def accepted(keys: keys_module.Keys, token: str) -> bool:
    tokens = SignedTokens(keys, issuer=ISSUER, audience=AUDIENCE, resource=AUDIENCE)
    return anyio.run(tokens.verify_token, token) is not None


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("form", ["set", "pem"])
def test_keys_of_a_file_check_tokens(tmp_path: Path, algorithm: str, form: str) -> None:
    key, other = Key("mine", algorithm), Key("mine", algorithm)
    path = tmp_path / "keys"
    path.write_bytes(key.pem if form == "pem" else json.dumps({"keys": [key.jwk]}).encode())
    keys = KeysOfFile(path)
    assert accepted(keys, key.token())
    assert not accepted(keys, other.token())
    assert not accepted(keys, signed_with_the_public_key())


def test_a_file_without_a_public_key_that_can_be_used_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    secret = {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "s", "alg": "HS256"}
    for content in (b"", b"{}", b"[" * 100_000, json.dumps({"keys": [secret]}).encode(), Key("weak", bits=1024).pem):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="`SYMMETRA_HTTP_KEY_FILE` holds no public key"):
            KeysOfFile(path)
    with pytest.raises(ConfigError, match="`SYMMETRA_HTTP_KEY_FILE` can't be read"):
        KeysOfFile(tmp_path / "nowhere")


def test_keys_that_cannot_be_used_stand_beside_those_that_can() -> None:
    odd: list[Any] = [None, {}, {"kty": "RSA"}, {"kty": "EC", "crv": "P-999"}, {**GOOD.jwk, "use": "enc"}]
    content = json.dumps({"keys": [*odd, Key("weak", bits=1024).jwk, GOOD.jwk]}).encode()
    assert [key.key_id for key in keys_of_set(content)] == ["first"]


def test_a_new_key_is_found_and_unknown_ones_do_not_make_the_issuer_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    second = Key("second")
    with Issuer(GOOD).serving() as issuer:
        keys = KeysOfAddress(issuer.url)
        assert found(keys, "first").key_id == "first"
        issuer.keys = [GOOD, second]
        for number in range(5):
            assert found(keys, f"unknown {number}") is None
        assert issuer.asked == 1
        monkeypatch.setattr(keys_module, "LOOK_AGAIN_S", 0.0)
        assert accepted(keys, second.token())
        assert issuer.asked == 2
        assert accepted(keys, GOOD.token())
        assert issuer.asked == 2


def test_a_key_that_was_withdrawn_counts_no_longer_once_keys_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    with Issuer(GOOD).serving() as issuer:
        keys = KeysOfAddress(issuer.url)
        assert accepted(keys, GOOD.token())
        issuer.keys = [Key("second")]
        assert accepted(keys, GOOD.token())
        monkeypatch.setattr(keys_module, "FRESH_S", 0.0)
        assert not accepted(keys, GOOD.token())
        issuer.status = 404
        with pytest.raises(KeysUnavailableError):
            accepted(keys, GOOD.token())


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"status": 302}, "status 302"),
        ({"body": b" " * (2**20 + 1)}, "more than 1 MiB"),
        ({"body": b"<html>"}, "no key that can be used"),
        ({"body": b'{"keys": []}'}, "no key that can be used"),
        ({"url": "http://127.0.0.1:9/keys"}, "ConnectError"),
        ({"pause": threading.Event()}, "Timeout"),
    ],
    ids=["redirect", "huge", "no JSON", "no keys", "nobody there", "silence"],
)
def test_an_answer_without_keys_lets_nobody_in(
    fault: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keys_module, "_TIMEOUT_S", 0.5)
    with Issuer(GOOD).serving() as issuer:
        for name, value in fault.items():
            setattr(issuer, name, value)
        keys = KeysOfAddress(issuer.url)
        for _ in range(2):
            with pytest.raises(KeysUnavailableError):
                accepted(keys, GOOD.token())
        assert issuer.asked <= 1
        issuer.pause.set()
    (line,) = [record.getMessage() for record in caplog.records if record.name == keys_module.__name__]
    assert told in line


def test_tokens_at_once_ask_for_the_keys_once() -> None:
    async def together(keys: KeysOfAddress) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(keys.find, "first")

    with Issuer(GOOD).serving() as issuer:
        anyio.run(together, KeysOfAddress(issuer.url))
        assert issuer.asked == 1


# Settings

URL = "https://rules.example.com:443/mcp"


def settings_of(**values: Any) -> Settings:
    return load_settings(**{f"http_{name}": value for name, value in values.items()})


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"token": TEAM, "issuer": ISSUER}, "both set"),
        ({"token": TEAM[:31]}, "shorter than 32"),
        ({"token": TEAM + "ä"}, "holds a character"),
        ({"issuer": ISSUER}, "SYMMETRA_HTTP_JWKS_URL"),
        ({"issuer": ISSUER, "jwks_url": URL, "key_file": "keys"}, "from one place"),
        ({"jwks_url": URL}, "`SYMMETRA_HTTP_ISSUER` is not"),
        ({"token": TEAM, "scopes": "rules:read"}, "`SYMMETRA_HTTP_ISSUER` is not"),
        ({"issuer": ISSUER, "jwks_url": URL, "allowed_hosts": "a"}, "`SYMMETRA_HTTP_URL` is not"),
    ],
    ids=str,
)
def test_settings_that_do_not_go_together_are_refused(values: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        check_access(settings_of(**values), place_of("0.0.0.0", 8000))
    assert TEAM[:31] not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("issuer", "login.example.com"),
        ("jwks_url", "http://keys.example.com/jwks"),
        ("url", "https://user:secret@rules.example.com/mcp"),
        ("allowed_hosts", "https://rules.example.com"),
        ("allowed_hosts", "*"),
        ("allowed_origins", "app.example.com"),
        ("allowed_origins", "*"),
    ],
)
def test_addresses_that_cannot_be_meant_are_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"`SYMMETRA_HTTP_{name.upper()}`") as caught:
        settings_of(**{name: value})
    assert "secret" not in str(caught.value).replace("secrets belong", "")


def test_the_env_file_of_a_project_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    values = dict.fromkeys(("issuer", "jwks_url", "url", "allowed_origins"), "https://evil.example")
    values |= {"token": TEAM, "allowed_hosts": "evil.example", "key_file": "k", "audience": "a", "scopes": "s"}
    Path(".env").write_text("".join(f"SYMMETRA_HTTP_{name.upper()}={value}\n" for name, value in values.items()))
    read = load_settings()
    fields = [name for name in Settings.model_fields if name.startswith("http_")]
    assert sorted(fields) == sorted(f"http_{name}" for name in values)
    assert [name for name in fields if getattr(read, name)] == []
    monkeypatch.setenv("SYMMETRA_HTTP_TOKEN", f" {TEAM} ")
    assert load_settings().http_token == SecretStr(TEAM)


def test_hosts_are_this_machines_and_those_that_are_set() -> None:
    loopback = place_of("127.0.0.1", 0)
    own = ["127.0.0.1:8000", "localhost:8000", "[::1]:8000"]
    assert loopback.is_loopback
    assert allowed_hosts(settings_of(), loopback, 8000) == own
    assert allowed_origins(settings_of(), loopback, 8000) == [f"http://{host}" for host in own]
    bare = ["127.0.0.1", "localhost", "[::1]"]  # clients leave the default port out
    assert allowed_hosts(settings_of(), loopback, 80) == [*(f"{name}:80" for name in bare), *bare]
    assert allowed_origins(settings_of(), loopback, 80)[3:] == [f"http://{name}" for name in bare]
    every = place_of("0.0.0.0", 0)
    told = settings_of(token=TEAM, url=URL, allowed_hosts="Rules.LAN:81, other", allowed_origins="https://App.example")
    assert allowed_hosts(told, every, 8000) == [*own, "rules.example.com", "rules.lan:81", "other"]
    assert allowed_origins(told, every, 8000) == ["https://rules.example.com", "https://app.example"]


@pytest.mark.parametrize(
    ("address", "loopback"), [("127.0.0.5", True), ("::1", True), ("::ffff:10.0.0.1", False), ("192.168.1.2", False)]
)
def test_a_place_is_judged_by_its_address(address: str, loopback: bool) -> None:
    place = place_of(address, 1)
    assert isinstance(place, Place)
    assert place.is_loopback is loopback
    if not loopback:
        with pytest.raises(ConfigError, match="must show a token"):
            check_access(settings_of(), place)
        check_access(settings_of(token=TEAM), place)
        assert allowed_hosts(settings_of(token=TEAM), place, 1)[-1] == f"{place.name}:1"
