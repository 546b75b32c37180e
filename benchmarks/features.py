"""What a queue costs that asks for more than to be handled, beside the plain queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import millstream as ms
from benchmarks.consuming import plain
from benchmarks.measure import Bench, Case, Comparison, Row, Sample, Stopwatch, Topic
from benchmarks.messages import ORDERS, Order
from benchmarks.sending import send_many

__all__ = ["TOPIC"]

AT_ONCE = 500
KEYS = 1_000
MANY = 1_000_000
"""A limit that is never reached."""

SENDING = "send_many to the plain queue"
CONSUMING = "worker of the plain queue"


def _key(order: Order) -> str:
    return f"c-{order.id % KEYS}"


@dataclass(frozen=True, slots=True)
class Feature:
    """A queue that asks for more.

    Attributes:
        title: for people.
        queue: as declared.
        key: of each message; None: it has none.
        sends_alike: whether a send is that of the plain queue, so that there is nothing to measure.
    """

    title: str
    queue: ms.Queue[Order]
    key: Callable[[Order], str] | None = None
    sends_alike: bool = False


FEATURES: Mapping[str, Feature] = {
    "ordered": Feature("ordered, 1,000 keys", ms.Queue("bench", Order, ordered=True), _key),
    "partitions": Feature(
        "ordered, 1,000 keys, 8 partitions",
        ms.Queue("bench", Order, ordered=True, partitions=8),
        _key,
    ),
    "list": Feature("in a list", ms.Queue("bench", Order, store="list")),
    "at_most_once": Feature(
        "at most once", ms.Queue("bench", Order, delivery="at_most_once"), sends_alike=True
    ),
    "list_at_most_once": Feature(
        "in a list, at most once",
        ms.Queue("bench", Order, store="list", delivery="at_most_once"),
        sends_alike=True,
    ),
    "bound": Feature("with a bound", ms.Queue("bench", Order, bound=ms.Bound(MANY))),
    "rate": Feature("with a rate", ms.Queue("bench", Order, rate=ms.Rate(MANY)), sends_alike=True),
    "max_running": Feature(
        "with max_running", ms.Queue("bench", Order, max_running=MANY), sends_alike=True
    ),
}
SENDS = {f"send_{name}": one for name, one in FEATURES.items() if not one.sends_alike}
CONSUMES = {f"consume_{name}": one for name, one in FEATURES.items()}


def run(bench: Bench, wanted: frozenset[str]) -> list[Row]:
    """Measure what is wanted against the same work of a plain queue."""
    sizes = bench.sizes

    def sends(one: Feature) -> Case:
        return lambda: asyncio.run(_send(bench, one, sizes.middle * 2))

    def consumes(one: Feature) -> Case:
        return lambda: asyncio.run(_consume(bench, one, sizes.middle * 2))

    def baseline() -> Sample:
        return asyncio.run(send_many(bench, sizes.bulk, AT_ONCE))

    rows: list[Row] = []
    if some := {name: sends(one) for name, one in SENDS.items() if name in wanted}:
        found = Comparison.of_all(bench, baseline, some)
        for name, one in found.items():
            title = f"send_many, {SENDS[name].title}"
            rows.append(one.rate("features", name, title, SENDING))
    if some := {name: consumes(one) for name, one in CONSUMES.items() if name in wanted}:
        found = Comparison.of_all(bench, lambda: asyncio.run(plain(bench, sizes.bulk)), some)
        for name, one in found.items():
            title = f"worker, {CONSUMES[name].title}"
            rows.append(one.rate("features", name, title, CONSUMING))
    return rows


TOPIC = Topic("queues that ask for more, beside the plain queue", (*SENDS, *CONSUMES), run)


async def _fill(mq: ms.AsyncClient, feature: Feature, count: int) -> None:
    for start in range(0, count, AT_ONCE):
        first = start % len(ORDERS)
        size = min(AT_ONCE, count - start)
        await mq.send_many(feature.queue, ORDERS[first : first + size], key=feature.key)


async def _send(bench: Bench, feature: Feature, count: int) -> Sample:
    async with ms.AsyncClient(bench.url) as mq:
        with Stopwatch(bench.bare) as watch:
            await _fill(mq, feature, count)
        await _expect(mq, feature, count)
    return watch.sample(count)


async def _consume(bench: Bench, feature: Feature, count: int) -> Sample:
    worker = ms.Worker()
    handled = 0

    @worker.on(feature.queue)
    async def handle(_: Order) -> None:
        nonlocal handled
        handled += 1
        if handled == count:
            worker.stop()

    async with ms.AsyncClient(bench.url) as mq:
        await _fill(mq, feature, count)
        with Stopwatch(bench.bare) as watch:
            await worker.run(mq)
        await _expect(mq, feature, 0)
    return watch.sample(count)


async def _expect(mq: ms.AsyncClient, feature: Feature, messages: int) -> None:
    """Make sure that a run did what it was timed for."""
    stats = await mq.stats(feature.queue)
    found = stats.ready + stats.delayed + stats.in_flight + stats.dead
    if found != messages:
        error = f"{found} messages are in the queue, there should be {messages}"
        raise RuntimeError(error)
