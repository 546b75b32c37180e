"""Sends that wait for room in a full queue, on asyncio.

While there is room they leave as any others: what tasks send while a batch is on the wire gathers
into the next. What finds no room waits at the server with one ticket for all (see ``Line``).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from millstream.driver.aio_home import elsewhere
from millstream.driver.aio_listener import AsyncListener
from millstream.errors import BrokerError, UsageError
from millstream.message import Receipt
from millstream.policy import Bound
from millstream.protocol.bound import Unit
from millstream.protocol.keys import QueueKeys
from millstream.protocol.line import Line
from millstream.protocol.op import Op

__all__ = ["AsyncWaitingSender"]

Run = Callable[[Op[Any]], Awaitable[Any]]
Connect = Callable[[], Awaitable[AsyncListener]]

PAUSE = 0.5
"""Seconds without a listener after it was lost. The tickets are confirmed meanwhile."""


class AsyncWaitingSender:
    """Sends units of messages to one queue, in their order; each waits until there is room.

    Args:
        run: the driver's way to run an operation, with its repetitions.
        connect: makes a connection for reads that sleep at the server.
        keys: of the queue.
        bound: of the queue.
    """

    def __init__(self, run: Run, connect: Connect, keys: QueueKeys, bound: Bound) -> None:
        self._run = run
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._line = Line(keys, bound, uuid.uuid4().hex[:16])
        self._usher: asyncio.Task[None] | None = None
        self._listener: AsyncListener | None = None
        # Something has happened that may change what is to be done next.
        self._news = asyncio.Event()
        self._closed = False

    async def send(self, unit: Unit) -> list[Receipt]:
        """Send messages that are stored together, and wait until there is room for them.

        Raises:
            QueueFull: there was none in time.
            BrokerError: they are not known to be stored.
            UsageError: there will never be room, or the client is closed, or at home elsewhere.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise elsewhere()
        if self._closed:
            raise _closed()
        stored = self._loop.create_future()
        waiting = self._line.join(unit, self._loop.time(), partial(_tell, stored))
        if self._usher is None:
            self._usher = self._loop.create_task(self._serve(), name="millstream-waiting")
        try:
            await stored
        except asyncio.CancelledError as error:
            # It gives up its place, and those behind it go on.
            waiting.end(error)
            self._news.set()
            raise
        return waiting.result()

    async def _serve(self) -> None:
        """Do what is to be done, until nothing is left."""
        try:
            # Tasks that are ready to run now still join the first batch.
            await asyncio.sleep(0)
            while (step := self._line.step(self._loop.time())) is not None:
                if isinstance(step, Op):
                    await self._do(step)
                else:
                    await self._listen(step)
        except BaseException as error:
            # A bug, or the end of the event loop: nobody would wait for anything any more.
            self._line.end_all(error)
            raise
        finally:
            self._usher = None

    async def _do(self, op: Op[Any]) -> None:
        try:
            result = await self._run(op)
        except BrokerError as error:
            self._line.failed(error)
        else:
            self._line.took(result, self._loop.time())

    async def _listen(self, seconds: float) -> None:
        """Sleep until our turn has come, something has changed, or the time is over."""
        op = self._line.listening()
        try:
            if self._listener is None:
                self._listener = await self._connect()
                self._listener.on_end = self._news.set
            await self._listener.listen(op)
            await self._sleep(seconds)
            if self._listener.done:
                self._line.heard(await self._listener.take(op))
            else:
                await self._listener.check()
        except BrokerError:
            # Whoever is called stays called, and hears of it then.
            await self._sleep(min(seconds, PAUSE))

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()

    async def close(self) -> None:
        """Wait for what is on its way; what waits for room is not sent."""
        self._closed = True
        if self._usher is not None:
            self._line.close(_closed())
            self._news.set()
            await asyncio.wait([self._usher])
        if self._listener is not None:
            await self._listener.close()


def _tell(stored: asyncio.Future[None]) -> None:
    if not stored.done():
        stored.set_result(None)


def _closed() -> UsageError:
    return UsageError("this client was closed before there was room: nothing was sent")
