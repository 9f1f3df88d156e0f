"""serving.protocols.label_studio: proposals in Label Studio's shape, for the choices that a project offers."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving import Classifier
from serving.artifact import read_artifact
from serving.gateway import Refusal
from serving.protocols import label_studio
from serving.protocols.label_studio_config import MOST_CHARACTERS, Control, read_config
from tests.wire import CANARY, KEY, fake_scores, local, serve_alone, service

HEALTH, SETUP, PREDICT, VERSIONS, VALIDATE, WEBHOOK = (
    f"/labelstudio/{name}" for name in ("health", "setup", "predict", "versions", "validate", "webhook")
)
CONFIG = """
<View>
  <Text name="text" value="$text"/>
  <Header value="Ce que le texte contient"/>
  <Choices name="categories" toName="text" choice="multiple">
    <Choice value="sexual_extortion"/> <Choice value="racism"/> <Choice value="Autre chose"/>
    <Choice value="Mineur concerné"/>
  </Choices>
  <Choices name="voice" toName="text" choice="single-radio">
    <Choice value="Propos direct" alias="direct"/> <Choice value="testimony"/> <Choice value="commentary"/>
  </Choices>
</View>
"""


@pytest.fixture(scope="module")
def classifier(artifact: Path) -> Classifier:
    """Flags from 0.25 on, so that a voice is named in testimony too (see `tests.wire.fake_scores`)."""
    read = read_artifact(artifact)
    thresholds: dict[str, dict[str, float | None]] = {
        point: {**dict.fromkeys(read.label_ids, 0.25), "cyberbullying": 0.5} for point in read.thresholds
    }
    return Classifier(replace(read, thresholds=thresholds))


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    serve_alone(monkeypatch, label_studio)


@pytest.fixture
def client(classifier: Classifier) -> TestClient:
    return local(service(classifier))


def asked(*texts: Any, config: str = CONFIG) -> dict[str, Any]:
    """What Label Studio sends: each task with all that it knows of it."""
    tasks = [
        {"id": number, "data": {"text": text}, "meta": {}, "annotations": [], "predictions": [], "project": 3}
        for number, text in enumerate(texts, 1)
    ]
    params = {"login": None, "password": None, "context": None}
    return {"tasks": tasks, "project": "3.1795329586", "label_config": config, "params": params}


def ticked(result: dict[str, Any]) -> dict[str, list[str]]:
    """Block → choices."""
    for block in result["result"]:
        assert block["type"] == "choices" and block.keys() == {"from_name", "to_name", "type", "value"}
    return {block["from_name"]: block["value"]["choices"] for block in result["result"]}


def predict(client: TestClient, *texts: str, config: str = CONFIG) -> list[dict[str, list[str]]]:
    response = client.post(PREDICT, json=asked(*texts, config=config))
    assert response.status_code == 200, response.text
    return [ticked(result) for result in response.json()["results"]]


def test_a_proposal_has_label_studios_shape(client: TestClient, classifier: Classifier) -> None:
    version = f"{classifier.artifact.name} {classifier.artifact.version}"
    answer = client.post(PREDICT, json=asked("il menace")).json()
    assert answer == {
        "model_version": version,
        "results": [
            {
                "result": [
                    {
                        "from_name": "categories",
                        "to_name": "text",
                        "type": "choices",
                        "value": {"choices": ["sexual_extortion", "Mineur concerné"]},
                    },
                    {"from_name": "voice", "to_name": "text", "type": "choices", "value": {"choices": ["direct"]}},
                ],
                "score": 0.8,
                "model_version": version,
            }
        ],
    }


def test_every_task_has_its_own_proposal_in_order(client: TestClient) -> None:
    texts = ["il menace", "La chorale répète à 18 h.", "il menace et il insulte"]
    assert [one["categories"] for one in predict(client, *texts)] == [
        ["sexual_extortion", "Mineur concerné"],
        ["Mineur concerné"],
        ["sexual_extortion", "racism", "Mineur concerné"],
    ]


def test_testimony_is_not_lowered_for_annotators(client: TestClient) -> None:
    """They decide; a tool that acts would see nothing here."""
    answer = client.post(PREDICT, json=asked("elle raconte qu'il menace")).json()
    (result,) = answer["results"]
    assert ticked(result) == {"categories": ["sexual_extortion", "Mineur concerné"], "voice": ["testimony"]}
    assert result["score"] == 0.8


BLOCK = '<View><Text name="t" value="$text"/><Choices name="c" toName="t" {attributes}>{choices}</Choices></View>'


def block(*choices: str, attributes: str = 'choice="multiple"') -> str:
    return BLOCK.format(attributes=attributes, choices="".join(f"<Choice {choice}/>" for choice in choices))


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ('value="sexual_extortion"', "sexual_extortion"),
        ('value="Sexual_Extortion"', "Sexual_Extortion"),
        ('value="Chantage sexuel (sextorsion)"', "Chantage sexuel (sextorsion)"),
        ('value=" chantage  sexuel (SEXTORSION)"', " chantage  sexuel (SEXTORSION)"),
        ('value="Du chantage" alias="sexual_extortion"', "sexual_extortion"),
        ('value="Chantage sexuel (sextorsion)" alias="A1"', "A1"),
        ('value="sexual_extortion" alias=""', "sexual_extortion"),
        ('value="minor_involved"', "minor_involved"),
        ('value="Mineur concerne\u0301"', "Mineur concerne\u0301"),
        ('value="direct"', "direct"),
    ],
)
def test_a_choice_is_known_by_value_or_alias_and_answered_as_label_studio_calls_it(
    client: TestClient, choice: str, expected: str
) -> None:
    assert predict(client, "il menace", config=block(choice)) == [{"c": [expected]}]


def test_where_one_may_be_ticked_it_is_the_likeliest(client: TestClient) -> None:
    choices = ('value="racism"', 'value="sexual_extortion"', 'value="cyberbullying"')
    for attributes in ('choice="single"', 'choice="single-radio"', ""):
        config = block(*choices, attributes=attributes)
        assert predict(client, "il menace, il insulte", "il insulte", "rien", config=config) == [
            {"c": ["sexual_extortion"]},
            {"c": ["racism"]},
            {},
        ]


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        (['value="racism"', 'value="cyberbullying"', 'value="direct"', 'value="minor_involved"'], 0.3),
        (['value="direct"', 'value="minor_involved"'], 0.9),
        (['value="minor_involved"'], 0.7),
    ],
)
def test_the_score_is_that_of_the_likeliest_category_asked_for(
    client: TestClient, choices: list[str], expected: float
) -> None:
    (result,) = client.post(PREDICT, json=asked("rien", config=block(*choices))).json()["results"]
    assert result["score"] == expected


def test_blocks_may_be_about_different_texts(client: TestClient) -> None:
    config = """<View><Text name="a" value="$title"/><Text name="b" value="$body"/>
      <Choices name="of_title" toName="a"><Choice value="racism"/></Choices>
      <Choices name="of_body" toName="b"><Choice value="racism"/></Choices></View>"""
    body = asked(config=config)
    body["tasks"] = [{"data": {"title": "rien", "body": "il insulte"}}, {"data": {"title": "il insulte", "body": "."}}]
    results = client.post(PREDICT, json=body).json()["results"]
    assert [ticked(result) for result in results] == [{"of_body": ["racism"]}, {"of_title": ["racism"]}]


def test_a_batch_larger_than_a_request_may_hold_is_taken_in_slices(classifier: Classifier) -> None:
    seen: list[int] = []

    def score(texts: Sequence[str]) -> Any:
        seen.append(len(texts))
        return fake_scores(classifier)(texts)

    texts = ["il menace" if number == 7 else "rien" for number in range(10)]
    found = predict(local(service(classifier, score=score, texts=4)), *texts)
    assert ["sexual_extortion" in one["categories"] for one in found] == [number == 7 for number in range(10)]
    assert sum(seen) == 10 and max(seen) <= 4


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"text": " "}, "tasks[1].data: holds no text where the project's interface shows one"),
        ({"text": None}, "tasks[1].data: holds no text where the project's interface shows one"),
        ({"text": 5}, "tasks[1].data: holds no text where the project's interface shows one"),
        ({CANARY: CANARY}, "tasks[1].data: holds no text where the project's interface shows one"),
        ({"text": CANARY * 30}, "tasks[1].data: 570 characters; at most 500 are allowed"),
    ],
)
def test_a_task_that_cannot_be_read_spoils_no_other(
    classifier: Classifier, caplog: pytest.LogCaptureFixture, data: dict[str, Any], expected: str
) -> None:
    """Label Studio drops the whole batch for an error, and keeps nothing for a task without `result`."""
    client = local(service(classifier, characters=500))
    body = asked("il menace", "x", "il insulte")
    body["tasks"][1]["data"] = data
    with caplog.at_level(logging.DEBUG):
        response = client.post(PREDICT, json=body)
    first, second, third = response.json()["results"]
    assert second == {"error": expected}
    assert "sexual_extortion" in ticked(first)["categories"] and "racism" in ticked(third)["categories"]
    body["tasks"] = [body["tasks"][1]]
    alone = client.post(PREDICT, json=body)
    assert alone.status_code == 422 and alone.json() == {"error": expected.replace("[1]", "[0]")}
    for said in (response.text, alone.text, caplog.text):
        assert CANARY not in said


LATE = {"error": "not scored in time; retrieve predictions again for the tasks that have none"}


def test_what_comes_too_late_is_left_for_the_next_time(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label Studio asks again for the tasks that have no prediction of this version."""
    times = iter([0.0, 29.0, 31.0])
    monkeypatch.setattr(label_studio, "time", SimpleNamespace(monotonic=lambda: next(times)))
    response = local(service(classifier, texts=1)).post(PREDICT, json=asked("a", "b", "c"))
    first, second, third = response.json()["results"]
    assert "result" in first and "result" in second and third == LATE


