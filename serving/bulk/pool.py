"""Processes that score chunks of rows, one Classifier each; their answers come back in order."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, cast

from serving.artifact import ArtifactError
from serving.bulk.answer import Layout, Scored, score_rows
from serving.bulk.rows import Place, Row
from serving.classifier import Classifier

CHUNKS_AHEAD = 4
"""Chunks a worker at most that are read and not yet written: what bounds the memory."""


class PoolError(Exception):
    """A process ended or failed; what was written before stands."""


class Chunk(NamedTuple):
    """Consecutive rows, where reading goes on after them, and how far into the input that is."""

    rows: list[Row]
    place: Place
    done: int


@dataclass(frozen=True, slots=True)
class Job:
    """What each process needs to know."""

    artifact: Path
    precision: str
    layout: Layout


class Pool:
    """Scoring processes, to be used in a `with` block: ready inside, ended and waited for after it.

    Each has a pipe of its own, of which it holds one end only: when this process dies, however it dies, the others
    read an end of file and leave.
    """

    def __init__(self, job: Job, workers: int) -> None:
        self._job, self._count = job, workers
        self._processes: dict[Connection, SpawnProcess] = {}

    def __enter__(self) -> Pool:
        """Start them and wait until each has checked the artifact.

        Raises:
            ArtifactError: the artifact does not check out.
            PoolError: a process ended by itself.
        """
        try:
            self._start()
            for connection in self._processes:
                if fault := self._receive(connection):
                    raise ArtifactError(fault)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection, process in self._processes.items():
            if kind:
                process.terminate()
            connection.close()
        for process in self._processes.values():
            process.join()
        self._processes.clear()

    def scored(self, chunks: Iterator[Chunk]) -> Iterator[tuple[Chunk, Scored]]:
        """Every chunk with its answers, in the order of `chunks`, which is read no faster than it is scored.

        Raises:
            PoolError: a process ended or failed.
        """
        idle = deque(self._processes)
        busy: dict[Connection, int] = {}
        pending: dict[int, Chunk] = {}
        answers: dict[int, Scored] = {}
        read = written = 0
        while True:
            while idle and len(pending) < CHUNKS_AHEAD * self._count and (chunk := next(chunks, None)):
                connection = idle.popleft()
                self._send(connection, chunk.rows)
                pending[read], busy[connection] = chunk, read
                read += 1
            if not pending:
                return
            for connection in cast("list[Connection]", wait([*busy])):
                answers[busy.pop(connection)] = self._answer(connection)
                idle.append(connection)
            while written in answers:
                yield pending.pop(written), answers.pop(written)
                written += 1

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        # Ctrl-C reaches every process of the terminal: the parent alone decides what becomes of it. An ignored
        # signal stays ignored in the processes started meanwhile, from their first instruction on.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for _ in range(self._count):
                here, there = context.Pipe()
                process = context.Process(target=_work, args=(there, self._job), daemon=True)
                process.start()
                there.close()
                self._processes[here] = process
        finally:
            signal.signal(signal.SIGINT, before)

    def _send(self, connection: Connection, rows: list[Row]) -> None:
        try:
            connection.send(rows)
        except OSError:
            raise self._death(connection) from None

    def _answer(self, connection: Connection) -> Scored:
        answer = self._receive(connection)
        if isinstance(answer, Scored):
            return answer
        raise PoolError(f"a scoring process failed ({answer})")

    def _receive(self, connection: Connection) -> Any:
        try:
            return connection.recv()
        except (EOFError, OSError):
            raise self._death(connection) from None

    def _death(self, connection: Connection) -> PoolError:
        process = self._processes[connection]
        process.join()
        return PoolError(
            f"scoring process {process.pid} ended by itself (exit code {process.exitcode}); "
            "out of memory? fewer --workers need less"
        )


def _work(connection: Connection, job: Job) -> None:
    """The life of a process: says None or what is wrong with the artifact, then answers chunks until the pipe ends."""
    try:
        classifier = Classifier.from_dir(job.artifact, precision=job.precision)
    except ArtifactError as error:
        connection.send(str(error))
        return
    try:
        connection.send(None)
        while True:
            connection.send(_score(classifier, connection.recv(), job.layout))
    except (EOFError, OSError):
        return


def _score(classifier: Classifier, rows: list[Row], layout: Layout) -> Scored | str:
    try:
        return score_rows(classifier, rows, layout)
    except Exception as error:  # noqa: BLE001 - a traceback in the log could show a text
        return type(error).__name__
