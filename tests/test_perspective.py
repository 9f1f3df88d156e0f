"""serving.protocols.perspective: Google's wire format, every field and every error of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving import Classifier
from serving.protocols import perspective
from serving.protocols.perspective import Settings
from tests.wire import CANARY, KEY, fake_scores, local, serve_alone, service

ANALYZE, SUGGEST, DISCOVERY = "/v1alpha1/comments:analyze", "/v1alpha1/comments:suggestscore", "/$discovery/rest"


@pytest.fixture(scope="module")
def classifier(artifact: Path) -> Classifier:
    return Classifier.from_dir(artifact)


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    serve_alone(monkeypatch, perspective)


@pytest.fixture
def client(classifier: Classifier) -> TestClient:
    return local(service(classifier))


def comment(text: str = "il menace", **more: Any) -> dict[str, Any]:
    return {"comment": {"text": text}, "requestedAttributes": {"TOXICITY": {}}, **more}


def error_of(response: Any) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert error["code"] == response.status_code
    return error


def error_type(response: Any) -> str:
    assert response.status_code == 400 and error_of(response)["status"] == "INVALID_ARGUMENT"
    detail = error_of(response)["details"][0]
    assert detail["@type"] == "type.googleapis.com/google.commentanalyzer.v1alpha1.Error"
    return str(detail["errorType"])


def value(answer: Any, name: str) -> float:
    score = answer["attributeScores"][name]["summaryScore"]
    assert score["type"] == "PROBABILITY"
    return float(score["value"])


def test_an_answer_has_the_protocols_shape(client: TestClient) -> None:
    answer = client.post(ANALYZE, json=comment(clientToken="jeton", languages=["fr"], doNotStore=True)).json()
    score = {"value": 0.8, "type": "PROBABILITY"}
    assert answer == {
        "attributeScores": {
            "TOXICITY": {"spanScores": [{"begin": 0, "end": 9, "score": score}], "summaryScore": score}
        },
        "languages": ["fr"],
        "detectedLanguages": ["und"],
        "clientToken": "jeton",
    }


def test_it_scores_as_the_classifier_does(classifier: Classifier) -> None:
    asked = {"comment": {"text": "il menace de publier"}, "requestedAttributes": {"SEXUAL_EXTORTION_RAW": {}}}
    answer = local(service(classifier, score=classifier.scores)).post(ANALYZE, json=asked).json()
    (expected,) = classifier.predict(["il menace de publier"])
    assert value(answer, "SEXUAL_EXTORTION_RAW") == pytest.approx(
        expected["categories"]["sexual_extortion"]["score"], abs=1e-5
    )


def test_below_its_threshold_an_attribute_is_left_out(client: TestClient) -> None:
    asked = {"TOXICITY": {"scoreThreshold": 0.8}, "RACISM": {"scoreThreshold": 0.06}, "INSULT": {}}
    answer = client.post(ANALYZE, json=comment(requestedAttributes=asked)).json()
    assert set(answer["attributeScores"]) == {"TOXICITY", "INSULT"}


def test_below_the_threshold_a_span_is_left_out(client: TestClient) -> None:
    asked = {"TOXICITY": {"scoreThreshold": 0.5}}
    body = comment("Bonjour. Il menace. Voilà.", requestedAttributes=asked, spanAnnotations=True)
    spans = client.post(ANALYZE, json=body).json()["attributeScores"]["TOXICITY"]["spanScores"]
    assert [(span["begin"], span["end"]) for span in spans] == [(9, 19)]


def test_spans_count_utf16_units(client: TestClient) -> None:
    """What a client in JavaScript or Java cuts out is the sentence; an emoji takes two places there."""
    text = "😀 Ça va ? Il menace… Fin 👍🏽!\n\nBien"
    body = comment(text, spanAnnotations=True)
    spans = client.post(ANALYZE, json=body).json()["attributeScores"]["TOXICITY"]["spanScores"]
    units = text.encode("utf-16-le")
    cut = [units[2 * span["begin"] : 2 * span["end"]].decode("utf-16-le") for span in spans]
    assert cut == ["😀 Ça va ?", "Il menace…", "Fin 👍🏽!", "Bien"]
    assert (spans[1]["begin"], spans[1]["end"]) == (11, 21)
    whole = client.post(ANALYZE, json=comment(text)).json()["attributeScores"]["TOXICITY"]["spanScores"]
    assert [(span["begin"], span["end"]) for span in whole] == [(0, len(units) // 2)]


def test_a_request_holds_no_more_texts_than_are_allowed(classifier: Classifier) -> None:
    """Nine sentences where a request may hold four texts: three spans, and the comment itself."""
    seen: list[int] = []

    def score(texts: Sequence[str]) -> Any:
        seen.append(len(texts))
        return fake_scores(classifier)(texts)

    body = comment("Oui. " * 9, spanAnnotations=True)
    spans = local(service(classifier, score=score, texts=4)).post(ANALYZE, json=body).json()["attributeScores"]
    places = [(span["begin"], span["end"]) for span in spans["TOXICITY"]["spanScores"]]
    assert places == [(0, 14), (15, 29), (30, 44)] and sum(seen) == 4


def test_html_is_read_without_its_markup(client: TestClient) -> None:
    text = "<p>Bonjour.&nbsp;</p><script>menace()</script><b>Il men</b>ace &eacute;t&#233; &amp; hiver.</p>"
    body = {**comment(spanAnnotations=True), "comment": {"text": text, "type": "HTML"}}
    scores = client.post(ANALYZE, json=body).json()["attributeScores"]["TOXICITY"]
    cut = [text[span["begin"] : span["end"]] for span in scores["spanScores"]]
    assert cut == ["Bonjour.", "Il men</b>ace &eacute;t&#233; &amp; hiver."]
    assert [span["score"]["value"] for span in scores["spanScores"]] == [0.3, 0.8]


def test_plain_text_is_not_read_as_html(client: TestClient) -> None:
    for kind in ("PLAIN_TEXT", "TEXT_TYPE_UNSPECIFIED"):
        body = {**comment(), "comment": {"text": "il men<b></b>ace", "type": kind}}
        assert value(client.post(ANALYZE, json=body).json(), "TOXICITY") == 0.3


@pytest.mark.parametrize(
    "more",
    [
        {"context": {"entries": [{"text": "avant"}, {"text": "<p>", "type": "HTML"}]}},
        {"context": {"articleAndParentComment": {"article": {"text": "a"}, "parentComment": {"text": "b"}}}},
        {"languages": ["fr-CA"], "sessionId": "s", "communityId": "c", "doNotStore": False},
        {"client_token": "t", "span_annotations": False, "context": None, "languages": []},
    ],
)
def test_what_changes_no_score_is_accepted(client: TestClient, more: dict[str, Any]) -> None:
    url = f"{ANALYZE}?key=x&alt=json&fields=attributeScores&prettyPrint=true&$.xgafv=2"
    response = client.post(url, json=comment(**more))
    assert response.status_code == 200
    assert response.json()["languages"] == (more.get("languages") or ["fr"])


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"comment": {"text": ""}}, "COMMENT_EMPTY"),
        ({"comment": None}, "COMMENT_EMPTY"),
        ({"comment": {"text": " \n\t"}}, "COMMENT_EMPTY"),
        ({"comment": {"text": f"<p title='{CANARY}'></p>", "type": "HTML"}}, "COMMENT_EMPTY"),
        ({"comment": {"text": "é" * 10_241}}, "COMMENT_TOO_LONG"),
        ({"comment": {"text": "e" * 20_001}}, "COMMENT_TOO_LONG"),
        ({"requestedAttributes": {}}, "NO_REQUESTED_ATTRIBUTES"),
        ({"requestedAttributes": None}, "NO_REQUESTED_ATTRIBUTES"),
        ({"requestedAttributes": {CANARY: {}}}, "INVALID_REQUEST"),
        ({"requestedAttributes": {"TOXICITY": {"scoreType": "PERCENTILE"}}}, "INVALID_REQUEST"),
        ({"requestedAttributes": {"TOXICITY": {"scoreType": CANARY}}}, "INVALID_REQUEST"),
        ({"requestedAttributes": {CANARY: {"scoreThreshold": CANARY}}}, "INVALID_REQUEST"),
        ({"requestedAttributes": {"TOXICITY": {CANARY: 1}}}, "INVALID_REQUEST"),
        ({"requestedAttributes": {"PROFANITY": {}}}, "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE"),
        ({"languages": ["en"]}, "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE"),
        ({"languages": ["fr", "en"]}, "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE"),
        ({"languages": [CANARY]}, "INVALID_REQUEST"),
        ({"languages": "fr"}, "INVALID_REQUEST"),
        ({CANARY: 1}, "INVALID_REQUEST"),
        ({"comment": CANARY}, "INVALID_REQUEST"),
        ({"comment": {"text": "a", "type": CANARY}}, "INVALID_REQUEST"),
        ({"context": {"entries": [{"text": 5}]}}, "INVALID_REQUEST"),
        ({"context": {"entries": [{"text": "a"}], "articleAndParentComment": {}}}, "INVALID_REQUEST"),
        ({"spanAnnotations": CANARY}, "INVALID_REQUEST"),
    ],
)
def test_what_is_wrong_is_told_and_never_echoed(
    client: TestClient, caplog: pytest.LogCaptureFixture, asked: dict[str, Any], expected: str
) -> None:
    with caplog.at_level(logging.DEBUG):
        response = client.post(ANALYZE, json={**comment(f"{CANARY} menace"), **asked})
    assert error_type(response) == expected
    assert CANARY not in response.text and CANARY not in caplog.text


def test_the_longest_comment_is_answered(classifier: Classifier) -> None:
    """20,480 bytes: the protocol's own limit, however many characters an operator allows."""
    client = local(service(classifier, characters=30_000))
    assert client.post(ANALYZE, json=comment("é" * 10_240)).status_code == 200
    assert error_type(client.post(ANALYZE, json=comment("e" * 20_481))) == "COMMENT_TOO_LONG"