def test_a_queue_that_fills_up_loses_nothing_that_was_scored(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = service(classifier, texts=1)
    calls: list[Sequence[str]] = []
    original = label_studio.Gateway.predict

    async def crowded(self: Any, texts: Sequence[str], **more: Any) -> Any:
        calls.append(texts)
        if len(calls) > 1:
            raise Refusal("overloaded", "too many texts are waiting; try again later", retry_after_s=7)
        return await original(self, texts, **more)

    monkeypatch.setattr(label_studio.Gateway, "predict", crowded)
    first, second = local(app).post(PREDICT, json=asked("a", "b")).json()["results"]
    assert "result" in first and second == LATE
    refused = local(app).post(PREDICT, json=asked("a", "b"))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "7")
    assert refused.json() == {"error": "too many texts are waiting; try again later"}


def test_no_tasks_have_no_predictions(client: TestClient) -> None:
    assert client.post(PREDICT, json=asked()).json()["results"] == []


def test_the_other_routes_answer_as_label_studio_expects(client: TestClient, classifier: Classifier) -> None:
    version = f"{classifier.artifact.name} {classifier.artifact.version}"
    assert client.get(HEALTH).json()["status"] == "UP"
    assert client.get(VERSIONS).json() == {"versions": [version]}
    assert client.post(VALIDATE, json={"config": CONFIG}).json() == {"status": "ok"}
    setup = {"project": "3.1", "schema": CONFIG, "hostname": "http://127.0.0.1", "access_token": CANARY}
    response = client.post(SETUP, json={**setup, "extra_params": {CANARY: CANARY}})
    assert response.json() == {"model_version": version}


