"""End to end: a producer and a worker at the same time, each in its own process."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping

import millstream as ms
from benchmarks.children import answer, child, count
from benchmarks.measure import Bench, Row, Topic
from benchmarks.messages import ORDERS, QUEUE

__all__ = ["TOPIC"]

AT_ONCE = 500
TASKS = 100

TITLES: Mapping[str, str] = {
    "end_to_end": "send_many (500 a call), async handler",
    "end_to_end_tasks": "100 awaiting tasks, async handler",
}

Produce = Callable[[ms.AsyncClient, int], Awaitable[None]]


def run(bench: Bench, wanted: frozenset[str]) -> list[Row]:
    """Measure from the first send until the worker has settled the last message."""
    producers: dict[str, tuple[Produce, int]] = {
        "end_to_end": (_in_bulk, bench.sizes.bulk),
        "end_to_end_tasks": (_from_tasks, bench.sizes.middle * 2),
    }
    rates: dict[str, list[float]] = {name: [] for name in producers if name in wanted}
    for number in range(1, bench.repeat + 1):
        for name, found in rates.items():
            bench.say(f"{name} ({number} of {bench.repeat})")
            bench.fresh()
            found.append(asyncio.run(_measure(bench, *producers[name])))
    return [
        Row(
            topic="end-to-end",
            name=name,
            title=TITLES[name],
            unit="messages/s",
            value=statistics.median(found),
        )
        for name, found in rates.items()
    ]


TOPIC = Topic("a producer and a worker at once, a process each", tuple(TITLES), run)


async def _measure(bench: Bench, produce: Produce, messages: int) -> float:
    with child(count, bench.url, messages) as pipe:
        async with ms.AsyncClient(bench.url) as mq:
            began = time.perf_counter()
            await produce(mq, messages)
            await asyncio.to_thread(answer, pipe)
            seconds = time.perf_counter() - began
    bench.expect(0)
    return messages / seconds


async def _in_bulk(mq: ms.AsyncClient, messages: int) -> None:
    for start in range(0, messages, AT_ONCE):
        first = start % len(ORDERS)
        size = min(AT_ONCE, messages - start)
        await mq.send_many(QUEUE, ORDERS[first : first + size])


async def _from_tasks(mq: ms.AsyncClient, messages: int) -> None:
    async def produce(numbers: range) -> None:
        for number in numbers:
            await mq.send(QUEUE, ORDERS[number % len(ORDERS)])

    async with asyncio.TaskGroup() as group:
        for task in range(TASKS):
            group.create_task(produce(range(task, messages, TASKS)))
