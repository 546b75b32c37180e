"""A queue in partitions at work: a consumer for each partition in this worker's share.

Shares follow from who is a member, and every worker computes its own. Ownership is no lock: the
order of a key is kept at the server, so two workers that read the same partition for a moment, or
one that was stopped and does not know yet, do no harm (docs/adr/0011).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Mapping, Sequence

from millstream.aio.client import AsyncClient
from millstream.errors import BrokerError
from millstream.protocol.control import Word
from millstream.protocol.envelope import Envelope
from millstream.protocol.partitions import join, leave, share_of
from millstream.worker.consumer import Consumer, Share
from millstream.worker.control import Hearer
from millstream.worker.handler import Handler, Middleware
from millstream.worker.permits import Permits, Turn
from millstream.worker.threads import threads_of

__all__ = ["Partitions", "Work", "begin"]

logger = logging.getLogger("millstream.worker")

BEAT = 1.5
"""Seconds between signs of life. Members that are not heard of for two of them have lost their
share; see ``protocol.partitions.EXPIRY_MS``."""


class Partitions:
    """Consumes the partitions of one queue that fall to this worker; its face is a consumer's.

    Args:
        mq: the client.
        handler: as declared.
        middleware: around each call.
    """

    def __init__(self, mq: AsyncClient, handler: Handler, middleware: Sequence[Middleware]) -> None:
        self._mq = mq
        self.handler = handler
        self._middleware = middleware
        self.name = mq.consumer_name()
        self._keys = mq.keys_of(handler.queue)
        self._permits = Permits(handler.concurrency)
        self._threads = threads_of(handler)
        # A partition may come back before the last message of the time before has ended. So each
        # time has a name of its own, and what it holds is not taken for the other's.
        self._times = itertools.count(1)
        self._reading: dict[int, tuple[Consumer, asyncio.Task[None]]] = {}
        self._leaving: dict[asyncio.Task[None], Consumer] = {}
        self._joined = False
        self._look = asyncio.Event()
        self._stopping = False

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do when it last looked."""
        busy = self._leaving or not self._joined
        return not busy and all(consumer.idle for consumer, _ in self._reading.values())

    @property
    def share(self) -> frozenset[int]:
        """The partitions that it reads."""
        return frozenset(self._reading)

    # What the worker hears of the queue

    @property
    def hearers(self) -> Mapping[str, Hearer]:
        """Keys of the streams that tell of pauses and the like, each with who is told."""
        partitions = range(self.handler.queue.partitions)
        return {self._keys.at(one).control: _Hearing(self, one) for one in partitions}

    def at(self, partition: int) -> list[Consumer]:
        """Return the consumers of a partition: the one that reads it, and those that leave it."""
        reading = [self._reading[partition][0]] if partition in self._reading else []
        return reading + [one for one in self._leaving.values() if one.partition == partition]

    def moved(self) -> None:
        """Look what falls to this worker now: its members have changed."""
        self._look.set()

    # Its life

    async def run(self) -> None:
        """Work until stopped."""
        try:
            while not self._stopping:
                self._look.clear()
                await self._beat()
                await self._wait()
        finally:
            await self._stop_reading()

    async def _beat(self) -> None:
        """Show that this worker lives, and read what falls to it."""
        count = self.handler.queue.partitions
        try:
            members = await self._mq.driver.run(join(self._keys, self.name, count))
        except BrokerError as error:
            # It goes on with what it has. The readers say it louder.
            logger.debug("%s: cannot share partitions: %s", self._keys.title, error)
            return
        share = share_of(self.name, members, count)
        for partition in self._reading.keys() - share:
            self._give_up(partition)
        for partition in sorted(share - self._reading.keys()):
            await self._take(partition)
        self._joined = True

    async def _take(self, partition: int) -> None:
        share = Share(
            partition=partition,
            consumer=f"{self.name}/{next(self._times)}",
            threads=self._threads,
            turn=Turn(self._permits),
        )
        consumer = await Consumer.start(self._mq, self.handler, self._middleware, share)
        name = f"millstream-{self._keys.name}/{partition}"
        self._reading[partition] = consumer, asyncio.create_task(consumer.run(), name=name)

    def _give_up(self, partition: int) -> None:
        """Leave a partition to another worker, which reads it already, or does so soon."""
        consumer, reading = self._reading.pop(partition)
        leaving = asyncio.create_task(_leave(consumer, reading))
        self._leaving[leaving] = consumer
        leaving.add_done_callback(self._left)

    def _left(self, leaving: asyncio.Task[None]) -> None:
        del self._leaving[leaving]
        if not leaving.cancelled() and (error := leaving.exception()) is not None:
            logger.error("%s: cannot leave a partition", self._keys.title, exc_info=error)

    async def _wait(self) -> None:
        """Wait for the next beat, or for news."""
        look = asyncio.create_task(self._look.wait())
        tasks = [reading for _, reading in self._reading.values()]
        try:
            await asyncio.wait([look, *tasks], timeout=BEAT, return_when=asyncio.FIRST_COMPLETED)
        finally:
            look.cancel()
        for reading in tasks:
            # A consumer never ends by itself; if one does, it is a bug, and must not go unseen.
            if reading.done():
                reading.result()

    async def _stop_reading(self) -> None:
        """Leave the share to the others at once; what is in hand is for ``finish``."""
        for consumer, _ in self._reading.values():
            consumer.stop()
        try:
            await self._mq.driver.run(leave(self._keys, self.name))
        except BrokerError as error:
            logger.debug("%s: others learn late: %s", self._keys.title, error)
        if self._reading:
            await asyncio.wait([reading for _, reading in self._reading.values()])

    def stop(self) -> None:
        """Stop reading; ``run`` comes to its end."""
        self._stopping = True
        self._look.set()

    async def finish(self, timeout: float) -> None:  # noqa: ASYNC109 - passed on to the handlers
        """Give running handlers some time, settle, and leave.

        Args:
            timeout: seconds until coroutines are cancelled and their messages handed back.
        """
        finishing = [consumer.finish(timeout) for consumer, _ in self._reading.values()]
        try:
            await asyncio.gather(*finishing, self._hurry(timeout))
        finally:
            if self._threads is not None:
                self._threads.close()

    async def _hurry(self, seconds: float) -> None:
        """Give handlers of partitions that were given up no more time than the others."""
        if not self._leaving:
            return
        await asyncio.wait(self._leaving, timeout=seconds)
        for consumer in self._leaving.values():
            consumer.hurry()
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def let_go(self) -> None:
        """Disconnect, and extend no lease any more. What is still in hand runs out."""
        for consumer, reading in self._reading.values():
            reading.cancel()
            await consumer.let_go()
        for leaving in self._leaving:
            leaving.cancel()
        if self._leaving:
            await asyncio.wait(self._leaving)


