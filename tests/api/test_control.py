"""Pause, resume and cancel, as clients and receivers see them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

import millstream as ms
from tests.api.clients import PATIENCE, Connect, counts, drain, take, take_one
from tests.support.wait import auntil


async def test_a_paused_queue(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Nobody gets a message, sends go on, and stats say why; a resume brings all in order."""
    await any_mq.send(queue, 1)
    await any_mq.pause(queue)
    await any_mq.send(queue, 2)

    assert await drain(any_mq, queue) == []
    stats = await any_mq.stats(queue)
    assert (stats.paused, stats.ready) == (True, 2)
    assert [one.body for one in await any_mq.peek(queue)] == [1, 2]
    await any_mq.resume(queue)
    assert [one.body for one in await drain(any_mq, queue)] == [1, 2]
    assert not (await any_mq.stats(queue)).paused


async def test_pause_and_resume_are_safe_to_repeat(
    mq: ms.AsyncClient, connect: Connect, queue: ms.Queue[Any]
) -> None:
    """Twice is once, from whichever client; a queue that nobody used can be paused and resumed."""
    other = await connect()
    await mq.resume(queue)
    await mq.pause(queue)
    await other.pause(queue)
    await mq.send(queue, 1)
    await other.resume(queue)
    await mq.resume(queue)

    assert [one.body for one in await drain(mq, queue)] == [1]


async def test_what_is_in_hand_can_be_settled(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """A delivery from before the pause ends as ever."""
    await mq.send_many(queue, range(4))
    done, again, no, back = await take(mq, queue, 4)
    await mq.pause(queue)

    await done.ack()
    await again.retry(delay=0)
    await no.reject("no")
    await back.release()

    assert await drain(mq, queue) == []
    ready, delayed, in_flight, dead = await counts(mq, queue)
    assert (ready + delayed, in_flight, dead) == (2, 0, 1)
    await mq.resume(queue)
    assert sorted(one.body for one in await drain(mq, queue, wait=0.2)) == [1, 3]


async def test_a_receiver_hands_back_what_it_fetched_ahead(
    any_mq: ms.AsyncClient, connect: Connect, queue: ms.Queue[Any]
) -> None:
    """A paused queue gives no message to a loop that has some in its buffer."""
    await any_mq.send_many(queue, range(10))
    seen = []
    async with aclosing(any_mq.receive(queue, prefetch=10, wait=0)) as deliveries:
        async for delivery in deliveries:
            seen.append(delivery.body)
            if len(seen) == 1:
                await any_mq.pause(queue)
            await delivery.ack()
        assert seen == [0]
        assert await counts(any_mq, queue) == (9, 0, 0, 0)
    await any_mq.resume(queue)
    assert sorted(one.body for one in await drain(any_mq, queue)) == [*range(1, 10)]


@pytest.mark.parametrize("what", ["pause", "cancel"])
async def test_a_receiver_notices_what_another_client_does(
    mq: ms.AsyncClient, connect: Connect, queue: ms.Queue[Any], what: str
) -> None:
    """It looks again after a tenth of a second."""
    other = await connect()
    receipts = await mq.send_many(queue, range(3))
    seen = []
    async with aclosing(mq.receive(queue, wait=0)) as deliveries:
        async for delivery in deliveries:
            seen.append(delivery.body)
            if len(seen) == 1:
                if what == "pause":
                    await other.pause(queue)
                else:
                    assert await other.cancel(queue, receipts[1].id)
                await asyncio.sleep(0.11)  # the work itself
            await delivery.ack()
    assert seen == ([0] if what == "pause" else [0, 2])
    await other.resume(queue)


async def test_a_sleeping_receiver_goes_on_at_once(
    any_mq: ms.AsyncClient, connect: Connect, queue: ms.Queue[Any]
) -> None:
    """It sleeps through a pause and wakes up by the resume."""
    got: list[Any] = []

    async def receive() -> None:
        got.append((await take_one(any_mq, queue)).body)

    task = asyncio.create_task(receive())
    await auntil(lambda: _registered(any_mq, queue))
    await any_mq.pause(queue)
    await any_mq.send(queue, 1)
    assert got == []
    await any_mq.resume(queue)
    async with asyncio.timeout(PATIENCE / 2):
        await task
    assert got == [1]


async def _registered(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> bool:
    return len((await mq.stats(queue)).consumers) == 1


async def test_a_receiver_that_was_cancelled(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Its message is dead, and its settlement is refused."""
    receipt = await any_mq.send(queue, 1)
    delivery = await take_one(any_mq, queue)

    assert await any_mq.cancel(queue, receipt.id)

    (letter,) = await any_mq.dead(queue)
    assert (letter.id, letter.body, letter.reason) == (receipt.id, 1, "cancelled")
    with pytest.raises(ms.LeaseLost):
        await delivery.ack()
    assert await counts(any_mq, queue) == (0, 0, 0, 1)
    stats = await any_mq.stats(queue)
    assert (stats.acked, stats.died) == (0, 1)


async def test_what_waits_in_a_receiver_is_cancelled(
    mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A message that was fetched ahead does not reach the loop."""
    receipts = await mq.send_many(queue, range(3))
    seen = []
    async with aclosing(mq.receive(queue, wait=0)) as deliveries:
        async for delivery in deliveries:
            seen.append(delivery.body)
            if len(seen) == 1:
                assert await mq.cancel(queue, receipts[1].id)
            await delivery.ack()
    assert seen == [0, 2]
    assert await counts(mq, queue) == (0, 0, 0, 1)


async def test_a_cancelled_message_can_be_redriven(
    mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """It is a dead letter like any other; after a retry it is found by its id all the same."""
    receipt = await mq.send(queue, 1)
    await (await take_one(mq, queue)).retry(delay=0)
    again = await take_one(mq, queue)
    assert again.id == receipt.id
    assert again.attempt == 2
    assert await mq.cancel(queue, receipt.id)

    assert await mq.redrive(queue, reason="cancelled") == 1

    assert [(one.id, one.body) for one in await drain(mq, queue)] == [(receipt.id, 1)]


async def test_what_is_not_there_cannot_be_cancelled(
    mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """Done, dead and unknown messages: the answer is no."""
    receipts = await mq.send_many(queue, range(2))
    done, dead = await take(mq, queue, 2)
    await done.ack()
    await dead.reject("no")

    assert not any([await mq.cancel(queue, id) for id in (*[r.id for r in receipts], "1-1")])
    (letter,) = await mq.dead(queue)
    assert letter.reason == "no"


@pytest.mark.parametrize(
    "id",
    ["", "7", "1-1 ", "a-b", "-1-1", "1-1-1", "1" * 21 + "-0", f"1-{1 << 64}", None, 7, b"1-1"],
)
async def test_an_id_that_no_message_has(mq: ms.AsyncClient, queue: ms.Queue[Any], id: Any) -> None:
    """The error names the parameter."""
    with pytest.raises(ms.UsageError, match="id"):
        await mq.cancel(queue, id)


@pytest.mark.parametrize("name", ["pause", "resume"])
async def test_what_is_no_queue(mq: ms.AsyncClient, name: str) -> None:
    """The name of a queue is not a queue."""
    with pytest.raises(ms.UsageError, match="Queue"):
        await getattr(mq, name)("orders")
    with pytest.raises(ms.UsageError, match="Queue"):
        await mq.cancel("orders", "1-1")  # type: ignore[arg-type]
