"""Reading what vendors answer: vectors in either form, rate headers, names that are safe to repeat."""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from symmetra_mcp.errors import InvalidEmbeddingError
from symmetra_mcp.providers.pace import RateState

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.spaces import EmbeddingSpace

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PLAIN_NAME = re.compile(r"[a-z][a-z_]{2,49}")
_REQUEST_ID = re.compile(r"req_[A-Za-z0-9]{8,48}|[0-9a-f]{8}-[0-9a-f-]{20,40}")


def decode_vectors(rows: Sequence[object], space: EmbeddingSpace) -> NDArray[np.float32]:
    """Vectors as a vendor sent them: base64 of little-endian float32, or lists of numbers.

    Returns:
        Shape `(len(rows), space.dimensions)`, float32.

    Raises:
        InvalidEmbeddingError: A row is neither, or of another length.
    """
    import numpy as np

    vectors = np.empty((len(rows), space.dimensions), np.float32)
    for number, row in enumerate(rows):
        try:
            vector = np.frombuffer(base64.b64decode(row, validate=True), "<f4") if isinstance(row, str) else None
            if isinstance(row, list):
                with np.errstate(over="ignore"):
                    vector = np.asarray(row, np.float64).astype(np.float32)
        except (ValueError, TypeError, binascii.Error):
            vector = None
        if vector is None or vector.ndim != 1:
            raise invalid(space, "something that is no vector")
        if len(vector) != space.dimensions:
            raise invalid(space, f"vectors of {len(vector)} numbers where {space.dimensions} were asked for")
        vectors[number] = vector
    return vectors


def invalid(space: EmbeddingSpace, problem: str) -> InvalidEmbeddingError:
    """An answer that is no embedding."""
    return InvalidEmbeddingError(
        f"{space.provider} model {space.model!r} answered with {problem}; nothing of it was used",
        provider=space.provider,
        model=space.model,
    )


def rate_state(headers: Mapping[str, str], kind: str) -> RateState | None:
    """What OpenAI's rate headers say of `requests` or `tokens`; `None` where they are missing or make no sense."""
    try:
        limit = float(headers[f"x-ratelimit-limit-{kind}"])
        remaining = float(headers[f"x-ratelimit-remaining-{kind}"])
    except (KeyError, ValueError):
        return None
    full_in_s = duration_s(headers.get(f"x-ratelimit-reset-{kind}", ""))
    return RateState(limit, remaining, full_in_s or 0.0) if limit > 0 else None


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by a vendor's `retry-after-ms` or `retry-after`, number or date; `None` without a sane one."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            value = float(headers[name]) * scale
        except (KeyError, ValueError):
            continue
        return value if 0 <= value < float("inf") else None
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError, TypeError):
        return None


def duration_s(text: str) -> float | None:
    """Seconds of a duration such as `6ms`, `1s` or `6m0s`; `None` for anything else."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's, which no proxy leads to."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def plain_name(value: object) -> str:
    """A vendor's error code where it is a plain word; a message may repeat what was sent, a key among it."""
    return value if isinstance(value, str) and _PLAIN_NAME.fullmatch(value) else ""


def request_id(value: object) -> str:
    """A vendor's request id where it has the form of one."""
    return value if isinstance(value, str) and _REQUEST_ID.fullmatch(value) else ""
