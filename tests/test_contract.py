"""The service keeps what /openapi.json promises: schemathesis writes the requests, right and wrong, and checks answers.

One run asks a real process that wants API keys, another an open service without a server around it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema
from starlette.applications import Starlette
from starlette.testclient import TestClient

from serving import Classifier
from serving.api import create_app
from serving.auth import Access, Keys
from serving.batcher import Batcher
from serving.gateway import Gateway
from serving.limits import Limits
from serving.middleware import middlewares
from serving.openapi import document
from tests.test_service import Server, running

KEY = "e5" * 32
STORED = f"contract:{sha256(KEY.encode()).hexdigest()}"
# Small enough that what lies just inside and just outside of them is tried.
LIMITS = Limits(texts=4, characters=60, body_bytes=20_000)
BOUNDED = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
POINTS = ("recall_first", "balanced", "precision_first")


def api(*, keys: bool) -> BaseSchema:
    """What the service should promise; it is never asked with an invented key beside the right one."""
    loaded = schemathesis.openapi.from_dict(document(LIMITS, operating_points=POINTS, keys=keys))
    loaded.config.generation.update(with_security_parameters=not keys)
    return loaded


OPEN, CLOSED = api(keys=False), api(keys=True)


@pytest.fixture(scope="module")
def classifier(artifact: Path) -> Classifier:
    return Classifier.from_dir(artifact)


def service(classifier: Classifier, *, access: Access, score: Any = None, deadline_s: float = 30) -> Starlette:
    """The whole way in, as in the served process."""
    gateway = Gateway(classifier, Batcher(score or classifier.scores, deadline_s=deadline_s), LIMITS)
    app = create_app(LIMITS)
    app.state.gateway = gateway
    return Starlette(middleware=middlewares(app, limits=LIMITS, access=access, origins=(), gateway=lambda: gateway))


@pytest.fixture(scope="module")
def server(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    command = [sys.executable, "-m", "serving", "--artifact", str(artifact), "--workers", "1"]
    environment = {
        "VIGIE_API_KEYS": STORED,
        "VIGIE_MAX_TEXTS": str(LIMITS.texts),
        "VIGIE_MAX_CHARACTERS": str(LIMITS.characters),
        "VIGIE_MAX_BODY_BYTES": str(LIMITS.body_bytes),
    }
    with running(command, tmp_path_factory.mktemp("contract") / "log.txt", **environment) as server:
        yield server


@pytest.fixture(scope="module")
def open_app(classifier: Classifier) -> Starlette:
    return service(classifier, access=Access(anyone=True))


def test_what_is_checked_is_what_is_served(open_app: Starlette, server: Server) -> None:
    assert TestClient(open_app).get("/openapi.json").json() == OPEN.raw_schema
    assert server.client.get("/openapi.json", headers={"X-API-Key": KEY}).json() == CLOSED.raw_schema


@pytest.mark.parametrize("promised", [OPEN, CLOSED], ids=["open", "closed"])
def test_the_document_is_sound(promised: BaseSchema) -> None:
    promised.validate()


@OPEN.exclude(path_regex="/livez|/readyz").parametrize()
@BOUNDED
def test_an_open_service_keeps_its_promises(case: Case, open_app: Starlette) -> None:
    """Those of the health checks excepted, which only a process has."""
    case.operation.schema.app = open_app
    case.call_and_validate(app=open_app)


@CLOSED.parametrize()
@BOUNDED
def test_a_process_with_keys_keeps_its_promises(case: Case, server: Server) -> None:
    """Among them that no key and a wrong one open nothing but the health checks."""
    case.call_and_validate(base_url=server.url, headers={"X-API-Key": KEY})


def breaks(_: Sequence[str]) -> Any:
    raise RuntimeError("broken")


def ask(app: Starlette, *texts: str, **headers: str) -> Any:
    return TestClient(app).post("/predict", json={"texts": texts}, headers=headers)


@pytest.fixture(scope="module")
def answers(classifier: Classifier) -> dict[int, Any]:
    """Status → an answer that has it, and a client can cause."""
    anyone, rated = Access(anyone=True), service(classifier, access=Access(Keys(text=f"{STORED}:1")))
    open_app = service(classifier, access=anyone)
    found = [
        ask(open_app, "bonjour"),
        ask(open_app),
        ask(open_app, "x" * LIMITS.body_bytes),
        ask(service(classifier, access=Access()), "not from this machine"),
        ask(service(classifier, access=anyone, score=breaks), "bonjour"),
        ask(service(classifier, access=anyone, deadline_s=0), "bonjour"),
        ask(rated, "without a key"),
        *(ask(rated, "bonjour", authorization=f"Bearer {KEY}") for _ in range(2)),
    ]
    return {response.status_code: response for response in found}


def test_every_status_that_is_promised_can_be_had(answers: dict[int, Any]) -> None:
    assert set(map(str, answers)) == CLOSED.raw_schema["paths"]["/predict"]["post"]["responses"].keys()


@pytest.mark.parametrize("status", [200, 401, 403, 413, 422, 429, 500, 503])
def test_a_refusal_has_its_promised_shape_and_headers(answers: dict[int, Any], status: int) -> None:
    case = OPEN["/predict"]["POST"].Case(body={"texts": ["bonjour"]}, media_type="application/json")
    case.validate_response(answers[status], excluded_checks=[not_a_server_error])
