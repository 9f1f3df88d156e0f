"""A real process that is sent a marked word in every way there is, and what it said meanwhile."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import orjson

from serving.api import create_app
from serving.auth import HEALTH
from serving.limits import Limits
from serving.observe import templates_of
from tests.shapes import LENGTH, SECRET, Words, requests, signed
from tests.test_service import Server, connected, read_to_end, running, wait_until
from tests.wire import CANARY

PART = b"perroquet"
"""What is looked for, in any case: half of it would be too much."""
CHOSEN = "ara-jaune-2091"
"""What is sent where a protocol has to give it back."""
KEY, RATED = "f6" * 32, "a7" * 32
OWN_ID = "choisi-par-le-client.1"
ORIGIN = "https://moderation.example"
PRINTED = "cacatoes-vert-5120"
METHODS = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "PERROQUET-BLEU-7413"]
ROUTES = create_app(Limits()).routes
TEMPLATES = {*templates_of(ROUTES), *HEALTH}
PATHS = sorted({*TEMPLATES, "/schema.json", "/docs", "/static_content/x"})

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
    served: dict[str, str] = field(default_factory=dict)
    """What stands in paths for the parameters of their templates."""
    statuses: set[int] = field(default_factory=set)
    sent: int = 0
    guilty: list[str] = field(default_factory=list)
    """Requests whose answer held the canary."""
    unsound: list[str] = field(default_factory=list)
    """Requests whose answer was said to be JSON and is not, as where it holds NaN."""
    returned: set[str] = field(default_factory=set)
    """Paths whose answer held what a protocol gives back."""
    right: dict[str, int] = field(default_factory=dict)
    """Path template → status of what is right there."""
    failed: dict[str, int] = field(default_factory=dict)
    """Path template → status of the same while the engine fails."""
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

    def path(self, template: str) -> str:
        """A path that the template stands for, with the model that is served."""
        return re.sub(r"{(\w+)[^}]*}", lambda parameter: self.served[parameter[1]], template)

    def ask(self, client: httpx.Client, method: str, url: str, what: str = "", **asked: Any) -> httpx.Response:
        response = client.request(method, url, **asked)
        if method != "HEAD" and response.headers.get("content-type") == "application/json":
            try:
                orjson.loads(response.content)
            except orjson.JSONDecodeError:
                self.unsound.append(f"{method} {url} {what}")
        if CHOSEN.encode() in response.content:
            self.returned.add(url)
        head = b"".join(b"%s: %s\r\n" % pair for pair in response.headers.raw)
        self.note(f"{method} {url} {what}", b"HTTP/1.1 %d\r\n%s\r\n%s" % (response.status_code, head, response.content))
        return response


def played(artifact: Path, folder: Path) -> Scene:
    """All of it, with the artifact served; the log and what the process leaves are in the folder."""
    scene = Scene(folder)
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
        "VIGIE_CORAL_SECRETS": SECRET,
        "VIGIE_TEST_FOLDER": str(scene.folder),
        "PYTHONPATH": str(scene.folder / "hook"),
        "PYTHONDONTWRITEBYTECODE": "1",
        **dict.fromkeys(("TMPDIR", "HOME", "BENTOML_HOME"), str(scene.folder / "left")),
    }
    with running(command, scene.folder / "log.txt", **environment) as server:
        server.client.headers.update({"X-API-Key": KEY})
        model = server.client.get("/info").json()["model"]
        scene.served = {"model": model["name"], "version": model["version"], "path": "nowhere"}
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
    for template in PATHS:
        path, host = scene.path(template), {"Host": CANARY, "X-Forwarded-Host": CANARY}
        for method in METHODS:
            headers = HEADERS | ({} if "discovery" in path else host)
            body = json.dumps({CANARY: CANARY, "texts": [CANARY]})
            scene.ask(client, method, path + QUERY, "headers", headers=headers, content=body)
            scene.ask(client, method, f"{path.rstrip('/')}/{CANARY}{QUERY}", content=body)
            if "{" in template:
                scene.ask(client, method, re.sub("{[^}]*}", CANARY, template))
    answer = scene.ask(client, "GET", "/labels", headers={"X-Request-ID": OWN_ID})
    scene.own_id.append(answer.headers["x-request-id"])


_NAMES = [
    *("Accept", "Accept-Language", "Content-Type", "Content-Encoding", "Cookie", "Forwarded", "From", "Origin"),
    *("Referer", "Traceparent", "Tracestate", "Baggage", "User-Agent", "X-Forwarded-For", "X-Forwarded-Proto"),
    *("If-None-Match", "Range", "TE", "X-Coral-Signature", LENGTH, CANARY),
]
HEADERS = dict.fromkeys(_NAMES, CANARY) | {"X-Request-ID": f"{CANARY} and more"}
QUERY = f"?{CANARY}={CANARY}&version={CANARY}&alt={CANARY}"
ANYTHING = [
    *map(json.dumps, [[CANARY], CANARY, {CANARY: CANARY}, {"texts": [CANARY, 5]}]),
    *(f'{{"input": ["{CANARY}', f"{CANARY}={CANARY}", f'{{"text": ["{CANARY}\n"]}}', CANARY * 5000),
    json.dumps({"inputs": [CANARY, 5]}).encode("utf-16"),
]
"""Bodies for every path: of no shape that it knows, broken, and too large."""


def bodies(scene: Scene, client: httpx.Client) -> None:
    """To every path what no route can read, and to each protocol's own what is right, and wrong in every field."""
    for template in [path for path in PATHS if path not in HEALTH]:
        path = scene.path(template)
        for body in ANYTHING:
            content = body if isinstance(body, bytes) else body.encode()
            scene.ask(client, "POST", path, repr(body[:60]), content=content, headers=signed(content))
        scene.ask(client, "POST", path, "in pieces", content=iter([CANARY.encode() * 5000]))
        scene.ask(client, "POST", path, "a form", data={CANARY: CANARY})
        scene.ask(client, "POST", path, "a file", files={CANARY: (CANARY, CANARY)})
        for asked in requests(Words(CANARY, CHOSEN), template):
            what = f"{dict(asked.headers)} {asked.body[:200]!r}"
            answer = scene.ask(client, "POST", path, what, content=asked.body, headers=asked.headers)
            scene.right.setdefault(template, answer.status_code)


