"""serving.protocols.open_inference: every path, tensors in JSON and as bytes, every error."""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from serving import Classifier
from serving.protocols import open_inference
from serving.protocols.open_inference import HEADER
from tests.test_azure import classifier
from tests.wire import CANARY, KEY, local, serve_alone, service

__all__ = ["classifier"]
MODEL = "/v2/models/vigie-tiny"
INFER = f"{MODEL}/infer"
KEYS = f"client:{sha256(KEY.encode()).hexdigest()}"
TOLD = "elle raconte qu'il menace"


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    serve_alone(monkeypatch, open_inference)


@pytest.fixture
def client(classifier: Classifier) -> TestClient:
    return local(service(classifier))


def tensor(*texts: Any, **more: Any) -> dict[str, Any]:
    return {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts), **more}


def asked(*texts: Any, **more: Any) -> dict[str, Any]:
    return {"inputs": [tensor(*(texts or ("il menace",)))], **more}


def infer(client: TestClient, *texts: str, **more: Any) -> dict[str, Any]:
    """Output → its values in its shape."""
    answer = client.post(INFER, json=asked(*texts, **more)).json()
    return {one["name"]: np.array(one["data"]).reshape(one["shape"]).tolist() for one in answer["outputs"]}


def packed(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def binary(client: TestClient, behind: bytes, *, length: int | str | None = None, **more: Any) -> Any:
    """A request with bytes behind its JSON, no Content-Type."""
    fields = {"shape": [1], "parameters": {"binary_data_size": len(behind)}, **more}
    head = json.dumps({"inputs": [{"name": "text", "datatype": "BYTES", **fields}]}).encode()
    headers = {HEADER: str(len(head) if length is None else length)}
    return client.post(INFER, content=head + behind, headers=headers)


def test_health_and_the_server_are_described(client: TestClient) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2").json() == {"name": "vigie", "version": "1", "extensions": ["binary_tensor_data"]}


def test_health_needs_a_key_like_any_other_route(classifier: Classifier) -> None:
    client = local(service(classifier, keys=KEYS))
    refused = client.get("/v2/health/ready")
    assert refused.status_code == 401 and isinstance(refused.json()["error"], str)
    assert client.get("/v2/health/ready", headers={"Authorization": f"Bearer {KEY}"}).json() == {"ready": True}


def test_the_metadata_name_every_column(client: TestClient, classifier: Classifier) -> None:
    artifact = classifier.artifact
    found = client.get(MODEL).json()
    assert (found["name"], found["versions"]) == (artifact.name, [artifact.version])
    assert found["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    scores, raw, flagged, voice, route = found["outputs"]
    assert scores["parameters"]["labels"] == raw["parameters"]["labels"] == list(artifact.label_ids)
    assert flagged["parameters"]["labels"] == list(artifact.category_ids)
    assert (scores["shape"], flagged["shape"], voice["shape"], route["shape"]) == ([-1, 14], [-1, 10], [-1], [-1])


@pytest.mark.parametrize("rest", ["", "/ready"])
def test_the_version_may_be_named(client: TestClient, classifier: Classifier, rest: str) -> None:
    versioned = client.get(f"{MODEL}/versions/{classifier.artifact.version}{rest}")
    assert versioned.status_code == 200 and versioned.json() == client.get(f"{MODEL}{rest}").json()


def test_a_model_that_is_served_is_ready(client: TestClient, classifier: Classifier) -> None:
    assert client.get(f"{MODEL}/ready").json() == {"name": "vigie-tiny", "ready": True}
    versioned = f"{MODEL}/versions/{classifier.artifact.version}/infer"
    assert client.post(versioned, json=asked()).status_code == 200


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (f"/v2/models/{CANARY}", "no such model; the one served is vigie-tiny"),
        (f"/v2/models/{CANARY}/ready", "no such model; the one served is vigie-tiny"),
        (f"{MODEL}/versions/{CANARY}/ready", "no such version of vigie-tiny; the one served is "),
        (f"{MODEL}/config", "no such path; "),
        (f"/v2/{CANARY}", "no such path; "),
    ],
)
def test_what_is_not_served_is_not_found(client: TestClient, path: str, said: str) -> None:
    response = client.get(path)
    assert response.status_code == 404 and response.json()["error"].startswith(said)
    assert CANARY not in response.text


