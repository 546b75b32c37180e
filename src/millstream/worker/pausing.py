"""Waiting for an event, by a timer or without one."""

from __future__ import annotations

import asyncio
import time

__all__ = ["wait_for_event"]


async def wait_for_event(event: asyncio.Event, seconds: float, *, exactly: bool) -> None:
    """Wait until an event is set, or for so long; then a timer may have set it.

    The event loop has a turn in any case.

    Args:
        event: to wait for.
        seconds: the longest wait.
        exactly: without a timer. It would be late by half a ms on average, again and again when many
            messages are due. Others have their turns of the event loop meanwhile.
    """
    if event.is_set():
        await asyncio.sleep(0)
    elif exactly:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not event.is_set():  # noqa: ASYNC110 - the event's own wait has no end without a timer
            await asyncio.sleep(0)
    else:
        # ``asyncio.timeout`` costs three times as much, and there is a wait for each message that comes alone.
        timer = asyncio.get_running_loop().call_later(max(0.0, seconds), event.set)
        try:
            await event.wait()
        finally:
            timer.cancel()
