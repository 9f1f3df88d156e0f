"""serving.protocols.attributes: what each name of the Perspective protocol is made of."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from serving import Classifier
from serving.protocols import attributes
from tests.test_perspective import (
    ANALYZE,
    classifier,
    client,
    comment,
    error_of,
    error_type,
    local,
    served,
    service,
    value,
)

__all__ = ["classifier", "client", "served"]


def test_every_name_that_is_offered_is_answered(client: TestClient, classifier: Classifier) -> None:
    known = attributes.names(classifier.artifact)
    answer = client.post(ANALYZE, json=comment(requestedAttributes={name: {} for name in known})).json()
    assert list(answer["attributeScores"]) == list(known)
    categories = {label.upper() for label in classifier.artifact.category_ids}
    voices = {"VOICE_DIRECT", "VOICE_TESTIMONY", "VOICE_COMMENTARY"}
    derived = {"TOXICITY", "IDENTITY_ATTACK", "INSULT"}
    raw = {f"{name}_RAW" for name in categories | derived}
    assert set(known) == categories | derived | voices | {"MINOR_INVOLVED"} | raw


def test_derived_attributes_are_the_highest_of_their_labels(client: TestClient) -> None:
    """cyberbullying is 0.3 everywhere, racism 0.6 where there is an insult."""
    asked = {name: {} for name in ("TOXICITY", "IDENTITY_ATTACK", "INSULT", "RACISM", "MINOR_INVOLVED")}
    calm = client.post(ANALYZE, json=comment("bonjour", requestedAttributes=asked)).json()
    harsh = client.post(ANALYZE, json=comment("il menace et insulte", requestedAttributes=asked)).json()
    assert [value(calm, name) for name in asked] == [0.3, 0.05, 0.3, 0.05, 0.7]
    assert [value(harsh, name) for name in asked] == [0.8, 0.6, 0.6, 0.6, 0.7]


def test_a_testimony_is_lowered_and_its_raw_score_stays(client: TestClient) -> None:
    """direct 0.1 of 0.1 + 0.3 + 0.0: 0.8 becomes 0.2. What is no category stays as it is."""
    names = ("TOXICITY", "SEXUAL_EXTORTION", "TOXICITY_RAW", "SEXUAL_EXTORTION_RAW", "MINOR_INVOLVED")
    asked = {name: {} for name in (*names, "VOICE_TESTIMONY")}
    answer = client.post(ANALYZE, json=comment("je raconte : il menace", requestedAttributes=asked)).json()
    assert [value(answer, name) for name in asked] == pytest.approx([0.2, 0.2, 0.8, 0.8, 0.7, 0.3])


def test_protection_can_be_turned_off(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIE_PROTECT_TESTIMONY", "0")
    answer = local(service(classifier)).post(ANALYZE, json=comment("je raconte : il menace")).json()
    assert value(answer, "TOXICITY") == 0.8


def test_a_sentence_that_a_victim_quotes_is_lowered_too(client: TestClient) -> None:
    """Alone it reads as direct; the voice is the whole comment's."""
    answer = client.post(ANALYZE, json=comment("Je raconte.raconte Voilà. Il menace !", spanAnnotations=True)).json()
    spans = answer["attributeScores"]["TOXICITY"]["spanScores"]
    assert [span["score"]["value"] for span in spans] == pytest.approx([0.075, 0.2])


def test_what_has_no_label_is_refused_with_its_reason(client: TestClient) -> None:
    """No number is made up, and nothing offers one."""
    for name, meaning in attributes.MEANINGS.items():
        if not meaning.labels:
            response = client.post(ANALYZE, json=comment(requestedAttributes={name: {}, "TOXICITY": {}}))
            assert error_type(response) == "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE"
            assert meaning.reason in error_of(response)["message"]


@pytest.mark.parametrize("by_the_operator", [False, True])
def test_what_is_not_answered_may_be_left_out(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch, by_the_operator: bool
) -> None:
    """But never all of it: a tool would take silence for a harmless text."""
    if by_the_operator:
        monkeypatch.setenv("VIGIE_PERSPECTIVE_DROP_UNSUPPORTED", "1")
    client, drop = local(service(classifier)), {} if by_the_operator else {"dropUnsupportedAttributes": True}
    some = client.post(ANALYZE, json=comment(requestedAttributes={"PROFANITY": {}, "TOXICITY": {}}, **drop))
    assert set(some.json()["attributeScores"]) == {"TOXICITY"}
    none = client.post(ANALYZE, json=comment(requestedAttributes={"PROFANITY": {}}, **drop))
    assert error_type(none) == "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE"
    unknown = client.post(ANALYZE, json=comment(requestedAttributes={"TOXICITE": {}, "TOXICITY": {}}, **drop))
    assert error_type(unknown) == "INVALID_REQUEST"


def test_a_derived_attribute_needs_all_its_labels() -> None:
    """An artifact without racism answers no IDENTITY_ATTACK, rather than a part of one."""
    prediction: Any = {
        "categories": {"sexism": {"score": 0.5, "flagged": False}},
        "minor_involved": {"score": 0.1, "flagged": False},
        "voice": {"label": None, "scores": {"direct": 0.9}},
    }
    found = attributes.scores(prediction, protect=True, speaker=prediction["voice"])
    own, derived = {"SEXISM": 0.5, "SEXISM_RAW": 0.5}, {"TOXICITY": 0.5, "TOXICITY_RAW": 0.5}
    assert found == {**own, **derived, "MINOR_INVOLVED": 0.1, "VOICE_DIRECT": 0.9}
