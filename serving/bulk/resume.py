"""Files that a killed run leaves in a state to go on from, without a row lost or doubled.

While a run lasts, its lines are in `OUT.partial`, and `OUT.progress.json` says how many bytes of it, and of the
rejects, belong to how many rows of the input. That record is replaced as a whole, and only after the lines it counts
are on the disk; what stands after them was written after it, and is cut off when the run goes on. OUT appears under
its name once it is complete. Parquet, which cannot be gone on with, is made from the lines at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import BinaryIO

from serving.artifact import Artifact
from serving.bulk.answer import Scored
from serving.bulk.rows import Place, UsageError

FORMAT = 1
_HEAD_BYTES = 2**16
_EVERY_S = 1.0
Run = Mapping[str, str | int | bool | None]
"""Everything that the output depends on: only a run with the same may go on with it."""


@dataclass(frozen=True, slots=True)
class State:
    """How far a run is: the place in the input, and the bytes written up to there."""

    place: Place = field(default_factory=Place)
    output_bytes: int = 0
    rejects_bytes: int = 0
    tally: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of a run that can be resumed."""

    output: Path
    rejects: Path

    @property
    def partial(self) -> Path:
        return beside(self.output, ".partial")

    @property
    def progress(self) -> Path:
        return beside(self.output, ".progress.json")

    @property
    def table(self) -> Path:
        return beside(self.output, ".partial.parquet")


def beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def describe_input(path: Path) -> dict[str, str | int]:
    """What tells one input file from another, or from itself after a change."""
    status = path.stat()
    with path.open("rb") as file:
        head = hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()
    return {"input size": status.st_size, "input date": status.st_mtime_ns, "input head": head}


def describe_artifact(artifact: Artifact) -> dict[str, str]:
    """artifact.json holds the hashes of all files but thresholds.json, which an operator may edit."""
    files = b"".join((artifact.folder / name).read_bytes() for name in ("artifact.json", "thresholds.json"))
    return {"artifact": f"{artifact.version} {hashlib.sha256(files).hexdigest()}", "precision": artifact.precision}


def read_state(paths: Paths, run: Run) -> State | None:
    """Where an interrupted run stands; None where it wrote no record yet, or there is none.

    Raises:
        UsageError: the record is damaged, or of a run on another input, with another artifact or other settings.
    """
    try:
        record = json.loads(paths.progress.read_text(encoding="utf-8"))
        before = record["run"]
        state = {**record["state"], "place": Place(**record["state"]["place"])}
        found = State(**{**state, "tally": Counter(state["tally"])})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{paths.progress}: damaged; start again with --overwrite") from None
    differing = [key for key, value in run.items() if key not in before or before[key] != value]
    if record.get("format") != FORMAT or differing:
        what = ", ".join(differing) or "version of Vigie"
        raise UsageError(f"{paths.progress}: was begun with another {what}; use the same, or start with --overwrite")
    return found


