"""serving.thread: one call after the other, errors handed over, nothing kept, and an end."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from serving.thread import Thread


class Thing:
    """Can be referred to weakly."""


def test_calls_never_overlap_and_keep_their_order() -> None:
    running, most, order = 0, 0, list[int]()

    def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        order.append(number)
        running -= 1
        return 2 * number

    async def scene() -> list[int]:
        thread = Thread(work, name="test")
        return await asyncio.gather(*(thread.call(number) for number in range(50)))

    assert asyncio.run(scene()) == [2 * number for number in range(50)]
    assert most == 1 and order == list(range(50))


def test_an_error_reaches_who_called_and_the_next_call_works() -> None:
    async def scene() -> float:
        thread = Thread(lambda number: 1 / number, name="test")
        with pytest.raises(ZeroDivisionError):
            await thread.call(0)
        return await thread.call(4)

    assert asyncio.run(scene()) == 0.25


def test_nothing_is_kept_of_a_call() -> None:
    """It may be a text, and the thread waits for the next one for hours."""

    async def scene() -> weakref.ref[Thing]:
        thread, thing = Thread(lambda _: None, name="test"), Thing()
        seen = weakref.ref(thing)
        await thread.call(thing)
        del thing
        # The next call is taken up when the last one's variables are gone.
        await thread.call(Thing())
        return seen

    assert asyncio.run(scene())() is None


def test_once_closed_it_takes_no_call() -> None:
    async def scene() -> None:
        thread = Thread(str, name="closed-in-test")
        await thread.call(1)
        thread.close()
        with pytest.raises(RuntimeError, match="closed"):
            await thread.call(2)

    asyncio.run(scene())
    assert not [thread for thread in threading.enumerate() if thread.name == "closed-in-test"]


def test_it_ends_with_its_owner() -> None:
    async def scene() -> threading.Thread:
        thread = Thread(str, name="dropped-in-test")
        await thread.call(1)
        return next(thread for thread in threading.enumerate() if thread.name == "dropped-in-test")

    thread = asyncio.run(scene())
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_a_loop_that_ended_meanwhile_is_no_error() -> None:
    """Pytest would report what a thread dies of."""
    free = threading.Event()

    async def scene() -> Thread[int, bool]:
        thread = Thread(lambda _: free.wait(10), name="test")
        call = asyncio.create_task(thread.call(1))
        await asyncio.sleep(0)
        call.cancel()
        return thread

    thread = asyncio.run(scene())
    free.set()
    thread.close()
