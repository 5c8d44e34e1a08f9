"""OpenTelemetry: spans of every request for a collector, where its standard variables name one.

The SDK makes a span of each request, under the trace that the client names in `_meta.traceparent`; ours stand inside it
(`spans`). Where no collector is named, nothing of OpenTelemetry's SDK is imported.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from symmetra_mcp import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from symmetra_mcp.config import Settings

logger = logging.getLogger(__name__)

SERVICE_NAME = "symmetra-mcp"
FLUSH_S = 0.5
"""How long the last spans may take at the end; a client waits two seconds for all of it."""
_LONGEST_ATTRIBUTE = 200


@contextmanager
def telemetry(settings: Settings) -> Iterator[None]:
    """Send spans while the block runs, and for a moment after it those that are left.

    Args:
        settings: Say whether, and where to.
    """
    provider = _provider(settings) if settings.traces_endpoint else None
    try:
        yield
    finally:
        if provider is not None:  # in a thread: a collector that hangs would hold the end up
            flushing = threading.Thread(target=provider.force_flush, name="last spans", daemon=True)
            flushing.start()
            flushing.join(FLUSH_S)


def _provider(settings: Settings) -> TracerProvider | None:
    """What makes spans from now on; `None` where that can't be, which is logged and stops nobody."""
    try:
        from opentelemetry.sdk.trace import TracerProvider
    except ImportError:
        logger.warning(
            "a collector of OpenTelemetry is named, and its SDK is not installed: no spans are sent. "
            'Run `pip install "symmetra-mcp[otel]"`, or unset `OTEL_EXPORTER_OTLP_ENDPOINT`'
        )
        return None
    try:
        return _connected(settings, TracerProvider)
    except ImportError:
        logger.warning('no spans are sent: run `pip install "symmetra-mcp[otel]"`, which brings the exporter too')
    except Exception as exc:  # a variable that OpenTelemetry reads itself holds something it does not understand
        logger.warning("no spans are sent: OpenTelemetry does not take its `OTEL_` variables (%s)", type(exc).__name__)
    return None


def _connected(settings: Settings, provider_type: type[TracerProvider]) -> TracerProvider:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import SpanLimits
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import set_tracer_provider

    from symmetra_mcp.span_export import CarefulExporter

    if settings.log_level != "debug":  # its log repeats each failure, with a traceback: the exporter tells it once
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    ours = Resource.create({"service.name": SERVICE_NAME, "service.version": __version__})
    resource = ours.merge(OTELResourceDetector().detect())
    if settings.otel_service_name:
        resource = resource.merge(Resource({"service.name": settings.otel_service_name}))
    address = urlsplit(settings.traces_endpoint)
    exporter = CarefulExporter(settings.traces_endpoint, place=address.hostname or "the collector")
    provider = provider_type(
        resource=resource, span_limits=SpanLimits(max_attribute_length=_LONGEST_ATTRIBUTE), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    set_tracer_provider(provider)
    return provider