class _Hearing:
    """Passes on what is said of one partition.

    Args:
        partitions: of the queue.
        partition: which one.
    """

    def __init__(self, partitions: Partitions, partition: int) -> None:
        self._partitions = partitions
        self._partition = partition

    def pause(self) -> None:
        """Begin with no message any more."""
        for consumer in self._partitions.at(self._partition):
            consumer.pause()

    def resume(self) -> None:
        """Look for messages again."""
        for consumer in self._partitions.at(self._partition):
            consumer.resume()

    def sought(self) -> None:
        """Make sure of what is in hand: the subscription goes on elsewhere."""
        for consumer in self._partitions.at(self._partition):
            consumer.sought()

    def cancelled(self, word: Word) -> None:
        """Stop the handler of a message that the server has ended."""
        for consumer in self._partitions.at(self._partition):
            consumer.cancelled(word)

    def moved(self) -> None:
        """The members have changed."""
        self._partitions.moved()

    def called(self, call: Envelope) -> None:
        """No endpoint has partitions: it is a mistake of some other program."""


async def _leave(consumer: Consumer, reading: asyncio.Task[None]) -> None:
    """Hand back what was not begun, and wait for what runs: its leases are kept that long."""
    consumer.stop()
    await asyncio.wait([reading])
    await consumer.finish(None)


Work = Consumer | Partitions
"""What handles a queue."""


async def begin(mq: AsyncClient, handler: Handler, middleware: Sequence[Middleware]) -> Work:
    """Put together what handles a queue; nothing is read yet.

    Raises:
        UsageError: others have divided the queue in another way.
    """
    await mq.declare(handler.queue)
    if handler.queue.partitions > 1:
        return Partitions(mq, handler, middleware)
    return await Consumer.start(mq, handler, middleware)
