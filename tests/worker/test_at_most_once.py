"""Workers of queues whose messages are taken at most once."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sized
from functools import partial
from typing import Any, Literal

import pytest
import redis

import millstream as ms
from tests.support.servers import Server
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, becomes, counts, run_burst, running

Store = Literal["stream", "list"]


@pytest.fixture(params=["stream", "list"])
def store(request: pytest.FixtureRequest) -> Store:
    """Where the messages are."""
    store: Store = request.param
    return store


@pytest.fixture
def queue(store: Store) -> ms.Queue[Any]:
    """A queue that delivers at most once."""
    return ms.Queue("orders", store=store, delivery="at_most_once")


@pytest.mark.parametrize("kind", ["coroutine", "thread", "batch"])
async def test_each_message_is_handled_once(
    worker: ms.Worker, any_mq: ms.AsyncClient, queue: ms.Queue[Any], kind: str
) -> None:
    """When nothing dies, all of them are handled, and all are counted."""
    handled: list[int] = []

    async def handle(body: int) -> None:
        await asyncio.sleep(0)
        handled.append(body)

    def handle_in_thread(body: int) -> None:
        handled.append(body)

    async def handle_batch(bodies: list[int]) -> None:
        handled.extend(bodies)

    if kind == "batch":
        worker.on(queue, batch=30)(handle_batch)
    else:
        worker.on(queue)(handle if kind == "coroutine" else handle_in_thread)
    await any_mq.send_many(queue, range(2000))
    await any_mq.send(queue, 2000, delay=0.2)
    await run_burst(worker, any_mq)

    assert sorted(handled) == [*range(2001)]
    stats = await any_mq.stats(queue)
    assert (stats.sent, stats.acked, stats.failed, stats.in_flight) == (2001, 2001, 0, 0)
    assert stats.consumers == ()


async def test_in_the_order_of_sending(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """One handler at a time sees them as they were sent."""
    handled: list[int] = []

    @worker.on(queue, concurrency=1)
    async def handle(body: int) -> None:
        handled.append(body)

    await mq.send_many(queue, range(1000))
    await run_burst(worker, mq)

    assert handled == [*range(1000)]


async def test_a_handler_that_fails(
    worker: ms.Worker,
    mq: ms.AsyncClient,
    queue: ms.Queue[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is said and counted, and nothing is tried again."""
    handled: list[int] = []

    @worker.on(queue)
    async def handle(body: int) -> None:
        handled.append(body)
        if body == 0:
            raise RuntimeError("broken")
        if body == 1:
            raise ms.RetryLater(delay=0)

    await mq.send_many(queue, range(3))
    with caplog.at_level(logging.WARNING):
        await run_burst(worker, mq)

    assert sorted(handled) == [0, 1, 2]
    assert await counts(mq, queue) == (0, 0, 0, 0)
    stats = await mq.stats(queue)
    assert (stats.acked, stats.failed, stats.retried, stats.died) == (1, 2, 0, 0)
    assert "RuntimeError: broken (lost: taken at most once)" in caplog.text
    assert "RetryLater (" in caplog.text
    assert 'is declared with delivery="at_most_once"' in caplog.text


async def test_what_is_rejected_or_cannot_be_read(
    worker: ms.Worker, mq: ms.AsyncClient, admin: redis.Redis, namespace: str, store: Store
) -> None:
    """It goes to the dead letters with the reason, from a coroutine and by an exception."""
    queue: ms.Queue[Any] = ms.Queue("orders", int, store=store, delivery="at_most_once")

    @worker.on(queue)
    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        if body == 1:
            await delivery.reject("one")
            assert (await mq.stats(queue)).dead >= 1
        elif body == 2:
            raise ms.Reject("two")
        elif body == 3:
            await delivery.ack()
            with pytest.raises(ms.LeaseLost):
                await delivery.ack()

    if store == "list":
        admin.lpush(f"{namespace}:{{orders}}:list", "nothing")
    else:
        admin.xadd(f"{namespace}:{{orders}}:ready", {"b": "nothing"})
        admin.xadd(f"{namespace}:{{orders}}:ready", {"x": "no body"})
    await mq.send_many(queue, [1, 2, 3])
    await run_burst(worker, mq)

    reasons = sorted(letter.reason for letter in await mq.dead(queue))
    expected = ["one", "two", "undecodable", *(["malformed"] if store == "stream" else [])]
    assert reasons == sorted(expected)
    stats = await mq.stats(queue)
    assert (stats.acked, stats.died, stats.failed) == (1, len(expected), 0)


