"""Shows that a worker serves an endpoint, for as long as it does."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from millstream.driver.aio import AsyncDriver
from millstream.driver.lease_keeper import Beat, LeaseKeeper
from millstream.errors import BrokerError
from millstream.protocol.keys import QueueKeys
from millstream.protocol.partitions import join, leave

__all__ = ["BEAT", "appear", "run_presence"]

logger = logging.getLogger("millstream.worker")

BEAT = 1.5
"""Seconds between signs of life; see ``protocol.partitions.EXPIRY_MS``."""


async def appear(driver: AsyncDriver, keys: QueueKeys, member: str) -> None:
    """Serve an endpoint from now on; ``run_presence`` goes on with it.

    What a dead worker had in hand is there again as soon as another one has looked after it. Who asks
    for it at that moment must find somebody who serves it.

    Args:
        driver: of the client.
        keys: of the endpoint's queue.
        member: the worker.
    """
    try:
        await driver.run(replace(join(keys, member, None), patience=BEAT))
    except BrokerError as error:
        logger.debug("%s: callers learn late that somebody serves it: %s", keys.title, error)


async def run_presence(
    driver: AsyncDriver, keeper: LeaseKeeper, keys: QueueKeys, member: str
) -> None:
    """Serve an endpoint until cancelled: callers are told at once when nobody does.

    Signs of life come from the thread that extends leases. A handler that blocks the event loop for some
    seconds is no reason to tell callers that nobody is there.

    Args:
        driver: of the client.
        keeper: of the client, too.
        keys: of the endpoint's queue.
        member: the worker.
    """
    beat = Beat(join(keys, member, None), leave(keys, member), BEAT)
    keeper.begin(beat)
    try:
        await asyncio.Event().wait()
    finally:
        keeper.end(beat)
        try:
            await driver.run(leave(keys, member))
        except BrokerError as error:
            logger.debug("%s: callers learn late that nobody serves it: %s", keys.title, error)
