"""Spans for OpenTelemetry, where VIGIE_OTEL=1 asks for them. They hold names and sizes; no text, path or query.

BentoML's own instrumentation would send each URL with its query string, and so API keys.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

_EXPORTERS = {
    "http/protobuf": (
        "opentelemetry.exporter.otlp.proto.http.trace_exporter",
        "opentelemetry-exporter-otlp-proto-http",
    ),
    "grpc": ("opentelemetry.exporter.otlp.proto.grpc.trace_exporter", "opentelemetry-exporter-otlp-proto-grpc"),
}


class Spans:
    """One span for each request, made when it ends: nothing is paid for while it runs."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = provider.get_tracer("vigie")
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def from_environment(cls) -> Spans | None:
        """None unless VIGIE_OTEL=1; then sampler, service name and exporter are what the OTEL_* variables say.

        Raises:
            ValueError: as `exporter_class` does.
        """
        exporter = exporter_class()
        return None if exporter is None else cls(_provider(exporter()))

    def record(self, fields: Mapping[str, Any], *, seconds: float, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Make the span of a request that just ended, below the caller's where `traceparent` names one.

        Args:
            fields: those of the request's line in the log: route, method, status, texts, characters.

        Returns:
            The trace's id, for the log.
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode

        ended = time.time_ns()
        span = self._tracer.start_span(
            f"{fields['method']} {fields['route']}",
            context=self._propagator.extract(_parent(headers)),
            kind=SpanKind.SERVER,
            attributes=_attributes(fields),
            start_time=ended - int(seconds * 1e9),
        )
        if fields["status"] >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended)
        return format(span.get_span_context().trace_id, "032x")


def exporter_class() -> Callable[[], SpanExporter] | None:
    """What makes the exporter that the environment asks for; None unless VIGIE_OTEL=1. For a check before the start.

    It is one for OTLP, and reads OTEL_EXPORTER_OTLP_ENDPOINT and its kin itself.

    Raises:
        ValueError: VIGIE_OTEL or the protocol is none we know, or the exporter is not installed.
    """
    asked = os.environ.get("VIGIE_OTEL", "")
    if asked in ("", "0"):
        return None
    if asked != "1":
        raise ValueError(f"VIGIE_OTEL must be 1 or 0, not {asked!r}")
    general = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", general)
    if protocol not in _EXPORTERS:
        raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL must be one of: {', '.join(_EXPORTERS)}; not {protocol!r}")
    module, package = _EXPORTERS[protocol]
    try:
        found: Callable[[], SpanExporter] = import_module(module).OTLPSpanExporter
    except ImportError:
        raise ValueError(f"VIGIE_OTEL=1 needs the package {package}: pip install {package}") from None
    return found


def _parent(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    # `tracestate` and `baggage` stay out: a client may write anything there, and it would be sent on.
    given = dict(headers).get(b"traceparent")
    return {} if given is None else {"traceparent": given.decode("latin-1")}


def _attributes(fields: Mapping[str, Any]) -> dict[str, str | int]:
    return {
        "http.request.method": fields["method"],
        "http.route": fields["route"],
        "http.response.status_code": fields["status"],
        "vigie.texts": fields["texts"],
        "vigie.characters": fields["characters"],
    }


def _provider(exporter: SpanExporter) -> TracerProvider:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": "vigie"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
