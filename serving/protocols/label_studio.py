"""Label Studio's machine-learning backend: proposals for annotators, under `/labelstudio`.

What it proposes are the labels that pass their thresholds, as `/predict` flags them: an annotator decides, so testimony
is not spared as it is for tools that act. Only choices that the project's own interface offers are proposed
(`serving.protocols.label_studio_config`). The score of a proposal is that of the likeliest category asked for.

Label Studio gives a whole batch up for one error. So a task that cannot be read, or comes too late, gets a message in
place of its prediction: Label Studio logs it, keeps the others, and asks for the missing ones the next time. Nothing is
learned or kept here; the user's token that arrives with each `/setup` is not looked at.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import orjson
from pydantic import FailFast, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from serving.classifier import Prediction
from serving.gateway import Gateway, Refusal
from serving.protocols import GetGateway
from serving.protocols.label_studio_config import Control, read_config
from serving.protocols.messages import Message, parse

PREFIXES: tuple[str, ...] = ("/labelstudio/",)
MOST_TASKS = 10_000
"""Of a request. As Label Studio writes them, so many do not fit a body; in fewer words a hundred thousand would."""
_LATE = {"error": "not scored in time; retrieve predictions again for the tasks that have none"}
"""Without `result`, so that Label Studio keeps nothing."""
_NOTHING_LEARNED = "nothing is kept or learned here; export the annotations and train with python -m training.train"


class Task(Message):
    """Its `data` holds the text where the project's interface says."""

    data: dict[str, Any]


class Predict(Message):
    """Tasks to propose labels for, and the project's interface."""

    tasks: Annotated[list[Task], FailFast(), Field(max_length=MOST_TASKS)]
    label_config: str


class Setup(Message):
    """The project's interface. The user's token beside it has no place here."""

    config: str = Field(alias="schema")


class Validate(Message):
    """A project's interface, to be looked at."""

    config: str


def routes(gateway: GetGateway) -> Sequence[BaseRoute]:
    """What Label Studio calls: health, setup, predict, versions, webhook; and validate, which older ones do."""

    async def health(_: Request) -> Response:
        return _json({"status": "UP", "model_class": "Vigie"})

    async def setup(request: Request) -> Response:
        read_config(parse(Setup, await request.body()).config, gateway().classifier.artifact, "schema")
        return _json({"model_version": _version(gateway())})

    async def predict(request: Request) -> Response:
        return _json(await _predict(gateway(), parse(Predict, await request.body())))

    async def versions(_: Request) -> Response:
        return _json({"versions": [_version(gateway())]})

    async def validate(request: Request) -> Response:
        read_config(parse(Validate, await request.body()).config, gateway().classifier.artifact, "config")
        return _json({"status": "ok"})

    async def webhook(_: Request) -> Response:
        return _json({"status": "ok", "message": _NOTHING_LEARNED}, 201)

    return [
        Route("/labelstudio/health", health),
        Route("/labelstudio/setup", setup, methods=["POST"]),
        Route("/labelstudio/predict", predict, methods=["POST"]),
        Route("/labelstudio/versions", versions),
        Route("/labelstudio/validate", validate, methods=["POST"]),
        Route("/labelstudio/webhook", webhook, methods=["POST"]),
    ]


def _version(gateway: Gateway) -> str:
    """One string, everywhere the same: Label Studio asks no more for tasks that have a prediction of this version."""
    return " ".join((gateway.model["name"], gateway.model["version"]))


async def _predict(gateway: Gateway, asked: Predict) -> dict[str, Any]:
    """One proposal for each task, or the reason why it has none."""
    controls = read_config(asked.label_config, gateway.classifier.artifact, "label_config")
    fields = tuple(dict.fromkeys(control.field for control in controls))
    faults = [_fault(task, fields, gateway) for task in asked.tasks]
    if faults and all(faults):
        raise Refusal("invalid", f"tasks[0].data: {faults[0]}", "tasks[0].data")
    readable = [task for task, fault in zip(asked.tasks, faults, strict=True) if not fault]
    proposed = iter(await _proposals(gateway, readable, controls, fields))
    results = [
        {"error": f"tasks[{index}].data: {fault}"} if fault else next(proposed, _LATE)
        for index, fault in enumerate(faults)
    ]
    return {"results": results, "model_version": _version(gateway)}


