"""serving.protocols.openai: the wire format of OpenAI's moderation, every field and every error of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from serving import Classifier
from serving.protocols import mistral, openai
from tests.wire import CANARY, KEY, local, serve_alone, service

URL = "/v1/moderations"
STANDARD = {
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm"),
    *("self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic"),
}
EVALUATED = {"harassment", "hate", "sexual/minors"}


@pytest.fixture(scope="module")
def classifier(artifact: Path) -> Classifier:
    """What reaches 0.5 is flagged, whatever the tiny model learnt."""
    known = Classifier.from_dir(artifact).artifact
    thresholds = dict.fromkeys(known.label_ids, 0.5)
    return Classifier(replace(known, thresholds={known.default_operating_point: thresholds}))


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    serve_alone(monkeypatch, openai, mistral)


@pytest.fixture
def client(classifier: Classifier) -> TestClient:
    return local(service(classifier))


def by_name(labels: Sequence[str]) -> Callable[[Sequence[str]], Any]:
    """Scores of 0.9 for the labels that a text names, 0 for the others."""
    return lambda texts: np.array([[0.9 * (label in text.split()) for label in labels] for text in texts])


def results(client: TestClient, given: Any) -> list[dict[str, Any]]:
    response = client.post(URL, json={"input": given, "model": "omni-moderation-latest"})
    assert response.status_code == 200, response.text
    answer: list[dict[str, Any]] = response.json()["results"]
    return answer


def error_of(response: Any) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


def test_an_answer_has_the_protocols_shape(client: TestClient, classifier: Classifier) -> None:
    """Scores by hand: see `fake_scores`."""
    answer = client.post(URL, json={"input": "il menace"}).json()
    assert answer.keys() == {"id", "model", "results"} and answer["id"].startswith("modr-")
    assert answer["model"] == f"{classifier.artifact.name}-{classifier.artifact.version}"
    (result,) = answer["results"]
    keys = STANDARD | set(classifier.artifact.category_ids)
    for of_keys in ("categories", "category_scores", "category_applied_input_types"):
        assert result[of_keys].keys() == keys
    found = {key: score for key, score in result["category_scores"].items() if score}
    assert found == {
        "sexual_extortion": 0.8,
        "cyberbullying": 0.3,
        "racism": 0.05,
        "harassment": 0.8,
        "hate": 0.05,
        "sexual/minors": 0.7,
    }
    flagged = {key for key, flag in result["categories"].items() if flag}
    assert result["flagged"] is True and flagged == {"sexual_extortion", "harassment", "sexual/minors"}


def test_what_is_not_evaluated_says_so(client: TestClient) -> None:
    (result,) = results(client, "il menace")
    types = result["category_applied_input_types"]
    assert {key for key in STANDARD if types[key] == []} == STANDARD - EVALUATED
    assert all(types[key] == ["text"] for key in types.keys() - STANDARD | EVALUATED)
    assert not any(result["categories"][key] or result["category_scores"][key] for key in STANDARD - EVALUATED)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("grooming", {"sexual/minors"}),
        ("image_solicitation", set()),
        ("image_solicitation minor_involved", {"sexual/minors"}),
        ("image_abuse minor_involved", {"sexual/minors"}),
        ("sexual_extortion minor_involved", {"sexual/minors", "harassment"}),
        ("sexual_violence minor_involved", {"sexual/minors", "harassment"}),
        ("sexual_violence", {"harassment"}),
        ("cyberbullying minor_involved", {"harassment"}),
        ("minor_involved", set()),
        ("coercive_control", set()),
        ("sexism", {"hate"}),
        ("racism", {"hate"}),
        ("homophobia", {"hate"}),
    ],
)
def test_a_standard_key_follows_from_the_labels_that_give_it(
    classifier: Classifier, named: str, expected: set[str]
) -> None:
    score = by_name(classifier.artifact.label_ids)
    (result,) = results(local(service(classifier, score=score)), f"{named} direct")
    assert {key for key in STANDARD if result["categories"][key]} == expected
    assert {key for key in STANDARD if result["category_scores"][key] == 0.9} == expected


def test_a_minors_being_concerned_is_no_harm_by_itself(classifier: Classifier) -> None:
    """There are clients that act on the highest of all scores."""
    (result,) = results(local(service(classifier, score=by_name(classifier.artifact.label_ids))), "minor_involved")
    assert max(result["category_scores"].values()) == 0 and result["flagged"] is False
    assert result["vigie"]["minor_involved"] == {"score": 0.9, "flagged": True}


def test_an_artifact_without_the_labels_does_not_evaluate_the_key(classifier: Classifier) -> None:
    known, categories = classifier.artifact, ("sexism", "grooming")
    thresholds = dict.fromkeys((*categories, *known.context_ids, *known.voice_ids), 0.5)
    few = Classifier(replace(known, category_ids=categories, thresholds={known.default_operating_point: thresholds}))
    score = by_name(few.artifact.label_ids)
    (result,) = results(local(service(few, score=score)), "sexism grooming direct")
    assert result["flagged"] and result["categories"]["sexism"]
    assert not any(result["category_applied_input_types"][key] for key in STANDARD)


def test_who_tells_is_not_struck(client: TestClient) -> None:
    """Of 0.8 a quarter is left, the share of the direct voice (0.1 of 0.4); `vigie` has all of it."""
    (told,) = results(client, "elle raconte qu'il menace")
    assert told["flagged"] is False and not any(told["categories"].values())
    assert told["category_scores"]["sexual_extortion"] == pytest.approx(0.2)
    assert told["category_scores"]["sexual/minors"] == pytest.approx(0.2)
    assert told["vigie"]["categories"]["sexual_extortion"] == {"score": 0.8, "flagged": True}
    assert told["vigie"]["route"] == "support" and told["vigie"]["voice"]["scores"]["testimony"] == 0.3


def test_an_operator_may_have_it_struck(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIE_PROTECT_TESTIMONY", "0")
    (told,) = results(local(service(classifier)), "elle raconte qu'il menace")
    assert told["flagged"] is True and told["category_scores"]["harassment"] == 0.8


def test_vigie_is_the_answer_of_predict(classifier: Classifier) -> None:
    client, text = local(service(classifier, score=classifier.scores)), "il menace de publier"
    expected = client.post("/predict", json={"texts": [text]}).json()["predictions"]
    assert [result["vigie"] for result in results(client, text)] == expected


def test_each_string_has_its_result(client: TestClient) -> None:
    scores = [one["category_scores"]["sexual_extortion"] for one in results(client, ["bonjour", "il menace", "oui"])]
    assert scores == [0.1, 0.8, 0.1]


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


IMAGE = {"type": "image_url", "image_url": {"url": f"https://{CANARY}.example/a.png"}}


def test_parts_are_one_message(classifier: Classifier) -> None:
    seen: list[str] = []

    def score(texts: Sequence[str]) -> Any:
        seen.extend(texts)
        return by_name(classifier.artifact.label_ids)(texts)

    (result,) = results(local(service(classifier, score=score)), [text_part("racism"), IMAGE, text_part("direct")])
    assert seen == ["racism\ndirect"] and result["categories"]["hate"] is True
    assert {*map(tuple, result["category_applied_input_types"].values())} == {(), ("text",)}


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ("", "input"),
        (" \n\t", "input"),
        (["bonjour", ""], "input[1]"),
        ([], "input"),
        ([IMAGE], "input"),
        ([text_part(""), IMAGE], "input"),
        (None, "input"),
        (5, "input"),
        ({CANARY: CANARY}, "input"),
        ([CANARY, 5], "input[1]"),
        ([5], "input"),
        ([CANARY, text_part(CANARY)], "input[1]"),
        ([text_part(CANARY), CANARY], "input[1]"),
        ([{"type": CANARY, CANARY: CANARY}], "input[0].type"),
        ([{"type": "text", CANARY: CANARY}], "input[0]"),
        ([text_part(CANARY), {"type": "text", "text": [CANARY]}], "input[1].text"),
        ([CANARY] * 65, "input"),
        (f"{CANARY} " * 2000, "input"),
        ([CANARY, f"{CANARY} " * 2000], "input[1]"),
        ([text_part(f"{CANARY} " * 500)] * 2, "input"),
        ([text_part(CANARY)] * 2731, None),
    ],
)
def test_what_is_wrong_is_told_and_never_echoed(
    client: TestClient, caplog: pytest.LogCaptureFixture, given: Any, param: str | None
) -> None:
    with caplog.at_level(logging.DEBUG):
        response = client.post(URL, json={"input": given, "model": CANARY})
    error = error_of(response)
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert CANARY not in response.text and CANARY not in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "input: holds no text, and only text is judged here"),
        (["a"] * 65, "input: 65 texts; at most 64 are allowed"),
        (["a", "e" * 20_001], "input[1]: 20001 characters; at most 20000 are allowed"),
        (5, "input: input should be a string, a list of strings or a list of parts, and not empty"),
        ([{"type": "video"}], "input[0].type: input should be 'text' or 'image_url'"),
    ],
)
def test_the_message_says_what_is_allowed(client: TestClient, given: Any, message: str) -> None:
    assert error_of(client.post(URL, json={"input": given}))["message"] == message


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 40_000, b"\xff\xfe", b"[]", b"5", b'"x"', b'{"input": ["a", nul'])
def test_a_body_that_is_no_message_is_refused(client: TestClient, body: bytes) -> None:
    response = client.post(URL, content=body)
    assert response.status_code == 400 and error_of(response)["type"] == "invalid_request_error"


def test_half_a_surrogate_pair_is_answered(client: TestClient) -> None:
    """JSON can carry what no encoding can."""
    assert client.post(URL, content=b'{"input": "\\ud83d il menace"}').json()["results"][0]["flagged"] is True


@pytest.mark.parametrize("model", ["text-moderation-stable", "openai/omni-moderation-latest", CANARY, "", None])
def test_any_model_is_taken_and_none_repeated(client: TestClient, classifier: Classifier, model: str | None) -> None:
    answer = client.post(URL, json={"input": "bonjour", "model": model, "user": CANARY})
    assert answer.status_code == 200 and CANARY not in answer.text
    assert answer.json()["model"].startswith(classifier.artifact.name)


def test_a_bad_key_and_a_spent_rate_are_worded_as_openai_does(classifier: Classifier) -> None:
    client = local(service(classifier, keys=f"client:{sha256(KEY.encode()).hexdigest()}:1"))
    asked = {"json": {"input": CANARY}}
    bad = client.post(URL, headers={"Authorization": f"Bearer {CANARY}"}, **asked)
    assert (bad.status_code, error_of(bad)["code"]) == (401, "invalid_api_key") and CANARY not in bad.text
    good = {"Authorization": f"Bearer {KEY}"}
    assert client.post(URL, headers=good, **asked).status_code == 200
    late = client.post(URL, headers=good, **asked)
    assert (late.status_code, error_of(late)["code"]) == (429, "rate_limit_exceeded")
    assert int(late.headers["retry-after"]) > 0


def test_strangers_too_large_bodies_and_full_queues_are_worded_alike(classifier: Classifier) -> None:
    asked = {"input": "bonjour" * 20}
    stranger = TestClient(service(classifier), client=("192.0.2.1", 1)).post(URL, json=asked)
    assert (stranger.status_code, error_of(stranger)["code"]) == (403, "forbidden")
    large = local(service(classifier, body_bytes=100)).post(URL, json=asked)
    assert (large.status_code, error_of(large)["code"]) == (413, "request_too_large")
    crowded = local(service(classifier, held_bytes=1)).post(URL, json=asked)
    assert (crowded.status_code, error_of(crowded)["type"]) == (503, "server_error")
    assert int(crowded.headers["retry-after"]) > 0


def test_a_failure_while_scoring_says_nothing_of_the_text(
    classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(texts: Sequence[str]) -> Any:
        raise RuntimeError(f"broke on {texts[0]}")

    with caplog.at_level(logging.DEBUG):
        response = local(service(classifier, score=fail)).post(URL, json={"input": CANARY})
    assert (response.status_code, error_of(response)["type"]) == (500, "server_error")
    assert CANARY not in response.text and CANARY not in caplog.text


def test_a_body_full_of_objects_is_refused_before_any_is_checked(client: TestClient) -> None:
    response = client.post(URL, content=b'{"input": [' + b'{"type":"text","text":"a"},' * 10_000 + b'""]}')
    assert error_of(response)["message"].endswith("a request holds at most 8192 values in its lists and objects")
