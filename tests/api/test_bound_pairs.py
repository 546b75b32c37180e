"""A bound beside what else a queue can do: group commit, lost replies, keys, pauses, schedules."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest

import millstream as ms
from tests.api.clients import Connect, Kind, connecting, counts, drain, take, take_one
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import auntil

OnFull = Literal["reject", "wait", "drop_oldest"]


def bounded(length: int, on_full: OnFull, **options: Any) -> ms.Queue[Any]:
    return ms.Queue("orders", bound=ms.Bound(length, on_full=on_full), **options)


@pytest.fixture(autouse=True)
async def threads() -> AsyncIterator[None]:
    """A thread for each blocking call, also of those that wait for room."""
    with ThreadPoolExecutor(250) as executor:
        asyncio.get_running_loop().set_default_executor(executor)
        yield


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
async def far(
    kind: Kind, proxy: Proxy, server: Server, namespace: str
) -> AsyncIterator[ms.AsyncClient]:
    """A client behind the proxy."""
    login = server.limited_url.partition("//")[2].rpartition("@")[0]
    async with connecting(kind, proxy.url.replace("//", f"//{login}@"), namespace) as connect:
        yield await connect()


def later(mq: ms.AsyncClient, queue: ms.Queue[Any], body: Any, **options: Any) -> asyncio.Task[Any]:
    """A send of its own task, which may wait."""
    return asyncio.create_task(mq.send(queue, body, **options))


async def waiting(server: Server, namespace: str, count: int = 1) -> None:
    """Until so many producers wait for room."""
    admin: Any = server.admin()
    key = f"{namespace}:{{orders}}:senders"
    await auntil(lambda: admin.zcard(key) == count, 30, message=f"{count} wait")


@asynccontextmanager
async def measured(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> AsyncIterator[list[int]]:
    """How many messages the queue has had, each time somebody looked."""
    lengths: list[int] = []

    async def look() -> None:
        while True:
            ready, delayed, in_flight, _ = await counts(mq, queue)
            lengths.append(ready + delayed + in_flight)

    looking = asyncio.create_task(look())
    try:
        yield lengths
    finally:
        looking.cancel()
        await asyncio.wait([looking])


# --- group commit -------------------------------------------------------------------------------


@pytest.mark.parametrize("on_full", ["reject", "wait", "drop_oldest"])
async def test_a_hundred_tasks(
    kind: Kind, url: str, namespace: str, connect: Connect, on_full: OnFull
) -> None:
    """Sends that leave together never exceed the bound, while messages come and go."""
    queue = bounded(10, on_full)
    producers = [await connect() for _ in range(2)]
    consumer = await connect()
    async with ms.AsyncClient(url, namespace=namespace) as mq, measured(mq, queue) as lengths:
        sends = [
            later(producer, queue, [one, number], headers={"n": str(number)})
            for number in range(50)
            for one, producer in enumerate(producers)
        ]
        sends += [asyncio.create_task(one.send_many(queue, [1, 2, 3])) for one in producers]
        done = asyncio.gather(*sends, return_exceptions=True)
        handled = 0
        while not done.done():
            handled += len(await drain(consumer, queue, prefetch=2))
        handled += len(await drain(consumer, queue))
        outcomes = await done
        stats = await mq.stats(queue)
    assert max(lengths, default=0) <= 10
    names = Counter(type(one).__name__ for one in outcomes)
    assert set(names) <= {"Receipt", "list"} | ({"QueueFull"} if on_full != "wait" else set())
    assert stats.sent == names["Receipt"] + 3 * names["list"]
    assert stats.acked == handled == stats.sent - stats.dropped
    if on_full == "wait":
        assert stats.sent == 106


# --- lost replies -------------------------------------------------------------------------------


@pytest.mark.parametrize("on_full", ["wait", "drop_oldest"])
async def test_a_lost_reply_is_one_send(
    far: ms.AsyncClient, proxy: Proxy, mq: ms.AsyncClient, on_full: OnFull
) -> None:
    """A repeated call stores its message once, drops no second one, and has the first receipt."""
    queue = bounded(2, on_full)
    await far.send_many(queue, [1, 2])
    if on_full == "wait":
        await (await take_one(mq, queue)).ack()
    proxy.drop_replies(to=b"EVALSHA", times=2)
    receipt = await far.send(queue, 3)

    assert proxy.lost == 2
    assert [one.body for one in await mq.peek(queue)] == [2, 3]
    assert [one.id for one in await mq.peek(queue)][1] == receipt.id
    assert (await mq.stats(queue)).sent == 3
    assert (await mq.stats(queue)).dropped == (1 if on_full == "drop_oldest" else 0)


async def test_lost_replies_while_it_waits(
    far: ms.AsyncClient, proxy: Proxy, mq: ms.AsyncClient, server: Server, namespace: str
) -> None:
    """Whichever answer is lost (there is no room; keep the place; stored), it is stored once, in turn."""
    queue = bounded(2, "wait")
    await far.send_many(queue, [1, 2])
    proxy.drop_replies(to=b"EVALSHA")
    batch = asyncio.create_task(far.send_many(queue, [3, 4]))
    await waiting(server, namespace)
    behind = later(mq, queue, 5)
    await waiting(server, namespace, 2)
    await auntil(lambda: proxy.lost == 1, 30)
    proxy.drop_replies(to=b"EVALSHA")
    await auntil(lambda: proxy.lost == 2, 30)
    proxy.drop_replies(to=b"EVALSHA")
    got = [delivery.body for delivery in await drain(mq, queue, prefetch=1)]
    await auntil(lambda: proxy.lost == 3, 30)
    await batch
    got += [delivery.body for delivery in await drain(mq, queue, prefetch=1)]
    await behind
    got += [delivery.body for delivery in await drain(mq, queue, prefetch=1)]

    assert got == [1, 2, 3, 4, 5]


# --- keys ---------------------------------------------------------------------------------------


async def test_unique_and_ordered(mq: ms.AsyncClient, server: Server, namespace: str) -> None:
    """Who waits is stored in the line of its key; a duplicate passes it; the order holds."""
    queue = bounded(2, "wait", ordered=True)
    first = await mq.send(queue, 1, key="k", unique="a")
    await mq.send(queue, 2, key="k", unique="b")
    third = later(mq, queue, 3, key="k", unique="c")
    await waiting(server, namespace)

    again = await asyncio.wait_for(mq.send(queue, 9, key="k", unique="a"), 30)
    assert (again.id, again.duplicate) == (first.id, True)
    delivery = await take_one(mq, queue)
    await delivery.ack()
    assert not (await asyncio.wait_for(third, 30)).duplicate
    assert (await mq.send(queue, 9, unique="c")).duplicate

    assert [one.body for one in await drain(mq, queue)] == [2, 3]


async def test_one_of_two_that_wait_is_the_other(
    mq: ms.AsyncClient, connect: Connect, server: Server, namespace: str
) -> None:
    """Two producers that wait with the same unique key are one message and two receipts."""
    queue = bounded(1, "wait")
    await mq.send(queue, 1)
    sends = []
    for number in (2, 3):
        sends.append(later(await connect(), queue, number, unique="u"))
        await waiting(server, namespace, number - 1)
    await (await take_one(mq, queue)).ack()

    receipts = await asyncio.wait_for(asyncio.gather(*sends), 30)
    assert len({receipt.id for receipt in receipts}) == 1
    assert [receipt.duplicate for receipt in receipts] == [False, True]
    assert [one.body for one in await drain(mq, queue)] == [2]


@pytest.mark.parametrize("end", ["retry", "expired"])
async def test_what_does_not_end_and_what_does(
    mq: ms.AsyncClient, server: Server, namespace: str, end: str
) -> None:
    """A retry keeps its place in the queue; a message that expires gives it to who waits."""
    queue = bounded(1, "wait")
    await mq.send(queue, 1, ttl=0.05 if end == "expired" else None)
    sent = later(mq, queue, 2)
    early: list[ms.Delivery[int]] = []
    await waiting(server, namespace)
    if end == "retry":
        await (await take_one(mq, queue)).retry(delay=0.05)
        (again,) = await take(mq, queue)
        assert (again.attempt, sent.done()) == (2, False)
        await again.ack()
    else:
        await asyncio.sleep(0.06)  # the work itself
        # Its place may be taken before this ends.
        early = await drain(mq, queue)

    await asyncio.wait_for(sent, 30)
    assert [one.body for one in early + await drain(mq, queue)] == [2]


# --- what exceeds it ----------------------------------------------------------------------------


async def test_what_is_not_refused(mq: ms.AsyncClient, connect: Connect) -> None:
    """Redriven messages and those of producers without a bound may exceed it; sends wait then."""
    queue = bounded(2, "reject")
    await mq.send_many(queue, [1, 2])
    for delivery in await take(mq, queue, 2):
        await delivery.reject("no")
    await mq.send_many(queue, [3, 4])

    assert await mq.redrive(queue) == 2
    await (await connect()).send(ms.Queue("orders"), 5)
    with pytest.raises(ms.QueueFull, match="it has 5 messages and its bound is 2"):
        await mq.send(queue, 6)

    assert [one.body for one in await drain(mq, queue)] == [3, 4, 1, 2, 5]
