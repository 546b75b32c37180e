"""Features that meet in one message: what each promises holds beside the others."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

import millstream as ms
from tests.api.clients import counts, drain, take, take_one

FAR = datetime(2099, 1, 1, tzinfo=UTC)
ORDERED: ms.Queue[Any] = ms.Queue("orders", ordered=True)


# --- unique -------------------------------------------------------------------------------------


@pytest.mark.parametrize("unique_for", ["done", "started"])
async def test_unique_delayed_and_cancelled(
    any_mq: ms.AsyncClient, queue: ms.Queue[Any], unique_for: Literal["done", "started"]
) -> None:
    """A delayed message has its key, also at another time; cancelled, it gives it up."""
    once: dict[str, Any] = {"unique": "u", "unique_for": unique_for}
    first = await any_mq.send(queue, 1, delay=3600, **once)
    assert (await any_mq.send(queue, 2, **once)).id == first.id
    assert await any_mq.reschedule(queue, first.id, delay=7200)
    assert (await any_mq.send(queue, 3, delay=1, **once)).id == first.id

    assert await any_mq.cancel(queue, first.id)
    second = await any_mq.send(queue, 4, delay=0.05, **once)
    assert not second.duplicate
    assert (await any_mq.send(queue, 5, **once)).id == second.id
    delivery = await take_one(any_mq, queue)
    await delivery.ack()

    assert (delivery.id, delivery.body) == (second.id, 4)
    assert not (await any_mq.send(queue, 6, **once)).duplicate


async def test_a_window_outlives_a_cancelled_message(
    mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """Within a window it does not matter what became of the first message."""
    first = await mq.send(queue, 1, delay=3600, unique="u", unique_for=60)
    assert await mq.cancel(queue, first.id)

    again = await mq.send(queue, 2, unique="u", unique_for=60)
    assert (again.id, again.duplicate) == (first.id, True)
    assert await counts(mq, queue) == (0, 0, 0, 0)


async def test_a_cancel_races_with_a_send(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """A duplicate's receipt names a message that was there: never two, never none."""
    for _ in range(20):
        first = await mq.send(queue, 1, delay=3600, unique="u")
        again, cancelled = await asyncio.gather(
            mq.send(queue, 2, delay=3600, unique="u"), mq.cancel(queue, first.id)
        )
        assert cancelled
        assert again.duplicate == (again.id == first.id)
        left = [one.id for one in await mq.peek(queue, delayed=True)]
        assert left == ([] if again.duplicate else [again.id])
        assert await mq.purge(queue, confirm=True) == len(left)