def test_another_model_scores_nothing(client: TestClient) -> None:
    assert client.post(f"/v2/models/{CANARY}/infer", json=asked()).status_code == 404


def test_an_answer_has_the_protocols_shape(client: TestClient, classifier: Classifier) -> None:
    body = asked(id="le client l'a choisi \ud83d", outputs=[{"name": "route"}])
    response = client.post(INFER, content=json.dumps(body))
    assert HEADER not in response.headers
    assert response.json() == {
        "model_name": "vigie-tiny",
        "model_version": classifier.artifact.version,
        "id": "le client l'a choisi \ud83d",
        "outputs": [{"name": "route", "datatype": "BYTES", "shape": [1], "data": ["moderate"]}],
    }
    assert "id" not in client.post(INFER, json=asked()).json()


def test_all_outputs_are_given_unless_some_are_asked_for(client: TestClient) -> None:
    assert list(infer(client, "il menace")) == ["scores", "raw_scores", "flagged", "voice", "route"]
    some = infer(client, "il menace", outputs=[{"name": "voice"}, {"name": "scores"}])
    assert list(some) == ["voice", "scores"]


def test_the_scores_are_the_classifiers(classifier: Classifier) -> None:
    texts = ["il menace de publier les images", "Bonjour."]
    found = infer(local(service(classifier, score=classifier.scores)), *texts)
    assert np.abs(np.array(found["raw_scores"]) - classifier.scores(texts)).max() < 1e-5


def test_testimony_is_lowered_and_its_raw_scores_stand_beside(client: TestClient, classifier: Classifier) -> None:
    """A quarter of what the voices say is direct: 0.8 becomes 0.2. Voices are never lowered."""
    found = infer(client, "il menace", TOLD)
    column = {label: index for index, label in enumerate(classifier.artifact.label_ids)}
    assert [row[column["sexual_extortion"]] for row in found["scores"]] == [0.8, 0.2]
    assert [row[column["sexual_extortion"]] for row in found["raw_scores"]] == [0.8, 0.8]
    for output in ("scores", "raw_scores"):
        assert [row[column["testimony"]] for row in found[output]] == [0.05, 0.3]
        assert [row[column["minor_involved"]] for row in found[output]] == [0.7, 0.7]
    assert any(found["flagged"][0]) and not any(found["flagged"][1])
    assert (found["voice"], found["route"]) == (["direct", "testimony"], ["moderate", "support"])


