"""An issuer of tokens on this machine: key pairs, signed tokens, and the address where the public keys are."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER = "https://login.example.com/"
AUDIENCE = "https://rules.example.com/mcp"


class Key:
    """A key pair."""

    def __init__(self, key_id: str, algorithm: str = "RS256", bits: int = 2048) -> None:
        self.key_id, self.algorithm = key_id, algorithm
        made: dict[str, Any] = {
            "RS256": lambda: rsa.generate_private_key(65537, bits),
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
        }
        self.private = made[algorithm]()
        self.public = self.private.public_key()

    @property
    def jwk(self) -> dict[str, Any]:
        form: Any = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}[self.algorithm]
        return {**form.to_jwk(self.public, as_dict=True), "kid": self.key_id, "use": "sig", "alg": self.algorithm}

    @property
    def pem(self) -> bytes:
        return self.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def token(self, *, key_id: str | None = None, without: str = "", **claims: Any) -> str:
        """A good token, but for what is asked for."""
        now = int(time.time())
        whole = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 300, "scope": "rules:read"}
        whole = {name: value for name, value in {**whole, **claims}.items() if name != without}
        return jwt.encode(whole, self.private, self.algorithm, {"kid": key_id or self.key_id})


class Issuer:
    """Serves public keys.

    Attributes:
        keys: Those.
        status: Of each answer.
        asked: How often it was asked.
        body: What it answers instead of the keys.
        pause: Cleared, it lets whoever asks wait.
    """

    def __init__(self, *keys: Key) -> None:
        self.keys = list(keys)
        self.status = 200
        self.asked = 0
        self.body: bytes | None = None
        self.pause = threading.Event()
        self.pause.set()
        self.url = ""

    @contextmanager
    def serving(self) -> Iterator[Issuer]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                issuer.pause.wait(20)
                body = json.dumps({"keys": [key.jwk for key in issuer.keys]}).encode()
                body = body if issuer.body is None else issuer.body
                self.send_response(issuer.status)
                self.send_header("Location", f"{issuer.url}/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with suppress(OSError):  # whoever asked has gone
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}/keys"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
