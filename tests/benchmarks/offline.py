"""Offline engines side by side: CPU time of a text, ratios within a round, and the share of the machine's peak."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.benchmarks.engines import REFERENCE, OfflineEngine, all_engines
from tests.benchmarks.models import Shape, mean_gflop
from tests.benchmarks.report import Section, Table, log
from tests.benchmarks.rounds import alternate, ratio
from tests.benchmarks.texts import Drawer, describe

_ROUNDS, _MOST_TEXTS, _FEWEST_TEXTS = 9, 128, 8


@dataclass(frozen=True)
class Timed:
    """One run: CPU and wall seconds a text, and what the first round answered."""

    cpu: float
    wall: float
    answer: Any


def offline(shape: Shape, drawer: Drawer, peaks: dict[str, float], *, deadline: float, seed: int) -> Section:
    """Time every engine on the same texts, new ones each round."""
    engines = all_engines(shape)
    count = _texts_a_round(engines, drawer, deadline, seed)
    log(f"offline {shape.name}: {count} texts a round")
    texts = [drawer.draw(count, seed=seed + 1 + number) for number in range(_ROUNDS)]
    runs = {engine.name: _timer(engine, texts) for engine in engines}
    found = alternate(runs, until=deadline, most=_ROUNDS, say=lambda line: log(f"offline {shape.name}, {line}"))
    used = [length for batch in texts[: len(found[REFERENCE])] for length in drawer.lengths(batch)]
    return summarise(shape.name, engines, found, lengths=used, gflop=mean_gflop(shape, used), peaks=peaks)


def summarise(
    name: str, engines: Sequence[OfflineEngine], found: dict[str, list[Timed]], *,
    lengths: Sequence[int], gflop: float, peaks: dict[str, float],
) -> Section:  # fmt: skip
    """Medians over the rounds, ratios within them, and the share of the machine's peak."""
    figures: dict[str, Any] = {}
    for engine in engines:
        cpu = [timed.cpu for timed in found[engine.name]]
        middle = statistics.median(cpu)
        figures[engine.name] = {
            "cpu_ms": middle * 1000,
            "wall_ms": statistics.median(timed.wall for timed in found[engine.name]) * 1000,
            "times_reference": ratio([timed.cpu for timed in found[REFERENCE]], cpu),
            "share_of_peak": gflop / middle / peaks[engine.peak],
            "drift": _drift(engine, found[engine.name][0], engines[0], found[REFERENCE][0]),
        }
    rows = [[engine, *values.values()] for engine, values in figures.items()]
    columns = ["engine", "CPU ms a text", "wall ms", "× pipeline", "share of peak", "logits differ by"]
    notes = [
        f"rounds: {len(found[REFERENCE])}; texts in tokens: {describe(lengths)}",
        f"one thread's peak in matrix products: {peaks} GFLOP/s; a text takes {gflop:.2f} GFLOP as the model is "
        "defined (an engine that leaves out what nobody reads may pass 1); int8 and 8bit are held against int8",
    ]
    table = Table(f"Offline, {name} shape, one thread, tokenising included", columns, rows, notes)
    rounds = {engine: [timed.cpu for timed in times] for engine, times in found.items()}
    data = {"engines": figures, "cpu_seconds_by_round": rounds, "lengths": describe(lengths), "gflop": gflop}
    return Section({name: {**data, "peaks": peaks}}, [table])


def _drift(engine: OfflineEngine, timed: Timed, first: OfflineEngine, reference: Timed) -> float | None:
    """Mean difference of a logit."""
    if engine.logits is None or first.logits is None:
        return None
    return float(np.abs(engine.logits(timed.answer) - first.logits(reference.answer)).mean())


def _timer(engine: OfflineEngine, texts: Sequence[list[str]]) -> Callable[[int], Timed]:
    def run(number: int) -> Timed:
        batch = texts[number]
        cpu, wall = time.process_time(), time.perf_counter()
        answer = engine.run(batch)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return Timed(cpu / len(batch), wall / len(batch), answer if number == 0 else None)

    return run


def _texts_a_round(engines: Sequence[OfflineEngine], drawer: Drawer, deadline: float, seed: int) -> int:
    """As many as let three rounds end in time, from a small round that also warms everything up."""
    sample = drawer.draw(_FEWEST_TEXTS, seed=seed)
    for engine in engines:
        engine.run(sample)
    start = time.monotonic()
    for engine in engines:
        engine.run(sample)
    cost = (time.monotonic() - start) / len(sample)
    # So few texts hold none of the longest, and pad less in batches: a text of a full round takes more.
    return int(min(_MOST_TEXTS, max(_FEWEST_TEXTS, (deadline - time.monotonic()) / 3 / (1.5 * cost))))
