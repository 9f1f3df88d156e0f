"""`python -m tests.benchmarks`: every comparison in one run of bounded length, as Markdown and as JSON."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from subprocess import CalledProcessError, TimeoutExpired
from typing import Any

from tests.benchmarks.report import Section, log, machine, machine_lines, markdown
from tests.benchmarks.rounds import Budget
from tests.benchmarks.settings import add_model_options, check_model_options, one_thread
from training.errors import UserError, command

WEIGHTS = {"offline": 34.0, "servers": 34.0, "overhead": 11.0, "training": 11.0, "cold": 6.0, "bulk": 4.0}
"""Section → its share of the time."""
_TEXTS = 2048


@dataclass(frozen=True)
class Run:
    """What all sections share; the base shape is built when somebody first asks for it."""

    options: argparse.Namespace
    logs: Path

    @cached_property
    def compact(self) -> Any:
        from tests.benchmarks.models import compact_shape

        return compact_shape(self.options.artifact, self.options.cache)

    @cached_property
    def base(self) -> Any:
        from tests.benchmarks.models import base_shape

        log("the base shape is built, unless it stands in the cache")
        return base_shape(self.options.cache)

    def shapes(self) -> list[Any]:
        """Those asked for, built."""
        return [getattr(self, name) for name in self.options.shapes]

    def drawer(self, shape: Any) -> Any:
        from tests.benchmarks.texts import Drawer

        return Drawer(shape.tokenizer, longest=shape.max_tokens)

    def precision(self, shape: Any) -> str:
        """The one to be served: the artifact's own choice, which at the base shape nobody could make."""
        asked = self.options.precision or (shape.served if shape.name == "compact" else "int8")
        return str(asked)


@command
def main() -> int:
    options = _parse()
    one_thread()
    check_model_options(options)
    found: dict[str, Any] = {"machine": machine(), "minutes": options.minutes, "seed": options.seed, "sections": {}}
    print(machine_lines(found["machine"]), flush=True)
    with tempfile.TemporaryDirectory() as logs:
        run = Run(options, Path(logs))
        run.shapes()
        budget = Budget(options.minutes, {name: WEIGHTS[name] for name in options.only})
        failed = 0
        for name in options.only:
            failed += _section(name, run, budget.deadline(name), found)
            _write(options.json, found)
    return 2 if failed else 0


def _section(name: str, run: Run, deadline: float, found: dict[str, Any]) -> int:
    """Run one section into `found`; what keeps it from ending is said, and the others still run."""
    log(f"== {name}")
    begun = time.monotonic()
    try:
        sections = _SECTIONS[name](run, deadline)
    except (UserError, CalledProcessError, TimeoutExpired) as error:
        # Of a command that failed, no output: it might quote a text.
        said = str(error) if isinstance(error, UserError) else type(error).__name__
        log(f"error: {name}: {said}")
        found["sections"][name] = {"error": said}
        return 1
    found["sections"][name] = [section.figures for section in sections]
    print(markdown(table for section in sections for table in section.tables), flush=True)
    log(f"== {name}: {time.monotonic() - begun:.0f} s")
    return 0


def _offline(run: Run, deadline: float) -> Sequence[Section]:
    from tests.benchmarks.offline import offline
    from tests.benchmarks.peak import measure_peaks

    # A text of the base shape takes sixteen times the time.
    weights = {shape.name: {"compact": 1.0, "base": 3.0}[shape.name] for shape in run.shapes()}
    peaks = measure_peaks()
    budget = Budget((deadline - time.monotonic()) / 60, weights)
    return [
        offline(shape, run.drawer(shape), peaks, deadline=budget.deadline(shape.name), seed=run.options.seed)
        for shape in run.shapes()
    ]


def _servers(run: Run, deadline: float) -> Sequence[Section]:
    from tests.benchmarks.contestants import infinity, rivals, vigie
    from tests.benchmarks.servers import servers

    workers = run.options.workers
    others = infinity(run.compact, run.options.competitors)
    if not others:
        log("infinity-emb is left out: --competitors names no environment that has it (see tests/benchmarks/README.md)")
    # The strongest other is in int8, so ours runs in it too where it is not what the artifact serves.
    precisions = dict.fromkeys([run.precision(run.compact), "int8"])
    ours = [
        vigie(run.compact, workers=workers, precision=name) for name in precisions if name in run.compact.precisions
    ]
    contestants = [*ours, *rivals(run.compact, workers=workers), *others]
    texts = run.drawer(run.compact).draw(_TEXTS, seed=run.options.seed)
    return [servers(contestants, texts, deadline=deadline, logs=run.logs)]


def _overhead(run: Run, deadline: float) -> Sequence[Section]:
    from tests.benchmarks.overhead import CHARACTERS, overhead, waiting

    weights = {shape.name: 1.0 for shape in run.shapes()}
    budget = Budget((deadline - time.monotonic()) / 60, weights)
    sections = []
    for shape in run.shapes():
        drawer, until = run.drawer(shape), budget.deadline(shape.name)
        if shape.name == "compact":
            texts = drawer.draw(_TEXTS, seed=run.options.seed)
            sections.append(overhead(shape, texts, precision=run.precision(shape), deadline=until, logs=run.logs))
        else:
            texts = drawer.of_characters(_TEXTS, CHARACTERS, seed=run.options.seed)
            sections.append(waiting(shape, texts, precision=run.precision(shape), deadline=until, logs=run.logs))
    return sections


def _training(run: Run, deadline: float) -> Sequence[Section]:
    from tests.benchmarks.finetuning import finetuning

    return [finetuning(run.drawer(run.compact), deadline=deadline, seed=run.options.seed)]


def _cold(run: Run, deadline: float) -> Sequence[Section]:
    from tests.benchmarks.commands import cold_start

    budget = Budget((deadline - time.monotonic()) / 60, {shape.name: 1.0 for shape in run.shapes()})
    return [
        cold_start(shape, precision=run.precision(shape), deadline=budget.deadline(shape.name))
        for shape in run.shapes()
    ]


def _bulk(run: Run, deadline: float) -> Sequence[Section]:
    from tests.benchmarks.commands import bulk

    return [bulk(run.compact, run.drawer(run.compact), precision=run.precision(run.compact), seed=run.options.seed)]


_SECTIONS: dict[str, Callable[[Run, float], Sequence[Section]]] = {
    "offline": _offline,
    "servers": _servers,
    "overhead": _overhead,
    "training": _training,
    "cold": _cold,
    "bulk": _bulk,
}


def _write(path: Path | None, found: dict[str, Any]) -> None:
    if path:
        path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure speed side by side.")
    add_model_options(parser)
    option = parser.add_argument
    option("--minutes", type=float, default=12.0, help="for everything, building of models aside; default: 12")
    option(
        "--only", nargs="+", choices=list(WEIGHTS), default=list(WEIGHTS), metavar="SECTION", help=", ".join(WEIGHTS)
    )
    option("--shapes", nargs="+", choices=["compact", "base"], default=["compact", "base"])
    option("--competitors", type=Path, metavar="VENV", help="environment made from requirements.txt beside this")
    option("--json", type=Path, metavar="FILE", help="also write every figure there, after each section")
    option("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
