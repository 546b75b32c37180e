"""Time limits of many waits by one timer of the event loop."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import Any

from millstream.driver.aio_home import elsewhere

__all__ = ["AsyncAlarm"]

FEW = 64
"""Waits that are over may stay in memory as long as there are no more of them."""


class AsyncAlarm:
    """Ends waits whose time is over.

    Nearly all end before. A timer for each, made and taken back, would be a sixth of what a request
    costs its client; here that is one entry, which goes with many others.
    """

    def __init__(self) -> None:
        # When, a number that is different for each, and the wait; the next one is first.
        self._waits: list[tuple[float, int, asyncio.Future[Any]]] = []
        self._numbers = itertools.count()
        self._tidy_at = FEW
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def set(self, seconds: float, wait: asyncio.Future[Any]) -> None:
        """End a wait after so many seconds, unless it has ended by then: its result is None then.

        Raises:
            UsageError: the waits before were in another event loop.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None:
                raise elsewhere()
            self._loop = loop
        waits, when = self._waits, loop.time() + seconds
        heapq.heappush(waits, (when, next(self._numbers), wait))
        if self._timer is None or when < self._timer.when():
            self._start(loop, when)
        elif len(waits) >= self._tidy_at:  # now and then is enough
            self._waits = waits = [one for one in waits if not one[2].done()]
            heapq.heapify(waits)
            # So each entry is looked at twice or so in all.
            self._tidy_at = max(FEW, 2 * len(waits))

    def __len__(self) -> int:
        """Return how many waits it has in memory, some of which may be over."""
        return len(self._waits)

    def _start(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(when, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        waits, now = self._waits, loop.time()
        while waits and (waits[0][0] <= now or waits[0][2].done()):
            wait = heapq.heappop(waits)[2]
            if not wait.done():
                wait.set_result(None)
        if waits:
            self._start(loop, waits[0][0])
