"""A worker in this process, and the record of what it handled."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sized
from contextlib import asynccontextmanager
from typing import Any

import millstream as ms
from tests.support.wait import auntil

PATIENCE = 30.0
"""Seconds after which something that should have happened is missing, on a busy machine, too."""

NAMESPACE = "t-faults"

LONG: ms.Queue[Any] = ms.Queue("long", lease=300)
"""A queue whose leases do not run out during a test: what comes back did so for another reason."""

Counts = tuple[int, int, int, int]


class Record:
    """What was handled, and when."""

    def __init__(self) -> None:
        self.handled: Counter[Any] = Counter()
        self.times: dict[Any, float] = {}

    def note(self, body: Any) -> None:
        self.handled[body] += 1
        self.times[body] = time.monotonic()

    def __len__(self) -> int:
        return len(self.handled)

    @property
    def twice(self) -> list[Any]:
        """What was handled more than once."""
        return sorted(body for body, count in self.handled.items() if count > 1)


def recording(queue: ms.Queue[Any], **options: Any) -> tuple[ms.Worker, Record]:
    """A worker that handles everything at once, in batches or not, and records it."""
    worker, record = ms.Worker(), Record()

    async def handle(body: Any) -> None:
        await asyncio.sleep(0)
        record.note(body)

    async def handle_batch(bodies: list[Any]) -> None:
        await asyncio.sleep(0)
        for body in bodies:
            record.note(body)

    worker.on(queue, **options)(handle_batch if "batch" in options else handle)
    return worker, record


@asynccontextmanager
async def running(worker: ms.Worker, mq: ms.AsyncClient) -> AsyncIterator[asyncio.Task[None]]:
    """The worker runs until the block ends; what it raises, the block raises."""
    task = asyncio.create_task(worker.run(mq))
    try:
        yield task
    finally:
        worker.stop()
        async with asyncio.timeout(3 * PATIENCE):
            await task


async def reaches(items: Sized, count: int, *, every: float = 0.001) -> None:
    """Wait until there are so many."""
    await auntil(lambda: len(items) >= count, PATIENCE, every, message=f"{count} of them")


def connect(url: str, **options: Any) -> ms.AsyncClient:
    """A client in the namespace of these tests."""
    return ms.AsyncClient(url, namespace=NAMESPACE, **options)


async def counts(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> Counts:
    """Ready, delayed, in flight, dead."""
    stats = await mq.stats(queue)
    return stats.ready, stats.delayed, stats.in_flight, stats.dead


async def becomes(mq: ms.AsyncClient, queue: ms.Queue[Any], wanted: Counts) -> None:
    """Wait until ready, delayed, in flight and dead are these."""

    async def there() -> bool:
        return await counts(mq, queue) == wanted

    await auntil(there, PATIENCE, message=f"(ready, delayed, in flight, dead) == {wanted}")
