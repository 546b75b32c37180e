"""Priorities: higher ones first, and by choice a share for the low ones."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import millstream as ms
from tests.api.clients import counts, drain, take, take_one

WEIGHTED: ms.Queue[Any] = ms.Queue("orders", priorities="weighted")


async def test_higher_ones_come_first(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """From the highest to the normal one, and in order of sending among equals."""
    for number, priority in enumerate([0, 3, 9, 0, 3, 1, 9]):
        await any_mq.send(queue, [priority, number], priority=priority)

    assert await counts(any_mq, queue) == (7, 0, 0, 0)
    got = [delivery.body for delivery in await drain(any_mq, queue, prefetch=1)]
    assert got == [[9, 2], [9, 6], [3, 1], [3, 4], [1, 5], [0, 0], [0, 3]]
    assert await counts(any_mq, queue) == (0, 0, 0, 0)


async def test_a_sleeping_reader_gets_them(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """An urgent message does not wait for a normal one to wake its reader."""
    assert await take(mq, queue, wait=0) == []
    await mq.send(queue, "urgent", priority=5)

    assert (await take_one(mq, queue)).body == "urgent"


async def test_they_are_shown_and_purged(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """They are ready messages as others are."""
    await mq.send(queue, "normal")
    urgent = await mq.send(queue, "urgent", priority=1)

    assert [message.body for message in await mq.peek(queue)] == ["urgent", "normal"]
    assert (await mq.stats(queue)).oldest_ready is not None
    assert await mq.cancel(queue, urgent.id)
    await mq.send(queue, "urgent", priority=1)
    assert await mq.purge(queue, confirm=True) == 2
    assert await counts(mq, queue) == (0, 0, 0, 0)


async def comes_when_due(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> Any:
    """Handle one message after the other; the first body after the delayed one has become due."""
    async with asyncio.timeout(10):
        while True:
            waits = (await mq.stats(queue)).delayed
            delivery = await take_one(mq, queue, prefetch=1)
            await delivery.ack()
            # The read that finds it due is behind a look that may still find a normal one.
            if not waits or delivery.body == "urgent":
                return delivery.body


async def test_a_retry_keeps_its_priority(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """It comes back before the normal ones."""
    await mq.send(queue, "urgent", priority=2)
    await mq.send_many(queue, range(1000))
    await (await take_one(mq, queue, prefetch=1)).retry(delay=0.05)

    assert await comes_when_due(mq, queue) == "urgent"


async def test_delayed_and_urgent(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Its priority counts from when it is due."""
    await mq.send_many(queue, range(1000))
    await mq.send(queue, "urgent", priority=9, delay=0.05)

    assert await comes_when_due(mq, queue) == "urgent"


async def test_low_ones_get_a_share(mq: ms.AsyncClient) -> None:
    """Weighted, a tenth of what a priority of nine gets goes to the normal ones meanwhile."""
    await mq.send_many(WEIGHTED, ["low"] * 100)
    await mq.send_many(WEIGHTED, ["high"] * 300, priority=9)

    first = Counter(delivery.body for delivery in await take(mq, WEIGHTED, 220, prefetch=1))

    assert 15 <= first["low"] <= 25


async def test_ordered_and_urgent(mq: ms.AsyncClient) -> None:
    """Within a key the order of sending counts, between keys the priority."""
    queue: ms.Queue[Any] = ms.Queue("orders", ordered=True)
    await mq.send(queue, "a1", key="a")
    await mq.send(queue, "a2", key="a", priority=9)
    await mq.send(queue, "b1", key="b", priority=1)

    got = [delivery.body for delivery in await drain(mq, queue, prefetch=1)]

    assert got == ["b1", "a1", "a2"]
