# GENERATED from src/millstream/aio/retention.py by tools/unasync.py - do not edit
"""Who trims topics: publishers on their way, and who sweeps for a subscription."""

from __future__ import annotations

import logging
import math
import time
from functools import partial
from typing import Any

from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_confirming import BlockingConfirming
from millstream.driver.blocking_sender import BlockingSender, Run
from millstream.errors import BrokerError
from millstream.message import Receipt
from millstream.protocol.keys import TopicKeys
from millstream.protocol.op import Op
from millstream.protocol.retention import QUIET_MS, Trims, remove_forgotten, trim
from millstream.protocol.send import Batch

__all__ = ["Trimmer", "tend"]

logger = logging.getLogger("millstream.retention")


AGAIN = 0.05
"""Seconds between looks while there is more to delete: others use the server in between."""


class Trimmer:
    """Trims one partition of a topic while its client publishes there, without a round trip more.

    Args:
        driver: of the client.
        keys: of the partition.
    """

    def __init__(self, driver: BlockingDriver, keys: TopicKeys) -> None:
        self._driver = driver
        self.keys = keys
        self._trims = Trims(keys, time.monotonic)
        self._warned = False

    def sender(
        self, batch: Batch[Receipt], *, in_order: bool, confirming: BlockingConfirming | None
    ) -> BlockingSender[Receipt]:
        """Return what sends these batches; see ``BlockingSender``."""
        run = self._driver.run if confirming is None else confirming.run
        return self._driver.sender(
            self._trims.beside(batch),
            in_order=in_order,
            run=partial(self._run, run),
            confirming=confirming,
        )

    def _run(self, run: Run, op: Op[Any]) -> Any:
        result = run(op)
        trims = self._trims
        if trims.problem is not None and not self._warned:
            self._warned = True
            logger.warning("%s cannot be trimmed, it grows: %s", self.keys.title, trims.problem)
        if trims.forgotten:
            names, trims.forgotten = trims.forgotten, []
            _remove(self._driver, self.keys, names)
        return result


def tend(driver: BlockingDriver, keys: TopicKeys) -> float:
    """Trim a partition, and remove subscriptions that nobody needs, unless somebody has just looked.

    Args:
        driver: of the client.
        keys: of the partition.

    Returns:
        Seconds until the next look at the latest; ``inf``: it is for the caller to say. A failure
        is no news for whoever sweeps: there is a next time.
    """
    try:
        found = driver.run(trim(keys, quiet_ms=QUIET_MS))
    except BrokerError as error:
        logger.debug("%s: cannot trim: %s", keys.title, error)
        return math.inf
    _remove(driver, keys, found.forgotten)
    return AGAIN if found.more else math.inf


def _remove(driver: BlockingDriver, keys: TopicKeys, names: list[str] | tuple[str, ...]) -> None:
    for name in names:
        try:
            removed = driver.drive(remove_forgotten(keys, name))
        except BrokerError as error:
            logger.debug("%s: cannot remove subscription %r: %s", keys.title, name, error)
            continue
        if removed is not None:
            logger.warning(
                "%s: subscription %r is removed: nobody has consumed it for %.0f s. "
                "It had %d messages to handle, and %d dead letters",
                *(keys.title, name, removed.idle_ms / 1000, removed.unhandled, removed.dead),
            )
