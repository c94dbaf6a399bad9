"""Tracing with OpenTelemetry if the extra `lapse[otel]` is installed; without it, nothing is traced."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from lapse import __version__
from lapse.addresses import mask_addresses
from lapse.logs import EventLogger

try:
    from opentelemetry import trace
except ImportError:
    trace = None  # type: ignore[assignment]

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Variables of OpenTelemetry's specification for the collector; if neither is set, nothing is sent."""
SERVICE_NAME = "lapse-worker"
FLUSH_SECONDS = 2.0
"""How long a stop waits until the last spans are exported."""

log = EventLogger(__name__)


class Span:
    """The current span; without OpenTelemetry its methods do nothing."""

    def __init__(self, current: trace.Span | None = None) -> None:
        self._current = current

    def set(self, **attributes: str | float) -> None:
        """Set attributes; their names get the prefix `lapse.`."""
        if self._current is not None:
            self._current.set_attributes(_prefixed(attributes))

    def fail(self, error: Exception) -> None:
        """Record an error by OpenTelemetry's conventions for exceptions, with addresses masked."""
        if self._current is None:
            return
        attributes = {
            "exception.type": type(error).__qualname__,
            "exception.message": str(error),
            "exception.stacktrace": "".join(traceback.format_exception(error)),
        }
        masked = {name: mask_addresses(text) for name, text in attributes.items()}
        self._current.add_event("exception", masked)
        self._current.set_status(trace.Status(trace.StatusCode.ERROR, masked["exception.message"]))


@contextmanager
def span(name: str, **attributes: str | float) -> Iterator[Span]:
    """Trace the block as a span. Attributes get the prefix `lapse.`; an exception is recorded and raised again."""
    if trace is None:
        yield Span()
        return
    with trace.get_tracer("lapse").start_as_current_span(
        name, attributes=_prefixed(attributes), record_exception=False, set_status_on_exception=False
    ) as current:
        wrapper = Span(current)
        try:
            yield wrapper
        except Exception as error:
            wrapper.fail(error)
            raise


@contextmanager
def exported_traces() -> Iterator[None]:
    """Export the spans of the block to the collector that the environment names, if any.

    The rest is OpenTelemetry's own configuration: `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER` and so on.
    """
    if not any(os.environ.get(name) for name in ENDPOINT_VARIABLES):
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("no traces", reason="the environment names a collector, but lapse[otel] is not installed")
        yield
        return
    attributes = {"service.version": __version__}
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if not os.environ.get("OTEL_SERVICE_NAME") and "service.name=" not in given:
        attributes["service.name"] = SERVICE_NAME  # it would take precedence over the environment's
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        # In a thread, because an unreachable collector must not delay the stop.
        flush = threading.Thread(target=provider.shutdown, daemon=True)
        flush.start()
        flush.join(FLUSH_SECONDS)


def _prefixed(attributes: dict[str, str | float]) -> dict[str, str | float]:
    return {f"lapse.{name}": value for name, value in attributes.items()}