def test_the_users_token_goes_nowhere(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """It arrives with every setup and opens all that its user may do."""
    with caplog.at_level(logging.DEBUG):
        for schema in (CONFIG, "<View/>", f"<{CANARY}", None, 5):
            response = client.post(SETUP, json={"schema": schema, "access_token": CANARY})
            assert CANARY not in response.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize("action", ["ANNOTATION_CREATED", "ANNOTATIONS_DELETED", "START_TRAINING", CANARY])
def test_a_webhook_is_thanked_and_nothing_is_kept(
    client: TestClient, caplog: pytest.LogCaptureFixture, action: str
) -> None:
    with caplog.at_level(logging.DEBUG):
        response = client.post(WEBHOOK, json={"action": action, "task": {"data": {"text": CANARY}}})
    assert response.status_code == 201 and "nothing is kept or learned here" in response.json()["message"]
    assert CANARY not in response.text and CANARY not in caplog.text


BILLION = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;">]><View><Text name="t" value="$text"/>&c;</View>'
FOREIGN = '<!DOCTYPE a SYSTEM "file:///etc/hostname"><View/>'
NO_LABEL = "config: has no Choices for a Text (value='$…') with a label among its values or aliases"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("", "config: is not well-formed XML (line 1"),
        ("<View>\n<Text", "config: is not well-formed XML (line 2"),
        (f"<View><{CANARY}>{CANARY}</View>", "config: is not well-formed XML (line 1"),
        ("<View>&inconnu;</View>", "config: is not well-formed XML (line 1"),
        ("<View>\ud83d", "config: is not well-formed XML"),
        (BILLION, "config: a document type (DOCTYPE) is not allowed"),
        (FOREIGN, "config: a document type (DOCTYPE) is not allowed"),
        ("<View/>", NO_LABEL),
        (block(f'value="{CANARY}"'), NO_LABEL),
        (block('value="racism"').replace('toName="t"', 'toName="u"'), NO_LABEL),
        (block('value="racism"').replace("$text", CANARY), NO_LABEL),
        (block('value="racism"').replace("$text", "$"), NO_LABEL),
        (block('value="racism"').replace("<Text ", '<Text valueType="url" '), NO_LABEL),
        (block('value="racism"').replace("Text ", "Image "), NO_LABEL),
        (block('value="racism"', attributes='perRegion="true"'), NO_LABEL),
        (block() + " " * MOST_CHARACTERS, "config: 100"),
        ("<View>" + block('value="racism"') * 13 + "</View>", "config: 13 Choices with labels; at most 12 are allowed"),
    ],
)
def test_an_interface_that_cannot_be_filled_in_is_told_and_never_echoed(
    client: TestClient, caplog: pytest.LogCaptureFixture, config: str, expected: str
) -> None:
    with caplog.at_level(logging.DEBUG):
        for path, name in ((VALIDATE, "config"), (SETUP, "schema"), (PREDICT, "label_config")):
            response = client.post(path, content=json.dumps({name: config, "tasks": []}))
            assert response.status_code == 422, response.text
            assert response.json()["error"].startswith(expected.replace("config", name, 1))
            assert CANARY not in response.text
    assert CANARY not in caplog.text


