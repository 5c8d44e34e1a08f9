"""OpenAI's `POST /v1/embeddings` and `GET /v1/models`: rules, error bodies, headers and answers.

Error texts are those that users have reported and recorded replies hold; limits are of
https://platform.openai.com/docs/api-reference/embeddings/create.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from loopback.faults import OTHER_MODEL_ID, Fault, Row
from loopback.limits import Header, TokenBucket, duration, rate_headers, retry_headers
from loopback.models import MODELS, Model, VendorName, count_tokens, find_model
from loopback.wire import BAD_GATEWAY, JSON_TYPE, EmbedRequest, Refusal, Wire, base64_floats, json_floats

MAX_INPUTS = 2048
MAX_REQUEST_TOKENS = 300_000
ORGANIZATION = "org-loopback"

_FIELDS = {"input", "model", "dimensions", "encoding_format", "user"}
_INVALID_INPUT = "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference."
_SERVER_ERROR = "The server had an error while processing your request. Sorry about that!"
_OVERLOADED = "The engine is currently overloaded, please try again later"
_NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY), or as the password field (with blank username) if you're accessing the "
    "API from your browser and are prompted for a username and password. You can obtain an API key from "
    "https://platform.openai.com/account/api-keys."
)
_QUOTA = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
)


class OpenAIWire(Wire):
    """OpenAI, or a server that speaks its API where there are `extra_models`."""

    vendor: ClassVar[VendorName] = "openai"

    def wrong_key(self, key: str) -> Refusal:
        """The real text: it repeats the first 8 and the last 4 characters."""
        if not key:
            return self._refusal(401, _NO_KEY)
        masked = f"{key[:8]}{'*' * max(0, len(key) - 12)}{key[-4:]}"
        message = (
            f"Incorrect API key provided: {masked}. "
            "You can find your API key at https://platform.openai.com/account/api-keys."
        )
        return self._refusal(401, message, code="invalid_api_key")

    def unreadable(self) -> Refusal:
        """400."""
        return self._refusal(
            400,
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
            "library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)",
        )

    def parse(self, content: Mapping[str, Any]) -> EmbedRequest:
        """Check a request in the order of what makes sense: fields, model, inputs, lengths."""
        unknown = sorted(set(content) - _FIELDS)
        if unknown:
            raise self._refusal(400, f"Unrecognized request argument supplied: {unknown[0]}")
        model = find_model(content.get("model"), "openai", self.now.extra_models)
        if model is None:
            raise self.unknown_model(content.get("model"))
        encoding = content.get("encoding_format", "float")
        if encoding not in ("float", "base64"):
            raise self._refusal(
                400,
                f"'{encoding}' is not one of ['base64', 'float'] - 'encoding_format'",
                param="encoding_format",
            )
        texts, counts = self._inputs(content.get("input"))
        longest, total = max(counts), sum(counts)
        if longest > model.max_input_tokens:
            raise self._refusal(
                400,
                f"This model's maximum context length is {model.max_input_tokens} tokens, however you requested "
                f"{longest} tokens ({longest} in your prompt; 0 for the completion). Please reduce your prompt; or "
                "completion length.",
            )
        if total > MAX_REQUEST_TOKENS:
            raise self._refusal(
                400,
                f"Requested {total} tokens, max {MAX_REQUEST_TOKENS} tokens per request",
                error_type="max_tokens_per_request",
                code="max_tokens_per_request",
            )
        dimensions = self._dimensions(content.get("dimensions"), model)
        return EmbedRequest(model, texts, texts, total, dimensions, [encoding])

    def unknown_model(self, model_id: object) -> Refusal:
        """404."""
        return self._refusal(
            404,
            f"The model `{model_id}` does not exist or you do not have access to it.",
            code="model_not_found",
        )

    def over_limit(self, request: EmbedRequest) -> Refusal | None:
        """429 by the bucket that takes longer to hold enough."""
        by_requests = self._over("requests", self.now.buckets.requests, 1, request)
        by_tokens = self._over("tokens", self.now.buckets.tokens, request.tokens, request)
        if by_requests is not None and by_tokens is not None:
            return max(by_requests, by_tokens, key=lambda limit: limit[0])[1]
        found = by_requests or by_tokens
        return None if found is None else found[1]

    def take(self, request: EmbedRequest) -> None:
        """One request, and its tokens."""
        if self.now.buckets.requests is not None:
            self.now.buckets.requests.take(1)
        if self.now.buckets.tokens is not None:
            self.now.buckets.tokens.take(request.tokens)

    def refusal(self, fault: Fault, key: str, model_id: str) -> Refusal | None:
        """By fault."""
        if fault is Fault.RATE_LIMIT:
            return self._rate_limit("requests", self.now.buckets.requests, 1, model_id, self.now.fault_wait_s)
        if fault is Fault.SERVER_ERROR:
            return self._refusal(500, _SERVER_ERROR, error_type="server_error")
        if fault is Fault.UNAVAILABLE:
            return self.overloaded()
        if fault is Fault.HTML_BAD_GATEWAY:
            return Refusal(502, BAD_GATEWAY, [("content-type", "text/html"), ("server", "cloudflare")])
        if fault is Fault.QUOTA:
            return self._refusal(429, _QUOTA, error_type="insufficient_quota", code="insufficient_quota")
        if fault is Fault.WRONG_KEY:
            return self.wrong_key(key)
        if fault is Fault.FORBIDDEN:
            message = f"Project `proj_loopback` does not have access to model `{model_id}`"
            return self._refusal(403, message, code="model_not_found")
        if fault is Fault.ECHO_KEY:
            value = f"Bearer {key}"
            echoing = self._refusal(400, f"Unexpected header Authorization: {value}", param=value, code=value)
            echoing.headers += [("x-request-id", value), ("www-authenticate", value)]
            return echoing
        return None

    def overloaded(self) -> Refusal:
        """503."""
        return self._refusal(503, _OVERLOADED, error_type="server_error")

    def reply(self, request: EmbedRequest, rows: Sequence[Row], fault: Fault | None) -> bytes:
        """A list of embeddings, each with its index."""
        lists = fault is Fault.FLOAT_LISTS or request.formats[0] == "float"
        encode = json_floats if lists else base64_floats
        data = ",".join(
            [f'{{"object":"embedding","index":{index},"embedding":{encode(vector)}}}' for index, vector in rows]
        )
        model = OTHER_MODEL_ID if fault is Fault.OTHER_MODEL else request.model.model_id
        usage = json.dumps({"prompt_tokens": request.tokens, "total_tokens": request.tokens})
        return f'{{"object":"list","data":[{data}],"model":{json.dumps(model)},"usage":{usage}}}'.encode()

    def headers(self, request: EmbedRequest | None, took_s: float) -> list[Header]:
        """With what is left of the limits."""
        headers = [
            ("openai-organization", ORGANIZATION),
            ("openai-version", "2020-10-01"),
            ("openai-processing-ms", str(round(took_s * 1000))),
            ("x-request-id", f"req_{self.trace_id()}"),
        ]
        if request is not None:
            headers += [JSON_TYPE, ("openai-model", request.model.model_id)]
        return headers + rate_headers(self.now.buckets.requests, self.now.buckets.tokens)

    def model_list(self) -> bytes:
        """The body of `GET /v1/models`."""
        ids = [model.model_id for model in MODELS.values() if model.vendor == "openai"]
        data = [_model_entry(model_id) for model_id in [*ids, *self.now.extra_models]]
        return json.dumps({"object": "list", "data": data}).encode()

    def one_model(self, model_id: str) -> bytes:
        """The body of `GET /v1/models/{id}`.

        Raises:
            Refusal: There is no such model.
        """
        if find_model(model_id, "openai", self.now.extra_models) is None:
            raise self.unknown_model(model_id)
        return json.dumps(_model_entry(model_id)).encode()

    def _inputs(self, given: object) -> tuple[list[str], list[int]]:
        """Texts and their tokens; lists of token ids stand for texts of their numbers."""
        inputs = [given] if isinstance(given, str) or _is_token_ids(given) else given
        if not isinstance(inputs, list) or not 1 <= len(inputs) <= MAX_INPUTS:
            raise self._refusal(400, _INVALID_INPUT)
        texts, counts = [], []
        for item in inputs:
            if isinstance(item, str) and item:
                texts.append(item)
                counts.append(count_tokens(item))
            elif _is_token_ids(item):
                texts.append(" ".join(map(str, item)))
                counts.append(len(item))
            else:
                raise self._refusal(400, _INVALID_INPUT)
        return texts, counts

    def _dimensions(self, chosen: object, model: Model) -> int:
        if chosen is None:
            return model.native_dimensions
        if not model.choices:
            raise self._refusal(400, "This model does not support specifying dimensions.")
        if not isinstance(chosen, int) or isinstance(chosen, bool):
            raise self._refusal(400, f"{json.dumps(chosen)} is not of type 'integer' - 'dimensions'")
        if chosen < 1:
            raise self._refusal(400, f"{chosen} is less than the minimum of 1 - 'dimensions'")
        if chosen not in model.choices:
            raise self._refusal(
                400,
                f"Invalid value for 'dimensions' = {chosen}. Must be less than or equal to {model.native_dimensions}.",
            )
        return chosen

    def _over(
        self, kind: str, bucket: TokenBucket | None, amount: int, request: EmbedRequest
    ) -> tuple[float, Refusal] | None:
        if bucket is None:
            return None
        wait_s = bucket.wait_s(amount)
        if wait_s <= 0:
            return None
        return wait_s, self._rate_limit(kind, bucket, amount, request.model.model_id, wait_s)

    def _rate_limit(self, kind: str, bucket: TokenBucket | None, amount: int, model_id: str, wait_s: float) -> Refusal:
        limit = 0 if bucket is None else int(bucket.per_minute)
        used = 0 if bucket is None else int(bucket.per_minute - bucket.level)
        unit = "requests per min (RPM)" if kind == "requests" else "tokens per min (TPM)"
        more = "Visit https://platform.openai.com/account/rate-limits to learn more."
        place = f"for {model_id} in organization {ORGANIZATION} on {unit}: Limit {limit}"
        if math.isinf(wait_s):
            message = (
                f"Request too large {place}, Requested {amount}. "
                f"The input or output tokens must be reduced in order to run successfully. {more}"
            )
            return self._refusal(429, message, error_type=kind, code="rate_limit_exceeded")
        again = f"Please try again in {duration(wait_s)}."
        message = f"Rate limit reached {place}, Used {used}, Requested {amount}. {again} {more}"
        refusal = self._refusal(429, message, error_type=kind, code="rate_limit_exceeded")
        refusal.headers += retry_headers(self.now.retry_after, wait_s)
        return refusal

    def _refusal(
        self,
        status: int,
        message: str,
        *,
        error_type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> Refusal:
        error = {"message": message, "type": error_type, "param": param, "code": code}
        return Refusal(status, {"error": error}, [JSON_TYPE], code=code or error_type)


def _is_token_ids(item: object) -> bool:
    return isinstance(item, list) and bool(item) and all(type(token) is int for token in item)


def _model_entry(model_id: str) -> dict[str, object]:
    return {"id": model_id, "object": "model", "created": 1_705_948_997, "owned_by": "system"}
