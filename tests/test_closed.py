"""As processes: nothing goes out, nobody without a key comes in, and no request is lost when one of them ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving import Classifier
from tests.test_service import Server, connected, read_to_end, running, wait_until

KEY = "c3" * 32

_GUARD = """
import ipaddress, os, socket

def note(line):
    with open(os.environ["VIGIE_TEST_SOCKETS"], "a", encoding="utf-8") as file:
        file.write(line + "\\n")

def is_local(host):
    if host in (None, "", "localhost", b"localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified

def guard(owner, name, place):
    original = getattr(owner, name)
    def guarded(*arguments, **keywords):
        target = arguments[place]
        host = target[0] if isinstance(target, tuple) else target
        unix = owner is socket.socket and arguments[0].family == socket.AF_UNIX
        if not unix and not is_local(host):
            note(f"outgoing {name} {host!r}")
            raise OSError("this test lets nothing out")
        return original(*arguments, **keywords)
    setattr(owner, name, guarded)

for name in ("connect", "connect_ex"):
    guard(socket.socket, name, 1)
guard(socket.socket, "sendto", -1)
for name in ("getaddrinfo", "gethostbyname"):
    guard(socket, name, 0)
note(f"guarded {os.getpid()}")
"""


@pytest.fixture
def no_way_out(tmp_path: Path) -> dict[str, str]:
    """Environment of processes in which a connection beyond this machine fails, and is written down."""
    folder = tmp_path / "guard"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_GUARD, encoding="utf-8")
    return {"PYTHONPATH": str(folder), "VIGIE_TEST_SOCKETS": str(tmp_path / "sockets.txt")}


def test_the_guard_sees_what_goes_out(no_way_out: dict[str, str]) -> None:
    """Or the next test would prove nothing."""
    code = "import httpx; httpx.get('http://vigie.invalid', trust_env=False)"
    result = subprocess.run([sys.executable, "-c", code], env={**os.environ, **no_way_out}, capture_output=True)
    assert result.returncode == 1
    assert "outgoing getaddrinfo 'vigie.invalid'" in Path(no_way_out["VIGIE_TEST_SOCKETS"]).read_text(encoding="utf-8")


def test_nothing_goes_out_and_what_was_accepted_is_finished(
    artifact: Path, tmp_path: Path, no_way_out: dict[str, str]
) -> None:
    """Under a plain `bentoml serve` too, from start to end.

    A request whose body the server waits for when the signal comes is answered. The end of an idle connection tells
    that the worker has begun to shut down.
    """
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Vigie", "--host", "127.0.0.1"]
    environment = {"VIGIE_ARTIFACT": str(artifact), "VIGIE_WORKERS": "1", "BENTOML_DO_NOT_TRACK": "False"}
    body = b'{"texts": ["la chorale chante"]}'
    with running(command, tmp_path / "log.txt", **environment, **no_way_out) as server:
        with connected(server) as idle, connected(server) as accepted:
            idle.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert idle.recv(65536)
            accepted.sendall(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body)
            )
            assert b"100 Continue" in accepted.recv(65536)
            server.process.send_signal(signal.SIGTERM)
            read_to_end(idle)
            accepted.sendall(body)
            head, _, answer = read_to_end(accepted).partition(b"\r\n\r\n")
        assert server.process.wait(60) == 0
    assert b" 200 OK" in head
    assert json.loads(answer)["predictions"] == Classifier.from_dir(artifact).predict(["la chorale chante"])
    seen = Path(no_way_out["VIGIE_TEST_SOCKETS"]).read_text(encoding="utf-8").splitlines()
    assert len({line for line in seen if line.startswith("guarded")}) >= 2
    assert not [line for line in seen if line.startswith("outgoing")]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, which makes the certificate")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return certificate, key


@pytest.fixture(scope="module")
def closed(
    artifact: Path, certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """As in production: two workers, HTTPS, keys from a file, an address that others could reach.

    It ends with exit code 0 when told.
    """
    folder = tmp_path_factory.mktemp("closed")
    (folder / "keys").write_text(f"moderation:{sha256(KEY.encode()).hexdigest()}\n", encoding="utf-8")
    command = [sys.executable, "-m", "serving", "--artifact", str(artifact), "--workers", "2", "--host", "0.0.0.0"]
    command += ["--ssl-certfile", str(certificate[0]), "--ssl-keyfile", str(certificate[1])]
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    with running(command, folder / "log.txt", trust=trust, VIGIE_API_KEYS_FILE=str(folder / "keys")) as server:
        yield server
        # A client that keeps its TLS connection open and is silent is waited for, for half a minute at most.
        server.client.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


def predict(server: Server, **asked: Any) -> httpx.Response:
    """On a connection of its own, so that any worker may answer."""
    with httpx.Client(verify=server.trust, trust_env=False, timeout=30) as client:
        return client.post(f"{server.url}/predict", json={"texts": ["la chorale chante"]}, **asked)


def test_https_answers_who_has_a_key_and_nobody_else(closed: Server) -> None:
    assert predict(closed, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert predict(closed, params={"key": KEY}).status_code == 200
    assert predict(closed).status_code == predict(closed, headers={"X-API-Key": "d4" * 32}).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        *("/metrics", "/labels", "/info", "/", "/openapi.json", "/docs.json", "/schema.json"),
        *("/tei/health", "/tei/info", "/v2", "/v2/health/live", "/v2/health/ready", "/labelstudio/health"),
    ],
)
def test_nothing_but_health_is_open(closed: Server, path: str) -> None:
    assert closed.client.get(path).status_code == 401
    assert closed.client.get("/livez").status_code == closed.client.get("/readyz").status_code == 200


def test_keys_stay_out_of_the_log(closed: Server) -> None:
    """Neither the ones that open nor the ones that do not, which may be those of another service."""
    for key in (KEY, "d4" * 32):
        predict(closed, params={"key": key})
        closed.client.get("/metrics", headers={"Authorization": f"Bearer {key}"})
    log = closed.log.read_text(encoding="utf-8")
    assert KEY not in log and "d4" * 32 not in log and sha256(KEY.encode()).hexdigest() not in log


def test_a_killed_worker_is_replaced_while_the_other_answers(closed: Server) -> None:
    wait_until(lambda: len(closed.workers()) == 2, "two workers")
    before = closed.workers()
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    # A killed process gives its sockets back when the last of its threads has ended.
    wait_until(lambda: len(list(Path(f"/proc/{killed}/task").glob("*"))) <= 1, "the worker's death")
    wait_until(lambda: killed not in closed.workers(), "the worker's death")
    answers = [predict(closed, headers={"X-API-Key": KEY}).status_code for _ in range(20)]
    assert answers == [200] * 20
    wait_until(lambda: len(closed.workers() - {killed}) == 2, "a new worker")
    assert before - {killed} < closed.workers()
