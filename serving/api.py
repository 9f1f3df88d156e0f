"""The native routes: /predict, /labels, /info, /metrics, the description and the start page; and the protocols' own."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from serving.gateway import Gateway, Refusal
from serving.limits import Limits
from serving.middleware import as_json, broken, refused
from serving.observe_metrics import exposition
from serving.openapi import EXAMPLE, PredictRequest, document
from serving.protocols import PROTOCOLS, GetGateway
from serving.protocols.messages import read_json

_STYLE = """
:root { color-scheme: light dark } body { font: 16px/1.6 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto;
padding: 0 1rem } code { background: color-mix(in srgb, currentColor 10%, transparent); padding: .1em .3em;
border-radius: .2em } pre { overflow-x: auto; padding: 1rem; border: 1px solid; border-radius: .4rem }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_PAGE_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; frame-ancestors 'none'"


def create_app(limits: Limits) -> Starlette:
    """The routes, without what stands before them; `app.state.gateway` must be set before they answer.

    Plain Starlette: of the time that a request takes beside the engine, a framework's own checks would be the most.
    """

    def gateway() -> Gateway:
        shared: Gateway = app.state.gateway
        return shared

    routes = [*_native_routes(gateway, limits), *(route for one in PROTOCOLS for route in one.routes(gateway))]
    handlers: dict[Any, Any] = {Refusal: _on_refusal, HTTPException: _on_http_error, Exception: _on_error}
    app = Starlette(routes=routes, exception_handlers=handlers)
    # A redirection would repeat whatever stands in the Host header.
    app.router.redirect_slashes = False
    return app


def _native_routes(gateway: GetGateway, limits: Limits) -> list[BaseRoute]:
    async def predict(request: Request) -> Response:
        asked = _parse(await request.body())
        predictions = await gateway().predict(asked.texts, operating_point=asked.operating_point)
        return as_json({"model": gateway().model, "predictions": predictions})

    async def labels(_: Request) -> Response:
        return as_json(gateway().classifier.artifact.labels)

    async def info(_: Request) -> Response:
        return as_json(_info(gateway()))

    async def openapi(request: Request) -> Response:
        points = list(gateway().classifier.artifact.thresholds)
        # Who had to show a key has a name by now.
        keys = "key_name" in request.scope.get("state", {})
        return as_json(document(limits, operating_points=points, keys=keys))

    async def start_page(_: Request) -> Response:
        return HTMLResponse(_start_page(gateway().model), headers={"Content-Security-Policy": _PAGE_POLICY})

    return [
        Route("/predict", predict, methods=["POST"]),
        Route("/labels", labels),
        Route("/info", info),
        Route("/metrics", _metrics),
        Route("/openapi.json", openapi),
        # Where BentoML has its own description, which leaves our routes out.
        Route("/docs.json", openapi),
        Route("/", start_page),
    ]


def _parse(body: bytes) -> PredictRequest:
    """The request, or a Refusal that names every field at fault and repeats nothing of it."""
    asked = read_json(body)
    faults: list[tuple[str | None, str]] = []
    known = PredictRequest.model_fields.keys()
    if isinstance(asked, dict) and not asked.keys() <= known:
        # Told once, however many there are; and their names were written by somebody too.
        faults = [(None, f"unknown key in the body; allowed: {', '.join(known)}")]
        asked = {key: asked[key] for key in known if key in asked}
    try:
        request = PredictRequest.model_validate(asked)
    except ValidationError as error:
        faults = [*map(_fault, error.errors(include_input=False, include_url=False)), *faults]
    if faults:
        raise Refusal("invalid", "; ".join(message for _, message in faults), faults[0][0])
    return request


def _fault(item: Any) -> tuple[str | None, str]:
    """Where, and what is expected there."""
    where = ""
    for part in item["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}"
    where = where.lstrip(".")
    return where or None, f"{where or 'the body'}: {item['msg'].lower()}"


async def _metrics(_: Request) -> Response:
    """What this process and its siblings counted.

    BentoML's own figures are off: it would keep some for every path that anybody ever asked for.
    """
    return Response(exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _info(gateway: Gateway) -> dict[str, Any]:
    artifact, limits = gateway.classifier.artifact, gateway.limits
    return {
        "model": gateway.model,
        "precision": artifact.precision,
        "base_model": artifact.described["base_model"],
        "data": artifact.described["data"],
        "windows": artifact.described["windows"],
        "thresholds": artifact.thresholds_file,
        "limits": {
            "texts": limits.texts,
            "characters": limits.characters,
            "body_bytes": limits.body_bytes,
            "deadline_ms": limits.deadline_ms,
        },
    }


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return refused(request.scope["path"], error)


async def _on_http_error(_: Request, error: Exception) -> Response:
    """No such path or method, in our shape; the path is not repeated, for somebody wrote it."""
    assert isinstance(error, HTTPException)
    known = {404: "no such path; GET / lists what there is", 405: "this path takes another method"}
    body = {"error": {"message": known.get(error.status_code, error.detail)}}
    response = as_json(body, error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _on_error(request: Request, error: Exception) -> Response:
    return broken(request.scope["path"], error)


def _start_page(model: dict[str, str]) -> str:
    return f"""<!doctype html>
<html lang="fr"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Vigie</title><style>{_STYLE}</style></head><body>
<h1>Vigie</h1>
<p>Repère dans un texte français les signes de sollicitation de mineurs, de chantage sexuel et de harcèlement, et
distingue le témoignage d'une victime du message qui fait du mal. Vigie propose ; une personne décide.</p>
<p>Modèle : <code>{escape(model["name"])}</code>, version <code>{escape(model["version"])}</code></p>
<pre>POST /predict   {{"texts": ["{EXAMPLE}"]}}</pre>
<ul><li><a href="labels">/labels</a> : catégories, définitions, droit et lignes d'aide</li>
<li><a href="info">/info</a> : modèle, données, seuils</li>
<li><a href="openapi.json">/openapi.json</a> : description de l'interface</li>
<li><a href="livez">/livez</a>, <a href="readyz">/readyz</a>, <a href="metrics">/metrics</a></li></ul>
</body></html>
"""
