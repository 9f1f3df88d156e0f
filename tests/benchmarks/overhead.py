"""What the service takes beyond its engine, and how long a few requests wait at the base shape."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from serving import Classifier
from tests.benchmarks import load
from tests.benchmarks.contestants import Contestant, stock_bento, vigie
from tests.benchmarks.models import Shape
from tests.benchmarks.processes import Running
from tests.benchmarks.report import Section, Table, log
from tests.benchmarks.rounds import alternate, percentile
from tests.benchmarks.servers import measure

RATE, CHARACTERS = 5.0, 300
_ROUNDS, _TEXTS = 5, 128


def overhead(shape: Shape, texts: Sequence[str], *, precision: str, deadline: float, logs: Path) -> Section:
    """Server CPU of a request less the CPU that `Classifier.predict` takes for its text in this process.

    One connection and one worker, so that every text is scored alone there as here.
    """
    # So few that each is met again and again, by server and engine in the same share.
    texts = texts[:_TEXTS]
    classifier = Classifier.from_dir(shape.artifact, precision=precision)
    contestants = [vigie(shape, workers=1, precision=precision), stock_bento(shape, precision=precision)]
    with ExitStack() as stack:
        started = {one: stack.enter_context(one.running(logs)) for one in contestants}
        seconds = min(5.0, max(0.5, (deadline - time.monotonic()) / _ROUNDS / 3))
        runs: dict[str, Any] = {one.name: _server(one, server, texts, seconds) for one, server in started.items()}
        runs["engine"] = lambda number: _engine_ms(classifier, texts, seconds)
        found = alternate(runs, until=deadline, most=_ROUNDS, say=lambda line: log(f"overhead, {line}"))
    engine = found.pop("engine")
    figures = {
        name: {
            "server_cpu_ms": statistics.median(values),
            "engine_cpu_ms": statistics.median(engine),
            "overhead_ms": statistics.median(a - b for a, b in zip(values, engine, strict=True)),
        }
        for name, values in found.items()
    }
    columns = ("server", "CPU ms a request", "of these the engine's", "service overhead ms")
    notes = [f"rounds: {len(engine)}, of {seconds:.1f} s; one connection, one worker; medians, the difference by round"]
    rows = [[name, *values.values()] for name, values in figures.items()]
    return Section({"overhead": figures}, [Table(f"Service overhead, {shape.name} shape", columns, rows, notes)])


def waiting(shape: Shape, texts: Sequence[str], *, precision: str, deadline: float, logs: Path) -> Section:
    """Latencies at `RATE` requests a second that come at random, at the base shape, two workers."""
    contestant = vigie(shape, workers=2, precision=precision)
    with contestant.running(logs) as server:
        requests = contestant.requests(texts, server.port)
        load.run(load.closed(server.port, requests, connections=2, seconds=1.0))
        seconds = min(60.0, max(4.0, deadline - time.monotonic()))
        log(f"overhead: {RATE:.0f} requests a second for {seconds:.0f} s")
        found = load.run(load.paced(server.port, requests, rate=RATE, seconds=seconds))
    figures = {
        "precision": precision,
        "requests": found.answered,
        **{f"p{share}_ms": _ms(found.latencies, share / 100) for share in (50, 95, 99)},
        "errors": found.errors,
    }
    title = f"{RATE:.0f} requests a second of {CHARACTERS} characters, {shape.name} shape"
    return Section({"waiting": figures}, [Table(title, list(figures), [list(figures.values())])])


def _server(contestant: Contestant, server: Running, texts: Sequence[str], seconds: float) -> Any:
    requests = contestant.requests(texts, server.port)
    measure(server, requests, connections=1, seconds=0.5)

    def run(_: int) -> float:
        cpu = measure(server, requests, connections=1, seconds=seconds).server_cpu_ms
        return float("nan") if cpu is None else cpu

    return run


def _engine_ms(classifier: Classifier, texts: Sequence[str], seconds: float) -> float:
    """CPU milliseconds of a text, one a call, over and over the same texts."""
    start, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        classifier.predict([texts[count % len(texts)]])
        count += 1
    return 1000 * (time.process_time() - cpu) / count


def _ms(latencies: Sequence[float], share: float) -> float | None:
    found = percentile(latencies, share)
    return None if found is None else 1000 * found
