"""Requests made to hurt, in the shape of each wire protocol: answered or refused, in words that clients can read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import Route
from starlette.testclient import TestClient

from serving import Classifier
from serving.api import create_app
from serving.protocols import PROTOCOLS
from tests import wire
from tests.shapes import Asked, Words, as_json, requests
from tests.test_api import LIMITS, local, service
from tests.test_hostile import BODY, TEXT

POSTED = {
    route.path: route.endpoint
    for route in create_app(LIMITS).routes
    if isinstance(route, Route) and "POST" in (route.methods or ())
}
PATHS = list({endpoint: path for path, endpoint in POSTED.items()}.values())
"""Some routes have a second path."""
PREFIXES = sorted({prefix for protocol in PROTOCOLS for prefix in protocol.PREFIXES})
ORDINARY = Words("la chorale", "1")
SHAPED = [path for path in PATHS if requests(ORDINARY, path)]
STATUSES = (200, 201, 204, 400, 404, 413, 422, 501)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def classifier(artifact: Path) -> Classifier:
    return Classifier.from_dir(artifact)


@pytest.fixture(scope="module")
def client(classifier: Classifier) -> Iterator[TestClient]:
    with local(service(classifier)) as client:
        yield client


def ask(client: TestClient, template: str, asked: Asked) -> Any:
    """The answer of the model that is served; where it is JSON, it can be read by those who know no NaN."""
    path = template.replace("{model}", "vigie-tiny").replace("{path:path}", "nowhere")
    if "{version}" in path:
        path = path.replace("{version}", client.get("/info").json()["model"]["version"])
    response = client.post(path, content=asked.body, headers=asked.headers)
    assert response.status_code in STATUSES
    if response.headers.get("content-type") == "application/json":
        # Not by a parser that wants whole pairs of surrogates: half of one goes back in an id as it came.
        json.loads(response.content, parse_constant=no_json)
    return response


def no_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


@pytest.mark.parametrize("path", PATHS)
@FEW
@given(BODY)
def test_any_body_is_answered_or_refused(client: TestClient, path: str, body: bytes) -> None:
    ask(client, path, Asked(body))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("path", SHAPED)
@FEW
@given(st.data())
def test_any_value_anywhere_in_its_shape_is_answered_or_refused(
    client: TestClient, path: str, data: st.DataObject
) -> None:
    """Any text, in what is right and what is wrong; and some other value in any place of what is right."""
    right, *wrong = requests(Words(data.draw(TEXT), data.draw(TEXT)), path)
    value = json.loads(right.body)
    changed = with_value(value, data.draw(st.sampled_from(places(value))), data.draw(JSON))
    ask(client, path, data.draw(st.sampled_from([as_json(changed), right, *wrong])))


Place = tuple[str | int, ...]


def places(value: Any) -> list[Place]:
    """Where values stand in JSON, itself first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((key, *place) for key, one in inner for place in places(one))]


def with_value(value: Any, place: Place, other: Any) -> Any:
    """The same JSON with another value in a place."""
    if not place:
        return other
    changed = value.copy()
    changed[place[0]] = with_value(value[place[0]], place[1:], other)
    return changed


MANY = {
    "numbers": [5] * 15_000,
    "objects": [{"x": 5}] * 4_000,
    "keys": {f"x{number}": {"x": {}} for number in range(2_000)},
}


@pytest.mark.parametrize("many", MANY)
@pytest.mark.parametrize("path", SHAPED)
def test_thousands_of_faults_are_told_in_a_line(client: TestClient, path: str, many: str) -> None:
    """In whatever place they stand. To word each would take seconds, and an answer of many times the request's size."""
    value = json.loads(requests(ORDINARY, path)[0].body)
    answers = [ask(client, path, as_json(with_value(value, place, MANY[many]))) for place in places(value)]
    assert [len(answer.content) for answer in answers if answer.status_code >= 400 and len(answer.content) > 2000] == []


_ANALYZE = "/v1alpha1/comments:analyze"


@pytest.mark.parametrize(
    ("path", "asked", "message"),
    [
        (_ANALYZE, {"context": {"entries": [{}] * 1025}}, "context.entries: list should have at most 1024"),
        (_ANALYZE, {"languages": ["fr"] * 1025}, "languages: list should have at most 1024"),
        ("/labelstudio/predict", {"tasks": [{"data": {}}] * 10_001}, "tasks: list should have at most 10000"),
    ],
)
def test_more_than_anybody_sends_is_refused_though_each_is_right(
    classifier: Classifier, path: str, asked: Any, message: str
) -> None:
    """Each costs little, but a body has room for a hundred thousand and more."""
    answer = local(wire.service(classifier)).post(path, json=asked)
    assert answer.status_code in (400, 422) and message in answer.text


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("path", SHAPED)
def test_a_score_that_is_no_number_is_no_answer(classifier: Classifier, path: str, wrong: float) -> None:
    """Or it would be answered as harmless, for it passes no threshold, and stand in JSON that nobody can read."""
    shape = (1, len(classifier.artifact.label_ids))
    client = local(wire.service(classifier, score=lambda texts: np.repeat(np.full(shape, wrong), len(texts), axis=0)))
    version = classifier.artifact.version
    asked = requests(ORDINARY, path)[0]
    answer = client.post(path.replace("{model}", "vigie-tiny").replace("{version}", version), content=asked.body)
    scores_nothing = path.endswith(("suggestscore", "setup", "validate", "webhook"))
    assert (answer.status_code in (500, 424) and "no number" in answer.text) or scores_nothing


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_path_that_there_is_not_is_told_in_readable_words(client: TestClient, prefix: str, method: str) -> None:
    """Clients read `error`, a string or an object with a message."""
    for path in (f"{prefix}perroquet", f"{prefix.rstrip('/')}/perroquet/perroquet"):
        answer = client.request(method, path, json={})
        assert answer.status_code in (404, 405) and is_readable(answer)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("path", POSTED)
def test_another_method_is_told_in_readable_words(client: TestClient, path: str, method: str) -> None:
    answer = client.request(method, path)
    assert (answer.status_code == 405 and "POST" in answer.headers["allow"]) or "/v2/" in path
    assert answer.status_code in (404, 405) and is_readable(answer)


def is_readable(answer: Any) -> bool:
    error = answer.json()["error"]
    message = error if isinstance(error, str) else error["message"]
    return "path" in message and "perroquet" not in answer.text
