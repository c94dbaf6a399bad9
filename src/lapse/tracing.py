"""Traces: spans by OpenTelemetry where the extra `lapse[otel]` is installed, nothing at all where it is not."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from lapse.addresses import mask_addresses
from lapse.logs import EventLogger

try:
    from opentelemetry import trace
except ImportError:
    trace = None  # type: ignore[assignment]

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Where to send traces, as OpenTelemetry's specification names it; without either nothing is sent."""
SERVICE_NAME = "lapse-worker"
FLUSH_SECONDS = 2.0
"""How long a stop waits for the last spans to be delivered."""

log = EventLogger(__name__)


class Span:
    """What can still be said of a span while it lasts; says nothing where there are no traces."""

    def __init__(self, current: trace.Span | None = None) -> None:
        """Speak of this span of OpenTelemetry."""
        self._current = current

    def set(self, **attributes: str | float) -> None:
        """Set attributes."""
        if self._current is not None:
            self._current.set_attributes(_prefixed(attributes))

    def fail(self, error: Exception) -> None:
        """Note an error, in the words of OpenTelemetry's conventions for exceptions, without the addresses in it."""
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
    """Make what happens inside a span. Attributes get the prefix `lapse.`; an exception is noted, and goes on."""
    if trace is None:
        yield Span()
        return
    with trace.get_tracer("lapse").start_as_current_span(
        name, attributes=_prefixed(attributes), record_exception=False, set_status_on_exception=False
    ) as current:
        opened = Span(current)
        try:
            yield opened
        except Exception as error:
            opened.fail(error)
            raise


@contextmanager
def exported_traces(version: str) -> Iterator[None]:
    """Send the spans made inside to the collector that the environment names, if it names one.

    Everything else is OpenTelemetry's own configuration: `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER` and so on.
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
    attributes = {"service.version": version}
    if not _has_service_name():  # what is given here wins over the environment
        attributes["service.name"] = SERVICE_NAME
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        # In a thread: a collector that is away must not hold up the stop.
        flush = threading.Thread(target=provider.shutdown, daemon=True)
        flush.start()
        flush.join(FLUSH_SECONDS)


def _has_service_name() -> bool:
    attributes = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return bool(os.environ.get("OTEL_SERVICE_NAME")) or "service.name=" in attributes


def _prefixed(attributes: dict[str, str | float]) -> dict[str, str | float]:
    return {f"lapse.{name}": value for name, value in attributes.items()}
