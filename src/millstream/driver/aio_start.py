"""Coroutines that begin at once: a task begins in the next turn of the event loop."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any

__all__ = ["rest_of", "start"]


def start(
    coroutine: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]
) -> asyncio.Task[None] | None:
    """Run a coroutine up to the point where it waits for something; a task does the rest of it.

    Up to there it must raise nothing, and runs in no task, or in somebody else's: so it must not use
    ``asyncio.timeout``. None: it has not waited for anything.

    Args:
        coroutine: to run.
        tasks: has the task for as long as it goes on, and one that was cancelled at once for longer.
    """
    try:
        waits_for = coroutine.send(None)
    except StopIteration:
        return None
    task = asyncio.get_running_loop().create_task(_going_on(coroutine, waits_for, tasks))
    tasks.add(task)
    return task


async def _going_on(
    coroutine: Coroutine[Any, Any, None], waits_for: Any, tasks: set[asyncio.Task[None]]
) -> None:
    try:
        await rest_of(coroutine, waits_for)
    finally:
        # A callback of the task would take one more turn of the event loop. In no variable: a traceback
        # leads to this frame.
        tasks.discard(asyncio.current_task())


@types.coroutine
def rest_of(coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    """Go on with a coroutine that has begun, as ``await`` would.

    Args:
        coroutine: it.
        waits_for: what its last step has yielded.
    """
    while True:
        value, thrown = None, None
        try:
            value = yield waits_for
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is for the coroutine
            thrown = error
        try:
            waits_for = coroutine.send(value) if thrown is None else coroutine.throw(thrown)
        except StopIteration as done:
            return done.value
        finally:
            # Its traceback leads to this frame.
            del thrown
