"""Score a file of texts on all cores: `python -m serving.score IN OUT`."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from serving.artifact import PRECISIONS, ArtifactError
from serving.bulk.answer import header, write_parquet
from serving.bulk.plan import CHUNK_CHARACTERS, CHUNK_ROWS, Plan, check_files, make_plan
from serving.bulk.pool import Chunk, Job, Pool, PoolError
from serving.bulk.progress import Progress, summary
from serving.bulk.read import FORMATS, open_source
from serving.bulk.resume import FileSink, State, StreamSink, install
from serving.bulk.rows import Place, Row, Source, UsageError

SCORED, SOME_REJECTED, USAGE, INTERRUPTED = range(4)
_HELP = """\
Columns of the answer: id (or the row's number), a score for each category, minor_involved and each voice, the voice,
the flagged categories, the route, the model's version; rows in the order of the input. The text is never written.
A bad row goes to the rejects with its line and the reason, and the rest goes on. While a run lasts, OUT.partial and
OUT.progress.json stand beside OUT, which appears when it is complete.

exit code  0  all rows were scored
           1  finished, and some rows were rejected
           2  a mistake in an option or a file; nothing was done
           3  interrupted or failed; --resume goes on where it stopped (not from or to `-`)
"""


class _Failure(Exception):
    """The run cannot go on; what is written stands."""


def main() -> int:
    """Run the command; the exit codes are in `--help`."""
    arguments = _parse()
    try:
        plan = make_plan(arguments)
        state = check_files(plan, resume=arguments.resume, overwrite=arguments.overwrite)
    except (UsageError, ArtifactError, OSError) as error:
        return _fault(USAGE, f"error: {error}")
    hint = "; --resume goes on where it stopped" if plan.source and plan.paths else ""
    try:
        with _interruptible() as check:
            end = state if state and state.complete else _score(plan, state, check)
            _install(plan, end)
    except (UsageError, ArtifactError) as error:
        return _fault(USAGE, f"error: {error}")
    except KeyboardInterrupt:
        return _fault(INTERRUPTED, f"interrupted{hint}")
    except (PoolError, _Failure, OSError) as error:
        _drop_standard_output()
        return _fault(INTERRUPTED, f"error: {error}{hint}")
    print(summary(end.tally, end.seconds, str(plan.rejects or "above")), file=sys.stderr)
    return SOME_REJECTED if end.tally["rejected"] else SCORED


def _fault(code: int, message: str) -> int:
    print(message, file=sys.stderr)
    return code


def _score(plan: Plan, state: State | None, check: Callable[[], None]) -> State:
    """Score what is left of the input; returns where the run stands then. `check` is called after every chunk."""
    job = Job(plan.artifact.folder, plan.artifact.precision, plan.layout)
    place = state.place if state else Place()
    with (
        closing(open_source(plan.source, plan.source_format, plan.wanted, place)) as source,
        Pool(job, plan.workers) as pool,
        closing(_sink(plan, state)) as sink,
        closing(Progress(rows=place.rows, done=source.done, total=source.total)) as progress,
    ):
        for chunk, scored in pool.scored(_chunks(source)):
            sink.write(scored, chunk.place)
            progress.update(chunk.place.rows, chunk.done)
            check()
        sink.complete()
    return sink.state


def _chunks(source: Source) -> Iterator[Chunk]:
    """Bounded by rows and by characters. Where a chunk ends depends on its rows alone, so that a run that is resumed
    makes the same ones, and to the last digit the same scores."""
    rows: list[Row] = []
    characters = 0
    try:
        for row in source:
            rows.append(row)
            characters += len(row.text or "") + len(str(row.id))
            if len(rows) == CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
                yield Chunk(rows, source.place, source.done)
                rows, characters = [], 0
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _Failure(
            f"the input cannot be read after row {source.place.rows} ({type(error).__name__}); is the file damaged?"
        ) from None
    if rows:
        yield Chunk(rows, source.place, source.done)


def _sink(plan: Plan, state: State | None) -> FileSink | StreamSink:
    first = header(plan.artifact, plan.layout)
    try:
        if plan.paths:
            return FileSink(plan.paths, plan.run, state=state, header=first)
        return StreamSink(plan.rejects, header=first)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be written ({error.strerror})") from None


def _install(plan: Plan, end: State) -> None:
    if plan.paths:
        to_table = partial(write_parquet, artifact=plan.artifact, whole_ids=not end.tally["ids not whole"])
        install(plan.paths, to_table if plan.output_format == "parquet" else None)


def _drop_standard_output() -> None:
    """What nobody reads any more must not fail a second time when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Signals that end the run do so once, in order; those that were ignored before (nohup) stay so.

    Yields:
        What ends the run a second time, if an interrupt met code whose exceptions are dropped (a finaliser's, say).
    """
    asked: list[int] = []
    numbers = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    before = {number: signal.getsignal(number) for number in numbers if number is not None}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]

    def interrupt(which: int, _: object) -> None:
        asked.append(which)
        for number in heard:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    for number in heard:
        signal.signal(number, interrupt)
    try:
        yield check
    finally:
        for number in heard:
            signal.signal(number, before[number])


def _parse() -> argparse.Namespace:
    from serving.options import DEFAULT_ARTIFACT

    parser = argparse.ArgumentParser(
        prog="python -m serving.score",
        description="Score a file of texts (JSONL, CSV, Parquet; .jsonl.gz and .csv.gz are read too) on all cores.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("input", metavar="IN", help="file to read; - is standard input, JSONL unless --format says otherwise")
    option("output", metavar="OUT", help="file to write; - is standard output")
    option("--artifact", type=Path, default=Path(os.environ.get("VIGIE_ARTIFACT", DEFAULT_ARTIFACT)), metavar="DIR")
    option("--text-column", default="text", metavar="NAME", help="default: text")
    option("--id-column", metavar="NAME", help="default: id where there is one, else the row's number")
    option("--format", choices=FORMATS, help="of IN; default: what its name says")
    option("--output-format", choices=FORMATS, help="of OUT; default: what its name says")
    option("--operating-point", metavar="NAME", help="default: the artifact's own choice")
    option("--precision", choices=PRECISIONS, help="default: the artifact's own choice")
    option("--workers", type=_positive, default=_cores(), metavar="N", help="processes; default: one a core")
    option("--max-characters", type=_positive, default=1_000_000, metavar="N", help="of one text; default: 1000000")
    option("--rejects", type=Path, metavar="FILE", help="default: OUT.rejects.jsonl; standard error when OUT is -")
    option("--full", action="store_true", help="nest the answers as /predict does (JSONL only)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with an interrupted run, or begin one")
    again.add_argument("--overwrite", action="store_true", help="start again, and replace OUT when it is complete")
    return parser.parse_args()


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise ValueError
    return number


def _cores() -> int:
    """Those this process may use, which a container can make fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    raise SystemExit(main())
