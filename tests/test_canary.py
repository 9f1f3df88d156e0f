"""A word that nobody else writes is sent to a real process wherever one can be: it must come out nowhere.

Every route and method, every way to succeed and to fail. Read are all answers, the log (both streams), the figures, and
every file that the process leaves. Two things go back to who sent them on purpose: a sane X-Request-ID, which the log
holds too, and the Host in the address that the discovery document gives.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from serving import Classifier
from serving.api import create_app
from serving.auth import HEALTH
from serving.limits import Limits
from serving.observe import templates_of
from tests.test_api import service
from tests.test_service import Server, connected, read_to_end, running, wait_until

CANARY = "perroquet-bleu-7413"
PART = b"perroquet"
"""What is looked for, in any case: half of it would be too much."""
KEY, RATED = "f6" * 32, "a7" * 32
OWN_ID = "choisi-par-le-client.1"
ORIGIN = "https://moderation.example"
PRINTED = "cacatoes-vert-5120"
METHODS = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "PERROQUET-BLEU-7413"]
PATHS = sorted({*templates_of(create_app(Limits()).routes), *HEALTH, "/schema.json", "/docs", "/static_content/x"})

_SABOTAGE = """
import logging, os, pathlib, threading, time, warnings
import wrapt

def fail(said):
    raise LookupError(said)

@wrapt.when_imported("serving.engine")
def sabotage(module):
    original = module.Engine.logits

    def logits(self, texts):
        said = " ".join(texts)
        if "casse" in said:
            logging.getLogger("library").error("cannot read %s", said)
            logging.error("cannot read " + said, extra={"text": said})
            warnings.warn(said)
            threading.Thread(target=fail, args=(said,), name=said).start()
            raise ValueError("cannot read " + said) from KeyError(said)
        if "imprime" in said:
            print(said, flush=True)
        if "attend" in said:
            folder = pathlib.Path(os.environ["VIGIE_TEST_FOLDER"])
            (folder / "busy").touch()
            while not (folder / "free").exists():
                time.sleep(0.01)
        return original(self, texts)

    module.Engine.logits = logits
