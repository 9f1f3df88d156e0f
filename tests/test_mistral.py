"""serving.protocols.mistral: moderation and classification of texts and conversations, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving import Classifier
from tests.test_openai import IMAGE, by_name, classifier, client, served, text_part
from tests.wire import CANARY, KEY, local, service

__all__ = ["classifier", "client", "served"]

TEXTS, CHAT = "/mistral/v1/moderations", "/mistral/v1/chat/moderations"
CLASSIFY, CHAT_CLASSIFY = "/mistral/v1/classifications", "/mistral/v1/chat/classifications"
MODEL = "mistral-moderation-latest"


def results(client: TestClient, url: str, given: Any) -> list[dict[str, Any]]:
    response = client.post(url, json={"model": MODEL, "input": given})
    assert response.status_code == 200, response.text
    assert response.json().keys() == {"id", "model", "results"}
    answer: list[dict[str, Any]] = response.json()["results"]
    return answer


def says(text: Any, role: str = "user") -> dict[str, Any]:
    more = {"prefix": False} if role == "assistant" else {}
    return {"role": role, "content": text, **more}


def test_our_categories_are_the_protocols(client: TestClient, classifier: Classifier) -> None:
    """And of its own keys the one that they give. Scores by hand: see `fake_scores`."""
    (result,) = results(client, TEXTS, "il insulte")
    keys = {*classifier.artifact.category_ids, "hate_and_discrimination"}
    assert result["categories"].keys() == result["category_scores"].keys() == keys
    assert {key for key, flag in result["categories"].items() if flag} == {"racism", "hate_and_discrimination"}
    assert result["category_scores"]["hate_and_discrimination"] == 0.6
    assert result["vigie"]["route"] == "moderate"


def test_each_string_has_its_result(client: TestClient) -> None:
    scores = [one["category_scores"]["racism"] for one in results(client, TEXTS, ["bonjour", "il insulte"])]
    assert scores == [0.05, 0.6]


@pytest.mark.parametrize(("url", "given"), [(TEXTS, "elle raconte qu'il menace"), (CHAT, [says("raconte menace")])])
def test_who_tells_is_not_struck(client: TestClient, url: str, given: Any) -> None:
    """Of 0.8 a quarter is left, the share of the direct voice (0.1 of 0.4)."""
    (result,) = results(client, url, given)
    assert not any(result["categories"].values())
    assert result["category_scores"]["sexual_extortion"] == pytest.approx(0.2)


def test_an_operator_may_have_it_struck(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIE_PROTECT_TESTIMONY", "0")
    (result,) = results(local(service(classifier)), TEXTS, "elle raconte qu'il menace")
    assert result["categories"]["sexual_extortion"] is True


def test_a_conversation_has_what_any_of_its_messages_has(client: TestClient) -> None:
    """In `vigie` stands the answer for each, and null for those of which nothing is judged."""
    chat = [
        says("menace insulte", "system"),
        says("il menace"),
        says([text_part("il"), IMAGE, text_part("insulte")], "assistant"),
        says([IMAGE]),
        {"role": "assistant", "content": None, "tool_calls": [{"id": CANARY}]},
        {"role": "tool", "content": "menace", "tool_call_id": CANARY, "name": None},
        says("au revoir"),
    ]
    (result,) = results(client, CHAT, chat)
    assert {key for key, flag in result["categories"].items() if flag} == {
        *("sexual_extortion", "racism", "hate_and_discrimination"),
    }
    assert (result["category_scores"]["sexual_extortion"], result["category_scores"]["racism"]) == (0.8, 0.6)
    routes = [one and one["route"] for one in result["vigie"]]
    assert routes == [None, "moderate", "moderate", None, None, None, "none"]


def test_each_conversation_has_its_result(client: TestClient) -> None:
    chats = [[says("bonjour")], [says("bonjour"), says("il menace", "assistant")], [says("oui"), says("non")]]
    answers = results(client, CHAT, chats)
    assert [one["category_scores"]["sexual_extortion"] for one in answers] == [0.1, 0.8, 0.1]
    assert [len(one["vigie"]) for one in answers] == [1, 2, 2]


def test_classification_answers_targets(client: TestClient, classifier: Classifier) -> None:
    """Lowered where somebody tells, with nothing lowered beside it, and the voices that say why."""
    told, plain = results(client, CLASSIFY, ["elle raconte qu'il menace", "bonjour"])
    assert told.keys() == {"categories", "categories_raw", "context", "voices"}
    assert told["categories"]["scores"]["sexual_extortion"] == pytest.approx(0.2)
    assert told["categories_raw"]["scores"]["sexual_extortion"] == 0.8
    assert told["context"] == {"scores": {"minor_involved": 0.7}}
    assert told["voices"] == {"scores": {"direct": 0.1, "testimony": 0.3, "commentary": 0.0}}
    assert plain["categories"] == plain["categories_raw"]


@pytest.mark.parametrize("several", [False, True])
def test_a_conversation_is_classified_by_its_messages(client: TestClient, several: bool) -> None:
    chat = {"messages": [says("il menace", "assistant"), says("elle raconte")]}
    for result in results(client, CHAT_CLASSIFY, [chat, chat] if several else chat):
        assert result["categories_raw"]["scores"]["sexual_extortion"] == 0.8
        assert result["voices"]["scores"] == {"direct": 0.9, "testimony": 0.3, "commentary": 0.0}


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/v1/chat/moderations", [says("il menace")]),
        ("/v1/classifications", "il menace"),
        ("/v1/chat/classifications", {"messages": [says("il menace")]}),
    ],
)
def test_where_nobody_else_has_the_name_it_is_at_the_root_too(client: TestClient, path: str, given: Any) -> None:
    assert results(client, path, given) == results(client, f"/mistral{path}", given)
    assert client.post(path, json={}).json()["detail"][0]["loc"] == ["body", "input"]


def test_what_openai_has_at_the_root_serves_both(client: TestClient) -> None:
    """Flags are booleans and scores numbers throughout, as Mistral's open answer wants them."""
    (result,) = results(client, "/v1/moderations", "il menace")
    assert {type(flag) for flag in result["categories"].values()} == {bool}
    assert {type(score) for score in result["category_scores"].values()} == {float}
    assert client.post("/v1/moderations", json={}).json()["error"]["param"] == "input"


