"""Producers that wait for room while processes and servers die, and while a queue is paused."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import millstream as ms
from tests.faults.processes import Workshop
from tests.faults.working import NAMESPACE, becomes, connect, counts
from tests.support.servers import Server
from tests.support.wait import auntil, until

PRODUCER = f"""
queue = ms.Queue("jobs", bound=ms.Bound(1, on_full="wait", timeout=None))

with ms.Client(namespace={NAMESPACE!r}) as mq:
    record("sending")
    mq.send(queue, "never")
    record("sent")
"""

JOBS: ms.Queue[Any] = ms.Queue("jobs", bound=ms.Bound(1, on_full="wait", timeout=60))


def tickets(server: Server) -> int:
    waiting: Any = server.admin().zcard(f"{NAMESPACE}:{{jobs}}:senders")
    return int(waiting)


async def acknowledged(mq: ms.AsyncClient) -> AsyncGenerator[Any, None]:
    """Handle what comes, one after the other."""
    async with aclosing(mq.receive(JOBS, prefetch=1, wait=60)) as deliveries:
        async for delivery in deliveries:
            await delivery.ack()
            yield delivery.body


async def test_a_producer_that_is_killed(workshop: Workshop, own_server: Server) -> None:
    """Killed while it is the first in line of a paused queue, it holds nobody up, and sends nothing."""
    workshop.write(PRODUCER)
    async with connect(own_server.url) as mq:
        await mq.send(JOBS, 1)
        await mq.pause(JOBS)
        producer = workshop.script()
        await auntil(lambda: tickets(own_server) == 1, 30)
        second = asyncio.create_task(mq.send(JOBS, 2))
        await auntil(lambda: tickets(own_server) == 2, 30)

        producer.send(signal.SIGKILL)
        await mq.resume(JOBS)
        async with aclosing(acknowledged(mq)) as bodies:
            assert [await anext(bodies), await anext(bodies)] == [1, 2]

        await asyncio.wait_for(second, 30)
        await becomes(mq, JOBS, (0, 0, 0, 0))
        assert workshop.events("sent") == []
        # Whatever is left of those who waited expires.
        until(lambda: not own_server.admin().exists(f"{NAMESPACE}:{{jobs}}:alive"), 30)


async def test_a_server_that_is_killed(durable_server: Server) -> None:
    """Who waits waits on after it, is served when the queue goes on, and is stored once."""
    async with connect(durable_server.url, timeout=30) as mq, connect(durable_server.url) as other:
        await mq.send(JOBS, 1)
        await mq.pause(JOBS)
        sends = [asyncio.create_task(mq.send(JOBS, number)) for number in (2, 3)]
        await auntil(lambda: tickets(durable_server) == 1, 30)

        await asyncio.to_thread(durable_server.kill)
        await asyncio.to_thread(durable_server.start)
        assert (await other.stats(JOBS)).paused
        assert await counts(other, JOBS) == (1, 0, 0, 0)
        await other.resume(JOBS)
        async with aclosing(acknowledged(other)) as bodies:
            assert [await anext(bodies) for _ in range(3)] == [1, 2, 3]

        receipts = await asyncio.wait_for(asyncio.gather(*sends), 30)
        assert len({receipt.id for receipt in receipts}) == 2
        await becomes(other, JOBS, (0, 0, 0, 0))
        assert (await other.stats(JOBS)).sent == 3
