"""The HTTP surface: /predict, /labels, /info and the start page. BentoML adds /livez, /readyz and /metrics."""

from __future__ import annotations

from html import escape
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from serving.batcher import Batcher, EngineError
from serving.classifier import Classifier
from serving.limits import MAX_TEXTS, BodyLimit, Limits

_EXAMPLE = "La chorale répète à 18 h."


class PredictRequest(BaseModel):
    """Texts to look at, and at which operating point to flag them."""

    # Validation errors must never show what somebody wrote.
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    texts: Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS, examples=[[_EXAMPLE]])]
    operating_point: Annotated[str | None, Field(examples=["balanced"])] = None


class ScoreModel(BaseModel):
    score: Annotated[float, Field(ge=0, le=1)]
    flagged: bool


class VoiceModel(BaseModel):
    label: str | None
    scores: dict[str, float]


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


class ErrorResponse(BaseModel):
    """What went wrong, at which key, and what is allowed; never the text."""

    error: ErrorBody


class State:
    """What the routes need, set once the artifact has been read."""

    def __init__(self, classifier: Classifier, batcher: Batcher) -> None:
        self.classifier, self.batcher = classifier, batcher
        artifact = classifier.artifact
        self.model = {"name": artifact.name, "version": artifact.version}


def create_app(limits: Limits) -> FastAPI:
    """The application; `app.state.vigie` must hold a `State` before it answers."""
    # Swagger's and ReDoc's pages load scripts from elsewhere, so neither is served.
    app = FastAPI(title="Vigie", version="1", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    app.add_middleware(BodyLimit, limit=limits.body_bytes)
    app.add_exception_handler(RequestValidationError, _validation_error)
    errors: dict[int | str, dict[str, Any]] = {
        413: {"model": ErrorResponse, "description": "The request is too large."},
        422: {"model": ErrorResponse, "description": "A field is missing, unknown or out of range."},
        500: {"model": ErrorResponse, "description": "Scoring failed."},
    }

    @app.post("/predict", response_model=PredictResponse, responses=errors, summary="Look at 1 to 64 texts")
    async def predict(body: PredictRequest) -> Response:
        state: State = app.state.vigie
        for index, text in enumerate(body.texts):
            if len(text) > limits.characters:
                return _error(422, f"texts[{index}]: {len(text)} characters; at most {limits.characters} are allowed")
        try:
            state.classifier.check_operating_point(body.operating_point)
            scores = await state.batcher.scores(body.texts)
        except ValueError as error:
            return _error(422, str(error))
        except EngineError as error:
            return _error(500, f"scoring failed ({error}); the texts were not kept")
        predictions = state.classifier.answers(scores, operating_point=body.operating_point)
        return _json({"model": state.model, "predictions": predictions})

    @app.get("/labels", summary="Ids, French names, definitions, law and help lines")
    async def labels() -> dict[str, Any]:
        described: dict[str, Any] = app.state.vigie.classifier.artifact.labels
        return described

    @app.get("/info", summary="Model, data cards and thresholds")
    async def info() -> dict[str, Any]:
        return _info(app.state.vigie.classifier, limits)

    @app.get("/docs.json", include_in_schema=False)
    async def docs() -> dict[str, Any]:
        # Where BentoML would answer with a description of its own that leaves our routes out.
        return app.openapi()

    @app.get("/", include_in_schema=False)
    async def start_page() -> HTMLResponse:
        return HTMLResponse(_start_page(app.state.vigie.model))

    return app


def _info(classifier: Classifier, limits: Limits) -> dict[str, Any]:
    artifact = classifier.artifact
    return {
        "model": {"name": artifact.name, "version": artifact.version},
        "precision": artifact.precision,
        "base_model": artifact.described["base_model"],
        "data": artifact.described["data"],
        "windows": artifact.described["windows"],
        "thresholds": artifact.thresholds_file,
        "limits": {"texts": MAX_TEXTS, "characters": limits.characters, "body_bytes": limits.body_bytes},
    }


async def _validation_error(_: Request, error: Exception) -> Response:
    """Every field at fault with what is expected there; the default answer would echo the input."""
    assert isinstance(error, RequestValidationError)
    faults = [_fault(item) for item in error.errors()]
    return _error(422, "; ".join(faults))


def _fault(item: dict[str, Any]) -> str:
    if item["type"] == "json_invalid":
        return "the body is not valid JSON"
    where = ""
    for part in item["loc"][1:]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}"
    if item["type"] == "extra_forbidden":
        # The name of an unknown key was written by somebody too.
        return "unknown key in the body; allowed: texts, operating_point"
    return f"{where.lstrip('.') or 'the body'}: {item['msg'].lower()}"


def _error(status: int, message: str) -> Response:
    return _json({"error": {"message": message}}, status)


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status_code=status, media_type="application/json")


def _start_page(model: dict[str, str]) -> str:
    return f"""<!doctype html>
<html lang="fr"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Vigie</title><style>
:root {{ color-scheme: light dark }} body {{ font: 16px/1.6 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto;
padding: 0 1rem }} code {{ background: color-mix(in srgb, currentColor 10%, transparent); padding: .1em .3em;
border-radius: .2em }} pre {{ overflow-x: auto; padding: 1rem; border: 1px solid; border-radius: .4rem }}
</style></head><body>
<h1>Vigie</h1>
<p>Repère dans un texte français les signes de sollicitation de mineurs, de chantage sexuel et de harcèlement, et
distingue le témoignage d'une victime du message qui fait du mal. Vigie propose ; une personne décide.</p>
<p>Modèle : <code>{escape(model["name"])}</code>, version <code>{escape(model["version"])}</code></p>
<pre>POST /predict   {{"texts": ["{_EXAMPLE}"]}}</pre>
<ul><li><a href="labels">/labels</a> : catégories, définitions, droit et lignes d'aide</li>
<li><a href="info">/info</a> : modèle, données, seuils</li>
<li><a href="openapi.json">/openapi.json</a> : description de l'interface</li>
<li><a href="livez">/livez</a>, <a href="readyz">/readyz</a>, <a href="metrics">/metrics</a></li></ul>
</body></html>
"""
