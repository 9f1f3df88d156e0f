"""Reads request bodies within bounds, and gives a request up when its client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.gateway import Gateway, Refusal
from serving.limits import REQUEST_COST, Limits

CLIENT_LEFT = 499
"""Status of a request whose client went away, for logs and metrics; nobody reads it."""


class Intake:
    """ASGI middleware before the routes: they find the whole body there, or are never reached.

    Refused at once: what declares more than the limit, and anything while the queue is full. The bytes of all requests
    being read or answered are counted as they arrive, so a thousand large ones cannot take gigabytes together, and
    slow clients hold no more than what they sent.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, gateway: Callable[[], Gateway]) -> None:
        self.app, self.limits, self.gateway = app, limits, gateway
        self.held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared = declared_bytes(scope) if scope["type"] == "http" else 0
        if declared == 0:
            await self.app(scope, receive, send)
            return
        if declared is not None and declared > self.limits.body_bytes:
            raise self._too_large()
        self.gateway().check_room()
        held = _Held(self)
        try:
            held.take(REQUEST_COST)
            body = await self._read(receive, held)
            if body is None:
                await Response(status_code=CLIENT_LEFT)(scope, receive, send)
            else:
                await _Attended(body, receive, send).run(self.app, scope)
        finally:
            self.held_bytes -= held.bytes

    async def _read(self, receive: Receive, held: _Held) -> bytes | None:
        """The whole body; None when the client left before its end.

        Raises:
            Refusal: it is too large, too much is being read already, or it did not arrive in time.
        """
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self.limits.read_timeout_s):
                while (message := await receive())["type"] == "http.request":
                    parts.append(message.get("body", b""))
                    held.take(len(parts[-1]))
                    if held.bytes - REQUEST_COST > self.limits.body_bytes:
                        raise self._too_large()
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise Refusal("invalid", f"the body did not arrive within {self.limits.read_timeout_s} s") from None
        return None

    def _too_large(self) -> Refusal:
        allowed = self.limits.body_bytes
        return Refusal("too_large", f"the request is larger than {allowed} bytes; send fewer or shorter texts")


class _Held:
    """Bytes that one request holds, counted into the intake's."""

    def __init__(self, intake: Intake) -> None:
        self.intake, self.bytes = intake, 0

    def take(self, size: int) -> None:
        if self.intake.held_bytes + size > self.intake.limits.held_bytes:
            raise Refusal("overloaded", "too many requests are being read; try again later", retry_after_s=1)
        self.intake.held_bytes += size
        self.bytes += size


class _Attended:
    """One request whose body has been read: its work is cancelled if the client leaves before the answer.

    Starlette tells a handler of the leaving only when it asks, which one that waits for the engine does not.
    """

    def __init__(self, body: bytes, receive: Receive, send: Send) -> None:
        self.body: bytes | None = body
        self.receive, self._send = receive, send
        self.left = asyncio.Event()
        self.answered = False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        task = asyncio.current_task()
        assert task is not None
        watcher = asyncio.create_task(self._watch(task))
        try:
            await app(scope, self._replay, self._pass_on)
        except asyncio.CancelledError:
            if not self.left.is_set():
                raise
            task.uncancel()
            await Response(status_code=CLIENT_LEFT)(scope, self.receive, self._send)
        finally:
            watcher.cancel()

    async def _watch(self, task: asyncio.Task[None]) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.left.set()
        if not self.answered:
            task.cancel()

    async def _replay(self) -> Message:
        if self.body is None:
            await self.left.wait()
            return {"type": "http.disconnect"}
        body, self.body = self.body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def _pass_on(self, message: Message) -> None:
        self.answered = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)


def declared_bytes(scope: Scope) -> int | None:
    """Length of the body as the headers declare it: 0 for none, None where only its end will tell."""
    length: int | None = 0
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            length = int(value) if value.isdigit() else None
    return length
