"""Receiving and settling over a network and with a server that fail: no loss, no double, no blame."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

import millstream as ms
from tests.api.clients import PATIENCE, Connect, Kind, connecting, counts, drain, take, take_one
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import auntil


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A bad network in front of `server`."""
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
async def through(connect: Connect, proxy: Proxy) -> ms.AsyncClient:
    """A client behind the bad network."""
    return await connect(proxy.url)


async def settle_all(mq: ms.AsyncClient, queue: ms.Queue[Any], count: int, **options: Any) -> Any:
    """Receive and acknowledge until so many have come; bodies, and how often each was blamed."""
    seen = []
    async with aclosing(mq.receive(queue, wait=PATIENCE, **options)) as deliveries:
        async for delivery in deliveries:
            seen.append((delivery.body, delivery.attempt - 1 + delivery.crashes))
            await delivery.ack()
            if len(seen) == count:
                break
    return seen


async def test_a_lost_fetch(
    mq: ms.AsyncClient, through: ms.AsyncClient, proxy: Proxy, queue: ms.Queue[Any]
) -> None:
    """Messages whose reply was lost are found again at once, and not delivered twice."""
    await mq.send_many(queue, range(20))
    started = time.monotonic()
    async with aclosing(through.receive(queue, prefetch=5, wait=PATIENCE)) as deliveries:
        seen = []
        async for delivery in deliveries:
            seen.append(delivery.body)
            await delivery.ack()
            if len(seen) % 5 == 0:
                proxy.drop_replies(to=b"XREADGROUP")
            if len(seen) == 20:
                break

    assert seen == list(range(20))
    assert proxy.lost >= 3
    assert time.monotonic() - started < 15  # half a lease
    assert await counts(mq, queue) == (0, 0, 0, 0)


async def test_a_lost_fetch_does_not_bring_what_is_in_use(
    mq: ms.AsyncClient, through: ms.AsyncClient, proxy: Proxy, queue: ms.Queue[Any]
) -> None:
    """After a loss, a receiver does not deliver again what its user still holds."""
    await mq.send_many(queue, range(6))
    async with aclosing(through.receive(queue, prefetch=2, wait=PATIENCE)) as deliveries:
        held = [await anext(deliveries), await anext(deliveries)]
        proxy.drop_replies(to=b"XREADGROUP")
        rest = [await anext(deliveries) for _ in range(4)]

        assert [delivery.body for delivery in (*held, *rest)] == list(range(6))
        for delivery in (*held, *rest):
            await delivery.ack()
    assert proxy.lost == 1


@pytest.mark.parametrize("verb", ["ack", "retry", "reject", "release"])
async def test_a_lost_settlement(
    mq: ms.AsyncClient, through: ms.AsyncClient, proxy: Proxy, queue: ms.Queue[Any], verb: str
) -> None:
    """A settlement whose reply was lost is done once, and is no error."""
    await mq.send(queue, 1)
    delivery = await take_one(through, queue)
    proxy.drop_replies(to=b"EVALSHA")

    if verb == "retry":
        await delivery.retry(delay=60)
    elif verb == "reject":
        await delivery.reject("no")
    else:
        await getattr(delivery, verb)()

    expected = {
        "ack": (0, 0, 0, 0),
        "retry": (0, 1, 0, 0),
        "reject": (0, 0, 0, 1),
        "release": (1, 0, 0, 0),
    }
    assert proxy.lost == 1
    assert await counts(mq, queue) == expected[verb]


@pytest.mark.parametrize("verb", ["ack", "retry"])
async def test_a_settlement_that_did_not_arrive(
    mq: ms.AsyncClient, through: ms.AsyncClient, proxy: Proxy, queue: ms.Queue[Any], verb: str
) -> None:
    """A settlement whose request was lost with its connection is sent again."""
    await mq.send(queue, 1)
    delivery = await take_one(through, queue)
    proxy.stall(replies=False)
    settling = asyncio.create_task(getattr(delivery, verb)())
    done, _ = await asyncio.wait([settling], timeout=0.1)
    assert not done

    proxy.cut()
    proxy.resume()

    await settling
    stats = await mq.stats(queue)
    assert (stats.in_flight, stats.acked + stats.retried) == (0, 1)
    await mq.purge(queue, confirm=True)


async def test_cuts_all_the_time(
    mq: ms.AsyncClient, through: ms.AsyncClient, proxy: Proxy, queue: ms.Queue[Any]
) -> None:
    """While connections are cut again and again, each message is handled once, without blame."""
    await mq.send_many(queue, range(200))
    receiving = asyncio.create_task(settle_all(through, queue, 200, prefetch=7))
    settled = 0

    async def gets_on() -> bool:
        # Two more, so that no acknowledgement is cut twice: that is an error for its caller.
        return receiving.done() or (await mq.stats(queue)).acked >= settled + 2

    while not receiving.done():
        settled = (await mq.stats(queue)).acked
        await auntil(gets_on)
        proxy.cut()

    assert await receiving == [(number, 0) for number in range(200)]
    assert await counts(mq, queue) == (0, 0, 0, 0)


