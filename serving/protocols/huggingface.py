"""The text-classification task as Hugging Face's clients ask it: give `InferenceClient` the address of `PATH`.

An answer lists, for each text, every label with its score, the highest first: the categories, `minor_involved`, and the
voices, so that who reads it sees who speaks. A tool that looks at one category knows no voices, so the categories are
lowered where somebody tells what was done to them (`serving.gateway.actionable`); behind all these stands each category
once more as `<category>_raw`, with the score as `/predict` gives it. `top_k` counts from the first, whatever it cuts.

Labels are independent, several may hold of one text: the scores are sigmoids and do not add up to 1. What was
overloaded is answered 429, for Hugging Face's client in JavaScript repeats a request at 503 at once and without end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import BeforeValidator, FailFast, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from serving.artifact import Artifact
from serving.classifier import Prediction
from serving.gateway import Kind, Refusal, actionable
from serving.limits import protects_testimony
from serving.protocols import GetGateway
from serving.protocols.messages import Message, parse

PREFIXES: tuple[str, ...] = ("/hf/",)
PATH = "/hf/text-classification"
RAW = "_raw"
_STATUS: Mapping[Kind, int] = {
    "invalid": 400,
    "too_large": 413,
    "unauthorized": 401,
    "forbidden": 403,
    "rate_limited": 429,
    "overloaded": 429,
    "failed": 500,
    "unsupported": 501,
}
_NOT_APPLIED = {
    "softmax": "labels are independent and several may hold of one text, which softmax would hide",
    "none": "raw outputs mean nothing before they are calibrated",
}


class Parameters(Message):
    function_to_apply: Literal["sigmoid", "softmax", "none"] = "sigmoid"
    top_k: Annotated[int, Field(ge=1)] | None = None


def _listed(inputs: Any) -> Any:
    return [inputs] if isinstance(inputs, str) else inputs


class ClassificationRequest(Message):
    """Texts; one may stand without a list around it."""

    inputs: Annotated[list[str], FailFast(), Field(min_length=1), BeforeValidator(_listed)]
    parameters: Parameters = Parameters()


def routes(gateway: GetGateway) -> Sequence[BaseRoute]:
    """The task."""
    protect = protects_testimony()

    async def classify(request: Request) -> Response:
        asked = parse(ClassificationRequest, await request.body())
        _check_function(asked.parameters)
        _check_texts(asked.inputs)
        predictions = await gateway().predict(asked.inputs, field="inputs")
        # Always a list of lists: a flat one breaks both clients.
        return _answer([ranked(one, protect=protect)[: asked.parameters.top_k] for one in predictions])

    return [Route(PATH, classify, methods=["POST"])]


def ranked(prediction: Prediction, *, protect: bool) -> list[dict[str, str | float]]:
    """Every label of `label_names` with its score, highest first; the raw scores behind all others."""
    lowered = actionable(prediction, protect=protect)
    seen = {**lowered, "minor_involved": prediction["minor_involved"]["score"], **prediction["voice"]["scores"]}
    raw = {label + RAW: score["score"] for label, score in prediction["categories"].items()}
    by_score = (*sorted(seen.items(), key=_score, reverse=True), *sorted(raw.items(), key=_score, reverse=True))
    return [{"label": label, "score": score} for label, score in by_score]


def _score(labelled: tuple[str, float]) -> float:
    return labelled[1]


def label_names(artifact: Artifact) -> tuple[str, ...]:
    """The labels of an answer, in the model's order."""
    return (*artifact.label_ids, *(label + RAW for label in artifact.category_ids))


def _check_texts(texts: Sequence[str]) -> None:
    for index, text in enumerate(texts):
        if not text.strip():
            where = f"inputs[{index}]"
            raise Refusal("invalid", f"{where}: holds no text", where)


def _check_function(parameters: Parameters) -> None:
    if reason := _NOT_APPLIED.get(parameters.function_to_apply):
        where = "parameters.function_to_apply"
        raise Refusal("invalid", f"{where}: only sigmoid is offered; {reason}", where)


def refuse(refusal: Refusal) -> Response:
    """A refusal as the task's servers word it."""
    return _answer({"error": refusal.message}, _STATUS[refusal.kind])


def _answer(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status_code=status, media_type="application/json")
