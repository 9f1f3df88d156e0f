"""serving.protocols.huggingface: the task's shape, every error, and Hugging Face's own clients on a live server."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving import Classifier
from serving.protocols import huggingface
from serving.protocols.huggingface import PATH
from tests import node, wire
from tests.wire import CANARY, KEY, local, serve_alone, service

KEYS = f"client:{sha256(KEY.encode()).hexdigest()}"
TOLD = "elle raconte qu'il menace"


@pytest.fixture(scope="module")
def classifier(artifact: Path) -> Classifier:
    return Classifier.from_dir(artifact)


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    serve_alone(monkeypatch, huggingface)


@pytest.fixture
def client(classifier: Classifier) -> TestClient:
    return local(service(classifier))


def asked(inputs: Any = "il menace", **parameters: Any) -> dict[str, Any]:
    return {"inputs": inputs, "parameters": parameters}


def test_an_answer_is_a_list_for_each_text_in_a_list(client: TestClient) -> None:
    (one,) = client.post(PATH, json={"inputs": "il menace"}).json()
    assert one[:3] == [
        {"label": "direct", "score": 0.9},
        {"label": "sexual_extortion", "score": 0.8},
        {"label": "minor_involved", "score": 0.7},
    ]
    two = client.post(PATH, json={"inputs": ["Bonjour.", "il menace"]}).json()
    assert len(two) == 2 and two[1] == one and two[0] != one


def test_every_label_is_named_once_and_raw_scores_come_last(client: TestClient, classifier: Classifier) -> None:
    (answer,) = client.post(PATH, json={"inputs": "il menace"}).json()
    names = [one["label"] for one in answer]
    assert sorted(names) == sorted(huggingface.label_names(classifier.artifact))
    first_raw = next(index for index, name in enumerate(names) if name.endswith("_raw"))
    assert all(name.endswith("_raw") for name in names[first_raw:])
    for part in (answer[:first_raw], answer[first_raw:]):
        scores = [one["score"] for one in part]
        assert scores == sorted(scores, reverse=True)


def scores(client: TestClient, text: str) -> dict[str, float]:
    return {one["label"]: one["score"] for one in client.post(PATH, json={"inputs": text}).json()[0]}


def test_testimony_is_lowered_and_its_raw_score_stands_beside(client: TestClient) -> None:
    """A quarter of what the voices say is direct: 0.8 becomes 0.2."""
    told = scores(client, TOLD)
    assert (told["sexual_extortion"], told["sexual_extortion_raw"]) == (0.2, 0.8)
    assert (told["testimony"], told["direct"], told["minor_involved"]) == (0.3, 0.1, 0.7)
    done = scores(client, "il menace")
    assert done["sexual_extortion"] == done["sexual_extortion_raw"] == 0.8


def test_an_operator_may_have_testimony_scored_as_anything_else(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIGIE_PROTECT_TESTIMONY", "0")
    assert scores(local(service(classifier)), TOLD)["sexual_extortion"] == 0.8


def test_top_k_cuts_each_list(client: TestClient) -> None:
    more = {"function_to_apply": "sigmoid", "top_k": 2}
    answer = client.post(PATH, json=asked(["il menace", "Bonjour."], **more)).json()
    assert [[one["label"] for one in each] for each in answer] == [
        ["direct", "sexual_extortion"],
        ["direct", "minor_involved"],
    ]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"parameters": None},
        {"parameters": {"top_k": None, "function_to_apply": None}},
        {"options": {"wait_for_model": True, "use_cache": False}, "parameters": {"return_all_scores": True}},
        {"parameters": {"top_k": 1000}},
    ],
)
def test_what_changes_no_score_is_accepted(client: TestClient, more: dict[str, Any]) -> None:
    (answer,) = client.post(PATH, json={"inputs": "il menace", **more}).json()
    assert len(answer) == 24


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "inputs: field required"),
        (asked(""), "inputs[0]: holds no text"),
        (asked(["a", " \n"]), "inputs[1]: holds no text"),
        (asked([]), "inputs: list should have at least 1 item"),
        (asked(["a", 5]), "inputs[1]: input should be a valid string"),
        (asked(["a", {"text": CANARY, "text_pair": CANARY}]), "inputs[1]: input should be a valid string"),
        (asked({CANARY: CANARY}), "inputs: input should be a valid list"),
        (asked(["a"] * 65), "inputs: 65 texts; at most 64 are allowed"),
        (asked([CANARY, "e" * 20_001]), "inputs[1]: 20001 characters; at most 20000 are allowed"),
        (
            asked(CANARY, function_to_apply="softmax"),
            "parameters.function_to_apply: only sigmoid is offered; labels are",
        ),
        (asked(CANARY, function_to_apply="none"), "parameters.function_to_apply: only sigmoid is offered; raw outputs"),
        (asked(CANARY, function_to_apply=CANARY), "parameters.function_to_apply: input should be 'sigmoid', "),
        (asked(CANARY, top_k=0), "parameters.top_k: input should be greater than or equal to 1"),
        (asked(CANARY, top_k="2"), "parameters.top_k: input should be a valid integer"),
        ({"inputs": CANARY, "parameters": [CANARY]}, "parameters: input should be a valid"),
        ([CANARY], "the body: input should be a valid"),
    ],
)
def test_what_is_wrong_is_told_and_never_echoed(
    client: TestClient, caplog: pytest.LogCaptureFixture, body: Any, said: str
) -> None:
    with caplog.at_level(logging.DEBUG):
        response = client.post(PATH, json=body)
    assert response.status_code == 400 and response.json().keys() == {"error"}
    assert response.json()["error"].startswith(said)
    assert CANARY not in response.text and CANARY not in caplog.text


def test_a_body_that_is_no_json_is_refused(client: TestClient) -> None:
    response = client.post(PATH, content=f"inputs={CANARY}")
    assert (response.status_code, response.json()) == (400, {"error": "the body is not valid JSON"})


def test_half_a_surrogate_pair_is_answered(client: TestClient) -> None:
    assert client.post(PATH, content=b'{"inputs": "\\ud83d menace"}').status_code == 200


def test_refusals_before_the_route_are_worded_alike(classifier: Classifier) -> None:
    """A full queue is 429 and not 503, at which the client in JavaScript would ask again without a pause."""
    body = asked(CANARY)
    keyed, header = local(service(classifier, keys=f"{KEYS}:1")), {"Authorization": f"Bearer {KEY}"}
    answers = [
        keyed.post(PATH, json=body, headers={"Authorization": f"Bearer {CANARY}"}),
        keyed.post(PATH, json=body, headers=header),
        keyed.post(PATH, json=body, headers=header),
        TestClient(service(classifier), client=("192.0.2.1", 1)).post(PATH, json=body),
        local(service(classifier, body_bytes=10)).post(PATH, json=body),
        local(service(classifier, held_bytes=1)).post(PATH, json=body),
    ]
    assert [answer.status_code for answer in answers] == [401, 200, 429, 403, 413, 429]
    assert all(isinstance(answer.json()["error"], str) for answer in answers if answer.status_code != 200)
    assert int(answers[5].headers["retry-after"]) > 0
    assert not any(CANARY in answer.text for answer in answers)


def test_a_failure_while_scoring_says_nothing_of_the_text(
    classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(texts: Sequence[str]) -> Any:
        raise RuntimeError(f"broke on {texts[0]}")

    with caplog.at_level(logging.DEBUG):
        response = local(service(classifier, score=fail)).post(PATH, json=asked(CANARY))
    assert response.status_code == 500 and response.json().keys() == {"error"}
    assert CANARY not in response.text and CANARY not in caplog.text


@pytest.fixture
def address(classifier: Classifier) -> Iterator[str]:
    with wire.live(service(classifier, keys=KEYS)) as host:
        yield f"http://{host}{PATH}"


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """huggingface_hub, which in its offline mode would not even ask this machine."""
    with warnings.catch_warnings():
        # What the library warns of while it is loaded is its own matter.
        warnings.simplefilter("ignore")
        library = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return library


def test_the_client_in_python_works_unmodified(address: str, library: Any) -> None:
    from huggingface_hub.errors import BadRequestError, HfHubHTTPError

    with library.InferenceClient(address, token=KEY) as client:
        answer = client.text_classification("il menace", top_k=2, function_to_apply="sigmoid")
        assert [(one.label, one.score) for one in answer] == [("direct", 0.9), ("sexual_extortion", 0.8)]
        assert len(client.text_classification("il menace")) == 24
        with pytest.raises(BadRequestError, match="only sigmoid is offered"):
            client.text_classification("il menace", function_to_apply="softmax")
        with pytest.raises(BadRequestError, match="holds no text"):
            client.text_classification(" ")
    with library.InferenceClient(address, token="x") as stranger, pytest.raises(HfHubHTTPError) as refused:
        stranger.text_classification("il menace")
    assert refused.value.response.status_code == 401


def test_the_client_in_javascript_works_unmodified(address: str) -> None:
    script = """
    const { InferenceClient } = require("@huggingface/inference");
    const client = new InferenceClient(key).endpoint(address);
    const well = await client.textClassification({ inputs: "il menace", parameters: { top_k: 2 } });
    const ill = await client.textClassification({ inputs: "" }).catch((error) => error);
    say([well, ill.message, ill.httpResponse.status]);
    """
    answer, *error = node.run(script, package="@huggingface/inference", address=address, key=KEY)
    assert [(one["label"], one["score"]) for one in answer] == [("direct", 0.9), ("sexual_extortion", 0.8)]
    assert error == ["Failed to perform inference: inputs[0]: holds no text", 400]
