"""A time limit: for coroutines that wait, from the point where they do."""

from __future__ import annotations

import asyncio
import math

import pytest

from millstream.worker.time_limit import TimeLimit


async def test_who_does_not_wait() -> None:
    """It is not asked how long a coroutine may take that waits for nothing."""

    async def work() -> int:
        return 7

    def never() -> float:
        raise AssertionError

    limit = TimeLimit(never)
    assert await limit.run(work()) == 7
    assert not limit.expired


async def test_in_time() -> None:
    """A result that comes in time is passed on, and so is an error."""

    async def work(problem: bool) -> int:
        await asyncio.sleep(0)
        if problem:
            raise TimeoutError
        return 7

    limit = TimeLimit(lambda: 60.0)
    assert await limit.run(work(False)) == 7
    with pytest.raises(TimeoutError):
        await limit.run(work(True))
    assert not limit.expired


async def test_too_late() -> None:
    """A coroutine that takes longer is cancelled where it waits, and the limit says so."""
    cancelled = list[bool]()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    limit = TimeLimit(lambda: 0.01)
    with pytest.raises(TimeoutError):
        await limit.run(work())
    assert limit.expired
    assert cancelled == [True]


async def test_any_time() -> None:
    """With no limit nothing is cancelled; a cancellation from outside is none of its own."""
    limit = TimeLimit(lambda: math.inf)
    task = asyncio.ensure_future(limit.run(asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not limit.expired
