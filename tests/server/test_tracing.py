"""Traces as a collector gets them: a small one over HTTP receives what a server sends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import LoadTiny
from tests.server.running import Served, serving

trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


class Collector:
    """Spans by what they are called, after the server that sent them has ended."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []

    def take(self, body: bytes) -> None:
        for resource in trace_service.ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append({one.key: one.value.string_value for one in resource.resource.attributes})
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]

    def below(self, parent: Any) -> dict[str, Any]:
        return {span.name: span for span in self.spans if span.parent_span_id == parent.span_id}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Listens where OpenTelemetry's variables say."""
    found = Collector()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *told: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def traced(load_tiny: LoadTiny, folder: Path) -> Iterator[Served]:
    with serving(load_tiny("llama"), folder, tracing=True) as served:
        served.add("style", "text-generation", seed=3)
        served.add("topic", "text-classification", seed=1)
        yield served


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def check_order(*spans: Any) -> None:
    """Each begins where the one before it ended, or later, and ends after it began."""
    moments = [at for span in spans for at in (span.start_time_unix_nano, span.end_time_unix_nano)]
    assert moments == sorted(moments)


def test_a_generation_is_a_span_with_its_load_queue_prefill_and_decode(
    collector: Collector, load_tiny: LoadTiny, tmp_path: Path
) -> None:
    with traced(load_tiny, tmp_path) as served:
        asked = {"inputs": "my secret", "parameters": {"max_new_tokens": 4}}
        headers = {"traceparent": f"00-{TRACE}-{CALLER}-01", "x-request-id": "mine"}
        answer = served.http.post("/v1/tasks/style/predict", json=asked, headers=headers)
        assert answer.status_code == 200
    (request,) = collector.named("POST /v1/tasks/{ref:path}/predict")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, CALLER)
    assert answer.headers["traceparent"] == f"00-{TRACE}-{request.span_id.hex()}-01"
    assert attributes(request)["multigraft.request_id"] == "mine"
    assert attributes(request)["http.response.status_code"] == 200
    prediction = collector.below(request)["prediction"]
    told = attributes(prediction)
    assert (told["multigraft.task"], told["multigraft.version"], told["multigraft.outcome"]) == ("style", 1, "ok")
    assert told["multigraft.adapter"] == answer.headers["x-multigraft-adapter"]
    phases = collector.below(prediction)
    assert set(phases) == {"load", "queue", "prefill", "decode"}
    check_order(*(phases[name] for name in ("load", "queue", "prefill", "decode")))
    assert request.start_time_unix_nano <= prediction.start_time_unix_nano
    assert phases["decode"].end_time_unix_nano <= request.end_time_unix_nano
    assert "my secret" not in str(collector.spans)


def test_a_classification_has_its_head_and_later_ones_no_load(
    collector: Collector, load_tiny: LoadTiny, tmp_path: Path
) -> None:
    with traced(load_tiny, tmp_path) as served:
        served.predict("topic", "a")
        served.predict("topic", ["a", "b"])
    first, second = sorted(collector.named("prediction"), key=lambda span: span.start_time_unix_nano)
    assert set(collector.below(first)) == {"load", "queue", "prefill", "head"}
    phases = collector.below(second)
    assert set(phases) == {"queue", "prefill", "head"}
    check_order(*(phases[name] for name in ("queue", "prefill", "head")))


def test_errors_are_told_probes_are_not_and_the_service_is_named(
    collector: Collector, load_tiny: LoadTiny, tmp_path: Path
) -> None:
    with traced(load_tiny, tmp_path) as served:
        served.predict("nobody", "a")
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert "traceparent" not in served.http.get(path).headers
    wrong = [span for span in collector.spans if attributes(span).get("error.type") == "task_not_found"]
    assert len(wrong) == 1
    assert {span.name.partition(" ")[0] for span in collector.spans if not span.parent_span_id} == {"POST"}
    assert collector.resources
    assert all(one["service.name"] == "multigraft" for one in collector.resources)
    assert all(one["deployment.environment"] == "test" for one in collector.resources)


def test_a_caller_who_samples_nothing_gets_no_spans(
    collector: Collector, load_tiny: LoadTiny, tmp_path: Path
) -> None:
    with traced(load_tiny, tmp_path) as served:
        answer = served.http.get("/v1/tasks", headers={"traceparent": f"00-{TRACE}-{CALLER}-00"})
        assert answer.headers["traceparent"].endswith("-00")
    assert not collector.named("GET /v1/tasks")


def test_a_server_that_does_not_trace_says_nothing_of_it(decoder: Served) -> None:
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
    assert "traceparent" not in decoder.http.get("/v1/tasks", headers=headers).headers