"""


@dataclass
class Scene:
    """What one process said while it was sent the canary in every way."""

    folder: Path
    statuses: set[int] = field(default_factory=set)
    sent: int = 0
    guilty: list[str] = field(default_factory=list)
    """Requests whose answer held the canary."""
    own_id: list[str] = field(default_factory=list)
    pages: dict[str, str] = field(default_factory=dict)
    """What the routes that describe and count say at the end."""
    files: dict[str, bytes] = field(default_factory=dict)

    def note(self, what: str, answer: bytes) -> None:
        """Remember a raw answer: head and body."""
        self.sent += 1
        if answer:
            self.statuses.add(int(answer.split(maxsplit=2)[1]))
        if PART in answer.lower():
            self.guilty.append(what)

    def ask(self, client: httpx.Client, method: str, url: str, what: str = "", **asked: Any) -> httpx.Response:
        response = client.request(method, url, **asked)
        head = b"".join(b"%s: %s\r\n" % pair for pair in response.headers.raw)
        self.note(f"{method} {url} {what}", b"HTTP/1.1 %d\r\n%s\r\n%s" % (response.status_code, head, response.content))
        return response


@pytest.fixture(scope="module")
def scene(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    scene = Scene(tmp_path_factory.mktemp("canary"))
    (scene.folder / "hook").mkdir()
    (scene.folder / "hook" / "sitecustomize.py").write_text(_SABOTAGE, encoding="utf-8")
    (scene.folder / "left").mkdir()
    stored = [f"ours:{sha256(KEY.encode()).hexdigest()}", f"rated:{sha256(RATED.encode()).hexdigest()}:1"]
    command = [sys.executable, "-m", "serving", "--artifact", str(artifact), "--workers", "1"]
    environment = {
        "VIGIE_API_KEYS": ",".join(stored),
        "VIGIE_CORS_ORIGINS": ORIGIN,
        "VIGIE_LOG_LEVEL": "DEBUG",
        "VIGIE_MAX_BODY_BYTES": "50000",
        "VIGIE_MAX_CHARACTERS": "2000",
        "VIGIE_MAX_QUEUE": "1",
        "VIGIE_DEADLINE_MS": "4000",
        "VIGIE_READ_TIMEOUT_S": "1",
        "VIGIE_TEST_FOLDER": str(scene.folder),
        "PYTHONPATH": str(scene.folder / "hook"),
        "PYTHONDONTWRITEBYTECODE": "1",
        **dict.fromkeys(("TMPDIR", "HOME", "BENTOML_HOME"), str(scene.folder / "left")),
    }
    with running(command, scene.folder / "log.txt", **environment) as server:
        server.client.headers.update({"X-API-Key": KEY})
        everywhere(scene, server.client)
        bodies(scene, server.client)
        keys(scene, server)
        other_web_pages(scene, server.client)
        raw(scene, server)
        broken(scene, server.client)
        overloaded(scene, server)
        at_the_end(scene, server.client)
    return scene


def everywhere(scene: Scene, client: httpx.Client) -> None:
    """Each path and method, with the word in path, query, headers and body."""
    for path in PATHS:
        for method in METHODS:
            scene.ask(client, method, path, content=json.dumps({CANARY: CANARY, "texts": [CANARY]}))
            scene.ask(client, method, f"{path.rstrip('/')}/{CANARY}?{CANARY}={CANARY}&version={CANARY}&alt={CANARY}")
            scene.ask(client, method, path, "headers", headers=HEADERS)
            if "discovery" not in path:
                scene.ask(client, method, path, "host", headers={"Host": CANARY, "X-Forwarded-Host": CANARY})
    answer = scene.ask(client, "GET", "/labels", headers={"X-Request-ID": OWN_ID})
    scene.own_id.append(answer.headers["x-request-id"])


_NAMES = [
    *("Accept", "Accept-Language", "Content-Type", "Content-Encoding", "Cookie", "Forwarded", "From", "Origin"),
    *("Referer", "Traceparent", "Tracestate", "Baggage", "User-Agent", "X-Forwarded-For", "X-Forwarded-Proto"),
    *("If-None-Match", "Range", "TE", CANARY),
]
HEADERS = dict.fromkeys(_NAMES, CANARY) | {"X-Request-ID": f"{CANARY} and more"}


def bodies(scene: Scene, client: httpx.Client) -> None:
    """Right, wrong in every field, broken, too long and too large."""
    comment = {"text": CANARY, "type": "PLAIN_TEXT"}
    asked = [
        {"texts": [CANARY]},
        {"texts": CANARY},
        {"texts": [CANARY, 5]},
        {"texts": [{CANARY: CANARY}]},
        {"texts": [CANARY], "operating_point": CANARY},
        {"texts": [CANARY], "operating_point": [CANARY]},
        {"texts": [CANARY] * 65},
        {"texts": [CANARY * 200]},
        {"texts": [CANARY], CANARY: CANARY},
        [CANARY],
        CANARY,
        {"comment": comment, "requestedAttributes": {"TOXICITY": {}, "SEXUAL_EXTORTION": {}}},
        {"comment": comment, "requestedAttributes": {CANARY: {CANARY: CANARY}}},
        {"comment": comment, "requestedAttributes": {"TOXICITY": {"scoreType": CANARY}}},
        {"comment": comment, "languages": [CANARY], "sessionId": CANARY, "communityId": CANARY},
        {"comment": {"text": CANARY, "type": CANARY}, "context": {"entries": [comment, {CANARY: CANARY}]}},
        {"comment": {"text": f"<p {CANARY}>{CANARY}", "type": "HTML"}, "requestedAttributes": {"TOXICITY": {}}},
        {"comment": comment, "attributeScores": {CANARY: {"summaryScore": {"value": CANARY}}}},
        {"comment": {"text": CANARY * 200}, "requestedAttributes": {"TOXICITY": {}}},
        {"comment": comment, "attributeScores": {"TOXICITY": {"summaryScore": {"value": 0.5}}}},
    ]
    broken = [f'{{"texts": ["{CANARY}', f"{CANARY}={CANARY}", CANARY * 5000, f'{{"texts": ["{CANARY}\n"]}}']
    for path in [path for path in PATHS if path not in HEALTH]:
        for body in (*map(json.dumps, asked), *broken):
            scene.ask(client, "POST", path, body[:60], content=body)
            if CANARY * 100 in body:
                scene.ask(client, "POST", path, "in pieces", content=iter([body.encode()]))
        scene.ask(client, "POST", path, "utf-16", content=json.dumps({"texts": [CANARY, 5]}).encode("utf-16"))
        scene.ask(client, "POST", path, "a form", data={CANARY: CANARY})
        scene.ask(client, "POST", path, "a file", files={CANARY: (CANARY, CANARY)})


def keys(scene: Scene, server: Server) -> None:
    """The word as a key, short and as long as one, in all places; and one that has used up its rate."""
    with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as stranger:
        for path in PATHS:
            for key in (CANARY, CANARY * 3):
                for name in ("X-API-Key", "api-key", "Ocp-Apim-Subscription-Key"):
                    scene.ask(stranger, "GET", path, name, headers={name: key})
                for scheme in ("Bearer", "Basic", CANARY):
                    scene.ask(stranger, "POST", path, scheme, headers={"Authorization": f"{scheme} {key}"})
                scene.ask(stranger, "POST", path, "in the query", params={"key": key})
            headers = {"X-API-Key": RATED, "User-Agent": CANARY}
            scene.ask(stranger, "POST", path, "too often", headers=headers, json={"texts": [CANARY]})


def other_web_pages(scene: Scene, client: httpx.Client) -> None:
    """Before a browser sends a request of another page, it asks with which headers it may."""
    for origin in (ORIGIN, f"https://{CANARY}.example"):
        asks = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": CANARY}
        for method in ("POST", CANARY):
            asks["Access-Control-Request-Method"] = method
            scene.ask(client, "OPTIONS", "/predict", f"from {origin}", headers=asks)
        scene.ask(client, "POST", "/predict", f"from {origin}", headers={"Origin": origin}, json={"texts": [CANARY]})


def raw(scene: Scene, server: Server) -> None:
    """What no client library sends."""
    host = b"Host: localhost\r\nX-API-Key: " + KEY.encode() + b"\r\nConnection: close\r\n"
    word = CANARY.encode()
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + word
    for request in (
        word + b"\r\n\r\n",
        b"GET " + word + b" HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /" + word + b"\x80\xff?key=\x80" + word + b" HTTP/1.1\r\n" + host + b"\r\n",
        b"GET http://" + word + b"/" + word + b" HTTP/1.1\r\n" + host + b"\r\n",
        b"CONNECT " + word + b":443 HTTP/1.1\r\n" + host + b"\r\n",
        b"GET / HTTP/9.9 " + word + b"\r\n" + host + b"\r\n",
        b"GET / HTTP/1.1\r\n" + word + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"X-A: " + word * 5000 + b"\r\n\r\n",
        b"POST /predict HTTP/1.1\r\n" + host + b"Content-Length: " + word + b"\r\n\r\n",
        b"POST /predict HTTP/1.1\r\n" + host + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + word,
        b"POST /predict HTTP/1.1\r\n" + host + b"Transfer-Encoding: " + word + b"\r\n\r\n" + word,
        b"POST /predict HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n" + word + b"\r\n" + word,
        b"POST /predict?key=\x80" + word + b" HTTP/1.1\r\n" + host + b"Content-Length: 2\r\n\r\n{}",
        b"POST /predict HTTP/1.1\r\n" + host + b"Content-Length: 5000\r\n\r\n" + word,
        b"GET /"
        + word
        + b" HTTP/1.1\r\nHost: localhost\r\n"
        + upgrade
        + b"\r\nSec-WebSocket-Protocol: "
        + word
        + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + word,
        b"\x16\x03\x01\x02\x00\x01" + word,
    ):
        with connected(server) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(request)
            scene.note(repr(request[:80]), read_to_end(connection))


def broken(scene: Scene, client: httpx.Client) -> None:
    """The engine fails, and quotes the text in every way that code can."""
    for path in PATHS:
        for body in ({"texts": [f"{CANARY} casse"]}, {"comment": {"text": f"{CANARY} casse"}, **ATTRIBUTES}):
            scene.ask(client, "POST", path, "broken", json=body)
    client.post("/predict", json={"texts": [f"imprime {PRINTED}"]})


ATTRIBUTES: dict[str, Any] = {"requestedAttributes": {"TOXICITY": {}}}


@contextlib.contextmanager
def asking(server: Server, text: str) -> Iterator[socket.socket]:
    """A request that was sent and is not answered yet."""
    body = json.dumps({"texts": [text]}).encode()
    head = f"POST /predict?{CANARY} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nConnection: close\r\n"
    with connected(server) as connection:
        connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        yield connection


def overloaded(scene: Scene, server: Server) -> None:
    """One request keeps the engine busy until its deadline, one waits and leaves, one finds the queue full."""
    with asking(server, f"{CANARY} attend") as late:
        wait_until((scene.folder / "busy").exists, "the engine's being busy")
        with asking(server, CANARY):
            wait_until(lambda: "vigie_queue_texts 1.0" in server.client.get("/metrics").text, "one that waits")
            scene.ask(server.client, "POST", "/predict", "queue full", json={"texts": [CANARY]})
        wait_until(lambda: "vigie_queue_texts 0.0" in server.client.get("/metrics").text, "its leaving")
        scene.note("deadline", read_to_end(late))
    (scene.folder / "free").touch()


def at_the_end(scene: Scene, client: httpx.Client) -> None:
    for path in PATHS:
        scene.pages[path] = scene.ask(client, "GET", path, "at the end").text
    for file in (scene.folder / "left").rglob("*"):
        if file.is_file():
            scene.files[file.name] = file.read_bytes()


def log_of(scene: Scene) -> str:
    return (scene.folder / "log.txt").read_text(encoding="utf-8")


def test_every_way_to_succeed_and_to_fail_was_tried(scene: Scene) -> None:
    """Or the tests below would prove little."""
    assert {200, 400, 401, 404, 405, 413, 422, 429, 500, 501, 503} <= scene.statuses
    assert scene.pages["/metrics"].count("vigie_requests_total{") > 20
    assert 'status="499"' in scene.pages["/metrics"]
    assert 'vigie_refusals_total{kind="overloaded"} 2.' in scene.pages["/metrics"]


def test_no_answer_holds_it(scene: Scene) -> None:
    assert scene.guilty == []


def test_the_log_does_not_hold_it(scene: Scene) -> None:
    log = log_of(scene)
    # The log is that of the worker, both streams.
    assert PRINTED in log and '"event": "request"' in log and "LookupError" in log and "UserWarning" in log
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
