"""Leases: kept while a handler runs, and what happens when one is lost in spite of that."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol.keys import GROUP, queue_keys
from millstream.protocol.recover import sweep
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, becomes, counts, run_burst, running

LEASE = 1.2


@pytest.fixture
def short() -> ms.Queue[Any]:
    """A queue whose leases are short."""
    return ms.Queue("short", lease=LEASE)


def stall(mq: ms.AsyncClient) -> None:
    """Keep the client's leases from being extended, as if its machine hung."""
    setattr(mq.lease_keeper(), "_extend", lambda held: 0.05)  # noqa: B010 - it has no setter


def go_on(mq: ms.AsyncClient) -> None:
    """Let leases be extended again."""
    delattr(mq.lease_keeper(), "_extend")


def take_away(admin: redis.Redis, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Remove the pending record of the one message that is in flight."""
    ready = queue_keys(mq.namespace, queue.name).ready
    (entry,) = admin.xpending_range(ready, GROUP, "-", "+", 10)
    admin.xack(ready, GROUP, entry["message_id"])


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_kept_for_as_long_as_it_takes(
    worker: ms.Worker, mq: ms.AsyncClient, other: ms.AsyncClient, short: ms.Queue[Any], kind: str
) -> None:
    """A handler may take many leases; what waits in the worker keeps its lease, too."""
    handled: list[int] = []
    rival = ms.Worker()

    @rival.on(short)
    async def steal(body: int) -> None:
        handled.append(-body)

    if kind == "async":

        @worker.on(short, concurrency=1, prefetch=3)
        async def handle(body: int) -> None:
            await asyncio.sleep(2 * LEASE)  # the work itself
            handled.append(body)

    else:

        @worker.on(short, concurrency=1, prefetch=3)
        def handle_in_thread(body: int) -> None:
            time.sleep(2 * LEASE)  # the work itself
            handled.append(body)

    await mq.send_many(short, [1, 2, 3])
    async with running(worker, mq):
        await becomes(mq, short, (0, 0, 3, 0))
        async with running(rival, other):
            await becomes(mq, short, (0, 0, 0, 0))
    assert handled == [1, 2, 3]
    assert (await mq.stats(short)).crashed == 0


async def test_a_coroutine_that_lost_its_lease_is_cancelled(
    worker: ms.Worker, mq: ms.AsyncClient, short: ms.Queue[Any], admin: redis.Redis
) -> None:
    """It is cancelled soon after, and nothing is settled; the slot goes on."""
    events: list[str] = []

    @worker.on(short, concurrency=1)
    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        events.append(f"begun {body}")
        if body == 1:
            try:
                await asyncio.sleep(PATIENCE)  # the work itself
            finally:
                events.append(f"ended, lost: {delivery.lease_lost}")

    await mq.send(short, 1)
    async with running(worker, mq):
        await auntil(lambda: events)
        took = time.monotonic()
        take_away(admin, mq, short)
        await auntil(lambda: len(events) == 2)
        assert time.monotonic() - took < LEASE + 5
        await mq.send(short, 2)
        await auntil(lambda: len(events) == 3)
    assert events == ["begun 1", "ended, lost: True", "begun 2"]
    stats = await mq.stats(short)
    assert (stats.acked, stats.retried, stats.died) == (1, 0, 0)


async def test_a_thread_that_lost_its_lease_is_told(
    worker: ms.Worker, mq: ms.AsyncClient, short: ms.Queue[Any], admin: redis.Redis
) -> None:
    """delivery.lease_lost becomes true, settling is refused, and the return settles nothing."""
    events: list[str] = []
    begun = threading.Event()

    @worker.on(short, concurrency=1)
    def handle(body: int, delivery: ms.SyncDelivery[Any]) -> None:
        if body == 2:
            events.append("next")
            return
        assert not delivery.lease_lost
        begun.set()
        end = time.monotonic() + PATIENCE
        while not delivery.lease_lost and time.monotonic() < end:
            time.sleep(0.01)  # the work itself
        events.append("lost")
        with pytest.raises(ms.LeaseLost):
            delivery.ack()
        with pytest.raises(ms.LeaseLost):
            delivery.extend(10)
        events.append("refused")

    await mq.send(short, 1)
    async with running(worker, mq):
        await auntil(begun.is_set)
        take_away(admin, mq, short)
        await mq.send(short, 2)
        await auntil(lambda: "next" in events)
    assert events == ["lost", "refused", "next"]
    stats = await mq.stats(short)
    assert (stats.acked, stats.retried, stats.died) == (1, 0, 0)


@pytest.mark.parametrize("ends", ["returns", "raises", "rejects", "acks"])
async def test_a_late_end_is_refused(
    mq: ms.AsyncClient,
    other: ms.AsyncClient,
    short: ms.Queue[Any],
    caplog: pytest.LogCaptureFixture,
    ends: str,
) -> None:
    """Who stalled for longer than a lease settles nothing; the new owner's end is what counts."""
    late, rescuer = ms.Worker(), ms.Worker()
    begun, finish = asyncio.Event(), asyncio.Event()
    outcomes: list[str] = []

    @late.on(short, prefetch=1)  # so it cannot be its own rescuer
    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        begun.set()
        await finish.wait()
        outcomes.append("late")
        if ends == "raises":
            raise ValueError("too late")
        if ends == "rejects":
            raise ms.Reject("too late")
        if ends == "acks":
            try:
                await delivery.ack()
            except ms.LeaseLost:
                outcomes.append("LeaseLost")

    @rescuer.on(short)
    async def rescue(body: int, delivery: ms.Delivery[Any]) -> None:
        outcomes.append(f"rescued with {delivery.crashes} crash")

    await mq.send(short, 1)
    async with running(late, mq):
        await begun.wait()
        stall(mq)
        async with running(rescuer, other):
            await auntil(lambda: outcomes)
            await becomes(mq, short, (0, 0, 0, 0))
        finish.set()
        await auntil(lambda: len(outcomes) == (3 if ends == "acks" else 2))
        await auntil(lambda: "lost the lease" in caplog.text)
        go_on(mq)
    expected = ["rescued with 1 crash", "late"] + ["LeaseLost"] * (ends == "acks")
    assert outcomes == expected
    stats = await mq.stats(short)
    assert (stats.acked, stats.retried, stats.dead, stats.crashed) == (1, 0, 0, 1)


async def test_what_was_lost_in_the_buffer_is_not_begun(
    mq: ms.AsyncClient, other: ms.AsyncClient, short: ms.Queue[Any]
) -> None:
    """Messages that a worker holds but has not begun are not handled once they are lost."""
    late, rescuer = ms.Worker(), ms.Worker()
    finish = asyncio.Event()
    begun: list[int] = []
    rescued: list[int] = []

    @late.on(short, concurrency=1, prefetch=5)
    async def handle(body: int) -> None:
        begun.append(body)
        await finish.wait()

    @rescuer.on(short)
    async def rescue(body: int) -> None:
        rescued.append(body)

    await mq.send_many(short, range(5))
    async with running(late, mq):
        await becomes(mq, short, (0, 0, 5, 0))
        stall(mq)
        async with running(rescuer, other):
            await auntil(lambda: len(rescued) == 5)
        go_on(mq)
        # The keeper finds them lost, and the one that runs is cancelled.
        await mq.send(short, 5)
        await auntil(lambda: 5 in begun)
        finish.set()
        await becomes(mq, short, (0, 0, 0, 0))
    assert sorted(rescued) == [*range(5)]
    assert begun == [0, 5]


async def test_the_keepers_word_against_a_settlement(
    worker: ms.Worker, mq: ms.AsyncClient, short: ms.Queue[Any]
) -> None:
    """An extension that comes just after an end does not make the end look refused."""
    refused: list[Any] = []

    @worker.on(short, concurrency=20)
    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        try:
            await delivery.ack()
        except ms.LeaseLost as error:
            refused.append(error)
        # Both answers arrive while the loop is busy, in any order.
        end = time.monotonic() + 0.002
        while time.monotonic() < end:
            pass

    keeper = mq.lease_keeper()
    extend = keeper._extend

    def restless(held: Any) -> float:
        extend(held)
        return 0.0

    setattr(keeper, "_extend", restless)  # noqa: B010 - it has no setter
    await mq.send_many(short, range(500))
    await run_burst(worker, mq)

    assert refused == []
    assert (await mq.stats(short)).acked == 500


async def test_consumers_that_died_stay_until_they_own_nothing(
    mq: ms.AsyncClient, other: ms.AsyncClient, short: ms.Queue[Any]
) -> None:
    """A dead consumer is removed only after its messages are with others."""
    deliveries = other.receive(short, prefetch=3)
    await mq.send_many(short, range(3))
    await anext(deliveries)
    await becomes(mq, short, (0, 0, 3, 0))
    stall(other)
    (dead,) = (consumer.name for consumer in (await mq.stats(short)).consumers)
    keys = queue_keys(mq.namespace, short.name)

    def offer(lease_ms: int) -> Any:
        return sweep(keys, "sweeper", lease_ms=lease_ms, max_crashes=3, forgotten_ms=0, limit=2)

    async def names() -> list[str]:
        return [consumer.name for consumer in (await mq.stats(short)).consumers]

    swept = await mq.driver.run(offer(60_000))
    while (await counts(mq, short))[2] and dead in await names():
        swept = await mq.driver.run(offer(60_000))
        assert dead in await names() or (await counts(mq, short))[2] == 0
    assert swept.elected
    await becomes(mq, short, (3, 0, 0, 0))
    await mq.driver.run(offer(60_000))
    await mq.driver.run(offer(60_000))
    assert dead not in await names()
    go_on(other)
    await deliveries.aclose()
