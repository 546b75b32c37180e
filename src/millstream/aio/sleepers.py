"""The sleeping reads of who receives from several partitions.

One read for all of them is enough, unless the server is a node of a cluster: there a command reads
from one slot, so each partition has a read, and a connection, of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from millstream.aio.sleeper import Sleeper
from millstream.driver.aio import AsyncDriver
from millstream.driver.aio_listener import AsyncListener
from millstream.errors import BrokerError, ServerRefused
from millstream.protocol.consume import Fetched
from millstream.protocol.keys import QueueKeys
from millstream.protocol.watch import Watch

__all__ = ["Sleepers"]

GLANCE = 5.0
"""Seconds after which it is seen that one of several connections has died in silence."""


class Sleepers:
    """Sleeps for partitions, as ``Sleeper`` does.

    Args:
        driver: of the client.
        listener: a connection for the first read.
        keys: of each partition.
        consumer: who sleeps.
    """

    def __init__(
        self,
        driver: AsyncDriver,
        listener: AsyncListener,
        *,
        keys: Sequence[QueueKeys],
        consumer: str,
    ) -> None:
        self._driver = driver
        self._keys = keys
        self._consumer = consumer
        self._all = [Sleeper(driver, listener, keys=keys, consumer=consumer)]

    async def begin(self, watches: Sequence[Watch]) -> None:
        """Begin to sleep, or go on; see ``Sleeper``."""
        if len(self._all) == 1:
            await self._all[0].begin(watches)
            return
        for sleeper, watch in zip(self._all, watches, strict=True):
            await sleeper.begin([watch])

    async def poll(self, seconds: float) -> list[Fetched] | None:
        """Wait for what the sleeps bring, of each partition; None: they go on.

        Args:
            seconds: how long.

        Raises:
            BrokerError: see ``Sleeper``.
        """
        if len(self._all) == 1:
            try:
                return await self._all[0].poll(seconds)
            except ServerRefused as error:
                if error.code != "CROSSSLOT":
                    raise
            await self._part()
            return None
        listeners = [sleeper.listener for sleeper in self._all]
        await self._driver.any_of(listeners, min(seconds, GLANCE))
        return _joined([await sleeper.poll(0) for sleeper in self._all])

    async def _part(self) -> None:
        """Sleep for each partition by itself from now on."""
        await self._all[0].disconnect()
        self._all = [
            Sleeper(
                self._driver, await self._driver.listener(), keys=[key], consumer=self._consumer
            )
            for key in self._keys
        ]

    async def wake(self) -> None:
        """End all sleeps at once; see ``Sleeper``."""
        for sleeper in self._all:
            await sleeper.wake()

    async def stop(self) -> list[Fetched] | None:
        """End all sleeps; return what they have brought at the last moment; see ``Sleeper``."""
        if len(self._all) == 1:
            return await self._all[0].stop()
        brought: list[list[Fetched] | None] = []
        problem: BrokerError | None = None
        for sleeper in self._all:
            try:
                brought.append(await sleeper.stop())
            except BrokerError as error:
                problem = error
        if problem is not None:
            # What the others have brought is looked up, too.
            raise problem
        return _joined(brought)

    async def close(self) -> None:
        """Disconnect, and see that the reads end at the server, too; see ``Sleeper``."""
        for sleeper in self._all:
            await sleeper.close()

    async def disconnect(self) -> None:
        """Disconnect, whatever is outstanding."""
        for sleeper in self._all:
            await sleeper.disconnect()


def _joined(brought: Sequence[list[Fetched] | None]) -> list[Fetched] | None:
    """Return what came, one for each partition; None when no sleep has ended."""
    if all(found is None for found in brought):
        return None
    return [found[0] if found else Fetched(envelopes=[]) for found in brought]
