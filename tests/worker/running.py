"""A worker that runs beside the test, and what tests ask of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import millstream as ms
from tests.support.wait import auntil

PATIENCE = 30.0
"""Seconds after which something that should have happened is missing, on a busy machine, too."""

SOON = ms.Backoff(first=0.05, factor=1, jitter=0)
"""Backoff of tests that wait for the next attempt."""

Counts = tuple[int, int, int, int]


@asynccontextmanager
async def running(
    worker: ms.Worker, mq: ms.AsyncClient, *, burst: bool = False
) -> AsyncIterator[asyncio.Task[None]]:
    """The worker runs until the block ends; what it raises, the block raises."""
    task = asyncio.create_task(worker.run(mq, burst=burst))
    try:
        yield task
    finally:
        worker.stop()
        async with asyncio.timeout(PATIENCE):
            await task


async def run_burst(worker: ms.Worker, mq: ms.AsyncClient) -> None:
    """Run the worker until its queues are drained."""
    async with asyncio.timeout(PATIENCE):
        await worker.run(mq, burst=True)


async def counts(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> Counts:
    """Ready, delayed, in flight, dead."""
    stats = await mq.stats(queue)
    return stats.ready, stats.delayed, stats.in_flight, stats.dead


async def becomes(mq: ms.AsyncClient, queue: ms.Queue[Any], wanted: Counts) -> None:
    """Wait until ready, delayed, in flight and dead are these."""

    async def there() -> bool:
        return await counts(mq, queue) == wanted

    await auntil(there, PATIENCE, message=f"(ready, delayed, in flight, dead) == {wanted}")
