"""Latency: from a send to the start of the handler in another process, both otherwise idle."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence

import msgspec

import millstream as ms
from benchmarks.children import answer, child, note_latencies, note_latencies_barely
from benchmarks.measure import Bench, Row, Topic
from benchmarks.messages import STAMPS, STAMPS_KEY, Stamp
from benchmarks.server import pack

__all__ = ["TOPIC", "percentile"]

PADDING = "x" * 58
"""With a stamp of today's length it makes a body of 100 bytes."""

WARM_UP = 50
"""Messages that are not counted: the first ones meet cold caches."""

PAUSES = (0.002, 0.006)
"""Seconds between sends, drawn at random so as not to keep step with any timer."""

PERCENTILES = {"latency_p50": 50, "latency_p99": 99}


def run(bench: Bench, wanted: frozenset[str]) -> list[Row]:
    """Measure, in turns with a bare socket that sleeps in XREADGROUP."""
    ours: list[Sequence[float]] = []
    bare: list[Sequence[float]] = []
    for number in range(1, bench.repeat + 1):
        bench.say(f"latency ({number} of {bench.repeat})")
        bench.fresh()
        bare.append(_of_bare(bench, bench.sizes.latencies))
        bench.fresh()
        ours.append(asyncio.run(_of_worker(bench, bench.sizes.latencies)))
    return [
        _row(name, percent, ours, bare) for name, percent in PERCENTILES.items() if name in wanted
    ]


TOPIC = Topic("from send to handler start, on an idle queue", tuple(PERCENTILES), run)


def _row(
    name: str, percent: int, ours: Sequence[Sequence[float]], bare: Sequence[Sequence[float]]
) -> Row:
    mine = [percentile(latencies, percent) * 1000 for latencies in ours]
    theirs = [percentile(latencies, percent) * 1000 for latencies in bare]
    return Row(
        topic="latency",
        name=name,
        title=f"send to start of the handler, p{percent}",
        unit="ms",
        value=statistics.median(mine),
        against="bare XADD to a sleeping XREADGROUP",
        baseline=statistics.median(theirs),
        ratios=[one / other for one, other in zip(mine, theirs, strict=True)],
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * percent // 100) - 1]


def _stamp() -> Stamp:
    return Stamp(sent=time.monotonic_ns(), padding=PADDING)


async def _of_worker(bench: Bench, messages: int) -> list[float]:
    messages += WARM_UP
    with child(note_latencies, bench.url, messages) as pipe:
        async with ms.AsyncClient(bench.url) as mq:
            for _ in range(messages):
                await mq.send(STAMPS, _stamp())
                await asyncio.sleep(random.uniform(*PAUSES))
        latencies: list[float] = await asyncio.to_thread(answer, pipe)
    return latencies[WARM_UP:]


def _of_bare(bench: Bench, messages: int) -> list[float]:
    messages += WARM_UP
    encode = msgspec.json.Encoder().encode
    with child(note_latencies_barely, bench.address, messages) as pipe:
        for _ in range(messages):
            command = ("XADD", STAMPS_KEY, "*", "b", encode(_stamp()))
            bench.bare.write(pack(command))
            bench.bare.read(1)
            time.sleep(random.uniform(*PAUSES))
        latencies: list[float] = answer(pipe)
    return latencies[WARM_UP:]
