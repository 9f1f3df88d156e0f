"""What every request passes through before a route, and every answer after it; and how a refusal is worded."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.auth import HEALTH, Access, Auth
from serving.gateway import Gateway, Refusal
from serving.intake import Intake, declared_bytes
from serving.limits import Limits
from serving.logs import describe
from serving.observe import Observe, templates_of
from serving.observe_facts import note_refusal
from serving.protocols import PROTOCOLS, WireProtocol

logger = logging.getLogger("vigie")

_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")
_SMALL_BODY = 64 * 2**10
"""Bytes of an unread body that the server may throw away to keep the connection; it buffers as much anyway."""


def middlewares(
    routes: Starlette, *, limits: Limits, access: Access, origins: Sequence[str], gateway: Callable[[], Gateway]
) -> list[Middleware]:
    """The way in, outermost first; the routes come last."""
    allowed: dict[str, Any] = {
        "allow_origins": list(origins),
        "allow_methods": ["GET", "POST"],
        "allow_headers": ["*"],
        "expose_headers": ["Retry-After", "X-Request-ID", "X-Vigie-Model"],
    }
    return [
        # First, so that it sees every answer, refusals included.
        Middleware(
            Observe,
            templates=[*templates_of(routes.routes), *HEALTH],
            metrics=lambda: getattr(routes.state, "metrics", None),
        ),
        Middleware(SecurityHeaders),
        *([Middleware(OtherPages, **allowed)] if origins else []),
        Middleware(Refusals),
        Middleware(Auth, access=access),
        Middleware(Intake, limits=limits, gateway=gateway),
        Middleware(Routes, routes=routes),
    ]


def origins_from_environment() -> list[str]:
    """Web pages that may call from a browser: VIGIE_CORS_ORIGINS, separated by commas; none by default.

    Raises:
        ValueError: something that is no origin.
    """
    origins = [origin.strip() for origin in os.environ.get("VIGIE_CORS_ORIGINS", "").split(",") if origin.strip()]
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"VIGIE_CORS_ORIGINS: {origin!r} is no origin; write them as https://example.org")
    return origins


class OtherPages(CORSMiddleware):
    """Lets web pages of the origins named call from a browser, with any header."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """What a browser asks before it sends a request: the headers it names are allowed, and not repeated."""
        response = super().preflight_response(request_headers)
        # The star stands for all but this one, and not where cookies are allowed, which they are not.
        response.headers["Access-Control-Allow-Headers"] = "*, Authorization"
        return response


class SecurityHeaders:
    """Headers on every answer, except where a route sets its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                missing = [header for header in _SECURITY_HEADERS if header[0] not in present]
                message["headers"] = [*message["headers"], *missing]
            await send(message)

        await self.app(scope, receive, add if scope["type"] == "http" else send)


class Refusals:
    """Answers what is refused before a route is reached, and what broke, in the words of the path's owner."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, note)
        except Refusal as refusal:
            response = refused(scope["path"], refusal)
            size = declared_bytes(scope)
            if size is None or size > _SMALL_BODY:
                response.headers["Connection"] = "close"
            await response(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the server would log the message, which might quote a text
            if not started:
                await broken(scope["path"], error)(scope, receive, send)


class Routes:
    """Sends everything but BentoML's health checks to our routes.

    What BentoML would add to them stays out of reach: a page that loads scripts from elsewhere, its assets, a schema.
    """

    def __init__(self, app: ASGIApp, *, routes: ASGIApp) -> None:
        self.app, self.routes = app, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope.get("path") in HEALTH:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": ""})
        else:
            await self.routes(scope, receive, send)


def refused(path: str, refusal: Refusal) -> Response:
    """A refusal in the words of the protocol that owns the path, or else in ours."""
    note_refusal(refusal.kind)
    protocol = _owner(path)
    response = protocol.refuse(refusal) if protocol else _native(refusal)
    if refusal.retry_after_s is not None:
        response.headers.setdefault("Retry-After", str(refusal.retry_after_s))
    if refusal.kind == "unauthorized":
        response.headers.setdefault("WWW-Authenticate", "Bearer")
    return response


def broken(path: str, error: Exception) -> Response:
    """Status 500. The log says which kind of error and where, never its message: that might quote a text."""
    logger.error("a request failed", extra={"fields": describe(error)})
    return refused(path, Refusal("failed", f"internal error ({type(error).__name__}); the texts were not kept"))


def as_json(value: Any, status: int = 200) -> Response:
    """An answer in JSON."""
    return Response(orjson.dumps(value), status_code=status, media_type="application/json")


def _owner(path: str) -> WireProtocol | None:
    owned = {prefix: one for one in PROTOCOLS for prefix in one.PREFIXES if path.startswith(prefix)}
    return owned[max(owned, key=len)] if owned else None


def _native(refusal: Refusal) -> Response:
    error = {"message": refusal.message, "kind": refusal.kind}
    if refusal.where is not None:
        error["where"] = refusal.where
    return as_json({"error": error}, refusal.status)
