"""Clients of the Perspective protocol: what Coral sends, and Google's own library against a live server."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving import Classifier
from tests import wire
from tests.test_closed import certificate
from tests.test_perspective import (
    ANALYZE,
    CANARY,
    DISCOVERY,
    KEY,
    SUGGEST,
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

__all__ = ["certificate", "classifier", "client", "served"]


def suggestion(**more: Any) -> dict[str, Any]:
    return {
        "comment": {"text": f"il menace {CANARY}"},
        "attributeScores": {"TOXICITY": {"summaryScore": {"value": 1}}},
        **more,
    }


def test_a_sound_suggestion_is_not_kept_and_says_so(client: TestClient) -> None:
    response = client.post(SUGGEST, json=suggestion())
    assert (response.status_code, error_of(response)["status"]) == (501, "UNIMPLEMENTED")
    assert CANARY not in response.text


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"attributeScores": {}}, "INVALID_REQUEST"),
        ({"attributeScores": {"TOXICITY": {}}}, "INVALID_REQUEST"),
        ({"attributeScores": {CANARY: {"summaryScore": {"value": 1}}}}, "INVALID_REQUEST"),
        ({"attributeScores": {"TOXICITY": {"summaryScore": {}}}}, "INVALID_REQUEST"),
        ({"attributeScores": {"TOXICITY": {"summaryScore": {"value": 2}}}}, "INVALID_REQUEST"),
        ({"attributeScores": {"TOXICITY": {"spanScores": [{"begin": 0, "score": {"value": 1}}]}}}, "INVALID_REQUEST"),
        (
            {"attributeScores": {"TOXICITY": {"spanScores": [{"begin": 3, "end": 99, "score": {"value": 1}}]}}},
            "INVALID_REQUEST",
        ),
        (
            {"attributeScores": {"PROFANITY": {"summaryScore": {"value": 1}}}},
            "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE",
        ),
        ({"comment": {"text": ""}}, "COMMENT_EMPTY"),
        ({"requestedAttributes": {}}, "INVALID_REQUEST"),
    ],
)
def test_an_unsound_suggestion_is_told_why(client: TestClient, more: dict[str, Any], expected: str) -> None:
    response = client.post(SUGGEST, json=suggestion(**more))
    assert error_type(response) == expected and CANARY not in response.text


def coral(locale: str, text: str) -> dict[str, Any]:
    """What Coral sends for a new comment."""
    language = {"fr-FR": "fr", "de": "de"}.get(locale, "en")
    attribute: dict[str, Any] = {"TOXICITY": {}}
    return {"comment": {"text": text}, "doNotStore": True, "requestedAttributes": attribute, "languages": [language]}


def test_coral_reads_its_score(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """It flags where summaryScore.value passes 0.8 by default; of an error it only logs that there was one."""
    answer = local(service(classifier)).post(f"{ANALYZE}?key=x", json=coral("fr-FR", "il menace")).json()
    assert answer["attributeScores"]["TOXICITY"]["summaryScore"]["value"] == 0.8
    assert local(service(classifier)).post(ANALYZE, json=coral("fr-CA", "il menace")).status_code == 400
    monkeypatch.setenv("VIGIE_PERSPECTIVE_LANGUAGES", "fr,en")
    assert local(service(classifier)).post(ANALYZE, json=coral("fr-CA", "il menace")).status_code == 200


def test_corals_feedback_is_understood(client: TestClient) -> None:
    entry = {"text": json.dumps({"url": "https://example.org", "Coral_comment_id": "1"})}
    more = {"communityId": "Coral:https://example.org", "clientToken": "comment:1", "languages": ["fr"]}
    response = client.post(SUGGEST, json=suggestion(context={"entries": [entry]}, **more))
    assert response.status_code == 501


@dataclass(frozen=True)
class Live:
    """A server's address, and Google's library with a connection that trusts its certificate."""

    address: str
    library: Any
    http: Any

    def build(self, *, key: str = KEY, path: str = f"{DISCOVERY}?version={{apiVersion}}") -> Any:
        url = f"{self.address}{path}"
        options = {"discoveryServiceUrl": url, "static_discovery": False, "cache_discovery": False}
        return self.library.build("commentanalyzer", "v1alpha1", http=self.http, developerKey=key, **options)


@pytest.fixture(params=["http", "https"])
def live(request: pytest.FixtureRequest, classifier: Classifier) -> Iterator[Live]:
    """A server on this machine that wants a key; what connects before it accepts waits at the socket."""
    with warnings.catch_warnings():
        # What the library warns of while it is loaded is its own matter.
        warnings.simplefilter("ignore")
        library = pytest.importorskip("googleapiclient.discovery")
        import httplib2
    files = request.getfixturevalue("certificate") if request.param == "https" else (None, None)
    app = service(classifier, keys=f"client:{sha256(KEY.encode()).hexdigest()}")
    http = httplib2.Http(ca_certs=files[0] and str(files[0]), proxy_info=None, timeout=30)
    with wire.live(app, ssl_certfile=files[0], ssl_keyfile=files[1]) as address, contextlib.closing(http):
        yield Live(f"{request.param}://{address}", library, http)


@pytest.mark.parametrize("path", [f"{DISCOVERY}?version={{apiVersion}}", "/discovery/v1/apis/{api}/{apiVersion}/rest"])
def test_googles_client_works_unmodified(live: Live, path: str) -> None:
    body = comment("😀 Bonjour. Il menace !", spanAnnotations=True, languages=["fr"], clientToken="jeton")
    answer = live.build(path=path).comments().analyze(body=body).execute()
    assert value(answer, "TOXICITY") == 0.8 and answer["clientToken"] == "jeton"
    spans = answer["attributeScores"]["TOXICITY"]["spanScores"]
    assert [(span["begin"], span["end"]) for span in spans] == [(0, 11), (12, 23)]


def test_googles_client_reads_the_errors(live: Live) -> None:
    from googleapiclient.errors import HttpError

    client = live.build()
    with pytest.raises(HttpError) as empty:
        client.comments().analyze(body=comment("")).execute()
    with pytest.raises(HttpError) as kept:
        client.comments().suggestscore(body=suggestion()).execute()
    with pytest.raises(HttpError) as stranger:
        live.build(key="x")
    assert (empty.value.status_code, empty.value.error_details[0]["errorType"]) == (400, "COMMENT_EMPTY")
    assert kept.value.status_code == 501
    assert stranger.value.error_details[0]["reason"] == "API_KEY_INVALID"
