"""Exactly once: what a pipeline of transactions counts is what was sent, whatever dies or breaks between."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any

import pytest
import redis

import millstream as ms
from tests.faults.processes import Workshop
from tests.faults.working import PATIENCE, becomes, connect, running
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import until

PREFIX = "t-faults-app"
TOTAL = 700

PIPELINE = """
again = ms.Retry(max_attempts=1000, max_crashes=1000, backoff=ms.Backoff(first=0.05, factor=1))
first = ms.Queue("first", lease=LEASE, retry=again)
second = ms.Queue("second", lease=LEASE, retry=again)


@worker.on(first, concurrency=10)
async def step(body, delivery):
    record("first", body)
    async with delivery.transaction() as tx:
        tx.send(second, body)
        tx.hincrby("t-faults-app:first", str(body))
        await asyncio.sleep(0.005)
        if body == 150 and not delivery.crashes:
            os.kill(os.getpid(), signal.SIGKILL)


@worker.on(second, concurrency=5)
def count(body, delivery):
    record("second", body)
    with delivery.transaction() as tx:
        tx.incrby("t-faults-app:count")
        tx.hincrby("t-faults-app:second", str(body))
        time.sleep(0.002)
        if body == 350 and not delivery.crashes:
            os.kill(os.getpid(), signal.SIGKILL)
"""

WAITING = """
queue = ms.Queue("first", lease=0.5, retry=ms.Retry(max_crashes=1000))


@worker.on(queue)
def handle(body, delivery):
    record("begun", body, crashes=delivery.crashes)
    if not flag("free"):
        while not flag("go"):
            time.sleep(0.005)
    try:
        with delivery.transaction() as tx:
            tx.incrby("t-faults-app:count")
    except ms.LeaseLost:
        record("refused", body)
        raise
    record("committed", body)
"""


def queue_of(name: str, lease: float = 300) -> ms.Queue[Any]:
    return ms.Queue(name, lease=lease)


def counted_once(admin: redis.Redis, total: int) -> None:
    """Each message went through both steps exactly once."""
    expected = {b"%d" % n: b"1" for n in range(total)}
    assert admin.hgetall(f"{PREFIX}:first") == expected
    assert admin.hgetall(f"{PREFIX}:second") == expected
    assert admin.get(f"{PREFIX}:count") == b"%d" % total


async def test_workers_that_are_killed(own_server: Server, workshop: Workshop) -> None:
    """Processes die of -9 in the middle of both steps, and at any time: the counts are those of the sends."""
    workshop.write(PIPELINE.replace("LEASE", "300"))
    workshop.supervisor(2)
    async with connect(own_server.url) as mq:
        await mq.send_many(queue_of("first"), range(TOTAL))
        for goal in (100, 300, 500):
            begun = await asyncio.to_thread(workshop.until_told, "first", goal)
            with contextlib.suppress(ProcessLookupError):
                os.kill(begun[-1].pid, signal.SIGKILL)
        for name in ("first", "second"):
            await becomes(mq, queue_of(name), (0, 0, 0, 0))
        crashed = [(await mq.stats(queue_of(name))).crashed for name in ("first", "second")]
    counted_once(own_server.admin(), TOTAL)
    assert all(crashed)


async def test_a_process_that_sleeps_beyond_its_lease(
    own_server: Server, workshop: Workshop
) -> None:
    """Others have done its message when it wakes: its commit is refused, and the count is one."""
    workshop.write(WAITING)
    sleeper = workshop.worker()
    async with connect(own_server.url) as mq:
        await mq.send(queue_of("first"), 1)
        await asyncio.to_thread(workshop.until_told, "begun", 1)
        sleeper.send(signal.SIGSTOP)
        workshop.raise_flag("free")
        workshop.worker()
        [done] = await asyncio.to_thread(workshop.until_told, "committed", 1)
        workshop.raise_flag("go")
        sleeper.send(signal.SIGCONT)
        [late] = await asyncio.to_thread(workshop.until_told, "refused", 1)
        await becomes(mq, queue_of("first"), (0, 0, 0, 0))
    assert late.pid == sleeper.pid != done.pid
    assert own_server.admin().get(f"{PREFIX}:count") == b"1"


async def test_a_network_that_breaks(own_server: Server, proxy: Proxy) -> None:
    """Replies are lost and connections cut again and again: the counts are those of the sends."""
    first: ms.Queue[Any] = ms.Queue("first", retry=ms.Retry(max_attempts=1000))
    second: ms.Queue[Any] = ms.Queue("second", retry=ms.Retry(max_attempts=1000))
    worker = ms.Worker()

    @worker.on(first, concurrency=10)
    async def step(body: int, delivery: ms.Delivery[Any]) -> None:
        async with delivery.transaction() as tx:
            tx.send(second, body)
            tx.hincrby(f"{PREFIX}:first", str(body))

    @worker.on(second, concurrency=10)
    async def count(body: int, delivery: ms.Delivery[Any]) -> None:
        async with delivery.transaction() as tx:
            tx.incrby(f"{PREFIX}:count")
            tx.hincrby(f"{PREFIX}:second", str(body))

    admin = own_server.admin()

    def done() -> int:
        return int(admin.get(f"{PREFIX}:count") or 0)

    async with (
        connect(own_server.url) as mq,
        connect(proxy.url) as client,
        running(worker, client),
    ):
        for part in range(6):
            proxy.drop_replies(to=f"{PREFIX}:{'first' if part % 2 else 'count'}".encode(), times=5)
            before = done()
            await mq.send_many(first, range(part * 100, part * 100 + 100))
            await asyncio.to_thread(until, lambda least=before: done() > least, PATIENCE)
            proxy.cut()
        for queue in (first, second):
            await becomes(mq, queue, (0, 0, 0, 0))
    counted_once(admin, 600)


def test_a_receiver_that_gives_up(own_server: Server, proxy: Proxy) -> None:
    """A commit whose caller never learned that it was done is done once: the next one is refused."""
    queue = queue_of("first")
    with ms.Client(own_server.url, namespace="t-faults") as mq:
        mq.send_many(queue, [1, 2])
        with ms.Client(proxy.url, namespace="t-faults", timeout=2) as client:
            receiving = client.receive(queue)
            # The server has the script from now on: a try that only asks for it would do nothing.
            commit(next(receiving))
            delivery = next(receiving)
            proxy.stall(requests=False)
            with pytest.raises((ms.TimedOut, ms.NotConnected)):
                commit(delivery)
            proxy.resume()
            until(lambda: own_server.admin().get(f"{PREFIX}:count") == b"2", PATIENCE)
            with pytest.raises(ms.LeaseLost):
                commit(delivery)
            receiving.close()
        assert mq.stats(queue).acked == 2
    assert own_server.admin().get(f"{PREFIX}:count") == b"2"


def commit(delivery: ms.SyncDelivery[Any]) -> None:
    with delivery.transaction() as tx:
        tx.incrby(f"{PREFIX}:count")
