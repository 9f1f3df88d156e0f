"""serving.protocols.coral: comments as Coral signs and sends them, and answers as it reads them."""

from __future__ import annotations

import hmac
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from serving import Classifier
from serving.artifact import read_artifact
from serving.auth import Access
from serving.protocols import coral
from serving.protocols.coral import Secrets, Settings
from tests import wire
from tests.wire import CANARY, KEY, local, serve_alone, service

MODERATE = "/coral/moderate"
OLD, NEW = "phase_" + "0a" * 32, "phase_" + "1b" * 35
FLAGGED = {"actions": [{"actionType": "FLAG", "reason": "COMMENT_DETECTED_TOXIC"}]}


@pytest.fixture(scope="module")
def classifier(artifact: Path) -> Classifier:
    """Flags from 0.5 on, whatever the tiny model's own thresholds are."""
    read = read_artifact(artifact)
    thresholds: dict[str, dict[str, float | None]] = {
        point: dict.fromkeys(read.label_ids, 0.5) for point in read.thresholds
    }
    return Classifier(replace(read, thresholds=thresholds))


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    serve_alone(monkeypatch, coral)


@pytest.fixture
def client(classifier: Classifier) -> TestClient:
    return local(service(classifier))


def comment(body: Any = "<div>il menace</div>", **more: Any) -> dict[str, Any]:
    """A reply, as Coral describes it."""
    return {
        "action": "NEW",
        "comment": {"body": body, "parentID": "d7"},
        "author": {"id": "ba", "role": "COMMENTER"},
        "story": {"id": "24", "url": "https://journal.example/chorale"},
        "site": {"id": "a4"},
        "tenantID": "19",
        "tenantDomain": "journal.example",
        **more,
    }


def sent(*secrets: str, asked: Any = None) -> dict[str, Any]:
    """Body and headers as Coral makes them: JSON over several lines, a signature for each secret in use."""
    content = json.dumps(comment() if asked is None else asked, indent=2, ensure_ascii=False).encode()
    signatures = [f"sha256={hmac.new(secret.encode(), content, 'sha256').hexdigest()}" for secret in secrets]
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Coral Moderation/9.0.0",
        "X-Coral-Signature": ",".join(signatures),
    }
    return {"content": content, "headers": headers}


def understood(response: Any) -> dict[str, Any] | None:
    """What Coral takes from an answer. It drops all of it for one value that it does not know."""
    assert response.is_success
    if response.status_code == 204 or response.text in ("", "{}"):
        return None
    answer: dict[str, Any] = response.json()
    assert answer.keys() <= {"actions", "status", "tags"}
    for action in answer["actions"]:
        assert action.keys() == {"actionType", "reason"} and action["actionType"] == "FLAG"
        assert action["reason"] in ("COMMENT_DETECTED_TOXIC", "COMMENT_DETECTED_SPAM")
    assert answer.get("status", "NONE") in ("NONE", "APPROVED", "REJECTED", "PREMOD", "SYSTEM_WITHHELD")
    assert set(answer.get("tags", [])) <= {"FEATURED", "STAFF"}
    return answer


@pytest.mark.parametrize("action", ["NEW", "EDIT"])
def test_a_harmful_message_is_flagged_and_nothing_else(client: TestClient, action: str) -> None:
    assert understood(client.post(MODERATE, **sent(asked=comment(action=action)))) == FLAGGED


@pytest.mark.parametrize(
    "body",
    [
        "<div>Elle raconte qu'il menace de publier.</div>",
        "La chorale répète à 18 h.",
        "",
        " ",
        "<div><br></div>",
    ],
    ids=["testimony", "ordinary", "empty", "blank", "no text"],
)
def test_whatever_else_stays_as_it_is(client: TestClient, body: str) -> None:
    """A tag that would mean "offer help" does not exist."""
    response = client.post(MODERATE, **sent(asked=comment(body)))
    assert (response.status_code, response.content) == (204, b"")


def test_a_comment_is_read_as_html(client: TestClient) -> None:
    body = "<div>Bonjour&nbsp;<b>il men</b>ace&hellip;<br><i>fin</i></div>"
    assert understood(client.post(MODERATE, **sent(asked=comment(body)))) == FLAGGED
    assert understood(client.post(MODERATE, **sent(asked=comment('<a title="menace">ici</a>')))) is None