@pytest.mark.parametrize(
    ("asked", "message", "where"),
    [
        ({"languages": ["fr", CANARY]}, "languages[1]: a language code is needed, as fr or fr-CA", "languages[1]"),
        ({"comment": {CANARY: 1}}, "Invalid JSON payload received: unknown name in comment", "comment"),
        (
            {"requestedAttributes": {CANARY: {"scoreThreshold": "x"}}},
            "requestedAttributes.*.scoreThreshold: input should be a valid number",
            "requestedAttributes.*.scoreThreshold",
        ),
    ],
)
def test_the_field_at_fault_is_named(client: TestClient, asked: dict[str, Any], message: str, where: str) -> None:
    error = error_of(client.post(ANALYZE, json={**comment(), **asked}))
    violation = {"field": where, "description": message}
    assert error["message"] == message
    assert error["details"][1] == {
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [violation],
    }


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 40_000, b"\xff\xfe", b"[]", b'"x"', b'{"comment": ' + b"1" * 5000])
def test_a_body_that_is_no_message_is_refused(client: TestClient, body: bytes) -> None:
    assert error_type(client.post(ANALYZE, content=body)) == "INVALID_REQUEST"


def test_half_a_surrogate_pair_is_answered(client: TestClient) -> None:
    """JSON can carry what no encoding can, in the text and in the token."""
    body = b'{"comment": {"text": "\\ud83d a"}, "clientToken": "\\ud83d", "requestedAttributes": {"TOXICITY": {}}}'
    answer = client.post(ANALYZE, content=body)
    assert answer.json()["clientToken"] == "\ud83d"
    assert answer.json()["attributeScores"]["TOXICITY"]["spanScores"][0]["end"] == 3


