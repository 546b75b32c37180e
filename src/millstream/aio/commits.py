"""What commits the transactions of one consumer."""

from __future__ import annotations

import itertools
import time
import uuid
from typing import Any

from millstream.aio.retention import tend
from millstream.driver.aio import AsyncDriver
from millstream.protocol.draft import Draft
from millstream.protocol.keys import QueueKeys
from millstream.protocol.settlement import Settlement
from millstream.protocol.transaction import Commit, Committed, commit, topics_of
from millstream.topic import Source

__all__ = ["Commits"]

TENDED = 1.0
"""Seconds between two looks at what the topics keep to which transactions publish."""


class Commits:
    """The commits of one consumer, some of them on the wire at a time.

    Args:
        driver: of the client.
        source: where the deliveries come from.
        keys: of its partition.
        consumer: who owns them.
    """

    def __init__(
        self, driver: AsyncDriver, source: Source[Any], keys: QueueKeys, consumer: str
    ) -> None:
        self._driver = driver
        self._source = source
        self._keys = keys
        self._consumer = consumer
        self._name = uuid.uuid4().hex[:16]
        self._lanes = itertools.count()
        # The server remembers the last commit of each lane, so as many are made as are needed at a time.
        self._free: list[tuple[str, itertools.count[int]]] = []
        self._known: set[object] = set()
        self._tended: dict[str, float] = {}

    async def commit(self, end: Settlement, draft: Draft) -> Committed | None:
        """Do what a draft says, and end its delivery; None: it was not ours any more.

        Raises:
            UsageError, QueueFull, ServerRefused: nothing was done.
            NotConnected, TimedOut: it may be done or not.
        """
        lane = self._lane()
        try:
            await self._tend(draft)
            asked = Commit(
                *(self._source, self._keys, self._consumer, end, draft),
                lane=lane[0],
                number=next(lane[1]),
            )
            return await self._driver.drive(commit(asked, self._known))
        finally:
            self._free.append(lane)

    def _lane(self) -> tuple[str, itertools.count[int]]:
        try:
            return self._free.pop()
        except IndexError:
            return f"{self._name}-{next(self._lanes)}", itertools.count(1)

    async def _tend(self, draft: Draft) -> None:
        """Trim the topics that it publishes to, as who publishes does, now and then."""
        for topic in topics_of(self._keys, draft):
            now = time.monotonic()
            if now >= self._tended.get(topic.prefix, 0.0):
                self._tended[topic.prefix] = now + TENDED
                await tend(self._driver, topic)
