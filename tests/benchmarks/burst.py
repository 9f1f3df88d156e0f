"""Far too much at once, and the memory of each process before and after: `python -m tests.benchmarks.burst`."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks import load
from tests.benchmarks.contestants import vigie
from tests.benchmarks.models import compact_shape
from tests.benchmarks.processes import Running
from tests.benchmarks.rounds import percentile
from tests.benchmarks.settings import add_model_options, check_model_options, one_thread
from tests.benchmarks.texts import Drawer
from training.errors import command

_WARM = 32


@command
def main() -> int:
    options = _parse()
    one_thread()
    check_model_options(options)
    shape = compact_shape(options.artifact, options.cache)
    contestant = vigie(shape, workers=options.workers, precision=options.precision or shape.served)
    texts = Drawer(shape.tokenizer, longest=shape.max_tokens).draw(options.requests, seed=1)
    with tempfile.TemporaryDirectory() as logs, contestant.running(Path(logs)) as server:
        print(json.dumps(at_once(server, contestant.requests(texts, server.port)), indent=2))
    return 0


def at_once(server: Running, requests: Sequence[bytes]) -> dict[str, Any]:
    """How many were answered, refused or neither, when the last answer came, and the memory before, at most and after.

    `peak_rss_mb` adds up what all processes have, shared pages as often as they are shared.
    """
    # Every worker has scored something.
    load.run(load.closed(server.port, requests[:_WARM], connections=_WARM, seconds=0.5))
    server.family.look()
    before = server.family.memory()
    found = load.run(_watched(server, requests))
    refused = found.statuses[503]
    return {
        "requests": len(requests),
        "answered_200": found.answered,
        "refused_503": refused,
        "other": found.errors - refused,
        "last_answer_s": round(found.seconds, 3),
        "p50_s": percentile(found.latencies, 0.5),
        "p99_s": percentile(found.latencies, 0.99),
        "peak_rss_mb": round(server.family.peak_rss / 1e6, 1),
        "before": [asdict(one) for one in before],
        "after": [asdict(one) for one in server.family.memory()],
    }


async def _watched(server: Running, requests: Sequence[bytes]) -> load.Load:
    watch = asyncio.create_task(server.family.watch())
    try:
        return await load.burst(server.port, requests)
    finally:
        watch.cancel()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.burst", description="Ask too much at once.")
    add_model_options(parser)
    parser.add_argument("--requests", type=int, default=1000)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