def keys(scene: Scene, server: Server) -> None:
    """The word as a key, short and as long as one, in all places; and one that has used up its rate."""
    with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as stranger:
        for path in map(scene.path, PATHS):
            for key in (CANARY, CANARY * 3):
                headers = dict.fromkeys(("X-API-Key", "api-key", "Ocp-Apim-Subscription-Key"), key)
                scene.ask(stranger, "GET", path, "three headers", headers=headers, params={"key": key})
                for scheme in ("Bearer", "Basic", CANARY):
                    scene.ask(stranger, "POST", path, scheme, headers={"Authorization": f"{scheme} {key}"})
            password = base64.b64encode(f"{CANARY}:{CANARY * 3}".encode()).decode()
            scene.ask(stranger, "POST", path, "a password", headers={"Authorization": f"Basic {password}"})
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
    for template in PATHS:
        for asked in requests(Words(f"{CANARY} casse", CHOSEN), template)[:1]:
            answer = scene.ask(
                client, "POST", scene.path(template), "broken", content=asked.body, headers=asked.headers
            )
            scene.failed[template] = answer.status_code
    client.post("/predict", json={"texts": [f"imprime {PRINTED}"]})


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
        scene.pages[path] = scene.ask(client, "GET", scene.path(path), "at the end").text
    for file in (scene.folder / "left").rglob("*"):
        if file.is_file():
            scene.files[file.name] = file.read_bytes()
