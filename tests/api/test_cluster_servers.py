"""Clusters of each supported server, and one whose nodes speak TLS: the life of a message on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

import millstream as ms
from millstream.protocol.keys import queue_keys
from tests.api.clients import Kind, connecting
from tests.support.cluster import Cluster
from tests.support.served import serving
from tests.support.servers import PASSWORD, USER, Server, installed
from tests.support.tls_proxy import tls_proxy
from tests.support.wait import until

PATIENCE = 30.0

ORDERS: ms.Queue[Any] = ms.Queue("{shop}.orders")
MAILS: ms.Queue[Any] = ms.Queue("{shop}.mails")
PARTS: ms.Queue[Any] = ms.Queue("parts", ordered=True, partitions=8)
PLACED: ms.Topic[Any] = ms.Topic("placed")
TICKS: ms.Topic[Any] = ms.Topic("ticks", durable=False)
DOUBLE: ms.Endpoint[int, int] = ms.Endpoint("double", int, int)


@pytest.fixture(params=installed())
def nodes(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three masters of a server."""
    with Cluster(request.param) as nodes:
        yield nodes


@pytest.fixture
async def mq(nodes: Cluster, namespace: str) -> AsyncIterator[ms.AsyncClient]:
    """A client of the cluster."""
    async with ms.AsyncClient(nodes.url, namespace=namespace) as mq:
        yield mq


async def bodies(deliveries: Any) -> list[Any]:
    """What there is, acknowledged."""
    found = []
    async for delivery in deliveries:
        found.append(delivery.body)
        await delivery.ack()
    return found


async def test_the_life_of_a_message(nodes: Cluster, mq: ms.AsyncClient) -> None:
    """Queues, partitions, topics, transactions and endpoints, while a slot moves to another node."""
    worker = ms.Worker()

    @worker.on(DOUBLE)
    async def double(number: int) -> int:
        return 2 * number

    async with asyncio.timeout(PATIENCE):
        await mq.send(ORDERS, 1)
        await mq.send(ORDERS, 2, delay=0.01)
        key = mq.keys_of(ORDERS).ready
        owner = nodes.master_of(key)
        there = next(node for node in nodes.masters if node is not owner)
        await asyncio.to_thread(nodes.reshard, nodes.slot(key), there)
        async for delivery in mq.receive(ORDERS):
            async with delivery.transaction() as tx:
                tx.send(MAILS, delivery.body)
            if delivery.body == 2:
                break
        assert await bodies(mq.receive(MAILS, wait=0)) == [1, 2]

        await mq.send_many(PARTS, range(50), key=str)
        assert sorted(await bodies(mq.receive(PARTS, wait=0))) == [*range(50)]

        await mq.publish(PLACED, 1)
        assert await bodies(mq.subscribe(PLACED, "audit", start=ms.EARLIEST, wait=0)) == [1]
        async with mq.subscribe(TICKS) as feed:
            await mq.publish(TICKS, 1)
            heard = await anext(feed)
            assert isinstance(heard, ms.Heard)
            assert heard.body == 1

        async with serving(worker, mq, DOUBLE):
            assert await mq.request(DOUBLE, 21) == 42


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, str]]:
    """Two masters that tell clients a name and a port at which they speak TLS; the URL of one of them."""
    authority = trustme.CA()
    certificate: Path = tmp_path_factory.mktemp("tls") / "authority.pem"
    authority.cert_pem.write_to_path(str(certificate))
    with Cluster(masters=2) as nodes, ExitStack() as stack:
        ports = [stack.enter_context(tls_proxy(node.port, authority)) for node in nodes.nodes]
        for node, port in zip(nodes.nodes, ports, strict=True):
            admin: Any = node.admin()
            admin.config_set("cluster-announce-port", port)
            admin.config_set("cluster-announce-hostname", "localhost")
            admin.config_set("cluster-preferred-endpoint-type", "hostname")
        for node in nodes.nodes:
            until(lambda node=node: told_by(node) == told_by(nodes.nodes[0]), PATIENCE)  # type: ignore[misc]
        until(lambda: len(told_by(nodes.nodes[0])) == len(nodes.nodes), PATIENCE)
        login = f"{USER}:{PASSWORD}@localhost:{ports[0]}"
        yield nodes, f"rediss+cluster://{login}?ssl_ca_certs={certificate}"


def told_by(node: Server) -> set[tuple[str, int]]:
    """Where clients are sent that ask a node; only what is no plain port counts."""
    admin: Any = node.admin()
    slots = admin.execute_command("CLUSTER SLOTS")
    places = {(bytes(master[0] or b"").decode(), int(master[1])) for _, _, master, *_ in slots}
    return {place for place in places if place[0] == "localhost"}


async def test_over_tls(kind: Kind, secure: tuple[Cluster, str], namespace: str) -> None:
    """All nodes are reached over TLS, by the name that their certificates are for, and so are redirections."""
    nodes, url = secure
    async with connecting(kind, url, namespace) as connect, asyncio.timeout(PATIENCE):
        mq = await connect()
        queues: list[ms.Queue[Any]] = [ms.Queue(f"{kind}-{number}") for number in range(20)]
        for queue in queues[1:]:
            await mq.send(queue, queue.name)
            assert await bodies(mq.receive(queue, wait=0)) == [queue.name]

        slot = nodes.slot(queue_keys(namespace, queues[0].name).ready)
        admins: list[Any] = [node.admin() for node in nodes.nodes]
        [to] = [
            name
            for name in (admin.execute_command("CLUSTER MYID").decode() for admin in admins)
            if name != owner_of(admins[0], slot)
        ]
        for admin in admins:
            admin.execute_command("CLUSTER SETSLOT", slot, "NODE", to)
        await mq.send(queues[0], "moved")
        assert await bodies(mq.receive(queues[0], wait=0)) == ["moved"]


def owner_of(admin: Any, slot: int) -> str:
    """What the cluster calls the node that has a slot."""
    slots = admin.execute_command("CLUSTER SLOTS")
    [name] = [master[2] for first, last, master, *_ in slots if first <= slot <= last]
    return str(name.decode())
