"""Mistral's moderation and classification protocols: give a client that speaks them this host, with /mistral behind it.

The four methods are at `/mistral/v1/…`. Three of them are at `/v1/…` too, where nobody else has the name; what is at
`/v1/moderations` is OpenAI's, whose answer Mistral's clients read as well, without Mistral's key and with OpenAI's
errors.

Moderation answers our categories and, of the protocol's own keys, the one that they give: `hate_and_discrimination`,
the highest of sexism, racism and homophobia. The others are left out, which the protocol's open answer allows: no label
says how explicit or dangerous a text is, or tells threats of violence from insults. All are lowered where somebody
tells what was done to them (`serving.gateway.actionable`); `vigie` in a result is the answer of `/predict`.

Classification answers four targets: `categories` as above, `categories_raw` with nothing lowered, `context` and
`voices`.

A conversation is judged message by message, and its result is the highest of them: every message of the roles user and
assistant by itself, whoever else speaks, since the model reads single texts. So what was said anywhere counts, not only
in the last turn; who wants that one alone finds the answer for each message, in order, in `vigie`, with null where
nothing is judged: roles system and tool, and what holds no text.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from serving.classifier import Prediction
from serving.gateway import STATUS, Gateway, Kind, Refusal, acted_upon, actionable
from serving.limits import protects_testimony
from serving.protocols import GetGateway
from serving.protocols.messages import parse
from serving.protocols.moderation import HATE, Value, derived, model_name, predict
from serving.protocols.moderation_messages import ChatMessage, ChatRequest, InstructRequest, TextsRequest

PREFIXES: tuple[str, ...] = ("/mistral/", "/v1/chat/moderations", "/v1/classifications", "/v1/chat/classifications")
_MEANINGS = {"hate_and_discrimination": HATE}
_PLACE = re.compile(r"[^.\[\]]+")
_ERRORS: Mapping[Kind, tuple[str, str | None]] = {
    "too_large": ("invalid_request_error", None),
    "forbidden": ("forbidden", None),
    "rate_limited": ("rate_limited", "1300"),
    "overloaded": ("service_unavailable", None),
    "failed": ("internal_server_error", None),
    "unsupported": ("invalid_request_error", None),
}
"""Type and code of what is neither a fault of the request nor a bad key."""


def routes(gateway: GetGateway) -> list[BaseRoute]:
    """Moderation and classification, of texts and of conversations."""
    protect = protects_testimony()

    async def moderations(request: Request) -> Response:
        asked = parse(TextsRequest, await request.body())
        predictions = await predict(gateway(), asked.texts)
        results = [{**_moderation([one], protect=protect), "vigie": one} for one in predictions]
        return _answer(gateway(), results)

    async def chat_moderations(request: Request) -> Response:
        asked = parse(ChatRequest, await request.body())
        judged = await _judge(gateway(), asked.conversations)
        results = [{**_moderation(_said(turns), protect=protect), "vigie": turns} for turns in judged]
        return _answer(gateway(), results)

    async def classifications(request: Request) -> Response:
        asked = parse(TextsRequest, await request.body())
        predictions = await predict(gateway(), asked.texts)
        return _answer(gateway(), [_classification([one], protect=protect) for one in predictions])

    async def chat_classifications(request: Request) -> Response:
        asked = parse(InstructRequest, await request.body())
        judged = await _judge(gateway(), asked.conversations)
        return _answer(gateway(), [_classification(_said(turns), protect=protect) for turns in judged])

    return [
        Route("/mistral/v1/moderations", moderations, methods=["POST"]),
        *_at_both("/v1/chat/moderations", chat_moderations),
        *_at_both("/v1/classifications", classifications),
        *_at_both("/v1/chat/classifications", chat_classifications),
    ]


def _at_both(path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> list[BaseRoute]:
    return [Route(prefix + path, endpoint, methods=["POST"]) for prefix in ("", "/mistral")]


Turns = list[Prediction | None]
"""The answer for each message of a conversation, None where nothing of it is judged."""


async def _judge(gateway: Gateway, conversations: Mapping[str, Sequence[ChatMessage]]) -> list[Turns]:
    """All turns of all conversations, which are given by their places in the request."""
    texts: dict[str, str] = {}
    for where, messages in conversations.items():
        said = {f"{where}[{n}].content": message.said for n, message in enumerate(messages)}
        said = {place: text for place, text in said.items() if text.strip()}
        if not said:
            raise Refusal("invalid", f"{where}: no message of a user or an assistant holds text", where)
        texts |= said
    answers = dict(zip(texts, await predict(gateway, texts), strict=True))
    return [
        [answers.get(f"{where}[{n}].content") for n in range(len(messages))]
        for where, messages in conversations.items()
    ]


def _said(turns: Turns) -> list[Prediction]:
    return [one for one in turns if one is not None]


def _moderation(predictions: Sequence[Prediction], *, protect: bool) -> dict[str, Any]:
    flags = [acted_upon(one, protect=protect) for one in predictions]
    scores = [_lowered(one, protect=protect) for one in predictions]
    return {
        "categories": _highest([{**one, **derived(_MEANINGS, one)} for one in flags]),
        "category_scores": _highest(scores),
    }


def _classification(predictions: Sequence[Prediction], *, protect: bool) -> dict[str, Any]:
    """Target → its scores, all of them the highest of the texts."""
    targets = [
        {
            "categories": _lowered(one, protect=protect),
            "categories_raw": _lowered(one, protect=False),
            "context": {"minor_involved": one["minor_involved"]["score"]},
            "voices": one["voice"]["scores"],
        }
        for one in predictions
    ]
    return {target: {"scores": _highest([one[target] for one in targets])} for target in targets[0]}


def _lowered(prediction: Prediction, *, protect: bool) -> dict[str, float]:
    scores = actionable(prediction, protect=protect)
    return {**scores, **derived(_MEANINGS, scores)}


def _highest(answers: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
    """Of each key, over answers that have the same keys."""
    return {key: max(one[key] for one in answers) for key in answers[0]}


def _answer(gateway: Gateway, results: list[dict[str, Any]]) -> Response:
    named = {"id": f"mod-{secrets.token_hex(16)}", "model": model_name(gateway)}
    return JSONResponse({**named, "results": results})


def refuse(refusal: Refusal) -> Response:
    """A refusal in the protocol's three shapes: a fault of the request with its place, a bad key, anything else."""
    status = STATUS[refusal.kind]
    if refusal.kind == "invalid":
        place = [int(part) if part.isdecimal() else part for part in _PLACE.findall(refusal.where or "")]
        fault = {"loc": ["body", *place], "msg": refusal.message, "type": "value_error"}
        return JSONResponse({"detail": [fault]}, status)
    if refusal.kind == "unauthorized":
        return JSONResponse({"detail": f"Unauthorized: {refusal.message}"}, status)
    kind, code = _ERRORS[refusal.kind]
    return JSONResponse(
        {"object": "error", "message": refusal.message, "type": kind, "param": None, "code": code}, status
    )