def test_a_flagged_comment_may_wait_for_somebody(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIE_CORAL_STATUS", "SYSTEM_WITHHELD")
    client = local(service(classifier))
    assert understood(client.post(MODERATE, **sent())) == {**FLAGGED, "status": "SYSTEM_WITHHELD"}
    assert understood(client.post(MODERATE, **sent(asked=comment("il raconte qu'il menace")))) is None


def test_testimony_is_flagged_only_where_its_protection_is_off(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIGIE_PROTECT_TESTIMONY", "0")
    told = sent(asked=comment("elle raconte qu'il menace"))
    assert understood(local(service(classifier)).post(MODERATE, **told)) == FLAGGED


@pytest.fixture
def signed(monkeypatch: pytest.MonkeyPatch, classifier: Classifier) -> TestClient:
    """Asked by another machine, with keys for all else: only a signature opens."""
    return stranger(signing_service(monkeypatch, classifier, secrets=f"{OLD}, {NEW}"))


def signing_service(monkeypatch: pytest.MonkeyPatch, classifier: Classifier, *, secrets: str) -> Starlette:
    monkeypatch.setenv("VIGIE_CORAL_SECRETS", secrets)
    monkeypatch.setenv("VIGIE_API_KEYS", f"other:{sha256(KEY.encode()).hexdigest()}")
    monkeypatch.setattr(wire, "Access", Access.from_environment)
    return service(classifier)


def stranger(app: Starlette) -> TestClient:
    return TestClient(app, client=("203.0.113.9", 50000), raise_server_exceptions=False)


@pytest.mark.parametrize("secrets", [(OLD,), (NEW,), (OLD, NEW), ("phase_retired", NEW)])
def test_a_signature_is_all_that_coral_needs(signed: TestClient, secrets: tuple[str, ...]) -> None:
    """While it rolls from one secret to the next, it signs with both."""
    assert understood(signed.post(MODERATE, **sent(*secrets))) == FLAGGED


def altered(request: dict[str, Any], *, content: bytes | None = None, **headers: str) -> dict[str, Any]:
    return {"content": content or request["content"], "headers": {**request["headers"], **headers}}


GOOD = sent(OLD)
SIGNATURE = GOOD["headers"]["X-Coral-Signature"]


@pytest.mark.parametrize(
    "request_",
    [
        {"content": GOOD["content"]},
        sent(),
        sent("phase_" + "2c" * 32),
        altered(GOOD, content=GOOD["content"].replace(b"menace", b"chante")),
        altered(GOOD, content=GOOD["content"] + b"\n"),
        altered(GOOD, **{"X-Coral-Signature": SIGNATURE.removeprefix("sha256=")}),
        altered(GOOD, **{"X-Coral-Signature": SIGNATURE.replace("sha256", "sha1")}),
        altered(GOOD, **{"X-Coral-Signature": SIGNATURE[:-1]}),
        altered(GOOD, **{"X-Coral-Signature": f"sha256=,sha256={CANARY},é"}),
        altered(sent(), Authorization=f"Bearer {KEY}"),
        altered(sent(asked=CANARY)),
    ],
    ids=["none", "empty", "foreign", "changed", "longer", "bare", "sha1", "cut", "words", "key", "unread"],
)
def test_what_is_not_signed_is_refused(
    signed: TestClient, caplog: pytest.LogCaptureFixture, request_: dict[str, Any]
) -> None:
    """A key among it: it is for the other routes. What the body says is not looked at before."""
    with caplog.at_level(logging.DEBUG):
        headers = {name: value.encode() for name, value in request_.get("headers", {}).items()}
        response = signed.post(MODERATE, content=request_["content"], headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["message"].startswith("X-Coral-Signature: needs a signature of the body")
    for secret in (CANARY, OLD, NEW, SIGNATURE.removeprefix("sha256=")):
        assert secret not in response.text and secret not in caplog.text


def test_other_paths_still_need_a_key(signed: TestClient) -> None:
    for path in ("/coral/", "/coral/moderate/", "/predict"):
        assert signed.post(path, **GOOD).status_code == 401


def test_without_secrets_the_ordinary_rule_holds(classifier: Classifier) -> None:
    """Coral can send a key in the address alone."""
    assert stranger(service(classifier)).post(MODERATE, **sent(OLD)).status_code == 403
    client = stranger(service(classifier, keys=f"coral:{sha256(KEY.encode()).hexdigest()}"))
    assert client.post(MODERATE, **sent(OLD)).status_code == 401
    assert understood(client.post(f"{MODERATE}?key={KEY}", **sent(OLD))) == FLAGGED


def test_secrets_of_a_file_follow_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    path = tmp_path / "secrets"
    path.write_text(f"# 12 March\n{OLD}  # until April\n", encoding="utf-8")
    secrets = Secrets(text=KEY, file=path, clock=lambda: now[0])

    def opens(secret: str) -> bool:
        request = sent(secret)
        return secrets.signed(request["content"], request["headers"]["X-Coral-Signature"])

    assert opens(OLD) and opens(KEY) and not opens(NEW)
    for text, after_s in ((f"{OLD}\n{NEW}\n", 0.5), (f"{OLD}\n{NEW}\n", 2.0), (f"{CANARY} \n", 4.0)):
        path.write_text(text, encoding="utf-8")
        os.utime(path, ns=(0, int(after_s * 10**9)))
        now[0] = after_s
        assert opens(OLD) and opens(NEW) == (after_s > 1)
    assert "the secrets of Coral stay as they were" in caplog.text and CANARY not in caplog.text


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"VIGIE_CORAL_SECRETS": f"{OLD},{CANARY}"}, "VIGIE_CORAL_SECRETS: entry 2 is no signing secret"),
        ({"VIGIE_CORAL_SECRETS": " , "}, "no signing secret of Coral given"),
        ({"VIGIE_CORAL_SECRETS_FILE": "/nowhere/secrets"}, "/nowhere/secrets cannot be read"),
        ({"VIGIE_CORAL_STATUS": "REJECTED"}, "VIGIE_CORAL_STATUS must be SYSTEM_WITHHELD or left out"),
    ],
)
def test_a_setting_of_another_form_is_told(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=expected) as caught:
        Settings.from_environment()
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "status", "where"),
    [
        ("{", 422, "the body is not valid JSON"),
        ("[]", 422, "the body: input should be a valid dictionary"),
        ("{}", 422, "comment: field required"),
        (json.dumps({"comment": CANARY}), 422, "comment: input should be a valid dictionary"),
        (json.dumps(comment(None)), 422, "comment.body: field required"),
        (json.dumps(comment([CANARY])), 422, "comment.body: input should be a valid string"),
        (json.dumps(comment(f"{CANARY} " * 40)), 413, "comment.body: 800 characters; at most 500 are allowed"),
        (json.dumps(comment(CANARY * 300)), 413, "the request is larger than 3000 bytes"),
    ],
)
def test_what_is_wrong_is_told_and_never_echoed(
    classifier: Classifier, caplog: pytest.LogCaptureFixture, content: str, status: int, where: str
) -> None:
    with caplog.at_level(logging.DEBUG):
        client = local(service(classifier, characters=500, body_bytes=3000))
        response = client.post(MODERATE, content=content, headers={"X-Coral-Signature": CANARY})
    assert response.status_code == status and response.json()["error"]["message"].startswith(where)
    assert CANARY not in response.text and CANARY not in caplog.text


def test_a_full_house_and_a_broken_engine_are_told(classifier: Classifier, caplog: pytest.LogCaptureFixture) -> None:
    """Coral logs the status and lets the comment through."""

    def fail(texts: Sequence[str]) -> Any:
        raise RuntimeError(f"broke on {texts[0]}")

    crowded = local(service(classifier, held_bytes=1)).post(MODERATE, **sent())
    assert crowded.status_code == 503 and int(crowded.headers["retry-after"]) > 0
    with caplog.at_level(logging.DEBUG):
        broken = local(service(classifier, score=fail)).post(MODERATE, **sent(asked=comment(CANARY)))
    assert broken.status_code == 500 and broken.json()["error"]["kind"] == "failed"
    assert CANARY not in broken.text and CANARY not in caplog.text
