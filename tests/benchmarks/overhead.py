"""What the service takes beyond its engine, and how long a few requests wait at the base shape."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
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
LEVELS = (1, 8)
_ROUNDS, _TEXTS = 12, 128
_COLUMNS = ("server", "connections", "CPU ms a request", "overhead, CPU ms", "least", "p50 ms", "overhead, ms")


@dataclass(frozen=True)
class Cost:
    """Milliseconds of a request to a server, or of a text to the engine."""

    cpu_ms: float
    wall_ms: float


def overhead(shape: Shape, texts: Sequence[str], *, precision: str, deadline: float, logs: Path) -> Section:
    """Server CPU of a request less the CPU that `Classifier.predict` takes for its text in this process.

    One worker. Over one connection every text is scored alone there as here; over several the engine may score some
    together, which makes it a little cheaper and so the difference too small.
    """
    # So few that each is met again and again, by server and engine in the same share.
    texts = texts[:_TEXTS]
    classifier = Classifier.from_dir(shape.artifact, precision=precision)
    contestants = [vigie(shape, workers=1, precision=precision), stock_bento(shape, precision=precision)]
    with ExitStack() as stack:
        started = {one: stack.enter_context(one.running(logs)) for one in contestants}
        turns = len(started) * len(LEVELS) + 1
        seconds = min(2.0, max(0.5, (deadline - time.monotonic()) / _ROUNDS / turns))
        runs: dict[str, Any] = {
            f"{one.name}/{level}": _server(one, server, texts, level, seconds)
            for one, server in started.items()
            for level in LEVELS
        }
        runs[""] = lambda _: _engine(classifier, texts, seconds)
        found = alternate(runs, until=deadline, most=_ROUNDS, say=lambda line: log(f"overhead, {line}"))
    engine = found.pop("")
    figures = {key: compare(costs, engine, alone=key.endswith("/1")) for key, costs in found.items()}
    rows = [[*key.rsplit("/", 1), *list(values.values())[:5]] for key, values in figures.items()]
    own = f"the engine takes {_median(engine, 'cpu_ms'):.2f} ms of CPU a text"
    notes = [own, f"rounds: {len(engine)}, of {seconds:.1f} s; one worker; medians, differences by round"]
    return Section({"overhead": figures}, [Table(f"Service overhead, {shape.name} shape", _COLUMNS, rows, notes)])


def compare(costs: Sequence[Cost], engine: Sequence[Cost], *, alone: bool) -> Mapping[str, float | None]:
    """A server's costs less the engine's of the same round: medians.

    `least` compares the cheapest rounds: what else runs on a machine can only add to a cost. Unless a request was
    `alone`, most of its time it waited for others, so nothing is said of that.
    """
    pairs = list(zip(costs, engine, strict=True))
    return {
        "server_cpu_ms": _median(costs, "cpu_ms"),
        "overhead_cpu_ms": statistics.median(a.cpu_ms - b.cpu_ms for a, b in pairs),
        "least_overhead_cpu_ms": min(a.cpu_ms for a in costs) - min(b.cpu_ms for b in engine),
        "p50_ms": _median(costs, "wall_ms"),
        "overhead_ms": statistics.median(a.wall_ms - b.wall_ms for a, b in pairs) if alone else None,
        "engine_cpu_ms": _median(engine, "cpu_ms"),
    }


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


def _server(contestant: Contestant, server: Running, texts: Sequence[str], connections: int, seconds: float) -> Any:
    requests = contestant.requests(texts, server.port)
    measure(server, requests, connections=connections, seconds=0.5)

    def run(_: int) -> Cost:
        found = measure(server, requests, connections=connections, seconds=seconds)
        none = float("nan")
        return Cost(found.server_cpu_ms or none, percentile(found.latencies_ms, 0.5) or none)

    return run


def _engine(classifier: Classifier, texts: Sequence[str], seconds: float) -> Cost:
    """Of a text, one a call, over and over the same texts."""
    start, cpu, taken = time.perf_counter(), time.process_time(), list[float]()
    while (begun := time.perf_counter()) - start < seconds:
        classifier.predict([texts[len(taken) % len(texts)]])
        taken.append(1000 * (time.perf_counter() - begun))
    return Cost(1000 * (time.process_time() - cpu) / len(taken), statistics.median(taken))


def _median(costs: Sequence[Cost], name: str) -> float:
    return statistics.median(getattr(cost, name) for cost in costs)


def _ms(latencies: Sequence[float], share: float) -> float | None:
    found = percentile(latencies, share)
    return None if found is None else 1000 * found
