"""Cohere's `POST /v2/embed`: rules, error bodies, headers and answers.

Sources: https://docs.cohere.com/reference/embed, https://docs.cohere.com/reference/errors and recorded replies. Where
no text of Cohere's is known (403, a value out of a closed set), its form is kept: `{"id": ..., "message": ...}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from loopback.faults import Fault, Row
from loopback.limits import Header, retry_headers
from loopback.models import Model, VendorName, count_tokens, find_model, readable_part
from loopback.vectors import Vector
from loopback.wire import BAD_GATEWAY, JSON_TYPE, EmbedRequest, Refusal, Wire, base64_floats, json_floats

MAX_TEXTS = 96
INPUT_TYPES = ("search_document", "search_query", "classification", "clustering", "image")
EMBEDDING_TYPES = ("float", "int8", "uint8", "binary", "ubinary", "base64")
TRUNCATIONS = ("NONE", "START", "END")

_PAST_LIMIT = "You are past the per minute request limit, please wait and try again later."
_TRIAL_CALLS = (
    "You are using a Trial key, which is limited to 1000 API calls / month. You can continue to use the Trial key for "
    "free or upgrade to a Production key with higher rate limits at 'https://dashboard.cohere.com/api-keys'. Contact "
    "us on 'https://discord.gg/XW44jPfYJu' or email us at support@cohere.com with any questions"
)
_INT8_SCALE = 127


class CohereWire(Wire):
    """Cohere's second API."""

    vendor: ClassVar[VendorName] = "cohere"

    def wrong_key(self, key: str) -> Refusal:
        """401, which has no id."""
        message = "invalid api token" if key else "no api key supplied"
        return Refusal(401, {"message": message}, [JSON_TYPE], code="invalid_api_token")

    def unreadable(self) -> Refusal:
        """400."""
        return self._refusal(400, "invalid request: the body is not valid JSON")

    def parse(self, content: Mapping[str, Any]) -> EmbedRequest:
        """Check a request; texts are cut to what the model reads, unless `truncate` is `NONE`."""
        model = find_model(content.get("model"), "cohere", {})
        if model is None:
            raise self._refusal(
                404,
                f"model '{content.get('model')}' not found, make sure the correct model ID was used and that you have "
                "access to the model.",
            )
        input_type = content.get("input_type")
        if input_type not in INPUT_TYPES:
            raise self._refusal(400, "invalid request: valid input_type must be provided with the provided model")
        formats = content.get("embedding_types") or ["float"]
        if not isinstance(formats, list) or not set(formats) <= set(EMBEDDING_TYPES):
            raise self._refusal(400, f"invalid request: embedding_types must be of {', '.join(EMBEDDING_TYPES)}")
        truncate = content.get("truncate") or "END"
        if truncate not in TRUNCATIONS:
            raise self._refusal(400, f"invalid request: truncate must be one of {', '.join(TRUNCATIONS)}")
        sent = self._texts(content.get("texts"))
        if truncate == "NONE" and (longest := max(map(count_tokens, sent))) > model.max_input_tokens:
            raise self._refusal(
                400,
                f"too many tokens: the text has {longest} tokens, which exceeds the limit of "
                f"{model.max_input_tokens}. Try using a shorter text or enable truncating.",
            )
        texts = [readable_part(text, model.max_input_tokens, truncate) for text in sent]
        dimensions = self._dimensions(content.get("output_dimension"), model)
        return EmbedRequest(model, texts, sent, sum(map(count_tokens, texts)), dimensions, formats, input_type)

    def over_limit(self, request: EmbedRequest) -> Refusal | None:
        """429 by inputs a minute; Cohere sends no rate headers."""
        bucket = self.now.buckets.inputs
        wait_s = 0.0 if bucket is None else bucket.wait_s(len(request.texts))
        return self._past_limit(wait_s) if wait_s > 0 else None

    def take(self, request: EmbedRequest) -> None:
        """One input a text."""
        if self.now.buckets.inputs is not None:
            self.now.buckets.inputs.take(len(request.texts))

    def refusal(self, fault: Fault, key: str, model_id: str) -> Refusal | None:
        """By fault."""
        if fault is Fault.RATE_LIMIT:
            return self._past_limit(self.now.fault_wait_s)
        if fault is Fault.SERVER_ERROR:
            return self._refusal(500, "internal server error")
        if fault is Fault.UNAVAILABLE:
            return self.overloaded()
        if fault is Fault.HTML_BAD_GATEWAY:
            return Refusal(502, BAD_GATEWAY, [("content-type", "text/html")])
        if fault is Fault.QUOTA:
            return self._refusal(429, _TRIAL_CALLS)
        if fault is Fault.WRONG_KEY:
            return self.wrong_key(key or "missing")
        if fault is Fault.FORBIDDEN:
            return self._refusal(403, f"your api key does not have access to model '{model_id}'")
        if fault is Fault.ECHO_KEY:
            value = f"Bearer {key}"
            echoing = self._refusal(400, f"invalid request: unexpected header Authorization: {value}")
            echoing.headers += [("x-echo-authorization", value), ("www-authenticate", value)]
            return echoing
        return None

    def overloaded(self) -> Refusal:
        """503."""
        return self._refusal(503, "service unavailable")

    def reply(self, request: EmbedRequest, rows: Sequence[Row], fault: Fault | None) -> bytes:
        """Embeddings by type, in order; the texts come back lower-cased, as from the real one."""
        vectors = [vector for _, vector in rows]
        formats = ["float"] if fault is Fault.FLOAT_LISTS else request.formats
        by_type = ",".join(
            [f'"{name}":[{",".join([_encoded(name, vector) for vector in vectors])}]' for name in formats]
        )
        texts = json.dumps([" ".join(text.lower().split()) for text in request.sent_texts])
        meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": request.tokens}}
        return (
            f'{{"id":"{self.trace_id()}","texts":{texts},"embeddings":{{{by_type}}},"meta":{json.dumps(meta)},'
            '"response_type":"embeddings_by_type"}'
        ).encode()

    def headers(self, request: EmbedRequest | None, took_s: float) -> list[Header]:
        """No limits among them."""
        headers = [("x-debug-trace-id", self.trace_id()), ("x-api-version", "2")]
        if request is not None:
            characters = sum(map(len, request.texts))
            headers += [JSON_TYPE, ("num_tokens", str(request.tokens)), ("num_chars", str(characters))]
        return headers

    def _texts(self, given: object) -> list[str]:
        if not isinstance(given, list) or not given or not all(isinstance(text, str) for text in given):
            raise self._refusal(400, "invalid request: texts must be provided")
        if len(given) > MAX_TEXTS:
            raise self._refusal(
                400, f"invalid request: total number of texts must be at most {MAX_TEXTS} - received {len(given)}"
            )
        return given

    def _dimensions(self, chosen: object, model: Model) -> int:
        if chosen is None:
            return model.native_dimensions
        if not model.choices:
            raise self._refusal(400, f"invalid request: output_dimension is not supported by {model.model_id}")
        if not isinstance(chosen, int) or chosen not in model.choices:
            lengths = ", ".join(map(str, model.choices))
            raise self._refusal(400, f"invalid request: output_dimension must be one of {lengths}")
        return chosen

    def _past_limit(self, wait_s: float) -> Refusal:
        refusal = self._refusal(429, _PAST_LIMIT)
        refusal.headers += retry_headers(self.now.retry_after, min(wait_s, 60.0))
        return refusal

    def _refusal(self, status: int, message: str) -> Refusal:
        return Refusal(status, {"id": self.trace_id(), "message": message}, [JSON_TYPE], code=str(status))


def _encoded(name: str, vector: Vector) -> str:
    """One vector in one of Cohere's types, as JSON."""
    if name == "base64":
        return base64_floats(vector)
    if name == "float":
        return json_floats(vector)
    return json.dumps(whole_numbers(name, vector))


def whole_numbers(name: str, vector: Vector) -> list[int]:
    """A vector as `int8`, `uint8`, `binary` or `ubinary`.

    Bytes hold -1 to 1 in 127 steps a side; bits hold the signs, eight to a number.
    """
    if name in ("binary", "ubinary"):
        packed = np.packbits(vector > 0).astype(np.int16)
        return [int(number) for number in (packed - 128 if name == "binary" else packed)]
    steps = np.clip(np.round(np.nan_to_num(vector) * _INT8_SCALE), -128, 127).astype(np.int16)
    return [int(number) for number in (steps + 128 if name == "uint8" else steps)]
