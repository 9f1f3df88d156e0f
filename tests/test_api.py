"""serving.api and serving.limits: the routes, without a server around them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serving import Classifier
from serving.api import State, create_app
from serving.batcher import Batcher
from serving.limits import Limits
from training.labels import Labels

CANARY = "perroquet-bleu-7413"
LIMITS = Limits(characters=2000, body_bytes=50_000)


@pytest.fixture(scope="module")
def classifier(artifact: Path) -> Classifier:
    return Classifier.from_dir(artifact)


@pytest.fixture(scope="module")
def client(classifier: Classifier) -> Iterator[TestClient]:
    app = create_app(LIMITS)
    app.state.vigie = State(classifier, Batcher(classifier.scores))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_predict_answers_in_order_as_the_classifier_does(client: TestClient, classifier: Classifier) -> None:
    texts = [f"texte numéro {index} " * (index % 5 + 1) for index in range(64)]
    answer = client.post("/predict", json={"texts": texts}).json()
    assert answer["predictions"] == classifier.predict(texts)
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
        ({"texts": ["a"] * 65}, "texts: list should have at most 64 items"),
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

    app = create_app(LIMITS)
    app.state.vigie = State(classifier, Batcher(fail))
    with TestClient(app, raise_server_exceptions=False) as client, caplog.at_level(logging.DEBUG):
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


def test_pages_that_load_foreign_scripts_are_not_served(client: TestClient) -> None:
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


def test_the_interface_is_described(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    assert set(described["paths"]["/predict"]["post"]["responses"]) == {"200", "413", "422", "500"}
    assert client.get("/docs.json").json() == described


@pytest.mark.parametrize("value", ["0", "-1", "many", ""])
def test_a_limit_that_is_no_number_is_told(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("VIGIE_MAX_CHARACTERS", value)
    with pytest.raises(ValueError, match="VIGIE_MAX_CHARACTERS must be a positive whole number"):
        Limits.from_environment()
