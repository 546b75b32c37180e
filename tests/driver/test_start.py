"""Coroutines that begin at once behave in everything else as a task does."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from millstream.driver.aio_start import rest_of, start


async def test_begins_at_once() -> None:
    """What comes before the first wait is done when ``start`` returns, the rest later."""
    done, gate = list[str](), asyncio.Event()

    async def work() -> None:
        done.append("begun")
        await gate.wait()
        done.append("ended")

    tasks = set[asyncio.Task[None]]()
    task = start(work(), tasks)
    assert done == ["begun"]
    assert tasks == {task}
    gate.set()
    assert task is not None
    await task
    assert done == ["begun", "ended"]
    assert not tasks


async def test_without_a_wait() -> None:
    """A coroutine that waits for nothing needs no task."""
    done = list[str]()

    async def work() -> None:
        done.append("ended")

    assert start(work(), set()) is None
    assert done == ["ended"]


async def test_cancelled() -> None:
    """A cancellation comes where the coroutine waits, which may clean up."""
    done = list[str]()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            done.append("cleaned up")

    task = start(work(), set())
    assert task is not None
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["cleaned up"]


async def test_waits_for_what_is_there_by_then() -> None:
    """What comes between the first step and the task is not missed."""
    loop = asyncio.get_running_loop()
    first: asyncio.Future[int] = loop.create_future()
    got = list[int]()

    async def work() -> None:
        got.append(await first)

    task = start(work(), set())
    first.set_result(7)
    assert task is not None
    await task
    assert got == [7]


async def test_nothing_is_left_of_what_was_cancelled() -> None:
    """Its locals go with it, and do not wait for the garbage collector."""

    class Local:
        pass

    left = list[weakref.ref[Local]]()

    async def work() -> None:
        local = Local()
        left.append(weakref.ref(local))
        await asyncio.Event().wait()

    gc.disable()
    try:
        for _ in range(5):
            task = start(work(), set())
            assert task is not None
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            del task
        # asyncio itself may hold the last one.
        assert [ref() for ref in left[:-1]] == [None] * 4
    finally:
        gc.enable()


async def test_the_rest() -> None:
    """Results, and errors that are handled on the way, go through as with ``await``."""
    gate = asyncio.get_running_loop().create_future()

    async def work() -> Any:
        try:
            await gate
        except ValueError as error:
            await asyncio.sleep(0)
            return f"handled {error}"

    coroutine = work()
    waits_for = coroutine.send(None)
    gate.set_exception(ValueError("it"))
    assert await rest_of(coroutine, waits_for) == "handled it"
