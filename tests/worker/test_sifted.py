"""Subscriptions with a filter, or of an ordered topic: what readers sleep for, and in which order."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from contextlib import aclosing
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol.keys import TopicKeys, topic_keys
from millstream.protocol.partitions import partition_of
from millstream.protocol.publish import Publication, publish_some
from millstream.protocol.subscriptions import subscribe
from millstream.topic import EARLIEST, Subscription, Topic
from tests.support.readers import sleeping_readers
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, SOON, running

LATENCY = 10.0
"""Far less than a sleep lasts, and far more than a wake-up takes."""


KEYS = ("a", "b", "d")
"""They are in both of two partitions."""


class Publisher:
    """Publishes on the topic, each message into the partition of its key."""

    def __init__(self, mq: ms.AsyncClient, topic: Topic[Any]) -> None:
        self.mq, self.topic, self.number = mq, topic, 0
        self.keys: TopicKeys = topic_keys(mq.namespace, topic.name)

    async def publish(self, body: str, *, key: str = "", subject: str = "") -> None:
        self.number += 1
        partition = partition_of(key, self.topic.partitions) if key else 0
        one = Publication(
            body=f'"{body}"'.encode(),
            key=key,
            subject=subject,
            gate="ordered" if self.topic.ordered and key else "",
        )
        await self.mq.driver.run(publish_some(self.keys.at(partition), "p", self.number, [one]))

    async def subscribe(self, subscription: Subscription[Any]) -> None:
        await self.mq.driver.drive(subscribe(self.keys, subscription))


async def asleep(admin: redis.Redis, readers: int) -> None:
    await auntil(lambda: len(sleeping_readers(admin)) == readers, PATIENCE)


def counter(admin: redis.Redis, sub: Subscription[Any], mq: ms.AsyncClient, name: str) -> int:
    found: Any = admin.hget(mq.keys_of(sub).counters, name)
    return int(found or 0)


async def test_a_filtered_reader_sleeps_through_what_is_not_for_it(
    mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis
) -> None:
    """It is woken at once by what is, and then counts all that was not."""
    topic: Topic[Any] = Topic("placed", retry=ms.Retry(max_attempts=3, backoff=SOON))
    sub = topic.subscription("eu", start=EARLIEST, filter="eu.*")
    publisher = Publisher(mq, topic)
    handled: list[tuple[str, int]] = []

    @worker.on(sub)
    async def handle(body: str, delivery: ms.Delivery[Any]) -> None:
        handled.append((body, delivery.attempt))
        if delivery.attempt == 1 and body == "retry":
            raise ms.RetryLater(delay=0.01)

    async with running(worker, mq):
        await asleep(admin, 1)
        for n in range(50):
            await publisher.publish(str(n), subject="us.paid")
        assert counter(admin, sub, mq, "filtered") == 0, "nobody has looked"
        begin = time.monotonic()
        await publisher.publish("1", subject="eu.paid")
        await auntil(lambda: handled == [("1", 1)], PATIENCE)
        await publisher.publish("retry", subject="eu.paid")
        await auntil(lambda: handled[1:] == [("retry", 1), ("retry", 2)], PATIENCE)
        assert time.monotonic() - begin < LATENCY
        await auntil(lambda: counter(admin, sub, mq, "acked") == 2, PATIENCE)

    assert counter(admin, sub, mq, "filtered") == 50


@pytest.fixture
def ordered() -> Topic[Any]:
    """An ordered topic in two partitions."""
    return Topic("moves", ordered=True, partitions=2, retry=ms.Retry(max_attempts=9, backoff=SOON))


async def test_workers_keep_the_order_of_keys(
    mq: ms.AsyncClient, other: ms.AsyncClient, ordered: Topic[Any], admin: redis.Redis
) -> None:
    """Two workers, one message of a key at a time, in order, through failures."""
    sub = ordered.subscription("one", start=EARLIEST)
    publisher = Publisher(mq, ordered)
    await publisher.subscribe(sub)
    workers = [ms.Worker(), ms.Worker()]
    running_now: set[str] = set()
    done: dict[str, list[str]] = defaultdict(list)

    async def handle(body: str, delivery: ms.Delivery[Any]) -> None:
        key = delivery.key or ""
        assert key not in running_now
        running_now.add(key)
        await asyncio.sleep(0)
        running_now.discard(key)
        if delivery.attempt == 1 and body.endswith("3"):
            raise ms.RetryLater(delay=0.01)
        done[key].append(body)

    for worker in workers:
        worker.on(sub, concurrency=10)(handle)
    keys = ["a", "b", "c", "d"]
    async with running(workers[0], mq), running(workers[1], other):
        for n in range(12):
            for key in keys:
                await publisher.publish(str(n), key=key)
        await auntil(lambda: sum(map(len, done.values())) == 48, PATIENCE)
        stats = await mq.stats(sub)
        await auntil(lambda: not admin.exists(mq.keys_of(sub).holders), PATIENCE)

    assert dict(done) == {key: [str(n) for n in range(12)] for key in keys}
    assert stats.dead == 0


async def test_a_receive_loop_sleeps_for_all_partitions(
    mq: ms.AsyncClient, ordered: Topic[Any], admin: redis.Redis
) -> None:
    """What is published in either while it sleeps arrives at once; the next of a key when it may."""
    sub = ordered.subscription("one", start=EARLIEST)
    publisher = Publisher(mq, ordered)
    got: list[str] = []

    async def read() -> None:
        async with aclosing(mq.receive(sub, prefetch=1)) as deliveries:
            async for delivery in deliveries:
                got.append(delivery.body)
                await delivery.ack()
                if len(got) == 6:
                    return

    reader = asyncio.create_task(read())
    await asleep(admin, 1)
    begin = time.monotonic()
    for again in range(2):
        for key in KEYS:
            await publisher.publish(f"{key}{again}", key=key)
    async with asyncio.timeout(PATIENCE):
        await reader

    assert time.monotonic() - begin < LATENCY
    assert sorted(got) == sorted(f"{key}{again}" for key in KEYS for again in range(2))
    assert all(got.index(f"{key}0") < got.index(f"{key}1") for key in KEYS)
    assert {partition_of(key, 2) for key in KEYS} == {0, 1}