class FileSink:
    """OUT.partial and the rejects, open for one run; `state` is what is safely in them.

    Raises:
        UsageError: another run is writing them, or they hold less than the record says.
    """

    def __init__(self, paths: Paths, run: Run | None, *, state: State | None, header: bytes) -> None:
        self._paths, self._run = paths, run
        self.state = state or State(output_bytes=len(header))
        self._started = time.monotonic() - self.state.seconds
        self._recorded = -_EVERY_S
        self._rejects: BinaryIO | None = None
        self._output = _open(paths.partial)
        try:
            self._begin(None if state else header)
        except BaseException:
            self._release()
            raise

    def _begin(self, header: bytes | None) -> None:
        _lock(self._output, self._paths)
        if header is not None:
            self._paths.progress.unlink(missing_ok=True)
            self._output.write(header)
        _cut(self._output, self.state.output_bytes, self._paths.partial)
        if self.state.rejects_bytes:
            self._rejects = _open(self._paths.rejects)
            _cut(self._rejects, self.state.rejects_bytes, self._paths.rejects)
        else:
            self._paths.rejects.unlink(missing_ok=True)

    def write(self, scored: Scored, place: Place) -> None:
        """Add the lines of the next rows; `place` is where the input goes on after them."""
        self._output.write(scored.output)
        if scored.rejects:
            self._rejects = self._rejects or _open(self._paths.rejects)
            self._rejects.write(scored.rejects)
        self.state = replace(
            self.state,
            place=place,
            output_bytes=self.state.output_bytes + len(scored.output),
            rejects_bytes=self.state.rejects_bytes + len(scored.rejects),
            tally=self.state.tally + scored.tally,
            seconds=time.monotonic() - self._started,
        )
        if time.monotonic() - self._recorded >= _EVERY_S:
            self.record()

    def record(self) -> None:
        """Bring everything to the disk, then say so."""
        for file in (self._output, self._rejects):
            if file:
                file.flush()
                os.fsync(file.fileno())
        if self._run is not None:
            _write_record(self._paths, self._run, self.state)
        self._recorded = time.monotonic()

    def complete(self) -> None:
        """The input is at its end."""
        self.state = replace(self.state, complete=True)
        self.record()

    def close(self) -> None:
        """Keep what there is; on a full disk, the last record that could be written stands."""
        with contextlib.suppress(OSError):
            if not self.state.complete:
                self.record()
        self._release()

    def _release(self) -> None:
        for file in (self._output, self._rejects):
            with contextlib.suppress(OSError):
                if file:
                    file.close()


class StreamSink:
    """Standard output; the rejects go to a file, or to standard error. It cannot be resumed."""

    def __init__(self, rejects: Path | None, *, header: bytes) -> None:
        self.state = State()
        self._started = time.monotonic()
        self._rejects = rejects.open("wb") if rejects else sys.stderr.buffer
        self._emit(sys.stdout.buffer, header)

    def write(self, scored: Scored, place: Place) -> None:
        self._emit(sys.stdout.buffer, scored.output)
        self._emit(self._rejects, scored.rejects)
        seconds = time.monotonic() - self._started
        self.state = replace(self.state, place=place, tally=self.state.tally + scored.tally, seconds=seconds)

    def _emit(self, stream: BinaryIO, data: bytes) -> None:
        if data:
            stream.write(data)
            stream.flush()

    def complete(self) -> None:
        self.state = replace(self.state, complete=True)

    def close(self) -> None:
        if self._rejects is not sys.stderr.buffer:
            self._rejects.close()


def install(paths: Paths, to_table: Callable[[Path, Path], None] | None) -> None:
    """Give a complete output its name. Interrupted anywhere, it can be called again.

    Args:
        to_table: makes the file proper from the lines, where they are not it.
    """
    if paths.partial.exists():
        if to_table:
            to_table(paths.partial, paths.table)
            with paths.table.open("rb+") as table:
                os.fsync(table.fileno())
            paths.table.replace(paths.output)
            paths.partial.unlink()
        else:
            paths.partial.replace(paths.output)
    paths.progress.unlink(missing_ok=True)


def _open(path: Path) -> BinaryIO:
    """For writing from the start, without losing what it holds."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")


def _cut(file: BinaryIO, size: int, path: Path) -> None:
    file.flush()
    if os.fstat(file.fileno()).st_size < size:
        raise UsageError(f"{path}: holds less than its record says; start again with --overwrite")
    file.truncate(size)
    file.seek(size)


def _lock(file: BinaryIO, paths: Paths) -> None:
    """Two runs into one file would mix their lines. The system opens the lock when the process ends."""
    with contextlib.suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{paths.partial}: another run is writing it") from None


def _write_record(paths: Paths, run: Run, state: State) -> None:
    # asdict would rebuild a Counter from its pairs, and count those.
    values = {item.name: getattr(state, item.name) for item in fields(state)}
    record = {"format": FORMAT, "run": dict(run), "state": {**values, "place": asdict(state.place)}}
    new = beside(paths.progress, ".new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(paths.progress)
