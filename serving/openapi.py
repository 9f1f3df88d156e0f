"""The description of the native routes, as /openapi.json gives it, and the shapes it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field
from pydantic.json_schema import models_json_schema

from serving.gateway import STATUS, Kind
from serving.limits import Limits

EXAMPLE = "La chorale répète à 18 h."


class PredictRequest(BaseModel):
    """Texts to look at, and at which operating point to flag them."""

    # Validation errors must never show what somebody wrote.
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    # One fault is enough: a body has room for millions of them.
    texts: Annotated[list[str], FailFast(), Field(min_length=1, examples=[[EXAMPLE]])]
    operating_point: str | None = None


Probability = Annotated[float, Field(ge=0, le=1)]


class ScoreModel(BaseModel):
    score: Probability
    flagged: bool


class VoiceModel(BaseModel):
    label: str | None
    scores: dict[str, Probability]


class PredictionModel(BaseModel):
    categories: dict[str, ScoreModel]
    minor_involved: ScoreModel
    voice: VoiceModel
    flagged: bool
    route: Annotated[str, Field(pattern="^(moderate|support|none)$")]


class ModelName(BaseModel):
    name: str
    version: str


class PredictResponse(BaseModel):
    model: ModelName
    predictions: list[PredictionModel]


class ErrorBody(BaseModel):
    message: str
    kind: Kind | None = None
    where: str | None = None


class ErrorResponse(BaseModel):
    """What went wrong, at which key, and what is allowed; never the text."""

    error: ErrorBody


_ERRORS: dict[Kind, str] = {
    "unauthorized": "No API key, or one that is not known.",
    "forbidden": "No API key is set up, and the request does not come from this machine.",
    "too_large": "The request is too large.",
    "invalid": "A field is missing, unknown or out of range, or the body did not arrive in time.",
    "rate_limited": "The key has used up its rate.",
    "failed": "Scoring failed.",
    "overloaded": "Too much is waiting, or the deadline passed.",
}
_PREDICT_ERRORS: tuple[Kind, ...] = tuple(_ERRORS)
_READ_ERRORS: tuple[Kind, ...] = ("unauthorized", "forbidden", "rate_limited", "failed")
_RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}, "required": True}
}
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "azure": {"type": "apiKey", "in": "header", "name": "Ocp-Apim-Subscription-Key"},
    "short": {"type": "apiKey", "in": "header", "name": "api-key"},
    "query": {"type": "apiKey", "in": "query", "name": "key"},
}


def document(limits: Limits, *, operating_points: Sequence[str], keys: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the native routes under these limits.

    Args:
        operating_points: those that the artifact has.
        keys: whether an API key is needed; else one is accepted and not looked at.
    """
    security: list[dict[str, list[str]]] = [{name: []} for name in _SECURITY]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Vigie", "version": "1", "license": {"name": "MIT", "identifier": "MIT"}},
        "servers": [{"url": "/"}],
        "security": security if keys else [{}, *security],
        "paths": _paths(limits),
        "components": {"schemas": _schemas(limits, operating_points), "securitySchemes": _SECURITY},
    }


def _paths(limits: Limits) -> dict[str, Any]:
    labels = _answer("Labels by kind", {"type": "object"})
    info = _answer("What is served", {"type": "object"})
    plain = {"type": "string"}
    return {
        "/predict": {"post": _predict(limits)},
        "/labels": {"get": _get("labels", "Ids, French names, definitions, law and help lines", labels)},
        "/info": {"get": _get("info", "Model, data cards, thresholds and limits", info)},
        "/metrics": {"get": _get("metrics", "Figures for Prometheus", _answer("Figures", plain, kind="text/plain"))},
        "/livez": {"get": _health("livez", "Whether the process runs")},
        "/readyz": {"get": _health("readyz", "Whether it has scored its golden sentences and can answer")},
    }


def _predict(limits: Limits) -> dict[str, Any]:
    request, response = (_reference(model) for model in (PredictRequest, PredictResponse))
    return {
        "operationId": "predict",
        "summary": f"Look at 1 to {limits.texts} texts",
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {"200": _answer("Answers in the order of the texts", response), **_errors(_PREDICT_ERRORS)},
    }


def _get(name: str, summary: str, answer: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": name, "summary": summary, "responses": {"200": answer, **_errors(_READ_ERRORS)}}


def _health(name: str, summary: str) -> dict[str, Any]:
    responses = {
        status: _answer(meaning, {"type": "string"}, kind="text/plain") for status, meaning in _HEALTH_ANSWERS.items()
    }
    return {"operationId": name, "summary": summary, "security": [], "responses": responses}


_HEALTH_ANSWERS = {"200": "Yes.", "503": "No."}


def _errors(kinds: tuple[Kind, ...]) -> dict[str, Any]:
    responses = {}
    for kind in kinds:
        response = _answer(_ERRORS[kind], _reference(ErrorResponse))
        if kind in ("rate_limited", "overloaded"):
            response["headers"] = _RETRY_AFTER
        responses[str(STATUS[kind])] = response
    return responses


def _answer(description: str, schema: dict[str, Any], *, kind: str = "application/json") -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": schema}}}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _schemas(limits: Limits, operating_points: Sequence[str]) -> dict[str, Any]:
    asked = [(PredictRequest, "validation"), (PredictResponse, "serialization"), (ErrorResponse, "serialization")]
    _, described = models_json_schema(asked, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    schemas: dict[str, Any] = described["$defs"]
    asked_for = schemas["PredictRequest"]["properties"]
    texts, point = asked_for["texts"], asked_for["operating_point"]
    texts["maxItems"], texts["items"]["maxLength"] = limits.texts, limits.characters
    point["anyOf"][0]["enum"] = list(operating_points)
    return schemas
