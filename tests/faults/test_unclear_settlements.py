"""Settlements on a connection that is lost: what is confirmed has happened, and nobody else did it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import millstream as ms
from tests.faults.processes import sleeping
from tests.faults.working import NAMESPACE, PATIENCE, becomes, connect, running
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import auntil, until

SHORT: ms.Queue[Any] = ms.Queue("short", lease=1)
LIST: ms.Queue[Any] = ms.Queue("short-list", lease=1, store="list")
LONG: ms.Queue[Any] = ms.Queue("long", lease=300)

VERBS: dict[str, Callable[[ms.Delivery[Any]], Awaitable[None]]] = {
    "ack": lambda delivery: delivery.ack(),
    "retry": lambda delivery: delivery.retry(delay=300),
    "reject": lambda delivery: delivery.reject("not this one"),
}
settles = pytest.mark.parametrize("settle", VERBS.values(), ids=VERBS.keys())


async def first(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> ms.Delivery[Any]:
    async for delivery in mq.receive(queue, wait=PATIENCE):
        return delivery
    raise AssertionError("there is none")


@settles
@pytest.mark.parametrize("queue", [SHORT, LIST], ids=["stream", "list"])
async def test_a_receiver_that_another_has_followed(
    own_server: Server,
    proxy: Proxy,
    queue: ms.Queue[Any],
    settle: Callable[[ms.Delivery[Any]], Awaitable[None]],
) -> None:
    """Its settlement never arrived, and another had the message: that is not confirmed."""
    async with connect(own_server.url) as mq, connect(proxy.url, timeout=3) as bad:
        await mq.send(queue, 1)
        async for delivery in bad.receive(queue, prefetch=1, wait=PATIENCE):
            await asyncio.to_thread(proxy.freeze)
            settling = asyncio.ensure_future(settle(delivery))
            second = await first(mq, queue)
            assert second.crashes == 1
            await second.ack()
            with pytest.raises(ms.TimedOut, match="or another consumer has the message"):
                await settling
            break
        await becomes(mq, queue, (0, 0, 0, 0))
        assert (await mq.stats(queue)).acked == 1


async def test_a_worker_that_another_has_followed(own_server: Server, proxy: Proxy) -> None:
    """The same in a handler that acknowledges by itself."""
    worker, told, begun = ms.Worker(), list[BaseException](), asyncio.Event()

    @worker.on(SHORT, concurrency=1)
    async def handle(body: int, delivery: ms.Delivery[int]) -> None:
        await asyncio.to_thread(proxy.refuse)  # or its lease would be extended
        await asyncio.to_thread(proxy.freeze)
        begun.set()
        try:
            await delivery.ack()
        except ms.MillstreamError as error:
            told.append(error)
            raise

    async with connect(own_server.url) as mq, connect(proxy.url, timeout=3) as bad:
        async with running(worker, bad):
            await mq.send(SHORT, 1)
            async with asyncio.timeout(PATIENCE):
                await begun.wait()
            await (await first(mq, SHORT)).ack()
            await asyncio.to_thread(proxy.accept)
            await becomes(mq, SHORT, (0, 0, 0, 0))
            await auntil(lambda: told, PATIENCE)
        assert (await mq.stats(SHORT)).acked == 1
    assert [type(error) for error in told] == [ms.TimedOut]


@settles
async def test_only_the_reply_was_lost(
    own_server: Server, proxy: Proxy, settle: Callable[[ms.Delivery[Any]], Awaitable[None]]
) -> None:
    """While its lease holds, what is not ours any more was settled by us: that is confirmed."""
    async with connect(own_server.url) as mq, connect(proxy.url) as bad:
        await mq.send(LONG, 1)
        async for delivery in bad.receive(LONG, prefetch=1, wait=PATIENCE):
            await asyncio.to_thread(proxy.drop_replies, to=b"EVALSHA")
            await settle(delivery)
            break
        assert proxy.lost == 1
        assert (await mq.stats(LONG)).in_flight == 0


def test_a_receiver_that_slept(own_server: Server, proxy: Proxy) -> None:
    """What a sleep has brought is looked after, when it may have come a lease ago."""
    with ms.Client(own_server.url, namespace=NAMESPACE) as mq:
        mq.declare(SHORT)
        got: list[int] = []

        def receive() -> None:
            with ms.Client(proxy.url, namespace=NAMESPACE, timeout=60) as bad:
                for delivery in bad.receive(SHORT, wait=PATIENCE):
                    got.append(delivery.body)
                    delivery.ack()
                    if delivery.body == 2:
                        return

        thread = threading.Thread(target=receive)
        thread.start()
        until(lambda: sleeping(own_server) == 1, PATIENCE)
        proxy.stall(requests=False)
        mq.send(SHORT, 1)
        for delivery in mq.receive(SHORT, wait=PATIENCE):
            assert delivery.crashes == 1
            delivery.ack()
            break
        mq.send(SHORT, 2)
        proxy.resume()
        thread.join(3 * PATIENCE)
        assert got == [2]
