"""At most once: kills, cut connections and lost replies cost messages, and never bring one twice."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from typing import Any, Literal

import pytest

import millstream as ms
from tests.faults.processes import Workshop
from tests.faults.working import PATIENCE, becomes, connect, reaches, recording, running
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import until

Store = Literal["stream", "list"]
STORES: tuple[Store, ...] = ("stream", "list")

PREFETCH = 50

TAKING = """
queue = ms.Queue("jobs", store="{store}", delivery="at_most_once")

@worker.on(queue, concurrency=10, prefetch=50)
async def handle(body):
    record("begun", body)
    await asyncio.sleep(0.005)
    record("ended", body)
"""


def taking(store: Store) -> ms.Queue[Any]:
    return ms.Queue("jobs", store=store, delivery="at_most_once")


def counts(mq: ms.Client, queue: ms.Queue[Any]) -> tuple[int, int, int, int]:
    stats = mq.stats(queue)
    return stats.ready, stats.delayed, stats.in_flight, stats.dead


def at_work(workshop: Workshop, pid: int) -> bool:
    """Whether a process has handled some messages."""
    return sum(event.pid == pid for event in workshop.events("ended")) > 100


@pytest.mark.parametrize("store", STORES)
def test_killed_again_and_again(workshop: Workshop, mq: ms.Client, store: Store) -> None:
    """A killed worker loses at most what it held; nothing is begun twice, and nothing is left behind."""
    queue = taking(store)
    workshop.write(TAKING.format(store=store))
    mq.send_many(queue, range(4000))
    kills = 4
    for _ in range(kills):
        program = workshop.worker()
        until(partial(at_work, workshop, program.pid), PATIENCE)
        os.kill(program.pid, signal.SIGKILL)
        program.wait()
    workshop.worker()
    until(lambda: counts(mq, queue) == (0, 0, 0, 0), PATIENCE)
    acked = mq.stats(queue).acked

    def settled() -> bool:
        return len(workshop.bodies("ended")) >= 4000 - kills * PREFETCH

    until(settled, PATIENCE)
    begun = workshop.bodies("begun")
    assert max(begun.values()) == 1
    assert 4000 - kills * PREFETCH <= len(begun) <= 4000
    assert acked == 4000


@pytest.mark.parametrize("store", STORES)
def test_a_supervisor_goes_on(workshop: Workshop, mq: ms.Client, store: Store) -> None:
    """A process that is killed is replaced; what it had is lost, and the rest is handled once."""
    queue = taking(store)
    workshop.write(TAKING.format(store=store))
    supervisor = workshop.supervisor(1)
    mq.send_many(queue, range(1500))
    victim = workshop.until_told("ended", 200)[0].pid
    os.kill(victim, signal.SIGKILL)
    until(lambda: counts(mq, queue) == (0, 0, 0, 0), PATIENCE)
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == 0

    begun = workshop.bodies("begun")
    assert max(begun.values()) == 1
    # What it had not begun with when it was told to stop is back.
    left = counts(mq, queue)[0]
    assert 1500 - PREFETCH <= len(begun) + left <= 1500
    assert mq.stats(queue).consumers == ()


@pytest.mark.parametrize("store", STORES)
def test_told_to_stop(workshop: Workshop, mq: ms.Client, store: Store) -> None:
    """SIGTERM in the middle of the work costs nothing."""
    queue = taking(store)
    workshop.write(TAKING.format(store=store))
    mq.send_many(queue, range(2000))
    for _ in range(4):
        program = workshop.worker()
        until(partial(at_work, workshop, program.pid), PATIENCE)
        program.send(signal.SIGTERM)
        assert program.wait() == 0
    workshop.worker()
    workshop.until_told("ended", 2000)

    assert max(workshop.bodies("begun").values()) == 1
    assert len(workshop.bodies("ended")) == 2000


@pytest.mark.parametrize("store", STORES)
async def test_cut_again_and_again(own_server: Server, proxy: Proxy, store: Store) -> None:
    """A cut costs what was on its way, at most; nothing comes twice, and nothing stays behind."""
    queue = taking(store)
    worker, record = recording(queue, concurrency=20, prefetch=PREFETCH)
    async with connect(own_server.url) as mq, connect(proxy.url) as bad:
        await mq.send_many(queue, range(3000))
        async with running(worker, bad):
            cuts = 0
            for goal in range(200, 2000, 200):
                await reaches(record, goal)
                await asyncio.to_thread(proxy.cut)
                cuts += 1
            await becomes(mq, queue, (0, 0, 0, 0))
        assert record.twice == []
        assert len(record) >= 3000 - cuts * PREFETCH


@pytest.mark.parametrize("kind", ["fetch", "sleep"])
@pytest.mark.parametrize("after", [0, 20])
@pytest.mark.parametrize("store", STORES)
async def test_lost_replies(
    own_server: Server, proxy: Proxy, store: Store, kind: str, after: int
) -> None:
    """What came with a lost reply is gone; a fetch is not repeated, and the reader goes on."""
    queue = taking(store)
    sleep = b"BLMOVE" if store == "list" else b"BLOCK"
    to = b"EVALSHA" if kind == "fetch" else sleep
    worker, record = recording(queue, concurrency=5, prefetch=10)
    async with connect(own_server.url) as mq, connect(proxy.url) as bad:
        sent = 0
        async with running(worker, bad):
            for losses in range(1, 9):
                await asyncio.to_thread(proxy.drop_replies, to=to, after=after)
                # A read that slept before gets its reply; the next one loses it.
                while proxy.lost < losses:
                    assert sent < 500
                    await mq.send_many(queue, [sent, sent + 1])
                    sent += 2
                    await becomes(mq, queue, (0, 0, 0, 0))
            await mq.send_many(queue, range(1000, 1100))
            await becomes(mq, queue, (0, 0, 0, 0))
        assert record.twice == []
        # The last loss may be still to come; it costs what one fetch brings.
        assert sum(body >= 1000 for body in record.handled) >= 90
        # A sleep brings nothing, so nothing is lost with it.
        assert kind == "fetch" or len(record) == sent + 100


@pytest.mark.parametrize("store", STORES)
async def test_lost_replies_while_handlers_reject(
    own_server: Server, proxy: Proxy, store: Store
) -> None:
    """A rejection whose reply is lost is not stored twice, and not lost either."""
    queue = taking(store)
    worker = ms.Worker()
    begun: list[int] = []

    @worker.on(queue, concurrency=5)
    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        begun.append(body)
        await asyncio.to_thread(proxy.drop_replies, to=b"EVALSHA")
        await delivery.reject("no")

    async with connect(own_server.url) as mq, connect(proxy.url) as bad:
        async with running(worker, bad):
            for n in range(30):
                await mq.send(queue, n)
                await reaches(begun, n + 1)
                await becomes(mq, queue, (0, 0, 0, n + 1))
        letters = sorted(letter.body for letter in await mq.dead(queue))
        assert sorted(begun) == letters
        assert len(set(begun)) == len(begun)
