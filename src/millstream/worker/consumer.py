"""One handler at work: its reader, its slots, its threads and its sweeper."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from millstream.aio.client import AsyncClient
from millstream.protocol.keys import queue_keys
from millstream.worker.calls import build_call
from millstream.worker.control import Hearer
from millstream.worker.handler import Handler, Middleware
from millstream.worker.handling import Handling
from millstream.worker.prefetch import Prefetch
from millstream.worker.reader import Reader
from millstream.worker.slots import Slots
from millstream.worker.sweeper import run_sweeper
from millstream.worker.threads import ThreadSlots

__all__ = ["Consumer"]


class Consumer:
    """Consumes one queue. ``start`` makes it, ``run`` works, ``stop`` and ``finish`` end it.

    Args:
        mq: the client.
        handler: as declared.
        reader: reads the queue.
        threads: for a plain function; None for a coroutine.
    """

    def __init__(
        self, mq: AsyncClient, handler: Handler, reader: Reader, threads: ThreadSlots | None
    ) -> None:
        self._mq = mq
        self.handler = handler
        self._reader = reader
        self._threads = threads

    @classmethod
    async def start(
        cls, mq: AsyncClient, handler: Handler, middleware: Sequence[Middleware]
    ) -> Consumer:
        """Put the actors together; nothing is read yet."""
        queue = handler.queue
        reader = Reader(
            mq.driver,
            mq.lease_keeper(),
            await mq.driver.listener(),
            queue=queue,
            keys=queue_keys(mq.namespace, queue.name),
            consumer=mq.consumer_name(),
            prefetch=Prefetch(handler.room, handler.prefetch),
        )
        threads = None
        if not handler.is_async:
            threads = ThreadSlots(handler.concurrency, f"millstream-{queue.name}")
        call = build_call(handler, middleware, threads, reader.holdings)
        interrupt = None if threads is None else threads.interrupt
        handling = Handling(handler, call, reader.holdings, interrupt)
        reader.holdings.slots = Slots(handler, handling)
        return cls(mq, handler, reader, threads)

    @property
    def name(self) -> str:
        """What the server calls this consumer."""
        return self._reader.consumer

    @property
    def hearer(self) -> Hearer:
        """Who is told of pauses and cancellations."""
        return self._reader

    @property
    def control(self) -> str:
        """Key of the stream that tells of them."""
        return queue_keys(self._mq.namespace, self.handler.queue.name).control

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do when it last looked."""
        return self._reader.idle

    async def run(self) -> None:
        """Work until stopped."""
        keys = queue_keys(self._mq.namespace, self.handler.queue.name)
        sweeper = asyncio.create_task(
            run_sweeper(self._mq.driver, keys, self.name, self.handler), name="millstream-sweeper"
        )
        try:
            await self._reader.run()
        finally:
            sweeper.cancel()
            await asyncio.wait([sweeper])

    def stop(self) -> None:
        """Stop reading; ``run`` comes to its end."""
        self._reader.stop()

    async def let_go(self) -> None:
        """Disconnect, and extend no lease any more. What is still in hand runs out."""
        await self._reader.let_go()

    async def finish(self, timeout: float) -> None:  # noqa: ASYNC109 - passed on to the handlers
        """Give running handlers some time, settle, and leave.

        Args:
            timeout: seconds until coroutines are cancelled and their messages handed back.
        """
        await self._reader.finish(timeout)
        if self._threads is not None:
            self._threads.close()
