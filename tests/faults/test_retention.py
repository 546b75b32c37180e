"""Topics that are trimmed while workers die, replies are lost and the server is full."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

import millstream as ms
from millstream.protocol.keys import topic_keys
from tests.faults.processes import Workshop
from tests.faults.working import NAMESPACE, PATIENCE, Record, connect, running
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import auntil, until

LOG = topic_keys(NAMESPACE, "placed").log

NAMES = ("one", "two", "three")

WORKER = """
topic = ms.Topic("placed", lease=1, retry=ms.Retry(max_crashes=100, backoff=ms.Backoff(first=0.05)))

def handler(name, fails):
    @worker.on(topic, subscription=name, start=ms.EARLIEST, concurrency=10)
    async def handle(body, delivery):
        if name == "two" and body % 1000 == 500 and not flag(f"killed at {body}"):
            open(f"killed at {body}", "x").close()
            record("dying", body)
            os.kill(os.getpid(), signal.SIGKILL)
        if body % fails == 0 and delivery.attempt == 1:
            raise RuntimeError("no")
        record(name, body)

for name, fails in (("one", 7), ("two", 10**9), ("three", 50)):
    handler(name, fails)
"""


@pytest.mark.parametrize("alone", [False, True], ids=["supervised", "alone"])
def test_killed_while_trimming_goes_on(
    workshop: Workshop, mq: ms.Client, own_server: Server, alone: bool
) -> None:
    """No subscription misses a message, whoever dies when; and the log is empty at the end."""
    topic: ms.Topic[Any] = ms.Topic("placed", lease=1)
    for name in NAMES:
        mq.declare(topic.subscription(name))
    workshop.write(WORKER)
    programs = [workshop.worker(), workshop.worker()] if alone else [workshop.supervisor(2)]
    total = 6000
    for start in range(0, total, 1000):
        for at in range(start, start + 1000, 250):
            mq.publish_many(topic, range(at, at + 250))
        workshop.until_told("dying", start // 1000 + 1)
        if alone:
            programs.append(workshop.worker())

    wanted = {name: set(range(total)) for name in NAMES}
    until(lambda: {name: {*workshop.bodies(name)} for name in NAMES} == wanted, 60, 0.2)
    admin = own_server.admin()
    until(lambda: admin.xlen(LOG) == 0, PATIENCE, message="the log is empty")

    stats = mq.stats(topic)
    assert [(one.trimmed, one.dead, one.lag) for one in stats.subscriptions] == [(0, 0, 0)] * 3
    assert {one.name: one.crashed for one in stats.subscriptions}["two"] >= total // 1000
    for program in programs:
        program.send(signal.SIGTERM)


async def test_lost_replies(own_server: Server, proxy: Proxy) -> None:
    """What is published with a look is stored once, and a look that comes twice takes no more."""
    topic: ms.Topic[Any] = ms.Topic("placed", lease=300)
    worker, records = ms.Worker(), {name: Record() for name in NAMES[:2]}
    for name, record in records.items():

        async def handle(body: int, record: Record = record) -> None:
            record.note(body)

        worker.on(topic, subscription=name)(handle)
    admin = own_server.admin()
    async with connect(own_server.url) as mq, connect(proxy.url) as bad, connect(proxy.url) as pub:
        for name in records:
            await mq.declare(topic.subscription(name))
        async with running(worker, bad):
            for start in range(0, 6000, 600):
                await asyncio.to_thread(proxy.drop_replies, to=b"EVALSHA", after=start % 70)
                await pub.publish_many(topic, range(start, start + 600))

            async def handled() -> bool:
                found = (await mq.stats(topic)).subscriptions
                return all(one.acked == 6000 and not one.in_flight for one in found)

            await auntil(handled, PATIENCE)
        await pub.publish_many(topic, range(2000))
        stats = await mq.stats(topic)
    assert proxy.lost >= 5
    assert all(record.twice == [] for record in records.values())
    assert (stats.published, [one.trimmed for one in stats.subscriptions]) == (8000, [0, 0])
    assert admin.xlen(LOG) <= 2000


async def goes(mq: ms.AsyncClient, topic: ms.Topic[bytes], count: int) -> bool:
    """Publish some; False: the server has no memory for them."""
    try:
        await mq.publish_many(topic, [b"x" * 1000] * count)
    except ms.ServerRefused:
        return False
    return True


async def test_out_of_memory(each_server: Server) -> None:
    """A topic that fills the server is refused what is new; it recovers when its messages are handled."""
    topic: ms.Topic[Any] = ms.Topic("placed", bytes)
    own = topic.subscription("slow", start=ms.EARLIEST)
    admin = each_server.admin()
    async with connect(each_server.url) as mq:
        await mq.declare(own)
        await mq.publish_many(topic, [b"x"] * 10)
        used = int(admin.info("memory")["used_memory"])
        admin.config_set("maxmemory", str(used + 3_000_000))
        published = 10
        while await goes(mq, topic, 100):
            published += 100
        assert published < 20_000

        worker, count = ms.Worker(), 0

        @worker.on(own)
        async def handle(_: bytes) -> None:
            nonlocal count
            count += 1

        async with running(worker, mq):
            await auntil(lambda: count == published, PATIENCE)

            await auntil(lambda: goes(mq, topic, 1), PATIENCE, message="there is memory again")
            await auntil(lambda: count == published + 1, PATIENCE)
        [stats] = (await mq.stats(topic)).subscriptions
        assert (stats.lag, stats.trimmed) == (0, 0)
        admin.config_set("maxmemory", "0")


async def test_a_bound_holds_whoever_sleeps(each_server: Server) -> None:
    """With until_consumed=False a subscription that is not consumed fills no server."""
    keep = ms.Retain(max_bytes=500_000, until_consumed=False)
    topic: ms.Topic[Any] = ms.Topic("placed", bytes, retain=keep)
    admin = each_server.admin()
    async with connect(each_server.url) as mq:
        await mq.declare(topic.subscription("asleep"))
        used = int(admin.info("memory")["used_memory"])
        # What is published between two looks comes on top.
        admin.config_set("maxmemory", str(used + 6_000_000))
        for _ in range(200):
            await mq.publish_many(topic, [b"x" * 1000] * 100)
        [stats] = (await mq.stats(topic)).subscriptions
        assert stats.trimmed + stats.lag == 20_000
        assert stats.lag < 4000
        admin.config_set("maxmemory", "0")
