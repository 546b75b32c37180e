"""A time limit for coroutines most of which do not wait: those need no timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from millstream.driver.aio_start import rest_of

__all__ = ["TimeLimit"]


class TimeLimit:
    """Cancels a coroutine that takes longer; ``run`` raises TimeoutError then.

    A coroutine runs up to the point where it waits for something before its time is limited at all:
    to set a timer and to take it back costs more than a short handler does.

    Args:
        seconds: returns how long it may take; asked when the coroutine waits for the first time.
            inf: any time.

    Attributes:
        expired: whether it was cancelled because it took longer.
    """

    __slots__ = ("_seconds", "expired")

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self.expired = False

    async def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine that has not begun, and return its result."""
        try:
            waits_for = coroutine.send(None)
        except StopIteration as done:
            return done.value
        seconds = self._seconds()
        limit = asyncio.timeout(None if seconds == float("inf") else max(0.0, seconds))
        try:
            async with limit:
                return await rest_of(coroutine, waits_for)
        finally:
            self.expired = limit.expired()
