"""Receiving: what comes, in which order, how much of it at a time, and how it ends."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any

import pytest
import redis

import millstream as ms
from tests.api.clients import PATIENCE, Connect, counts, drain, take_one
from tests.support.wait import auntil


async def test_messages_wait_for_their_first_consumer(
    any_mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """What was sent before anybody received is delivered, in order."""
    await any_mq.send_many(queue, range(5))

    assert [delivery.body for delivery in await drain(any_mq, queue)] == [0, 1, 2, 3, 4]
    assert await counts(any_mq, queue) == (0, 0, 0, 0)


async def test_a_waiting_receiver_gets_a_message_at_once(
    any_mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A receiver that sleeps at the server is woken by a send."""
    receiving = asyncio.create_task(take_one(any_mq, queue))
    await auntil(lambda: _asleep(any_mq, queue))

    started = time.monotonic()
    await any_mq.send(queue, "wake")
    delivery = await receiving

    assert delivery.body == "wake"
    assert time.monotonic() - started < 5
    await delivery.ack()


async def _asleep(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> bool:
    """A consumer is known, so it has fetched, found nothing, and waits or is about to."""
    return bool((await mq.stats(queue)).consumers)


async def test_wait_zero_ends_when_nothing_is_there(
    mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """With wait=0 an empty queue ends the iteration at once."""
    started = time.monotonic()

    assert await drain(mq, queue, wait=0) == []
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("prefetch", [1, 10])
async def test_wait_zero_takes_what_came_meanwhile(
    mq: ms.AsyncClient, queue: ms.Queue[Any], prefetch: int
) -> None:
    """With wait=0 a message that was sent while the last one was handled is delivered, too."""
    await mq.send(queue, 3)
    seen = []

    async for delivery in mq.receive(queue, wait=0, prefetch=prefetch):
        seen.append(delivery.body)
        if delivery.body:
            await mq.send(queue, delivery.body - 1)
        await delivery.ack()

    assert seen == [3, 2, 1, 0]


async def test_wait_ends_after_so_many_seconds(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """The iteration ends when no message came for the given time, counted from the last one."""
    started = time.monotonic()
    assert await drain(mq, queue, wait=0.3) == []
    assert 0.3 <= time.monotonic() - started < 8

    await mq.send(queue, 1)
    started = time.monotonic()
    assert len(await drain(mq, queue, wait=0.3)) == 1
    assert 0.3 <= time.monotonic() - started < 8


async def test_wait_is_long_enough_for_a_delayed_message(
    mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A message that becomes due within the wait is delivered, and not before its time."""
    await mq.send(queue, 1)
    first = await take_one(mq, queue)
    await first.retry(delay=0.4)
    started = time.monotonic()

    again = await take_one(mq, queue)

    assert 0.35 < time.monotonic() - started < 8
    assert (again.body, again.attempt) == (1, 2)
    await again.ack()


async def test_prefetch_bounds_what_is_in_flight(
    any_mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A receiver holds at most prefetch messages: those it buffers and the one in hand."""
    await any_mq.send_many(queue, range(10))

    async with aclosing(any_mq.receive(queue, prefetch=3, wait=PATIENCE)) as deliveries:
        for number in range(10):
            delivery = await anext(deliveries)
            assert delivery.body == number
            ready, _, in_flight, _ = await counts(any_mq, queue)
            assert in_flight <= 3
            assert ready + in_flight == 10 - number
            await delivery.ack()


@pytest.mark.parametrize("prefetch", [0, -1, 10_001, 1.5, "10", None])
async def test_prefetch_out_of_bounds(
    mq: ms.AsyncClient, queue: ms.Queue[Any], prefetch: Any
) -> None:
    """A prefetch that makes no sense is a UsageError that names it."""
    with pytest.raises(ms.UsageError, match="prefetch"):
        await drain(mq, queue, prefetch=prefetch)


@pytest.mark.parametrize("wait", [-1, "1", float("nan")])
async def test_wait_out_of_bounds(mq: ms.AsyncClient, queue: ms.Queue[Any], wait: Any) -> None:
    """A wait that makes no sense is a UsageError that names it."""
    with pytest.raises(ms.UsageError, match="wait"):
        await drain(mq, queue, wait=wait)


async def test_a_break_hands_the_buffer_back(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """What a receiver has buffered when its loop ends is ready at once, in order, without blame."""
    await any_mq.send_many(queue, range(6))

    first = await take_one(any_mq, queue, prefetch=6)

    assert await counts(any_mq, queue) == (5, 0, 1, 0)
    rest = await drain(any_mq, queue)
    assert [delivery.body for delivery in rest] == [1, 2, 3, 4, 5]
    assert {(delivery.attempt, delivery.crashes) for delivery in rest} == {(1, 0)}
    assert (await any_mq.stats(queue)).crashed == 0
    await first.ack()
    assert await counts(any_mq, queue) == (0, 0, 0, 0)


async def test_a_break_after_the_ack_leaves_nothing_behind(
    mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A receiver that owes nothing when its loop ends is no consumer any more."""
    await mq.send_many(queue, range(6))

    async with aclosing(mq.receive(queue, prefetch=6)) as deliveries:
        delivery = await anext(deliveries)
        await delivery.ack()

    stats = await mq.stats(queue)
    assert (stats.ready, stats.in_flight, stats.consumers) == (5, 0, ())


async def test_a_large_buffer_is_handed_back_in_few_calls(
    mq: ms.AsyncClient, queue: ms.Queue[Any], admin: redis.Redis
) -> None:
    """Handing thousands of messages back takes some round trips, not one a message."""
    await mq.send_many(queue, range(2000))

    async with aclosing(mq.receive(queue, prefetch=2000)) as deliveries:
        delivery = await anext(deliveries)
        before = script_calls(admin)

    assert script_calls(admin) - before < 50
    assert await counts(mq, queue) == (1999, 0, 1, 0)
    assert [one.body for one in await drain(mq, queue, prefetch=1000)] == list(range(1, 2000))
    await delivery.ack()


async def test_a_busy_receiver_leaves_the_rest_to_others(
    connect: Connect, queue: ms.Queue[Any]
) -> None:
    """What is sent while a receiver's user works goes to another one, also when the receiver was
    woken from its sleep a moment before.
    """
    busy, idle = await connect(), await connect()
    async with aclosing(busy.receive(queue, prefetch=1, wait=PATIENCE)) as deliveries:
        receiving = asyncio.create_task(anext(deliveries))
        await auntil(lambda: _asleep(idle, queue))
        await idle.send(queue, "first")
        first = await receiving
        for number in range(3):
            await idle.send(queue, number)
            other = await take_one(idle, queue)
            assert (other.body, other.crashes) == (number, 0)
            await other.ack()
        await first.ack()


def script_calls(admin: redis.Redis) -> int:
    statistics: Any = admin.info("commandstats")
    return int(statistics["cmdstat_evalsha"]["calls"])


async def test_two_receivers_share_the_work(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Each message goes to one of the receivers, and both get some."""
    await any_mq.send_many(queue, range(100))
    shares: list[list[int]] = [[], []]
    both_began = asyncio.Event()

    async def work(share: list[int]) -> None:
        async for delivery in any_mq.receive(queue, prefetch=5, wait=0.2):
            share.append(delivery.body)
            await delivery.ack()
            if all(shares):
                both_began.set()
            await both_began.wait()

    await asyncio.gather(*map(work, shares))

    assert all(shares)
    assert sorted(shares[0] + shares[1]) == list(range(100))


# --- closing ----------------------------------------------------------------------------------


async def test_closing_the_client_ends_a_waiting_receiver(
    connect: Connect, queue: ms.Queue[Any]
) -> None:
    """A receiver that waits for messages ends without an error when its client is closed."""
    mq, other = await connect(), await connect()
    receiving = asyncio.create_task(drain(mq, queue, wait=None))
    await auntil(lambda: _asleep(other, queue))
    started = time.monotonic()

    await mq.aclose()

    assert await asyncio.wait_for(receiving, PATIENCE) == []
    assert time.monotonic() - started < 8
    assert (await other.stats(queue)).consumers == ()


async def test_closing_the_client_hands_a_suspended_receivers_buffer_back(
    connect: Connect, queue: ms.Queue[Any]
) -> None:
    """When the client is closed under a receiver that holds a message, its buffer is ready again."""
    mq, other = await connect(), await connect()
    await mq.send_many(queue, range(4))
    deliveries = mq.receive(queue, prefetch=4)
    first = await anext(deliveries)

    await mq.aclose()

    assert await counts(other, queue) == (3, 0, 1, 0)
    with pytest.raises(ms.UsageError, match="closed"):
        await first.ack()
    with pytest.raises(StopAsyncIteration):
        await anext(deliveries)


async def test_closing_right_after_a_break_hands_the_buffer_back(
    connect: Connect, queue: ms.Queue[Any]
) -> None:
    """A loop that was left a moment ago does not lose its buffer to a client that is closed."""
    mq, other = await connect(), await connect()
    await mq.send_many(queue, range(4))

    async for delivery in mq.receive(queue, prefetch=4):
        await delivery.ack()
        break
    await mq.aclose()

    await auntil(lambda: _all_ready(other, queue, 3))


async def _all_ready(mq: ms.AsyncClient, queue: ms.Queue[Any], number: int) -> bool:
    return await counts(mq, queue) == (number, 0, 0, 0)


async def test_a_loop_that_was_left_hands_its_buffer_back(
    mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A plain break, without closing the iterator, is enough."""
    await mq.send_many(queue, range(4))

    async for delivery in mq.receive(queue, prefetch=4):
        await delivery.ack()
        break

    await auntil(lambda: _all_ready(mq, queue, 3))


async def test_an_error_in_the_loop_hands_the_buffer_back(
    mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """An exception that leaves the loop hands the buffer back; the message in hand stays leased."""
    await mq.send_many(queue, range(4))

    async def fail() -> None:
        async with aclosing(mq.receive(queue, prefetch=4)) as deliveries:
            async for delivery in deliveries:
                delivery.body / 0

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert await counts(mq, queue) == (3, 0, 1, 0)


async def test_a_closed_client_says_so(connect: Connect, queue: ms.Queue[Any]) -> None:
    """Every use of a closed client is a UsageError, also where it has connected before."""
    mq = await connect()
    await mq.send(queue, 1)
    await mq.aclose()
    await mq.aclose()

    for call in (mq.send(queue, 1), mq.send_many(queue, [1]), mq.stats(queue), mq.connect()):
        with pytest.raises(ms.UsageError, match="closed"):
            await call
    with pytest.raises(ms.UsageError, match="closed"):
        await drain(mq, queue)
