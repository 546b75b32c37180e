"""Workers that serve endpoints beside a test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import redis

import millstream as ms
from millstream.protocol.keys import QueueKeys, queue_keys
from millstream.protocol.mailbox import KEPT_MS
from tests.support.wait import auntil

PATIENCE = 30.0
"""Seconds after which something that should have happened is missing, on a busy machine, too."""


def members(admin: redis.Redis, keys: QueueKeys) -> list[str]:
    """The workers that serve an endpoint."""
    names: Any = admin.zrange(keys.members, 0, -1)
    return [name.decode() for name in names]


@asynccontextmanager
async def serving(
    admin: redis.Redis, url: str, namespace: str, *workers: ms.Worker
) -> AsyncIterator[None]:
    """The workers serve their endpoints until the block ends, each with a client of its own."""
    async with AsyncExitStack() as stack:
        tasks = []
        wanted: dict[str, int] = {}
        for worker in workers:
            mq = await stack.enter_async_context(ms.AsyncClient(url, namespace=namespace))
            tasks.append(asyncio.create_task(worker.run(mq)))
            for handler in worker.handlers:
                if handler.endpoint is None:
                    continue
                wanted[handler.queue.name] = wanted.get(handler.queue.name, 0) + 1
        try:
            for name, count in wanted.items():
                keys = queue_keys(namespace, name)
                await auntil(lambda k=keys, n=count: len(members(admin, k)) == n, PATIENCE)  # type: ignore[misc]
            yield
        finally:
            for worker in workers:
                worker.stop()
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*tasks)


@contextmanager
def in_a_thread(worker: ms.Worker, url: str, namespace: str) -> Iterator[None]:
    """The worker runs in a thread until the block ends."""
    ready = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        async with ms.AsyncClient(url, namespace=namespace) as mq:
            ready.set()
            await worker.run(mq)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield
    finally:
        loops[0].call_soon_threadsafe(worker.stop)
        thread.join(PATIENCE)


def write(admin: redis.Redis, mailbox: str, kind: str, content: bytes, **fields: Any) -> None:
    """Put something into a mailbox, as anybody could."""
    entry: dict[Any, Any] = {kind: content, **fields}
    admin.xadd(mailbox, entry, nomkstream=True)
    admin.pexpire(mailbox, KEPT_MS)
