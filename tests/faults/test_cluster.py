"""Slots of a cluster move and its nodes die under traffic: nothing is lost, and nobody has to restart."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from millstream.protocol.keys import queue_keys
from tests.api.clients import KINDS, Kind, connecting
from tests.faults.processes import Workshop, kill
from tests.faults.working import NAMESPACE
from tests.support.cluster import Cluster, Stage
from tests.support.leaks import wipe
from tests.support.servers import Server, installed
from tests.support.wait import auntil

PATIENCE = 60.0
"""Seconds after which something that should have happened is missing, on a busy machine, too."""


@pytest.fixture(scope="module", params=installed(("valkey-8.1", "redis-6.2")))
def steady(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster whose nodes live on; an old server redirects scripts in another way than a new one."""
    with Cluster(request.param, masters=2) as steady:
        yield steady


@pytest.fixture
def frail() -> Iterator[Cluster]:
    """A cluster whose masters have replicas, for one test."""
    with Cluster(masters=3, replicas=1, node_timeout_ms=1000) as frail:
        yield frail


class Traffic:
    """Sends numbers and handles them until told to stop."""

    def __init__(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        self._mq = mq
        self._queue = queue
        self._over = False
        self.sent: set[int] = set()
        # What was confirmed by a master that has died before it had told its replica.
        self.excused: set[int] = set()
        self.handled: Counter[int] = Counter()

    async def send(self) -> None:
        number = 0
        while not self._over:
            # With an option every other time: those go by another script.
            await self._mq.send(self._queue, number, delay=0.01 * (number % 2))
            self.sent.add(number)
            number += 1

    @property
    def missing(self) -> set[int]:
        return self.sent - self.excused - {*self.handled}

    @asynccontextmanager
    async def flowing(self, worker_mq: ms.AsyncClient) -> AsyncIterator[None]:
        """It flows while the block runs; in the end, all that was sent was handled."""
        worker = ms.Worker()

        @worker.on(self._queue, concurrency=10)
        async def handle(number: int) -> None:
            self.handled[number] += 1

        async with asyncio.TaskGroup() as group:
            working = group.create_task(worker.run(worker_mq))
            sending = group.create_task(self.send())
            await self.goes_on()
            yield
            await self.goes_on()
            self._over = True
            await sending
            await auntil(lambda: not self.missing, PATIENCE, message="all of it is handled")
            worker.stop()
            await working

    async def goes_on(self) -> None:
        """Wait until something that is sent from now on has been handled."""
        newest = max(self.sent, default=-1)
        await auntil(
            lambda: any(number > newest for number in self.handled), PATIENCE, message="it flows"
        )


def elsewhere(cluster: Cluster, key: str) -> Server:
    """A master that does not have a key."""
    owner = cluster.master_of(key)
    return next(node for node in cluster.masters if node is not owner)


def replicate(master: Server, key: str) -> None:
    """Wait until a replica has all that its master has confirmed so far."""
    admin: Any = master.admin()
    # WAIT looks at what its own connection has written last, and at all before it.
    with admin.client() as one:
        one.set(key, "", ex=60)
        assert one.wait(1, int(PATIENCE * 1000)) >= 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_slot_that_moves(kind: Kind, steady: Cluster, namespace: str) -> None:
    """Its queue goes on, before, between and behind each step; nothing is lost, or handled twice."""
    queue: ms.Queue[Any] = ms.Queue("orders")
    key = queue_keys(namespace, "orders").ready
    async with (
        connecting(kind, steady.url, namespace) as connect,
        ms.AsyncClient(steady.url, namespace=namespace) as worker_mq,
    ):
        traffic = Traffic(await connect(), queue)
        async with traffic.flowing(worker_mq):
            for _ in range(2):
                await asyncio.to_thread(steady.reshard, steady.slot(key), elsewhere(steady, key))
                await traffic.goes_on()
        assert set(traffic.handled.values()) == {1}
        stats = await worker_mq.stats(queue)
        assert (stats.ready, stats.in_flight, stats.dead) == (0, 0, 0)


async def test_who_asks_in_the_middle_of_a_move(steady: Cluster, namespace: str) -> None:
    """What is asked while a slot has half moved waits until it has, and is done once."""
    queue: ms.Queue[Any] = ms.Queue("orders")
    key = queue_keys(namespace, "orders").ready
    stages: dict[Stage, asyncio.Future[ms.Receipt]] = {}
    loop = asyncio.get_running_loop()
    async with ms.AsyncClient(steady.url, namespace=namespace) as mq:
        await mq.send(queue, "first")

        def ask(stage: Stage) -> None:
            if stage not in stages:
                sending = asyncio.run_coroutine_threadsafe(mq.send(queue, stage), loop)
                stages[stage] = asyncio.wrap_future(sending, loop=loop)

        await asyncio.to_thread(
            steady.reshard, steady.slot(key), elsewhere(steady, key), between=ask
        )
        await asyncio.wait_for(asyncio.gather(*stages.values()), PATIENCE)
        bodies = []
        async for delivery in mq.receive(queue, wait=0):
            bodies.append(delivery.body)
            await delivery.ack()
        assert Counter(bodies) == Counter(["first", *stages])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [Cluster.kill, Cluster.hang])
