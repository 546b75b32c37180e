"""The users of `millstream acl` on clusters and behind Sentinels: they can do their work, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.cli.app import execute
from millstream.protocol.access import ROLES, Role, sentinel_rules
from millstream.protocol.keys import queue_keys
from tests.access.life import NAMES, PLAIN, TICKS, live
from tests.access.users import PASSWORD, add_users, refusals, remove_users
from tests.support.cluster import Cluster, Stage
from tests.support.sentinel import SERVICE, SLOW, SentinelSetup
from tests.support.servers import SHARDING, Server, installed
from tests.support.wait import until

WORKING: tuple[Role, ...] = ("producer", "worker", "operator")

HARMFUL = (
    "FLUSHALL; CONFIG SET timeout 1; KEYS *; MONITOR; SHUTDOWN; ACL LIST; REPLICAOF NO ONE; CLUSTER RESET; "
    "CLUSTER FAILOVER; CLUSTER FORGET x; CLUSTER SETSLOT 1 STABLE; CLUSTER DELSLOTS 1"
)
HARMFUL_TO_SENTINELS = (
    f"SENTINEL FAILOVER {SERVICE}; SENTINEL SET {SERVICE} quorum 9; SENTINEL RESET *; "
    f"SENTINEL REMOVE {SERVICE}; SENTINEL MONITOR x 127.0.0.1 1 1; SENTINEL CONFIG SET x y; SHUTDOWN; ACL LIST"
)
REFUSED = r"NOPERM|ACL|access|can't run"


@pytest.fixture(scope="module", params=installed(("valkey-8.1", "redis-6.2")))
def nodes(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of three; that of Redis 6.2 has no sharded Pub/Sub."""
    with Cluster(request.param, appendonly=True) as cluster:
        yield cluster


@pytest.fixture
def on_cluster(nodes: Cluster, namespace: str) -> Iterator[dict[Role, str]]:
    """A user of each role at each node; how each reaches the cluster."""
    sharded = nodes.nodes[0].name in SHARDING
    for node in nodes.nodes:
        add_users(node, namespace, names=NAMES, cluster=True, sharded=sharded, fsync=sharded)
    yield {role: _as(nodes.admin_url, namespace, role) for role in ROLES}
    for node in nodes.nodes:
        remove_users(node, namespace)


@pytest.fixture(scope="module")
def setup() -> Iterator[SentinelSetup]:
    """A primary and a replica, and Sentinels with a user of each role."""
    lines = [
        f"user {role} reset on >{PASSWORD} {' '.join(sentinel_rules([role]))}" for role in ROLES
    ]
    with SentinelSetup(sentinel_extra=lines) as setup:
        yield setup


@pytest.fixture
def watched(setup: SentinelSetup, namespace: str) -> Iterator[dict[Role, str]]:
    """A user of each role at each server; how each asks the Sentinels."""
    for server in setup.servers:
        add_users(server, namespace, names=NAMES)
    login = f"sentinel_password={PASSWORD}&sentinel_username="
    yield {role: f"{_as(setup.url, namespace, role)}?{login}{role}" for role in ROLES}
    for server in setup.servers:
        remove_users(server, namespace)


def _as(url: str, namespace: str, role: Role) -> str:
    return url.replace("://", f"://{namespace}-{role}:{PASSWORD}@")


async def _use(producer: ms.AsyncClient, worker: ms.AsyncClient, operator: ms.AsyncClient) -> None:
    await producer.send(PLAIN, "once more")
    async with aclosing(worker.receive(PLAIN, wait=SLOW)) as deliveries:
        async for delivery in deliveries:
            await delivery.ack()
            break
    await operator.stats(PLAIN)


def _refused(servers: Sequence[Server]) -> set[tuple[str, str]]:
    return {one for server in servers for one in refusals(server)}


def _calls(servers: Sequence[Server], command: str) -> int:
    stats: list[Any] = [server.admin().info("commandstats") for server in servers]
    return sum(one.get(f"cmdstat_{command}", {"calls": 0})["calls"] for one in stats)


