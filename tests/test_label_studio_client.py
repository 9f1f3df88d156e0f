"""The real Label Studio connects to Vigie, retrieves predictions, and keeps them.

It takes a minute to start, so it runs only where VIGIE_TEST_LABEL_STUDIO names its executable (`pip install
label-studio` in an environment of its own; 1.23.2 was tried).
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving import Classifier
from serving.artifact import read_artifact
from serving.protocols import label_studio
from tests.wire import KEY, live, service

PROGRAM = os.environ.get("VIGIE_TEST_LABEL_STUDIO")
pytestmark = pytest.mark.skipif(not PROGRAM, reason="VIGIE_TEST_LABEL_STUDIO names no label-studio executable")

TOKEN = "5e" * 20
START_S, ANSWER_S = 1800, 900
"""How long it may take on a slow machine; nothing is asserted about it."""
CONFIG = """
<View>
  <Text name="text" value="$text"/>
  <Choices name="categories" toName="text" choice="multiple">
    <Choice value="Chantage sexuel (sextorsion)" alias="sexual_extortion"/>
    <Choice value="Racisme"/> <Choice value="Autre chose"/> <Choice value="minor_involved"/>
  </Choices>
  <Choices name="voice" toName="text" choice="single">
    <Choice value="direct"/> <Choice value="testimony"/> <Choice value="commentary"/>
  </Choices>
</View>
"""
FOREIGN = '<View><Text name="text" value="$text"/><Choices name="c" toName="text"><Choice value="a"/></Choices></View>'
MANY = 70
"""Tasks beside the few that differ: more than a request may hold."""


@pytest.fixture(scope="module")
def vigie(artifact: Path) -> Iterator[str]:
    """Wants a key, and flags from 0.25 on (see `tests.wire.fake_scores`), `cyberbullying` from 0.5."""
    read = read_artifact(artifact)
    thresholds: dict[str, dict[str, float | None]] = {
        point: {**dict.fromkeys(read.label_ids, 0.25), "cyberbullying": 0.5} for point in read.thresholds
    }
    with pytest.MonkeyPatch.context() as patch:
        for module in ("serving.api", "serving.middleware"):
            patch.setattr(f"{module}.PROTOCOLS", (label_studio,))
        keys = f"annotators:{sha256(KEY.encode()).hexdigest()}"
        with live(service(Classifier(replace(read, thresholds=thresholds)), keys=keys)) as address:
            yield f"http://{address}/labelstudio"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Label Studio on this machine with an empty database, which reports to nobody."""
    folder = tmp_path_factory.mktemp("label-studio")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
        **dict.fromkeys(("HOME", "LABEL_STUDIO_BASE_DATA_DIR"), str(folder)),
        **dict.fromkeys(("COLLECT_ANALYTICS", "LATEST_VERSION_CHECK"), "false"),
        **dict.fromkeys(("SENTRY_DSN", "FRONTEND_SENTRY_DSN"), ""),
        # Vigie stands on this machine.
        **dict.fromkeys(("ML_BLOCK_LOCAL_IP", "SSRF_PROTECTION_ENABLED"), "false"),
        # It allows a second for /health, which a busy machine may need.
        **dict.fromkeys(("ML_TIMEOUT_HEALTH", "ML_TIMEOUT_SETUP", "ML_CONNECTION_TIMEOUT"), str(ANSWER_S)),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
    }
    user = ["--username", "annotation@example.org", "--password", "mot-de-passe-1", "--user-token", TOKEN]
    place = ["--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
    command = [str(PROGRAM), "start", *place, *user, "--enable-legacy-api-token"]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    options: dict[str, Any] = {"headers": {"Authorization": f"Token {TOKEN}"}, "timeout": ANSWER_S, "trust_env": False}
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", **options) as client:
            wait_for(client, process, folder / "log.txt")
            yield client
    finally:
        process.terminate()
        process.wait(ANSWER_S)


def wait_for(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it answers, or is no more."""
    until = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until:
        try:
            if client.get("/health", timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(f"Label Studio did not start: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}")


def created(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code in (200, 201), response.text
    answer: dict[str, Any] = response.json()
    return answer


def project(studio: httpx.Client, config: str) -> int:
    number: int = created(studio.post("/api/projects", json={"title": "Vigie", "label_config": config}))["id"]
    return number


def connect(studio: httpx.Client, url: str, number: int, *, password: str = KEY) -> httpx.Response:
    body = {"url": url, "project": number, "title": "Vigie", "auth_method": "BASIC_AUTH"}
    return studio.post("/api/ml", json={**body, "basic_auth_user": "vigie", "basic_auth_pass": password})


def kept(studio: httpx.Client, number: int) -> dict[str, dict[str, Any]]:
    """Text → the prediction that Label Studio keeps for it."""
    predictions = studio.get("/api/predictions", params={"project": number}).json()
    parameters = {"project": number, "page_size": 500, "fields": "all"}
    tasks = studio.get("/api/tasks", params=parameters).json()["tasks"]
    texts = {task["id"]: task["data"]["text"] for task in tasks}
    return {texts[one["task"]]: one for one in predictions}


def choices(prediction: dict[str, Any]) -> dict[str, list[str]]:
    return {block["from_name"]: block["value"]["choices"] for block in prediction["result"]}


def test_it_connects_with_a_key_and_keeps_the_predictions(studio: httpx.Client, vigie: str) -> None:
    number = project(studio, CONFIG)
    texts = ["il menace", "La chorale répète à 18 h.", "elle raconte qu'il menace", "il insulte"]
    more = [f"rien {index}" for index in range(MANY)]
    created(studio.post(f"/api/projects/{number}/import", json=[{"text": text} for text in [*texts, *more, " "]]))
    backend = created(connect(studio, vigie, number))
    assert backend["state"] == "CO" and backend["model_version"]
    versions = created(studio.get(f"/api/ml/{backend['id']}/versions"))
    assert versions == {"versions": [backend["model_version"]]}

    everything = {"selectedItems": {"all": True, "excluded": []}}
    action = {"id": "retrieve_tasks_predictions", "project": number}
    created(studio.post("/api/dm/actions", params=action, json=everything))

    found = kept(studio, number)
    # The task that holds no text has none, and spoils no other.
    assert found.keys() == {*texts, *more}
    assert {one["model_version"] for one in found.values()} == {backend["model_version"]}
    assert {text: (choices(found[text]), found[text]["score"]) for text in [*texts, more[-1]]} == {
        "il menace": ({"categories": ["sexual_extortion", "minor_involved"], "voice": ["direct"]}, 0.8),
        "La chorale répète à 18 h.": ({"categories": ["minor_involved"], "voice": ["direct"]}, 0.1),
        "elle raconte qu'il menace": (
            {"categories": ["sexual_extortion", "minor_involved"], "voice": ["testimony"]},
            0.8,
        ),
        "il insulte": ({"categories": ["Racisme", "minor_involved"], "voice": ["direct"]}, 0.6),
        more[-1]: ({"categories": ["minor_involved"], "voice": ["direct"]}, 0.1),
    }


@pytest.mark.parametrize(
    ("config", "password", "expected"),
    [(CONFIG, "f" * 64, "authentication"), (FOREIGN, KEY, "incompatible with the current labeling configuration")],
)
def test_it_says_why_it_does_not_connect(
    studio: httpx.Client, vigie: str, config: str, password: str, expected: str
) -> None:
    """For a wrong key, and for an interface without a label of ours."""
    response = connect(studio, vigie, project(studio, config), password=password)
    assert response.status_code == 400 and expected in response.text
