"""Sending: what a producer reaches, encoding included."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import millstream as ms
from benchmarks import ceiling
from benchmarks.measure import Bench, Case, Comparison, Goal, Row, Sample, Stopwatch, Topic
from benchmarks.messages import ORDERS, QUEUE

__all__ = ["TOPIC", "send_many"]

PIPELINED = "pipelined XADD"
ONE_BY_ONE = "one XADD at a time"

TITLES: Mapping[str, str] = {
    "send_many": "send_many, 10,000 messages a call",
    "send_many_500": "send_many, 500 messages a call",
    "send_100_tasks": "awaited sends from 100 tasks",
    "send_10_tasks": "awaited sends from 10 tasks",
    "send_1_task": "awaited sends from 1 task",
    "send_blocking": "Client.send, blocking, one by one",
}
GOALS = {
    "send_many": Goal("ratio", least=0.8),
    "send_100_tasks": Goal("ratio", least=0.4),
}
SINGLY = {"send_1_task", "send_blocking"}
SERVER_CPU = "send_server_cpu"


def run(bench: Bench, wanted: frozenset[str]) -> list[Row]:
    """Measure what is wanted against pipelines, or against single commands where that is fair."""
    sizes = bench.sizes
    cases: dict[str, Case] = {
        "send_many": lambda: asyncio.run(send_many(bench, sizes.bulk, len(ORDERS))),
        "send_many_500": lambda: asyncio.run(send_many(bench, sizes.bulk, 500)),
        "send_100_tasks": lambda: asyncio.run(_from_tasks(bench, sizes.middle * 2, 100)),
        "send_10_tasks": lambda: asyncio.run(_from_tasks(bench, sizes.middle, 10)),
        "send_1_task": lambda: asyncio.run(_from_tasks(bench, sizes.single, 1)),
        "send_blocking": lambda: _blocking(bench, sizes.single),
    }
    needed = wanted | {"send_many"} if SERVER_CPU in wanted else wanted
    piped = {name: case for name, case in cases.items() if name in needed - SINGLY}
    single = {name: case for name, case in cases.items() if name in needed & SINGLY}
    found: dict[str, Comparison] = {}
    if piped:
        found = Comparison.of_all(bench, lambda: ceiling.send(bench, sizes.bulk), piped)
    if single:
        found |= Comparison.of_all(bench, lambda: ceiling.send_singly(bench, sizes.single), single)
    rows = [
        found[name].rate(
            "sending", name, title, ONE_BY_ONE if name in SINGLY else PIPELINED, GOALS.get(name)
        )
        for name, title in TITLES.items()
        if name in wanted
    ]
    if SERVER_CPU in wanted:
        title = "server CPU: send_many"
        rows.append(found["send_many"].server_cpu("sending", SERVER_CPU, title, PIPELINED))
    return rows


TOPIC = Topic("what a producer reaches, encoding included", (*TITLES, SERVER_CPU), run)


async def send_many(bench: Bench, count: int, at_once: int, *, queued: int = 0) -> Sample:
    """Send messages with ``send_many``, so many a call.

    Args:
        bench: the server.
        count: of messages.
        at_once: messages a call; at most 10,000.
        queued: messages that are in the queue before.
    """
    async with ms.AsyncClient(bench.url) as mq:
        with Stopwatch(bench.bare) as watch:
            for start in range(0, count, at_once):
                first = start % len(ORDERS)
                size = min(at_once, count - start)
                await mq.send_many(QUEUE, ORDERS[first : first + size])
        bench.expect(queued + count)
    return watch.sample(count)


async def _from_tasks(bench: Bench, count: int, tasks: int) -> Sample:
    async with ms.AsyncClient(bench.url) as mq:

        async def produce(numbers: range) -> None:
            for number in numbers:
                await mq.send(QUEUE, ORDERS[number % len(ORDERS)])

        with Stopwatch(bench.bare) as watch:
            async with asyncio.TaskGroup() as group:
                for task in range(tasks):
                    group.create_task(produce(range(task, count, tasks)))
        bench.expect(count)
    return watch.sample(count)


def _blocking(bench: Bench, count: int) -> Sample:
    with ms.Client(bench.url) as mq:
        with Stopwatch(bench.bare) as watch:
            for number in range(count):
                mq.send(QUEUE, ORDERS[number % len(ORDERS)])
        bench.expect(count)
    return watch.sample(count)
