"""Memory: what a queued message takes at the server."""

from __future__ import annotations

import asyncio
import statistics

import millstream as ms
from benchmarks import ceiling
from benchmarks.measure import Bench, Goal, Row, Topic
from benchmarks.messages import ORDERS, QUEUE

__all__ = ["TOPIC", "used_memory"]

NAME = "memory"


def run(bench: Bench, _: frozenset[str]) -> list[Row]:
    """Compare the growth of used_memory with that by bare XADDs of the same bodies."""
    messages = bench.sizes.stored
    ours: list[float] = []
    bare: list[float] = []
    for number in range(1, bench.repeat + 1):
        bench.say(f"memory ({number} of {bench.repeat})")
        bench.fresh()
        before = used_memory(bench)
        ceiling.fill(bench, messages)
        bare.append((used_memory(bench) - before) / messages)
        bench.fresh()
        asyncio.run(_send(bench, 1))  # so that the server has the script
        bench.fresh()
        before = used_memory(bench)
        # The client is gone when we look: its buffers are no part of a message.
        asyncio.run(_send(bench, messages))
        ours.append((used_memory(bench) - before) / messages)
    row = Row(
        topic="memory",
        name=NAME,
        title=f"a queued message, {messages:,} of them",
        unit="bytes/message",
        value=statistics.median(ours),
        against="bare XADD entry",
        baseline=statistics.median(bare),
        ratios=[mine / theirs for mine, theirs in zip(ours, bare, strict=True)],
        goal=Goal("ratio", most=1.15),
    )
    return [row]


TOPIC = Topic("bytes of a queued message", (NAME,), run)


def used_memory(bench: Bench) -> int:
    """Return how many bytes the server has allocated."""
    return int(bench.bare.info("memory")["used_memory"])


async def _send(bench: Bench, messages: int) -> None:
    async with ms.AsyncClient(bench.url) as mq:
        for start in range(0, messages, len(ORDERS)):
            await mq.send_many(QUEUE, ORDERS[: messages - start])
