"""Topics that keep nothing, on a node of a cluster: sharded Pub/Sub where the server has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import millstream as ms
from millstream.protocol.keys import topic_keys
from tests.api.clients import Connect, Kind, connecting
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import auntil, until

PATIENCE = 30.0
GAP = ms.Missed(reconnected=True)

TICKS: ms.Topic[Any] = ms.Topic("ticks", durable=False)
PATTERN: ms.Topic[Any] = ms.Topic("ticks.*", durable=False)


@pytest.fixture
async def connect(kind: Kind, cluster: Server, namespace: str) -> AsyncIterator[Connect]:
    """Make clients of the node in the test's namespace; they are closed after the test."""
    async with connecting(kind, cluster.limited_url, namespace) as connect:
        yield connect


async def hear(feed: Any, count: int) -> list[Any]:
    """The next so many: bodies, and what is no message."""
    async with asyncio.timeout(PATIENCE):
        heard = [await anext(feed) for _ in range(count)]
    return [one.body if isinstance(one, ms.Heard) else one for one in heard]


async def arrives(mq: ms.AsyncClient, body: Any) -> None:
    """Publish until somebody hears it."""

    async def heard() -> bool:
        return bool((await mq.publish(TICKS, body)).listeners)

    await auntil(heard, PATIENCE)


def counted(server: Server, namespace: str, topic: str = "ticks") -> tuple[int, int]:
    """How many connections listen to the sharded channel of a topic, and to the plain one."""
    admin: Any = server.admin()
    channel = topic_keys(namespace, topic).channel
    sharded = admin.execute_command("PUBSUB", "SHARDNUMSUB", channel)
    return int(sharded[1]), int(admin.pubsub_numsub(channel)[0][1])


def slot_of(server: Server, namespace: str, topic: str = "ticks") -> int:
    """The slot of a topic's channel."""
    admin: Any = server.admin()
    return int(admin.cluster("keyslot", topic_keys(namespace, topic).channel))


async def test_messages_stay_on_their_shard(
    connect: Connect, cluster: Server, namespace: str
) -> None:
    """All listeners of all clients hear a message by the sharded channel, and by no other way."""
    mq, other = await connect(), await connect()
    assert (await mq.publish(TICKS, 0)).listeners == 0
    channel = topic_keys(namespace, "ticks").channel
    admin: Any = cluster.admin()
    async with (
        mq.subscribe(TICKS) as one,
        mq.subscribe(TICKS) as two,
        other.subscribe(TICKS) as three,
    ):
        assert counted(cluster, namespace) == (2, 0)
        receipt = await mq.publish(TICKS, 1, headers={"source": "a"}, subject="eu.paid")
        assert receipt == ms.Receipt("", durability="none", listeners=2)
        assert [one.listeners for one in await other.publish_many(TICKS, [2, 3])] == [2, 2]
        assert admin.publish(channel, "0") == 0
        assert admin.execute_command("SPUBLISH", channel, "4") == 2
        assert await anext(one) == ms.Heard(
            body=1, topic="ticks", headers={"source": "a"}, subject="eu.paid"
        )
        assert await hear(one, 3) == [2, 3, 4]
        assert await hear(two, 4) == await hear(three, 4) == [1, 2, 3, 4]
    await auntil(lambda: counted(cluster, namespace) == (0, 0), PATIENCE)


async def test_a_pattern_is_refused(connect: Connect) -> None:
    """The error says why and what to do, before and after something else is listened to."""
    why = r"'ticks\.\*' is a pattern, and the server is a node of a cluster.*to each topic by its"
    mq = await connect()
    for _ in range(2):
        with pytest.raises(ms.UsageError, match=why):
            await anext(mq.subscribe(PATTERN))
        with pytest.raises(ms.UsageError, match=why):
            await mq.subscribe(PATTERN).__aenter__()
        feed = await mq.subscribe(TICKS).__aenter__()
        await mq.publish(TICKS, 1)
        assert await hear(feed, 1) == [1]


async def test_a_user_with_few_rights(kind: Kind, cluster: Server, namespace: str) -> None:
    """Who may not ask for INFO uses the same channels; who may not use a channel hears its name."""
    admin: Any = cluster.admin()
    admin.execute_command(
        *("ACL", "SETUSER", "meek", "reset", "on", ">secret", "&t-*", "+@pubsub", "+client")
    )
    url = f"unix://meek:secret@{cluster.socket_path}"
    async with connecting(kind, url, namespace) as connect:
        mq = await connect()
        async with mq.subscribe(TICKS) as feed:
            assert (await mq.publish(TICKS, 1)).listeners == 1
            assert counted(cluster, namespace) == (1, 0)
            assert await hear(feed, 1) == [1]
        foreign = await connect(namespace="foreign")
        rule = "The user needs the ACL rule &foreign:{ticks}:channel"
        for use in (foreign.publish(TICKS, 1), foreign.subscribe(TICKS).__aenter__()):
            with pytest.raises(ms.ServerRefused, match=rule):
                await use


async def test_a_connection_that_is_cut(
    kind: Kind, connect: Connect, cluster: Server, namespace: str
) -> None:
    """Listeners are told of the gap, and what is published after it comes."""
    publisher = await connect()
    with Proxy(cluster.port) as proxy:
        async with (
            connecting(kind, proxy.url, namespace) as connect_badly,
            (await connect_badly(timeout=PATIENCE)).subscribe(TICKS) as feed,
        ):
            for n in range(3):
                await publisher.publish(TICKS, n)
                assert await hear(feed, 1) == [n]
                await asyncio.to_thread(proxy.cut)
                assert await hear(feed, 1) == [GAP]