async def test_unique_through_retries_death_and_redrive(
    any_mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """It has its key while it is tried again, not while it is dead, and again when it is redriven."""
    first = await any_mq.send(queue, 1, unique="u")
    for _ in range(2):
        await (await take_one(any_mq, queue)).retry(delay=0.01)
        assert (await any_mq.send(queue, 2, unique="u")).id == first.id
    await (await take_one(any_mq, queue)).retry()
    assert await counts(any_mq, queue) == (0, 0, 0, 1)

    second = await any_mq.send(queue, 3, unique="u")
    assert not second.duplicate
    assert await any_mq.cancel(queue, second.id)
    assert await any_mq.redrive(queue) == 1
    assert (await any_mq.send(queue, 4, unique="u")).id == first.id
    assert [one.body for one in await drain(any_mq, queue)] == [1]
    assert not (await any_mq.send(queue, 5, unique="u")).duplicate


async def test_unique_until_started_through_retry_and_redrive(
    mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A retry has begun once and takes no key; a redriven message has not, and takes it."""
    once: dict[str, Any] = {"unique": "u", "unique_for": "started"}
    first = await mq.send(queue, 1, **once)
    delivery = await take_one(mq, queue)
    second = await mq.send(queue, 2, **once)
    await delivery.retry(delay=0)
    assert not second.duplicate
    assert (await mq.send(queue, 3, **once)).id == second.id

    one, two = sorted(await take(mq, queue, 2), key=lambda delivery: delivery.body)
    await one.reject("no")
    await two.ack()
    assert await mq.redrive(queue) == 1
    assert (await mq.send(queue, 4, **once)).id == first.id
    assert [one.body for one in await drain(mq, queue)] == [1]


# --- time to live -------------------------------------------------------------------------------


async def test_a_time_to_live_begins_with_the_send(
    any_mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A delay is part of it, and so is a time that is given later."""
    receipt = await any_mq.send(queue, 1, delay=50, ttl=100)
    (message,) = await any_mq.peek(queue, delayed=True)
    assert message.due is not None
    assert message.expires is not None
    # A delay is rounded up to the next millisecond, a time to live is not.
    assert timedelta(seconds=49.99) < message.expires - message.due <= timedelta(seconds=50)

    assert await any_mq.reschedule(queue, receipt.id, delay=80)
    (later,) = await any_mq.peek(queue, delayed=True)
    assert later.expires == message.expires


@pytest.mark.parametrize("expired", ["dead", "drop"])
async def test_a_time_after_the_end(mq: ms.AsyncClient, expired: Literal["dead", "drop"]) -> None:
    """What is due after its time to live expires when it is due, and frees what it holds."""
    queue: ms.Queue[Any] = ms.Queue("orders", ordered=True, expired=expired)
    receipt = await mq.send(queue, 1, at=FAR, ttl=0.01, key="k", unique="u")
    await asyncio.sleep(0.02)  # the work itself
    assert await counts(mq, queue) == (0, 1, 0, 0)
    assert await mq.reschedule(queue, receipt.id, delay=0)

    assert await drain(mq, queue) == []
    assert await counts(mq, queue) == (0, 0, 0, 1 if expired == "dead" else 0)
    assert not (await mq.send(queue, 2, key="k", unique="u")).duplicate
    assert [one.body for one in await drain(mq, queue)] == [2]


async def test_a_time_to_live_in_the_line_of_a_key(any_mq: ms.AsyncClient) -> None:
    """Messages that expire while they wait for their turn let those behind them go on."""
    for body, ttl in ((1, None), (2, 0.05), (3, 0.05), (4, None)):
        await any_mq.send(ORDERED, body, key="k", ttl=ttl)
    first = await take_one(any_mq, ORDERED)
    await asyncio.sleep(0.06)  # the work itself
    await first.ack()

    assert [one.body for one in await drain(any_mq, ORDERED)] == [4]
    dead = [(one.body, one.reason) for one in await any_mq.dead(ORDERED)]
    assert dead == [(2, "expired"), (3, "expired")]


async def test_a_time_to_live_ends_during_a_pause(any_mq: ms.AsyncClient) -> None:
    """A pause does not stop the clock, in the line of a key and above the normal priority either."""
    await any_mq.pause(ORDERED)
    await any_mq.send(ORDERED, 1, key="k", ttl=0.05)
    await any_mq.send(ORDERED, 2, key="k", ttl=0.05)
    await any_mq.send(ORDERED, 3, priority=9, ttl=0.05)
    await any_mq.send(ORDERED, 4, key="k")
    await asyncio.sleep(0.06)  # the work itself
    await any_mq.resume(ORDERED)

    assert [one.body for one in await drain(any_mq, ORDERED)] == [4]
    assert await counts(any_mq, ORDERED) == (0, 0, 0, 3)


# --- priority and delay -------------------------------------------------------------------------


async def test_delayed_ones_keep_their_priority(
    any_mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """Those that have become due begin by their priority, not by their time."""
    receipts = {
        priority: await any_mq.send(queue, priority, at=FAR, priority=priority)
        for priority in (7, 1, 9, 0, 5)
    }
    for priority in (0, 1, 5, 9):
        assert await any_mq.reschedule(queue, receipts[priority].id, delay=0)

    assert [one.body for one in await any_mq.peek(queue)] == [9, 5, 1, 0]
    assert [one.body for one in await drain(any_mq, queue, prefetch=1)] == [9, 5, 1, 0]
    assert await counts(any_mq, queue) == (0, 1, 0, 0)


# --- cancel and ordered -------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["ready", "line", "delayed", "retry", "running"])
async def test_a_cancel_lets_the_next_of_its_key_go_on(any_mq: ms.AsyncClient, where: str) -> None:
    """Wherever the cancelled message was, the others of its key come in order, and once."""
    delay = 3600 if where == "delayed" else None
    first = await any_mq.send(ORDERED, 1, key="k", delay=delay)
    second = await any_mq.send(ORDERED, 2, key="k")
    await any_mq.send(ORDERED, 3, key="k")
    running = None
    if where in ("retry", "running"):
        running = await take_one(any_mq, ORDERED)
        if where == "retry":
            await running.retry(delay=3600)

    over = second if where == "line" else first
    assert await any_mq.cancel(ORDERED, over.id)
    assert not await any_mq.cancel(ORDERED, over.id)
    if where == "running" and running is not None:
        with suppress(ms.LeaseLost):
            await running.ack()

    left = [1, 3] if where == "line" else [2, 3]
    assert [one.body for one in await drain(any_mq, ORDERED)] == left
    assert await counts(any_mq, ORDERED) == (0, 0, 0, int(where == "running"))
