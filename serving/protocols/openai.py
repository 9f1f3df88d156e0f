"""OpenAI's moderation protocol: give a client that speaks it this host, with /v1 behind it, as its base URL.

A string has one result, a list of strings one each, a list of parts one for all: its texts are read as one message, a
line each. Images are not seen: beside text they are passed over, and `category_applied_input_types` never names them;
without any text the request is refused. `model` may be anything, for clients cannot leave it out; the answer names the
artifact.

The protocol's thirteen keys are always there, because typed clients demand them. Three can be answered honestly:

- `hate`: sexism, racism or homophobia.
- `harassment`: cyberbullying, sexual extortion or sexual violence (which holds unwanted sexual remarks and advances).
- `sexual/minors`: grooming; or a minor is concerned and images are asked for, threatened with or passed on, or there is
  sexual violence. Its score is then the lower of the two, the most that the probability of both can be.

The other ten are false and 0.0 with no applied input type, which says that they were not evaluated: no label tells
threats of violence from insults, how explicit a text is, or anything of self-harm and illicit advice.

Our categories stand beside them under their own names, and `flagged` is whether any of those is acted upon. They and
the keys above are lowered where somebody tells what was done to them (`serving.gateway.actionable`). `vigie` in a
result is the answer of `/predict`: nothing lowered, the voice, the route, and whether a minor is concerned. That is no
harm by itself and so no category, for some clients take the highest score of all.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from serving.classifier import Prediction
from serving.gateway import Kind, Refusal, acted_upon, actionable
from serving.limits import protects_testimony
from serving.protocols import GetGateway
from serving.protocols.messages import parse
from serving.protocols.moderation import HATE, Value, derived, model_name, predict
from serving.protocols.moderation_messages import InputRequest

PREFIXES: tuple[str, ...] = ("/v1/moderations",)
KEYS = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent"),
    *("self-harm", "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors"),
    *("violence", "violence/graphic"),
)
"""All keys of the protocol."""
_MEANINGS = {"hate": HATE, "harassment": ("cyberbullying", "sexual_extortion", "sexual_violence")}
_SEXUAL = ("image_solicitation", "image_abuse", "sexual_extortion", "sexual_violence")
"""Categories that are `sexual/minors` where a minor is concerned; grooming is by itself."""
_ERRORS: Mapping[Kind, tuple[int, str, str | None]] = {
    "invalid": (400, "invalid_request_error", None),
    "too_large": (413, "invalid_request_error", "request_too_large"),
    "unauthorized": (401, "invalid_request_error", "invalid_api_key"),
    "forbidden": (403, "invalid_request_error", "forbidden"),
    "rate_limited": (429, "requests", "rate_limit_exceeded"),
    "overloaded": (503, "server_error", "overloaded"),
    "failed": (500, "server_error", None),
    "unsupported": (501, "invalid_request_error", None),
}
"""Status, type and code."""


def routes(gateway: GetGateway) -> list[BaseRoute]:
    """The one method of the protocol."""
    protect = protects_testimony()

    async def moderations(request: Request) -> Response:
        asked = parse(InputRequest, await request.body())
        predictions = await predict(gateway(), asked.texts)
        results = [_result(one, protect=protect) for one in predictions]
        named = {"id": f"modr-{secrets.token_hex(16)}", "model": model_name(gateway())}
        return JSONResponse({**named, "results": results})

    return [Route("/v1/moderations", moderations, methods=["POST"])]


def _result(prediction: Prediction, *, protect: bool) -> dict[str, Any]:
    flags, scores = acted_upon(prediction, protect=protect), actionable(prediction, protect=protect)
    minor = prediction["minor_involved"]
    evaluated = {**_standard(scores, minor["score"]), **scores}
    return {
        "flagged": any(flags.values()),
        "categories": {**dict.fromkeys(KEYS, False), **_standard(flags, minor["flagged"]), **flags},
        "category_scores": {**dict.fromkeys(KEYS, 0.0), **evaluated},
        "category_applied_input_types": {key: ["text"] if key in evaluated else [] for key in (*KEYS, *scores)},
        "vigie": prediction,
    }


def _standard(categories: Mapping[str, Value], minor: Value) -> dict[str, Value]:
    """The protocol's own keys that the artifact's categories answer; see above for what each means."""
    found = derived(_MEANINGS, categories)
    if categories.keys() >= {"grooming", *_SEXUAL}:
        of_a_minor = min(max(categories[label] for label in _SEXUAL), minor)
        found["sexual/minors"] = max(categories["grooming"], of_a_minor)
    return found


def refuse(refusal: Refusal) -> Response:
    """A refusal in the protocol's shape; its `param` is the field at fault, as `input[3]`."""
    status, kind, code = _ERRORS[refusal.kind]
    error = {"message": refusal.message, "type": kind, "param": refusal.where, "code": code}
    return JSONResponse({"error": error}, status)