@pytest.mark.parametrize(
    ("url", "given", "place"),
    [
        (TEXTS, "", ["input"]),
        (TEXTS, ["bonjour", " "], ["input", 1]),
        (TEXTS, [], ["input"]),
        (TEXTS, 5, ["input"]),
        (TEXTS, [text_part(CANARY)], ["input"]),
        (TEXTS, [CANARY, {CANARY: 5}], ["input", 1]),
        (TEXTS, [CANARY] * 65, ["input"]),
        (CLASSIFY, [CANARY, f"{CANARY} " * 2000], ["input", 1]),
        (CLASSIFY, None, ["input"]),
        (CHAT, CANARY, ["input"]),
        (CHAT, [], ["input"]),
        (CHAT, [[]], ["input", 0]),
        (CHAT, [says(CANARY, "system")], ["input"]),
        (CHAT, [[says(CANARY)], [says("")]], ["input", 1]),
        (CHAT, [says(CANARY), [says(CANARY)]], ["input", 1]),
        (CHAT, [says(CANARY, CANARY)], ["input", 0, "role"]),
        (CHAT, [{"content": CANARY}], ["input", 0, "role"]),
        (CHAT, [says(CANARY), says({CANARY: CANARY})], ["input", 1, "content"]),
        (CHAT, [says([{"type": "text", CANARY: CANARY}])], ["input", 0, "content", 0]),
        (CHAT, [says([{CANARY: CANARY}])], ["input", 0, "content", 0, "type"]),
        (CHAT, [[says("a")], [says("", "system"), says(f"{CANARY} " * 2000)]], ["input", 1, 1, "content"]),
        (CHAT, [[says(CANARY)] * 33] * 2, ["input"]),
        (CHAT, [[says(CANARY)] * 2731], []),
        (CHAT_CLASSIFY, CANARY, ["input"]),
        (CHAT_CLASSIFY, {CANARY: []}, ["input", "messages"]),
        (CHAT_CLASSIFY, {"messages": []}, ["input", "messages"]),
        (CHAT_CLASSIFY, {"messages": [says("e" * 20_001)]}, ["input", "messages", 0, "content"]),
        (CHAT_CLASSIFY, [{"messages": [says(CANARY)]}, {"messages": CANARY}], ["input", 1, "messages"]),
    ],
)
def test_what_is_wrong_is_told_and_never_echoed(
    client: TestClient, caplog: pytest.LogCaptureFixture, url: str, given: Any, place: list[Any]
) -> None:
    with caplog.at_level(logging.DEBUG):
        response = client.post(url, json={"model": CANARY, "input": given, "metadata": {CANARY: CANARY}})
    (fault,) = response.json()["detail"]
    assert (response.status_code, fault["loc"], fault["type"]) == (422, ["body", *place], "value_error")
    assert CANARY not in response.text and CANARY not in caplog.text


