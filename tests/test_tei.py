"""serving.protocols.tei: flat for one text, nested for a batch, TEI's statuses.

TEI has no client of its own; `huggingface_hub` asks its /health and /info, and httpx what its users send to /predict.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from serving import Classifier
from serving.protocols import huggingface, tei
from tests import wire
from tests.test_huggingface import KEYS, classifier, library
from tests.wire import CANARY, KEY, local, serve_alone, service

__all__ = ["classifier", "library"]

PREDICT = "/tei/predict"


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    serve_alone(monkeypatch, huggingface, tei)


@pytest.fixture
def client(classifier: Classifier) -> TestClient:
    return local(service(classifier))


def test_one_text_is_answered_flat_and_a_batch_nested(client: TestClient) -> None:
    flat = client.post(PREDICT, json={"inputs": "il menace"}).json()
    assert flat[:2] == [{"label": "direct", "score": 0.9}, {"label": "sexual_extortion", "score": 0.8}]
    assert client.post(PREDICT, json={"inputs": ["il menace"]}).json() == flat
    assert client.post(PREDICT, json={"inputs": [["il menace"]]}).json() == [flat]
    two = client.post(PREDICT, json={"inputs": [["Bonjour."], ["il menace"]]}).json()
    assert len(two) == 2 and two[1] == flat and two[0] != flat


def test_testimony_is_lowered_as_for_hugging_faces_clients(client: TestClient) -> None:
    body = {"inputs": "elle raconte qu'il menace"}
    flat = client.post(PREDICT, json=body).json()
    assert {"label": "sexual_extortion", "score": 0.2} in flat and {
        "label": "sexual_extortion_raw",
        "score": 0.8,
    } in flat
    assert client.post(huggingface.PATH, json=body).json() == [flat]


@pytest.mark.parametrize("more", [{"truncate": True}, {"truncation_direction": "Left"}, {"raw_scores": False}])
def test_what_changes_no_score_is_accepted(client: TestClient, more: dict[str, Any]) -> None:
    """A text of any length is read to its end."""
    answer = client.post(PREDICT, json={"inputs": "mot " * 2000 + "menace", **more}).json()
    assert {"label": "sexual_extortion", "score": 0.8} in answer


@pytest.mark.parametrize(
    ("body", "status", "kind", "said"),
    [
        ({}, 422, "Validation", "inputs: field required"),
        ({"inputs": 5}, 422, "Validation", "inputs: input should be a valid string"),
        ({"inputs": []}, 422, "Validation", "inputs: "),
        ({"inputs": ["un", CANARY]}, 422, "Validation", "inputs: a pair is for models that compare two texts"),
        ({"inputs": [["un"], ["un", CANARY]]}, 422, "Validation", "inputs[1]: a pair is for models that compare"),
        ({"inputs": ["un", "deux", CANARY]}, 422, "Validation", "inputs: a text is needed; write a batch as"),
        ({"inputs": [["un"], {CANARY: 1}]}, 422, "Validation", "inputs[1]: a text is needed"),
        ({"inputs": [[]]}, 422, "Validation", "inputs[0]: a text is needed"),
        ({"inputs": CANARY, "raw_scores": True}, 422, "Validation", "raw_scores: only calibrated probabilities"),
        ({"inputs": CANARY, "truncate": CANARY}, 422, "Validation", "truncate: input should be a valid boolean"),
        ({"inputs": CANARY, "truncation_direction": CANARY}, 422, "Validation", "truncation_direction: input should"),
        ({"inputs": ""}, 400, "Empty", "inputs: holds no text"),
        ({"inputs": [["un"], [" "]]}, 400, "Empty", "inputs[1]: holds no text"),
        ({"inputs": [["e" * 20_001]]}, 413, "Validation", "inputs[0]: 20001 characters; at most 20000 are allowed"),
        ({"inputs": [["un"]] * 65}, 413, "Validation", "inputs: batch size 65 > maximum allowed batch size 64"),
        (CANARY, 422, "Validation", "the body: "),
    ],
)
def test_what_is_wrong_is_told_and_never_echoed(
    client: TestClient, caplog: pytest.LogCaptureFixture, body: Any, status: int, kind: str, said: str
) -> None:
    with caplog.at_level(logging.DEBUG):
        response = client.post(PREDICT, json=body)
    assert (response.status_code, response.json()["error_type"]) == (status, kind)
    assert response.json().keys() == {"error", "error_type"} and response.json()["error"].startswith(said)
    assert CANARY not in response.text and CANARY not in caplog.text


def test_refusals_before_the_route_are_worded_alike(classifier: Classifier) -> None:
    body = {"inputs": CANARY}
    keyed, header = local(service(classifier, keys=f"{KEYS}:1")), {"Authorization": f"Bearer {KEY}"}
    answers = [
        keyed.post(PREDICT, json=body, headers={"Authorization": f"Bearer {CANARY}"}),
        keyed.post(PREDICT, json=body, headers=header),
        keyed.post(PREDICT, json=body, headers=header),
        TestClient(service(classifier), client=("192.0.2.1", 1)).post(PREDICT, json=body),
        local(service(classifier, body_bytes=10)).post(PREDICT, json=body),
        local(service(classifier, held_bytes=1)).post(PREDICT, json=body),
    ]
    told = [(answer.status_code, answer.json()["error_type"]) for answer in answers if answer.status_code != 200]
    assert told == [
        (401, "Validation"),
        (429, "Overloaded"),
        (403, "Validation"),
        (413, "Validation"),
        (429, "Overloaded"),
    ]
    assert int(answers[5].headers["retry-after"]) > 0
    assert not any(CANARY in answer.text for answer in answers)


def test_a_failure_while_scoring_says_nothing_of_the_text(
    classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(texts: Sequence[str]) -> Any:
        raise RuntimeError(f"broke on {texts[0]}")

    with caplog.at_level(logging.DEBUG):
        response = local(service(classifier, score=fail)).post(PREDICT, json={"inputs": CANARY})
    assert (response.status_code, response.json()["error_type"]) == (424, "Backend")
    assert CANARY not in response.text and CANARY not in caplog.text


def test_the_labels_described_are_those_answered(client: TestClient, classifier: Classifier) -> None:
    info = client.get("/tei/info").json()
    labels = info["model_type"]["classifier"]
    assert {name: int(index) for index, name in labels["id2label"].items()} == labels["label2id"]
    answered = {one["label"] for one in client.post(PREDICT, json={"inputs": "il menace"}).json()}
    assert set(labels["label2id"]) == answered
    assert (info["model_id"], info["max_client_batch_size"]) == (classifier.artifact.name, 64)


def test_what_is_known_of_clients_works_on_a_live_server(classifier: Classifier, library: Any) -> None:
    with wire.live(service(classifier, keys=KEYS)) as host:
        with library.InferenceClient(f"http://{host}/tei", provider="hf-inference", token=KEY) as client:
            assert client.health_check() is True
            assert client.get_endpoint_info()["model_type"]["classifier"]["id2label"]["0"] == "grooming"
        with library.InferenceClient(f"http://{host}/tei", provider="hf-inference", token="x") as stranger:
            assert stranger.health_check() is False
        body = {"inputs": [["il menace"]], "truncate": True}
        headers = {"Authorization": f"Bearer {KEY}"}
        answer = httpx.post(f"http://{host}{PREDICT}", json=body, headers=headers, trust_env=False)
        assert answer.json()[0][1] == {"label": "sexual_extortion", "score": 0.8}
