"""Sending spans to a collector, without texts, and without a word for each failure; imported where one is named."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Status
from typing_extensions import override

logger = logging.getLogger(__name__)

_LONGEST_NAME = 200


class CarefulExporter(SpanExporter):
    """Sends by OTLP over HTTP; called in a thread of its own."""

    def __init__(self, endpoint: str, *, place: str) -> None:
        """Make an exporter; it connects at the first spans.

        Args:
            endpoint: The collector's full address.
            place: What to call it in the log.
        """
        self._inner = OTLPSpanExporter(endpoint=endpoint)
        self._place = place
        self._failing = False

    @override
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._inner.export([_without_texts(span) for span in spans])
        except Exception:  # whatever it is: it must neither end the thread nor be logged with what it holds
            result = SpanExportResult.FAILURE
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._failing:
            logger.warning("spans can't be sent to %s; they are dropped until it takes them", self._place)
        self._failing = failed
        return result

    @override
    def shutdown(self) -> None:
        self._inner.shutdown()  # type: ignore[no-untyped-call]  # theirs


def _without_texts(span: ReadableSpan) -> ReadableSpan:
    """The span as it is but for the words of errors, which may repeat what somebody asked."""
    return ReadableSpan(
        name=span.name[:_LONGEST_NAME],
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=span.attributes,
        links=span.links,
        kind=span.kind,
        instrumentation_scope=span.instrumentation_scope,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
    )
