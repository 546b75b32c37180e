# GENERATED from src/millstream/aio/rounds.py by tools/unasync.py - do not edit
"""Looks after those who wait for long, once a second, beside the reader of their mailbox."""

from __future__ import annotations

import logging
import time
from typing import Protocol

from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_background import BlockingBackground
from millstream.errors import BrokerError, UsageError

__all__ = ["EACH", "Rounds", "Waiting"]

logger = logging.getLogger("millstream.requests")

EACH = 1.0
"""Seconds from one round to the next."""

LAST_MOMENT = 2.0
"""Seconds that a round has to end when the client is closed."""


class Waiting(Protocol):
    """Those who wait for something that comes to the mailbox."""

    @property
    def is_waiting(self) -> bool:
        """Whether there is anybody to look after."""
        ...

    def look_after(self) -> None:
        """Find out what has become of that for which they have waited for long."""
        ...

    def fail(self, error: BrokerError) -> None:
        """Tell all who wait that nothing will come."""
        ...


class Rounds:
    """One round at a time, and none while nobody waits.

    A round asks servers that may hang, so it is work of its own: replies are handed out meanwhile.

    Args:
        driver: of the client.
    """

    def __init__(self, driver: BlockingDriver) -> None:
        self._driver = driver
        self._all: list[Waiting] = []
        self._round: BlockingBackground | None = None
        self._next_at = 0.0
        self._closed = False

    def add(self, waiting: Waiting) -> None:
        """Look after these, too."""
        self._all.append(waiting)

    def begin(self) -> None:
        """Begin a round if it is time for one; for the reader. It does not wait."""
        now = time.monotonic()
        if now < self._next_at:
            return
        self._next_at = now + EACH
        if self._round is not None and self._round.is_running:
            return
        if any(one.is_waiting for one in self._all):
            try:
                self._round = self._driver.background(self._run, "millstream-mailbox-round")
            except RuntimeError as error:
                # No further thread can be had now. Replies are handed out all the same.
                logger.debug("cannot look after those who wait: %s", error)

    def _run(self) -> None:
        for one in self._all:
            if self._closed:
                return
            try:
                one.look_after()
            except (BrokerError, UsageError) as error:
                # Others may wait for something at another node.
                logger.debug("cannot look after those who wait: %s", error)
            except Exception:
                # A bug: others may have better luck.
                logger.exception("cannot look after those who wait")

    def fail(self, error: BrokerError) -> None:
        """Tell all who wait that nothing will come."""
        for one in self._all:
            one.fail(error)

    def close(self) -> None:
        """Wait for the end of a round, and begin no more."""
        self._closed = True
        if self._round is not None:
            self._round.join(LAST_MOMENT)
