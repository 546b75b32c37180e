"""Topics: what it costs that many subscriptions get a message, and reading what was published."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import millstream as ms
from benchmarks import ceiling
from benchmarks.measure import Bench, Case, Comparison, Goal, Row, Sample, Stopwatch, Topic
from benchmarks.messages import LOG_KEY, ORDERS, Order
from benchmarks.messages import TOPIC as PLACED

__all__ = ["TOPIC"]

AT_ONCE = 10_000
"""Messages a call, as many as `send_many` has."""

PUBLISHES: Mapping[str, int] = {f"publish_to_{count}": count for count in (1, 10, 100)}
FANS: Mapping[str, int] = {f"fan_out_{count}": count for count in (1, 10, 100)}
REPLAY = "replay"

REPLAYED = Goal("ratio", least=0.5)


def run(bench: Bench, wanted: frozenset[str]) -> list[Row]:
    """Measure publishing, deliveries to all subscriptions, and replay, each with its own ceiling."""
    bulk = bench.sizes.bulk

    def publishes(count: int) -> Case:
        return lambda: asyncio.run(_publish(bench, count, bulk))

    def delivers(count: int) -> Case:
        return lambda: asyncio.run(_deliver(bench, count, max(1, bulk // count)))

    rows: list[Row] = []
    if some := {name: publishes(count) for name, count in PUBLISHES.items() if name in wanted}:
        found = Comparison.of_all(bench, lambda: ceiling.send(bench, bulk), some)
        for name, one in found.items():
            title = f"publish_many, {_subscriptions(PUBLISHES[name])}"
            rows.append(one.rate("topics", name, title, "pipelined XADD"))
    if some := {name: delivers(count) for name, count in FANS.items() if name in wanted}:
        found = Comparison.of_all(bench, lambda: ceiling.consume(bench, bulk), some)
        for name, one in found.items():
            title = f"deliveries of a worker, {_subscriptions(FANS[name])}"
            rows.append(one.rate("topics", name, title, "batches of 500"))
    if REPLAY in wanted:
        found = Comparison.of_all(
            bench,
            lambda: ceiling.read_all(bench, bulk, LOG_KEY),
            {REPLAY: lambda: asyncio.run(_replay(bench, bulk))},
        )
        rows.append(found[REPLAY].rate("topics", REPLAY, "replay", "XRANGE of 500", REPLAYED))
    return rows


TOPIC = Topic("what topics cost, by the number of subscriptions", (*PUBLISHES, *FANS, REPLAY), run)


def _subscriptions(count: int) -> str:
    return f"{count} subscription{'s'[: count != 1]}"


async def _subscribe(mq: ms.AsyncClient, count: int) -> None:
    for number in range(count):
        await mq.declare(PLACED.subscription(f"s{number}"))


async def _publish_all(mq: ms.AsyncClient, messages: int) -> None:
    for start in range(0, messages, AT_ONCE):
        first = start % len(ORDERS)
        size = min(AT_ONCE, messages - start)
        await mq.publish_many(PLACED, ORDERS[first : first + size])


async def _publish(bench: Bench, count: int, messages: int) -> Sample:
    async with ms.AsyncClient(bench.url) as mq:
        await _subscribe(mq, count)
        with Stopwatch(bench.bare) as watch:
            await _publish_all(mq, messages)
        await _expect(mq, [messages] * count)
    return watch.sample(messages)


async def _deliver(bench: Bench, count: int, messages: int) -> Sample:
    """Time a worker from its start until each subscription has handled each message."""
    worker = ms.Worker()
    handled, deliveries = 0, count * messages

    async def handle(_: Order) -> None:
        nonlocal handled
        handled += 1
        if handled == deliveries:
            worker.stop()

    for number in range(count):
        worker.on(PLACED, subscription=f"s{number}")(handle)
    async with ms.AsyncClient(bench.url) as mq:
        await _subscribe(mq, count)
        await _publish_all(mq, messages)
        with Stopwatch(bench.bare) as watch:
            await worker.run(mq)
        await _expect(mq, [0] * count)
    return watch.sample(deliveries)


async def _replay(bench: Bench, messages: int) -> Sample:
    ceiling.fill(bench, messages, LOG_KEY)
    found = 0
    async with ms.AsyncClient(bench.url) as mq:
        with Stopwatch(bench.bare) as watch:
            async for _ in mq.replay(PLACED):
                found += 1
    if found != messages:
        error = f"{found} messages were replayed, there should be {messages}"
        raise RuntimeError(error)
    return watch.sample(messages)


async def _expect(mq: ms.AsyncClient, left: list[int]) -> None:
    """Make sure that a run did what it was timed for: so much is left to each subscription."""
    stats = await mq.stats(PLACED)
    found = [one.lag + one.in_flight for one in stats.subscriptions]
    if found != left:
        error = f"{found} messages are left to the subscriptions, there should be {left}"
        raise RuntimeError(error)
