"""Workers on a node of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import millstream as ms
from millstream.protocol.keys import topic_keys
from tests.support.servers import Server
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, running

TICKS: ms.Topic[Any] = ms.Topic("ticks", durable=False)
PLACED: ms.Topic[Any] = ms.Topic("placed")


@pytest.fixture
async def mq(cluster: Server, namespace: str) -> AsyncIterator[ms.AsyncClient]:
    """A client of the node."""
    async with ms.AsyncClient(cluster.limited_url, namespace=namespace) as mq:
        yield mq


async def test_listening(
    mq: ms.AsyncClient, worker: ms.Worker, cluster: Server, namespace: str
) -> None:
    """A handler hears what is published on the shard, and is told when its channel was gone."""
    told: list[Any] = []

    @worker.on(TICKS)
    async def handle(body: Any, tick: ms.Heard[Any]) -> None:
        told.append((body, tick.headers))

    @worker.on_missed(TICKS)
    async def missed(gap: ms.Missed) -> None:
        told.append(gap)

    admin: Any = cluster.admin()
    channel = topic_keys(namespace, "ticks").channel

    def listens() -> bool:
        return int(admin.execute_command("PUBSUB", "SHARDNUMSUB", channel)[1]) == 1

    async with running(worker, mq):
        await auntil(listens, PATIENCE)
        assert admin.pubsub_numsub(channel)[0][1] == 0
        await mq.publish(TICKS, 1, headers={"a": "b"})
        await auntil(lambda: told == [(1, {"a": "b"})], PATIENCE)
        slot = admin.cluster("keyslot", channel)
        pipeline = admin.pipeline(transaction=True)
        pipeline.execute_command("CLUSTER DELSLOTS", slot)
        pipeline.execute_command("CLUSTER ADDSLOTS", slot)
        pipeline.execute()
        await auntil(lambda: told[1:] == [ms.Missed(reconnected=True)], PATIENCE)
        admin.client_kill_filter(_type="pubsub")
        await auntil(lambda: told[2:] == [ms.Missed(reconnected=True)], PATIENCE)
        await auntil(listens, PATIENCE)
        await mq.publish(TICKS, 2)
        await auntil(lambda: told[3:] == [(2, {})], PATIENCE)


async def test_a_pattern_ends_the_worker(mq: ms.AsyncClient, worker: ms.Worker) -> None:
    """It says why when it starts."""

    @worker.on(ms.Topic("ticks.>", durable=False))
    async def handle(body: Any) -> None:
        """Never called."""

    with pytest.raises(ms.UsageError, match=r"'ticks\.>' is a pattern, and the server is a node"):
        await worker.run(mq)


async def test_queues_and_durable_topics(
    mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Sends, retries, delays and publications are handled; a cancellation is heard at once."""
    handled: list[Any] = []

    @worker.on(queue)
    async def order(body: Any, delivery: ms.Delivery[Any]) -> None:
        if body == "again" and delivery.attempt == 1:
            raise ms.RetryLater(delay=0.01)
        handled.append(body)

    @worker.on(PLACED, subscription="email")
    async def placed(body: Any) -> None:
        handled.append(body)

    cancelled = asyncio.Event()
    held: ms.Queue[Any] = ms.Queue("held", lease=60)

    @worker.on(held)
    async def hold(body: Any) -> None:
        handled.append(body)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def subscribed() -> bool:
        return "email" in await mq.subscriptions(PLACED)

    async with running(worker, mq):
        await mq.send_many(queue, ["plain", "again"])
        await mq.send(queue, "later", delay=0.05)
        await mq.send(queue, "special", key="a", priority=3, unique="u", ttl=60)
        await auntil(subscribed, PATIENCE)
        await mq.publish(PLACED, "published", subject="eu")
        receipt = await mq.send(held, "held")
        wanted = ["again", "held", "later", "plain", "published", "special"]
        await auntil(lambda: sorted(handled) == wanted, PATIENCE)
        assert await mq.cancel(held, receipt.id)
        await asyncio.wait_for(cancelled.wait(), PATIENCE)
        await mq.pause(queue)
        await mq.resume(queue)
    assert "CROSSSLOT" not in caplog.text
