"""The classification routes of Hugging Face's text-embeddings-inference (TEI), under `/tei`.

Its answer is not the one of `serving.protocols.huggingface`: flat for one text, a list of lists for a batch. The labels
are the same, and so is what is lowered. Statuses are TEI's own: 424 where scoring failed, 429 where the queue is full,
413 for a batch or a text above the limits, 400 for a text that is empty, 422 for a request of another form.

Nothing is ever cut off: a long text is read in windows, so `truncate` and `truncation_direction` change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from serving.gateway import Gateway, Kind, Refusal
from serving.limits import Limits, protects_testimony
from serving.protocols import GetGateway
from serving.protocols.huggingface import label_names, ranked
from serving.protocols.messages import Message, parse

PREFIXES: tuple[str, ...] = ("/tei/",)
_ERRORS: Mapping[Kind, tuple[int, str]] = {
    "invalid": (422, "Validation"),
    "too_large": (413, "Validation"),
    "unauthorized": (401, "Validation"),
    "forbidden": (403, "Validation"),
    "rate_limited": (429, "Overloaded"),
    "overloaded": (429, "Overloaded"),
    "failed": (424, "Backend"),
    "unsupported": (422, "Validation"),
}


@dataclass(eq=False)
class Empty(Refusal):
    """A text that says nothing, which has a type of its own."""


class PredictRequest(Message):
    """`inputs` is a text, a text in a list, or a batch: a list of such lists."""

    inputs: str | Annotated[list[Any], Field(min_length=1)]
    raw_scores: bool = False
    truncate: bool = False
    truncation_direction: Literal["left", "right", "Left", "Right"] = "right"


def routes(gateway: GetGateway) -> Sequence[BaseRoute]:
    """Classification, and what describes it."""
    protect = protects_testimony()

    async def predict(request: Request) -> Response:
        asked = parse(PredictRequest, await request.body())
        if asked.raw_scores:
            message = "raw_scores: only calibrated probabilities are offered; leave it out, or send false"
            raise Refusal("invalid", message, "raw_scores")
        texts = _texts(asked.inputs, gateway().limits)
        answers = [ranked(one, protect=protect) for one in await gateway().predict(texts, field="inputs")]
        return _answer(answers if _is_batch(asked.inputs) else answers[0])

    async def health(_: Request) -> Response:
        return Response()

    async def info(_: Request) -> Response:
        return _answer(_info(gateway()))

    return [
        Route("/tei/predict", predict, methods=["POST"]),
        Route("/tei/health", health),
        Route("/tei/info", info),
    ]


def _is_batch(inputs: str | list[Any]) -> bool:
    return isinstance(inputs, list) and isinstance(inputs[0], list)


def _texts(inputs: str | list[Any], limits: Limits) -> list[str]:
    """The texts of a request, within the limits, which here have a status of their own.

    Raises:
        Refusal: a batch or a text that is too large, an empty text, a pair of texts, or no text at all.
    """
    if not _is_batch(inputs):
        return [_text(inputs, "inputs", limits)]
    if len(inputs) > limits.texts:
        message = f"inputs: batch size {len(inputs)} > maximum allowed batch size {limits.texts}"
        raise Refusal("too_large", message, "inputs")
    return [_text(one, f"inputs[{index}]", limits) for index, one in enumerate(inputs)]


def _text(given: Any, where: str, limits: Limits) -> str:
    match given:
        case str(text) | [str(text)]:
            if fault := limits.too_long(text):
                raise Refusal("too_large", f"{where}: {fault}", where)
            if not text.strip():
                raise Empty("invalid", f"{where}: holds no text", where)
            return text
        case [str(), str()]:
            wrong = "a pair is for models that compare two texts, and here each is scored by itself"
        case _:
            wrong = "a text is needed"
    raise Refusal("invalid", f'{where}: {wrong}; write a batch as [["…"], ["…"]]', where)


def _info(gateway: Gateway) -> dict[str, Any]:
    """What TEI tells of itself, as far as it exists here."""
    artifact, limits = gateway.classifier.artifact, gateway.limits
    names = label_names(artifact)
    labels = {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }
    return {
        "model_id": artifact.name,
        "model_sha": artifact.version,
        "model_dtype": artifact.precision,
        "model_type": {"classifier": labels},
        "max_concurrent_requests": limits.queue_texts,
        "max_client_batch_size": limits.texts,
        "auto_truncate": False,
    }


def refuse(refusal: Refusal) -> Response:
    """A refusal as TEI words it."""
    status, kind = (400, "Empty") if isinstance(refusal, Empty) else _ERRORS[refusal.kind]
    return _answer({"error": refusal.message, "error_type": kind}, status)


def _answer(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status_code=status, media_type="application/json")
