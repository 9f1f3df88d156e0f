"""A small HTTP/1.1 client for loads: raw requests over kept connections, so that it takes little beside a server.

Requests are whole, ready-made bytes; of an answer only its status is looked at.
"""

from __future__ import annotations

import asyncio
import random
import resource
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, TypeVar

Result = TypeVar("Result")
GRACE_S = 60.0
"""How long answers may still come after the end of a load; what is missing then counts as broken."""


@dataclass
class Load:
    """What came back: seconds of every 200, statuses, broken connections, and the client's own CPU seconds."""

    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    seconds: float = 0.0
    client_cpu: float = 0.0

    @property
    def answered(self) -> int:
        return self.statuses[200]

    @property
    def errors(self) -> int:
        """Every request without a 200."""
        return sum(self.statuses.values()) - self.answered + self.broken

    def note(self, status: int, seconds: float) -> None:
        self.statuses[status] += 1
        if status == 200:
            self.latencies.append(seconds)

    def take(self) -> Load:
        """What came since the last call."""
        taken = Load(self.latencies, self.statuses, self.broken)
        self.latencies, self.statuses, self.broken = [], Counter(), 0
        return taken


class Connection(asyncio.Protocol):
    """One kept connection, one request at a time."""

    def __init__(self) -> None:
        import httptools

        self.open = False
        self._parser: Any = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[int] | None = None

    async def ask(self, request: bytes) -> int:
        """Send a request; returns the status of its answer.

        Raises:
            ConnectionError: the connection ended before the answer did.
        """
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self.open:
            self.open = False
            self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport, self.open = transport, True

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        # An interim answer, as 100 Continue, is not yet the one that is waited for.
        if (status := self._parser.get_status_code()) < 200:
            return
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer and not self._answer.done():
            self._answer.set_result(status)

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionError("closed before the answer"))


async def connect(port: int) -> Connection:
    """A new connection to a server on this machine."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection


async def closed(port: int, requests: Sequence[bytes], *, connections: int, seconds: float) -> Load:
    """So many connections, each of which asks again as soon as it was answered."""
    load, source, until = Load(), cycle(requests), time.perf_counter() + seconds
    await _timed(load, [_keep_asking(port, source, until, load) for _ in range(connections)], seconds)
    return load


async def paced(
    port: int, requests: Sequence[bytes], *, rate: float, seconds: float, seed: int = 0, load: Load | None = None
) -> Load:
    """Requests at random moments (a Poisson process), `rate` a second on average, however slowly answers come.

    A latency counts from the moment a request was due. `load` collects what comes back, if somebody wants to look at
    it meanwhile.
    """
    load = load or Load()
    await _timed(load, [_send_when_due(port, cycle(requests), load, rate, seconds, random.Random(seed))], seconds)
    return load


async def burst(port: int, requests: Sequence[bytes]) -> Load:
    """All at once, each on a connection of its own."""
    load = Load()
    await _timed(load, [_once(port, request, load, time.perf_counter()) for request in requests], 0.0)
    return load


def run(scene: Coroutine[Any, Any, Result]) -> Result:
    """Run a load in an event loop of its own, with enough open files for it."""
    import uvloop

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(scene)


def request(path: str, body: bytes, *, port: int) -> bytes:
    """A POST of JSON, ready to be sent."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


async def _timed(load: Load, parts: Sequence[Coroutine[Any, Any, None]], seconds: float) -> None:
    """Run the parts of a load; those that outlast the grace are broken."""
    start, cpu = time.perf_counter(), time.process_time()
    tasks = [asyncio.create_task(part) for part in parts]
    _, late = await asyncio.wait(tasks, timeout=seconds + GRACE_S)
    for task in late:
        task.cancel()
    load.broken += len(late)
    for found in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(found, Exception):
            raise found
    load.seconds, load.client_cpu = time.perf_counter() - start, time.process_time() - cpu


async def _keep_asking(port: int, source: Iterator[bytes], until: float, load: Load) -> None:
    connection: Connection | None = None
    try:
        while (start := time.perf_counter()) < until:
            try:
                connection = connection if connection and connection.open else await connect(port)
                load.note(await connection.ask(next(source)), time.perf_counter() - start)
            except OSError:
                load.broken += 1
                # A server that is not there must not turn this into a busy loop.
                await asyncio.sleep(0.01)
    finally:
        if connection:
            connection.close()


async def _send_when_due(
    port: int, source: Iterator[bytes], load: Load, rate: float, seconds: float, chance: random.Random
) -> None:
    idle: list[Connection] = []
    under_way: set[asyncio.Task[None]] = set()
    due = start = time.perf_counter()
    while (due := due + chance.expovariate(rate)) < start + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(_once(port, next(source), load, due, idle))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    if under_way:
        await asyncio.wait(under_way)
    for connection in idle:
        connection.close()


async def _once(port: int, message: bytes, load: Load, due: float, idle: list[Connection] | None = None) -> None:
    """One request, on an idle connection where there is one."""
    connection: Connection | None = None
    try:
        while idle and not (connection := idle.pop()).open:
            connection = None
        connection = connection or await connect(port)
        load.note(await connection.ask(message), time.perf_counter() - due)
    except OSError:
        load.broken += 1
    finally:
        if connection:
            if idle is None:
                connection.close()
            elif connection.open:
                idle.append(connection)
