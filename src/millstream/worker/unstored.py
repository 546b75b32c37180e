"""Ends of deliveries that a server without memory could not store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from millstream.protocol.settlement import Settlement

__all__ = ["STORE_AGAIN", "Unstored"]

logger = logging.getLogger("millstream.worker")

STORE_AGAIN = 1.0
"""Seconds until an end is tried again that a server without memory could not store."""

LAST_TRIES = 3.5
"""Seconds for that at the end of a worker. A supervisor kills one that takes five more than its handlers may."""


class Unstored:
    """Has them tried again.

    Args:
        again: called with those whose time has come.
        title: of the queue.
    """

    def __init__(self, again: Callable[[list[Settlement]], None], title: str) -> None:
        self._again = again
        self._title = title
        self._count = 0
        self._tried = asyncio.Event()

    def add(self, ends: list[Settlement], problems: Mapping[bytes, str]) -> None:
        """Try some again, in a while.

        Args:
            ends: what could not be stored.
            problems: what the server has said about each of them.
        """
        problem = problems[ends[0].token]
        logger.warning("%s: cannot settle %d deliveries yet: %s", self._title, len(ends), problem)
        self._count += len(ends)
        asyncio.get_running_loop().call_later(STORE_AGAIN, self._try, ends)

    def _try(self, ends: list[Settlement]) -> None:
        self._count -= len(ends)
        self._again(ends)
        self._tried.set()

    async def insist(self, flush: Callable[[], Awaitable[None]]) -> None:
        """Go on for a while, when nothing else is left to do.

        Args:
            flush: sends what has been tried again.
        """
        until = time.monotonic() + LAST_TRIES
        while self._count and (seconds := until - time.monotonic()) > 0:
            self._tried.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._tried.wait()
            except TimeoutError:
                return
            await flush()
