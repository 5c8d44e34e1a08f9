"""What both wire formats have in common: a request that was understood, and one that was refused."""

from __future__ import annotations

import base64
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

import numpy as np

from loopback.faults import Fault, RequestSize, Row
from loopback.limits import Header, RetryAfter, TokenBucket
from loopback.models import Model, VendorName
from loopback.vectors import Vector, VectorKind, embed

JSON_TYPE: Header = ("content-type", "application/json")
BAD_GATEWAY = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
    "<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n"
)


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """A request for embeddings, checked.

    Attributes:
        model: Which model.
        texts: What the model reads of each text.
        sent_texts: The texts as they came.
        tokens: Of all texts, as they are billed.
        dimensions: Length of the vectors.
        formats: `float`, `base64` and, for Cohere, its whole-number types.
        input_type: Cohere's side; `None` for OpenAI.
    """

    model: Model
    texts: Sequence[str]
    sent_texts: Sequence[str]
    tokens: int
    dimensions: int
    formats: Sequence[str]
    input_type: str | None = None


class Refusal(Exception):  # noqa: N818 - an answer on its way, not an error of ours
    """An answer other than embeddings."""

    def __init__(
        self, status: int, content: dict[str, Any] | str, headers: Sequence[Header] = (), *, code: str = ""
    ) -> None:
        super().__init__(status, code)
        self.status = status
        self.content = content
        self.headers = list(headers)

    @property
    def body(self) -> bytes:
        """As it is sent."""
        return self.content.encode() if isinstance(self.content, str) else json.dumps(self.content).encode()


@dataclass(slots=True)
class Buckets:
    """One vendor's limits; a bucket that is `None` limits nothing."""

    requests: TokenBucket | None = None
    tokens: TokenBucket | None = None
    inputs: TokenBucket | None = None


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What an answer depends on besides the request.

    Attributes:
        buckets: The vendor's limits.
        retry_after: How a 429 says when to come back.
        fault_wait_s: When a 429 that is a fault says to come back.
        extra_models: Models of a server that speaks OpenAI's API, by their dimensions.
        random: For ids.
    """

    buckets: Buckets
    retry_after: RetryAfter
    fault_wait_s: float
    extra_models: Mapping[str, int] = field(default_factory=dict)
    random: Random = field(default_factory=Random)


class Wire(ABC):
    """One vendor's wire format."""

    vendor: ClassVar[VendorName]

    def __init__(self, now: Circumstances) -> None:
        self.now = now

    @abstractmethod
    def wrong_key(self, key: str) -> Refusal:
        """401 for a key, or for none."""

    @abstractmethod
    def parse(self, content: Mapping[str, Any]) -> EmbedRequest:
        """Check a request as the vendor does.

        Raises:
            Refusal: It breaks a rule of the vendor's.
        """

    @abstractmethod
    def unreadable(self) -> Refusal:
        """400 for a body that is no JSON object of valid text."""

    @abstractmethod
    def over_limit(self, request: EmbedRequest) -> Refusal | None:
        """429 where the buckets do not hold enough for a request."""

    @abstractmethod
    def take(self, request: EmbedRequest) -> None:
        """Take from the buckets what a request costs."""

    @abstractmethod
    def refusal(self, fault: Fault, key: str, model_id: str) -> Refusal | None:
        """The answer of a fault that refuses; `None` for a fault of another kind."""

    @abstractmethod
    def overloaded(self) -> Refusal:
        """503."""

    def size(self, request: EmbedRequest) -> RequestSize:
        """What faults may be aimed at."""
        return "query" if len(request.texts) == 1 else "batch"

    def vectors(self, request: EmbedRequest, model_id: str, kind: VectorKind) -> Vector:
        """The right answer, a row a text."""
        return embed(request.texts, model_id, request.dimensions, request.input_type, kind)

    @abstractmethod
    def reply(self, request: EmbedRequest, rows: Sequence[Row], fault: Fault | None) -> bytes:
        """The body of a success."""

    @abstractmethod
    def headers(self, request: EmbedRequest | None, took_s: float) -> list[Header]:
        """The headers of an answer; of a refusal where `request` is `None`."""

    def redirect(self, status: int, location: str) -> Refusal:
        """To a place where the key must not arrive."""
        return Refusal(status, {}, [("location", location)], code="redirect")

    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return f"{self.now.random.getrandbits(128):032x}"


def bearer_key(headers: Mapping[str, str]) -> str:
    """The key of an Authorization header; empty where there is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def base64_floats(vector: Vector) -> str:
    """Little-endian float32, as a JSON text."""
    return f'"{base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode()}"'


def json_floats(vector: Vector) -> str:
    """As a JSON list, with the nine digits that bring every float32 back; not finite as Python's `json` reads it."""
    if not np.isfinite(vector).all():
        return json.dumps(vector.tolist())
    return "[" + ",".join([f"{number:.9g}" for number in vector.tolist()]) + "]"
