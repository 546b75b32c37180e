"""Offers to take over expired leases of a queue; one worker at a time is elected to do so.

For a subscription it also trims the topic, for there may be nobody who publishes to it.
"""

from __future__ import annotations

import asyncio
import logging

from millstream.aio.retention import tend
from millstream.driver.aio import AsyncDriver
from millstream.errors import BrokerError
from millstream.protocol.keys import QueueKeys
from millstream.protocol.recover import sweep
from millstream.worker.handler import Handler

__all__ = ["run_sweeper"]

logger = logging.getLogger("millstream.worker")


async def run_sweeper(
    driver: AsyncDriver, keys: QueueKeys, consumer: str, handler: Handler
) -> None:
    """Sweep whenever the server says that it is time, until cancelled.

    It does not poll: the answer tells when the next lease can run out at the earliest.
    """
    op = sweep(
        keys,
        consumer,
        lease_ms=handler.queue.lease_ms,
        max_crashes=handler.retry.max_crashes,
    )
    while True:
        pause = 1.0
        try:
            swept = await driver.run(op)
        except BrokerError as error:
            # The reader says it louder. It also makes the queue anew after a flush.
            logger.debug("%s: cannot sweep: %s", keys.title, error)
        else:
            pause = swept.wait_ms / 1000
            if swept.moved or swept.died:
                logger.warning(
                    "%s: took over %d deliveries of dead consumers, %d to the dead letters",
                    *(keys.name, swept.moved, swept.died),
                )
            if swept.elected and keys.subscription:
                pause = min(pause, await tend(driver, keys.topic))
        await asyncio.sleep(pause)
