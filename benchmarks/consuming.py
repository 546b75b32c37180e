"""Consuming: what one process reaches, all acknowledged, one call a message or batch."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping

import millstream as ms
from benchmarks import ceiling
from benchmarks.measure import Bench, Case, Comparison, Goal, Row, Sample, Stopwatch, Topic
from benchmarks.messages import QUEUE, Order

__all__ = ["TOPIC", "first_of", "plain"]

AGAINST = "batches of 500"

TITLES: Mapping[str, str] = {
    "consume_async": "worker, async handler",
    "consume_async_waiting": "worker, async handler that awaits",
    "consume_sync": "worker, sync handler (8 threads)",
    "consume_batch": "worker, batch handler (batch=100)",
    "consume_batch_sync": "worker, sync batch handler (batch=100)",
    "consume_receive": "receive, one awaited ack a message",
}
GOALS = {"consume_async": Goal("ratio", least=0.5)}
SERVER_CPU = "consume_server_cpu"


def run(bench: Bench, wanted: frozenset[str]) -> list[Row]:
    """Measure what is wanted against reading, acknowledging and deleting in batches."""
    sizes = bench.sizes
    cases: dict[str, Case] = {
        "consume_async": lambda: asyncio.run(plain(bench, sizes.bulk)),
        "consume_async_waiting": lambda: asyncio.run(_waiting_handler(bench, sizes.middle * 2)),
        "consume_sync": lambda: asyncio.run(_sync_handler(bench, sizes.middle)),
        "consume_batch": lambda: asyncio.run(_batch_handler(bench, sizes.bulk)),
        "consume_batch_sync": lambda: asyncio.run(_sync_batch_handler(bench, sizes.bulk)),
        "consume_receive": lambda: asyncio.run(_receive(bench, sizes.single)),
    }
    needed = wanted | {"consume_async"} if SERVER_CPU in wanted else wanted
    found = Comparison.of_all(
        bench,
        lambda: ceiling.consume(bench, sizes.bulk),
        {name: case for name, case in cases.items() if name in needed},
    )
    rows = [
        found[name].rate("consuming", name, title, AGAINST, GOALS.get(name))
        for name, title in TITLES.items()
        if name in wanted
    ]
    if SERVER_CPU in wanted:
        title = "server CPU: worker, async handler"
        rows.append(found["consume_async"].server_cpu("consuming", SERVER_CPU, title, AGAINST))
    return rows


TOPIC = Topic("what one process reaches, all acknowledged", (*TITLES, SERVER_CPU), run)


async def _drain(bench: Bench, worker: ms.Worker, count: int) -> Sample:
    """Time a worker from its start until it has stopped, with everything settled."""
    ceiling.fill(bench, count)
    async with ms.AsyncClient(bench.url) as mq:
        with Stopwatch(bench.bare) as watch:
            await worker.run(mq)
        bench.expect(0)
    return watch.sample(count)


async def plain(bench: Bench, count: int) -> Sample:
    """Handle so many messages of a plain queue by an async handler."""
    worker = ms.Worker()
    handled = 0

    @worker.on(QUEUE)
    async def handle(_: Order) -> None:
        nonlocal handled
        handled += 1
        if handled == count:
            worker.stop()

    return await _drain(bench, worker, count)


async def _waiting_handler(bench: Bench, count: int) -> Sample:
    worker = ms.Worker()
    handled = 0

    @worker.on(QUEUE)
    async def handle(_: Order) -> None:
        nonlocal handled
        await asyncio.sleep(0)
        handled += 1
        if handled == count:
            worker.stop()

    return await _drain(bench, worker, count)


async def _sync_handler(bench: Bench, count: int) -> Sample:
    worker = ms.Worker()
    loop = asyncio.get_running_loop()
    numbers = itertools.count(1)  # `+= 1` in threads would lose some

    @worker.on(QUEUE)
    def handle(_: Order) -> None:
        if next(numbers) == count:
            loop.call_soon_threadsafe(worker.stop)

    return await _drain(bench, worker, count)


async def _batch_handler(bench: Bench, count: int) -> Sample:
    worker = ms.Worker()
    handled = 0

    @worker.on(QUEUE, batch=100)
    async def handle(orders: list[Order]) -> None:
        nonlocal handled
        handled += len(orders)
        if handled == count:
            worker.stop()

    return await _drain(bench, worker, count)


async def _sync_batch_handler(bench: Bench, count: int) -> Sample:
    worker = ms.Worker()
    loop = asyncio.get_running_loop()
    handled = 0  # one batch at a time

    @worker.on(QUEUE, batch=100)
    def handle(orders: list[Order]) -> None:
        nonlocal handled
        handled += len(orders)
        if handled == count:
            loop.call_soon_threadsafe(worker.stop)

    return await _drain(bench, worker, count)


async def _receive(bench: Bench, count: int) -> Sample:
    ceiling.fill(bench, count)
    async with ms.AsyncClient(bench.url) as mq:
        with Stopwatch(bench.bare) as watch:
            async for delivery in mq.receive(QUEUE, prefetch=500, wait=0):
                await delivery.ack()
        bench.expect(0)
    return watch.sample(count)


async def first_of(bench: Bench, count: int) -> float:
    """Handle so many messages of a queue that holds more; return messages a second.

    The clock runs from the first call of the handler to the last, so that what a worker hands
    back at its end is not counted.
    """
    worker = ms.Worker()
    handled = 0
    first = last = 0.0

    @worker.on(QUEUE)
    async def handle(_: Order) -> None:
        nonlocal handled, first, last
        handled += 1
        if handled == 1:
            first = time.perf_counter()
        elif handled == count:
            last = time.perf_counter()
            worker.stop()

    async with ms.AsyncClient(bench.url) as mq:
        await worker.run(mq)
    return count / (last - first)
