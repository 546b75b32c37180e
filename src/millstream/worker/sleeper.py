"""The read of a worker that sleeps at the server until a message comes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from millstream.driver.aio import AsyncDriver
from millstream.driver.aio_listener import AsyncListener
from millstream.errors import ServerRefused
from millstream.protocol import consume
from millstream.protocol.consume import Fetched
from millstream.protocol.keys import QueueKeys
from millstream.protocol.reading import BLOCK_MS

__all__ = ["SILENCE", "Sleeper"]

SILENCE = BLOCK_MS / 1000 + 6
"""Seconds after which to look whether a read is overdue."""

LAST_MOMENT = 1.0
"""Seconds that a read has to end when it is told to."""


class Sleeper:
    """One sleeping read at a time, on a connection of its own.

    Args:
        driver: of the client.
        listener: the connection.
        wake: called when a read has ended.
        keys: of the queue.
        consumer: who sleeps.
    """

    def __init__(
        self,
        driver: AsyncDriver,
        listener: AsyncListener,
        wake: Callable[[], None],
        *,
        keys: QueueKeys,
        consumer: str,
    ) -> None:
        self._driver = driver
        self._listener = listener
        self._keys = keys
        self._consumer = consumer
        self._wake = wake
        self._suspects = True

    @property
    def over(self) -> bool:
        """Whether a sleep has ended; what it brought is ours, and nobody has it in hand yet."""
        return self._listener.done

    async def sleep(self, *, suspects: bool) -> Fetched | None:
        """Begin to sleep, or go on; return what the sleep has brought once it is over.

        Args:
            suspects: whether a suspect may be taken.

        Raises:
            BrokerError: it cannot be, or the connection was lost. What it brought may be lost.
        """
        op = consume.wait(self._keys, self._consumer, BLOCK_MS, suspects=suspects)
        fresh = not self._listener.listening
        reading = await self._listener.listen(op)
        if reading.done():
            return await self._listener.take(op)
        if fresh:
            self._suspects = suspects
            reading.add_done_callback(lambda _: self._wake())
        elif suspects and not self._suspects:
            # It was begun when a suspect was in hand. End it, and begin one with that lane.
            self._suspects = True
            with contextlib.suppress(ServerRefused):
                await self._driver.run(consume.unblock(self._listener.client_id))
        return None

    async def check(self) -> None:
        """Give up a connection that has been silent for too long.

        Raises:
            TimedOut: it was.
        """
        await self._listener.check()

    async def close(self) -> None:
        """Disconnect, and see that the read ends at the server, too.

        A server that has not noticed would deliver the next message to nobody.

        Raises:
            NotConnected, TimedOut: the server cannot be reached.
        """
        await self._listener.close()
        if self._listener.client_id:
            with contextlib.suppress(ServerRefused):
                await self._driver.run(consume.unblock(self._listener.client_id))
            self._listener.client_id = 0

    async def stop(self) -> Fetched | None:
        """End the sleep; return what it has brought at the last moment.

        Raises:
            BrokerError: what it has brought has to be looked up.
        """
        if not self._listener.listening:
            return None
        await self._driver.run(consume.unblock(self._listener.client_id))
        op = consume.wait(self._keys, self._consumer, BLOCK_MS, suspects=True)
        return await self._listener.poll(op, LAST_MOMENT)

    async def disconnect(self) -> None:
        """Disconnect, whatever is outstanding."""
        await self._listener.close()
