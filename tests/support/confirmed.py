"""Sends that are to be confirmed, from many tasks, and what is stored of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import millstream as ms
from tests.support.servers import Server

__all__ = ["TASKS", "numbers_of", "sending"]

TASKS = 20


@contextlib.asynccontextmanager
async def sending(
    mq: ms.AsyncClient, queue: ms.Queue[Any], durability: str, confirmed: dict[str, int]
) -> AsyncIterator[None]:
    """Send numbers from many tasks, and note those that were confirmed; errors are no news."""
    numbers = iter(range(1_000_000))

    async def produce() -> None:
        for number in numbers:
            with contextlib.suppress(ms.BrokerError):
                receipt = await mq.send(queue, number, durability=durability)
                assert receipt.durability == durability
                confirmed[receipt.id] = number

    tasks = [asyncio.create_task(produce()) for _ in range(TASKS)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            assert task.cancelled(), task.exception()


def numbers_of(server: Server, key: str) -> dict[str, int]:
    """The messages of a queue, by id."""
    entries: Any = server.admin().xrange(key)
    return {entry.decode(): int(fields[b"b"]) for entry, fields in entries}
