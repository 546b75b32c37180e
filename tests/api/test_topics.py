"""Durable topics: each subscription gets every message, and none disturbs another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

import millstream as ms
from tests.api.clients import Connect, counts, drain, take, take_one
from tests.support.wait import auntil

RETRY = ms.Retry(max_attempts=2, backoff=ms.Backoff(first=0.01))


@pytest.fixture
def topic() -> ms.Topic[Any]:
    """A topic with retries that need not be waited for."""
    return ms.Topic("orders.placed", retry=RETRY)


async def bodies(mq: ms.AsyncClient, source: Any) -> list[Any]:
    """Receive and acknowledge what is there now."""
    return [delivery.body for delivery in await drain(mq, source)]


async def test_every_subscription_gets_every_message(
    any_mq: ms.AsyncClient, topic: ms.Topic[Any]
) -> None:
    """Two subscriptions get all, in order; two consumers of a third one share them."""
    email, audit, shared = (topic.subscription(name) for name in ("email", "audit", "shared"))
    for one in (email, audit, shared):
        await any_mq.declare(one)

    receipts = [await any_mq.publish(topic, n) for n in range(3)]
    receipts += await any_mq.publish_many(topic, range(3, 10))
    halves = [await take(any_mq, shared, 5) for _ in range(2)]

    assert sorted(receipt.id for receipt in receipts) == [receipt.id for receipt in receipts]
    assert await bodies(any_mq, email) == list(range(10))
    taken = await drain(any_mq, audit)
    assert [one.id for one in taken] == [one.id for one in receipts]
    assert [one.body for half in halves for one in half] == list(range(10))
    for delivery in [one for half in halves for one in half]:
        await delivery.ack()
    assert [await counts(any_mq, one) for one in (email, audit, shared)] == [(0, 0, 0, 0)] * 3


async def test_what_a_message_carries(mq: ms.AsyncClient, topic: ms.Topic[Any]) -> None:
    """Subject, key and headers reach the consumer, a look at the queue, and the dead letters."""
    email = topic.subscription("email")
    await mq.declare(email)
    await mq.publish(topic, {"n": 1}, subject="eu.paid", key="c-7", headers={"trace": "ab"})
    await mq.publish_many(topic, [2, 3], subject=lambda n: f"us.{n}", key=str)

    [first, *others] = await mq.peek(email)
    assert (first.subject, first.key, first.headers) == ("eu.paid", "c-7", {"trace": "ab"})
    assert [(one.subject, one.key) for one in others] == [("us.2", "2"), ("us.3", "3")]
    delivery = await take_one(mq, email)
    assert (delivery.subject, delivery.key, delivery.headers) == (
        *("eu.paid", "c-7"),
        {"trace": "ab"},
    )
    assert delivery.queue == email
    await delivery.reject("no such order")
    [letter] = await mq.dead(email)
    assert (letter.subject, letter.key, letter.id) == ("eu.paid", "c-7", delivery.id)


async def test_a_failure_is_of_one_subscription(mq: ms.AsyncClient, topic: ms.Topic[Any]) -> None:
    """What fails for one is retried, dies and is redriven there alone; the rest goes on past it."""
    email, audit = topic.subscription("email"), topic.subscription("audit")
    for one in (email, audit):
        await mq.declare(one)
    await mq.publish_many(topic, ["bad", "good"])

    first, second = await take(mq, email, 2)
    await first.retry(delay=0)
    await second.ack()
    again = await take_one(mq, email)
    assert (again.body, again.id, again.attempt) == ("bad", first.id, 2)
    await again.retry()

    assert await counts(mq, email) == (0, 0, 0, 1)
    assert await counts(mq, audit) == (2, 0, 0, 0)
    assert await mq.redrive(email) == 1
    assert await bodies(mq, email) == ["bad"]
    assert await bodies(mq, audit) == ["bad", "good"]
    assert await mq.dead(audit) == []


async def test_a_subscription_keeps_its_place(
    connect: Connect, mq: ms.AsyncClient, topic: ms.Topic[Any]
) -> None:
    """What is published while it has no consumer is there when one comes, in another process."""
    await mq.publish(topic, "before")
    async with aclosing(mq.subscribe(topic, "email", wait=0)) as deliveries:
        assert [one async for one in deliveries] == []
    await mq.publish(topic, "meanwhile")

    other = await connect()
    async with aclosing(other.subscribe(topic, "email", start=ms.EARLIEST, wait=0)) as deliveries:
        async for delivery in deliveries:
            assert delivery.body == "meanwhile"
            await delivery.ack()
    assert (await mq.stats(topic.subscription("email"))).acked == 1


async def test_where_a_subscription_starts(mq: ms.AsyncClient, admin: redis.Redis) -> None:
    """With the oldest message, the next one, the first of a time, or the one of an id."""
    topic: ms.Topic[Any] = ms.Topic("orders.placed", retain=ms.Retain(max_age=3600))
    receipts = [await mq.publish(topic, 0)]
    seconds, micros = (int(part) for part in admin.time())
    now = seconds * 1000 + micros // 1000

    async def later() -> bool:
        seconds, micros = (int(part) for part in admin.time())
        return seconds * 1000 + micros // 1000 > now + 1

    await auntil(later, 30, message="the server's clock goes on")
    receipts += await mq.publish_many(topic, [1, 2])
    time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=now + 1)
    starts: dict[str, Any] = {
        "earliest": (ms.EARLIEST, [0, 1, 2]),
        "latest": (ms.LATEST, []),
        "time": (time, [1, 2]),
        "past": (time - timedelta(days=1), [0, 1, 2]),
        "future": (time + timedelta(days=1), []),
        "id": (receipts[2].id, [2]),
    }
    for name, (start, _) in starts.items():
        await mq.declare(topic.subscription(name, start=start))

    found = {name: await bodies(mq, topic.subscription(name)) for name in starts}
    assert found == {name: wanted for name, (_, wanted) in starts.items()}


async def test_a_plain_xadd_is_a_publication(
    mq: ms.AsyncClient, topic: ms.Topic[Any], admin: redis.Redis, namespace: str
) -> None:
    """Any language can publish; what no one can read is in the dead letters of each subscription."""
    email = topic.subscription("email")
    await mq.declare(email)
    admin.xadd(f"{namespace}:{{orders.placed}}:log", {"b": '{"id": 1}', "t": "eu.paid"})
    admin.xadd(f"{namespace}:{{orders.placed}}:log", {"b": "{"})

    [delivery] = await drain(mq, email)
    assert (delivery.body, delivery.subject) == ({"id": 1}, "eu.paid")
    [letter] = await mq.dead(email)
    assert (letter.reason, letter.body) == ("undecodable", b"{")


async def test_what_operators_do_touches_one_subscription(
    mq: ms.AsyncClient, topic: ms.Topic[Any]
) -> None:
    """Pause, resume and purge are of one; a message that others read cannot be cancelled."""
    email, audit = topic.subscription("email"), topic.subscription("audit")
    for one in (email, audit):
        await mq.declare(one)
    receipts = await mq.publish_many(topic, range(3))

    await mq.pause(email)
    assert await bodies(mq, email) == []
    assert await bodies(mq, audit) == [0, 1, 2]
    await mq.publish(topic, 3)
    await mq.resume(email)
    assert (await take_one(mq, email)).body == 0
    with pytest.raises(ms.UsageError, match="other subscriptions read, too"):
        await mq.cancel(email, receipts[2].id)
    assert await mq.cancel(email, receipts[0].id)
    assert await mq.purge(email, confirm=True) == 3
    assert await counts(mq, email) == (0, 0, 0, 1)
    assert await bodies(mq, audit) == [3]


async def test_stats(mq: ms.AsyncClient, topic: ms.Topic[Any]) -> None:
    """A topic tells what it keeps, and of each subscription how far it is."""
    await mq.declare(topic.subscription("audit", expires=None))
    own = topic.subscription("email", expires=3600)
    await mq.declare(own)
    await mq.publish_many(topic, range(5))
    held, failed, dead = await take(mq, own, 3)
    await failed.retry(delay=600)
    await dead.reject("bad")

    stats = await mq.stats(topic)
    audit, email = stats.subscriptions
    assert (stats.name, stats.length, stats.published) == ("orders.placed", 5, 5)
    assert stats.bytes > 0
    assert (audit.name, audit.lag, audit.acked, audit.expires) == ("audit", 5, 0, None)
    assert (email.lag, email.delayed, email.in_flight, email.dead) == (2, 1, 1, 1)
    assert (email.name, email.expires, email.paused, email.filtered) == ("email", 3600, False, 0)
    assert audit.oldest_unhandled is not None
    assert (await mq.stats(own)).name == "orders.placed/email"
    await held.ack()


async def test_what_there_is(mq: ms.AsyncClient, topic: ms.Topic[Any]) -> None:
    """Topics, queues and subscriptions are listed apart; one that is removed is gone for good."""
    queue = ms.Queue("orders.placed")
    await mq.declare(topic.subscription("email"))
    await mq.publish(topic, "of the topic")
    assert (await mq.topics(), await mq.queues()) == (["orders.placed"], [])

    await mq.send(queue, "of the queue")
    await mq.declare(topic.subscription("audit"))
    assert (await mq.topics(), await mq.queues()) == (["orders.placed"], ["orders.placed"])
    assert await bodies(mq, queue) == ["of the queue"]
    assert await mq.subscriptions(topic) == ["audit", "email"]

    await (await take_one(mq, topic.subscription("email"))).reject("bad")
    assert await mq.unsubscribe(topic, "email")
    assert not await mq.unsubscribe(topic, "email")
    assert await mq.subscriptions(topic) == ["audit"]
    await mq.declare(topic.subscription("email"))
    assert await counts(mq, topic.subscription("email")) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda mq, topic: mq.send(topic, 1), "^send is for queues: publish to topic 'orders.pl"),
        (
            lambda mq, topic: mq.send_many(topic.subscription("a"), [1]),
            "^send is .* publish to top",
        ),
        (lambda mq, _: mq.publish(ms.Queue("jobs"), 1), "^publish is for topics: send to queue 'j"),
        (lambda mq, _: mq.publish_many("jobs", [1]), "^expected a Topic, not str"),
        (lambda mq, topic: mq.publish(topic.subscription("a"), 1), "publish to topic 'orders.pla"),
        (drain, r"^topic 'orders.placed' is read by its subscr"),
        (lambda mq, topic: mq.purge(topic, confirm=True), r"pass topic.subscription\(name\)"),
        (lambda mq, topic: mq.schedules(topic), "^expected a Queue, not Topic"),
        (lambda mq, topic: mq.repartition(topic.subscription("a")), "^expected a Queue, not Subs"),
        (lambda mq, topic: mq.publish(topic, 1, subject="eu.*"), "^subject must be"),
        (lambda mq, topic: mq.publish(topic, 1, key=""), "^key must be a text of 1 to 500"),
        (
            lambda mq, topic: mq.publish(topic, object()),
            "^topic 'orders.placed' takes .a JSON-like",
        ),
        (lambda mq, topic: mq.unsubscribe(topic, "a b"), "^the subscription's name must be"),
    ],
)
async def test_what_makes_no_sense(
    mq: ms.AsyncClient, topic: ms.Topic[Any], call: Callable[..., Any], words: str
) -> None:
    """The error says what to call instead, and nothing is published."""
    with pytest.raises(ms.UsageError, match=words):
        await call(mq, topic)

    assert (await mq.topics(), await mq.queues()) == ([], [])


async def test_publications_together(mq: ms.AsyncClient, topic: ms.Topic[Any]) -> None:
    """Many at a time are stored once each, with keys, subjects and headers or without."""
    await mq.declare(topic.subscription("all"))

    await asyncio.gather(
        *(mq.publish(topic, n) for n in range(20)),
        *(mq.publish(topic, n, subject="a.b") for n in range(20, 40)),
        *(mq.publish(topic, n, headers={"n": str(n)}) for n in range(40, 60)),
    )
    assert await mq.publish_many(topic, []) == []
    many = await mq.publish_many(topic, range(60, 1200), headers={"x": "y"})

    assert len({one.id for one in many}) == 1140
    taken = await drain(mq, topic.subscription("all"), prefetch=1000)
    assert sorted(one.body for one in taken) == list(range(1200))
    assert all(one.subject == "a.b" for one in taken if 20 <= one.body < 40)
    assert all(one.headers == {"x": "y"} for one in taken if one.body >= 60)


async def test_a_thousand_subscriptions(url: str, namespace: str, topic: ms.Topic[Any]) -> None:
    """Each of them has every message, and one call counts them all."""
    async with ms.AsyncClient(url, namespace=namespace) as mq:
        names = [f"s{n:03}" for n in range(1000)]
        for start in range(0, 1000, 100):
            await asyncio.gather(
                *(mq.declare(topic.subscription(one)) for one in names[start : start + 100])
            )
        await mq.publish_many(topic, range(10))
        assert await bodies(mq, topic.subscription("s123")) == list(range(10))

        stats = await mq.stats(topic)
        assert [one.name for one in stats.subscriptions] == names
        assert {one.name for one in stats.subscriptions if one.lag != 10} == {"s123"}
