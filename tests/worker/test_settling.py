"""Handlers that settle their delivery themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol.keys import queue_keys
from tests.support.leases import idle
from tests.support.served import serving
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, Counts, becomes, counts, run_burst, running

Verb = Callable[[ms.Delivery[Any]], Awaitable[None]]
SyncVerb = Callable[[ms.SyncDelivery[Any]], None]

VERBS: dict[str, tuple[Verb, Counts]] = {
    "ack": (lambda delivery: delivery.ack(), (0, 0, 0, 0)),
    "retry": (lambda delivery: delivery.retry(delay=1000), (0, 1, 0, 0)),
    "reject": (lambda delivery: delivery.reject("no"), (0, 0, 0, 1)),
}
SYNC_VERBS: dict[str, tuple[SyncVerb, Counts]] = {
    "ack": (lambda delivery: delivery.ack(), (0, 0, 0, 0)),
    "retry": (lambda delivery: delivery.retry(delay=1000), (0, 1, 0, 0)),
    "reject": (lambda delivery: delivery.reject("no"), (0, 0, 0, 1)),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_settling_in_a_coroutine(
    worker: ms.Worker, any_mq: ms.AsyncClient, queue: ms.Queue[Any], verb: str
) -> None:
    """The message is settled when the call returns, and the handler's return changes nothing."""
    settle, expected = VERBS[verb]
    inside: list[Counts] = []

    @worker.on(queue)
    async def handle(body: Any, delivery: ms.Delivery[Any]) -> None:
        await settle(delivery)
        inside.append(await counts(any_mq, queue))
        assert not delivery.lease_lost

    await any_mq.send(queue, 1)
    async with running(worker, any_mq):
        await auntil(lambda: inside)
    assert inside == [expected]
    assert await counts(any_mq, queue) == expected


@pytest.mark.parametrize("verb", SYNC_VERBS)
async def test_settling_in_a_thread(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any], url: str, verb: str
) -> None:
    """A plain function settles through its delivery in the same way."""
    settle, expected = SYNC_VERBS[verb]
    inside: list[Counts] = []

    @worker.on(queue)
    def handle(body: Any, delivery: ms.SyncDelivery[Any]) -> None:
        settle(delivery)
        with ms.Client(url, namespace=mq.namespace) as client:
            stats = client.stats(queue)
        inside.append((stats.ready, stats.delayed, stats.in_flight, stats.dead))
        assert not delivery.lease_lost

    await mq.send(queue, 1)
    async with running(worker, mq):
        await auntil(lambda: inside)
    assert inside == [expected]
    assert await counts(mq, queue) == expected


