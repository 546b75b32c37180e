"""What people do with schedules, from both clients."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

import millstream as ms
from tests.support.wait import auntil


@pytest.fixture
async def declared(mq: ms.AsyncClient, url: str, namespace: str, queue: ms.Queue[Any]) -> str:
    """A schedule that a worker has declared; its name. The worker is gone."""
    worker = ms.Worker()

    @worker.every("30 2 * * *", queue, tz="Europe/Berlin", missed="one")
    async def nightly() -> int:
        return 1

    async with ms.AsyncClient(url, namespace=namespace) as own:
        running = asyncio.create_task(worker.run(own))
        await auntil(lambda: own.schedules(queue))
        worker.stop()
        await running
    return "nightly"


async def test_list(mq: ms.AsyncClient, queue: ms.Queue[Any], declared: str) -> None:
    """A schedule is listed without its worker, with what was declared and the next tick."""
    (found,) = await mq.schedules(queue)

    assert (found.name, found.spec, found.tz) == ("nightly", "30 2 * * *", "Europe/Berlin")
    assert (found.missed, found.last, found.paused) == ("one", None, False)
    assert found.next is not None
    assert found.next > datetime.now(UTC)
    assert await mq.schedules(ms.Queue("other")) == []


async def test_pause_and_resume(mq: ms.AsyncClient, queue: ms.Queue[Any], declared: str) -> None:
    """A paused schedule has no next tick; both can be repeated."""
    (before,) = await mq.schedules(queue)
    for _ in range(2):
        await mq.pause_schedule(queue, declared)
    (paused,) = await mq.schedules(queue)
    assert (paused.paused, paused.next) == (True, None)

    for _ in range(2):
        await mq.resume_schedule(queue, declared)
    assert await mq.schedules(queue) == [before]


async def test_remove(mq: ms.AsyncClient, queue: ms.Queue[Any], declared: str) -> None:
    """It is gone, and the answer tells whether there was one."""
    assert await mq.remove_schedule(queue, declared)
    assert not await mq.remove_schedule(queue, declared)

    assert await mq.schedules(queue) == []
    with pytest.raises(ms.UsageError, match="no schedule 'nightly'"):
        await mq.pause_schedule(queue, declared)
    with pytest.raises(ms.UsageError, match="no schedule 'nightly'"):
        await mq.resume_schedule(queue, declared)