def _fault(task: Task, fields: Sequence[str], gateway: Gateway) -> str | None:
    """Why a task cannot be read, or None."""
    for name in fields:
        text = task.data.get(name)
        if not isinstance(text, str) or not text.strip():
            return "holds no text where the project's interface shows one"
        if fault := gateway.limits.too_long(text):
            return fault
    return None


async def _proposals(
    gateway: Gateway, tasks: Sequence[Task], controls: Sequence[Control], fields: Sequence[str]
) -> list[dict[str, Any]]:
    """What is proposed for each task; nothing for the last ones where time ran out or others fill the queue.

    A batch holds more texts than a request may, so it is taken in slices, and other requests get their turns between
    them. All slices together have the time that one request has.
    """
    size = max(1, gateway.limits.texts // len(fields))
    until = time.monotonic() + gateway.limits.deadline_ms / 1000
    proposals: list[dict[str, Any]] = []
    for part in (tasks[at : at + size] for at in range(0, len(tasks), size)):
        if proposals and time.monotonic() > until:
            break
        try:
            predictions = await gateway.predict([task.data[name] for task in part for name in fields], field="tasks")
        except Refusal as refusal:
            if not proposals or refusal.kind != "overloaded":
                raise
            break
        of_tasks = (predictions[at : at + len(fields)] for at in range(0, len(predictions), len(fields)))
        proposals += [_proposal(controls, dict(zip(fields, of_task, strict=True)), gateway) for of_task in of_tasks]
    return proposals


def _proposal(controls: Sequence[Control], about: Mapping[str, Prediction], gateway: Gateway) -> dict[str, Any]:
    """In Label Studio's shape.

    Args:
        about: field → prediction for the text in it.
    """
    proposed = [(control, _choices(control, about[control.field])) for control in controls]
    return {
        "result": [_block(control, choices) for control, choices in proposed if choices],
        "score": _score(controls, about),
        "model_version": _version(gateway),
    }


def _block(control: Control, choices: list[str]) -> dict[str, Any]:
    return {"from_name": control.name, "to_name": control.to_name, "type": "choices", "value": {"choices": choices}}


def _choices(control: Control, prediction: Prediction) -> list[str]:
    """The choices to tick: what is flagged, or the likeliest of it where only one may be ticked."""
    scores, flagged = _scores(prediction), _flagged(prediction)
    labels = [label for label in control.choices if label in flagged]
    if not control.multiple:
        labels = sorted(labels, key=lambda label: scores[label], reverse=True)[:1]
    return [control.choices[label] for label in labels]


def _score(controls: Sequence[Control], about: Mapping[str, Prediction]) -> float:
    """The highest score of a category that is asked for, or of the other labels where none is."""
    asked = [(label, about[control.field]) for control in controls for label in control.choices]
    categories = [(label, prediction) for label, prediction in asked if label in prediction["categories"]]
    return max(_scores(prediction)[label] for label, prediction in categories or asked)


def _scores(prediction: Prediction) -> dict[str, float]:
    categories = {label: score["score"] for label, score in prediction["categories"].items()}
    return {**categories, "minor_involved": prediction["minor_involved"]["score"], **prediction["voice"]["scores"]}


def _flagged(prediction: Prediction) -> set[str | None]:
    """Every label that the answer names."""
    labels: set[str | None] = {label for label, score in prediction["categories"].items() if score["flagged"]}
    if prediction["minor_involved"]["flagged"]:
        labels.add("minor_involved")
    return labels | {prediction["voice"]["label"]}


def refuse(refusal: Refusal) -> Response:
    """Label Studio reads the status alone; the words are for whoever sets it up."""
    return _json({"error": refusal.message}, refusal.status)


def _json(value: Mapping[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(value), status_code=status, media_type="application/json")
