"""One connection for asyncio, shared by all tasks: requests go out at once, replies come in order.

Many calls are on the wire at a time, so concurrent operations need no pool of connections. A
cancelled caller leaves its reply to be read and dropped; the connection stays in step.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Any

from redis import exceptions

from millstream.driver.aio_alarm import AsyncAlarm
from millstream.driver.aio_replies import Replies
from millstream.driver.faults import CONNECTION_LOSS, ERROR_REPLIES
from millstream.driver.target import Target

__all__ = ["AsyncWire"]


class AsyncWire:
    """A connection that many tasks share.

    Args:
        target: the server.
        connect_timeout: seconds to connect, log in and get the first answer.
        timeout: seconds to wait for the replies of a call; then the connection is given up.
    """

    def __init__(self, target: Target, *, connect_timeout: float, timeout: float) -> None:
        self._target = target
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._connection: Any = None
        self._replies: Replies | None = None
        # Those that have come of the first who waits.
        self._received: list[Any] = []
        # Who waits for replies, how many, and until when; the first is answered first.
        self._waiting: deque[tuple[asyncio.Future[list[Any] | None], int, float]] = deque()
        self._watchdog: asyncio.TimerHandle | None = None
        self._alarm = AsyncAlarm()
        self._closing: asyncio.Task[None] | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._connecting_since = 0.0
        self._closed = False
        self.losses = 0
        """How many connections it has lost so far: the next may be to another server."""

    @property
    def waiting_since(self) -> float | None:
        """Time of the event loop's clock since when the first call waits; None: none does."""
        if self._connecting is not None:
            return self._connecting_since
        return self._waiting[0][2] - self._timeout if self._waiting else None

    async def connect(self, until: float | None = None) -> None:
        """Connect unless connected.

        Args:
            until: time of the event loop's clock at which to wait no longer; others may.

        Raises:
            redis-py's errors, or TimeoutError.
        """
        if self._connection is not None:
            return
        if self._connecting is None:
            self._connecting_since = asyncio.get_running_loop().time()
            self._connecting = asyncio.create_task(self._connect(), name="millstream-connect")
            self._connecting.add_done_callback(self._connected)
        connecting = self._connecting
        if until is not None:
            left = until - asyncio.get_running_loop().time()
            if not (await asyncio.wait([connecting], timeout=max(0.0, left)))[0]:
                raise TimeoutError(_SILENT)
        # All who wait go on in the same turn, in their order: what they write comes before whatever
        # follows from a reply to the first of them.
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            if connecting.cancelled():
                # Before it began, so it could not say so itself.
                raise exceptions.ConnectionError(_CLOSED) from None
            raise

    def _connected(self, connecting: asyncio.Task[None]) -> None:
        self._connecting = None
        if not connecting.cancelled():
            connecting.exception()  # those who have waited may be gone

    async def _connect(self) -> None:
        if self._closed:
            message = "the client is closed"
            raise exceptions.ConnectionError(message)
        connection = self._target.async_connection(self._connect_timeout)
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._target.connect(connection)
            self._received = []
            self._replies = Replies(connection, self._take, partial(self._drop, connection))
        except BaseException as error:
            await connection.disconnect(nowait=True)
            embedded = self._target.embedded
            if embedded is not None and isinstance(error, CONNECTION_LOSS):
                # The next try finds it, also when all that kept it was killed.
                await asyncio.to_thread(embedded.revive, timeout=self._connect_timeout)
            if self._closed and isinstance(error, asyncio.CancelledError):
                raise exceptions.ConnectionError(_CLOSED) from error
            raise
        self._connection = connection

    async def call(self, payload: bytes, replies: int, until: float | None = None) -> list[Any]:
        """Send packed commands in one write and return their replies.

        An error that the server answers stands in the place of its reply.

        Args:
            payload: the commands.
            replies: how many there will be.
            until: time of the event loop's clock at which to wait no longer. The connection stays, for
                others may be more patient.

        Raises:
            redis-py's connection errors: the connection is given up.
            TimeoutError: so it is when its own time is over (``timeout``); after ``until`` it stays.
        """
        while self._connection is None:
            await self.connect(until)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any] | None] = loop.create_future()
        deadline = loop.time() + self._timeout
        self._waiting.append((future, replies, deadline))
        if self._watchdog is None:
            self._watchdog = loop.call_at(deadline, self._watch, loop)
        connection, wire = self._connection, self._replies
        assert wire is not None  # noqa: S101 - it comes with the connection
        # This takes all of the payload at once, so calls go out whole and in the order of entry.
        wire.write(payload)
        if (room := wire.room()) is not None:
            if until is not None:
                self._alarm.set(until - loop.time(), room)
            await room
        if until is not None:
            self._alarm.set(until - loop.time(), future)
        try:
            received = await future
        except Exception as error:
            self._drop(connection, error)
            raise
        if received is None:
            raise TimeoutError(_SILENT)
        return received

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the connection up when the first who waits has waited too long.

        One timer for all: a time limit around each call would be a tenth of what a batch costs.
        """
        self._watchdog = None
        # Who was cancelled waits no more, but its reply is as overdue.
        if not self._waiting:
            return
        future, _, deadline = self._waiting[0]
        if deadline > loop.time():
            self._watchdog = loop.call_at(deadline, self._watch, loop)
            return
        if not future.done():
            future.set_exception(TimeoutError(_SILENT))
        self._drop(self._connection, TimeoutError(_SILENT))

    def _take(self, replies: list[Any]) -> None:
        """Hand replies to those who wait, in order."""
        received, waiting = self._received, self._waiting
        for reply in replies:
            if isinstance(reply, Exception) and not isinstance(reply, ERROR_REPLIES):
                self._drop(self._connection, reply)
                return
            received.append(reply)
            if not waiting:
                error = exceptions.ConnectionError("a reply that nobody asked for")
                self._drop(self._connection, error)
                return
            future, count, _ = waiting[0]
            if len(received) == count:
                waiting.popleft()
                if not future.done():
                    future.set_result(received)
                received = self._received = []

    def _drop(self, connection: Any, error: BaseException) -> None:
        """Give up a connection: whoever waits on it gets the error."""
        if connection is not self._connection:
            return
        self._connection = None
        self.losses += 1
        # Whoever waits to write hears of it, too.
        if self._replies is not None:
            self._replies.abort()
        waiting, self._waiting = self._waiting, deque()
        for future, _, _ in waiting:
            if not future.done():
                future.set_exception(exceptions.ConnectionError(str(error) or repr(error)))
                # The caller may be gone (timed out, cancelled); that is no news for the log.
                future.exception()
        self._closing = asyncio.create_task(connection.disconnect(nowait=True))

    async def reset(self) -> None:
        """Give the connection up; the next call makes a new one. Calls that still wait fail."""
        if self._connection is not None:
            self._drop(self._connection, exceptions.ConnectionError("the server was demoted"))

    async def close(self) -> None:
        """Disconnect. Calls that still wait fail, and so do later ones."""
        self._closed = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        connection = self._connection
        if connection is not None:
            self._drop(connection, exceptions.ConnectionError("the client is closed"))
            assert self._closing is not None  # noqa: S101 - it was dropped
            await asyncio.wait([self._closing])


_SILENT = "no reply"
_CLOSED = "the client was closed meanwhile"
