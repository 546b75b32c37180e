"""Priorities in a worker: what it holds but has not begun with keeps to them, too."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import millstream as ms
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, becomes, run_burst, running


class Door:
    """A handler that stands still at the first message, while others come; then in order."""

    def __init__(self, worker: ms.Worker, queue: ms.Queue[Any], kind: str) -> None:
        self.handled: list[Any] = []
        self.open = asyncio.Event()
        if kind == "single":
            worker.on(queue, concurrency=1, prefetch=30)(self.handle)
        else:
            worker.on(queue, batch=1, prefetch=30)(self.handle_batch)

    async def handle(self, body: Any) -> None:
        self.handled.append(body)
        await self.open.wait()

    async def handle_batch(self, bodies: list[Any]) -> None:
        await self.handle(*bodies)


@pytest.mark.parametrize("kind", ["single", "batch"])
async def test_among_equals(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any], kind: str
) -> None:
    """Urgent messages that come one read after the other are begun in the order of sending."""
    door = Door(worker, queue, kind)
    await mq.send_many(queue, range(200), priority=5)
    door.open.set()
    await run_burst(worker, mq)

    assert door.handled == [*range(200)]


@pytest.mark.parametrize("kind", ["single", "batch"])
async def test_the_highest_in_hand_is_next(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any], kind: str
) -> None:
    """However they came, a worker begins with the most urgent message that it holds."""
    door = Door(worker, queue, kind)
    async with running(worker, mq):
        await mq.send(queue, "first")
        await auntil(lambda: door.handled, PATIENCE)
        levels = [0, 3, 9, 0, 1, 3, 9, 1, 0]
        for n, level in enumerate(levels):
            await mq.send(queue, [level, n], priority=level)
            await becomes(mq, queue, (0, 0, n + 2, 0))
        door.open.set()
        await becomes(mq, queue, (0, 0, 0, 0))

    wanted = sorted(([level, n] for n, level in enumerate(levels)), key=lambda it: (-it[0], it[1]))
    assert door.handled == ["first", *wanted]
