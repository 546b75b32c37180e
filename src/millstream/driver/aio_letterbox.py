"""What waits for one task until it is taken, on asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from millstream.driver.aio_alarm import AsyncAlarm

__all__ = ["AsyncLetterbox"]

T = TypeVar("T")


class AsyncLetterbox(Generic[T]):
    """Things in the order in which they came; one task takes them.

    Args:
        alarm: ends waits.
    """

    __slots__ = ("_alarm", "_items", "_waiter")

    def __init__(self, alarm: AsyncAlarm) -> None:
        self._alarm = alarm
        self._items: deque[T] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: T) -> None:
        """Leave something. It never waits."""
        self._items.append(item)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def take(self, seconds: float) -> T | None:
        """Take the next one; None if none has come for so long.

        Args:
            seconds: how long; inf: for ever.
        """
        while not self._items and seconds > 0:
            waiter = self._waiter = asyncio.get_running_loop().create_future()
            self._alarm.set(min(seconds, _LONGEST), waiter)
            try:
                await waiter
            finally:
                self._waiter = None
            seconds -= _LONGEST
        return self._items.popleft() if self._items else None


_LONGEST = 86_400.0
"""Seconds that asyncio's clocks are fit for; a longer wait is several of them."""
