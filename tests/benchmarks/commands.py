"""Whole commands in processes of their own: the time to the first score, and a file scored in bulk."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.models import Shape
from tests.benchmarks.processes import QUIET
from tests.benchmarks.report import Section, Table, log
from tests.benchmarks.rounds import alternate, ratio
from tests.benchmarks.texts import Drawer
from training.labels import ROOT

DAY = 61_000
"""Tweets in a day of a hashtag that everybody used."""
_ROUNDS, _FEW, _MANY = 3, 500, 4500
_PEAK = "\nprint(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
_OURS = (
    "import sys; from serving import Classifier\n"
    "Classifier.from_dir(sys.argv[1], precision=sys.argv[2]).predict(['Bonjour.'])"
)
_PIPELINE = (
    "import sys; from transformers import pipeline\n"
    "pipeline('text-classification', model=sys.argv[1], device='cpu', top_k=None)(['Bonjour.'])"
)


def cold_start(shape: Shape, *, precision: str, deadline: float) -> Section:
    """From the interpreter's start to the end of the first score, and the most memory by then."""
    runs: dict[str, Any] = {
        "Vigie": lambda _: _first_score(_OURS, shape.artifact, precision),
        "transformers.pipeline": lambda _: _first_score(_PIPELINE, shape.rival, precision),
    }
    for run in runs.values():
        # Files are read from the disk once: what is measured is a start, not a disk.
        run(0)
    found = alternate(runs, until=deadline, most=_ROUNDS, say=lambda line: log(f"cold start {shape.name}, {line}"))
    ours = [seconds for seconds, _ in found["Vigie"]]
    figures = {
        name: {
            "seconds": statistics.median(seconds for seconds, _ in values),
            "peak_mb": statistics.median(peak for _, peak in values),
            "times_ours": ratio([seconds for seconds, _ in values], ours),
        }
        for name, values in found.items()
    }
    notes = [f"rounds: {len(ours)}; files in the page cache; Vigie in {precision}, golden sentences replayed"]
    rows = [[name, *values.values()] for name, values in figures.items()]
    table = Table(
        f"Cold start to the first score, {shape.name} shape", ("what", "s", "peak MB", "× Vigie"), rows, notes
    )
    return Section({shape.name: figures}, [table])


def bulk(shape: Shape, drawer: Drawer, *, precision: str, seed: int) -> Section:
    """A day of tweets through `python -m serving.score` on all cores.

    Extrapolated: a small and a larger file give what starting takes and what a text takes.
    """
    with tempfile.TemporaryDirectory() as folder:
        seconds = {count: _score(shape, drawer, precision, Path(folder), count, seed) for count in (_FEW, _MANY)}
    a_text = (seconds[_MANY] - seconds[_FEW]) / (_MANY - _FEW)
    day = seconds[_FEW] + (DAY - _FEW) * a_text
    figures = {"seconds": {str(key): value for key, value in seconds.items()}, "ms_a_text": 1000 * a_text, "day_s": day}
    notes = [f"extrapolated from runs of {_FEW} and {_MANY} texts of the usual mix, in {precision} on all cores"]
    columns = ("texts", *(f"s for {count}" for count in (_FEW, _MANY)), "ms a text", f"s for {DAY}")
    return Section(
        figures, [Table("A day of a hashtag", columns, [[DAY, *seconds.values(), 1000 * a_text, day]], notes)]
    )


def _first_score(code: str, model: Path, precision: str) -> tuple[float, float]:
    """Seconds and megabytes."""
    command = [sys.executable, "-c", code + _PEAK, str(model), precision]
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=120, check=True
    )
    return time.perf_counter() - start, int(done.stdout.split()[-1]) * 1024 / 1e6


def _score(shape: Shape, drawer: Drawer, precision: str, folder: Path, count: int, seed: int) -> float:
    source, target = folder / f"{count}.jsonl", folder / f"{count}.out.jsonl"
    _write(source, drawer.draw(count, seed=seed + count))
    command = [sys.executable, "-m", "serving.score", str(source), str(target), "--artifact", str(shape.artifact)]
    command += ["--precision", precision]
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, timeout=600, check=True)
    seconds = time.perf_counter() - start
    log(f"bulk: {count} texts in {seconds:.1f} s")
    return seconds


def _write(path: Path, texts: Sequence[str]) -> None:
    rows = [json.dumps({"id": str(number), "text": text}) for number, text in enumerate(texts)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def _environment() -> dict[str, str]:
    return {**os.environ, **QUIET, "OMP_NUM_THREADS": "1"}
