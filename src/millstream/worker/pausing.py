"""Waiting for an event, by a timer or without one."""

from __future__ import annotations

import asyncio
import time

__all__ = ["wait_for_event"]


async def wait_for_event(event: asyncio.Event, seconds: float, *, exactly: bool) -> bool:
    """Wait until an event is set, or for so long; tell whether it is set.

    The event loop has a turn in any case.

    Args:
        event: to wait for.
        seconds: the longest wait.
        exactly: without a timer. It would be late by half a ms on average, again and again when many
            messages are due. Others have their turns of the event loop meanwhile.
    """
    if event.is_set():
        await asyncio.sleep(0)
        return True
    if exactly:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not event.is_set():  # noqa: ASYNC110 - the event's own wait has no end without a timer
            await asyncio.sleep(0)
        return event.is_set()
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            return await event.wait()
    except TimeoutError:
        return False
