"""Delayed messages: how late they are, and what one takes at the server."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import millstream as ms
from benchmarks import ceiling
from benchmarks.ceiling import BATCH
from benchmarks.children import answer, child, note_lateness
from benchmarks.latency import PADDING, percentile
from benchmarks.measure import Bench, Goal, Row, Topic
from benchmarks.memory import used_memory
from benchmarks.messages import ORDERS, QUEUE, STAMPS, Stamp

__all__ = ["TOPIC"]

MEMORY = "delayed_memory"
RATES = {"lateness": 1_000, "busy_lateness": 10_000}
"""Messages that are due a second: what leaves the machine idle, and about half of what a worker can handle."""

PERCENTILES = {f"{name}_p{percent}": (name, percent) for name in RATES for percent in (50, 99)}

SENT_WITHIN = 30e-6
"""Seconds that scheduling one message may take before the first of all is due."""

LATEST = 5.0
"""Milliseconds that DESIGN allows a delayed message at the 99th percentile, on an idle machine."""

TASKS = 500

BARE_PART = 0.3
"""Of the messages that a worker waits for, a bare connection waits for so many: it is enough."""

BARE_POP = """
local names = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 200)
if #names > 0 then redis.call('ZREM', KEYS[1], unpack(names)) end
return names
"""


def run(bench: Bench, wanted: frozenset[str]) -> list[Row]:
    """Schedule messages that become due one after the other, and have a worker wait for them."""
    rows: list[Row] = []
    for kind, rate in RATES.items():
        chosen = [name for name, (one, _) in PERCENTILES.items() if one == kind and name in wanted]
        if not chosen:
            continue
        late: list[Sequence[float]] = []
        bare: list[Sequence[float]] = []
        for number in range(1, bench.repeat + 1):
            bench.say(f"delayed messages, {rate:,} due a second ({number} of {bench.repeat})")
            bench.fresh()
            bare.append(_lateness_of_bare(bench, rate))
            bench.fresh()
            late.append(asyncio.run(_lateness(bench, rate)))
        rows += [_lateness_row(bench, name, late, bare) for name in chosen]
    if MEMORY in wanted:
        rows.append(_memory_row(bench))
    return rows


TOPIC = Topic("how late delayed messages are, and their memory", (*PERCENTILES, MEMORY), run)


def _lateness_row(
    bench: Bench, name: str, late: Sequence[Sequence[float]], bare: Sequence[Sequence[float]]
) -> Row:
    kind, percent = PERCENTILES[name]
    mine = [percentile(times, percent) * 1000 for times in late]
    theirs = [percentile(times, percent) * 1000 for times in bare]
    return Row(
        topic="delays",
        name=name,
        title=(
            f"due time to handler, p{percent}, {bench.sizes.delayed:,} scheduled, "
            f"{RATES[kind]:,} due a second"
        ),
        unit="ms",
        value=statistics.median(mine),
        against="a bare sorted set, asked each ms",
        baseline=statistics.median(theirs),
        ratios=[one / other for one, other in zip(mine, theirs, strict=True)],
        goal=Goal("value", most=LATEST) if name == "lateness_p99" else None,
    )


def _waited(bench: Bench, rate: int) -> int:
    """Return how many of the messages become due while they are watched."""
    return min(bench.sizes.delayed, round(rate * bench.sizes.due_for))


def _lateness_of_bare(bench: Bench, rate: int) -> list[float]:
    """Take as many due names out of as large a sorted set: no body, no handler, nothing kept."""
    count, bare = bench.sizes.delayed, bench.bare
    step = 1000 / rate
    first = time.time() * 1000 + 1000 + count * SENT_WITHIN * 1000
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        pairs = (part for number in numbers for part in (round(first + number * step), number))
        bare.ask("ZADD", "due", *pairs)
    sha = bare.ask("SCRIPT", "LOAD", BARE_POP)
    late: list[float] = []
    while len(late) < _waited(bench, rate) * BARE_PART:
        # The worker's clock is the server's; here they are the same.
        now = time.time() * 1000
        names = bare.ask("EVALSHA", sha, 1, "due", int(now))
        found = time.time() * 1000
        late += [(found - round(first + int(name) * step)) / 1000 for name in names]
        time.sleep(max(0.0, int(now) + 1 - time.time() * 1000) / 1000)
    return late


async def _lateness(bench: Bench, rate: int) -> list[float]:
    count = bench.sizes.delayed
    with child(note_lateness, bench.url, _waited(bench, rate)) as pipe:
        async with ms.AsyncClient(bench.url) as mq:
            first = time.time() + 2 + count * SENT_WITHIN * 2
            step = 1 / rate
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