def test_an_unsupported_language_says_which(client: TestClient) -> None:
    error = error_of(client.post(ANALYZE, json=comment(languages=["en"])))
    assert error["message"].startswith("Attribute TOXICITY does not support request languages: en")
    detail = error["details"][0]["languageNotSupportedByAttributeError"]
    assert detail == {"attribute": "TOXICITY", "requestedLanguages": ["en"]}


@pytest.mark.parametrize("accepted", ["any", "fr, EN"])
def test_an_operator_may_accept_other_languages(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch, accepted: str
) -> None:
    """Coral says "en" for every locale that it does not know."""
    monkeypatch.setenv("VIGIE_PERSPECTIVE_LANGUAGES", accepted)
    answer = local(service(classifier)).post(ANALYZE, json=comment(languages=["en"]))
    assert answer.json()["languages"] == ["en"]


def test_a_bad_key_is_worded_as_google_does(classifier: Classifier) -> None:
    client = local(service(classifier, keys=f"coral:{sha256(KEY.encode()).hexdigest()}:1"))
    bad = client.post(f"{ANALYZE}?key={CANARY}", json=comment())
    assert (bad.status_code, error_of(bad)["status"]) == (400, "INVALID_ARGUMENT")
    (detail,) = error_of(bad)["details"]
    assert (detail["@type"], detail["reason"]) == ("type.googleapis.com/google.rpc.ErrorInfo", "API_KEY_INVALID")
    assert CANARY not in bad.text
    assert client.post(f"{ANALYZE}?key={KEY}", json=comment()).status_code == 200
    late = client.post(f"{ANALYZE}?key={KEY}", json=comment())
    assert (late.status_code, error_of(late)["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert error_of(late)["details"][0]["retryDelay"] == f"{late.headers['retry-after']}s"


def test_strangers_too_large_bodies_and_full_queues_are_worded_alike(classifier: Classifier) -> None:
    stranger = TestClient(service(classifier), client=("192.0.2.1", 1)).post(ANALYZE, json=comment())
    assert (stranger.status_code, error_of(stranger)["status"]) == (403, "PERMISSION_DENIED")
    large = local(service(classifier, body_bytes=100)).post(ANALYZE, json=comment(clientToken="x" * 200))
    assert (large.status_code, error_of(large)["status"]) == (413, "INVALID_ARGUMENT")
    crowded = local(service(classifier, held_bytes=1)).post(ANALYZE, json=comment())
    assert (crowded.status_code, error_of(crowded)["status"]) == (503, "UNAVAILABLE")
    assert int(crowded.headers["retry-after"]) > 0


def test_a_failure_while_scoring_says_nothing_of_the_text(
    classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(texts: Sequence[str]) -> Any:
        raise RuntimeError(f"broke on {texts[0]}")

    with caplog.at_level(logging.DEBUG):
        response = local(service(classifier, score=fail)).post(ANALYZE, json=comment(CANARY))
    assert (response.status_code, error_of(response)["status"]) == (500, "INTERNAL")
    assert CANARY not in response.text and CANARY not in caplog.text


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("VIGIE_PROTECT_TESTIMONY", "yes"),
        ("VIGIE_PERSPECTIVE_LANGUAGES", "français"),
        ("VIGIE_PERSPECTIVE_LANGUAGES", "fr,,en"),
        ("VIGIE_PERSPECTIVE_DROP_UNSUPPORTED", "2"),
        ("VIGIE_PUBLIC_URL", "ftp://example.org"),
    ],
)
def test_settings_of_another_form_are_told(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=variable):
        Settings.from_environment()
