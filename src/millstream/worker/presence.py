"""Shows that a worker serves an endpoint, for as long as it does."""

from __future__ import annotations

import asyncio
import logging

from millstream.driver.aio import AsyncDriver
from millstream.errors import BrokerError
from millstream.protocol.keys import QueueKeys
from millstream.protocol.partitions import join, leave

__all__ = ["BEAT", "run_presence"]

logger = logging.getLogger("millstream.worker")

BEAT = 1.5
"""Seconds between signs of life; see ``protocol.partitions.EXPIRY_MS``."""


async def run_presence(driver: AsyncDriver, keys: QueueKeys, member: str) -> None:
    """Serve an endpoint until cancelled: callers are told at once when nobody does.

    Args:
        driver: of the client.
        keys: of the endpoint's queue.
        member: the worker.
    """
    try:
        while True:
            try:
                await driver.run(join(keys, member, None))
            except BrokerError as error:
                # The reader says it louder.
                logger.debug("%s: cannot show that it is served: %s", keys.title, error)
            await asyncio.sleep(BEAT)
    finally:
        try:
            await driver.run(leave(keys, member))
        except BrokerError as error:
            logger.debug("%s: callers learn late that nobody serves it: %s", keys.title, error)
