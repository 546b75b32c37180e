"""Suspects: messages whose consumers died twice. A worker handles one of them at a time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import millstream as ms
from millstream.protocol import consume
from millstream.protocol.keys import queue_keys
from millstream.protocol.op import Command, Op
from millstream.protocol.recover import hand_over
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, becomes, run_burst, running


async def crash(mq: ms.AsyncClient, queue: ms.Queue[Any], count: int, times: int = 2) -> None:
    """Let so many messages lose so many consumers."""
    keys = queue_keys(mq.namespace, queue.name)
    for n in range(times):
        lane = "f" if n else ""
        await mq.driver.run(consume.register(keys, "dying", queue.lease_ms))
        found = await mq.driver.run(consume.fetch(keys, "dying", reads=[(lane, count)]))
        assert len(found.envelopes) == count
        await mq.driver.drive(hand_over(keys, "dying", crashed=True, max_crashes=3))


async def test_one_at_a_time(worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Suspects follow one another without delay, each alone, while others are handled beside."""
    now = most = 0
    handled: list[tuple[int, int]] = []

    @worker.on(queue, concurrency=20)
    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        nonlocal now, most
        now += delivery.crashes > 1
        most = max(most, now)
        await asyncio.sleep(0.005)  # the work itself
        now -= delivery.crashes > 1
        handled.append((body, delivery.crashes))

    await mq.send_many(queue, range(20))
    await crash(mq, queue, 20)
    await mq.send_many(queue, range(20, 200))
    began = time.monotonic()
    await run_burst(worker, mq)

    assert time.monotonic() - began < 8  # a sleeping read takes 10 s to end by itself
    assert sorted(handled) == [(n, 2 if n < 20 else 0) for n in range(200)]
    assert most == 1


async def test_a_slow_suspect_holds_only_suspects_up(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """Ordinary messages are handled as ever while a suspect takes its time."""
    handled: list[int] = []
    go_on = asyncio.Event()

    @worker.on(queue, concurrency=20)
    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        if delivery.crashes > 1:
            await go_on.wait()
        handled.append(body)

    await mq.send_many(queue, range(3))
    await crash(mq, queue, 3)
    async with running(worker, mq):
        await becomes(mq, queue, (2, 0, 1, 0))
        for n in range(3, 50):
            await mq.send(queue, n)
        await auntil(lambda: len(handled) == 47, PATIENCE)
        go_on.set()
        await becomes(mq, queue, (0, 0, 0, 0))
    assert sorted(handled) == [*range(50)]


async def test_suspects_that_come_while_it_sleeps(
    worker: ms.Worker, mq: ms.AsyncClient, other: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A worker that went to sleep with a suspect in hand takes the next one when it is free."""
    handled: list[int] = []
    begun: list[int] = []
    go_on = asyncio.Event()

    @worker.on(queue, concurrency=5)
    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        begun.append(body)
        if body == 0:
            await go_on.wait()
        handled.append(body)

    await mq.send(queue, 0)
    await crash(mq, queue, 1)
    async with running(worker, mq):
        await auntil(lambda: begun, PATIENCE)
        go_on.set()
        await auntil(lambda: handled, PATIENCE)
        await becomes(mq, queue, (0, 0, 0, 0))
        # It sleeps again by now, or is about to; these come from elsewhere.
        keys = queue_keys(mq.namespace, queue.name)
        state = '{"id":"1-1","crashes":2,"attempts":0}'
        add = Command(("XADD", keys.suspect, "*", "b", "7", "s", state))
        await other.driver.run(Op((add,), decode=lambda replies: replies[0]))
        sent = time.monotonic()
        await auntil(lambda: len(handled) == 2, PATIENCE)
        assert time.monotonic() - sent < 8
    assert handled == [0, 7]


async def test_two_workers(mq: ms.AsyncClient, other: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Each worker has a suspect of its own at a time."""
    now = most = 0
    handled: list[int] = []
    both = asyncio.Event()

    def make() -> ms.Worker:
        worker = ms.Worker()

        @worker.on(queue, concurrency=10)
        async def handle(body: int) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            if now == 2:
                both.set()
            await asyncio.wait_for(both.wait(), PATIENCE)
            await asyncio.sleep(0.005)  # the work itself
            now -= 1
            handled.append(body)

        return worker

    await mq.send_many(queue, range(20))
    await crash(mq, queue, 20)
    async with running(make(), mq), running(make(), other):
        await becomes(mq, queue, (0, 0, 0, 0))
    assert sorted(handled) == [*range(20)]
    assert most == 2


async def test_a_suspect_that_fails_stays_one(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """Failing is not crashing: a suspect has all its attempts, and its crashes are kept."""
    seen: list[tuple[int, int]] = []

    @worker.on(queue)
    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        seen.append((delivery.attempt, delivery.crashes))
        if delivery.attempt < 3:
            raise RuntimeError("once more")

    await mq.send(queue, 1)
    await crash(mq, queue, 1)
    await run_burst(worker, mq)

    assert seen == [(1, 2), (2, 2), (3, 2)]
