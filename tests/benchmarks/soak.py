"""Hours in minutes: `python -m tests.benchmarks.soak --minutes 15 --load 0.7 --workers 2 --json soak.json`.

Finds what the server can do in a short closed load, then asks a share of that at random moments, and watches memory and
latency: does either grow? One line a minute; exit code 1 where memory passes a bound or a request was not answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import load
from tests.benchmarks.contestants import vigie
from tests.benchmarks.models import compact_shape
from tests.benchmarks.processes import Running
from tests.benchmarks.report import log, machine
from tests.benchmarks.rounds import percentile
from tests.benchmarks.settings import add_model_options, check_model_options, one_thread
from tests.benchmarks.texts import Drawer
from training.errors import command

EVERY_S = 10.0
_CAPACITY_S, _CONNECTIONS, _TEXTS = 5.0, 32, 4096
_SHARES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class Sample:
    """One stretch: when it ended, its answers and errors, its latencies' percentiles, and memory at its end.

    Memory is of all processes: `rss_mb` counts pages that they share for each, `pss_mb` once.
    """

    at_s: float
    answered: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    rss_mb: float
    pss_mb: float


@command
def main() -> int:
    options = _parse()
    one_thread()
    check_model_options(options)
    shape = compact_shape(options.artifact, options.cache)
    contestant = vigie(shape, workers=options.workers, precision=options.precision or shape.served)
    texts = Drawer(shape.tokenizer, longest=shape.max_tokens).draw(_TEXTS, seed=1)
    with tempfile.TemporaryDirectory() as logs, contestant.running(Path(logs)) as server:
        requests = contestant.requests(texts, server.port)
        capacity = find_capacity(server, requests)
        rate = options.load * capacity
        log(f"capacity {capacity:.0f} requests/s; {rate:.0f} a second for {options.minutes:g} minutes")
        samples = load.run(_soak(server, requests, rate=rate, seconds=60 * options.minutes))
    found = {"capacity": capacity, "rate": rate, "workers": options.workers, **summarise(samples)}
    found["faults"] = faults(found, most_mb=options.most_mb, most_mb_an_hour=options.most_mb_an_hour)
    print(json.dumps(found, indent=2))
    if options.json:
        document = {"machine": machine(), **found, "samples": [asdict(sample) for sample in samples]}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 1 if found["faults"] else 0


def find_capacity(server: Running, requests: Sequence[bytes], seconds: float = _CAPACITY_S) -> float:
    """Answers a second when `_CONNECTIONS` connections never pause; a first stretch, to warm up, is not counted."""
    load.run(load.closed(server.port, requests, connections=_CONNECTIONS, seconds=seconds / 2))
    found = load.run(load.closed(server.port, requests, connections=_CONNECTIONS, seconds=seconds))
    return found.answered / found.seconds


def summarise(samples: Sequence[Sample]) -> dict[str, Any]:
    """Errors; memory and its slope over all but the first third, in which caches fill; latencies early and late.

    Percentiles are medians over the stretches.
    """
    third = len(samples) // 3
    early, late, settled = samples[:third], samples[len(samples) - third :], samples[third:]
    found: dict[str, Any] = {
        "answered": sum(sample.answered for sample in samples),
        "errors": sum(sample.errors for sample in samples),
    }
    for name in ("rss_mb", "pss_mb"):
        values = [getattr(sample, name) for sample in samples]
        found[name] = {"first": values[0], "most": max(values), "last": values[-1]} if values else None
        found[f"{name}_an_hour"] = slope([(one.at_s / 3600, getattr(one, name)) for one in settled])
    for share in _SHARES:
        name = f"p{100 * share:.0f}_ms"
        found[name] = {"all": _middle(samples, name), "first_third": _middle(early, name)}
        found[name]["last_third"] = _middle(late, name)
    return found


def slope(points: Sequence[tuple[float, float]]) -> dict[str, float] | None:
    """Least squares, with the ends of its 95 % interval; None where there are too few points.

    The interval takes samples for independent. They follow each other, so it is rather too narrow.
    """
    if len(points) < 4:
        return None
    xs, ys = [x for x, _ in points], [y for _, y in points]
    line = statistics.linear_regression(xs, ys)
    left = sum((y - line.intercept - line.slope * x) ** 2 for x, y in points) / (len(points) - 2)
    middle = statistics.fmean(xs)
    spread = 1.96 * math.sqrt(left / sum((x - middle) ** 2 for x in xs))
    return {"slope": line.slope, "low": line.slope - spread, "high": line.slope + spread}


def faults(found: dict[str, Any], *, most_mb: float, most_mb_an_hour: float) -> list[str]:
    """What must not be, in words.

    Growth counts where the whole interval of the slope lies above the bound, or chance would decide.
    """
    told = []
    if found["errors"]:
        told.append(f"{found['errors']} requests were not answered with 200")
    memory, growth = found["pss_mb"], found["pss_mb_an_hour"]
    if memory and memory["most"] > most_mb:
        told.append(f"memory reached {memory['most']:.0f} MB (PSS), more than {most_mb:g}")
    if growth and growth["low"] > most_mb_an_hour:
        told.append(f"memory grows by {growth['low']:.0f} MB an hour or more, beyond {most_mb_an_hour:g}")
    return told


async def _soak(
    server: Running, requests: Sequence[bytes], *, rate: float, seconds: float, every: float = EVERY_S
) -> list[Sample]:
    found, samples = load.Load(), list[Sample]()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    sending = asyncio.create_task(load.paced(server.port, requests, rate=rate, seconds=seconds, load=found))
    while not sending.done():
        await asyncio.wait([sending], timeout=every)
        samples.append(_sample(server, found.take(), loop.time() - begun))
        if sending.done() or samples[-1].at_s // 60 > (samples[-2].at_s if len(samples) > 1 else 0) // 60:
            log(_line(samples))
    # What went wrong while sending is raised here.
    await sending
    return samples


def _sample(server: Running, taken: load.Load, at_s: float) -> Sample:
    server.family.look()
    memory = server.family.memory()[-1]
    found = [percentile(taken.latencies, share) for share in _SHARES]
    milliseconds = [None if value is None else round(1000 * value, 2) for value in found]
    return Sample(round(at_s, 1), taken.answered, taken.errors, *milliseconds, memory.rss_mb, memory.pss_mb)


def _line(samples: Sequence[Sample]) -> str:
    """The last stretch, and all answers so far."""
    last, answered = samples[-1], sum(sample.answered for sample in samples)
    return (
        f"{last.at_s:6.0f} s: {answered} answered, {sum(sample.errors for sample in samples)} not; p50 {last.p50_ms}, "
        f"p95 {last.p95_ms}, p99 {last.p99_ms} ms; RSS {last.rss_mb:.0f}, PSS {last.pss_mb:.0f} MB"
    )


def _middle(samples: Sequence[Sample], name: str) -> float | None:
    known = [value for sample in samples if (value := getattr(sample, name)) is not None]
    return statistics.median(known) if known else None


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.soak", description="Load a server for long.")
    add_model_options(parser)
    option = parser.add_argument
    option("--minutes", type=float, default=15.0)
    option("--load", type=float, default=0.7, help="share of the capacity; default: 0.7")
    option("--most-mb", type=float, default=600.0, help="that all processes may take (PSS); default: 600")
    option("--most-mb-an-hour", type=float, default=60.0, help="by which that may grow; default: 60")
    option("--json", type=Path, metavar="FILE", help="also write every sample there")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
