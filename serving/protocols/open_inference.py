"""The Open Inference Protocol, version 2, as KServe and Triton speak it, with Triton's binary tensors.

One model is served, under the artifact's name and version. Its input `text` is BYTES of shape [n] or [n, 1]; its
outputs are, unless some are asked for, all of these:

    scores      FP32   [n, labels]      categories, `minor_involved`, voices: the model's metadata name the columns
    raw_scores  FP32   [n, labels]      the same as `/predict` gives them
    flagged     BOOL   [n, categories]  which categories to act upon at the default operating point
    voice       BYTES  [n]              who speaks, empty where the model is not sure
    route       BYTES  [n]              moderate, support or none

A tool that looks at one column knows no voices: where somebody tells what was done to them, the categories in `scores`
are lowered and none is `flagged` (`serving.gateway`). The `id` of a request goes back with its answer and nowhere else.
Health needs a key like any other route, for an orchestrator has /livez and /readyz. A process that answers is ready: it
read its model before it began to serve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from pydantic import FailFast, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from serving.artifact import Artifact
from serving.classifier import Prediction
from serving.gateway import Gateway, Kind, Refusal, acted_upon, actionable
from serving.limits import protects_testimony
from serving.protocols import GetGateway
from serving.protocols.messages import Message, parse
from serving.protocols.open_inference_tensors import (
    INPUT,
    InputTensor,
    Output,
    RequestedOutput,
    join,
    split,
    texts_of,
)

PREFIXES: tuple[str, ...] = ("/v2",)
HEADER = "Inference-Header-Content-Length"
MAX_ID = 256
"""Characters of a request's id, which the answer repeats."""
OUTPUTS = ("scores", "raw_scores", "flagged", "voice", "route")
_STATUS: Mapping[Kind, int] = {
    "invalid": 400,
    "too_large": 413,
    "unauthorized": 401,
    "forbidden": 403,
    "rate_limited": 429,
    "overloaded": 503,
    "failed": 500,
    "unsupported": 501,
}


@dataclass(eq=False)
class NotFound(Refusal):
    """A path, model or version that is not served."""


class RequestParameters(Message):
    binary_data_output: bool = False


class InferRequest(Message):
    """Texts, and which outputs to give of them."""

    id: str | None = None
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[list[InputTensor], FailFast(), Field(min_length=1, max_length=1)]
    # An output named over and over would make a small request a large answer.
    outputs: Annotated[list[RequestedOutput], FailFast(), Field(max_length=len(OUTPUTS), default_factory=list)]


def routes(gateway: GetGateway) -> Sequence[BaseRoute]:
    """Health, metadata and inference."""
    protect = protects_testimony()

    async def server(_: Request) -> Response:
        return _answer({"name": "vigie", "version": "1", "extensions": ["binary_tensor_data"]})

    async def live(_: Request) -> Response:
        return _answer({"live": True})

    async def ready(_: Request) -> Response:
        return _answer({"ready": True})

    async def metadata(request: Request) -> Response:
        return _answer(_metadata(_artifact(request, gateway())))

    async def model_ready(request: Request) -> Response:
        return _answer({"name": _artifact(request, gateway()).name, "ready": True})

    async def infer(request: Request) -> Response:
        _artifact(request, gateway())
        return await _infer(request, gateway(), protect=protect)

    async def elsewhere(_: Request) -> Response:
        raise NotFound("invalid", "no such path; the model's metadata are at /v2/models/NAME, GET /info has its name")

    model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    return [
        Route("/v2", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        *(Route(path, metadata) for path in (model, version)),
        *(Route(f"{path}/ready", model_ready) for path in (model, version)),
        *(Route(f"{path}/infer", infer, methods=["POST"]) for path in (model, version)),
        # Clients read an error that is a string, whichever extension they ask for.
        Route("/v2/{path:path}", elsewhere, methods=["GET", "POST"]),
    ]


def _artifact(request: Request, gateway: Gateway) -> Artifact:
    """The artifact that the path names.

    Raises:
        NotFound: it names another. The name is not repeated, for somebody wrote it.
    """
    artifact = gateway.classifier.artifact
    if request.path_params["model"] != artifact.name:
        raise NotFound("invalid", f"no such model; the one served is {artifact.name}")
    if request.path_params.get("version", artifact.version) != artifact.version:
        raise NotFound("invalid", f"no such version of {artifact.name}; the one served is {artifact.version}")
    return artifact


def _metadata(artifact: Artifact) -> dict[str, Any]:
    labels, categories = list(artifact.label_ids), list(artifact.category_ids)
    return {
        "name": artifact.name,
        "versions": [artifact.version],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            *(_described(name, "FP32", labels) for name in ("scores", "raw_scores")),
            _described("flagged", "BOOL", categories),
            *({"name": name, "datatype": "BYTES", "shape": [-1]} for name in ("voice", "route")),
        ],
    }


