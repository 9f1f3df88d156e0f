"""What tests of wire protocols share: the whole way in over scores that follow from words, and a live server."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.testclient import TestClient

from serving import Classifier
from serving.api import create_app
from serving.auth import Access, Keys
from serving.batcher import Batcher
from serving.gateway import Gateway
from serving.limits import Limits
from serving.middleware import middlewares

CANARY = "perroquet-bleu-7413"
KEY = "d4" * 32


def fake_scores(classifier: Classifier) -> Callable[[Sequence[str]], Any]:
    """Scores that follow from words: what each test expects can be worked out by hand.

    "menace" makes sexual_extortion 0.8 (else 0.1), "insulte" racism 0.6 (else 0.05), cyberbullying is always 0.3 and
    minor_involved 0.7. A text speaks as direct (0.9, testimony 0.05), with "raconte" as testimony (0.3, direct 0.1).
    """
    labels = classifier.artifact.label_ids

    def score(texts: Sequence[str]) -> Any:
        return np.array([[_fake(label, text) for label in labels] for text in texts])

    return score


def _fake(label: str, text: str) -> float:
    found = {
        "sexual_extortion": 0.8 if "menace" in text else 0.1,
        "racism": 0.6 if "insulte" in text else 0.05,
        "cyberbullying": 0.3,
        "minor_involved": 0.7,
        "direct": 0.1 if "raconte" in text else 0.9,
        "testimony": 0.3 if "raconte" in text else 0.05,
    }
    return found.get(label, 0.0)


def service(classifier: Classifier, *, score: Any = None, keys: str = "", **limits: int) -> Starlette:
    """The whole way in, with every protocol served; limits as `serving.limits.Limits` names them."""
    bounds = Limits(**limits)
    gateway = Gateway(classifier, Batcher(score or fake_scores(classifier)), bounds)
    app = create_app(bounds)
    app.state.gateway = gateway
    access = Access(Keys(text=keys)) if keys else Access()
    return Starlette(
        middleware=middlewares(app, limits=bounds, access=access, origins=(), gateway=lambda: gateway),
    )


def serve_alone(monkeypatch: pytest.MonkeyPatch, *protocols: Any) -> None:
    """Let the application serve these protocols and no others, as if no variable of Vigie's were set."""
    for module in ("serving.api", "serving.middleware"):
        monkeypatch.setattr(f"{module}.PROTOCOLS", protocols)
    for variable in [name for name in os.environ if name.startswith("VIGIE_")]:
        monkeypatch.delenv(variable)


def local(app: Any, base: str = "http://127.0.0.1:3000") -> TestClient:
    """A client on this machine."""
    return TestClient(app, base_url=base, client=("127.0.0.1", 50000), raise_server_exceptions=False)


@contextlib.contextmanager
def live(app: Any, **config: Any) -> Iterator[str]:
    """A server on this machine, `host:port`, for clients that nobody here wrote."""
    # What connects before it accepts waits at the socket.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", **config))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
