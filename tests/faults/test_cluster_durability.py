"""What was confirmed on a cluster survives, through nodes that die and slots that move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pytest

import millstream as ms
from millstream.protocol import confirm
from millstream.protocol.keys import queue_keys
from tests.api.clients import KINDS, Kind, connecting
from tests.support.cluster import Cluster
from tests.support.confirmed import TASKS, numbers_of, sending
from tests.support.servers import Server, installed
from tests.support.wait import auntil

ORDERS: ms.Queue[Any] = ms.Queue("orders")
PARTS: ms.Queue[Any] = ms.Queue("parts", ordered=True, partitions=6)

PATIENCE = 60.0
"""Seconds that a send may take: a failover takes some, and more on a busy machine."""


@pytest.fixture(autouse=True)
async def threads() -> AsyncIterator[None]:
    """A thread for each blocking call: sends wait for what a test does meanwhile."""
    with ThreadPoolExecutor(2 * TASKS) as executor:
        asyncio.get_running_loop().set_default_executor(executor)
        yield


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Which of the two clients."""
    kind: Kind = request.param
    return kind


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """Three masters, each with a replica."""
    with Cluster(replicas=1, node_timeout_ms=1000) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def movable() -> Iterator[Cluster]:
    """Two masters whose slots can be moved while their replicas hang, as those of Valkey cannot."""
    if "redis-8.2" not in installed():
        pytest.skip("redis-8.2 is not installed")
    with Cluster("redis-8.2", masters=2, replicas=1) as nodes:
        yield nodes


def elsewhere(nodes: Cluster, key: str) -> Server:
    """A master that does not have a key."""
    owner = nodes.master_of(key)
    return next(node for node in nodes.masters if node is not owner)


async def test_every_way_to_send(kind: Kind, nodes: Cluster, namespace: str) -> None:
    """Whatever its script uses is in one slot, which is asked for at one node."""
    listed: ms.Queue[Any] = ms.Queue("listed", store="list")
    bounded: ms.Queue[Any] = ms.Queue("bounded", bound=ms.Bound(10))
    news: ms.Topic[Any] = ms.Topic("news", ordered=True, partitions=6)
    async with connecting(kind, nodes.url, namespace) as connect:
        mq = await connect(durability="replicas:1", timeout=PATIENCE)
        receipts = [
            await mq.send(ORDERS, 1, headers={"a": "b"}),
            await mq.send(ORDERS, 2, delay=60),
            await mq.send(ORDERS, 3, unique="u", priority=3),
            await mq.send(PARTS, 1, key="k"),
            await mq.send(listed, 1),
            await mq.send(listed, 2, delay=60),
            *await mq.send_many(bounded, [1, 2]),
            *await mq.publish_many(news, list(range(20)), key=str),
        ]
    assert {receipt.durability for receipt in receipts} == {"replicas:1"}


async def goes_on(confirmed: dict[str, int]) -> None:
    """Wait until further sends are confirmed."""
    before = len(confirmed)
    await auntil(
        lambda: len(confirmed) > before + 100, PATIENCE, message="further ones are confirmed"
    )


@pytest.mark.parametrize("end", ["kill", "hang"])
async def test_a_replica_takes_over(
    kind: Kind, end: Literal["kill", "hang"], nodes: Cluster, namespace: str
) -> None:
    """What it has confirmed is there, once, and producers go on when they have a replica again."""
    key = queue_keys(namespace, "orders").ready
    victim = nodes.master_of(key)
    confirmed: dict[str, int] = {}
    async with connecting(kind, nodes.url, namespace) as connect:
        mq = await connect(timeout=PATIENCE)
        async with sending(mq, ORDERS, "replicas:1", confirmed):
            await goes_on(confirmed)
            await asyncio.to_thread(nodes.kill if end == "kill" else nodes.hang, victim)
            before = dict(confirmed)
            heir = await asyncio.to_thread(nodes.master_of, key)
            assert heir is not victim
            assert before.items() <= numbers_of(heir, key).items()
            if end == "kill":
                await asyncio.to_thread(victim.start)
            else:
                await asyncio.to_thread(nodes.resume, victim)
            await goes_on(confirmed)
    found = numbers_of(heir, key)
    assert confirmed.items() <= found.items()
    assert len(set(found.values())) == len(found)


async def test_a_slot_moves(kind: Kind, nodes: Cluster, namespace: str) -> None:
    """There and back, between sends that are confirmed: nothing is lost, or stored twice."""
    key = queue_keys(namespace, "orders").ready
    confirmed: dict[str, int] = {}
    async with connecting(kind, nodes.url, namespace) as connect:
        mq = await connect(timeout=PATIENCE)
        async with sending(mq, ORDERS, "replicas:1", confirmed):
            for _ in range(2):
                await goes_on(confirmed)
                await asyncio.to_thread(nodes.reshard, nodes.slot(key), elsewhere(nodes, key))
            await goes_on(confirmed)
    found = numbers_of(nodes.master_of(key), key)
    assert confirmed.items() <= found.items()
    assert len(set(found.values())) == len(found)


