"""Hears what is said to all workers of a queue, and passes it on.

People pause, resume or move what a worker reads, or cancel messages; callers ask all workers of an endpoint.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from millstream.driver.aio import AsyncDriver
from millstream.driver.aio_listener import AsyncListener
from millstream.errors import BrokerError, ServerRefused
from millstream.protocol import control
from millstream.protocol.control import Word
from millstream.protocol.envelope import Envelope
from millstream.protocol.reading import BLOCK_MS

__all__ = ["Control", "Hearer"]

logger = logging.getLogger("millstream.worker")

LOST_PAUSE, REFUSED_PAUSE = 0.5, 30.0
"""Seconds until the next try: when the server is away, and when it forbids to listen."""


class Hearer(Protocol):
    """Who reads a queue."""

    def pause(self) -> None:
        """Begin with no message any more."""
        ...

    def resume(self) -> None:
        """Look for messages again."""
        ...

    def sought(self) -> None:
        """What was fetched may not be for us any more: the subscription goes on elsewhere."""
        ...

    def cancelled(self, word: Word) -> None:
        """The server has ended a delivery; stop its handler if it is here."""
        ...

    def moved(self) -> None:
        """Workers have come or gone that share the partitions of the queue."""
        ...

    def called(self, call: Envelope) -> None:
        """Somebody asks all workers of an endpoint."""
        ...


class Control:
    """One sleeping read for all queues of a worker, on a connection of its own.

    It only makes things fast. Who has missed a word gets no message of a paused queue either, and
    learns from its leases what was cancelled. Only calls come by no other way; who misses one is named to
    its caller.

    A node of a cluster reads only keys of one slot together; there, each queue has a connection.

    Args:
        driver: of the client.
        listener: the connection.
        hearers: key of a queue's control stream -> who reads the queue.
        since: key of each stream -> id behind which to listen.
    """

    def __init__(
        self,
        driver: AsyncDriver,
        listener: AsyncListener,
        hearers: Mapping[str, Hearer],
        *,
        since: Mapping[str, str],
    ) -> None:
        self._driver = driver
        self._listener = listener
        self._hearers = hearers
        self._heard = dict(since)

    @classmethod
    async def start(cls, driver: AsyncDriver, hearers: Mapping[str, Hearer]) -> Control:
        """Connect. What is said from now on will be heard."""
        since = {key: await driver.run(control.now(key)) for key in hearers}
        return cls(driver, await driver.listener(), hearers, since=since)

    async def run(self) -> None:
        """Listen until cancelled. It outlives restarts of the server and lost connections."""
        try:
            while True:
                await self._listen()
        finally:
            await self._listener.close()

    async def _listen(self) -> None:
        try:
            said = await self._listener.poll(
                control.hear(self._heard, BLOCK_MS), BLOCK_MS / 1000 + 6
            )
        except ServerRefused as error:
            if error.code == "CROSSSLOT":
                await self._listen_apart()
                return
            logger.warning("cannot hear of pauses and cancellations: %s", error)
            await asyncio.sleep(REFUSED_PAUSE)
        except BrokerError as error:
            # The readers say it louder.
            logger.debug("cannot hear of pauses and cancellations: %s", error)
            await asyncio.sleep(LOST_PAUSE)
        else:
            if said is not None:
                words, self._heard = said
                for word in words:
                    self._pass_on(word)

    async def _listen_apart(self) -> None:
        """Listen to each queue by itself, until cancelled."""
        await self._listener.close()
        async with asyncio.TaskGroup() as group:
            for key, hearer in self._hearers.items():
                listener = await self._driver.listener()
                one = Control(self._driver, listener, {key: hearer}, since={key: self._heard[key]})
                group.create_task(one.run(), name="millstream-control")

    def _pass_on(self, word: Word) -> None:
        hearer = self._hearers[word.queue]
        if word.op == "pause":
            hearer.pause()
        elif word.op == "resume":
            hearer.resume()
        elif word.op == "seek":
            hearer.sought()
        elif word.op in ("cancel", "withdrawn"):
            hearer.cancelled(word)
        elif word.op == "members":
            hearer.moved()
        elif word.call is not None:
            hearer.called(word.call)
