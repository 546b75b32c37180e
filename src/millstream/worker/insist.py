"""Operations that have to be done before a worker can go on."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from millstream.driver.aio import AsyncDriver
from millstream.errors import BrokerError
from millstream.protocol.op import Op

__all__ = ["insist"]

logger = logging.getLogger("millstream.worker")


async def insist(driver: AsyncDriver, op: Op[Any], *, title: str, pause: float) -> None:
    """Run an operation until the server has done it.

    Args:
        driver: of the client.
        op: safe to repeat.
        title: of the queue that it is for, for the log.
        pause: seconds between two tries.
    """
    while True:
        try:
            await driver.run(op)
        except BrokerError as error:
            logger.warning("%s: %s; trying again", title, error)
            await asyncio.sleep(pause)
        else:
            return
