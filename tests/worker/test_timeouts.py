"""A handler's time limit."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import millstream as ms
from tests.worker.running import PATIENCE, SOON, run_burst


async def test_a_coroutine_is_cancelled(worker: ms.Worker, mq: ms.AsyncClient) -> None:
    """A coroutine that takes too long is cancelled and has failed with TimeoutError."""
    queue: ms.Queue[Any] = ms.Queue("slow", retry=ms.Retry(max_attempts=2, backoff=SOON))
    cancelled: list[float] = []

    @worker.on(queue, timeout=0.1)
    async def handle(body: Any) -> None:
        began = time.monotonic()
        try:
            await asyncio.sleep(PATIENCE)  # the work itself
        finally:
            cancelled.append(time.monotonic() - began)

    await mq.send(queue, 1)
    await run_burst(worker, mq)

    assert len(cancelled) == 2
    assert all(0.09 <= seconds < PATIENCE / 2 for seconds in cancelled)
    (letter,) = await mq.dead(queue)
    assert (letter.reason, letter.attempts) == ("attempts", 2)
    assert (letter.error or "").startswith("TimeoutError")


async def test_a_thread_is_interrupted(worker: ms.Worker, mq: ms.AsyncClient) -> None:
    """A plain function gets TimeoutError at its next line, and has failed with it."""
    queue: ms.Queue[Any] = ms.Queue("slow", retry=ms.Retry(max_attempts=2, backoff=SOON))
    seen: list[str] = []

    @worker.on(queue, timeout=1)
    def handle(body: Any) -> None:
        try:
            while True:
                time.sleep(0.01)  # the work itself
        except TimeoutError:
            seen.append("TimeoutError")
            raise

    await mq.send(queue, 1)
    await run_burst(worker, mq)

    assert seen == ["TimeoutError"] * 2
    (letter,) = await mq.dead(queue)
    assert (letter.error or "").startswith("TimeoutError")


async def test_no_second_copy_beside_a_thread(worker: ms.Worker, mq: ms.AsyncClient) -> None:
    """While a thread is stuck behind its time limit, its message is not handed out again."""
    retry = ms.Retry(max_attempts=2, backoff=ms.Backoff(first=0))
    queue: ms.Queue[Any] = ms.Queue("stuck", lease=2, retry=retry)
    go_on = threading.Event()
    running_now, most = 0, 0
    guard = threading.Lock()

    @worker.on(queue, timeout=0.05)
    def handle(body: Any) -> None:
        nonlocal running_now, most
        with guard:
            running_now += 1
            most = max(most, running_now)
        try:
            go_on.wait(PATIENCE)  # blocks in C, where no interruption gets through
        finally:
            with guard:
                running_now -= 1

    # Two leases pass while it is stuck.
    asyncio.get_running_loop().call_later(4, go_on.set)
    await mq.send(queue, 1)
    await run_burst(worker, mq)

    assert go_on.is_set()
    assert most == 1
    stats = await mq.stats(queue)
    assert (stats.retried, stats.acked, stats.crashed) == (1, 1, 0)


async def test_in_time(worker: ms.Worker, mq: ms.AsyncClient) -> None:
    """What ends within its time is done, by either kind of handler."""
    coroutines: ms.Queue[Any] = ms.Queue("coroutines")
    threads: ms.Queue[Any] = ms.Queue("threads")
    handled: list[Any] = []

    @worker.on(coroutines, timeout=PATIENCE)
    async def handle(body: Any) -> None:
        await asyncio.sleep(0.01)  # the work itself
        handled.append(body)

    @worker.on(threads, timeout=PATIENCE)
    def handle_in_thread(body: Any) -> None:
        time.sleep(0.01)  # the work itself
        handled.append(body)

    await mq.send_many(coroutines, range(20))
    await mq.send_many(threads, range(20, 40))
    await run_burst(worker, mq)

    assert sorted(handled) == [*range(40)]


async def test_a_slot_is_as_good_as_new(worker: ms.Worker, mq: ms.AsyncClient) -> None:
    """The message after one that took too long is handled as if nothing had been."""
    queue: ms.Queue[Any] = ms.Queue("mixed", retry=ms.Retry(max_attempts=1))
    handled: list[int] = []

    @worker.on(queue, timeout=0.05, concurrency=1)
    async def handle(body: int) -> None:
        await asyncio.sleep(PATIENCE if body % 2 else 0)  # the work itself
        handled.append(body)

    await mq.send_many(queue, range(10))
    await run_burst(worker, mq)

    assert handled == [0, 2, 4, 6, 8]
    assert sorted(letter.body for letter in await mq.dead(queue)) == [1, 3, 5, 7, 9]


async def test_swallowing_the_cancellation(worker: ms.Worker, mq: ms.AsyncClient) -> None:
    """A coroutine that swallows the cancellation of its time limit and returns is too late."""
    queue: ms.Queue[Any] = ms.Queue("stubborn", retry=ms.Retry(max_attempts=1))

    @worker.on(queue, timeout=0.05)
    async def handle(body: Any) -> None:
        try:
            await asyncio.sleep(PATIENCE)  # the work itself
        except asyncio.CancelledError:
            return

    await mq.send(queue, 1)
    await run_burst(worker, mq)

    (letter,) = await mq.dead(queue)
    assert (letter.error or "").startswith("TimeoutError")