async def test_a_channel_that_comes_back(connect: Connect, cluster: Server, namespace: str) -> None:
    """When its slot is taken from the node and given back, its listeners get a gap; others none."""
    mq = await connect()
    other: ms.Topic[Any] = ms.Topic("other", durable=False)
    slot = slot_of(cluster, namespace)
    async with mq.subscribe(TICKS) as feed, mq.subscribe(TICKS) as same, mq.subscribe(other) as far:
        for n in range(3):
            await mq.publish(TICKS, n)
            pipeline: Any = cluster.admin().pipeline(transaction=True)
            pipeline.execute_command("CLUSTER DELSLOTS", slot)
            pipeline.execute_command("CLUSTER ADDSLOTS", slot)
            assert pipeline.execute() == [True, True]
            assert await hear(feed, 2) == [n, GAP]
            assert await hear(same, 2) == [n, GAP]
        await mq.publish(other, "next")
        assert await hear(far, 1) == ["next"]


async def test_a_node_that_is_restarted(kind: Kind) -> None:
    """It serves nothing for two seconds; listeners and publishers wait for it, and go on."""
    with Server(cluster=True) as node:
        async with (
            connecting(kind, node.url, "ms") as connect,
            (await connect(timeout=PATIENCE)).subscribe(TICKS) as feed,
        ):
            publisher = await connect(timeout=PATIENCE)
            await publisher.publish(TICKS, 1)
            assert await hear(feed, 1) == [1]
            await asyncio.to_thread(node.kill)
            await asyncio.to_thread(node.start)
            assert await hear(feed, 1) == [GAP]
            await arrives(publisher, 2)
            assert await hear(feed, 1) == [2]


# Slots of other nodes


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Server, Server]]:
    """Two nodes of one cluster; the first has all slots."""
    with Server(cluster=True) as first, Server(cluster=True) as second:
        one: Any = first.admin()
        two: Any = second.admin()
        two.cluster("flushslots")
        two.cluster("meet", "127.0.0.1", first.port)
        until(lambda: _knows_all(one) and _knows_all(two), PATIENCE)
        yield first, second


def _knows_all(admin: Any) -> bool:
    """Whether a node sees both, and all slots with one of them."""
    info = admin.cluster("info")
    return (info["cluster_state"], info["cluster_known_nodes"]) == ("ok", "2")


def _give_slot(pair: tuple[Server, Server], slot: int) -> None:
    """Have the second node take a slot from the first."""
    first: Any = pair[0].admin()
    second: Any = pair[1].admin()
    target = second.execute_command("CLUSTER MYID").decode()
    for admin in (second, first):
        admin.execute_command("CLUSTER SETSLOT", slot, "NODE", target)


async def test_a_channel_that_moves_away(
    kind: Kind, pair: tuple[Server, Server], namespace: str
) -> None:
    """Its listeners, those who come later and publishers hear that another node has it."""
    moved = rf"MOVED.*redis\+cluster:.*channel {namespace}:{{ticks-{kind}}}:channel$"
    topic: ms.Topic[Any] = ms.Topic(f"ticks-{kind}", durable=False)
    slot = slot_of(pair[0], namespace, topic.name)
    async with connecting(kind, pair[0].url, namespace) as connect:
        mq = await connect()
        async with mq.subscribe(topic) as feed, mq.subscribe(TICKS) as stays:
            await mq.publish(topic, 1)
            await asyncio.to_thread(_give_slot, pair, slot)

            assert await hear(feed, 1) == [1]
            for use in (
                hear(feed, 1),
                mq.subscribe(topic).__aenter__(),
                mq.publish(topic, 2),
                mq.publish_many(topic, [2]),
            ):
                with pytest.raises(ms.ServerRefused, match=moved) as caught:
                    await use
                assert caught.value.code == "MOVED"
            await mq.publish(TICKS, 3)
            assert await hear(stays, 1) == [3]
        # It is there for clients of the other node.
        elsewhere = await connect(pair[1].url)
        async with elsewhere.subscribe(topic) as feed:
            await elsewhere.publish(topic, 4)
            assert await hear(feed, 1) == [4]


# Other servers


async def test_another_kind_of_server_behind_the_same_name(
    kind: Kind, cluster: Server, server: Server, namespace: str
) -> None:
    """After a reconnect, listeners and publishers use the channels of the server that is there."""
    with Proxy(server.port) as proxy:
        async with connecting(kind, proxy.url, namespace) as connect:
            mq = await connect(timeout=PATIENCE)
            pattern = await mq.subscribe(PATTERN).__aenter__()
            async with mq.subscribe(TICKS) as feed:
                for there, counts in ((cluster, (1, 0)), (server, (0, 1)), (cluster, (1, 0))):
                    await asyncio.to_thread(proxy.lead_to, there.port)
                    await asyncio.to_thread(proxy.cut)
                    assert await hear(feed, 1) == [GAP]
                    assert counted(there, namespace) == counts
                    # What finds out that the connection is lost still goes the old way.
                    await arrives(mq, 1)
                    assert await hear(feed, 1) == [1]
            with pytest.raises(ms.UsageError, match="is a pattern, and the server is a node"):
                await hear(pattern, 1)


async def test_a_cluster_without_sharded_channels(kind: Kind) -> None:
    """Redis 6.2 has only plain channels, and patterns."""
    with Server("redis-6.2", cluster=True) as node:
        async with connecting(kind, node.url, "ms") as connect:
            mq = await connect()
            everything: ms.Topic[Any] = ms.Topic("*", durable=False)
            async with mq.subscribe(TICKS) as feed, mq.subscribe(everything) as pattern:
                # A connection that has both gets it twice.
                assert (await mq.publish(TICKS, 1)).listeners == 2
                assert await hear(feed, 1) == await hear(pattern, 1) == [1]
