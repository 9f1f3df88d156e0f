"""serving.observe: figures, request ids, log lines and spans of an observed application; never a text in any."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from random import Random
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from serving.gateway import STATUS
from serving.observe import Observe, templates_of
from serving.observe_facts import note_refusal, note_texts
from serving.observe_metrics import Metrics
from serving.observe_tracing import Spans, exporter_class
from tests.conftest import ROOT
from tests.test_logs import captured, fail, parsed
from tests.test_observe_metrics import make_metrics

CANARY = "perroquet-bleu-7413"


class Watched:
    """A small application that is observed, and what was observed of it."""

    def __init__(self, spans: Spans | None = None) -> None:
        self.registry = CollectorRegistry()
        self.metrics: Metrics | None = make_metrics(self.registry)
        routes = [
            Route("/predict", predict, methods=["POST"]),
            Route("/v1/comments:analyze", predict, methods=["POST"]),
            Route("/models/{name:path}", broken),
            Route("/readyz", broken),
            Mount("/inner", routes=[Route("/stream", half_an_answer)]),
        ]
        app = Starlette(routes=routes)
        app.add_middleware(
            Observe, templates=list(templates_of(routes)), metrics=lambda: self.metrics, spans=lambda: spans
        )
        self.client = TestClient(app, raise_server_exceptions=False)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


async def predict(request: Request) -> JSONResponse:
    texts = (await request.json())["texts"]
    note_texts(texts)
    request.state.key_name = "forum"
    if not texts:
        note_refusal("invalid")
        return JSONResponse({"error": "no texts", "request_id": request.state.request_id}, 400)
    return JSONResponse({"seen": len(texts)})


async def broken(request: Request) -> JSONResponse:
    fail()
    return JSONResponse({})


async def half_an_answer(request: Request) -> StreamingResponse:
    async def pieces() -> Any:
        yield b"half"
        fail()

    return StreamingResponse(pieces())


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_requests_are_counted_by_route_method_and_status(watched: Watched) -> None:
    for texts in (["a"], ["b", "c"], []):
        watched.client.post("/predict?key=k", json={"texts": texts})
    watched.client.post("/v1/comments:analyze", json={"texts": ["a"]})
    watched.client.get("/inner/stream")
    counted = {
        status: watched.value("vigie_requests_total", route="/predict", method="POST", status=status)
        for status in ("200", "400")
    }
    assert counted == {"200": 2, "400": 1}
    assert watched.value("vigie_requests_total", route="/v1/comments:analyze", method="POST", status="200") == 1
    assert watched.value("vigie_requests_total", route="/inner/stream", method="GET", status="200") == 1
    assert watched.value("vigie_request_seconds_count", route="/predict") == 3
    assert watched.value("vigie_key_requests_total", key="forum") == 4


def test_a_refusal_is_counted_by_what_was_noted_or_by_its_status(watched: Watched) -> None:
    """A protocol may give a kind another status, as 400; what never reached a route has only the status."""
    watched.client.post("/predict", json={"texts": []})
    watched.client.get("/models/a")
    watched.client.get("/nowhere")
    counted = {kind: watched.value("vigie_refusals_total", kind=kind) for kind in STATUS}
    assert counted == dict.fromkeys(STATUS, 0.0) | {"invalid": 1, "failed": 1}


def test_paths_and_methods_that_somebody_made_up_are_one_label(watched: Watched) -> None:
    chance = Random(0)
    for _ in range(200):
        name = "".join(chance.choices("abcdefghij/%é", k=12))
        watched.client.get(f"/{name}", params={name: name})
        watched.client.request(chance.choice(["GET", "BREW", "PERROQUET"]), f"/models/{name}")
    sets = [
        sample.labels
        for metric in watched.registry.collect()
        for sample in metric.samples
        if sample.name == "vigie_requests_total"
    ]
    assert {labels["route"] for labels in sets} == {"other", "/models/{name:path}"}
    assert {labels["method"] for labels in sets} == {"GET", "other"}
    assert watched.value("vigie_requests_total", route="other", method="GET", status="404") == 200


@pytest.mark.parametrize("sent", ["a", "A.b_c-9", "x" * 64])
def test_a_sane_request_id_is_kept(watched: Watched, sent: str) -> None:
    answer = watched.client.post("/predict", json={"texts": []}, headers={"X-Request-ID": sent})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 65, f"{CANARY} ", f"{CANARY}!", "a/b", "a,b"])
def test_any_other_is_replaced(watched: Watched, sent: str) -> None:
    headers = [(b"x-request-id", sent.encode())]
    answers = [watched.client.post("/predict", json={"texts": []}, headers=headers) for _ in range(2)]
    first, second = (answer.headers["x-request-id"] for answer in answers)
    assert first != second and len(first) == 32 and CANARY not in first


def test_every_answer_names_the_model_and_its_request(watched: Watched) -> None:
    paths = ("/predict", "/nowhere", "/models/a", "/inner/stream")
    for answer in map(watched.client.get, paths):
        assert answer.headers["x-vigie-model"] == "vigie-tiny/1.2" and answer.headers["x-request-id"]


def test_a_models_name_cannot_end_the_header(watched: Watched) -> None:
    watched.metrics = make_metrics(CollectorRegistry())
    watched.metrics.model = {"name": "é\r\nx: y", "version": "1"}
    assert watched.client.get("/").headers["x-vigie-model"] == "%C3%A9%0D%0Ax%3A%20y/1"


def test_before_the_model_is_read_requests_pass_unmeasured(watched: Watched) -> None:
    watched.metrics = None
    answer = watched.client.post("/predict", json={"texts": ["a"]})
    assert answer.status_code == 200 and "x-vigie-model" not in answer.headers and answer.headers["x-request-id"]


def test_a_request_is_one_line_of_the_log(watched: Watched) -> None:
    with captured() as written:
        watched.client.post("/predict?key=secret", json={"texts": ["abc", "de"]}, headers={"X-Request-ID": "r1"})
    (line,) = (line for line in parsed(written()) if line["event"] == "request")
    assert line.pop("duration_ms") > 0 and line.pop("time") and line.pop("pid")
    assert line == {
        "level": "INFO", "event": "request", "request_id": "r1", "route": "/predict", "method": "POST", "status": 200,
        "texts": 2, "characters": 5, "key": "forum", "model": "1.2",
    }  # fmt: skip


def test_health_checks_fill_no_log(watched: Watched) -> None:
    async def healthy(_: Request) -> JSONResponse:
        return JSONResponse({})

    app = Observe(Starlette(routes=[Route("/readyz", healthy)]), templates=["/readyz"], metrics=lambda: None)
    with captured() as written:
        assert TestClient(app).get("/readyz").status_code == 200
    assert not [line for line in parsed(written()) if line["event"] == "request"]


def test_a_failure_is_answered_and_logged_with_its_place(watched: Watched) -> None:
    with captured() as written:
        answer = watched.client.get("/models/a", headers={"X-Request-ID": "r2"})
    assert answer.status_code == 500 and answer.json()["error"]["request_id"] == "r2"
    failure, request = parsed(written())
    assert (failure["error"], failure["because"], failure["request_id"]) == ("RuntimeError", ["KeyError"], "r2")
    assert (request["status"], request["level"], request["refusal"]) == (500, "WARNING", "failed")


def test_an_answer_that_breaks_off_is_logged_and_not_begun_again(watched: Watched) -> None:
    with captured() as written:
        answer = watched.client.get("/inner/stream")
    assert (answer.status_code, answer.text) == (200, "half")
    assert [line["event"] for line in parsed(written())] == ["a request failed", "request"]


def test_a_request_given_up_is_counted_as_such(watched: Watched) -> None:
    async def forever(*_: Any) -> None:
        await asyncio.Event().wait()

    async def scene() -> None:
        app = Observe(forever, templates=["/predict"], metrics=lambda: watched.metrics)
        scope = {"type": "http", "path": "/predict", "method": "POST", "headers": []}
        task = asyncio.create_task(app(scope, forever, forever))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scene())
    assert watched.value("vigie_requests_total", route="/predict", method="POST", status="499") == 1


def ask_for_trouble(client: TestClient) -> str:
    """Send the canary wherever a client can write, and return all that came back."""
    # The caller's trace is sound, so that what hangs on it would be taken over too.
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": f"a={CANARY}"}
    headers = {"X-Request-ID": f"{CANARY}?", "User-Agent": CANARY, **trace}
    headers |= {"baggage": f"text={CANARY}", "Referer": CANARY}
    answers = [
        client.post(f"/predict?text={CANARY}", json={"texts": [CANARY]}, headers=headers),
        client.post("/predict", json={"texts": [CANARY], CANARY: CANARY}, headers=headers),
        client.post("/predict", content=CANARY, headers=headers),
        client.get(f"/models/{CANARY}", headers=headers),
        client.get(f"/{CANARY}", headers=headers),
        client.get("/inner/stream", headers=headers),
        client.request("PERROQUET-BLEU-7413", "/predict", headers=headers),
    ]
    return " ".join(f"{answer.headers} {answer.text}" for answer in answers)


@pytest.mark.parametrize("layout", ["json", "text"])
def test_no_text_reaches_figures_logs_headers_or_spans(layout: str) -> None:
    exporter = InMemorySpanExporter()
    watched = Watched(spans_into(exporter))
    with captured(layout, level="DEBUG") as written:
        answered = ask_for_trouble(watched.client)
    spans = [span.to_json() for span in exporter.get_finished_spans()]
    assert len(spans) == 7 and "status" in written()
    for place in (answered, written(), generate_latest(watched.registry).decode(), *spans):
        assert CANARY not in place and CANARY.upper() not in place


def spans_into(exporter: InMemorySpanExporter) -> Spans:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Spans(provider)


def test_a_span_stands_below_the_callers_and_its_trace_in_the_log() -> None:
    exporter = InMemorySpanExporter()
    watched = Watched(spans_into(exporter))
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with captured() as written:
        watched.client.post("/predict", json={"texts": ["abc"]}, headers={"traceparent": f"00-{trace}-{parent}-01"})
        watched.client.get("/models/a")
    good, bad = exporter.get_finished_spans()
    assert good.name == "POST /predict" and good.parent and format(good.parent.span_id, "016x") == parent
    assert dict(good.attributes or {}) == {
        "http.request.method": "POST", "http.route": "/predict", "http.response.status_code": 200,
        "vigie.texts": 1, "vigie.characters": 3,
    }  # fmt: skip
    assert good.status.is_unset and not bad.status.is_ok and not bad.events
    assert good.start_time and good.end_time and good.start_time < good.end_time
    assert parsed(written())[0]["trace_id"] == trace


def test_neither_telemetry_nor_figures_are_loaded_unless_asked_for() -> None:
    unwanted = "{'opentelemetry', 'prometheus_client'} & sys.modules.keys()"
    code = f"import sys, serving.observe; sys.exit(', '.join({unwanted}) or 0)"
    environment = {name: value for name, value in os.environ.items() if name != "VIGIE_OTEL"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"VIGIE_OTEL": "yes"}, "VIGIE_OTEL must be 1 or 0"),
        ({"VIGIE_OTEL": "1", "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"}, "must be one of: http/protobuf, grpc"),
        ({"VIGIE_OTEL": "1"}, "needs the package opentelemetry-exporter-otlp-proto-http"),
    ],
)
def test_what_telemetry_lacks_is_told(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        exporter_class()


def test_the_exporter_that_is_installed_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        OTLPSpanExporter = InMemorySpanExporter

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", Module)
    monkeypatch.setenv("VIGIE_OTEL", "1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
    assert exporter_class() is InMemorySpanExporter
