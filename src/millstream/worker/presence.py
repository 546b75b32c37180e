"""Shows that a worker serves an endpoint, for as long as it does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from millstream.driver.aio import AsyncDriver
from millstream.driver.lease_keeper import Beat, LeaseKeeper
from millstream.errors import BrokerError
from millstream.protocol.keys import QueueKeys
from millstream.protocol.partitions import join, leave

__all__ = ["BEAT", "presence"]

logger = logging.getLogger("millstream.worker")

BEAT = 1.5
"""Seconds between signs of life; see ``protocol.partitions.EXPIRY_MS``."""


@asynccontextmanager
async def presence(
    driver: AsyncDriver, keeper: LeaseKeeper, keys: QueueKeys, member: str
) -> AsyncIterator[None]:
    """Serve an endpoint until the block ends: callers are told at once when nobody does.

    It begins before the block does. What a dead worker had in hand is there again as soon as another one has
    looked after it; who asks for it at that moment must find somebody who serves it.

    Signs of life come from the thread that extends leases. A handler that blocks the event loop for some
    seconds is no reason to tell callers that nobody is there.

    Args:
        driver: of the client.
        keeper: of the client, too.
        keys: of the endpoint's queue.
        member: the worker.
    """
    here, gone = join(keys, member, None), leave(keys, member)
    beat = Beat(here, gone, BEAT)
    keeper.begin(beat)
    try:
        try:
            # The thread may be late with it.
            await driver.run(replace(here, patience=BEAT))
        except BrokerError as error:
            logger.debug("%s: callers learn late that somebody serves it: %s", keys.title, error)
        yield
    finally:
        keeper.end(beat)
        if not beat.rests.is_set():
            # It would bring the worker back for a moment, and who asks all workers then would wait for it.
            await asyncio.to_thread(beat.rests.wait, BEAT)
        try:
            await driver.run(gone)
        except BrokerError as error:
            logger.debug("%s: callers learn late that nobody serves it: %s", keys.title, error)
