"""serving.protocols.azure: severities by hand, every error, and Microsoft's own clients against a live server."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from starlette.testclient import TestClient

from serving import Artifact, Classifier
from serving.protocols import azure
from tests import node, wire
from tests.wire import CANARY, KEY, local, serve_alone, service

ANALYZE = "/contentsafety/text:analyze?api-version=2023-10-01"
KEYS = f"client:{sha256(KEY.encode()).hexdigest()}"
TOLD = "elle raconte qu'il menace"


@pytest.fixture(scope="module")
def classifier(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """Thresholds by which every severity can be worked out: 0.2, 0.5 and 0.7; homophobia has none."""
    folder = tmp_path_factory.mktemp("azure") / "artifact"
    shutil.copytree(artifact, folder)
    file = json.loads((folder / "thresholds.json").read_text(encoding="utf-8"))
    for label, points in file["labels"].items():
        for point, threshold in zip(azure.STEPS, (0.2, 0.5, 0.7), strict=True):
            voice = label in ("direct", "testimony", "commentary")
            points[point] = {"threshold": None if label == "homophobia" else 0.2 if voice else threshold}
    (folder / "thresholds.json").write_text(json.dumps(file), encoding="utf-8")
    return Classifier.from_dir(folder)


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    serve_alone(monkeypatch, azure)


@pytest.fixture
def client(classifier: Classifier) -> TestClient:
    return local(service(classifier))


def severities(client: TestClient, text: str, *categories: str, **more: Any) -> dict[str, int]:
    answer = client.post(ANALYZE, json={"text": text, "categories": list(categories), **more}).json()
    return {one["category"]: one["severity"] for one in answer["categoriesAnalysis"]}


def test_by_default_what_labels_can_stand_for_is_analysed(client: TestClient) -> None:
    assert client.post(ANALYZE, json={"text": "il menace"}).json() == {
        "blocklistsMatch": [],
        "categoriesAnalysis": [{"category": "Hate", "severity": 0}, {"category": "Sexual", "severity": 6}],
        "voice": "direct",
        "route": "moderate",
    }


def test_our_own_categories_are_answered_in_the_order_asked(client: TestClient) -> None:
    asked = ("sexual_extortion", "Hate", "racism", "Hate")
    assert list(severities(client, "il insulte", *asked).items()) == [
        ("sexual_extortion", 0),
        ("Hate", 4),
        ("racism", 4),
    ]


@pytest.mark.parametrize(
    ("score", "four", "eight"),
    [
        *((0.0, 0, 0), (0.09, 0, 0), (0.1, 0, 1), (0.19, 0, 1), (0.2, 2, 2), (0.35, 2, 3)),
        *((0.49, 2, 3), (0.5, 4, 4), (0.61, 4, 5), (0.7, 6, 6), (0.84, 6, 6), (0.86, 6, 7), (1.0, 6, 7)),
    ],
)
def test_a_severity_follows_from_the_operating_points(
    classifier: Classifier, score: float, four: int, eight: int
) -> None:
    row = [score if label in ("racism", "direct") else 0.0 for label in classifier.artifact.label_ids]
    client = local(service(classifier, score=lambda texts: np.array([row] * len(texts))))
    assert severities(client, "Bonjour.", "racism") == {"racism": four}
    assert severities(client, "Bonjour.", "racism", outputType="EightSeverityLevels") == {"racism": eight}


def test_testimony_reaches_no_severity_that_tools_act_upon(client: TestClient) -> None:
    """Its lowered score is 0.2, which a direct message would be severity 2 for."""
    assert severities(client, TOLD, "Sexual", "sexual_extortion") == {"Sexual": 0, "sexual_extortion": 0}
    eight = severities(client, TOLD, "Sexual", "Sexual_raw", outputType="EightSeverityLevels")
    assert eight == {"Sexual": 1, "Sexual_raw": 6}
    answer = client.post(ANALYZE, json={"text": TOLD}).json()
    assert (answer["voice"], answer["route"]) == ("testimony", "support")


def test_an_operator_may_have_testimony_rated_as_anything_else(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIGIE_PROTECT_TESTIMONY", "0")
    assert severities(local(service(classifier)), TOLD, "Sexual") == {"Sexual": 6}


def test_a_point_without_threshold_is_never_reached() -> None:
    thresholds = {"recall_first": {"racism": None}, "balanced": {"racism": 0.5}, "precision_first": {}}
    sparse = SimpleNamespace(category_ids=("racism", "sexism"), thresholds=thresholds)
    cuts = azure.cuts_of(cast("Artifact", sparse))
    assert list(cuts) == ["racism"] and cuts["racism"][:2] == (0.25, 0.5) and min(cuts["racism"][2:]) == float("inf")


@pytest.mark.parametrize(
    ("asked", "target", "said"),
    [
        ({"text": ""}, "text", "holds no text"),
        ({"text": " \n"}, "text", "holds no text"),
        ({"text": None}, "text", "field required"),
        ({"text": [CANARY]}, "text", "valid string"),
        ({"text": "é" * 10_001}, "text", "10001 characters; at most 10000 are allowed"),
        ({"text": "\ufdfa" * 3000}, "text", "its characters stand for 54000"),
        ({"categories": [CANARY]}, "categories[0]", "allowed: Hate, Sexual, grooming"),
        ({"categories": ["Hate", "SelfHarm"]}, "categories[1]", "no label stands for SelfHarm; allowed: Hate"),
        ({"categories": ["Violence"]}, "categories[0]", "no label stands for Violence; allowed: Hate"),
        ({"categories": ["homophobia"]}, "categories[0]", "is not analysed here"),
        ({"categories": ["Hate", 5]}, "categories[1]", "valid string"),
        ({"categories": "Hate"}, "categories", "valid list"),
        ({"blocklistNames": [CANARY]}, "blocklistNames", "there are no blocklists here"),
        ({"blocklistNames": [{CANARY: 1}]}, "blocklistNames[0]", "valid string"),
        ({"haltOnBlocklistHit": CANARY}, "haltOnBlocklistHit", "valid boolean"),
        ({"outputType": CANARY}, "outputType", "fourseveritylevels"),
    ],
)
def test_what_is_wrong_is_told_and_never_echoed(
    client: TestClient, caplog: pytest.LogCaptureFixture, asked: dict[str, Any], target: str, said: str
) -> None:
    with caplog.at_level(logging.DEBUG):
        response = client.post(ANALYZE, json={"text": f"{CANARY} menace", CANARY: 1, **asked})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["target"]) == (400, "InvalidRequestBody", target)
    assert said in error["message"] and error["details"] == []
    assert CANARY not in response.text and CANARY not in caplog.text


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff"])
def test_a_body_that_is_no_message_is_refused(client: TestClient, body: bytes) -> None:
    assert client.post(ANALYZE, content=body).json()["error"]["code"] == "InvalidRequestBody"


def test_the_longest_text_is_answered(client: TestClient) -> None:
    """10,000 code points, which are twice as many units where a client counts in UTF-16."""
    more = {"blocklistNames": [], "haltOnBlocklistHit": True, "categories": None}
    assert client.post(ANALYZE, json={"text": "😀" * 10_000, **more}).status_code == 200


def test_refusals_before_the_route_are_worded_alike(classifier: Classifier) -> None:
    asked = {"text": f"il menace {CANARY}"}
    keyed = local(service(classifier, keys=f"{KEYS}:1"))
    header = {"Ocp-Apim-Subscription-Key": KEY}
    answers = [
        keyed.post(ANALYZE, json=asked, headers={"Ocp-Apim-Subscription-Key": CANARY}),
        keyed.post(ANALYZE, json=asked, headers=header),
        keyed.post(ANALYZE, json=asked, headers=header),
        TestClient(service(classifier), client=("192.0.2.1", 1)).post(ANALYZE, json=asked),
        local(service(classifier, body_bytes=10)).post(ANALYZE, json=asked),
        local(service(classifier, held_bytes=1)).post(ANALYZE, json=asked),
    ]
    told = [(answer.status_code, answer.json().get("error", {}).get("code")) for answer in answers]
    assert told == [
        (401, "Unauthorized"),
        (200, None),
        (429, "TooManyRequests"),
        (403, "Forbidden"),
        (413, "InvalidRequestBody"),
        (503, "ServerBusy"),
    ]
    assert int(answers[5].headers["retry-after"]) > 0 and int(answers[2].headers["retry-after"]) > 0
    assert not any(CANARY in answer.text for answer in answers)


def test_a_failure_while_scoring_says_nothing_of_the_text(
    classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(texts: Sequence[str]) -> Any:
        raise RuntimeError(f"broke on {texts[0]}")

    with caplog.at_level(logging.DEBUG):
        response = local(service(classifier, score=fail)).post(ANALYZE, json={"text": CANARY})
    assert (response.status_code, response.json()["error"]["code"]) == (500, "InternalError")
    assert CANARY not in response.text and CANARY not in caplog.text


@pytest.fixture
def address(classifier: Classifier) -> Iterator[str]:
    with wire.live(service(classifier, keys=KEYS)) as host:
        yield f"http://{host}"


def test_the_client_in_python_works_unmodified(address: str) -> None:
    with warnings.catch_warnings():
        # What the library warns of while it is loaded is its own matter.
        warnings.simplefilter("ignore")
        library = pytest.importorskip("azure.ai.contentsafety")
        from azure.core.credentials import AzureKeyCredential
        from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
    options = library.models.AnalyzeTextOptions
    with library.ContentSafetyClient(address, AzureKeyCredential(KEY)) as client:
        answer = client.analyze_text(options(text="il menace"))
        assert [(one.category, one.severity) for one in answer.categories_analysis] == [("Hate", 0), ("Sexual", 6)]
        assert answer["route"] == "moderate" and answer.blocklists_match == []
        asked = options(text="il insulte", categories=["racism", "Hate"], output_type="EightSeverityLevels")
        own = client.analyze_text(asked).categories_analysis
        assert [(one.category, one.severity) for one in own] == [("racism", 5), ("Hate", 5)]
        with pytest.raises(HttpResponseError) as violence:
            client.analyze_text(options(text="il menace", categories=[library.models.TextCategory.VIOLENCE]))
        assert violence.value.status_code == 400 and violence.value.error is not None
        assert (violence.value.error.code, violence.value.error.target) == ("InvalidRequestBody", "categories[0]")
    with library.ContentSafetyClient(address, AzureKeyCredential("x")) as stranger:
        with pytest.raises(ClientAuthenticationError) as refused:
            stranger.analyze_text(options(text="il menace"))
        assert refused.value.status_code == 401


def test_the_client_in_javascript_works_unmodified(address: str) -> None:
    script = """
    const { default: ContentSafetyClient, isUnexpected } = require("@azure-rest/ai-content-safety");
    const { AzureKeyCredential } = require("@azure/core-auth");
    const client = ContentSafetyClient(address, new AzureKeyCredential(key), { allowInsecureConnection: true });
    const ask = (body) => client.path("/text:analyze").post({ body });
    const well = await ask({ text: "il menace", categories: ["Sexual", "sexual_extortion"] });
    const ill = await ask({ text: "il menace", categories: ["SelfHarm"] });
    say([well.body, isUnexpected(well), ill.status, isUnexpected(ill), ill.body.error.code]);
    """
    answer, unexpected, *error = node.run(script, package="@azure-rest/ai-content-safety", address=address, key=KEY)
    assert [(one["category"], one["severity"]) for one in answer["categoriesAnalysis"]] == [
        ("Sexual", 6),
        ("sexual_extortion", 6),
    ]
    assert (unexpected, *error) == (False, "400", True, "InvalidRequestBody")
