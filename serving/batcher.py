"""The one micro-batcher all routes share: what waits while the engine works becomes the next run.

Nothing is delayed to fill a run. A lone request is scored at once; under load, the texts that arrived during one run
are scored together in the next. Runs are short and requests take turns in them (deficit round robin, Shreedhar and
Varghese 1995), so that a few words never wait for somebody else's sixty pages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.limits import written
from serving.thread import Thread

Scores = NDArray[np.float64]
logger = logging.getLogger("vigie")

_TEXT_COST = 32
"""What any text costs beside its characters, in characters: the shortest still takes a row and control tokens."""
_MAX_RETRY_S = 60


class EngineError(Exception):
    """Scoring failed. Carries the kind of the failure only: the original message might quote a text."""


class Overloaded(Exception):
    """Not scored: too much waits, or the deadline passed. `retry_after_s` is when trying again may help."""

    def __init__(self, reason: str, retry_after_s: int) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request: its texts from `taken` on are still to be scored; `credit` is what its turns have saved up."""

    texts: Sequence[str]
    costs: Sequence[int]
    answer: asyncio.Future[Scores]
    entered_at: float
    taken: int = 0
    credit: int = 0
    rows: list[Scores] = field(default_factory=list)

    @property
    def next_cost(self) -> int:
        return self.costs[self.taken]

    @property
    def complete(self) -> bool:
        return self.taken == len(self.texts)


@dataclass(slots=True)
class _Run:
    """What one call of the engine scores: a text of a request, and another …"""

    max_texts: int
    max_characters: int
    owners: list[_Waiting] = field(default_factory=list)
    begins: list[_Waiting] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    cost: int = 0

    def takes(self, cost: int) -> bool:
        """Whether a text of that cost fits; any fits into an empty run."""
        return not self.texts or (len(self.texts) < self.max_texts and self.cost + cost <= self.max_characters)

    def add(self, waiting: _Waiting) -> None:
        """Take the request's next text."""
        if not waiting.taken:
            self.begins.append(waiting)
        self.owners.append(waiting)
        self.texts.append(waiting.texts[waiting.taken])
        self.cost += waiting.next_cost
        waiting.taken += 1


