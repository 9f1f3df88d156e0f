"""The real thing: `python -m serving` as processes, asked over HTTP; and the Bento that `bentoml build` makes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from serving import Classifier
from tests.conftest import ROOT

CANARY = "perroquet-bleu-7413"
START_LIMIT_S = 90


@dataclass(frozen=True)
class Server:
    url: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    client: httpx.Client
    trust: ssl.SSLContext | bool

    def workers(self) -> set[int]:
        """Process ids of the workers that this server started."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        return {child.pid for child in family if _is_worker(child)}


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "_bentoml_impl.worker.service" in process.cmdline()
    except psutil.Error:
        return False


def wait_until(true: Callable[[], bool], what: str, *, limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {limit_s} s"
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: list[str], log: Path, *, trust: ssl.SSLContext | None = None, **environment: str
) -> Iterator[Server]:
    """Start a server, wait until it is ready, and end it. With `trust`, it is asked over HTTPS."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)], cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=output
        )
    url = f"{'https' if trust else 'http'}://127.0.0.1:{port}"
    with httpx.Client(base_url=url, verify=trust or True, trust_env=False, timeout=30) as client:
        try:
            deadline = time.monotonic() + START_LIMIT_S
            while not _ready(client):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text(encoding="utf-8")
                time.sleep(0.2)
            yield Server(url, port, process, log, client, trust or True)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        yield connection


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:
        # It closed without having read all that was sent.
        pass
    return received


@pytest.fixture(scope="module")
def server(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    command = [sys.executable, "-m", "serving", "--artifact", str(artifact), "--workers", "1"]
    with running(command, tmp_path_factory.mktemp("serve") / "log.txt") as server:
        yield server


def test_it_answers_as_the_classifier_does(server: Server, artifact: Path) -> None:
    texts = ["la chorale chante jeudi", "il menace de publier les images", "", "é" * 300]
    answer = httpx.post(f"{server.url}/predict", json={"texts": texts}).json()
    assert answer["predictions"] == Classifier.from_dir(artifact).predict(texts)


def test_the_line_it_prints_works(server: Server) -> None:
    """Copied out of the log and given to a shell, as a reader would."""
    deadline = time.monotonic() + 10
    while "Try it" not in (printed := server.log.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline, printed
        time.sleep(0.1)
    lines = printed[printed.index("curl") :].split("\n\n")[0]
    result = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, timeout=30, check=True)
    assert '"predictions"' in result.stdout


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/labels", "/info", "/", "/openapi.json"])
def test_every_promised_route_is_there(server: Server, path: str) -> None:
    assert httpx.get(server.url + path).status_code == 200


def test_the_start_page_is_ours(server: Server) -> None:
    """BentoML's own would load a tag manager from elsewhere."""
    page = httpx.get(server.url + "/").text
    assert "Vigie" in page and "googletagmanager" not in page and "<script" not in page


def test_no_text_reaches_log_or_metrics(server: Server) -> None:
    """On success and on every failure a client can cause."""
    bodies = [
        {"texts": [CANARY]},
        {"texts": CANARY},
        {"texts": [CANARY], CANARY: 1},
        {"operating_point": CANARY},
        [CANARY],
    ]
    for body in bodies:
        httpx.post(f"{server.url}/predict", json=body)
    httpx.post(f"{server.url}/predict", content=f'{{"texts": ["{CANARY}"')
    httpx.post(f"{server.url}/predict", json={"texts": [CANARY * 2000]})
    httpx.post(f"{server.url}/predict", json={"texts": [CANARY * 300_000]})
    assert CANARY not in httpx.get(f"{server.url}/metrics").text
    assert CANARY not in server.log.read_text(encoding="utf-8")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_without_an_artifact_one_line_says_how_to_make_one(tmp_path: Path) -> None:
    result = run("--artifact", tmp_path)
    assert result.returncode == 2
    assert "training.train" in result.stderr and len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--host", "0.0.0.0"], "there are no API keys"),
        (["--host", "::"], "there are no API keys"),
        (["--host", "localhost"], "an IP address is needed"),
        (["--ssl-certfile", "x.pem"], "belong together"),
        (["--ssl-certfile", "x.pem", "--ssl-keyfile", "x.pem"], "x.pem: No such file"),
        (["--workers", "0"], "--workers must be 1 or more"),
    ],
)
def test_what_would_serve_too_much_or_not_at_all_is_told(arguments: list[str], expected: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert expected in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_a_taken_port_is_told(artifact: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run("--artifact", artifact, "--port", str(taken.getsockname()[1]))
    assert result.returncode == 2
    assert "choose another --port" in result.stderr and "Traceback" not in result.stderr


def test_a_plain_bentoml_serve_ends_as_early(tmp_path: Path) -> None:
    """Not one worker after the other, for ever."""
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Vigie", "--port", str(free_port())]
    environment = {**os.environ, "VIGIE_ARTIFACT": str(tmp_path)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "training.train" in result.stderr and len(result.stderr.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def bento(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A Bento built as a user builds it, in a folder that holds what the repository does, and its environment."""
    folder, home = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("bentoml")
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, folder)
    for name in ("serving", "training"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(artifact, folder / "artifacts" / "vigie-compact")
    environment = {"BENTOML_HOME": str(home)}
    command = [sys.executable, "-m", "bentoml", "build"]
    subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, timeout=120, check=True)
    (built,) = (path for path in (home / "bentos" / "vigie").iterdir() if path.is_dir())
    return built, environment


def test_the_bento_holds_serving_and_the_artifact_alone(bento: tuple[Path, dict[str, str]]) -> None:
    folder, _ = bento
    assert {path.name for path in (folder / "src").iterdir()} <= {"serving", "artifacts", "LICENSE", "bentofile.yaml"}
    assert (folder / "src/artifacts/vigie-compact/model.onnx").is_file()
    assert not (folder / "src/artifacts/vigie-compact/model.safetensors").exists()
    requirements = (folder / "env/python/requirements.txt").read_text(encoding="utf-8").lower()
    assert "onnxruntime" in requirements and "torch" not in requirements and "transformers" not in requirements
    assert "BENTOML_DO_NOT_TRACK=True" in (folder / "env/docker/Dockerfile").read_text(encoding="utf-8")


def test_the_built_bento_serves_the_same_scores(
    bento: tuple[Path, dict[str, str]], artifact: Path, tmp_path: Path
) -> None:
    _, environment = bento
    command = [sys.executable, "-m", "bentoml", "serve", "vigie:latest", "--host", "127.0.0.1"]
    with running(command, tmp_path / "log.txt", **environment, VIGIE_WORKERS="1") as server:
        answer = httpx.post(f"{server.url}/predict", json={"texts": ["la chorale chante"]}).json()
    assert answer["predictions"] == Classifier.from_dir(artifact).predict(["la chorale chante"])
