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
    mq: ms.AsyncClient, queue: ms.Queue[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Sends, retries, delays and publications are handled; no command has keys of two slots."""
    handled: list[Any] = []
    workers = [ms.Worker(), ms.Worker()]

    @workers[0].on(queue)
    async def order(body: Any, delivery: ms.Delivery[Any]) -> None:
        if body == "again" and delivery.attempt == 1:
            raise ms.RetryLater(delay=0.01)
        handled.append(body)

    @workers[1].on(PLACED, subscription="email")
    async def placed(body: Any) -> None:
        handled.append(body)

    async with running(workers[0], mq), running(workers[1], mq):
        await mq.send_many(queue, ["plain", "again"])
        await mq.send(queue, "later", delay=0.05)
        await mq.send(queue, "special", key="a", priority=3, unique="u", ttl=60)
        await auntil(lambda: len(handled) == 4, PATIENCE)
        async with asyncio.timeout(PATIENCE):
            while "published" not in handled:
                await mq.publish(PLACED, "published", subject="eu")
        await mq.pause(queue)
        await mq.resume(queue)
    assert {*handled} == {"plain", "again", "later", "special", "published"}
    assert "CROSSSLOT" not in caplog.text