async def test_release_in_a_handler(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A released message comes again without blame, before those that have waited longer."""
    handled: list[tuple[int, int]] = []
    released = False

    @worker.on(queue, concurrency=1, prefetch=1)
    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        nonlocal released
        if not released:
            released = True
            await delivery.release()
            return
        handled.append((body, delivery.attempt))

    await mq.send_many(queue, [1, 2, 3])
    await run_burst(worker, mq)

    # What the same round trip has read comes first.
    assert handled in ([(1, 1), (2, 1), (3, 1)], [(2, 1), (1, 1), (3, 1)])


@pytest.mark.parametrize("first", VERBS)
async def test_settling_twice(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any], first: str
) -> None:
    """The first settlement counts; each further one raises LeaseLost and changes nothing."""
    settle, expected = VERBS[first]
    refused: list[str] = []

    @worker.on(queue)
    async def handle(body: Any, delivery: ms.Delivery[Any]) -> None:
        await settle(delivery)
        for verb, (again, _) in VERBS.items():
            with pytest.raises(ms.LeaseLost):
                await again(delivery)
            refused.append(verb)

    await mq.send(queue, 1)
    async with running(worker, mq):
        await auntil(lambda: len(refused) == len(VERBS))
    assert await counts(mq, queue) == expected


async def test_settling_twice_at_a_time(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """Of two settlements at the same time the first one counts; the other raises LeaseLost."""
    results: list[Any] = []

    @worker.on(queue)
    async def handle(body: Any, delivery: ms.Delivery[Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            results.extend(
                await asyncio.gather(
                    delivery.retry(delay=1000), delivery.ack(), return_exceptions=True
                )
            )

    await mq.send(queue, 1)
    async with running(worker, mq):
        await auntil(lambda: results, PATIENCE)
    assert results[0] is None
    assert isinstance(results[1], ms.LeaseLost)
    assert await counts(mq, queue) == (0, 1, 0, 0)


async def test_settling_in_another_task(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A settlement that is under way when the handler returns is the one that counts."""
    tasks: list[asyncio.Task[None]] = []

    @worker.on(queue)
    async def handle(body: Any, delivery: ms.Delivery[Any]) -> None:
        tasks.append(asyncio.create_task(delivery.retry(delay=1000)))
        await asyncio.sleep(0)

    await mq.send(queue, 1)
    async with running(worker, mq):
        await auntil(lambda: tasks)
        await tasks[0]
    assert await counts(mq, queue) == (0, 1, 0, 0)


async def test_settling_with_a_time_limit(worker: ms.Worker, mq: ms.AsyncClient) -> None:
    """A handler that is cut off while it settles has settled: nothing is done twice."""
    queue: ms.Queue[Any] = ms.Queue("limited", retry=ms.Retry(max_attempts=1))
    handled: list[int] = []

    @worker.on(queue)
    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        handled.append(body)
        async with asyncio.timeout(0):
            await delivery.ack()

    await mq.send_many(queue, range(50))
    await run_burst(worker, mq)

    assert sorted(handled) == [*range(50)]
    assert await counts(mq, queue) == (0, 0, 0, 0)


async def test_failing_after_settling(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """What a handler raises after it has settled changes nothing any more."""

    @worker.on(queue)
    async def handle(body: Any, delivery: ms.Delivery[Any]) -> None:
        await delivery.ack()
        raise RuntimeError("too late")

    await mq.send(queue, 1)
    await run_burst(worker, mq)

    stats = await mq.stats(queue)
    assert (stats.acked, stats.retried, stats.dead) == (1, 0, 0)


async def test_working_on_after_settling(worker: ms.Worker, mq: ms.AsyncClient) -> None:
    """A handler may go on after it has settled; its slot is its own until it ends."""
    queue: ms.Queue[Any] = ms.Queue("short", lease=0.3)
    ended: list[float] = []

    @worker.on(queue, concurrency=1)
    async def handle(body: Any, delivery: ms.Delivery[Any]) -> None:
        await delivery.ack()
        await asyncio.sleep(1)  # the work itself
        ended.append(time.monotonic())

    await mq.send_many(queue, [1, 2])
    async with running(worker, mq):
        await auntil(lambda: len(ended) == 2)
    assert ended[1] - ended[0] >= 0.9


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_retry_in_a_handler_has_the_handlers_policy(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any], kind: str
) -> None:
    """delivery.retry() without a delay waits by the policy that was given at the handler."""
    policy = ms.Retry(backoff=ms.Backoff(first=500, jitter=0))
    if kind == "async":

        @worker.on(queue, retry=policy)
        async def handle(body: Any, delivery: ms.Delivery[Any]) -> None:
            await delivery.retry(reason="later")

    else:

        @worker.on(queue, retry=policy)
        def handle_in_thread(body: Any, delivery: ms.SyncDelivery[Any]) -> None:
            delivery.retry(reason="later")

    before = datetime.now(UTC)
    await mq.send(queue, 1)
    async with running(worker, mq):
        await becomes(mq, queue, (0, 1, 0, 0))
    (message,) = await mq.peek(queue, delayed=True)
    assert message.due is not None
    assert abs(message.due - before - timedelta(seconds=500)) < timedelta(seconds=20)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_extend_in_a_handler(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any], kind: str
) -> None:
    """delivery.extend() works in handlers, too, and raises LeaseLost after the end."""
    refused: list[int] = []
    if kind == "async":

        @worker.on(queue)
        async def handle(body: Any, delivery: ms.Delivery[Any]) -> None:
            await delivery.extend(60)
            await delivery.ack()
            with pytest.raises(ms.LeaseLost):
                await delivery.extend(60)
            refused.append(body)

    else:

        @worker.on(queue)
        def handle_in_thread(body: Any, delivery: ms.SyncDelivery[Any]) -> None:
            delivery.extend(60)
            delivery.ack()
            with pytest.raises(ms.LeaseLost):
                delivery.extend(60)
            refused.append(body)

    await mq.send(queue, 1)
    await run_burst(worker, mq)

    assert refused == [1]
    assert await counts(mq, queue) == (0, 0, 0, 0)


async def test_extending_by_less_than_the_lease(
    worker: ms.Worker, mq: ms.AsyncClient, admin: redis.Redis
) -> None:
    """A handler has the whole lease after it: a short rest would be over before the next extension."""
    queue: ms.Queue[Any] = ms.Queue("orders", lease=300)
    used: list[int] = []

    @worker.on(queue)
    async def handle(body: Any, delivery: ms.Delivery[Any]) -> None:
        await delivery.extend(0.05)
        used.extend(idle(admin, queue_keys(mq.namespace, queue.name).ready).values())

    await mq.send(queue, 1)
    await run_burst(worker, mq)

    assert len(used) == 1
    assert used[0] < 100_000


async def test_requests_that_end_while_a_worker_stops(
    worker: ms.Worker, mq: ms.AsyncClient
) -> None:
    """Each end reaches the server within moments, while other handlers use the time that they have left."""
    echo: ms.Endpoint[int, int] = ms.Endpoint("echo", int, int, timeout=PATIENCE)
    begun, go_on = list[int](), [asyncio.Event() for _ in range(3)]

    @worker.on(echo)
    async def handle(body: int) -> int:
        begun.append(body)
        await go_on[body].wait()
        return body

    async with serving(worker, mq, echo):
        asked = [asyncio.create_task(mq.request(echo, number)) for number in range(3)]
        await auntil(lambda: len(begun) == 3, PATIENCE)
        go_on[0].set()
        assert await asked[0] == 0
        for _ in range(20):  # by now its end waits for company
            await asyncio.sleep(0)
        worker.stop()
        await becomes(mq, echo.queue, (0, 0, 2, 0))
        go_on[1].set()
        assert await asked[1] == 1
        await becomes(mq, echo.queue, (0, 0, 1, 0))
        go_on[2].set()
        assert await asked[2] == 2
