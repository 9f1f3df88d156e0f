"""Servers side by side over loopback: requests a second, latencies, errors, CPU, memory, cold start."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import load
from tests.benchmarks.contestants import OURS, Contestant
from tests.benchmarks.processes import Running
from tests.benchmarks.report import Cell, Section, Table, log
from tests.benchmarks.rounds import alternate, percentile, ratio
from training.errors import UserError

LEVELS = (1, 8, 32, 128)
_ROUNDS, _LONGEST_S, _SHORTEST_S, _WARM_S = 3, 5.0, 0.5, 1.0
_COLUMNS = ("server", "requests/s", "p50 ms", "p95 ms", "p99 ms", "errors", "CPU ms a request", "× first", "client CPU")


@dataclass(frozen=True)
class Measured:
    """One server under one load; latencies in milliseconds, memory of all its processes in MB."""

    rate: float
    latencies_ms: list[float]
    errors: int
    server_cpu_ms: float | None
    client_cpu_share: float
    peak_mb: float


def servers(
    contestants: Sequence[Contestant], texts: Sequence[str], *,
    deadline: float, logs: Path, levels: Sequence[int] = LEVELS,
) -> Section:  # fmt: skip
    """Start all, one after the other; then load one at a time, in turn, while the others idle.

    Args:
        contestants: the first is what the others' rates are compared with.
    """
    with contextlib.ExitStack() as stack:
        started, left_out = _start(contestants, stack, logs)
        requests = {one.name: one.requests(texts, started[one.name].port) for one in contestants if one.name in started}
        cells = len(started) * len(levels)
        seconds = (deadline - time.monotonic()) / (_ROUNDS * cells)
        seconds = min(_LONGEST_S, max(_SHORTEST_S, seconds - _WARM_S / _ROUNDS))
        found = {}
        for place, level in enumerate(levels):
            share = (deadline - time.monotonic()) / (len(levels) - place)
            found[level] = _level(started, requests, level, seconds=seconds, until=time.monotonic() + share)
    return _section(found, {name: server.cold_start_s for name, server in started.items()}, left_out, seconds)


def _start(
    contestants: Sequence[Contestant], stack: contextlib.ExitStack, logs: Path
) -> tuple[dict[str, Running], list[str]]:
    """Those that answer, and why the others are left out; the first must answer."""
    started: dict[str, Running] = {}
    left_out: list[str] = []
    for one in contestants:
        try:
            started[one.name] = stack.enter_context(one.running(logs))
            log(f"servers: {one.name} answers after {started[one.name].cold_start_s:.1f} s")
        except UserError as error:
            if not started:
                raise
            left_out.append(f"left out: {error}")
            log(f"servers: {left_out[-1]}")
    return started, left_out


def measure(server: Running, requests: Sequence[bytes], *, connections: int, seconds: float) -> Measured:
    """A closed load on a server that runs."""
    server.family.look()
    before = server.family.cpu_seconds()
    found = load.run(_watched(server, requests, connections, seconds))
    used = server.family.cpu_seconds() - before
    return Measured(
        rate=found.answered / found.seconds,
        latencies_ms=[1000 * value for value in found.latencies],
        errors=found.errors,
        server_cpu_ms=1000 * used / found.answered if found.answered else None,
        client_cpu_share=found.client_cpu / found.seconds,
        peak_mb=server.family.peak_rss / 1e6,
    )


async def _watched(server: Running, requests: Sequence[bytes], connections: int, seconds: float) -> load.Load:
    watch = asyncio.create_task(server.family.watch())
    try:
        return await load.closed(server.port, requests, connections=connections, seconds=seconds)
    finally:
        watch.cancel()


def _level(
    started: dict[str, Running], requests: dict[str, list[bytes]], level: int, *, seconds: float, until: float
) -> dict[str, list[Measured]]:
    def turn(name: str) -> Any:
        return lambda _: measure(started[name], requests[name], connections=level, seconds=seconds)

    for name, server in started.items():
        measure(server, requests[name], connections=level, seconds=min(_WARM_S, seconds))
    runs = {name: turn(name) for name in started}
    return alternate(runs, until=until, most=_ROUNDS, say=lambda line: log(f"servers, {level} connections, {line}"))


def _section(
    found: dict[int, dict[str, list[Measured]]], cold: dict[str, float], left_out: Sequence[str], seconds: float
) -> Section:
    figures = {
        str(level): {name: _figures(runs, next(iter(by_name.values()))) for name, runs in by_name.items()}
        for level, by_name in found.items()
    }
    tables = [_table(level, figures[str(level)], runs, seconds) for level, runs in found.items()]
    rows: list[Sequence[Cell]] = [
        [name, cold[name], max(by_name[name][-1].peak_mb for by_name in found.values())] for name in cold
    ]
    start = Table(
        "Servers: start and memory", ("server", "s to the first answer", "peak MB of all processes"), rows, left_out
    )
    rounds = {
        str(level): {name: [asdict(one) | {"latencies_ms": None} for one in runs] for name, runs in by_name.items()}
        for level, by_name in found.items()
    }
    return Section({"levels": figures, "cold_start_s": cold, "left_out": left_out, "rounds": rounds}, [*tables, start])


def _figures(runs: Sequence[Measured], ours: Sequence[Measured]) -> dict[str, Any]:
    latencies = [value for one in runs for value in one.latencies_ms]
    cpu = [one.server_cpu_ms for one in runs if one.server_cpu_ms is not None]
    rates = [one.rate for one in runs]
    return {
        "rate": statistics.median(rates),
        "p50_ms": percentile(latencies, 0.5),
        "p95_ms": percentile(latencies, 0.95),
        "p99_ms": percentile(latencies, 0.99),
        "errors": sum(one.errors for one in runs),
        "server_cpu_ms": statistics.median(cpu) if cpu else None,
        "rate_of_first": ratio(rates, [one.rate for one in ours]),
        "client_cpu_share": statistics.median(one.client_cpu_share for one in runs),
    }


def _table(level: int, figures: dict[str, dict[str, Any]], runs: dict[str, list[Measured]], seconds: float) -> Table:
    rates = {name: [one.rate for one in measured] for name, measured in runs.items()}
    rounds = len(next(iter(rates.values())))
    notes = [f"rounds: {rounds}, of {seconds:.1f} s; one text a request, closed loop over {level} connections"]
    ours = [name for name in rates if name.startswith(OURS)]
    if others := [name for name in rates if name not in ours]:
        best = max(others, key=lambda name: statistics.median(rates[name]))
        against = "; ".join(f"{name}: × {ratio(rates[name], rates[best]):.2f}" for name in ours)
        notes.append(f"requests/s against the strongest other, {best}: {against}")
    rows = [[name, *values.values()] for name, values in figures.items()]
    return Table(f"Servers, {level} connections", _COLUMNS, rows, notes)
