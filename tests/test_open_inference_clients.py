"""serving.protocols.open_inference: Triton's own client on a live server, in JSON and as bytes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from serving import Classifier
from tests import wire
from tests.test_open_inference import KEYS, TOLD, classifier, served
from tests.wire import KEY, service

__all__ = ["classifier", "served"]
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def library() -> Any:
    with warnings.catch_warnings():
        # What the library warns of while it is loaded is its own matter.
        warnings.simplefilter("ignore")
        return pytest.importorskip("tritonclient.http")


@pytest.fixture
def triton(classifier: Classifier, library: Any) -> Iterator[Any]:
    with wire.live(service(classifier, keys=KEYS)) as host, library.InferenceServerClient(host) as client:
        yield client


def texts(library: Any, *given: str, as_bytes: bool) -> list[Any]:
    tensor = library.InferInput("text", [len(given)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in given], dtype=object), binary_data=as_bytes)
    return [tensor]


@pytest.mark.parametrize("given_as_bytes", [True, False])
@pytest.mark.parametrize("wanted_as_bytes", [True, False])
def test_tritons_client_works_unmodified(
    triton: Any, library: Any, classifier: Classifier, given_as_bytes: bool, wanted_as_bytes: bool
) -> None:
    outputs = [
        library.InferRequestedOutput(name, binary_data=wanted_as_bytes)
        for name in ("scores", "raw_scores", "flagged", "voice", "route")
    ]
    inputs = texts(library, "il menace d'un 😀", TOLD, as_bytes=given_as_bytes)
    answer = triton.infer("vigie-tiny", inputs, outputs=outputs, request_id="a1", headers=dict(HEADERS))
    column = classifier.artifact.label_ids.index("sexual_extortion")
    assert answer.as_numpy("scores")[:, column] == pytest.approx([0.8, 0.2])
    assert answer.as_numpy("raw_scores")[:, column] == pytest.approx([0.8, 0.8])
    assert answer.as_numpy("scores").dtype == np.float32 and answer.as_numpy("flagged").dtype == np.bool_
    assert answer.as_numpy("flagged").any(axis=1).tolist() == [True, False]
    route = [value.decode() if isinstance(value, bytes) else value for value in answer.as_numpy("route")]
    assert route == ["moderate", "support"] and answer.get_response()["id"] == "a1"


def test_what_the_client_asks_by_default_is_answered(triton: Any, library: Any) -> None:
    """Everything, and as bytes."""
    answer = triton.infer("vigie-tiny", texts(library, "il menace", as_bytes=True), headers=dict(HEADERS))
    assert [one["name"] for one in answer.get_response()["outputs"]][:2] == ["scores", "raw_scores"]
    assert answer.as_numpy("scores").shape == (1, 14) and answer.as_numpy("voice").shape == (1,)


def test_the_client_reads_health_and_metadata(triton: Any, classifier: Classifier) -> None:
    version = classifier.artifact.version
    assert triton.is_server_live(headers=HEADERS) and triton.is_server_ready(headers=HEADERS)
    assert triton.is_model_ready("vigie-tiny", version, headers=HEADERS)
    assert not triton.is_model_ready("vigie-tiny", "2", headers=HEADERS) and not triton.is_server_live()
    assert triton.get_server_metadata(headers=HEADERS)["extensions"] == ["binary_tensor_data"]
    found = triton.get_model_metadata("vigie-tiny", version, headers=HEADERS)
    assert found["outputs"][0]["parameters"]["labels"] == list(classifier.artifact.label_ids)


def test_the_client_reads_the_errors(triton: Any, library: Any) -> None:
    inputs = texts(library, "il menace", as_bytes=True)
    with pytest.raises(library.InferenceServerException, match="no such model; the one served is vigie-tiny"):
        triton.infer("autre", inputs, headers=dict(HEADERS))
    with pytest.raises(library.InferenceServerException, match="an API key is needed") as stranger:
        triton.infer("vigie-tiny", inputs)
    assert stranger.value.status() == "401"
    with pytest.raises(library.InferenceServerException, match="holds no text"):
        triton.infer("vigie-tiny", texts(library, " ", as_bytes=True), headers=dict(HEADERS))
    with pytest.raises(library.InferenceServerException, match="no such path"):
        triton.get_model_config("vigie-tiny", headers=HEADERS)
