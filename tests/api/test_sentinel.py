"""Clients of a primary that Sentinels watch: how they find it, what they say when they do not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio.sentinel
import redis.sentinel

import millstream as ms
from tests.api.clients import Connect, Kind, connecting, counts, make, take_one
from tests.support.sentinel import SERVICE, SLOW, SentinelSetup
from tests.support.servers import PASSWORD, USER, free_port, installed
from tests.support.wait import auntil

QUEUE: ms.Queue[Any] = ms.Queue("orders")
IDLE: ms.Queue[Any] = ms.Queue("idle", lease=300)

# A user of the Sentinels who may ask where the primary is, and nothing else.
LOGIN = "sentinel_username=watch&sentinel_password=s3ntry"
WATCH = "user watch on >s3ntry +sentinel|get-master-addr-by-name"


@pytest.fixture(scope="module")
def setup() -> Iterator[SentinelSetup]:
    """One that these tests leave as it is."""
    with SentinelSetup(sentinel_extra=[WATCH]) as setup:
        yield setup


@pytest.fixture(scope="module", params=installed())
def each_setup(request: pytest.FixtureRequest) -> Iterator[SentinelSetup]:
    """One of each supported server."""
    with SentinelSetup(request.param) as setup:
        yield setup


@asynccontextmanager
async def client(
    kind: Kind, source: object, namespace: str, **options: Any
) -> AsyncIterator[ms.AsyncClient]:
    """A connected client of either kind."""
    async with connecting(kind, "", namespace) as connect:
        yield await connect(source, **options)


async def works(mq: ms.AsyncClient) -> None:
    """A message goes out and comes back."""
    await mq.send(QUEUE, 1)
    await (await take_one(mq, QUEUE)).ack()
    assert await counts(mq, QUEUE) == (0, 0, 0, 0)


# --- finding it -------------------------------------------------------------------------------


async def test_a_url(kind: Kind, each_setup: SentinelSetup, namespace: str) -> None:
    """The primary is found by its name, as a user who may not ask for its ROLE; nothing stays open."""
    url = f"{each_setup.limited_url}/0"
    async with client(kind, url, namespace) as mq:
        await works(mq)
        assert mq.url == url.replace(f":{PASSWORD}@", ":***@")
    assert not [one for one in threading.enumerate() if one.name == "millstream-sentinels"]


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
async def test_a_user_of_the_sentinels(
    kind: Kind, setup: SentinelSetup, namespace: str, scheme: str
) -> None:
    """Sentinels have users of their own, who need to be allowed one command only."""
    url = f"{scheme}{setup.limited_url.removeprefix('redis')}?{LOGIN}"
    async with client(kind, url, namespace) as mq:
        await works(mq)


async def test_security_beside_the_url(kind: Kind, setup: SentinelSetup, namespace: str) -> None:
    """User and password may stand beside the URL, for servers and Sentinels, and go before it."""
    security = ms.Security(
        username=USER,
        password=PASSWORD,
        sentinel_username="watch",
        sentinel_password="s3ntry",  # noqa: S106 - no secret
    )
    url = f"redis+sentinel://nobody:wrong@{setup.hosts}/{SERVICE}?sentinel_password=wrong"
    async with client(kind, url, namespace, security=security) as mq:
        await works(mq)


@pytest.mark.parametrize("module", [redis.sentinel, redis.asyncio.sentinel])
async def test_a_ready_made_client(
    kind: Kind, setup: SentinelSetup, namespace: str, module: Any
) -> None:
    """Sentinels, name and users are taken of a client that redis-py has made."""
    hosts = [("127.0.0.1", sentinel.port) for sentinel in setup.sentinels]
    login = {"username": "watch", "password": "s3ntry"}
    manager = module.Sentinel(hosts, sentinel_kwargs=login)
    master = manager.master_for(SERVICE, username=USER, password=PASSWORD)
    async with client(kind, master, namespace) as mq:
        await works(mq)
        assert mq.url == f"redis+sentinel://{setup.hosts}/{SERVICE}"


async def test_some_sentinels_are_enough(kind: Kind, setup: SentinelSetup, namespace: str) -> None:
    """Sentinels that hang or refuse cost a moment, and no more."""
    hosts = f"127.0.0.1:{free_port()},{setup.hosts}"
    setup.sentinels[0].pause()
    try:
        async with client(kind, f"redis+sentinel://{hosts}/{SERVICE}", namespace) as mq:
            await works(mq)
    finally:
        setup.sentinels[0].resume()


# --- what cannot be found ---------------------------------------------------------------------


async def refused(kind: Kind, url: str, kind_of_error: type[Exception]) -> str:
    """What the error says."""
    mq = make(kind, url)
    with pytest.raises(kind_of_error) as caught:
        await mq.connect()
    await mq.aclose()
    assert "s3cret" not in str(caught.value)
    return str(caught.value)


async def test_no_sentinel(kind: Kind) -> None:
    """The error names each Sentinel, and what is wrong with it."""
    one, two = free_port(), free_port()
    url = f"redis+sentinel://app:s3cret@127.0.0.1:{one},127.0.0.1:{two}/main"

    said = await refused(kind, url, ms.NotConnected)

    assert f"127.0.0.1:{one}: " in said
    assert f"127.0.0.1:{two}: " in said
    assert said.count("refused") == 2
    assert "see that they run" in said


async def test_an_unknown_name(kind: Kind, setup: SentinelSetup) -> None:
    """The error tells the names that the Sentinels know; nobody tries again and again."""
    url = f"redis+sentinel://app:s3cret@{setup.hosts}/mian"
    started = time.monotonic()

    said = await refused(kind, url, ms.ServerRefused)

    assert "knows no primary named 'mian'; it knows 'main': correct the name" in said
    assert time.monotonic() - started < 8
    # Who may not ask for the names is told less.
    assert "'main'" not in await refused(kind, f"{url}?{LOGIN}", ms.ServerRefused)


async def test_wrong_passwords(kind: Kind, setup: SentinelSetup) -> None:
    """The error tells whether the Sentinels refuse the login, or the server."""
    place = f"{setup.hosts}/{SERVICE}"
    there = f"redis+sentinel://{place}?sentinel_username=watch&sentinel_password=s3cret"
    assert "sentinel_password" in await refused(kind, there, ms.ServerRefused)

    said = await refused(kind, f"redis+sentinel://{USER}:s3cret@{place}", ms.ServerRefused)
    assert "user or password is wrong" in said
    assert "sentinel_password" not in said


async def test_a_primary_that_is_down(kind: Kind, namespace: str) -> None:
    """The error says that nobody takes its place; a client that waits goes on when it is back."""
    with SentinelSetup(replicas=0, sentinels=1) as setup:
        async with client(kind, setup.url, namespace, timeout=60) as mq:
            setup.primary.kill()
            port = setup.servers[0].port

            async def said() -> bool:
                text = await refused(kind, setup.url, ms.NotConnected)
                assert f"127.0.0.1:{port}" in text
                return "know that it is down" in text

            await auntil(said, SLOW)
            sending = asyncio.create_task(mq.send(QUEUE, 1))
            setup.servers[0].start()
            await sending
            assert (await mq.stats(QUEUE)).ready == 1


async def test_a_primary_that_is_none(kind: Kind, namespace: str) -> None:
    """A server that was named as the primary, and is a replica, gets no message; the client waits."""
    with SentinelSetup(down_after=60) as setup:
        old, other = setup.servers
        admin: Any = old.admin()
        admin.replicaof("127.0.0.1", str(other.port))
        assert "it is a replica by now" in await refused(kind, setup.url, ms.NotConnected)
        admin.replicaof("no", "one")
        async with client(kind, setup.url, namespace) as mq:
            await works(mq)


# --- going on ---------------------------------------------------------------------------------


async def test_who_sleeps_wakes_up(kind: Kind, namespace: str) -> None:
    """A reader that sleeps at a primary that hangs is at the new one by itself."""
    with SentinelSetup() as setup:
        async with client(kind, setup.url, namespace, timeout=60) as mq:
            sleeping = asyncio.create_task(take_one(mq, IDLE, wait=60))
            await auntil(lambda: asleep(setup))
            old = setup.primary
            old.pause()
            new = await asyncio.to_thread(setup.wait_for_failover, old)
            over = time.monotonic()
            await auntil(lambda: asleep(setup), 8, message=f"asleep at {new.port}")
            await mq.send(IDLE, 1)
            delivery = await sleeping
            assert time.monotonic() - over < 9  # its own limits are at 10 s and above
            await delivery.ack()


def asleep(setup: SentinelSetup) -> bool:
    """Whether somebody sleeps at the primary."""
    clients: Any = setup.admin().client_list()
    return any(one["cmd"] in {"xreadgroup", "xread"} and "b" in one["flags"] for one in clients)


# --- reading from replicas --------------------------------------------------------------------

KEPT: ms.Queue[Any] = ms.Queue("kept", keep=ms.Retain(max_age=600))
LISTED: ms.Queue[Any] = ms.Queue("listed", store="list")
ORDERED: ms.Queue[Any] = ms.Queue("ordered", ordered=True, partitions=2)
NEWS: ms.Topic[Any] = ms.Topic("news")


async def look(mq: ms.AsyncClient) -> list[Any]:
    """All that only looks."""
    seen: list[Any] = [await mq.queues(), await mq.topics(), await mq.subscriptions(NEWS)]
    for queue in (QUEUE, LISTED, ORDERED):
        stats = await mq.stats(queue)
        ready = [message.body for message in await mq.peek(queue)]
        later = [message.body for message in await mq.peek(queue, delayed=True)]
        dead = [letter.body for letter in await mq.dead(queue)]
        seen.append((stats.ready, stats.delayed, stats.dead, sorted(ready), later, dead))
    topic = await mq.stats(NEWS)
    seen.append((topic.length, topic.subscriptions[0].lag, await mq.schedules(QUEUE)))
    for stream, wanted in ((NEWS, {}), (NEWS, {"filter": "eu.>"}), (KEPT, {})):
        seen.append([message.body async for message in mq.replay(stream, **wanted)])  # type: ignore[arg-type]
    return seen


async def fill(mq: ms.AsyncClient) -> None:
    """Something for each of them to see."""
    for queue in (QUEUE, LISTED):
        await mq.send_many(queue, [1, 2, 3])
        await mq.send(queue, "later", delay=600)
        await (await take_one(mq, queue)).reject("no use")
    await mq.send_many(ORDERED, [1, 2, 3], key="k")
    await mq.send(KEPT, 1)
    await (await take_one(mq, KEPT)).ack()
    await mq.declare(NEWS.subscription("mail", start=ms.EARLIEST))
    await mq.publish(NEWS, 1, subject="eu.fr")
    await mq.publish(NEWS, 2, subject="us.ny")


def calls(setup: SentinelSetup) -> tuple[int, int]:
    """How many commands primary and replica have been asked for by clients of these tests."""
    verbs = ("evalsha", "xrange", "xrevrange", "scan", "hgetall")
    found = []
    for server in (setup.primary, setup.replicas[0]):
        stats: Any = server.admin().info("commandstats")
        found.append(sum(stats.get(f"cmdstat_{verb}", {"calls": 0})["calls"] for verb in verbs))
    return found[0], found[1]


async def test_reads_from_a_replica(kind: Kind, each_setup: SentinelSetup, namespace: str) -> None:
    """What only looks sees at a replica what it sees at the primary, and costs the primary nothing."""
    async with (
        client(kind, each_setup.limited_url, namespace) as mq,
        client(kind, each_setup.limited_url, namespace, read_from="replica") as reading,
    ):
        await fill(mq)
        await auntil(lambda: offsets_agree(each_setup), SLOW)
        at_primary = await look(mq)
        assert at_primary[3] == (2, 1, 1, [2, 3], ["later"], [1])
        primary, replica = calls(each_setup)

        assert await look(reading) == at_primary

        after_primary, after_replica = calls(each_setup)
        assert after_primary == primary
        assert after_replica - replica > 15
        # All else goes to the primary, also by this client.
        await (await take_one(reading, QUEUE)).ack()
        assert (await mq.stats(QUEUE)).ready == 1


def offsets_agree(setup: SentinelSetup) -> bool:
    one, other = (server.admin().info("replication") for server in setup.servers)
    primary, replica = sorted((one, other), key=lambda state: str(state["role"]))
    return bool(primary["master_repl_offset"] <= replica["slave_repl_offset"])


async def test_without_a_replica(kind: Kind, namespace: str) -> None:
    """Without a replica that is well, the primary is asked; with one again, that one."""
    with SentinelSetup() as setup:
        [replica] = setup.replicas
        async with client(kind, setup.url, namespace, read_from="replica", timeout=60) as mq:
            await mq.send(QUEUE, 1)
            await auntil(lambda: offsets_agree(setup), SLOW)
            assert (await mq.stats(QUEUE)).ready == 1
            assert calls(setup)[1] > 0
            replica.pause()  # so that only the Sentinels can tell
            assert (await mq.stats(QUEUE)).ready == 1
            replica.resume()
            setup.settle()

            async def moved() -> bool:
                before = calls(setup)[1]
                assert (await mq.stats(QUEUE)).ready == 1
                return calls(setup)[1] > before

            await auntil(moved, SLOW)


async def test_one_server_is_its_own_replica(mq: ms.AsyncClient, connect: Connect) -> None:
    """Without Sentinels there is one server to read from."""
    reading = await connect(read_from="replica")
    await mq.send(QUEUE, 1)
    assert (await reading.stats(QUEUE)).ready == 1


@pytest.mark.parametrize("read_from", ["secondary", None, 1])
def test_wrong_places_to_read_from(kind: Kind, read_from: Any) -> None:
    """There are two places to read from; the error names them."""
    with pytest.raises(ms.UsageError, match='"primary" or "replica"'):
        make(kind, None, read_from=read_from)
