"""Unique messages: a second send returns the first one's receipt."""

from __future__ import annotations

import asyncio
from typing import Any

import millstream as ms
from tests.api.clients import counts, drain, take, take_one


async def test_while_it_is_queued(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Nothing is stored for the second send, and its receipt says so."""
    first = await any_mq.send(queue, 1, unique="order-1")
    second = await any_mq.send(queue, 2, unique="order-1")
    other = await any_mq.send(queue, 3, unique="order-2")

    assert (first.duplicate, second.duplicate, other.duplicate) == (False, True, False)
    assert second.id == first.id != other.id
    assert [delivery.body for delivery in await take(any_mq, queue, 2)] == [1, 3]
    assert (await any_mq.stats(queue)).sent == 2


async def test_while_it_runs_and_after(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """The key is taken until the message is done, retries included."""
    await mq.send(queue, 1, unique="x")
    await (await take_one(mq, queue)).retry(delay=0)
    delivery = await take_one(mq, queue)
    assert (await mq.send(queue, 2, unique="x")).duplicate
    await delivery.ack()

    assert not (await mq.send(queue, 3, unique="x")).duplicate


async def test_until_started(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """What is sent while the first one runs is a message of its own."""
    await mq.send(queue, 1, unique="x", unique_for="started")
    assert (await mq.send(queue, 2, unique="x", unique_for="started")).duplicate
    delivery = await take_one(mq, queue)

    assert not (await mq.send(queue, 3, unique="x", unique_for="started")).duplicate
    await delivery.ack()
    assert (await mq.send(queue, 4, unique="x", unique_for="started")).duplicate


async def test_within_a_window(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Whatever became of the first one; afterwards the key is free."""
    first = await mq.send(queue, 1, unique="x", unique_for=2)
    await drain(mq, queue)

    second = await mq.send(queue, 2, unique="x", unique_for=2)
    assert (second.id, second.duplicate) == (first.id, True)
    async with asyncio.timeout(5):
        while (await mq.send(queue, 3, unique="x", unique_for=2)).duplicate:
            continue
    assert [delivery.body for delivery in await drain(mq, queue)] == [3]


async def test_whatever_ends_it_frees_the_key(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Rejected, cancelled, purged: the next send is stored."""
    await mq.send(queue, 1, unique="x")
    await (await take_one(mq, queue)).reject("no")
    second = await mq.send(queue, 2, unique="x", delay=3600)
    assert not second.duplicate
    assert await mq.cancel(queue, second.id)
    assert not (await mq.send(queue, 3, unique="x")).duplicate
    await mq.purge(queue, confirm=True)

    assert not (await mq.send(queue, 4, unique="x")).duplicate


async def test_redriven(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """A dead letter that comes back has its key again, unless another message has it by now."""
    await mq.send(queue, 1, unique="x")
    await (await take_one(mq, queue)).reject("no")
    await mq.redrive(queue)
    assert (await mq.send(queue, 2, unique="x")).duplicate
    await (await take_one(mq, queue)).reject("no")
    third = await mq.send(queue, 3, unique="x")
    await mq.redrive(queue)

    assert (await mq.send(queue, 4, unique="x")).id == third.id
    assert sorted(delivery.body for delivery in await drain(mq, queue)) == [1, 3]
    assert not (await mq.send(queue, 5, unique="x")).duplicate


async def test_concurrent_sends(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Of fifty sends at a time one is stored, and all get its id."""
    receipts = await asyncio.gather(*(mq.send(queue, n, unique="x") for n in range(50)))

    assert len({receipt.id for receipt in receipts}) == 1
    assert sum(not receipt.duplicate for receipt in receipts) == 1
    assert await counts(mq, queue) == (1, 0, 0, 0)