async def test_what_was_not_begun_is_handed_back(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A worker that stops loses nothing that no handler has begun with, and keeps its order."""
    begun: list[int] = []
    go_on = asyncio.Event()

    @worker.on(queue, concurrency=2, prefetch=10)
    async def handle(body: int) -> None:
        begun.append(body)
        await go_on.wait()

    await mq.send_many(queue, range(20))
    async with running(worker, mq) as task:
        await auntil(lambda: len(begun) == 2)
        await becomes(mq, queue, (10, 0, 0, 0))
        worker.stop()
        await becomes(mq, queue, (18, 0, 0, 0))
        go_on.set()
        await task

    assert begun == [0, 1]
    rest = [delivery.body async for delivery in mq.receive(queue, wait=0, prefetch=1)]
    assert rest == [*range(2, 20)]
    stats = await mq.stats(queue)
    assert (stats.acked, stats.failed) == (20, 0)


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_handlers_that_are_late(
    mq: ms.AsyncClient, queue: ms.Queue[Any], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What was begun and stopped is lost, and counted: it may have been done, so nobody gets it."""
    worker = ms.Worker(shutdown_timeout=0.05)
    begun: list[int] = []
    end = threading.Event()

    async def handle(body: int) -> None:
        begun.append(body)
        await asyncio.Event().wait()

    def handle_in_thread(body: int) -> None:
        begun.append(body)
        end.wait(PATIENCE)

    worker.on(queue, concurrency=1)(handle if kind == "coroutine" else handle_in_thread)
    await mq.send_many(queue, range(3))
    async with running(worker, mq):
        await auntil(lambda: begun)
    end.set()

    assert begun == [0]
    assert await counts(mq, queue) == (2, 0, 0, 0)
    assert (await mq.stats(queue)).failed == 1
    assert kind == "thread" or "was not finished: lost" in caplog.text


async def test_pause_and_resume(
    worker: ms.Worker, mq: ms.AsyncClient, other: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A paused queue gets back what was not begun; nothing is lost and nothing comes twice."""
    handled: list[int] = []

    @worker.on(queue, concurrency=1, prefetch=50)
    async def handle(body: int) -> None:
        await asyncio.sleep(0.001)  # the work itself
        handled.append(body)

    await mq.send_many(queue, range(300))
    async with running(worker, mq):
        for goal in (50, 100):
            await auntil(partial(_reached, handled, goal))
            await other.pause(queue)
            await auntil(lambda: _stands_still(handled, other, queue))
            await other.resume(queue)
        await auntil(lambda: len(handled) >= 300, PATIENCE)

    assert sorted(handled) == [*range(300)]


def _reached(handled: Sized, count: int) -> bool:
    return len(handled) >= count


async def _stands_still(handled: list[int], mq: ms.AsyncClient, queue: ms.Queue[Any]) -> bool:
    return len(handled) + (await mq.stats(queue)).ready == 300


async def test_many_idle_workers(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """One message wakes those who sleep, and one of them has it."""
    handled: list[tuple[int, int]] = []
    workers = [ms.Worker() for _ in range(4)]
    for number, one in enumerate(workers):

        @one.on(queue)
        async def handle(body: int, number: int = number) -> None:
            handled.append((body, number))

    tasks = [asyncio.create_task(one.run(mq)) for one in workers]
    await auntil(lambda: _all_there(mq, queue, 4))
    for body in range(50):
        await mq.send(queue, body)
        await auntil(partial(_reached, handled, body + 1), PATIENCE, 0.001)
    for one in workers:
        one.stop()
    await asyncio.gather(*tasks)

    assert [body for body, _ in handled] == [*range(50)]


async def _all_there(mq: ms.AsyncClient, queue: ms.Queue[Any], count: int) -> bool:
    return len((await mq.stats(queue)).consumers) == count


async def test_an_idle_worker_is_quiet(
    worker: ms.Worker, own_server: Server, queue: ms.Queue[Any]
) -> None:
    """Who waits for messages sleeps at the server: less than one command a second."""
    admin = own_server.admin()

    @worker.on(queue)
    async def handle(body: int) -> None: ...

    def commands() -> int:
        return int(admin.info("stats")["total_commands_processed"])

    async with ms.AsyncClient(own_server.url) as mq, running(worker, mq):
        # The reader, and the worker's ear for pauses.
        await auntil(lambda: sum("b" in one["flags"] for one in admin.client_list()) == 2)
        began, before = time.monotonic(), commands()
        await asyncio.sleep(3)  # the work itself
        elapsed, after = time.monotonic() - began, commands()
    assert after - before - 1 < elapsed  # one was the question itself


def test_a_retry_policy_is_refused(worker: ms.Worker, queue: ms.Queue[Any]) -> None:
    """There is nothing that could be tried again."""

    async def handle(body: int) -> None: ...

    with pytest.raises(ms.UsageError, match=r"handle.*retry does not go with queue 'orders'"):
        worker.on(queue, retry=ms.Retry(max_attempts=2))(handle)
