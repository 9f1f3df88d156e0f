"""The servers that are compared: how each is started, and how it is asked about one text."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.load import request
from tests.benchmarks.models import Shape
from tests.benchmarks.processes import Running, running
from training.labels import ROOT

OURS = "Vigie"
"""What the names of our own servers begin with."""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""For every server with as many processes as cores: torch would otherwise start threads that spin on busy cores."""


@dataclass(frozen=True, eq=False)
class Contestant:
    """`command` takes the port; `body` makes the JSON for one text."""

    name: str
    command: Callable[[int], Sequence[str]]
    path: str
    body: Callable[[str], Any]
    environment: dict[str, str] = field(default_factory=dict)

    def request(self, text: str, port: int) -> bytes:
        body = json.dumps(self.body(text), ensure_ascii=False).encode()
        return request(self.path, body, port=port)

    def requests(self, texts: Sequence[str], port: int) -> list[bytes]:
        return [self.request(text, port) for text in texts]

    @contextmanager
    def running(self, logs: Path) -> Iterator[Running]:
        """The server, ended afterwards; what it prints goes to a file in `logs`."""
        log = logs / f"{''.join(letter if letter.isalnum() else '-' for letter in self.name)}.log"
        with running(
            self.command, lambda port: self.request("Bonjour.", port), log=log, environment=self.environment
        ) as server:
            yield server


def vigie(shape: Shape, *, workers: int, precision: str) -> Contestant:
    """`python -m serving`."""
    options = ["--artifact", str(shape.artifact), "--workers", str(workers), "--precision", precision]
    return Contestant(
        f"{OURS}, {precision}",
        lambda port: [sys.executable, "-m", "serving", *options, "--port", str(port)],
        "/predict",
        lambda text: {"texts": [text]},
        ONE_THREAD,
    )


def stock_bento(shape: Shape, *, precision: str) -> Contestant:
    """The same Classifier in a stock BentoML service of one worker."""
    environment = {"RIVAL_MODEL": str(shape.artifact), "RIVAL_PRECISION": precision, "RIVAL_WORKERS": "1"}
    return _bento("stock BentoML around Vigie's Classifier", "Wrapped", environment)


def rivals(shape: Shape, *, workers: int) -> list[Contestant]:
    """What this environment has: the pipeline behind FastAPI and behind BentoML."""
    environment = {"RIVAL_MODEL": str(shape.rival), "RIVAL_WORKERS": str(workers), **ONE_THREAD}
    application = ["uvicorn", "tests.benchmarks.rival_fastapi:create", "--factory", "--no-access-log"]
    fastapi = Contestant(
        "FastAPI + pipeline",
        lambda port: [sys.executable, "-m", *application, "--workers", str(workers), "--port", str(port)],
        "/classify",
        lambda text: {"text": text},
        environment,
    )
    return [fastapi, _bento("BentoML + pipeline", "Pipeline", environment)]


def infinity(shape: Shape, environment: Path | None) -> list[Contestant]:
    """infinity-emb with both engines, from an environment of its own; nothing where that is not there.

    The optimum engine gets the graph that ONNX Runtime's tools made best: fused, and dynamic int8 per channel.
    """
    program = environment / "bin" / "infinity_emb" if environment else None
    if program is None or not program.is_file():
        return []
    # Already optimised; and a single process, so it may use both cores.
    settings = {"INFINITY_ONNX_DISABLE_OPTIMIZE": "1"}

    def command(engine: str, port: int) -> list[str]:
        options = ["--model-id", str(shape.rival), "--served-model-name", "model", "--engine", engine]
        options += ["--device", "cpu", "--no-model-warmup", "--log-level", "warning", "--no-lengths-via-tokenize"]
        return [str(program), "v2", *options, "--host", "127.0.0.1", "--port", str(port)]

    def body(text: str) -> Any:
        return {"model": "model", "input": [text]}

    return [
        Contestant("infinity-emb, torch", lambda port: command("torch", port), "/classify", body, settings),
        Contestant("infinity-emb, optimum int8", lambda port: command("optimum", port), "/classify", body, settings),
    ]


def _bento(name: str, service: str, environment: dict[str, str]) -> Contestant:
    def command(port: int) -> list[str]:
        target = f"tests.benchmarks.rival_bento:{service}"
        options = ["--working-dir", str(ROOT), "--host", "127.0.0.1", "--port", str(port)]
        return [sys.executable, "-m", "bentoml", "serve", target, *options]

    return Contestant(name, command, "/classify", lambda text: {"texts": [text]}, {**ONE_THREAD, **environment})