async def test_a_node_that_dies(
    kind: Kind, end: Callable[[Cluster, Server], None], frail: Cluster, namespace: str
) -> None:
    """Its replica takes over; what had reached it is handled, and everybody goes on by himself.

    A node that only hangs keeps its connections: who waits at it must find out by another way.
    """
    queue: ms.Queue[Any] = ms.Queue("orders")
    key = queue_keys(namespace, "orders").ready
    victim = frail.master_of(key)
    # A failover may take as long as it does on a busy machine.
    async with (
        connecting(kind, frail.url, namespace) as connect,
        ms.AsyncClient(frail.url, namespace=namespace, timeout=PATIENCE) as worker_mq,
    ):
        traffic = Traffic(await connect(timeout=PATIENCE), queue)
        async with traffic.flowing(worker_mq):
            safe = {*traffic.sent}
            await asyncio.to_thread(replicate, victim, f"{key}-probe")
            await asyncio.to_thread(end, frail, victim)
            traffic.excused = traffic.sent - safe
        assert frail.master_of(key) is not victim


@pytest.mark.parametrize("kind", KINDS)
async def test_who_connects_while_a_node_is_down(
    kind: Kind, steady: Cluster, namespace: str
) -> None:
    """Any other node answers the first question, also when the first node of all is the dead one."""
    down = steady.master_of(0)
    down.kill()
    try:
        async with connecting(kind, steady.url, namespace) as connect:
            mq = await connect()
            assert mq.url.startswith("redis+cluster://")
    finally:
        await asyncio.to_thread(down.start)
        await asyncio.to_thread(steady.settle)


async def test_a_failover_by_hand(frail: Cluster, namespace: str) -> None:
    """A replica that takes over in order loses nothing; nothing is handled twice but what was in hand."""
    queue: ms.Queue[Any] = ms.Queue("orders")
    key = queue_keys(namespace, "orders").ready
    async with ms.AsyncClient(frail.url, namespace=namespace, timeout=PATIENCE) as mq:
        traffic = Traffic(mq, queue)
        async with traffic.flowing(mq):
            await asyncio.to_thread(frail.failover, frail.master_of(key))


TASKS = """
@worker.on(ms.Queue("jobs"), concurrency=2, prefetch=6)
async def handle(body, delivery):
    record("begun", body, crashes=delivery.crashes)
    await raised("go on")
    record("ended", body)
"""


def test_a_process_under_a_supervisor(steady: Cluster, tmp_path: Path) -> None:
    """When it is killed, its messages are handed over at once, on whichever node they are."""
    queue: ms.Queue[Any] = ms.Queue("jobs")
    with Workshop(tmp_path, steady.admin_url) as workshop:
        workshop.write(TASKS)
        workshop.supervisor(1)
        with ms.Client(steady.admin_url, namespace=NAMESPACE) as mq:
            mq.send_many(queue, range(4))
            begun = workshop.until_told("begun", 2)
            kill(begun[0].pid)
            again = workshop.until_told("begun", 4)[2:]
            workshop.raise_flag("go on")
            workshop.until_told("ended", 4)
        assert {event.pid for event in again} != {begun[0].pid}
        for node in steady.masters:
            wipe(node.admin(), NAMESPACE)
