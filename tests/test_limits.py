"""serving.limits and serving.intake: what a request may bring, and what becomes of it when its client leaves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.types import Message, Receive, Scope, Send

from serving import Classifier
from serving.api import create_app
from serving.auth import Access
from serving.batcher import Batcher
from serving.gateway import Gateway, Refusal
from serving.intake import CLIENT_LEFT, Intake
from serving.limits import REQUEST_COST, Limits
from serving.middleware import middlewares

VARIABLES = [
    "VIGIE_MAX_BODY_BYTES",
    "VIGIE_MAX_HELD_BYTES",
    "VIGIE_MAX_CHARACTERS",
    "VIGIE_MAX_TEXTS",
    "VIGIE_MAX_QUEUE",
    "VIGIE_MAX_QUEUE_CHARACTERS",
    "VIGIE_DEADLINE_MS",
    "VIGIE_READ_TIMEOUT_S",
]


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("value", ["0", "-1", "many", "", "²"])
def test_a_limit_that_is_no_number_is_told(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"{variable} must be a positive whole number"):
        Limits.from_environment()


def test_every_limit_follows_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Limits.from_environment() == Limits()
    for number, variable in enumerate(VARIABLES, 1):
        monkeypatch.setenv(variable, str(number * 10**6))
    limits = Limits.from_environment()
    assert [value // 10**6 for value in vars(limits).values()] == list(range(1, 9))


def test_a_ceiling_below_one_request_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIE_MAX_HELD_BYTES", "1000")
    with pytest.raises(ValueError, match="VIGIE_MAX_HELD_BYTES must be at least 4210688"):
        Limits.from_environment()


class Client:
    """A client that sends one piece after the other when told, and may leave."""

    def __init__(self, *pieces: bytes, declared: int | None = None, complete: bool = True) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        for index, piece in enumerate(pieces):
            more = not complete or index < len(pieces) - 1
            self.messages.put_nowait({"type": "http.request", "body": piece, "more_body": more})
        length = (b"transfer-encoding", b"chunked") if declared is None else (b"content-length", b"%d" % declared)
        self.scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/predict",
            "query_string": b"",
            "headers": [length, (b"host", b"localhost")],
            "client": ("127.0.0.1", 1),
        }
        self.status: int | None = None
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    def leave(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        self.body += message.get("body", b"")

    async def ask(self, app: Any) -> Client:
        await app(self.scope, self.messages.get, self.send)
        return self


class Idle:
    """A gateway whose queue is never full, for what only reads."""

    def check_room(self) -> None:
        pass


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def intake(app: Any = echo, gateway: Any = None, **limits: Any) -> Intake:
    return Intake(app, limits=Limits(**limits), gateway=lambda: gateway or Idle())


def test_a_body_in_pieces_reaches_the_route_whole() -> None:
    async def scene() -> bytes:
        return (await Client(b"ab", b"", b"cd").ask(intake())).body

    assert asyncio.run(scene()) == b"abcd"


def test_a_body_that_does_not_arrive_is_given_up() -> None:
    async def scene() -> None:
        await Client(b"half", declared=8, complete=False).ask(intake(read_timeout_s=0))

    with pytest.raises(Refusal, match="did not arrive within 0 s"):
        asyncio.run(scene())


@pytest.mark.parametrize("declared", [11, None])
def test_too_large_a_body_is_refused_before_it_is_all_there(declared: int | None) -> None:
    """Declared, nothing is read; chunked, no more than the piece that goes too far."""

    async def scene() -> tuple[str, int]:
        client = Client(b"x" * 6, b"x" * 6, b"x" * 6, declared=declared, complete=False)
        with pytest.raises(Refusal) as caught:
            await client.ask(intake(body_bytes=10))
        return caught.value.kind, client.messages.qsize()

    assert asyncio.run(scene()) == ("too_large", 3 if declared else 1)


def test_bytes_of_all_requests_have_one_ceiling_and_are_given_back() -> None:
    """Three clients that stop halfway hold what they sent; a fourth is refused at once, and fits when one has left."""

    async def scene() -> tuple[list[int], bytes, int]:
        held, reader = [], intake(body_bytes=1000, held_bytes=3 * (REQUEST_COST + 900))
        slow = [Client(b"x" * 900, complete=False) for _ in range(3)]
        tasks = [asyncio.create_task(client.ask(reader)) for client in slow]
        while reader.held_bytes < 3 * 900 + 3 * REQUEST_COST:
            await asyncio.sleep(0)
        held.append(reader.held_bytes)
        with pytest.raises(Refusal) as caught:
            await Client(b"y").ask(reader)
        assert (caught.value.kind, caught.value.retry_after_s) == ("overloaded", 1)
        slow[0].leave()
        await tasks[0]
        answered = (await Client(b"y").ask(reader)).body
        for client in slow[1:]:
            client.leave()
        await asyncio.gather(*tasks)
        return [*held, slow[0].status or 0], answered, reader.held_bytes

    assert asyncio.run(scene()) == ([3 * (REQUEST_COST + 900), CLIENT_LEFT], b"y", 0)


class Held:
    """Scores nothing until let go, and counts how often it was asked and for what."""

    def __init__(self, labels: int) -> None:
        self.free, self.labels = threading.Event(), labels
        self.runs: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> Any:
        self.runs.append(list(texts))
        assert self.free.wait(10)
        return np.zeros((len(texts), self.labels))


@pytest.fixture(scope="module")
def classifier(artifact: Path) -> Classifier:
    return Classifier.from_dir(artifact)


def service(classifier: Classifier, batcher: Batcher) -> Any:
    """The whole way in, as in the served process."""
    limits = Limits()
    gateway = Gateway(classifier, batcher, limits)
    app = create_app(limits)
    app.state.gateway = gateway
    stack: Any = None
    for layer in reversed(middlewares(app, limits=limits, access=Access(), origins=[], gateway=lambda: gateway)):
        stack = layer.cls(stack, *layer.args, **layer.kwargs)
    return stack


async def running(held: Held) -> None:
    while not held.runs:
        await asyncio.sleep(0)


def test_clients_that_leave_cost_no_inference(classifier: Classifier) -> None:
    """A hundred ask and leave while the engine is busy; it is then called for the one who stayed and nobody else."""

    async def scene() -> tuple[list[list[str]], list[int | None]]:
        held = Held(len(classifier.artifact.label_ids))
        app = service(classifier, Batcher(held))
        first, stays = Client(b'{"texts": ["first"]}'), Client(b'{"texts": ["stays"]}')
        leaving = [Client(b'{"texts": ["leaves"]}') for _ in range(100)]
        tasks = [asyncio.create_task(first.ask(app))]
        await running(held)
        tasks += [asyncio.create_task(client.ask(app)) for client in (*leaving, stays)]
        for client in leaving:
            client.leave()
        await asyncio.gather(*tasks[1:-1])
        held.free.set()
        await asyncio.gather(*tasks)
        return held.runs, [client.status for client in (first, stays, *leaving)]

    runs, statuses = asyncio.run(scene())
    assert runs == [["first"], ["stays"]]
    assert statuses == [200, 200] + [CLIENT_LEFT] * 100


def test_a_full_queue_refuses_before_the_body_is_read(classifier: Classifier) -> None:
    async def scene() -> tuple[Client, int]:
        held = Held(len(classifier.artifact.label_ids))
        batcher = Batcher(held, queue_texts=2)
        app = service(classifier, batcher)
        tasks = [asyncio.create_task(Client(b'{"texts": ["first"]}').ask(app))]
        await running(held)
        tasks.append(asyncio.create_task(Client(b'{"texts": ["a", "b"]}').ask(app)))
        while batcher.waiting_texts < 2:
            await asyncio.sleep(0)
        refused = await Client(b'{"texts": ["never read"]}').ask(app)
        held.free.set()
        await asyncio.gather(*tasks)
        return refused, refused.messages.qsize()

    refused, unread = asyncio.run(scene())
    assert (refused.status, refused.headers[b"retry-after"], unread) == (503, b"1", 1)


def test_an_answer_under_way_is_not_cancelled_by_the_leaving_that_follows_it() -> None:
    """Servers tell of a disconnection as soon as the response is complete, which is not before the route has ended."""

    async def scene() -> tuple[bytes, bool]:
        client, ended = Client(b"ab"), False

        async def slow_end(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal ended
            await echo(scope, receive, send)
            client.leave()
            for _ in range(5):
                await asyncio.sleep(0)
            ended = True

        return (await client.ask(intake(slow_end))).body, ended

    assert asyncio.run(scene()) == (b"ab", True)