@pytest.mark.parametrize(
    ("url", "given", "message"),
    [
        (TEXTS, 5, "input: input should be a string or a list of strings, and not empty"),
        (CHAT, 5, "input: input should be a list of messages or of conversations, and not empty"),
        (CHAT, [says("", "system")], "input: no message of a user or an assistant holds text"),
        (CHAT, [says("a", "chef")], "input[0].role: input should be 'system', 'user', 'assistant' or 'tool'"),
        (CHAT, [says("a")] * 65, "input: 65 texts; at most 64 are allowed"),
        (CHAT_CLASSIFY, 5, "input: input should be an object with messages or a list of such, and not empty"),
    ],
)
def test_the_message_says_what_is_allowed(client: TestClient, url: str, given: Any, message: str) -> None:
    assert client.post(url, json={"input": given}).json()["detail"][0]["msg"] == message


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 40_000, b"\xff\xfe", b"[]", b"5"])
@pytest.mark.parametrize("url", [TEXTS, CHAT, CHAT_CLASSIFY])
def test_a_body_that_is_no_message_is_refused(client: TestClient, url: str, body: bytes) -> None:
    response = client.post(url, content=body)
    assert (response.status_code, response.json()["detail"][0]["loc"]) == (422, ["body"])


def test_a_bad_key_and_a_spent_rate_are_worded_as_mistral_does(classifier: Classifier) -> None:
    client = local(service(classifier, keys=f"client:{sha256(KEY.encode()).hexdigest()}:1"))
    asked = {"json": {"input": CANARY}}
    bad = client.post(TEXTS, headers={"Authorization": f"Bearer {CANARY}"}, **asked)
    assert bad.status_code == 401 and bad.json()["detail"].startswith("Unauthorized") and CANARY not in bad.text
    good = {"Authorization": f"Bearer {KEY}"}
    assert client.post(TEXTS, headers=good, **asked).status_code == 200
    late = client.post(TEXTS, headers=good, **asked)
    assert (late.status_code, late.json()["type"], late.json()["code"]) == (429, "rate_limited", "1300")
    assert late.json()["object"] == "error" and int(late.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("limits", "status", "kind"),
    [({"body_bytes": 100}, 413, "invalid_request_error"), ({"held_bytes": 1}, 503, "service_unavailable")],
)
def test_too_large_bodies_and_full_queues_are_worded_alike(
    classifier: Classifier, limits: dict[str, int], status: int, kind: str
) -> None:
    response = local(service(classifier, **limits)).post(CHAT, json={"input": [says("bonjour" * 20)]})
    assert (response.status_code, response.json()["object"], response.json()["type"]) == (status, "error", kind)
    assert ("retry-after" in response.headers) == (status == 503)


def test_strangers_are_refused(classifier: Classifier) -> None:
    response = TestClient(service(classifier), client=("192.0.2.1", 1)).post(TEXTS, json={"input": CANARY})
    assert (response.status_code, response.json()["type"]) == (403, "forbidden") and CANARY not in response.text


def test_a_failure_while_scoring_says_nothing_of_the_text(
    classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(texts: Sequence[str]) -> Any:
        raise RuntimeError(f"broke on {texts[0]}")

    with caplog.at_level(logging.DEBUG):
        response = local(service(classifier, score=fail)).post(CHAT, json={"input": [says(CANARY)]})
    assert (response.status_code, response.json()["type"]) == (500, "internal_server_error")
    assert CANARY not in response.text and CANARY not in caplog.text


def test_a_minors_being_concerned_is_no_harm_by_itself(classifier: Classifier) -> None:
    score = by_name(classifier.artifact.label_ids)
    (result,) = results(local(service(classifier, score=score)), TEXTS, "minor_involved direct")
    assert max(result["category_scores"].values()) == 0