def test_labels_are_listed_where_none_is_found(client: TestClient, classifier: Classifier) -> None:
    error = client.post(VALIDATE, json={"config": "<View/>"}).json()["error"]
    assert all(label in error for label in classifier.artifact.label_ids)


def test_an_interface_is_read_into_its_blocks(classifier: Classifier) -> None:
    """Choices outside of a block, or in one about regions, belong to none."""
    config = f"""{CONFIG.strip().removesuffix("</View>")}
      <Choice value="sexism"/>
      <Choices name="r" toName="text" perRegion="true"><Choice value="grooming"/></Choices>
      <Choices name="mood" toName="text"><Choice value="calme"/></Choices></View>"""
    assert read_config(config, classifier.artifact, "config") == (
        Control(
            "categories",
            "text",
            "text",
            True,
            {"sexual_extortion": "sexual_extortion", "racism": "racism", "minor_involved": "Mineur concerné"},
        ),
        Control(
            "voice", "text", "text", False, {"direct": "direct", "testimony": "testimony", "commentary": "commentary"}
        ),
    )


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        (PREDICT, "{", "the body is not valid JSON"),
        (PREDICT, "[]", "the body: input should be a valid dictionary"),
        (PREDICT, "{}", "tasks: field required"),
        (PREDICT, '{"tasks": {}, "label_config": "<View/>"}', "tasks: input should be a valid list"),
        (PREDICT, f'{{"tasks": ["{CANARY}"], "label_config": ""}}', "tasks[0]: input should be a valid dictionary"),
        (PREDICT, '{"tasks": [{"id": 1}], "label_config": ""}', "tasks[0].data: field required"),
        (PREDICT, f'{{"tasks": [{{"data": "{CANARY}"}}], "label_config": ""}}', "tasks[0].data: input should be"),
        (PREDICT, '{"tasks": []}', "label_config: field required"),
        (PREDICT, f'{{"tasks": [], "label_config": ["{CANARY}"]}}', "label_config: input should be a valid string"),
        (SETUP, f'{{"access_token": "{CANARY}"}}', "schema: field required"),
        (SETUP, f'{{"schema": {{"{CANARY}": 1}}}}', "schema: input should be a valid string"),
        (VALIDATE, "{}", "config: field required"),
    ],
)
def test_what_is_wrong_is_told_and_never_echoed(
    client: TestClient, caplog: pytest.LogCaptureFixture, path: str, content: str, expected: str
) -> None:
    with caplog.at_level(logging.DEBUG):
        response = client.post(path, content=content)
    assert response.status_code == 422 and response.json()["error"].startswith(expected), response.text
    assert CANARY not in response.text and CANARY not in caplog.text


def test_a_key_is_the_password_of_label_studios_basic_auth(classifier: Classifier) -> None:
    client = local(service(classifier, keys=f"annotators:{sha256(KEY.encode()).hexdigest()}"))
    assert client.get(HEALTH, auth=("label-studio", KEY)).status_code == 200
    for auth in (None, ("label-studio", CANARY), (KEY, CANARY)):
        response = client.get(HEALTH, auth=auth)
        assert response.status_code == 401 and "HTTP Basic" in response.json()["error"]
        assert CANARY not in response.text


def test_a_full_house_and_a_broken_engine_are_told(classifier: Classifier, caplog: pytest.LogCaptureFixture) -> None:
    def fail(texts: Sequence[str]) -> Any:
        raise RuntimeError(f"broke on {texts[0]}")

    crowded = local(service(classifier, held_bytes=1)).post(PREDICT, json=asked("rien"))
    assert crowded.status_code == 503 and int(crowded.headers["retry-after"]) > 0 and "error" in crowded.json()
    large = local(service(classifier, body_bytes=100)).post(PREDICT, json=asked("rien"))
    assert large.status_code == 413 and large.json()["error"].startswith("the request is larger than 100 bytes")
    with caplog.at_level(logging.DEBUG):
        broken = local(service(classifier, score=fail)).post(PREDICT, json=asked(CANARY))
    assert broken.status_code == 500 and broken.json()["error"].startswith("scoring failed (RuntimeError)")
    assert CANARY not in broken.text and CANARY not in caplog.text
