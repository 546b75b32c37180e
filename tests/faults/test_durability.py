"""What was confirmed survives, what was not is never said to be, through kills, losses and failovers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import pytest

import millstream as ms
from tests.api.clients import KINDS, Kind, connecting
from tests.support.confirmed import TASKS, numbers_of, sending
from tests.support.pairs import follow, pair, promote
from tests.support.proxy import Proxy
from tests.support.servers import Server, installed
from tests.support.wait import auntil

ORDERS: ms.Queue[Any] = ms.Queue("orders")
ORDERED: ms.Queue[Any] = ms.Queue("ordered", ordered=True, partitions=2)
LISTED: ms.Queue[Any] = ms.Queue("listed", store="list")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Which of the two clients."""
    kind: Kind = request.param
    return kind


@pytest.fixture(scope="module")
def two() -> Iterator[tuple[Server, Server]]:
    """A primary and its replica."""
    with pair() as servers:
        yield servers


@pytest.fixture
def couple(two: tuple[Server, Server]) -> Iterator[tuple[Server, Server]]:
    """The same; the replica goes on after the test, whatever that did."""
    yield two
    two[1].resume()


# --- the server dies ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", installed(("valkey-8.1", "redis-8.2")))
async def test_synced_messages_survive_a_kill(kind: Kind, name: str, namespace: str) -> None:
    """What fsync has confirmed is there after kill -9, once, and producers go on."""
    confirmed: dict[str, int] = {}
    with Server(name, appendonly=True) as server:
        async with connecting(kind, server.tcp_url, namespace) as connect:
            mq = await connect(timeout=30)
            async with sending(mq, ORDERS, "fsync", confirmed):
                await auntil(lambda: len(confirmed) > TASKS, 60, message="some are confirmed")
                server.kill()
                before = len(confirmed)
                server.start()
                await auntil(lambda: len(confirmed) > before + TASKS, 60, message="it goes on")
        found = numbers_of(server, f"{namespace}:{{orders}}:ready")
    assert confirmed.items() <= found.items()
    # A batch that was stored before the kill and lost its answer was not stored again.
    assert len(set(found.values())) == len(found)


async def test_replicated_messages_survive_a_failover(kind: Kind, namespace: str) -> None:
    """What a replica has confirmed is there when the primary dies, and producers go on with the new one."""
    confirmed: dict[str, int] = {}
    key = f"{namespace}:{{orders}}:ready"
    with (
        pair() as (primary, replica),
        Server() as third,
        Server() as fourth,
        Proxy(primary.port) as proxy,
    ):
        follow(third, primary)
        async with connecting(kind, proxy.url, namespace) as connect:
            mq = await connect(timeout=30)
            async with sending(mq, ORDERS, "replicas:2", confirmed):
                await auntil(lambda: len(confirmed) > 200, 60, message="some are confirmed")
                proxy.lead_to(replica.port)
                primary.kill()
                before = dict(confirmed)
                promote(replica)
                assert before.items() <= numbers_of(replica, key).items()
                follow(third, replica)
                # Until then the one replica that is left is not enough for replicas:2.
                follow(fourth, replica)
                await auntil(lambda: len(confirmed) > len(before) + 200, 60, message="it goes on")
        found = numbers_of(replica, key)
    assert confirmed.items() <= found.items()
    assert len(set(found.values())) == len(found)


async def test_a_failover_loses_what_was_not_confirmed_and_confirm_stores_it_anew(
    kind: Kind, namespace: str
) -> None:
    """A replica that did not have a message becomes the primary: confirm sends it there, once."""
    with pair() as (primary, replica), Server() as third, Proxy(primary.port) as proxy:
        async with connecting(kind, proxy.url, namespace) as connect:
            mq = await connect(timeout=3)
            await mq.send(ORDERS, 1, durability="replicas:1")
            # It goes on with what it has when it is resumed, which is not the next message.
            replica.admin().replicaof("127.0.0.1", 1)
            with pytest.raises(ms.NotConfirmed) as caught:
                await mq.send(ORDERS, 2, durability="replicas:1")
            promote(replica)
            follow(third, replica)
            proxy.lead_to(replica.port)
            primary.kill()
            [receipt] = await mq.confirm(caught.value)
            assert receipt.durability == "replicas:1"
            assert await mq.confirm(caught.value) == [receipt]
        found = numbers_of(third, f"{namespace}:{{orders}}:ready")
    assert sorted(found.values()) == [1, 2]
    assert found[receipt.id] == 2


# --- the connection breaks ---------------------------------------------------------------------


Way = Literal["plain", "headers", "delay", "list", "list delay", "ordered", "topic"]


async def send_one(mq: ms.AsyncClient, way: Way) -> ms.Receipt:
    """Send a message in one of the ways, each of which has a script of its own."""
    options: dict[str, Any] = {"durability": "replicas:1"}
    if way == "headers":
        options["headers"] = {"a": "b"}
    if "delay" in way:
        options["delay"] = 60
    receipt: ms.Receipt
    if way == "topic":
        receipt = await mq.publish(ms.Topic("news"), 1, **options)
    elif way == "ordered":
        receipt = await mq.send(ORDERED, 1, key="k", **options)
    else:
        receipt = await mq.send(LISTED if "list" in way else ORDERS, 1, **options)
    return receipt


@pytest.mark.parametrize(
    "way", ["plain", "headers", "delay", "list", "list delay", "ordered", "topic"]
)
async def test_a_lost_answer_is_no_confirmation(
    kind: Kind, way: Way, couple: tuple[Server, Server], namespace: str
) -> None:
    """Repeated on a new connection, a send that has written nothing there is not confirmed for that.

    The replica hangs, so whoever says that it has the message lies.
    """
    primary, replica = couple
    with Proxy(primary.port) as proxy:
        async with connecting(kind, proxy.url, namespace) as connect:
            mq = await connect(timeout=2.5)
            await send_one(mq, way)
            replica.pause()
            proxy.drop_replies(to=b"WAIT")
            with pytest.raises(ms.NotConfirmed) as caught:
                await send_one(mq, way)
            assert proxy.lost == 1
            replica.resume()
            [receipt] = await mq.confirm(caught.value)
            assert receipt == ms.Receipt(caught.value.receipts[0].id, durability="replicas:1")
            counters: Any = primary.admin()
            names = [key for key in counters.keys(f"{namespace}:*") if key.endswith(b"counters")]
            sent = [counters.hmget(key, "sent", "published") for key in names]
            assert sum(int(count) for pair_ in sent for count in pair_ if count) == 2


async def test_a_demoted_primary_is_left(kind: Kind, namespace: str) -> None:
    """A send that sleeps for its confirmation while the server becomes a replica goes to the new primary."""
    with pair() as (primary, replica), Proxy(primary.port) as proxy:
        async with connecting(kind, proxy.url, namespace) as connect:
            mq = await connect(timeout=30)
            await mq.send(ORDERS, 1, durability="replicas:1")
            replica.pause()
            sending_one = asyncio.create_task(mq.send(ORDERS, 2, durability="replicas:1"))
            key = f"{namespace}:{{orders}}:ready"
            await auntil(lambda: len(numbers_of(primary, key)) == 2, message="it is stored")
            replica.resume()
            proxy.lead_to(replica.port)
            promote(replica)
            primary.admin().replicaof("127.0.0.1", replica.port)
            receipt = await sending_one
        found = numbers_of(replica, key)
    assert (receipt.durability, found[receipt.id]) == ("replicas:1", 2)
    assert sorted(found.values()) == [1, 2]
