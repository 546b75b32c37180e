"""Delayed messages: how late they are, and what one takes at the server."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import millstream as ms
from benchmarks import ceiling
from benchmarks.children import answer, child, note_lateness
from benchmarks.latency import PADDING, percentile
from benchmarks.measure import Bench, Goal, Row, Topic
from benchmarks.memory import used_memory
from benchmarks.messages import ORDERS, QUEUE, STAMPS, Stamp

__all__ = ["TOPIC"]

MEMORY = "delayed_memory"
PERCENTILES = {"lateness_p50": 50, "lateness_p99": 99}

SENT_WITHIN = 15e-6
"""Seconds that scheduling one message may take before the first of all is due."""

LATEST = 5.0
"""Milliseconds that DESIGN allows a delayed message at the 99th percentile, on an idle machine."""

TASKS = 500


def run(bench: Bench, wanted: frozenset[str]) -> list[Row]:
    """Schedule messages that become due one after the other, and have a worker wait for them."""
    rows: list[Row] = []
    chosen = [name for name in PERCENTILES if name in wanted]
    if chosen:
        late: list[Sequence[float]] = []
        for number in range(1, bench.repeat + 1):
            bench.say(f"delayed messages ({number} of {bench.repeat})")
            bench.fresh()
            late.append(asyncio.run(_lateness(bench)))
        rows += [_lateness_row(bench, name, late) for name in chosen]
    if MEMORY in wanted:
        rows.append(_memory_row(bench))
    return rows


TOPIC = Topic("how late delayed messages are, and their memory", (*PERCENTILES, MEMORY), run)


def _lateness_row(bench: Bench, name: str, late: Sequence[Sequence[float]]) -> Row:
    percent = PERCENTILES[name]
    return Row(
        topic="delays",
        name=name,
        title=f"due time to start of the handler, p{percent}, {bench.sizes.delayed:,} scheduled",
        unit="ms",
        value=statistics.median(percentile(times, percent) * 1000 for times in late),
        goal=Goal("value", most=LATEST) if name == "lateness_p99" else None,
    )


async def _lateness(bench: Bench) -> list[float]:
    count = bench.sizes.delayed
    with child(note_lateness, bench.url, count) as pipe:
        async with ms.AsyncClient(bench.url) as mq:
            first = time.time() + 1 + count * SENT_WITHIN * 2
            step = bench.sizes.due_within / count
            times = iter([first + number * step for number in range(count)])

            async def schedule() -> None:
                for due in times:
                    at = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=round(due * 1000))
                    stamp = Stamp(sent=round(due * 1000) * 1_000_000, padding=PADDING)
                    await mq.send(STAMPS, stamp, at=at)

            await asyncio.gather(*(schedule() for _ in range(TASKS)))
            if time.time() > first:
                message = "the first messages were due before the last ones were scheduled"
                raise RuntimeError(message)
        late: list[float] = await asyncio.to_thread(answer, pipe)
    return late


def _memory_row(bench: Bench) -> Row:
    ours: list[float] = []
    bare: list[float] = []
    count = bench.sizes.stored
    for number in range(1, bench.repeat + 1):
        bench.say(f"memory of delayed messages ({number} of {bench.repeat})")
        bench.fresh()
        before = used_memory(bench)
        ceiling.fill(bench, count)
        bare.append((used_memory(bench) - before) / count)
        bench.fresh()
        asyncio.run(_delay(bench, 1))  # so that the server has the script
        bench.fresh()
        before = used_memory(bench)
        asyncio.run(_delay(bench, count))
        ours.append((used_memory(bench) - before) / count)
    return Row(
        topic="delays",
        name=MEMORY,
        title=f"a delayed message, {count:,} of them",
        unit="bytes/message",
        value=statistics.median(ours),
        against="bare XADD entry",
        baseline=statistics.median(bare),
        ratios=[mine / theirs for mine, theirs in zip(ours, bare, strict=True)],
    )


async def _delay(bench: Bench, messages: int) -> None:
    async with ms.AsyncClient(bench.url) as mq:
        for start in range(0, messages, len(ORDERS)):
            await mq.send_many(QUEUE, ORDERS[: messages - start], delay=86_400)
