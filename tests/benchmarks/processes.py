"""Servers as processes: started, waited for, measured with all their workers, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from tests.benchmarks.load import connect
from training.errors import UserError
from training.labels import ROOT

START_LIMIT_S = 120
QUIET = {
    "BENTOML_DO_NOT_TRACK": "True",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Memory:
    """MB of a process. Pages that others have too count in full (rss), for their share (pss), or not at all (uss)."""

    what: str
    rss_mb: float
    pss_mb: float
    uss_mb: float


class Family:
    """A process and all that came from it. Look again (`members`) after workers were born."""

    def __init__(self, pid: int) -> None:
        self._head = psutil.Process(pid)
        self.peak_rss = 0
        self.members: list[psutil.Process] = []
        self.look()

    def look(self) -> None:
        """Find out who belongs to it now."""
        self.members = [self._head, *self._head.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """User and system time so far, of children that ended too."""
        total = 0.0
        for member in self.members:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(member.cpu_times()[:4])
        return total

    def rss(self) -> int:
        """Bytes in memory now, pages that processes share counted for each; `peak_rss` remembers the most seen."""
        total = 0
        for member in self.members:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += member.memory_info().rss
        self.peak_rss = max(self.peak_rss, total)
        return total

    def memory(self) -> list[Memory]:
        """Memory of each process now, the first that of its head, and all of it last."""
        found = []
        for member in self.members:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                taken = member.memory_full_info()
                # Only Linux knows shares.
                shares = (taken.rss, getattr(taken, "pss", float("nan")), taken.uss)
                found.append(Memory(_what(member.cmdline()), *(round(value / 1e6, 1) for value in shares)))
        return [*found, total_memory(found)]

    async def watch(self) -> None:
        """Keep `peak_rss` until cancelled."""
        while True:
            self.rss()
            await asyncio.sleep(0.2)


def total_memory(of: Sequence[Memory]) -> Memory:
    sums = (sum(getattr(one, name) for one in of) for name in ("rss_mb", "pss_mb", "uss_mb"))
    return Memory("all", *(round(value, 1) for value in sums))


def _what(command: Sequence[str]) -> str:
    """`serving`, `bentoml` or `_bentoml_impl.worker.service`: the module that a Python process runs."""
    return command[command.index("-m") + 1] if "-m" in command[:-1] else Path(command[0]).name if command else ""


@dataclass(frozen=True)
class Running:
    """A server that answers; `cold_start_s` is from its command to its first answer."""

    port: int
    family: Family
    cold_start_s: float


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Callable[[int], Sequence[str]],
    probe: Callable[[int], bytes],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Start a server, wait for its first answer, and end it with all its workers.

    Args:
        command: port → what to run.
        probe: port → a request that it must answer with 200.

    Raises:
        UserError: it ended, or did not answer in time.
    """
    port, begun = free_port(), time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(port), cwd=ROOT, env={**os.environ, **QUIET, **(environment or {})}, stdout=output, stderr=output
        )
    try:
        _wait(process, port, probe(port), log)
        yield Running(port, Family(process.pid), time.monotonic() - begun)
    finally:
        _end(process)


def _wait(process: subprocess.Popen[bytes], port: int, message: bytes, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while asyncio.run(_status(port, message)) != 200:
        if process.poll() is not None or time.monotonic() > deadline:
            # Nothing but the probe was sent yet, so that no text of a person can be in there.
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise UserError(f"{log.stem}: did not start within {START_LIMIT_S} s; its last line: {''.join(last)}")
        time.sleep(0.02)


async def _status(port: int, message: bytes) -> int | None:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(10):
            connection = await connect(port)
            try:
                return await connection.ask(message)
            finally:
                connection.close()
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then make it; its workers too, where they outlive it."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(20)
    _, alive = psutil.wait_procs(family, timeout=2)
    for child in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(alive, timeout=20)
