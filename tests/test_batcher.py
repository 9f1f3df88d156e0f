"""serving.batcher: every request gets its own rows, and a failure says nothing of the texts."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from serving.batcher import Batcher, EngineError, Overloaded


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
    assert batches == [["a"], ["bb", "ccc", "dddd", "eeeee"], ["ffffff"]]


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


def test_a_few_words_do_not_wait_for_sixty_pages() -> None:
    """Run by run, the large request leaves room: the small one that came last is in the very next run."""

    async def scene() -> tuple[list[list[str]], float]:
        recorder = Recorder(hold=True)
        batcher = Batcher(recorder, max_characters=4000)
        large = asyncio.create_task(batcher.scores(["x" * 3000] * 64))
        await _started(recorder)
        small = asyncio.create_task(batcher.scores(["bonjour"]))
        await asyncio.sleep(0)
        recorder.free.set()
        return recorder.batches, ((await small)[0, 0] + (await large).sum())

    batches, total = asyncio.run(scene())
    assert batches[0] == ["x" * 3000] and "bonjour" in batches[1]
    assert total == 7 + 64 * 3000
    assert max(len(batch) for batch in batches) <= 64 and all(sum(map(len, batch)) <= 4000 for batch in batches)


def test_a_text_longer_than_a_run_runs_alone() -> None:
    recorder = Recorder()
    assert asyncio.run(Batcher(recorder, max_characters=100).scores(["a", "b" * 500, "c"])).ravel().tolist() == [
        1,
        500,
        1,
    ]
    assert ["b" * 500] in recorder.batches


def test_everybody_advances_while_large_requests_compete() -> None:
    """Ten requests of ten texts that fill a run each: after every ten runs, each has one text more."""

    async def scene() -> list[list[str]]:
        recorder = Recorder()
        batcher = Batcher(recorder, max_characters=1000)
        await asyncio.gather(*(batcher.scores([str(request) * 968] * 10) for request in range(10)))
        return recorder.batches

    batches = asyncio.run(scene())
    for start in range(0, 100, 10):
        assert sorted(batch[0][0] for batch in batches[start : start + 10]) == list("0123456789")


def test_a_large_request_given_up_halfway_costs_no_more_runs() -> None:
    async def scene() -> tuple[list[list[str]], int]:
        recorder = Recorder(hold=True)
        batcher = Batcher(recorder, max_texts=1)
        large = asyncio.create_task(batcher.scores(["a"] * 50))
        await _started(recorder)
        large.cancel()
        await asyncio.sleep(0)
        waiting = batcher.waiting_texts
        recorder.free.set()
        await batcher.scores(["b"])
        return recorder.batches, waiting

    assert asyncio.run(scene()) == ([["a"], ["b"]], 0)


def test_no_work_starts_after_the_deadline() -> None:
    async def scene() -> list[list[str]]:
        recorder = Recorder(hold=True)
        batcher = Batcher(recorder, max_texts=1, deadline_s=0.05)
        answers = asyncio.gather(batcher.scores(["a"]), batcher.scores(["b"]), return_exceptions=True)
        assert all(isinstance(answer, Overloaded) for answer in await answers)
        recorder.free.set()
        await batcher.scores(["c"])
        return recorder.batches

    assert asyncio.run(scene()) == [["a"], ["c"]]


def test_a_full_queue_refuses_at_once_and_empties_again() -> None:
    async def scene() -> list[float]:
        recorder = Recorder(hold=True)
        batcher = Batcher(recorder, queue_texts=3, queue_characters=1000)
        first = asyncio.create_task(batcher.scores(["a"]))
        await _started(recorder)
        waits = asyncio.create_task(batcher.scores(["b", "c"]))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await batcher.scores(["d", "e"])
        with pytest.raises(Overloaded):
            await batcher.scores(["d" * 1000])
        last = asyncio.create_task(batcher.scores(["d"]))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            batcher.check_room()
        recorder.free.set()
        await asyncio.gather(first, waits, last)
        batcher.check_room()
        return (await batcher.scores(["f"])).tolist()

    assert asyncio.run(scene()) == [[1.0]]


class Slow(Recorder):
    """An engine that takes as many seconds of a clock of its own as it was told to."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.now, self.seconds = 0.0, seconds

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.now += self.seconds
        return super().__call__(texts)

    def clock(self) -> float:
        return self.now


def test_what_would_come_too_late_is_refused_at_once_with_the_time_to_wait() -> None:
    """One run took 10 s for a text of cost 100 (68 characters and 32): ten a second. 200 more wait for 20 s."""

    async def scene() -> tuple[int, int]:
        engine = Slow(10)
        batcher = Batcher(engine, deadline_s=25, clock=engine.clock)
        await batcher.scores(["x" * 68])
        engine.free.clear()
        running = asyncio.create_task(batcher.scores(["x"]))
        while len(engine.batches) < 2:
            await asyncio.sleep(0)
        waits = asyncio.create_task(batcher.scores(["y" * 168]))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await batcher.scores(["z" * 68])
        engine.free.set()
        await asyncio.gather(running, waits)
        return caught.value.retry_after_s, len(engine.batches)

    assert asyncio.run(scene()) == (20, 3)


def test_a_lone_request_is_taken_however_slow_the_engine_was() -> None:
    """Else one stall would close the service for ever: nothing would run, so nothing would be measured again."""

    async def scene() -> list[list[float]]:
        engine = Slow(1e6)
        batcher = Batcher(engine, deadline_s=5, clock=engine.clock)
        await batcher.scores(["a"])
        return (await batcher.scores(["b"])).tolist()

    assert asyncio.run(scene()) == [[1.0]]


def test_runs_are_reported_with_how_long_each_request_waited() -> None:
    """Runs of two texts, 10 s each: the first two requests find the engine free, the third is in the second run."""
    seen: list[dict[str, object]] = []

    async def scene() -> None:
        engine = Slow(10)
        batcher = Batcher(engine, max_texts=2, clock=engine.clock, on_run=lambda **run: seen.append(run))
        await asyncio.gather(*(batcher.scores([text]) for text in "abc"))

    asyncio.run(scene())
    assert seen == [
        {"texts": 2, "seconds": 10.0, "waits": [0.0, 0.0]},
        {"texts": 1, "seconds": 10.0, "waits": [10.0]},
    ]