async def test_each_role_can_do_its_work_on_a_cluster(
    nodes: Cluster, on_cluster: dict[Role, str], namespace: str
) -> None:
    """Nothing is refused, also while a slot is on its way; and each right beside is of use."""
    _refused(nodes.nodes)
    sharded = nodes.nodes[0].name in SHARDING
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(ms.AsyncClient(on_cluster[role], namespace=namespace))
            for role in WORKING
        ]
        await live(*clients, listened=TICKS)
        if sharded:
            await clients[0].send(PLAIN, 1, durability="fsync")
            await clients[2].purge(PLAIN, confirm=True)
        loop = asyncio.get_running_loop()
        using: list[Future[None]] = []

        def use(stage: Stage) -> None:
            if stage == "moved":  # the old node sends whoever comes on to the new one
                using.append(asyncio.run_coroutine_threadsafe(_use(*clients), loop))
                until(lambda: _calls(nodes.nodes, "asking") > 0, SLOW)

        slot = nodes.slot(queue_keys(namespace, PLAIN.name).ready)
        here = nodes.master_of(slot)
        there = next(node for node in nodes.nodes if node is not here)
        await asyncio.to_thread(nodes.reshard, slot, there, between=use)
        await asyncio.wrap_future(using[0])

    assert _refused(nodes.nodes) == set()
    if sharded:
        for command in ("spublish", "ssubscribe", "waitaof"):
            assert _calls(nodes.nodes, command) > 0, command


# One test for all roles: each process that runs one of several would start the nodes anew.
async def test_each_role_stays_in_its_place_on_a_cluster(
    nodes: Cluster, on_cluster: dict[Role, str], namespace: str
) -> None:
    """Each node refuses what does harm; other queues are refused wherever they lie."""
    for node in nodes.nodes:
        for role in ROLES:
            _does_no_harm(node, f"{namespace}-{role}", HARMFUL)
    for role in WORKING:
        async with ms.AsyncClient(on_cluster[role], namespace=namespace) as mq:
            for number in range(3):
                other: ms.Queue[int] = ms.Queue(f"other-{number}", int)
                with pytest.raises(ms.ServerRefused, match=REFUSED):
                    await (mq.stats(other) if role == "operator" else mq.send(other, 1))
    async with ms.AsyncClient(on_cluster["producer"], namespace=namespace) as mq:
        with pytest.raises(ms.ServerRefused, match=REFUSED):
            await anext(mq.receive(PLAIN))


def _does_no_harm(server: Server, user: str, commands: str) -> None:
    options: dict[str, Any] = {"username": user, "password": PASSWORD}
    with redis.Redis(host="127.0.0.1", port=server.port, **options) as client:
        for command in commands.split("; "):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command.split())


def test_doctor_is_fully_answered_on_a_cluster(
    nodes: Cluster,
    on_cluster: dict[Role, str],
    namespace: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The role doctor may ask all that `doctor` asks of every node, and passwords are not shown."""
    _is_told_all(on_cluster, nodes.nodes, namespace, capfd)


def _is_told_all(
    urls: dict[Role, str],
    servers: Sequence[Server],
    namespace: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with ms.Client(urls["producer"], namespace=namespace) as mq:
        mq.send(PLAIN, 1)
    words = ["--namespace", namespace, "--seconds", "0", "--role", "doctor"]
    execute(["doctor", "--url", urls["doctor"], *words])
    out, err = capfd.readouterr()
    assert all(f"server 127.0.0.1:{server.port}: " in out for server in servers)
    assert "was refused" not in out
    assert "could not be" not in out
    assert PASSWORD not in out + err


async def test_each_role_can_do_its_work_behind_sentinels(
    setup: SentinelSetup, watched: dict[Role, str], namespace: str
) -> None:
    """Nothing is refused by servers or Sentinels, neither before a failover nor behind it."""
    everybody = [*setup.servers, *setup.sentinels]
    _refused(everybody)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                ms.AsyncClient(
                    watched[role],
                    namespace=namespace,
                    timeout=SLOW,
                    read_from="replica" if role == "operator" else "primary",
                )
            )
            for role in WORKING
        ]
        reading = clients[2]
        writing = await stack.enter_async_context(
            ms.AsyncClient(watched["operator"], namespace=namespace)
        )
        await live(clients[0], clients[1], writing)
        await clients[0].send(PLAIN, 1, durability="replicas:1")
        await reading.stats(PLAIN)
        await reading.peek(PLAIN)
        await writing.purge(PLAIN, confirm=True)
        await asyncio.to_thread(setup.fail_over)
        # Until it is a replica, the old primary takes what is sent to it, and loses that.
        await asyncio.to_thread(setup.settle)
        await _use(*clients)

    assert _refused(everybody) == set()
    assert _calls(setup.servers, "wait") > 0


def test_no_role_can_command_sentinels(setup: SentinelSetup) -> None:
    """Sentinels tell where servers are, and refuse to be told anything."""
    for role in ROLES:
        _does_no_harm(setup.sentinels[0], role, HARMFUL_TO_SENTINELS)


def test_doctor_is_fully_answered_behind_sentinels(
    setup: SentinelSetup,
    watched: dict[Role, str],
    namespace: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Servers and Sentinels tell the role doctor all; the passwords of neither are shown."""
    _is_told_all(watched, setup.servers, namespace, capfd)