async def test_connections_that_are_idle(
    kind: Kind, nodes: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many queues that are sent to in turn, few have a connection; who is sent to again gets a new one."""
    monkeypatch.setattr(confirm, "IDLE", 0.0)
    admins: Any = [node.admin() for node in nodes.masters]

    def count() -> int:
        return sum(one["cmd"] == "exists" for admin in admins for one in admin.client_list())

    async with connecting(kind, nodes.url, namespace) as connect:
        mq = await connect(timeout=PATIENCE, durability="replicas:1")
        for _ in range(2):
            for number in range(20):
                receipt = await mq.send(ms.Queue(f"q{number}"), number)
                assert receipt.durability == "replicas:1"
        await auntil(lambda: count() <= 2, PATIENCE, message="the others are closed")


async def test_replicas_that_hang(kind: Kind, nodes: Cluster, namespace: str) -> None:
    """The error of a send_many to all nodes has all receipts; confirm makes sure of the same ones."""
    replicas = [replica for node in nodes.masters for replica in nodes.replicas_of(node)]
    count = 60
    async with connecting(kind, nodes.url, namespace) as connect:
        mq = await connect(timeout=1.5)
        receipts = await mq.send_many(PARTS, list(range(count)), key=str, durability="replicas:1")
        assert {receipt.durability for receipt in receipts} == {"replicas:1"}
        try:
            for replica in replicas:
                replica.pause()
            with pytest.raises(ms.NotConfirmed) as caught:
                await mq.send_many(
                    PARTS, list(range(count, 2 * count)), key=str, durability="replicas:1"
                )
        finally:
            for replica in replicas:
                replica.resume()
        with pytest.raises(ms.UsageError, match="this client"):
            await (await connect()).confirm(caught.value)

        async def again() -> list[ms.Receipt]:
            # Replicas that were away for so long connect anew first.
            try:
                return await mq.confirm(caught.value)
            except ms.NotConfirmed:
                return []

        more = await auntil(again, PATIENCE, message="they are back")
        assert [one.id for one in more] == [one.id for one in caught.value.receipts]
        assert {receipt.durability for receipt in more} == {"replicas:1"}
        bodies = {message.id: message.body for message in await mq.peek(PARTS, limit=1000)}
        assert [bodies[one.id] for one in (*receipts, *more)] == list(range(2 * count))


async def test_the_node_of_the_slot_is_asked(kind: Kind, nodes: Cluster, namespace: str) -> None:
    """Where a node has no append-only file, nothing is sent to it; others confirm."""
    with_file = nodes.masters[-1]
    admin: Any = with_file.admin()
    names = [f"q{number}" for number in range(30)]
    owners = {name: nodes.master_of(queue_keys(namespace, name).ready) for name in names}
    safe = next(name for name in names if owners[name] is with_file)
    unsafe = next(name for name in names if owners[name] is not with_file)
    admin.config_set("appendonly", "yes")
    try:
        async with connecting(kind, nodes.url, namespace) as connect:
            mq = await connect(timeout=PATIENCE)
            receipt = await mq.send(ms.Queue(safe), 1, durability="fsync")
            assert receipt.durability == "fsync"
            with pytest.raises(ms.ServerRefused, match="Nothing was sent") as refused:
                await mq.send(ms.Queue(unsafe), 1, durability="fsync")
            assert f":{owners[unsafe].port} " in str(refused.value)
            assert await mq.peek(ms.Queue(unsafe)) == []
    finally:
        admin.config_set("appendonly", "no")


async def test_a_slot_that_leaves_its_replicas(
    kind: Kind, movable: Cluster, namespace: str
) -> None:
    """A send that waits while its slot moves is not confirmed by a replica of the old node."""
    key = queue_keys(namespace, "orders").ready
    here, there = movable.master_of(key), elsewhere(movable, key)
    [old], [new] = movable.replicas_of(here), movable.replicas_of(there)
    node: Any = there.admin()
    async with connecting(kind, movable.url, namespace) as connect:
        mq = await connect(timeout=PATIENCE)
        await mq.send(ORDERS, 1, durability="replicas:1")
        for replica in (old, new):
            await asyncio.to_thread(movable.hang, replica)
        try:
            waiting = asyncio.create_task(mq.send(ORDERS, 2, durability="replicas:1"))
            await auntil(lambda: len(numbers_of(here, key)) == 2, PATIENCE, message="it is stored")
            await asyncio.to_thread(movable.reshard, movable.slot(key), there)
            await asyncio.to_thread(movable.resume, old)
            await auntil(
                lambda: any(client["cmd"] == "wait" for client in node.client_list()),
                PATIENCE,
                message="the new node is asked",
            )
            assert not waiting.done()
        finally:
            for replica in (old, new):
                await asyncio.to_thread(movable.resume, replica)
        receipt = await waiting
    assert receipt.durability == "replicas:1"
    found = numbers_of(there, key)
    assert (found[receipt.id], sorted(found.values())) == (2, [1, 2])
