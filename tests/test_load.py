"""Far too much at once: everything is answered or refused, and the memory stays bounded."""

from __future__ import annotations

import asyncio
import collections
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serving import Classifier
from serving.connection import HEAD_BYTES
from serving.limits import Limits
from tests.test_api import assert_same, service
from tests.test_service import Server, connected, read_to_end, running

BODY = b'{"texts": ["' + b"x" * (Limits.body_bytes - 16) + b'"]}'


def test_a_thousand_requests_at_once_are_all_answered(artifact: Path) -> None:
    """By 200 or by 503 with a time to wait; each 200 has the answer to its own text."""
    classifier = Classifier.from_dir(artifact)
    texts = [f"texte numéro {number} {'au stade ' * (number % 7)}" for number in range(1000)]

    async def scene() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=service(classifier))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            return await asyncio.gather(*(client.post("/predict", json={"texts": [text]}) for text in texts))

    answers = asyncio.run(scene())
    counts = collections.Counter(answer.status_code for answer in answers)
    assert counts[200] >= Limits.queue_texts and counts[200] + counts[503] == 1000
    for text, answer in zip(texts, answers, strict=True):
        if answer.status_code == 200:
            assert_same(answer.json()["predictions"], classifier.predict([text]))
        else:
            assert int(answer.headers["retry-after"]) >= 1


@pytest.fixture(scope="module")
def server(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    command = [sys.executable, "-m", "serving", "--artifact", str(artifact), "--workers", "1"]
    with running(command, tmp_path_factory.mktemp("load") / "log.txt") as server:
        yield server


def test_a_burst_is_answered_completely(server: Server) -> None:
    """By 200 or 503, and by some of the first: nothing hangs, and no connection breaks."""

    async def scene() -> list[int]:
        limits = httpx.Limits(max_connections=300)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60, trust_env=False) as client:
            asked = [client.post("/predict", json={"texts": [f"texte {number}"]}) for number in range(300)]
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    counts = collections.Counter(asyncio.run(scene()))
    assert counts[200] > 0 and counts[200] + counts[503] == 300


def test_an_endless_head_is_cut_off(server: Server) -> None:
    """Header after header would fill the memory; the server's own protocol sets no bound."""
    with connected(server) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\n")
        sent = 0
        try:
            while sent < 100 * HEAD_BYTES:
                sent += connection.send(b"X-Filler: " + b"x" * 1000 + b"\r\n")
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert sent < 100 * HEAD_BYTES and not read_to_end(connection)


def test_what_is_refused_early_leaves_the_connection_usable(server: Server) -> None:
    """A small body that nobody read is thrown away; the next request on the connection is answered."""
    small = b"POST /predict HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 5\r\n\r\nhello"
    good = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with connected(server) as connection:
        connection.sendall(small + good)
        answers = read_to_end(connection)
    assert b"HTTP/1.1 403 " in answers and b"HTTP/1.1 200 " in answers


def peak_memory(process: int) -> int:
    """The most that a process ever held, in MiB."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) // 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_bodies_together_take_no_more_than_the_ceiling_allows(server: Server) -> None:
    """Two hundred times 4 MiB would be 800 MiB, and three times that once parsed; the ceiling is on 32 MiB of bodies.

    A client that is refused in the middle of sending may see the connection break: it is closed with its body unread.
    """
    (worker,) = server.workers()
    before = peak_memory(worker)

    async def send(client: httpx.AsyncClient) -> int | None:
        try:
            return (await client.post("/predict", content=BODY)).status_code
        except httpx.TransportError:
            return None

    async def scene() -> list[int | None]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60, trust_env=False) as client:
            return await asyncio.gather(*(send(client) for _ in range(200)))

    counts = collections.Counter(asyncio.run(scene()))
    assert counts[422] > 0 and set(counts) <= {422, 503, None}
    assert peak_memory(worker) - before < 250
    assert server.client.post("/predict", json={"texts": ["bonjour"]}).status_code == 200
