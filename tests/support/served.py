"""A worker that serves endpoints beside the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import millstream as ms
from millstream.protocol.requests import inquire
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, running


async def served(mq: ms.AsyncClient, *endpoints: ms.Endpoint[Any, Any]) -> None:
    """Wait until callers find a worker."""
    for endpoint in endpoints:
        keys = mq.keys_of(endpoint.queue)

        async def found(keys: Any = keys) -> bool:
            is_served, _ = await mq.driver.run(inquire(keys, []))
            return is_served

        await auntil(found, PATIENCE, message=f"{endpoint.title} is served")


@asynccontextmanager
async def serving(
    worker: ms.Worker, mq: ms.AsyncClient, *endpoints: ms.Endpoint[Any, Any]
) -> AsyncIterator[None]:
    """The worker runs until the block ends, and is found by callers when it begins."""
    async with running(worker, mq):
        await served(mq, *endpoints)
        yield