def test_an_operator_may_have_testimony_scored_as_anything_else(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIGIE_PROTECT_TESTIMONY", "0")
    found = infer(local(service(classifier)), TOLD)
    assert found["scores"] == found["raw_scores"] and any(found["flagged"][0])


def test_a_column_of_texts_may_be_nested_or_not(client: TestClient) -> None:
    flat = client.post(INFER, json={"inputs": [tensor("un", "il menace", shape=[2, 1])]}).json()
    assert client.post(INFER, json={"inputs": [tensor(["un"], ["il menace"], shape=[2, 1])]}).json() == flat


def test_bytes_are_read_and_given_back(client: TestClient) -> None:
    """Bytes in, JSON out; and the same as bytes, each output as it was asked for."""
    text = "il menace d'un 😀".encode()
    plain = binary(client, packed(text, b"un"), shape=[2]).json()
    assert plain == client.post(INFER, json=asked(text.decode(), "un")).json()
    wanted = [{"name": "scores"}, {"name": "flagged"}, {"name": "route", "parameters": {"binary_data": False}}]
    body = asked(text.decode(), "un", outputs=wanted, parameters={"binary_data_output": True})
    response = client.post(INFER, json=body)
    length = int(response.headers[HEADER])
    head, behind = json.loads(response.content[:length]), response.content[length:]
    sizes = [one.get("parameters", {}).get("binary_data_size") for one in head["outputs"]]
    assert sizes == [2 * 14 * 4, 2 * 10, None] and len(behind) == 132
    given = {one["name"]: one["data"] for one in plain["outputs"]}
    assert np.frombuffer(behind[:112], "<f4").tolist() == pytest.approx(given["scores"])
    assert [bool(byte) for byte in behind[112:]] == given["flagged"]
    assert head["outputs"][2]["data"] == given["route"]


def test_strings_are_given_as_bytes_with_their_lengths(client: TestClient) -> None:
    response = client.post(INFER, json=asked(outputs=[{"name": "route", "parameters": {"binary_data": True}}]))
    assert response.content[int(response.headers[HEADER]) :] == packed(b"moderate")


def told_and_silent(response: Any, caplog: pytest.LogCaptureFixture, said: str) -> None:
    assert response.status_code == 400 and response.json().keys() == {"error"}
    assert response.json()["error"].startswith(said), response.text
    assert CANARY not in response.text and CANARY not in caplog.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "inputs: field required"),
        ({"inputs": []}, "inputs: list should have at least 1 item"),
        ({"inputs": [tensor("un"), tensor(CANARY)]}, "inputs: list should have at most 1 item"),
        ({"inputs": [CANARY]}, "inputs[0]: input should be a valid"),
        ({"inputs": [tensor("un", name=CANARY)]}, "inputs[0].name: no such input; allowed: text"),
        ({"inputs": [tensor("un", datatype=CANARY)]}, "inputs[0].datatype: only BYTES is allowed"),
        ({"inputs": [tensor("un", shape=[2])]}, "inputs[0].data: holds 1 elements, and the shape says 2"),
        ({"inputs": [tensor("un", shape=[1, 2])]}, "inputs[0].shape: [n] or [n, 1] is needed, with n from 1 to 64"),
        ({"inputs": [tensor("un", shape=[0])]}, "inputs[0].shape: [n] or [n, 1] is needed"),
        ({"inputs": [tensor("un", shape=[1, 1, 1])]}, "inputs[0].shape: list should have at most 2 items"),
        ({"inputs": [tensor("un", shape=[CANARY])]}, "inputs[0].shape[0]: input should be a valid integer"),
        ({"inputs": [tensor(*["un"] * 65)]}, "inputs[0].shape: [n] or [n, 1] is needed, with n from 1 to 64"),
        ({"inputs": [tensor("un", data=CANARY)]}, "inputs[0].data: input should be a valid list"),
        ({"inputs": [tensor("un", data=None)]}, "inputs[0].data: holds 0 elements"),
        ({"inputs": [tensor("un", parameters={"binary_data_size": 3})]}, "inputs[0].parameters.binary_data_size: is 3"),
        (asked("un", 5), "inputs[0].data[1]: a string is needed"),
        (asked(["un", CANARY]), "inputs[0].data[0]: a string is needed"),
        (asked(CANARY, " "), "inputs[0].data[1]: holds no text"),
        (asked(CANARY, "e" * 20_001), "inputs[0].data[1]: 20001 characters; at most 20000 are allowed"),
        (asked(CANARY, id="x" * 257), "id: 257 characters; at most 256 are allowed"),
        (asked(id=[CANARY]), "id: input should be a valid string"),
        (
            asked(outputs=[{"name": "scores"}, {"name": CANARY}]),
            "outputs[1].name: no such output; allowed: scores, raw",
        ),
        (asked(outputs=[{"name": "scores"}] * 6), "outputs: list should have at most 5 items"),
        (asked(outputs=[{"name": "scores", "parameters": {"classification": 3}}]), "outputs[0].parameters: neither"),
        (
            asked(outputs=[{"name": "scores", "parameters": {"binary_data": CANARY}}]),
            "outputs[0].parameters.binary_data",
        ),
        (
            asked(parameters={"binary_data_output": CANARY}),
            "parameters.binary_data_output: input should be a valid bool",
        ),
        ([CANARY], "the body: input should be a valid"),
    ],
)
def test_what_is_wrong_is_told_and_never_echoed(
    client: TestClient, caplog: pytest.LogCaptureFixture, body: Any, said: str
) -> None:
    with caplog.at_level(logging.DEBUG):
        response = client.post(INFER, json=body)
    told_and_silent(response, caplog, said)


