"""Features that meet in a worker: schedules, pauses, bounds, bursts, order."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import millstream as ms
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, SOON, becomes, counts, run_burst, running

# --- schedules ----------------------------------------------------------------------------------


async def test_a_schedule_of_a_paused_queue(
    mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any]
) -> None:
    """Its ticks go on and their messages wait: each is handled once after the resume, in order."""
    ticks: list[str] = []

    @worker.every(0.1, queue)
    def tick() -> int:
        return 1

    @worker.on(queue, concurrency=1)
    async def handle(body: int, delivery: ms.Delivery[int]) -> None:
        ticks.append(delivery.headers["tick"])

    async def waiting() -> bool:
        return (await mq.stats(queue)).ready >= 3

    await mq.pause(queue)
    async with running(worker, mq):
        await auntil(waiting, PATIENCE)
        assert ticks == []
        await mq.resume(queue)
        await auntil(lambda: len(ticks) >= 5, PATIENCE)
        await mq.pause_schedule(queue, "tick")
        await becomes(mq, queue, (0, 0, 0, 0))
        assert len(ticks) == (await mq.stats(queue)).sent
    assert ticks == sorted(set(ticks))


async def test_a_schedule_of_a_full_queue(mq: ms.AsyncClient, worker: ms.Worker) -> None:
    """A bound is for those who send: it refuses no tick, and sends find no room meanwhile."""
    queue: ms.Queue[Any] = ms.Queue("full", bound=ms.Bound(1))
    await mq.send(queue, 0)

    @worker.every(0.1, queue)
    def tick() -> int:
        return 1

    async def exceeded() -> bool:
        return (await mq.stats(queue)).ready >= 3

    async with running(worker, mq):
        await auntil(exceeded, PATIENCE)
        with pytest.raises(ms.QueueFull):
            await mq.send(queue, 2)


async def test_schedules_share_the_limits_of_their_queue(
    mq: ms.AsyncClient, worker: ms.Worker
) -> None:
    """Ticks of an ordered queue have no key and hold nobody up; `max_running` counts them."""
    queue: ms.Queue[Any] = ms.Queue("limited", ordered=True, max_running=1)
    running_now: list[Any] = []
    handled: list[Any] = []

    @worker.every(0.1, queue)
    def tick() -> str:
        return "tick"

    @worker.on(queue)
    async def handle(body: Any) -> None:
        running_now.append(body)
        await asyncio.sleep(0.01)  # the work itself
        assert running_now == [body]
        running_now.clear()
        handled.append(body)

    for number in range(5):
        await mq.send(queue, number, key="k")
    async with running(worker, mq):
        await auntil(lambda: handled.count("tick") >= 2, PATIENCE)
        await auntil(lambda: 4 in handled, PATIENCE)
    assert [body for body in handled if body != "tick"] == [*range(5)]
    assert (await mq.stats(queue)).retried == 0


# --- bursts -------------------------------------------------------------------------------------


async def test_a_burst_says_what_a_paused_queue_holds_back(
    mq: ms.AsyncClient,
    worker: ms.Worker,
    queue: ms.Queue[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It ends, also with delayed messages, lines of keys and partitions, and tells what is left."""
    parted: ms.Queue[Any] = ms.Queue("parted", ordered=True, partitions=2)
    handled: list[Any] = []

    async def handle(body: Any) -> None:
        handled.append(body)

    for one in (queue, parted):
        worker.on(one)(handle)
        await mq.pause(one)
    await mq.send(queue, 1, delay=3600)
    await mq.send(queue, 2, priority=9)
    for key in "abc":
        await mq.send_many(parted, [3, 4], key=key)

    with caplog.at_level(logging.INFO, "millstream.worker"):
        await run_burst(worker, mq)

    assert handled == []
    assert "queue 'orders' is paused: 2 messages are left" in caplog.text
    assert "queue 'parted' is paused: 6 messages are left" in caplog.text
    await mq.resume(parted)
    await run_burst(worker, mq)
    assert sorted(handled) == [3, 3, 3, 4, 4, 4]


# --- bounds -------------------------------------------------------------------------------------


async def test_a_handler_that_sends_to_its_own_full_queue(
    mq: ms.AsyncClient, worker: ms.Worker
) -> None:
    """It waits for room that it takes up itself: the timeout ends that, and the message is retried."""
    queue: ms.Queue[Any] = ms.Queue(
        "own",
        retry=ms.Retry(max_attempts=2, backoff=SOON),
        bound=ms.Bound(1, on_full="wait", timeout=0.2),
    )
    errors: list[str] = []

    @worker.on(queue, concurrency=1)
    async def handle(body: int) -> None:
        try:
            await mq.send(queue, body + 1)
        except ms.QueueFull as error:
            errors.append(str(error))
            raise

    await mq.send(queue, 1)
    async with running(worker, mq):
        await becomes(mq, queue, (0, 0, 0, 1))
    assert len(errors) == 2


async def test_a_pipeline_of_bounds(mq: ms.AsyncClient, worker: ms.Worker) -> None:
    """A slow second step holds the first one back, and the producer with it; nothing is lost."""
    first: ms.Queue[Any] = ms.Queue("first", bound=ms.Bound(3, on_full="wait"))
    second: ms.Queue[Any] = ms.Queue("second", bound=ms.Bound(2, on_full="wait"))
    done: list[int] = []
    lengths: list[int] = []

    @worker.on(first, concurrency=2)
    async def pass_on(body: int) -> None:
        await mq.send(second, body)

    @worker.on(second, concurrency=1)
    async def finish(body: int) -> None:
        lengths.append(sum((await counts(mq, first))[:3]) - 3)
        lengths.append(sum((await counts(mq, second))[:3]) - 2)
        done.append(body)

    async with running(worker, mq):
        await asyncio.gather(*(mq.send(first, number) for number in range(40)))
        await auntil(lambda: len(done) == 40, PATIENCE)
    assert sorted(done) == [*range(40)]
    assert max(lengths) <= 0
