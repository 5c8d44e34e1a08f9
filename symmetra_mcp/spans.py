"""Spans of our own work, inside those that the SDK makes of requests: names and counts, never a text.

Without a collector (`telemetry`) they cost a few microseconds and lead nowhere. Attributes are called as the semantic
conventions of OpenTelemetry for generative AI and databases call them, where these have a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from symmetra_mcp.errors import ProviderError

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from symmetra_mcp.spaces import EmbeddingSpace

_TRACER = "symmetra-mcp"


@contextmanager
def span(name: str, attributes: Mapping[str, str | int], *, leaves: bool = False) -> Iterator[Span]:
    """Time what happens in the block; an error is told by its kind alone, for its message may repeat a text.

    Args:
        name: What happens, in few words that are the same each time.
        attributes: What is known beforehand.
        leaves: It is a request to another program.
    """
    from opentelemetry.trace import SpanKind, StatusCode, get_tracer

    with get_tracer(_TRACER).start_as_current_span(
        name,
        kind=SpanKind.CLIENT if leaves else SpanKind.INTERNAL,
        attributes=dict(attributes),
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except Exception as exc:
            current.set_attribute("error.type", type(exc).__name__)
            if isinstance(exc, ProviderError):
                current.set_attributes({"gen_ai.provider.name": exc.provider, "gen_ai.request.model": exc.model})
            current.set_status(StatusCode.ERROR)
            raise


@contextmanager
def embedding_span(texts: int, *, is_remote: bool) -> Iterator[Callable[[EmbeddingSpace, int], None]]:
    """Time an embedding.

    Args:
        texts: How many.
        is_remote: A vendor embeds.

    Yields:
        What is to be called with the vectors' space and the tokens that the vendor billed: a model is known only once
        it is loaded.
    """
    attributes: dict[str, str | int] = {"gen_ai.operation.name": "embeddings", "symmetra.embed.texts": texts}
    with span("embeddings", attributes, leaves=is_remote) as current:

        def tell(space: EmbeddingSpace, tokens: int) -> None:
            current.update_name(f"embeddings {space.model}")
            current.set_attribute("gen_ai.provider.name", space.provider)
            current.set_attribute("gen_ai.request.model", space.model)
            current.set_attribute("gen_ai.embeddings.dimension.count", space.dimensions)
            if tokens:
                current.set_attribute("gen_ai.usage.input_tokens", tokens)

        yield tell
