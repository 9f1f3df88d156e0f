"""Hours in minutes: `python -m tests.benchmarks.soak --minutes 15 --load 0.7`.

Finds what the server can do in a short closed load, then asks a share of that at random moments, and watches memory and
latency: does either grow?
"""

from __future__ import annotations

import argparse
import asyncio
import json
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
from tests.benchmarks.report import log
from tests.benchmarks.rounds import percentile
from tests.benchmarks.settings import add_model_options, check_model_options, one_thread
from tests.benchmarks.texts import Drawer
from training.errors import command

EVERY_S = 10.0
_CAPACITY_S, _CONNECTIONS, _TEXTS = 5.0, 32, 4096


@dataclass(frozen=True)
class Sample:
    """One stretch: when it ended, its answers and errors, its 99th percentile, and memory at its end."""

    at_s: float
    answered: int
    errors: int
    p99_ms: float | None
    rss_mb: float


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
        log(f"capacity {capacity:.0f} requests/s; {rate:.0f} a second for {options.minutes} minutes")
        samples = load.run(_soak(server, requests, rate=rate, seconds=60 * options.minutes))
    found = {"capacity": capacity, "rate": rate, **summarise(samples)}
    print(json.dumps(found, indent=2))
    if options.json:
        document = json.dumps({**found, "samples": [asdict(sample) for sample in samples]}, indent=2)
        options.json.write_text(document + "\n", encoding="utf-8")
    return 0


def find_capacity(server: Running, requests: Sequence[bytes], seconds: float = _CAPACITY_S) -> float:
    """Answers a second when `_CONNECTIONS` connections never pause; a first stretch, to warm up, is not counted."""
    load.run(load.closed(server.port, requests, connections=_CONNECTIONS, seconds=seconds / 2))
    found = load.run(load.closed(server.port, requests, connections=_CONNECTIONS, seconds=seconds))
    return found.answered / found.seconds


def summarise(samples: Sequence[Sample]) -> dict[str, Any]:
    """Errors; the slope of memory over all but the first third, in which caches fill; p99 early and late."""
    third = len(samples) // 3
    early, late = samples[:third], samples[len(samples) - third :]
    return {
        "answered": sum(sample.answered for sample in samples),
        "errors": sum(sample.errors for sample in samples),
        "rss_mb": [samples[0].rss_mb, samples[-1].rss_mb] if samples else None,
        "rss_mb_an_hour": _slope([(sample.at_s / 3600, sample.rss_mb) for sample in samples[third:]]),
        "p99_ms_first_third": _median_p99(early),
        "p99_ms_last_third": _median_p99(late),
    }


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
        log(f"{samples[-1]}")
    # What went wrong while sending is raised here.
    await sending
    return samples


def _sample(server: Running, taken: load.Load, at_s: float) -> Sample:
    server.family.look()
    p99 = percentile(taken.latencies, 0.99)
    rss = round(server.family.rss() / 1e6, 1)
    return Sample(round(at_s, 1), taken.answered, taken.errors, None if p99 is None else round(1000 * p99, 2), rss)


def _slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Least squares; None where there are too few points."""
    if len(points) < 3:
        return None
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope


def _median_p99(samples: Sequence[Sample]) -> float | None:
    known = [sample.p99_ms for sample in samples if sample.p99_ms is not None]
    return statistics.median(known) if known else None


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.soak", description="Load a server for long.")
    add_model_options(parser)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--load", type=float, default=0.7, help="share of the capacity; default: 0.7")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample there")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