WORD = CANARY.encode()


@pytest.mark.parametrize(
    ("behind", "more", "said"),
    [
        (packed(WORD), {"length": 5}, "the body is not valid JSON"),
        (packed(WORD), {"length": 99_999}, f"{HEADER}: a number up to the body's "),
        (packed(WORD), {"length": "-5"}, f"{HEADER}: a number up to the body's "),
        (packed(WORD), {"length": CANARY}, f"{HEADER}: a number up to the body's "),
        (packed(WORD), {"parameters": {}}, "inputs[0].parameters.binary_data_size: is needed for bytes"),
        (packed(WORD), {"parameters": {"binary_data_size": 3}}, "inputs[0].parameters.binary_data_size: is 3, and 23"),
        (packed(WORD), {"shape": [2]}, "inputs[0].data: holds 1 elements, and the shape says 2"),
        (packed(WORD) * 9, {}, "inputs[0].data: holds 2 elements, and the shape says 1"),
        (packed(WORD)[:-1], {}, "inputs[0].data[0]: the bytes end before it does"),
        (packed(b"un") + b"\1\0", {"shape": [2]}, "inputs[0].data[1]: the bytes end before it does"),
        (b"\xff\xff\xff\xff" + WORD, {}, "inputs[0].data[0]: the bytes end before it does"),
        (packed(WORD + b"\xff"), {}, "inputs[0].data[0]: is not UTF-8"),
        (packed(b""), {}, "inputs[0].data[0]: holds no text"),
        (b"", {}, "inputs[0].data: holds 0 elements, and the shape says 1"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(
    client: TestClient, caplog: pytest.LogCaptureFixture, behind: bytes, more: dict[str, Any], said: str
) -> None:
    with caplog.at_level(logging.DEBUG):
        response = binary(client, behind, **more)
    told_and_silent(response, caplog, said)


def test_a_compressed_body_is_refused_by_name(client: TestClient) -> None:
    response = client.post(INFER, content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert response.status_code == 400 and response.json()["error"].startswith("Content-Encoding: ")


def test_an_id_is_not_logged(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert client.post(INFER, json=asked(id=CANARY)).json()["id"] == CANARY
    assert CANARY not in caplog.text


def test_refusals_before_the_route_are_worded_alike(classifier: Classifier) -> None:
    body = asked(CANARY)
    keyed, header = local(service(classifier, keys=f"{KEYS}:1")), {"Authorization": f"Bearer {KEY}"}
    answers = [
        keyed.post(INFER, json=body, headers={"Authorization": f"Bearer {CANARY}"}),
        keyed.post(INFER, json=body, headers=header),
        keyed.post(INFER, json=body, headers=header),
        TestClient(service(classifier), client=("192.0.2.1", 1)).post(INFER, json=body),
        local(service(classifier, body_bytes=10)).post(INFER, json=body),
        local(service(classifier, held_bytes=1)).post(INFER, json=body),
    ]
    assert [answer.status_code for answer in answers] == [401, 200, 429, 403, 413, 503]
    assert all(isinstance(answer.json()["error"], str) for answer in answers if answer.status_code != 200)
    assert int(answers[5].headers["retry-after"]) > 0
    assert not any(CANARY in answer.text for answer in answers)


def test_a_failure_while_scoring_says_nothing_of_the_text(
    classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(texts: Sequence[str]) -> Any:
        raise RuntimeError(f"broke on {texts[0]}")

    with caplog.at_level(logging.DEBUG):
        response = local(service(classifier, score=fail)).post(INFER, json=asked(CANARY))
    assert response.status_code == 500 and response.json().keys() == {"error"}
    assert CANARY not in response.text and CANARY not in caplog.text
