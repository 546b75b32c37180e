"""Time to live: what no handler has begun with in time is not handled any more."""

from __future__ import annotations

from typing import Any

import millstream as ms
from tests.api.clients import counts, drain, take, take_one

DROPPING: ms.Queue[Any] = ms.Queue("orders", expired="drop")


async def expired(mq: ms.AsyncClient, queue: ms.Queue[Any], body: Any = 1, **options: Any) -> None:
    """Send a message and let its time pass, by the server's clock."""
    receipt = await mq.send(queue, body, ttl=0.05, **options)
    sent = int(receipt.id.partition("-")[0])
    while True:
        probe = await mq.send(ms.Queue("clock"), None)
        if int(probe.id.partition("-")[0]) > sent + 60:
            return


async def test_it_goes_to_the_dead_letters(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """With the reason, and its neighbours are delivered."""
    await expired(any_mq, queue)
    await any_mq.send(queue, 2, ttl=3600)

    assert [delivery.body for delivery in await drain(any_mq, queue)] == [2]
    [letter] = await any_mq.dead(queue)
    assert (letter.body, letter.reason, letter.attempts) == (1, "expired", 0)
    assert await counts(any_mq, queue) == (0, 0, 0, 1)


async def test_it_is_dropped_where_that_is_declared(mq: ms.AsyncClient) -> None:
    """Nobody misses it; it is only counted."""
    await expired(mq, DROPPING)

    assert await drain(mq, DROPPING) == []
    stats = await mq.stats(DROPPING)
    assert (stats.ready, stats.in_flight, stats.dead, stats.dropped) == (0, 0, 0, 1)


async def test_a_retry_does_not_expire(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """A handler has begun with it in time."""
    await mq.send(queue, 1, ttl=2)
    await (await take_one(mq, queue)).retry(delay=2.2)

    assert (await take_one(mq, queue)).attempt == 2


async def test_expired_while_delayed(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Given a later time, it is never delivered at all."""
    receipt = await mq.send(queue, 1, ttl=0.1, delay=0.05)
    assert await mq.reschedule(queue, receipt.id, delay=0.2)

    assert await take(mq, queue, wait=0.5) == []
    assert [letter.reason for letter in await mq.dead(queue)] == ["expired"]


async def test_expired_with_a_priority_a_key_and_a_unique_key(mq: ms.AsyncClient) -> None:
    """Its key and its unique key are free, and the next of its line goes on."""
    queue: ms.Queue[Any] = ms.Queue("orders", ordered=True)
    await expired(mq, queue, "a1", key="a", unique="x", priority=3)
    await expired(mq, queue, "a2", key="a")
    await mq.send(queue, "a3", key="a")

    assert [delivery.body for delivery in await drain(mq, queue)] == ["a3"]
    assert sorted(letter.body for letter in await mq.dead(queue)) == ["a1", "a2"]
    assert not (await mq.send(queue, "a4", unique="x", key="a")).duplicate


async def test_redriven_it_lives(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Who sends it back wants it handled."""
    await expired(mq, queue)
    await drain(mq, queue)
    await mq.redrive(queue)

    assert [delivery.body for delivery in await drain(mq, queue)] == [1]
