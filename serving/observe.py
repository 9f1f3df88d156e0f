"""Watches every request: its id, its figures, its line in the log, and its span where traces are asked for."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from http import HTTPMethod
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.auth import HEALTH
from serving.gateway import STATUS
from serving.intake import CLIENT_LEFT
from serving.observe_facts import Facts, current
from serving.observe_tracing import Spans

if TYPE_CHECKING:
    from serving.observe_metrics import Metrics

logger = logging.getLogger("vigie")

OTHER = "other"
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset(method.value for method in HTTPMethod)
_KINDS: dict[int, str] = {status: kind for kind, status in STATUS.items()}
_QUIET = HEALTH | {"/metrics"}
"""Asked every few seconds by a machine: logged at DEBUG only."""


class Observe:
    """ASGI middleware, the outermost: it sees every answer, refusals and failures included."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        templates: Iterable[str],
        metrics: Callable[[], Metrics | None],
        spans: Callable[[], Spans | None] = Spans.from_environment,
    ) -> None:
        """
        Args:
            templates: the paths there are (see `templates_of`). Any other is told as `other`, for somebody wrote it.
            metrics: gives the process's figures; None until the model has been read.
            spans: gives what makes spans, or None; asked once, when the process begins to serve.
        """
        self.app, self._metrics, self._spans = app, metrics, spans()
        self._routes = _Routes(templates)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = perf_counter()
        facts = Facts(request_id(scope))
        scope.setdefault("state", {})["request_id"] = facts.request_id
        token = current.set(facts)
        status = 0

        async def pass_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *self._headers(facts)]
            await send(message)

        try:
            await self.app(scope, receive, pass_on)
        except Exception as error:
            # Not raised again: the server would only log it once more, without the id.
            logger.error("a request failed", exc_info=error)
            if not status:
                await _broken(facts)(scope, receive, pass_on)
        finally:
            # Without a status it was given up: the client left, or the server's last time-out came.
            self._record(scope, facts, status or CLIENT_LEFT, perf_counter() - started)
            current.reset(token)

    def _headers(self, facts: Facts) -> Iterator[tuple[bytes, bytes]]:
        yield b"x-request-id", facts.request_id.encode("ascii")
        if (metrics := self._metrics()) is not None:
            yield b"x-vigie-model", _model_header(metrics.model["name"], metrics.model["version"])

    def _record(self, scope: Scope, facts: Facts, status: int, seconds: float) -> None:
        route = self._routes.template(scope["path"])
        method = scope["method"] if scope["method"] in _METHODS else OTHER
        key, refusal = scope["state"].get("key_name"), facts.refusal or _KINDS.get(status)
        metrics = self._metrics()
        if metrics is not None:
            metrics.record_request(route=route, method=method, status=status, seconds=seconds, key=key, refusal=refusal)
        fields: dict[str, Any] = {
            "route": route,
            "method": method,
            "status": status,
            "duration_ms": round(seconds * 1000, 3),
            "texts": facts.texts,
            "characters": facts.characters,
        }
        if self._spans is not None:
            fields["trace_id"] = self._spans.record(fields, seconds=seconds, headers=scope["headers"])
        _log(fields, key=key, refusal=refusal, model=metrics.model["version"] if metrics else None)


class _Routes:
    """From a path that somebody asked for to the template that answers it."""

    def __init__(self, templates: Iterable[str]) -> None:
        self._exact, self._patterns = set(), []
        for template in templates:
            if "{" in template:
                self._patterns.append((compile_path(template)[0], template))
            else:
                self._exact.add(template)

    def template(self, path: str) -> str:
        if path in self._exact:
            return path
        return next((template for pattern, template in self._patterns if pattern.match(path)), OTHER)


def templates_of(routes: Iterable[BaseRoute], prefix: str = "") -> Iterator[str]:
    """The path of every route, those of mounted applications included, as `/v1/models/{name}`."""
    for route in routes:
        path = prefix + getattr(route, "path", "")
        inner = getattr(route, "routes", None)
        if inner:
            yield from templates_of(inner, path)
        elif hasattr(route, "endpoint"):
            yield path
        else:
            yield f"{path}/{{path:path}}"


def request_id(scope: Scope) -> str:
    """The client's X-Request-ID where it is 1 to 64 of `A-Za-z0-9._-`, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return str(value, "ascii")
    return os.urandom(16).hex()


def _log(fields: dict[str, Any], **known: str | None) -> None:
    level = logging.DEBUG if fields["route"] in _QUIET else logging.INFO
    level = logging.WARNING if fields["status"] >= 500 else level
    if logger.isEnabledFor(level):
        fields.update((name, value) for name, value in known.items() if value is not None)
        # What `logger.log` does, less the search for the line that called it, which is not shown.
        logger.handle(logger.makeRecord(logger.name, level, "", 0, "request", (), None, extra={"fields": fields}))


def _broken(facts: Facts) -> JSONResponse:
    message = "internal error; the texts were not kept"
    return JSONResponse({"error": {"message": message, "kind": "failed", "request_id": facts.request_id}}, 500)


@lru_cache(maxsize=4)
def _model_header(name: str, version: str) -> bytes:
    return quote(f"{name}/{version}", safe="/+").encode("ascii")
