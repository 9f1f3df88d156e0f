"""A word that nobody else writes is sent to a real process wherever one can be: it must come out nowhere.

Every route and method, every way to succeed and to fail, in the shape of every protocol (`tests.canary`). Read are all
answers, the log (both streams), the figures, and every file that the process leaves. Some things go back to who sent
them on purpose:

- a sane X-Request-ID, which the log holds too, and the Host in the address that the discovery document gives;
- Perspective's `clientToken`, the Open Inference Protocol's `id`, and in Label Studio's results the names that the
  project's interface has for its blocks. For these another word is sent, which must come out there and nowhere else.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Route
from starlette.testclient import TestClient

from serving import Classifier
from serving.auth import HEALTH
from tests.canary import CHOSEN, HEADERS, OWN_ID, PART, PATHS, PRINTED, ROUTES, TEMPLATES, Scene, played
from tests.test_api import service
from tests.wire import CANARY


@pytest.fixture(scope="module")
def scene(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return played(artifact, tmp_path_factory.mktemp("canary"))


def log_of(scene: Scene) -> str:
    return (scene.folder / "log.txt").read_text(encoding="utf-8")


def test_every_way_to_succeed_and_to_fail_was_tried(scene: Scene) -> None:
    """Or the tests below would prove little."""
    assert {200, 400, 401, 404, 405, 413, 422, 429, 500, 501, 503} <= scene.statuses
    assert scene.pages["/metrics"].count("vigie_requests_total{") > 20
    assert 'status="499"' in scene.pages["/metrics"]
    assert 'vigie_refusals_total{kind="overloaded"} 2.' in scene.pages["/metrics"]


def test_what_is_right_is_answered_and_fails_with_the_engine(scene: Scene) -> None:
    """Scores that are suggested are checked and declined; and what scores no text does not fail."""
    declined = {"/v1alpha1/comments:suggestscore": 501, "/labelstudio/webhook": 201}
    unscored = declined | {"/labelstudio/setup": 200, "/labelstudio/validate": 200}
    posted = {route.path for route in ROUTES if isinstance(route, Route) and "POST" in (route.methods or ())}
    assert scene.right.keys() == posted - {"/v2/{path:path}"}
    assert {path: status for path, status in scene.right.items() if status not in (200, 204)} == declined
    assert scene.failed == {path: 424 if "tei" in path else 500 for path in scene.right} | unscored


def test_no_answer_holds_it(scene: Scene) -> None:
    assert scene.guilty == []


def test_every_answer_in_json_can_be_read(scene: Scene) -> None:
    assert scene.unsound == []


def test_what_a_protocol_gives_back_comes_out_there_and_nowhere_else(scene: Scene) -> None:
    infer = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")
    assert scene.returned == {"/v1alpha1/comments:analyze", "/labelstudio/predict", *map(scene.path, infer)}
    kept = [log_of(scene).encode(), *(page.encode() for page in scene.pages.values()), *scene.files.values()]
    assert [at for at, content in enumerate(kept) if CHOSEN.encode() in content] == []


def test_figures_tell_of_templates_and_never_of_paths_as_asked(scene: Scene) -> None:
    figures = {family.name: family for family in text_string_to_metric_families(scene.pages["/metrics"])}
    told = {sample.labels["route"] for sample in figures["vigie_requests"].samples}
    assert told == {*TEMPLATES, "other"} and "/v2/models/{model}/infer" in told


def test_the_log_does_not_hold_it(scene: Scene) -> None:
    log = log_of(scene)
    # The log is that of the worker, both streams.
    assert PRINTED in log and '"event":"request"' in log and "LookupError" in log and "UserWarning" in log
    assert PART not in log.lower().encode()


def test_no_figure_and_no_description_holds_it(scene: Scene) -> None:
    assert len(scene.pages["/metrics"]) > 1000 and '"openapi"' in scene.pages["/openapi.json"]
    assert [path for path, page in scene.pages.items() if PART in page.lower().encode()] == []


def test_no_file_is_left_that_holds_it(scene: Scene) -> None:
    """The figures are kept in files, which show that the right folder was read."""
    assert any(name.endswith(".db") for name in scene.files)
    assert [name for name, content in scene.files.items() if PART in content.lower() + name.encode()] == []


def test_a_sane_request_id_is_the_clients_own(scene: Scene) -> None:
    assert scene.own_id == [OWN_ID] and OWN_ID in log_of(scene)


def test_who_may_not_ask_is_not_quoted(artifact: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without keys strangers are refused, and so are pages under a name that leads here."""
    stranger = TestClient(service(Classifier.from_dir(artifact)), base_url=f"http://{CANARY}")
    with caplog.at_level(logging.DEBUG, logger="vigie"):
        answers = [stranger.post(f"{path}?{CANARY}", headers=HEADERS, content=CANARY) for path in set(PATHS) - HEALTH]
    assert {answer.status_code for answer in answers} == {403} and len(caplog.records) == len(answers)
    shown = [
        *(f"{answer.headers}{answer.text}" for answer in answers),
        *(str(vars(record)) for record in caplog.records),
    ]
    assert [one for one in shown if PART.decode() in one.lower()] == []
