"""serving.api and serving.middleware: the routes and the way to them, without a server around."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from serving import Classifier
from serving.api import create_app
from serving.auth import Access
from serving.batcher import Batcher
from serving.gateway import Gateway, Refusal
from serving.limits import Limits
from serving.middleware import middlewares, origins_from_environment
from training.labels import Labels

CANARY = "perroquet-bleu-7413"
LIMITS = Limits(characters=2000, body_bytes=50_000)
SECURITY_HEADERS = ("x-content-type-options", "referrer-policy", "content-security-policy", "cache-control")


def service(
    classifier: Classifier, *, score: Any = None, access: Access | None = None, origins: Sequence[str] = ()
) -> Any:
    """The whole way in, as in the served process."""
    gateway = Gateway(classifier, Batcher(score or classifier.scores), LIMITS)
    app = create_app(LIMITS)
    app.state.gateway = gateway
    layers = middlewares(app, limits=LIMITS, access=access or Access(), origins=origins, gateway=lambda: gateway)
    return Starlette(middleware=layers)


def local(app: Any) -> TestClient:
    """A client on this machine."""
    return TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 50000), raise_server_exceptions=False)


def assert_same(answers: Any, expected: Any) -> None:
    """Equal but for the last digits, which depend on what was scored together."""
    assert json.loads(json.dumps(answers), parse_float=lambda _: None) == json.loads(
        json.dumps(expected), parse_float=lambda _: None
    )
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer["voice"]["scores"] == pytest.approx(wanted["voice"]["scores"], abs=1e-5)
        for label, score in wanted["categories"].items():
            assert answer["categories"][label]["score"] == pytest.approx(score["score"], abs=1e-5)


@pytest.fixture(scope="module")
def classifier(artifact: Path) -> Classifier:
    return Classifier.from_dir(artifact)


@pytest.fixture(scope="module")
def client(classifier: Classifier) -> Iterator[TestClient]:
    with local(service(classifier)) as client:
        yield client


def test_predict_answers_in_order_as_the_classifier_does(client: TestClient, classifier: Classifier) -> None:
    texts = [f"texte numéro {index} " * (index % 5 + 1) for index in range(64)]
    answer = client.post("/predict", json={"texts": texts}).json()
    assert_same(answer["predictions"], classifier.predict(texts))
    assert answer["model"] == {"name": "vigie-tiny", "version": classifier.artifact.version}


def test_a_request_names_its_operating_point(client: TestClient, classifier: Classifier) -> None:
    answer = client.post("/predict", json={"texts": ["bonjour"], "operating_point": "recall_first"}).json()
    assert answer["predictions"] == classifier.predict(["bonjour"], operating_point="recall_first")


def test_a_long_text_is_read_to_its_end(client: TestClient, classifier: Classifier) -> None:
    """Only the last window differs between the two; the voice is a mean over windows, so it must move."""
    start = "la chorale chante " * 60
    calm, threat = client.post("/predict", json={"texts": [start, start + "il menace de publier les images"]}).json()[
        "predictions"
    ]
    assert calm["voice"] != threat["voice"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"texts": []}, "texts: list should have at least 1 item"),
        ({"texts": ["a"] * 65}, "texts: 65 texts; at most 64 are allowed"),
        ({"texts": [CANARY, 5]}, "texts[1]: input should be a valid string"),
        ({"texts": CANARY}, "texts: input should be a valid list"),
        ({"text": CANARY}, "texts: field required"),
        ({"texts": ["a"], CANARY: 1}, "unknown key in the body; allowed: texts, operating_point"),
        ({"texts": ["a"], "operating_point": CANARY}, "operating_point must be one of: recall_first, balanced"),
        ({"texts": ["a", CANARY * 200]}, "texts[1]: 3800 characters; at most 2000 are allowed"),
        ([CANARY], "the body: input should be a valid dictionary"),
    ],
)
def test_bad_input_is_told_by_field_and_never_echoed(
    client: TestClient, caplog: pytest.LogCaptureFixture, body: Any, expected: str
) -> None:
    with caplog.at_level(logging.DEBUG):
        response = client.post("/predict", json=body)
    assert response.status_code == 422
    assert expected in response.json()["error"]["message"]
    assert CANARY not in response.text and CANARY not in caplog.text


def test_broken_json_is_told(client: TestClient) -> None:
    response = client.post("/predict", content='{"texts": ["' + CANARY, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["message"]) == (422, "the body is not valid JSON")


def test_half_a_surrogate_pair_is_answered(client: TestClient) -> None:
    """JSON can carry what no encoding can."""
    response = client.post("/predict", content=b'{"texts": ["\\ud83d"]}', headers={"content-type": "application/json"})
    assert response.status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_too_large_a_body_is_refused_declared_or_chunked(client: TestClient, chunked: bool) -> None:
    body = json.dumps({"texts": ["x" * 100_000]}).encode()
    content: Any = (body[i : i + 1000] for i in range(0, len(body), 1000)) if chunked else body
    response = client.post("/predict", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert "larger than 50000 bytes" in response.json()["error"]["message"]


def test_a_failure_while_scoring_is_answered_without_the_text(
    classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(texts: Any) -> Any:
        raise RuntimeError(f"broke on {texts[0]}")

    with local(service(classifier, score=fail)) as client, caplog.at_level(logging.DEBUG):
        response = client.post("/predict", json={"texts": [CANARY]})
    assert response.status_code == 500
    assert "scoring failed (RuntimeError)" in response.json()["error"]["message"]
    assert CANARY not in response.text and CANARY not in caplog.text


def test_labels_are_shown_with_law_and_help(client: TestClient, labels: Labels) -> None:
    shown = client.get("/labels").json()
    assert shown == labels.describe()


def test_info_tells_model_data_and_thresholds(client: TestClient, classifier: Classifier) -> None:
    info = client.get("/info").json()
    assert info["model"]["version"] == classifier.artifact.version
    assert info["data"][0]["card"] == "rows.jsonl"
    assert info["thresholds"]["labels"].keys() == set(classifier.artifact.label_ids)


def test_the_start_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "http" not in page.text.replace("http-equiv", "") and "<script" not in page.text


def test_the_start_page_may_use_its_own_style_and_nothing_else(client: TestClient) -> None:
    """The hash in the header is the one a browser computes from the page; else it would show without style."""
    import base64
    import hashlib

    page = client.get("/")
    style = page.text.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = page.headers["content-security-policy"]
    assert f"style-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_pages_that_load_foreign_scripts_are_not_served(client: TestClient) -> None:
    assert {client.get(path).status_code for path in ("/docs", "/redoc", "/schema.json", "/static_content/x")} == {404}


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", f"/{CANARY}", 404, "no such path; GET / lists what there is"),
        ("GET", "/labels/", 404, "no such path; GET / lists what there is"),
        ("GET", "/predict", 405, "this path takes another method"),
    ],
)
def test_a_wrong_path_or_method_has_the_same_shape(
    client: TestClient, method: str, path: str, status: int, message: str
) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.json()) == (status, {"error": {"message": message}})
    assert status == 404 or response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [("GET", "/labels", ""), ("GET", "/nowhere", ""), ("GET", "/", ""), ("POST", "/predict", "x" * 60_000)],
)
def test_every_answer_carries_the_security_headers(client: TestClient, method: str, path: str, content: str) -> None:
    headers = client.request(method, path, content=content).headers
    assert all(name in headers for name in SECURITY_HEADERS)
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"


def test_other_web_pages_may_not_call_unless_named(classifier: Classifier) -> None:
    asks = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    allowed, stranger = local(service(classifier, origins=["https://example.org"])), local(service(classifier))
    assert "access-control-allow-origin" not in stranger.options("/predict", headers=asks).headers
    assert allowed.options("/predict", headers=asks).headers["access-control-allow-origin"] == "https://example.org"
    refusal = allowed.post("/predict", content="x" * 60_000, headers={"Origin": "https://example.org"})
    assert (refusal.status_code, refusal.headers["access-control-allow-origin"]) == (413, "https://example.org")
    other = allowed.get("/labels", headers={"Origin": "https://example.com"})
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("value", ["*", "example.org", "https://example.org/path"])
def test_what_is_no_origin_is_told(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("VIGIE_CORS_ORIGINS", f"https://example.org, {value}")
    with pytest.raises(ValueError, match=r"VIGIE_CORS_ORIGINS: .* is no origin"):
        origins_from_environment()


def foreign(name: str, prefixes: tuple[str, ...]) -> Any:
    """A wire protocol that words refusals as `{name: kind}`, with a route that breaks and one that refuses."""

    async def breaks(_: Request) -> Response:
        raise KeyError(CANARY)

    async def refuses(_: Request) -> Response:
        raise Refusal("unsupported", "not here")

    return SimpleNamespace(
        PREFIXES=prefixes,
        routes=lambda gateway: [Route(f"{prefixes[0]}/breaks", breaks), Route(f"{prefixes[0]}/refuses", refuses)],
        refuse=lambda refusal: JSONResponse({name: refusal.kind}, refusal.status),
    )


@pytest.fixture
def speaking(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    protocols = (foreign("outer", ("/v1",)), foreign("inner", ("/v1/inner",)))
    monkeypatch.setattr("serving.api.PROTOCOLS", protocols)
    monkeypatch.setattr("serving.middleware.PROTOCOLS", protocols)
    return local(service(classifier))


def test_what_is_refused_early_is_worded_by_the_owner_of_the_path(speaking: TestClient) -> None:
    paths = ("/v1/x", "/v1/inner/x", "/predict")
    answers = [speaking.post(path, content="x" * 60_000).json() for path in paths]
    assert answers[:2] == [{"outer": "too_large"}, {"inner": "too_large"}]
    assert answers[2]["error"]["kind"] == "too_large"


def test_a_refusal_that_a_route_raises_is_worded_alike(speaking: TestClient) -> None:
    response = speaking.get("/v1/inner/refuses")
    assert (response.status_code, response.json()) == (501, {"inner": "unsupported"})


def test_a_route_that_breaks_says_nothing_of_the_text(speaking: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        response = speaking.get("/v1/breaks")
    assert (response.status_code, response.json()) == (500, {"outer": "failed"})
    (record,) = (record for record in caplog.records if record.message == "a request failed")
    assert "KeyError" in str(vars(record)["fields"])
    assert CANARY not in caplog.text and CANARY not in str([vars(record) for record in caplog.records])


@pytest.mark.parametrize("body", [b"[" * 40_000, b'{"texts": [' + b"1" * 5000 + b"]}", b"\xff\xfe", b""])
def test_json_made_to_break_parsers_is_refused(client: TestClient, body: bytes) -> None:
    assert client.post("/predict", content=body).status_code == 422


def test_the_interface_is_described(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    answers = described["paths"]["/predict"]["post"]["responses"]
    assert set(answers) == {"200", "401", "403", "413", "422", "429", "500", "503"}
    assert all("Retry-After" in answers[status]["headers"] for status in ("429", "503"))
    assert client.get("/docs.json").json() == described


def test_the_description_is_whole(client: TestClient) -> None:
    """Every reference leads somewhere, and every native route is in it."""
    text = client.get("/openapi.json").text
    described = json.loads(text)
    wanted = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert wanted and wanted <= described["components"]["schemas"].keys()
    assert {"/predict", "/labels", "/info", "/metrics", "/livez", "/readyz"} == described["paths"].keys()
    texts = described["components"]["schemas"]["PredictRequest"]["properties"]["texts"]
    assert (texts["maxItems"], texts["items"]["maxLength"]) == (64, 2000)


def test_answers_have_the_described_shape(client: TestClient) -> None:
    """Of errors and predictions alike, no key is missing and none is left out of the description."""
    from serving.openapi import ErrorResponse, PredictResponse

    answer = client.post("/predict", json={"texts": ["bonjour"]})
    assert PredictResponse.model_validate(answer.json()).model_dump() == answer.json()
    error = client.post("/predict", json={"texts": [5]})
    assert ErrorResponse.model_validate(error.json()).model_dump() == error.json()
