"""Transactions on a cluster: what shares a slot goes together, and what does not is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol.slots import slot_of
from tests.api.clients import Kind, connecting, counts, drain, take, take_one
from tests.support.servers import Server

ORDERS: ms.Queue[Any] = ms.Queue("orders")


@pytest.mark.parametrize(
    ("output", "named"),
    [
        (lambda tx: tx.send(ms.Queue("mail"), 1), "queue 'mail' in slot"),
        (lambda tx: tx.publish(ms.Topic("placed"), 1), "topic 'placed' in slot"),
        (lambda tx: tx.set("t-count", 1), "the key 't-count' in slot"),
    ],
)
async def test_what_is_in_another_slot(
    kind: Kind, cluster: Server, namespace: str, output: Any, named: str
) -> None:
    """It is refused, nothing is done, and the error says which two, and how to bring them together."""
    async with connecting(kind, cluster.limited_url, namespace) as connect:
        mq = await connect()
        await mq.send(ORDERS, 1)
        delivery = await take_one(mq, ORDERS)
        with pytest.raises(ms.UsageError) as caught:
            async with delivery.transaction() as tx:
                output(tx)
        assert await counts(mq, ORDERS) == (0, 0, 1, 0)
        await delivery.ack()
    text = str(caught.value)
    assert f"queue 'orders' is in slot {slot_of('{orders}')}" in text
    assert named in text
    assert "'{orders}.NAME'" in text
    assert "CROSSSLOT" not in text


async def test_what_shares_a_tag(kind: Kind, cluster: Server, namespace: str) -> None:
    """A queue and a topic with the tag, and a key with it, go together with the queue of that name."""
    mail: ms.Queue[Any] = ms.Queue("{orders}.mail")
    topic: ms.Topic[Any] = ms.Topic("{orders}.placed")
    audit = topic.subscription("audit")
    key = f"{namespace}-{{orders}}-count"
    async with connecting(kind, cluster.limited_url, namespace) as connect:
        mq = await connect()
        await mq.declare(audit)
        await mq.send(ORDERS, 1)
        async with (await take_one(mq, ORDERS)).transaction() as tx:
            tx.send(mail, "mail")
            tx.publish(topic, "placed")
            tx.incrby(key)
        assert [one.body for one in await drain(mq, mail)] == ["mail"]
        assert [one.body for one in await drain(mq, audit)] == ["placed"]
        assert await mq.queues() == ["orders", "{orders}.mail"]
        assert await mq.topics() == ["{orders}.placed"]
    admin = cluster.admin()
    assert admin.get(key) == b"1"
    admin.delete(key)


async def test_partitions_that_share_a_tag(kind: Kind, cluster: Server, namespace: str) -> None:
    """The messages of a key go together, if both queues have as many partitions."""
    orders: ms.Queue[Any] = ms.Queue("{shop}.orders", ordered=True, partitions=4)
    mail: ms.Queue[Any] = ms.Queue("{shop}.mail", ordered=True, partitions=4)
    async with connecting(kind, cluster.limited_url, namespace) as connect:
        mq = await connect()
        for n in range(8):
            await mq.send(orders, n, key=f"k{n}")
        for delivery in await take(mq, orders, 8):
            async with delivery.transaction() as tx:
                tx.send(mail, delivery.body, key=delivery.key)
        assert sorted(one.body for one in await drain(mq, mail)) == [*range(8)]
        assert await mq.queues() == ["{shop}.mail", "{shop}.orders"]


@pytest.mark.parametrize(
    "key", ["a", "{a}", "x{a}y", "{}a", "{a", "a}", "{{a}}", "\u00fc{\u00fc}", "{a}{b}"]
)
def test_slots_are_those_of_the_server(server: Server, key: str) -> None:
    """The server would put each key where it is reckoned to be."""
    assert slot_of(key) == redis.crc.key_slot(key.encode())
