"""serving.batcher: every request gets its own rows, and a failure says nothing of the texts."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from serving.batcher import Batcher, EngineError


class Recorder:
    """Scores a text by its length and remembers the batches; the first call waits until it is let go."""

    def __init__(self, *, hold: bool = False) -> None:
        self.batches: list[list[str]] = []
        self.free = threading.Event()
        if not hold:
            self.free.set()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.batches.append(list(texts))
        assert self.free.wait(10)
        return np.array([[float(len(text))] for text in texts])


async def _started(recorder: Recorder) -> None:
    while not recorder.batches:
        await asyncio.sleep(0)


def test_a_lone_request_is_scored_at_once() -> None:
    recorder = Recorder()
    assert asyncio.run(Batcher(recorder).scores(["abc", "d"])).tolist() == [[3.0], [1.0]]


def test_what_waits_is_scored_together_and_dealt_out_again() -> None:
    async def scene() -> tuple[list[list[list[float]]], list[list[str]]]:
        recorder = Recorder(hold=True)
        batcher = Batcher(recorder, max_texts=4)
        first = asyncio.create_task(batcher.scores(["a"]))
        await _started(recorder)
        others = [asyncio.create_task(batcher.scores(texts)) for texts in (["bb", "ccc"], ["dddd"], ["e" * 5, "f" * 6])]
        await asyncio.sleep(0)
        recorder.free.set()
        answers = await asyncio.gather(first, *others)
        return [answer.tolist() for answer in answers], recorder.batches

    answers, batches = asyncio.run(scene())
    assert answers == [[[1.0]], [[2.0], [3.0]], [[4.0]], [[5.0], [6.0]]]
    assert batches == [["a"], ["bb", "ccc", "dddd"], ["eeeee", "ffffff"]]


def test_a_request_whose_client_left_costs_no_inference() -> None:
    async def scene() -> list[list[str]]:
        recorder = Recorder(hold=True)
        batcher = Batcher(recorder)
        first = asyncio.create_task(batcher.scores(["a"]))
        await _started(recorder)
        left, stays = asyncio.create_task(batcher.scores(["gone"])), asyncio.create_task(batcher.scores(["bb"]))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        recorder.free.set()
        await asyncio.gather(first, stays)
        return recorder.batches

    assert asyncio.run(scene()) == [["a"], ["bb"]]


def test_a_failure_reaches_every_client_without_the_text(caplog: pytest.LogCaptureFixture) -> None:
    """The library's message quotes the input, as tokenizers' do; ours and the log must not."""

    def fail(texts: Sequence[str]) -> np.ndarray:
        raise ValueError(f"cannot encode {texts[0]}")

    with caplog.at_level(logging.DEBUG), pytest.raises(EngineError) as caught:
        asyncio.run(Batcher(fail).scores(["perroquet-bleu-7413"]))
    assert str(caught.value) == "ValueError"
    assert "perroquet" not in caplog.text and "scoring 1 texts failed: ValueError" in caplog.text


def test_it_works_on_after_a_failure() -> None:
    calls = iter([ValueError, None])

    def sometimes(texts: Sequence[str]) -> np.ndarray:
        if next(calls):
            raise ValueError
        return np.zeros((len(texts), 1))

    async def scene() -> np.ndarray:
        batcher = Batcher(sometimes)
        with pytest.raises(EngineError):
            await batcher.scores(["a"])
        return await batcher.scores(["b"])

    assert asyncio.run(scene()).shape == (1, 1)
