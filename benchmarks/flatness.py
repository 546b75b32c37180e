"""Flatness: whether a backlog makes anything slower."""

from __future__ import annotations

import asyncio
import statistics
from collections import defaultdict
from collections.abc import Sequence

from benchmarks import ceiling
from benchmarks.consuming import first_of
from benchmarks.measure import Bench, Goal, Row, Topic
from benchmarks.messages import ORDERS
from benchmarks.sending import send_many

__all__ = ["TOPIC"]

FLAT = Goal("ratio", least=0.9, most=1.1)
TITLES = {"flat_send_many": "send_many", "flat_consume": "worker, async handler"}


def run(bench: Bench, wanted: frozenset[str]) -> list[Row]:
    """Measure at each depth, in turns, and compare with the smallest."""
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    for name in wanted:
        _rate(bench, name, bench.sizes.depths[0])  # warms up, and counts for nothing
    for number in range(1, bench.repeat + 1):
        # Up and down in turns: what a run leaves to the next one must not look like an effect.
        for depth in bench.sizes.depths[:: 1 if number % 2 else -1]:
            bench.say(f"flatness at {depth:,} ({number} of {bench.repeat})")
            for name in TITLES:
                if name in wanted:
                    rates[name, depth].append(_rate(bench, name, depth))
    base = bench.sizes.depths[0]
    return [
        _row(name, depth, rates[name, depth], rates[name, base])
        for name in TITLES
        if name in wanted
        for depth in bench.sizes.depths
    ]


TOPIC = Topic("throughput with 1,000 to 1,000,000 messages queued before", tuple(TITLES), run)


def _rate(bench: Bench, name: str, depth: int) -> float:
    messages = bench.sizes.bulk
    bench.fresh()
    if name == "flat_send_many":
        ceiling.fill(bench, depth)
        return asyncio.run(send_many(bench, messages, len(ORDERS), queued=depth)).rate
    # So many remain behind those that are handled.
    ceiling.fill(bench, depth + messages)
    return asyncio.run(first_of(bench, messages))


def _row(name: str, depth: int, rates: Sequence[float], base: Sequence[float]) -> Row:
    row = Row(
        topic="flatness",
        name=f"{name}_{depth}",
        title=f"{TITLES[name]}, {depth:,} queued",
        unit="messages/s",
        value=statistics.median(rates),
    )
    if rates is base:
        return row
    return Row(
        topic=row.topic,
        name=row.name,
        title=row.title,
        unit=row.unit,
        value=row.value,
        against="the smallest backlog",
        baseline=statistics.median(base),
        ratios=[one / other for one, other in zip(rates, base, strict=True)],
        goal=FLAT,
    )
