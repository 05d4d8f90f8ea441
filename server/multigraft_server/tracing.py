"""Traces by OpenTelemetry: each request as a span, and below it what its predictions waited for and computed.

A request's own span begins with it, so that its answer can name it. All else is made after the last byte, by a
thread of its own, from the times that were noted anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from multigraft_adapters.errors import SetupError
from multigraft_server.backlog import Backlog
from multigraft_server.calls import Call
from multigraft_server.trails import Trail

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
SERVICE = "multigraft"
PARENT = "traceparent"
STATE = "tracestate"
Phase = tuple[str, float, float]
"""A part of a prediction: its name, its begin and its end in seconds of `time.monotonic`."""


def check_tracing() -> None:
    """Raises SetupError unless what traces need is installed."""
    try:
        missing = [name for name in NEEDED if find_spec(name) is None]
    except ModuleNotFoundError as error:
        missing = [str(error.name)]
    if missing:
        raise SetupError(f"tracing needs {missing[0]}: pip install 'multigraft[otel]'")


class Tracing:
    """Sends spans by OTLP over HTTP, as OpenTelemetry's own environment variables say. Closed by `close`."""

    def __init__(self) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation import tracecontext

        self._provider = _provider()
        self._tracer = self._provider.get_tracer(SERVICE)
        self._propagator = tracecontext.TraceContextTextMapPropagator()
        self._kind = SpanKind.SERVER
        self._backlog: Backlog[Trail] = Backlog(self._tell, name="multigraft-traces")

    def begin(self, trail: Trail, headers: Mapping[str, str]) -> str:
        """Begin the request's span, below the caller's if `headers` name one; its own `traceparent`."""
        given = {name: headers[name] for name in (PARENT, STATE) if name in headers}
        context = self._propagator.extract(given)
        trail.span = span = self._tracer.start_span(
            trail.method,
            context,
            self._kind,
            {"http.request.method": trail.method, "multigraft.request_id": trail.request_id},
            start_time=trail.began_ns,
        )
        own = span.get_span_context()
        return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"

    def put(self, trail: Trail) -> None:
        """The request has ended."""
        self._backlog.put(trail)

    def close(self) -> None:
        """Send what is left."""
        self._backlog.close()
        self._provider.shutdown()

    def _tell(self, trails: list[Trail], left_out: int) -> None:
        for trail in trails:
            if trail.span.is_recording():
                self._tell_one(trail, trail.span)

    def _tell_one(self, trail: Trail, span: Span) -> None:
        from opentelemetry.trace import StatusCode, set_span_in_context

        for call in trail.calls:
            end = call.ended or trail.ended
            parent = set_span_in_context(span)
            part = self._tracer.start_span(
                "prediction", parent, attributes=_attributes(call), start_time=trail.at_ns(call.arrival)
            )
            for name, began, ended in _phases(call):
                below = set_span_in_context(part)
                phase = self._tracer.start_span(name, below, start_time=trail.at_ns(began))
                phase.end(trail.at_ns(ended))
            part.end(trail.at_ns(end))
        span.update_name(f"{trail.method} {trail.route}" if trail.route else trail.method)
        span.set_attributes({"http.response.status_code": trail.status, "http.route": trail.route or ""})
        if trail.error is not None:
            span.set_attribute("error.type", trail.error)
        if trail.status >= 500 or trail.status == 0:
            span.set_status(StatusCode.ERROR)
        span.end(trail.at_ns(trail.ended))


def _provider() -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = Resource.create({"service.name": SERVICE}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=named, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _attributes(call: Call) -> dict[str, Any]:
    target = call.target
    return {
        "multigraft.task": target.task,
        "multigraft.version": target.number,
        "multigraft.adapter": target.digest,
        "multigraft.outcome": call.outcome or "failed",
        "multigraft.prompt_tokens": call.prompt_tokens,
        "multigraft.generated_tokens": call.generated_tokens,
    }


def _phases(call: Call) -> Iterator[Phase]:
    """What a prediction did one after the other; of several rows from the first's begin to the last's end."""
    rows = call.timings
    if not rows:
        return
    started, finished = min(row.started for row in rows), max(row.finished for row in rows)
    loaded = _latest(rows, lambda row: row.loaded)
    head = _latest(rows, lambda row: row.head)
    if loaded is not None:
        yield "load", call.arrival, loaded
    yield "queue", min(loaded or call.arrival, started), started
    computed = call.first_token or head or finished
    yield "prefill", started, max(started, min(computed, finished))
    if call.first_token is not None:
        yield "decode", min(call.first_token, finished), finished
    if head is not None:
        yield "head", head, finished


def _latest(rows: list[Any], moment: Callable[[Any], float | None]) -> float | None:
    return max((at for row in rows if (at := moment(row)) is not None), default=None)