def _described(name: str, datatype: str, labels: Sequence[str]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [-1, len(labels)], "parameters": {"labels": labels}}


async def _infer(request: Request, gateway: Gateway, *, protect: bool) -> Response:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Refusal("invalid", "Content-Encoding: a compressed body is not read; send it as it is")
    head, behind = split(await request.body(), request.headers.get(HEADER))
    asked = parse(InferRequest, head)
    if asked.id is not None and len(asked.id) > MAX_ID:
        raise Refusal("invalid", f"id: {len(asked.id)} characters; at most {MAX_ID} are allowed", "id")
    wanted = _wanted(asked)
    texts = texts_of(asked.inputs[0], behind, most=gateway.limits.texts)
    predictions = await gateway.predict(texts, field="inputs[0].data")
    outputs = outputs_of(predictions, gateway.classifier.artifact, protect=protect)
    answer = {"model_name": gateway.model["name"], "model_version": gateway.model["version"]}
    if asked.id is not None:
        answer["id"] = asked.id
    body, length = join(answer, [(outputs[name], as_bytes) for name, as_bytes in wanted])
    if length is None:
        return Response(body, media_type="application/json")
    return Response(body, media_type="application/octet-stream", headers={HEADER: str(length)})


def _wanted(asked: InferRequest) -> list[tuple[str, bool]]:
    """The outputs to give, and whether as bytes.

    Raises:
        Refusal: an output that there is not, or in a form that there is not.
    """
    default = asked.parameters.binary_data_output
    wanted = []
    for index, output in enumerate(asked.outputs):
        where = f"outputs[{index}]"
        if output.name not in OUTPUTS:
            raise Refusal("invalid", f"{where}.name: no such output; allowed: {', '.join(OUTPUTS)}", f"{where}.name")
        form = output.parameters
        if form.classification is not None or form.shared_memory_region is not None:
            message = f"{where}.parameters: neither classification nor shared memory is offered; leave them out"
            raise Refusal("invalid", message, f"{where}.parameters")
        wanted.append((output.name, default if form.binary_data is None else form.binary_data))
    return wanted or [(name, default) for name in OUTPUTS]


def outputs_of(predictions: Sequence[Prediction], artifact: Artifact, *, protect: bool) -> Mapping[str, Output]:
    """Every output by its name."""
    count, labels, categories = len(predictions), artifact.label_ids, artifact.category_ids
    scores = [_row(one, actionable(one, protect=protect), labels) for one in predictions]
    raw_scores = [_row(one, actionable(one, protect=False), labels) for one in predictions]
    acted = [acted_upon(one, protect=protect) for one in predictions]
    found = (
        Output("scores", "FP32", (count, len(labels)), [score for row in scores for score in row]),
        Output("raw_scores", "FP32", (count, len(labels)), [score for row in raw_scores for score in row]),
        Output("flagged", "BOOL", (count, len(categories)), [one[label] for one in acted for label in categories]),
        Output("voice", "BYTES", (count,), [one["voice"]["label"] or "" for one in predictions]),
        Output("route", "BYTES", (count,), [one["route"] for one in predictions]),
    )
    return {output.name: output for output in found}


def _row(prediction: Prediction, categories: Mapping[str, float], labels: Sequence[str]) -> list[float]:
    known = {
        **categories,
        "minor_involved": prediction["minor_involved"]["score"],
        **prediction["voice"]["scores"],
    }
    return [known[label] for label in labels]


def refuse(refusal: Refusal) -> Response:
    """A refusal as the protocol words it."""
    return _answer({"error": refusal.message}, 404 if isinstance(refusal, NotFound) else _STATUS[refusal.kind])


def _answer(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status_code=status, media_type="application/json")
