"""A sleeping reader is told of what it cannot see: it, or another one, sees to it in time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import redis

import millstream as ms
from tests.support.readers import sleeping_readers
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, becomes, running


@pytest.mark.parametrize("options", [{"delay": 0.1}, {"priority": 3}])
async def test_whoever_has_no_room_passes_it_on(
    mq: ms.AsyncClient, other: ms.AsyncClient, admin: redis.Redis, options: dict[str, Any]
) -> None:
    """A wake-up that a busy worker gets is not lost on the idle one."""
    queue: ms.Queue[Any] = ms.Queue("orders")
    busy, idle = ms.Worker(), ms.Worker()
    go_on = asyncio.Event()
    begun: dict[Any, float] = {}

    @busy.on(queue, concurrency=1, prefetch=10)
    async def hold(body: int) -> None:
        await go_on.wait()

    @idle.on(queue)
    async def handle(body: str) -> None:
        begun[body] = time.monotonic()

    await mq.send_many(queue, range(8))
    async with running(busy, mq):
        await becomes(mq, queue, (0, 0, 8, 0))
        async with running(idle, other):
            await auntil(lambda: len(sleeping_readers(admin)) == 2, PATIENCE)
            sent = time.monotonic()
            await mq.send(queue, "this", **options)
            await auntil(lambda: begun, PATIENCE)
            assert begun["this"] - sent < 10
            go_on.set()
            await becomes(mq, queue, (0, 0, 0, 0))
