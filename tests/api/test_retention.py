"""What topics keep, and subscriptions that nobody needs, with both clients."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol.keys import topic_keys
from tests.api.clients import Connect, drain, take, take_one
from tests.support.wait import auntil


async def length(mq: ms.AsyncClient, topic: ms.Topic[Any]) -> int:
    return (await mq.stats(topic)).length


async def publish_until(mq: ms.AsyncClient, topic: ms.Topic[Any], condition: Any) -> None:
    """Publish now and then until something is true."""

    async def there() -> bool:
        await mq.publish(topic, "more")
        return bool(await condition())

    await auntil(there, 20, 0.1)


async def test_what_is_handled_goes(any_mq: ms.AsyncClient) -> None:
    """While others publish; what one subscription has not handled stays, for that one."""
    topic: ms.Topic[Any] = ms.Topic("placed")
    fast, slow = topic.subscription("fast"), topic.subscription("slow")
    for one in (fast, slow):
        await any_mq.declare(one)

    await any_mq.publish_many(topic, range(600))
    await drain(any_mq, fast, prefetch=1000)
    await any_mq.publish_many(topic, range(600, 1200))
    assert await length(any_mq, topic) == 1200

    handled = [one.body for one in await drain(any_mq, slow, prefetch=1000)]
    handled += [one.body for one in await drain(any_mq, fast, prefetch=1000)]
    assert handled == [*range(1200), *range(600, 1200)]
    await any_mq.publish_many(topic, range(1500))
    assert await length(any_mq, topic) <= 1500
    assert [one.trimmed for one in (await any_mq.stats(topic)).subscriptions] == [0, 0]


async def test_a_bound_keeps_history(mq: ms.AsyncClient) -> None:
    """For replay and for late subscriptions, also where nobody subscribes; about as much as declared."""
    topic: ms.Topic[Any] = ms.Topic("placed", retain=ms.Retain(max_length=700))

    for start in range(0, 6000, 500):
        await mq.publish_many(topic, range(start, start + 500))
        assert await length(mq, topic) <= 700 + 1500
    await publish_until(mq, topic, lambda: _is_at_most(mq, topic, 702))

    history = [one.body async for one in mq.replay(topic)]
    assert history[:100] == list(range(history[0], history[0] + 100))
    late = topic.subscription("late", start=ms.EARLIEST)
    assert [one.body for one in await drain(mq, late)] == history


async def _is_at_most(mq: ms.AsyncClient, topic: ms.Topic[Any], count: int) -> bool:
    return await length(mq, topic) <= count


async def test_the_last_declaration_counts(connect: Connect, mq: ms.AsyncClient) -> None:
    """For all who use the topic; who declares nothing changes nothing."""
    keeps = ms.Topic("placed", retain=ms.Retain(max_length=1000))
    drops = ms.Topic("placed", retain=ms.Retain(max_length=2))
    silent: ms.Topic[Any] = ms.Topic("placed")
    await mq.publish_many(keeps, range(50))
    other = await connect()
    await publish_until(other, silent, lambda: _holds(other, silent, 51))
    assert await length(mq, silent) >= 51

    await mq.publish(drops, "x")
    await publish_until(other, silent, lambda: _is_at_most(other, silent, 3))

    await mq.declare(keeps.subscription("late"))
    await mq.publish_many(silent, range(50))
    await publish_until(mq, silent, lambda: _holds(mq, silent, 60))


async def _holds(mq: ms.AsyncClient, topic: ms.Topic[Any], count: int) -> bool:
    return await length(mq, topic) >= count


async def test_what_is_dropped_unread_is_counted(mq: ms.AsyncClient) -> None:
    """Only where that was asked for; what comes then is in order and without a second gap."""
    topic: ms.Topic[Any] = ms.Topic(
        "placed", retain=ms.Retain(max_length=100, until_consumed=False)
    )
    own = topic.subscription("slow")
    await mq.declare(own)
    await mq.publish_many(topic, range(10))
    held = await take_one(mq, own)

    for start in range(10, 5010, 500):
        await mq.publish_many(topic, range(start, start + 500))

    await held.ack()
    [stats] = (await mq.stats(topic)).subscriptions
    assert (stats.acked, stats.in_flight) == (1, 0)
    assert stats.trimmed + stats.lag == 5009
    assert stats.lag == (await mq.stats(topic)).length <= 1600
    assert [one.body for one in await drain(mq, own)] == list(range(5010 - stats.lag, 5010))


async def test_a_subscription_that_reads_trims(
    connect: Connect, mq: ms.AsyncClient, admin: redis.Redis, namespace: str
) -> None:
    """Of a topic to which nobody publishes any more, or only other programs do."""
    topic: ms.Topic[Any] = ms.Topic("placed", lease=0.3)
    log = topic_keys(namespace, "placed").log
    await mq.declare(topic.subscription("all"))
    for n in range(50):
        admin.xadd(log, {"b": str(n)})
    other = await connect()

    async def read() -> None:
        async with aclosing(other.subscribe(topic, "all", wait=20)) as deliveries:
            async for delivery in deliveries:
                await delivery.ack()
                if delivery.body == "last":
                    break

    reading = asyncio.create_task(read())
    await auntil(lambda: admin.xlen(log) == 0, 15, message="the log is empty")
    await mq.publish(topic, "last")
    await reading


async def test_a_forgotten_subscription_goes(
    mq: ms.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """With all it held, and a warning that says so; one that never expires stays."""
    topic: ms.Topic[Any] = ms.Topic("placed")
    await mq.declare(topic.subscription("old", expires=1))
    await mq.declare(topic.subscription("kept", expires=None))
    await mq.publish_many(topic, range(5))
    assert len(await drain(mq, topic.subscription("old", expires=1))) == 5
    for delivery in await take(mq, topic.subscription("kept", expires=None), 1):
        await delivery.ack()

    async def gone() -> bool:
        return await mq.subscriptions(topic) == ["kept"]

    with caplog.at_level(logging.WARNING, "millstream.retention"):
        await publish_until(mq, topic, gone)

    [record] = [one for one in caplog.records if one.name == "millstream.retention"]
    text = record.getMessage()
    assert text.startswith("topic 'placed': subscription 'old' is removed: nobody has consumed it")
    [kept] = (await mq.stats(topic)).subscriptions
    assert kept.lag >= 4


async def test_a_publisher_that_may_not_trim(
    url: str, admin: redis.Redis, connect: Connect, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It publishes, and says once that the topic grows."""
    user = f"{namespace}-publisher"
    admin.acl_setuser(
        user,
        enabled=True,
        passwords=["+secret"],
        keys=["t-*"],
        categories=["+@all"],
        commands=["-xtrim"],
    )
    topic: ms.Topic[Any] = ms.Topic("placed")
    try:
        mq = await connect(f"unix://{user}:secret@{url.rpartition('@')[2]}")
        with caplog.at_level(logging.WARNING, "millstream.retention"):
            for n in range(3):
                await mq.publish_many(topic, range(n, 1500))
    finally:
        admin.acl_deluser(user)
    assert await length(await connect(), topic) == 1500 + 1499 + 1498
    [record] = [one for one in caplog.records if one.name == "millstream.retention"]
    assert record.getMessage().startswith("topic 'placed' cannot be trimmed, it grows: ")


@pytest.mark.parametrize("subjects", [None, "eu.*"])
async def test_a_replay_while_the_topic_is_trimmed(
    mq: ms.AsyncClient, admin: redis.Redis, namespace: str, subjects: str | None
) -> None:
    """What is gone before it is reached is left out; all the rest comes once, and in order."""
    topic: ms.Topic[Any] = ms.Topic("placed", retain=ms.Retain(max_length=10_000))
    receipts = await mq.publish_many(topic, range(5000), subject="eu.paid")
    log = topic_keys(namespace, "placed").log

    found = []
    async with aclosing(mq.replay(topic, filter=subjects)) as messages:
        async for one in messages:
            found.append(one.body)
            if len(found) in (1, 1000):
                admin.xtrim(log, minid=receipts[3 * len(found)].id, approximate=False)

    assert found == sorted({*found})
    assert {*range(3000, 5000)} <= {*found}
    assert len(found) < 5000
    admin.xtrim(log, maxlen=0, approximate=False)
    assert [one async for one in mq.replay(topic, filter=subjects)] == []
