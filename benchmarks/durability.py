"""What it costs to have sends confirmed by fsync: one at a time, and many that share a sync."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import millstream as ms
from benchmarks.measure import Bench, Case, Comparison, Goal, Row, Sample, Stopwatch, Topic
from benchmarks.messages import ORDERS, QUEUE

__all__ = ["TOPIC"]

TASKS = 100
MOST_AT_ONCE = 10_000

ONE_AT_A_TIME = "one task, one at a time"

TITLES: Mapping[str, str] = {
    "fsync_100_tasks": "fsync-confirmed sends from 100 tasks",
    "fsync_100_threads": "the same from 100 threads",
    "fsync_many": "send_many, confirmed, 10,000 messages a call",
}
GOALS = {"fsync_100_tasks": Goal("ratio", least=5)}


def run(bench: Bench, wanted: frozenset[str]) -> list[Row]:
    """Measure what is wanted against the same sends one at a time."""
    sizes = bench.sizes
    cases: dict[str, Case] = {
        "fsync_100_tasks": lambda: asyncio.run(_from_tasks(bench, sizes.middle, TASKS)),
        "fsync_100_threads": lambda: _from_threads(bench, sizes.middle),
        "fsync_many": lambda: asyncio.run(_many(bench, sizes.middle)),
    }
    some = {name: case for name, case in cases.items() if name in wanted}
    with _synced(bench):
        found = Comparison.of_all(
            bench, lambda: asyncio.run(_from_tasks(bench, sizes.latencies, 1)), some
        )
    return [
        one.rate("durability", name, TITLES[name], ONE_AT_A_TIME, GOALS.get(name))
        for name, one in found.items()
    ]


TOPIC = Topic("sends that are confirmed by fsync, together and alone", tuple(TITLES), run)


@contextmanager
def _synced(bench: Bench) -> Iterator[None]:
    """Have the server sync each command, so that nobody waits for the next second."""
    bench.bare.ask("CONFIG", "SET", "appendonly", "yes", "appendfsync", "always")
    try:
        yield
    finally:
        bench.bare.ask("CONFIG", "SET", "appendonly", "no")


async def _from_tasks(bench: Bench, count: int, tasks: int) -> Sample:
    async with ms.AsyncClient(bench.url, durability="fsync") as mq:

        async def produce(numbers: range) -> None:
            for number in numbers:
                await mq.send(QUEUE, ORDERS[number % len(ORDERS)])

        with Stopwatch(bench.bare) as watch:
            async with asyncio.TaskGroup() as group:
                for task in range(tasks):
                    group.create_task(produce(range(task, count, tasks)))
        bench.expect(count)
    return watch.sample(count)


def _from_threads(bench: Bench, count: int) -> Sample:
    with ms.Client(bench.url, durability="fsync") as mq:

        def produce(numbers: range) -> None:
            for number in numbers:
                mq.send(QUEUE, ORDERS[number % len(ORDERS)])

        with ThreadPoolExecutor(TASKS) as threads, Stopwatch(bench.bare) as watch:
            # Whatever one raises is raised here.
            list(threads.map(produce, (range(task, count, TASKS) for task in range(TASKS))))
        bench.expect(count)
    return watch.sample(count)


async def _many(bench: Bench, count: int) -> Sample:
    async with ms.AsyncClient(bench.url, durability="fsync") as mq:
        with Stopwatch(bench.bare) as watch:
            for start in range(0, count, MOST_AT_ONCE):
                size = min(MOST_AT_ONCE, count - start)
                await mq.send_many(QUEUE, ORDERS[:size])
        bench.expect(count)
    return watch.sample(count)
