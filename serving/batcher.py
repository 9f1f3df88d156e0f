"""The one micro-batcher all routes share: what waits while the engine works becomes the next batch.

Nothing is delayed to fill a batch. A lone request is scored at once; under load the texts that arrived during one run
are scored together in the next.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
logger = logging.getLogger("vigie")


class EngineError(Exception):
    """Scoring failed. Carries the kind of the failure only: the original message might quote a text."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    texts: Sequence[str]
    answer: asyncio.Future[Scores]


class Batcher:
    """Scores texts of concurrent requests on one thread, in the order of their arrival."""

    def __init__(self, score: Callable[[Sequence[str]], Scores], *, max_texts: int = 64) -> None:
        """
        Args:
            score: texts → (texts, labels); called on a thread of its own, never twice at once.
            max_texts: texts of several requests that one call may join. A larger single request goes alone.
        """
        self._score, self._max_texts = score, max_texts
        self._queue: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vigie-engine")
        self._running: asyncio.Task[None] | None = None

    async def scores(self, texts: Sequence[str]) -> Scores:
        """Probabilities of shape (texts, labels).

        Raises:
            EngineError: scoring failed.
        """
        answer: asyncio.Future[Scores] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(texts, answer))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await answer

    def close(self) -> None:
        """Let the running batch end and stop the thread."""
        self._thread.shutdown(wait=True)

    async def _run(self) -> None:
        try:
            while self._queue:
                await self._score_batch(self._next())
        finally:
            self._running = None

    def _next(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        texts = 0
        while self._queue and (not batch or texts + len(self._queue[0].texts) <= self._max_texts):
            waiting = self._queue.popleft()
            if waiting.answer.cancelled():
                # The client is gone: no work for it.
                continue
            batch.append(waiting)
            texts += len(waiting.texts)
        return batch

    async def _score_batch(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        texts = [text for waiting in batch for text in waiting.texts]
        try:
            rows = await asyncio.get_running_loop().run_in_executor(self._thread, self._score, texts)
        except Exception as error:  # noqa: BLE001 - whatever failed, every client gets an answer
            kind = type(error).__name__
            logger.error("scoring %d texts failed: %s", len(texts), kind)
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(EngineError(kind))
            return
        start = 0
        for waiting in batch:
            end = start + len(waiting.texts)
            if not waiting.answer.done():
                waiting.answer.set_result(rows[start:end])
            start = end
