"""Seek: a subscription goes on from another place in its topic's history, with both clients."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import millstream as ms
from tests.api.clients import Connect, drain, take
from tests.support.wait import auntil


@pytest.fixture
def topic() -> ms.Topic[Any]:
    """A topic with retries that need not be waited for."""
    return ms.Topic("orders.placed", retry=ms.Retry(backoff=ms.Backoff(first=0.01)))


async def audited(mq: ms.AsyncClient, topic: ms.Topic[Any]) -> None:
    """Have a subscription that handles nothing, so that the history is kept."""
    await mq.declare(topic.subscription("audit", start=ms.EARLIEST))


async def bodies(mq: ms.AsyncClient, source: Any) -> list[Any]:
    """Receive and acknowledge what is there now."""
    return [delivery.body for delivery in await drain(mq, source)]


async def test_back_and_forward(any_mq: ms.AsyncClient, topic: ms.Topic[Any]) -> None:
    """To a time, an id, the oldest and the end; what comes then is the history from there on."""
    mail, audit = topic.subscription("mail"), topic.subscription("audit")
    for one in (mail, audit):
        await any_mq.declare(one)
    receipts = await any_mq.publish_many(topic, range(5))
    assert await bodies(any_mq, mail) == [0, 1, 2, 3, 4]

    assert await any_mq.seek(topic, "mail", to=receipts[3].id) == 2
    assert await bodies(any_mq, mail) == [3, 4]
    assert await any_mq.seek(topic, "mail", to=ms.EARLIEST) == 5
    assert [one.body for one in await any_mq.peek(mail)] == [0, 1, 2, 3, 4]
    assert await any_mq.seek(topic, "mail", to=ms.LATEST) == 0
    assert await bodies(any_mq, mail) == []
    before = datetime.now(UTC) - timedelta(hours=1)
    assert await any_mq.seek(topic, "mail", to=before) == 5
    assert await bodies(any_mq, mail) == [0, 1, 2, 3, 4]

    stats = {one.name: one for one in (await any_mq.stats(topic)).subscriptions}
    assert (stats["mail"].lag, stats["mail"].acked) == (0, 12)
    assert (stats["audit"].lag, stats["audit"].acked) == (5, 0)


async def test_a_filter_and_order_go_on(any_mq: ms.AsyncClient) -> None:
    """What comes again passes the filter, in the order of each key; messages in lines do not stay."""
    topic: ms.Topic[Any] = ms.Topic("placed", ordered=True, partitions=2)
    mail = topic.subscription("mail", filter="eu.*")
    await any_mq.declare(mail)
    await audited(any_mq, topic)
    for number in range(12):
        place = "eu.a" if number % 4 < 2 else "us.a"
        await any_mq.publish(topic, number, key=str(number % 2), subject=place)
    held = await take(any_mq, mail, 2)
    assert sorted(one.body for one in held) == [0, 1]

    assert await any_mq.seek(topic, "mail", to=ms.EARLIEST, force=True) == 12

    seen = await bodies(any_mq, mail)
    assert [one for one in seen if one % 2 == 0] == [0, 4, 8]
    assert [one for one in seen if one % 2 == 1] == [1, 5, 9]
    for delivery in held:
        with pytest.raises(ms.LeaseLost):
            await delivery.ack()


async def test_refused_while_a_consumer_runs(
    mq: ms.AsyncClient, connect: Connect, topic: ms.Topic[Any]
) -> None:
    """Unless forced; the deliveries that it has are over then, and it goes on at the new place."""
    mail = topic.subscription("mail", start=ms.EARLIEST)
    await audited(mq, topic)
    await mq.publish_many(topic, range(3))
    other = await connect()
    async with aclosing(other.receive(mail, prefetch=2, wait=10)) as deliveries:
        first = await anext(deliveries)
        with pytest.raises(ms.UsageError, match=r"consumers that run.*force=True") as caught:
            await mq.seek(topic, "mail", to=ms.LATEST)
        [consumer] = (await mq.stats(mail)).consumers
        assert consumer.name in str(caught.value)

        assert await other.seek(topic, "mail", to=ms.LATEST, force=True) == 0

        with pytest.raises(ms.LeaseLost):
            await first.ack()
        await mq.publish(topic, "new")
        new = await anext(deliveries)
        assert new.body == "new"
        await new.ack()
    assert await mq.seek(topic, "mail", to=ms.EARLIEST) == 4
    assert await bodies(mq, mail) == [0, 1, 2, "new"]


async def test_a_receiver_that_sleeps_goes_on(
    mq: ms.AsyncClient, connect: Connect, topic: ms.Topic[Any]
) -> None:
    """It is woken, and gets the history from there on."""
    mail = topic.subscription("mail", start=ms.EARLIEST)
    await audited(mq, topic)
    await mq.publish_many(topic, range(3))
    other = await connect()
    async with aclosing(other.receive(mail, wait=10)) as deliveries:
        for _ in range(3):
            await (await anext(deliveries)).ack()

        await mq.seek(topic, "mail", to=ms.EARLIEST, force=True)

        again = []
        for _ in range(3):
            delivery = await anext(deliveries)
            again.append(delivery.body)
            await delivery.ack()
    assert again == [0, 1, 2]
    await auntil(lambda: _is_drained(mq, mail))


async def _is_drained(mq: ms.AsyncClient, source: Any) -> bool:
    stats = await mq.stats(source)
    return (stats.ready, stats.in_flight, stats.delayed) == (0, 0, 0)


async def test_what_is_in_hand_comes_again(mq: ms.AsyncClient, topic: ms.Topic[Any]) -> None:
    """To the same loop, as a delivery of its own: the end of the first one is not that of the second."""
    mail = topic.subscription("mail", start=ms.EARLIEST)
    await audited(mq, topic)
    await mq.publish_many(topic, range(2))
    async with aclosing(mq.receive(mail, prefetch=1, wait=10)) as deliveries:
        first = await anext(deliveries)
        await mq.seek(topic, "mail", to=ms.EARLIEST, force=True)
        again = [await anext(deliveries)]
        with pytest.raises(ms.LeaseLost):
            await first.ack()
        again.append(await anext(deliveries))
        assert {one.body for one in again} == {0, 1}
        for one in again:
            await one.ack()
    assert (await mq.stats(mail)).acked == 2
    assert await bodies(mq, mail) == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"to": "yesterday"}, "to must be the id of a message"),
        ({"to": 5}, "to must be EARLIEST, LATEST, a datetime or an id, not 5"),
        ({"to": datetime(2026, 1, 1)}, "to must have a time zone"),  # noqa: DTZ001 - refused
        ({"to": ms.EARLIEST, "force": "yes"}, "force must be True or False"),
        ({"to": ms.EARLIEST, "name": "a/b"}, "the subscription's name must be"),
        ({"to": ms.EARLIEST, "name": "other"}, "has no subscription 'other'"),
        ({"to": ms.EARLIEST, "topic": ms.Queue("orders")}, "publish is for topics"),
        ({"to": ms.EARLIEST, "topic": ms.Topic("t", durable=False)}, "durable=False has no"),
    ],
)
async def test_bad_parameters(
    mq: ms.AsyncClient, topic: ms.Topic[Any], options: Any, problem: str
) -> None:
    """The error names the parameter, or what is missing."""
    await mq.declare(topic.subscription("mail"))

    with pytest.raises(ms.UsageError, match=problem):
        await mq.seek(**{"topic": topic, "name": "mail", **options})