class Batcher:
    """Scores texts of concurrent requests on one thread."""

    def __init__(
        self,
        score: Callable[[Sequence[str]], Scores],
        *,
        max_texts: int = 64,
        max_characters: int = 4000,
        queue_texts: int = 512,
        queue_characters: int = 1_000_000,
        deadline_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        on_run: Callable[..., None] | None = None,
        on_waiting: Callable[[int], None] | None = None,
    ) -> None:
        """
        Args:
            score: texts → (texts, labels); called on a thread of its own, never twice at once.
            max_texts: texts of one run.
            max_characters: characters of one run; a longer text runs alone. About two of the engine's own batches:
                more would gain nothing and hold up the next client.
            queue_texts: texts that may wait. A request that finds none waiting is always taken.
            queue_characters: characters that may wait.
            deadline_s: seconds after which a request is given up, and no work starts for it.
            clock: seconds, for measuring how fast the engine is.
            on_run: told of each run that went well, as `on_run(texts=…, seconds=…, waits=…)`: how many texts, how long,
                and how long each request in it had waited if this was its first.
            on_waiting: told how many texts wait, each time that changes.
        """
        self._max_texts, self._max_characters = max_texts, max_characters
        self._queue_texts, self._queue_characters, self._deadline_s = queue_texts, queue_characters, deadline_s
        self._clock, self._on_run, self._on_waiting = clock, on_run, on_waiting
        self._queue: deque[_Waiting] = deque()
        self._waiting_cost = 0
        self._cost_per_s: float | None = None
        self._thread = Thread(score, name="vigie-engine")
        self._running: asyncio.Task[None] | None = None
        self.waiting_texts = 0
        """Texts accepted that no run has taken yet."""

    async def scores(self, texts: Sequence[str]) -> Scores:
        """Probabilities of shape (texts, labels).

        Raises:
            ValueError: no text.
            Overloaded: the queue is full, or the deadline passed.
            EngineError: scoring failed.
        """
        if not texts:
            raise ValueError("no texts to score")
        costs = [_cost(text) for text in texts]
        self.check_room(costs)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(texts, costs, loop.create_future(), self._clock())
        self._enter(waiting)
        late = loop.call_later(self._deadline_s, _give_up, waiting.answer)
        try:
            return await waiting.answer
        except TimeoutError:
            allowed = f"not scored within {self._deadline_s:g} s; send fewer or shorter texts, or try again later"
            raise Overloaded(allowed, self.retry_after_s()) from None
        finally:
            # Answered, late, failed, or the client left: nothing more is scored for it.
            late.cancel()
            self._leave(waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing is scored, and nothing waits for it."""
        return self._running is None

    def check_room(self, costs: Sequence[int] = (_TEXT_COST,)) -> None:
        """Raises Overloaded where texts of these costs, or any at all, would find the queue full or come too late."""
        if not self.waiting_texts:
            return
        cost = self._waiting_cost + sum(costs)
        crowded = self.waiting_texts + len(costs) > self._queue_texts or cost > self._queue_characters
        if crowded or (self._cost_per_s is not None and cost / self._cost_per_s > self._deadline_s):
            raise Overloaded("too many texts are waiting; try again later", self.retry_after_s())

    def retry_after_s(self) -> int:
        """Whole seconds, 1 to 60, until what waits now will have been scored."""
        wait = self._waiting_cost / self._cost_per_s if self._cost_per_s else 1.0
        return max(1, min(_MAX_RETRY_S, math.ceil(wait)))

    def close(self) -> None:
        """Let the running batch end and stop the thread."""
        self._thread.close()

    def _enter(self, waiting: _Waiting) -> None:
        self._queue.append(waiting)
        self._count(waiting.costs, 1)
        if self._running is None:
            # In a context of its own, for it works for more requests than this one.
            self._running = asyncio.get_running_loop().create_task(self._run(), context=Context())

    def _leave(self, waiting: _Waiting) -> None:
        if not waiting.complete:
            self._count(waiting.costs[waiting.taken :], -1)
            waiting.taken = len(waiting.texts)
            with contextlib.suppress(ValueError):
                self._queue.remove(waiting)

    def _count(self, costs: Sequence[int], sign: int) -> None:
        self.waiting_texts += sign * len(costs)
        self._waiting_cost += sign * sum(costs)
        if self._on_waiting:
            self._on_waiting(self.waiting_texts)

    async def _run(self) -> None:
        try:
            while (run := self._next()).texts:
                await self._score_run(run)
        finally:
            self._running = None

    def _next(self) -> _Run:
        """One turn after the other, until the run is full or nothing waits."""
        run = _Run(self._max_texts, self._max_characters)
        while self._queue and self._take_turn(self._queue[0], run):
            pass
        return run

    def _take_turn(self, waiting: _Waiting, run: _Run) -> bool:
        """Texts of the request at the head, for as much as its credit pays; False once the run is full."""
        if not waiting.complete and waiting.credit < waiting.next_cost:
            waiting.credit += self._max_characters // 4
        while not waiting.complete and not waiting.answer.done() and waiting.next_cost <= waiting.credit:
            if not run.takes(waiting.next_cost):
                # It stays at the head with its credit: the next run begins with it.
                return False
            waiting.credit -= waiting.next_cost
            self._count([waiting.next_cost], -1)
            run.add(waiting)
        if waiting.complete or waiting.answer.done():
            self._queue.popleft()
        else:
            self._queue.rotate(-1)
        return True

    async def _score_run(self, run: _Run) -> None:
        started = self._clock()
        try:
            rows = await self._thread.call(run.texts)
        except Exception as error:  # noqa: BLE001 - whatever failed, every client gets an answer
            kind = type(error).__name__
            logger.error("scoring %d texts failed: %s", len(run.texts), kind)
            for waiting in run.owners:
                if not waiting.answer.done():
                    waiting.answer.set_exception(EngineError(kind))
            return
        seconds = self._clock() - started
        self._learn_speed(run.cost, seconds)
        if self._on_run:
            self._on_run(texts=len(run.texts), seconds=seconds, waits=[started - one.entered_at for one in run.begins])
        _deal(run.owners, rows)

    def _learn_speed(self, cost: int, seconds: float) -> None:
        speed = cost / max(seconds, 1e-6)
        self._cost_per_s = speed if self._cost_per_s is None else 0.8 * self._cost_per_s + 0.2 * speed


def _deal(owners: Sequence[_Waiting], rows: Scores) -> None:
    """Each request gets its rows, and its answer once they are all there."""
    for index, waiting in enumerate(owners):
        waiting.rows.append(rows[index : index + 1])
        if len(waiting.rows) == len(waiting.texts) and not waiting.answer.done():
            waiting.answer.set_result(np.concatenate(waiting.rows))


def _give_up(answer: asyncio.Future[Scores]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


def _cost(text: str) -> int:
    return written(text) + _TEXT_COST
