"""Bounds on what a request may bring, enforced before anything reads it whole."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

MAX_TEXTS = 64
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """How much one request may hold; each can be set by the environment variable named in its comment."""

    characters: int = 20_000  # VIGIE_MAX_CHARACTERS, of one text
    body_bytes: int = 4 * 2**20  # VIGIE_MAX_BODY_BYTES, of one request

    @classmethod
    def from_environment(cls) -> Limits:
        """The defaults, or what the environment says.

        Raises:
            ValueError: a variable that is no positive whole number.
        """
        return cls(_positive("VIGIE_MAX_CHARACTERS", cls.characters), _positive("VIGIE_MAX_BODY_BYTES", cls.body_bytes))


class BodyLimit:
    """ASGI middleware: answers 413 as soon as a body is known to be too large, declared or chunked."""

    def __init__(self, app: Any, *, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.limit:
            await self._refuse(send)
            return
        body, complete = await self._read(receive)
        if body is None:
            await self._refuse(send)
            return
        delivered = False

        async def replay() -> _Message:
            nonlocal delivered
            if delivered or not complete:
                return await receive()
            delivered = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _read(self, receive: _Receive) -> tuple[bytes | None, bool]:
        """The whole body, or None when it is too large; and whether the client sent all of it."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return b"".join(parts), False
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.limit:
                return None, False
            if not message.get("more_body"):
                return b"".join(parts), True

    async def _refuse(self, send: _Send) -> None:
        message = {"error": {"message": f"the request is larger than {self.limit} bytes; send fewer or shorter texts"}}
        body = json.dumps(message).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        # The rest of the body is not read, so the connection cannot be used again.
        await send({"type": "http.response.start", "status": 413, "headers": [*headers, (b"connection", b"close")]})
        await send({"type": "http.response.body", "body": body})


def _positive(variable: str, default: int) -> int:
    value = os.environ.get(variable, str(default))
    if not value.isdigit() or int(value) == 0:
        raise ValueError(f"{variable} must be a positive whole number, not {value!r}")
    return int(value)
