"""The async client alone: cancellation, many tasks, a blocked event loop."""

from __future__ import annotations

import asyncio
import gc
from contextlib import aclosing
from typing import Any

import pytest
import redis

import millstream as ms
from tests.api.clients import counts, drain, take_one
from tests.support.leases import Watch
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import auntil, until


@pytest.fixture
def kind() -> str:
    """These tests are about the async client."""
    return "async"


async def test_many_tasks_send_at_a_time(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Each of hundreds of concurrent sends gets its own receipt: the id of its own message."""
    receipts = await asyncio.gather(
        *(mq.send(queue, n, headers={"n": str(n)} if n % 3 else None) for n in range(500))
    )

    received = {delivery.id: delivery for delivery in await drain(mq, queue, prefetch=500)}

    assert [received[receipt.id].body for receipt in receipts] == list(range(500))
    for number, receipt in enumerate(receipts):
        expected = {"n": str(number)} if number % 3 else {}
        assert received[receipt.id].headers == expected


async def test_a_cancelled_receiver_hands_its_buffer_back(
    mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A task that is cancelled in its loop body leaves what it had buffered ready, unblamed."""
    await mq.send_many(queue, range(4))
    in_hand = asyncio.Event()

    async def work() -> None:
        async with aclosing(mq.receive(queue, prefetch=4)) as deliveries:
            async for delivery in deliveries:
                await delivery.ack()
                in_hand.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await in_hand.wait()
    task.cancel()
    await asyncio.wait([task])

    assert await counts(mq, queue) == (3, 0, 0, 0)
    assert {delivery.crashes for delivery in await drain(mq, queue)} == {0}


async def test_a_timeout_around_a_receiver(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """A receiver that waits can be timed out from outside, and leaves no consumer behind."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await drain(mq, queue, wait=None)

    await auntil(lambda: _left(mq, queue))


async def _left(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> bool:
    return (await mq.stats(queue)).consumers == ()


@pytest.mark.parametrize("ticks", range(0, 80, 8))
async def test_no_cancellation_loses_or_blames_a_message(
    mq: ms.AsyncClient, queue: ms.Queue[Any], ticks: int
) -> None:
    """Wherever a receiver is cancelled, the messages are ready again at once, without blame, also
    those whose reply was on its way, and also when another delivery is still in use.
    """
    await mq.send_many(queue, range(6))
    held: list[ms.Delivery[Any]] = []

    async def work() -> None:
        async with aclosing(mq.receive(queue, prefetch=2)) as deliveries:
            async for delivery in deliveries:
                held.append(delivery)  # noqa: PERF401 - cancelled, it must have what came

    task = asyncio.create_task(work())
    for _ in range(ticks):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    ready, _, in_flight, _ = await counts(mq, queue)
    assert in_flight == len(held)
    assert ready == 6 - len(held)
    for delivery in held:
        await delivery.ack()
    assert {delivery.crashes for delivery in await drain(mq, queue)} <= {0}


async def test_a_fetch_that_was_cancelled_loses_and_blames_nothing(
    mq: ms.AsyncClient, connect: Any, server: Server, queue: ms.Queue[Any]
) -> None:
    """Messages whose reply was on its way when a receiver was cancelled are ready again at once,
    although the receiver has other deliveries in use.
    """
    await mq.send_many(queue, range(6))
    with Proxy(server.port) as proxy:
        through = await connect(proxy.url)
        deliveries = through.receive(queue, prefetch=2)
        held = [await anext(deliveries), await anext(deliveries)]
        proxy.stall(requests=False)
        reading = asyncio.create_task(anext(deliveries))
        await auntil(lambda: _in_flight(mq, queue, 4))

        reading.cancel()
        proxy.resume()
        await asyncio.wait([reading])

        assert await counts(mq, queue) == (4, 0, 2, 0)
        for delivery in held:
            await delivery.ack()
        assert {(one.attempt, one.crashes) for one in await drain(mq, queue)} == {(1, 0)}


async def _in_flight(mq: ms.AsyncClient, queue: ms.Queue[Any], number: int) -> bool:
    return (await mq.stats(queue)).in_flight == number


async def test_a_forgotten_receiver_hands_its_buffer_back(
    mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """An iterator that nobody refers to any more is closed by the event loop."""
    await mq.send_many(queue, range(4))
    deliveries = mq.receive(queue, prefetch=4)
    await (await anext(deliveries)).ack()

    del deliveries
    gc.collect()

    await auntil(lambda: _ready(mq, queue, 3))


async def _ready(mq: ms.AsyncClient, queue: ms.Queue[Any], number: int) -> bool:
    return await counts(mq, queue) == (number, 0, 0, 0)


async def test_a_blocked_loop_keeps_what_is_buffered(
    mq: ms.AsyncClient, admin: redis.Redis, namespace: str
) -> None:
    """Leases of buffered messages are extended while the event loop stands still."""
    queue: ms.Queue[Any] = ms.Queue("orders", lease=1.5)
    receipts = await mq.send_many(queue, range(3))
    in_hand, *buffered = [receipt.id.encode() for receipt in receipts]

    async with aclosing(mq.receive(queue, prefetch=3)) as deliveries:
        first = await anext(deliveries)
        watch = Watch(admin, f"{namespace}:{{orders}}:ready")
        until(lambda: watch.renewed(2, buffered))  # in the thread of the loop
        assert max(watch.oldest[one] for one in buffered) < 1500
        assert not watch.renewals[in_hand]
        await first.ack()
        for _ in range(2):
            await (await anext(deliveries)).ack()

    assert await counts(mq, queue) == (0, 0, 0, 0)


async def test_sends_that_are_under_way_are_stored_before_the_close(
    connect: Any, queue: ms.Queue[Any]
) -> None:
    """Closing the client waits for the sends that have begun."""
    mq, other = await connect(), await connect()
    await mq.send(queue, -1)
    sends = [asyncio.create_task(mq.send(queue, n)) for n in range(100)]
    await asyncio.sleep(0)

    await mq.aclose()

    assert len(await asyncio.gather(*sends)) == 100
    assert await counts(other, queue) == (101, 0, 0, 0)


async def test_many_receivers_of_one_client(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """One client serves many receivers, of one queue and of several."""
    queues = [queue, *(ms.Queue(f"queue-{n}") for n in range(4))]
    for one in queues:
        await mq.send_many(one, range(20))

    shares = await asyncio.gather(*(drain(mq, one, wait=0.3) for one in queues * 2))

    assert sum(map(len, shares)) == 100
    assert all(type(delivery) is ms.Delivery for share in shares for delivery in share)


async def test_a_delivery_can_be_settled_after_its_loop(
    mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A delivery that outlives the loop that brought it is settled like any other."""
    await mq.send(queue, 1)
    delivery = await take_one(mq, queue)
    gc.collect()

    await delivery.ack()

    assert repr(delivery) == f"<Delivery {delivery.id} of queue 'orders', attempt 1>"
    assert await counts(mq, queue) == (0, 0, 0, 0)