async def test_a_receiver_that_sleeps_outlives_a_cut(
    mq: ms.AsyncClient, through: ms.AsyncClient, proxy: Proxy, queue: ms.Queue[Any]
) -> None:
    """A receiver whose sleeping connection was cut wakes up for the next message."""
    receiving = asyncio.create_task(take_one(through, queue))
    await auntil(lambda: _consumers(mq, queue) if proxy.connections >= 2 else False)
    proxy.cut()

    await mq.send(queue, 1)
    started = time.monotonic()
    delivery = await receiving

    assert time.monotonic() - started < 8
    await delivery.ack()


async def _consumers(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> int:
    return len((await mq.stats(queue)).consumers)


async def test_a_server_that_stays_away(connect: Connect, proxy: Proxy, queue: Any) -> None:
    """A receiver whose server does not come back fails after the client's timeout, only once."""
    mq = await connect(proxy.url, timeout=3)
    receiving = asyncio.create_task(drain(mq, queue, wait=None))
    await auntil(lambda: proxy.connections >= 2)
    proxy.refuse()
    proxy.cut()
    started = time.monotonic()

    with pytest.raises(ms.NotConnected):
        await receiving

    assert 0.5 < time.monotonic() - started < 20
    started = time.monotonic()
    await mq.aclose()
    assert time.monotonic() - started < 20


async def test_closing_while_the_server_hangs(
    connect: Connect, proxy: Proxy, queue: ms.Queue[Any]
) -> None:
    """A client whose server hangs is closed within a few times its timeout."""
    mq, other = await connect(proxy.url, timeout=2), await connect()
    await other.send_many(queue, range(3))
    deliveries = mq.receive(queue, prefetch=3)
    await anext(deliveries)
    proxy.stall()
    started = time.monotonic()

    await mq.aclose()

    assert time.monotonic() - started < 20
    assert await counts(other, queue) == (0, 0, 3, 0)
    proxy.resume()


async def test_flushall(
    connect: Connect, queue: ms.Queue[Any], admin: redis.Redis, namespace: str
) -> None:
    """When all keys are gone, a receiver makes its queue anew; what it held is LeaseLost or gone."""
    mq = await connect()
    await mq.send(queue, "lost")
    async with aclosing(mq.receive(queue, prefetch=1, wait=PATIENCE)) as deliveries:
        held = await anext(deliveries)
        admin.unlink(*admin.keys(f"{namespace}:*"))
        # In the same millisecond, the first id of the new stream would be that of the old one.
        await auntil(lambda: datetime.now(UTC) > held.sent_at + timedelta(milliseconds=2))
        await mq.send(queue, "new")

        delivery = await anext(deliveries)
        assert delivery.body == "new"
        with pytest.raises(ms.LeaseLost):
            await held.ack()
        await delivery.ack()


# --- a server of its own ----------------------------------------------------------------------


@pytest.fixture
def lasting() -> Iterator[Server]:
    """A server that keeps its data, for the test to stop and start."""
    with Server(appendonly=True, appendfsync="always") as server:
        yield server


@pytest.fixture
async def lasting_mq(kind: Kind, lasting: Server, namespace: str) -> AsyncIterator[ms.AsyncClient]:
    """A client of that server."""
    async with connecting(kind, lasting.url, namespace) as connect:
        yield await connect()


async def test_restarts(lasting: Server, lasting_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Over restarts of a server that keeps its data, each message is handled once."""
    await lasting_mq.send_many(queue, range(60))
    seen = []
    async with aclosing(lasting_mq.receive(queue, prefetch=7, wait=PATIENCE)) as deliveries:
        async for delivery in deliveries:
            seen.append((delivery.body, delivery.crashes))
            if len(seen) % 20 == 0:
                await asyncio.to_thread(lasting.restart)
            await delivery.ack()
            if len(seen) == 60:
                break

    assert seen == [(number, 0) for number in range(60)]
    assert await counts(lasting_mq, queue) == (0, 0, 0, 0)


async def test_a_restart_while_it_sleeps(
    lasting: Server, lasting_mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A receiver that waits outlives a restart, and gets what is sent afterwards."""
    receiving = asyncio.create_task(take(lasting_mq, queue, 2))
    await auntil(lambda: _consumers(lasting_mq, queue))

    await asyncio.to_thread(lasting.restart)

    await lasting_mq.send_many(queue, [1, 2])
    assert [delivery.body for delivery in await receiving] == [1, 2]


async def test_a_failover(
    lasting: Server, lasting_mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """While its server is a replica, a receiver waits; when it is a master again, it goes on."""
    replicate: Any = lasting.admin().execute_command
    receiving = asyncio.create_task(settle_all(lasting_mq, queue, 2))
    await auntil(lambda: _consumers(lasting_mq, queue))
    replicate("REPLICAOF", "127.0.0.1", "1")
    sending = asyncio.create_task(lasting_mq.send_many(queue, [1, 2]))
    done, _ = await asyncio.wait([sending, receiving], timeout=0.5)
    assert not done

    replicate("REPLICAOF", "NO", "ONE")

    assert len(await sending) == 2
    assert await receiving == [(1, 0), (2, 0)]


async def test_settling_on_a_replica(
    lasting: Server, lasting_mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A delivery that cannot be settled now stays its owner's, who can do it again."""
    replicate: Any = lasting.admin().execute_command
    await lasting_mq.send_many(queue, [1, 2])
    one, two = await take(lasting_mq, queue, 2)
    replicate("REPLICAOF", "127.0.0.1", "1")
    for settle in (one.ack, two.retry):
        with pytest.raises(ms.BrokerError, match="READONLY"):
            await settle()

    replicate("REPLICAOF", "NO", "ONE")
    await one.ack()
    await two.retry(delay=60)

    assert await counts(lasting_mq, queue) == (0, 1, 0, 0)


async def test_settling_on_a_full_server(any_server: Server, kind: Kind, namespace: str) -> None:
    """Without memory an ack works, a retry is refused as OOM, and its owner can do it later."""
    queue: ms.Queue[Any] = ms.Queue("orders")
    async with connecting(kind, any_server.limited_url, namespace) as connect:
        mq = await connect()
        await mq.send_many(queue, [1, 2])
        one, two = await take(mq, queue, 2)
        any_server.admin().config_set("maxmemory", 1)
        try:
            await one.ack()
            with pytest.raises(ms.ServerRefused) as caught:
                await two.retry(delay=60)
        finally:
            any_server.admin().config_set("maxmemory", 0)

        assert caught.value.code == "OOM"
        await two.retry(delay=60)
        assert await counts(mq, queue) == (0, 1, 0, 0)


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_break_keeps_the_order_of_sending(
    mq: ms.AsyncClient,
    through: ms.AsyncClient,
    proxy: Proxy,
    kind: Kind,
    partitions: int,
    at_once: bool,
) -> None:
    """What is sent to an ordered queue is not overtaken by what was sent later.

    Ids grow in the order in which the server accepts messages, and order a key's messages.
    """
    queue: ms.Queue[Any] = ms.Queue("orders", ordered=True, partitions=partitions)
    numbers = range(6000)
    await through.send(queue, "first", key="k")
    proxy.delay(0.002)

    async def one_by_one() -> list[ms.Receipt]:
        # Tasks send in the order in which they call, threads in any.
        if kind == "async":
            return await asyncio.gather(*(through.send(queue, n, key="k") for n in numbers[:600]))
        return [await through.send(queue, n, key="k") for n in numbers[:200]]

    sending = through.send_many(queue, numbers, key="k") if at_once else one_by_one()
    under_way = asyncio.ensure_future(sending)
    for _ in range(6):
        before = (await mq.stats(queue)).sent
        await auntil(lambda before=before: grown(mq, queue, before, under_way), PATIENCE)  # type: ignore[misc] # mypy cannot see the type of a default
        proxy.cut()
    receipts = await under_way

    ids = [receipt.id.partition("/")[0] for receipt in receipts]
    assert ids == sorted(ids, key=lambda id: [int(part) for part in id.split("-")])
    assert (await mq.stats(queue)).sent == 1 + len(ids)
    assert await mq.purge(queue, confirm=True) == 1 + len(ids)


async def grown(
    mq: ms.AsyncClient, queue: ms.Queue[Any], before: int, under_way: asyncio.Future[Any]
) -> bool:
    """Whether more has been sent than before, or all."""
    return under_way.done() or (await mq.stats(queue)).sent > before


@pytest.mark.parametrize("where", ["ready", "delayed", "running"])
async def test_a_lost_answer_to_a_cancel(
    mq: ms.AsyncClient,
    through: ms.AsyncClient,
    proxy: Proxy,
    queue: ms.Queue[Any],
    where: str,
) -> None:
    """The message is gone, and the answer says so; there was none to cancel before or after."""
    receipt = await mq.send(queue, 1, delay=3600 if where == "delayed" else None)
    if where == "running":
        await take_one(mq, queue)
    assert not await through.cancel(queue, "1-1")  # the server knows the scripts now
    proxy.drop_replies(to=b"EVALSHA", times=2)

    assert await through.cancel(queue, receipt.id) is True

    assert proxy.lost
    assert await through.cancel(queue, receipt.id) is False
    assert await counts(mq, queue) == (0, 0, 0, 1 if where == "running" else 0)
