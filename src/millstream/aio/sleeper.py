"""The read of a consumer that sleeps at the server until a message comes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from millstream.driver.aio import AsyncDriver
from millstream.driver.aio_listener import AsyncListener
from millstream.errors import NotConnected, ServerRefused
from millstream.protocol import consume
from millstream.protocol.consume import Fetched
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Op
from millstream.protocol.reading import BLOCK_MS
from millstream.protocol.watch import Watch, listen

__all__ = ["Sleeper"]

LAST_MOMENT = 0.2
"""Seconds that a read has to end when it is told to, before it is told again."""

TRIES = 5
"""How often it is told so."""


class Sleeper:
    """One sleeping read at a time, on a connection of its own.

    Args:
        driver: of the client.
        listener: the connection.
        keys: of each partition to wait for.
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
        self._listener = listener
        self._keys = keys
        self._consumer = consumer
        self._ending = False
        self._watches: Sequence[Watch] = [Watch()] * len(keys)
        self._op = self._read()

    @property
    def listener(self) -> AsyncListener:
        """The connection."""
        return self._listener

    async def begin(self, watches: Sequence[Watch]) -> None:
        """Begin to sleep, or go on.

        Args:
            watches: what to sleep for, of each partition.

        Raises:
            NotConnected, TimedOut, ServerRefused: it cannot be.
        """
        if not self._listener.listening:
            if watches != self._watches:
                self._watches = watches
                self._op = self._read()
            self._ending = False
            await self._listener.listen(self._op)
        elif not self._ending and not all(
            began.covers(now) for began, now in zip(self._watches, watches, strict=True)
        ):
            # It was begun when a suspect was in hand, say. End it; the next one is as it should be.
            self._ending = True
            with contextlib.suppress(ServerRefused):
                await self.wake()

    async def poll(self, seconds: float) -> list[Fetched] | None:
        """Wait for what the sleep brings; None if the time is over, and the sleep goes on.

        The result is what came in each partition, perhaps nothing.

        Args:
            seconds: how long.

        Raises:
            BrokerError: the connection was lost. What the sleep brought may be lost, too.
        """
        return await self._listener.poll(self._op, seconds)

    async def wake(self) -> None:
        """End the sleep at once, as if its time had passed.

        Raises:
            BrokerError: it goes on.
        """
        # The read may still be on its way to the server, on another connection than this: then
        # nobody sleeps as yet. By the next round trip it has arrived, or has ended by itself.
        for _ in range(2):
            if not self._listener.listening or await self._driver.run(self._unblock()):
                return

    async def stop(self) -> list[Fetched] | None:
        """End the sleep; return what it has brought at the last moment.

        Raises:
            BrokerError: what it has brought has to be looked up.
        """
        if not self._listener.listening:
            return None
        for _ in range(TRIES):
            await self.wake()
            if (brought := await self.poll(LAST_MOMENT)) is not None:
                return brought
        # It must not outlive us: it would be given messages and wake-ups that are meant for others.
        await self.close()
        message = "a sleeping read did not end when it was told to"
        raise NotConnected(message)

    async def close(self) -> None:
        """Disconnect, and see that the read ends at the server, too.

        A server that has not noticed would deliver the next message to nobody.

        Raises:
            NotConnected, TimedOut: the server cannot be reached.
        """
        await self._listener.close()
        if self._listener.client_id:
            with contextlib.suppress(ServerRefused):
                await self._driver.run(self._unblock())
            self._listener.client_id = 0

    async def disconnect(self) -> None:
        """Disconnect, whatever is outstanding."""
        await self._listener.close()

    def _read(self) -> Op[list[Fetched]]:
        return listen(list(zip(self._keys, self._watches, strict=True)), self._consumer, BLOCK_MS)

    def _unblock(self) -> Op[bool]:
        return consume.unblock(self._listener.client_id, self._keys[0].ready)
