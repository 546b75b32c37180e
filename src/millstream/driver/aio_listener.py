"""A connection for reads that sleep at the server, on asyncio.

A read stays outstanding while its reader does other things, such as serving a message that is
due: the server's own timers are only as fine as its cron (100 ms), ours are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from redis import exceptions

from millstream.driver.aio_alarm import AsyncAlarm
from millstream.driver.aio_home import elsewhere
from millstream.driver.aio_replies import Replies
from millstream.driver.faults import ERROR_REPLIES, translate
from millstream.driver.packing import pack
from millstream.driver.target import Target
from millstream.protocol.op import Command, Op

if TYPE_CHECKING:
    # They know their listeners.
    from millstream.driver.aio_cluster import AsyncCluster
    from millstream.driver.aio_server import AsyncServer

__all__ = ["AsyncListener"]

T = TypeVar("T")


class AsyncListener:
    """One sleeping read at a time, on a connection of its own.

    Args:
        server: the server, or the cluster.
        connect_timeout: seconds to connect and log in.
        longest: seconds after which a read without a reply means that the connection is dead.
    """

    def __init__(
        self, server: AsyncServer | AsyncCluster, *, connect_timeout: float, longest: float
    ) -> None:
        self._server = server
        self._url = server.target.url
        # Where it is connected to.
        self._target: Target | None = None
        self._connect_timeout = connect_timeout
        self._longest = longest
        self._overdue = 0.0
        self._connection: Any = None
        self._replies: Replies | None = None
        self._reading: asyncio.Future[Any] | None = None
        self._lost: BaseException | None = None
        self._alarm = AsyncAlarm()
        self._loop = asyncio.get_running_loop()
        # Who polls: woken without a turn of the event loop in between.
        self._poller: asyncio.Future[None] | None = None
        # What takes the reply before that (see ``tell``); it raises nothing.
        self._hear: Callable[[Any], None] | None = None
        self.client_id = 0
        # Called when a read has ended, before anybody has asked for its result.
        self.on_end: Callable[[], None] | None = None

    @property
    def listening(self) -> bool:
        """Whether a read is outstanding."""
        return self._reading is not None

    @property
    def reading(self) -> asyncio.Future[Any] | None:
        """The outstanding read, if there is one."""
        return self._reading

    @property
    def done(self) -> bool:
        """Whether the outstanding read has ended, so that its result can be taken."""
        return self._reading is not None and self._reading.done()

    async def listen(self, op: Op[Any]) -> asyncio.Future[Any]:
        """Begin a read unless one is outstanding; the future is done when its reply is there.

        Raises:
            NotConnected, TimedOut: the server cannot be reached.
            UsageError: the client is at home in another event loop.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise elsewhere()
        if self._reading is None:
            try:
                return await self._begin(op)
            except (exceptions.RedisError, OSError) as error:
                await self.close()
                raise self._server.explain(error, op) from error
            except BaseException:
                # Cancelled between a command and its reply, it would be out of step.
                await self.close()
                raise
        return self._reading

    async def _begin(self, op: Op[Any]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        target = await self._server.target_for(op)
        if target is not self._target and self._connection is not None:
            # What it reads has moved to another node.
            await self.close()
        if self._connection is None:
            async with asyncio.timeout(self._connect_timeout):
                await self._connect(target)
        if self._lost is not None:
            raise self._lost
        assert self._replies is not None  # noqa: S101 - it comes with the connection
        reading = self._reading = loop.create_future()
        self._overdue = loop.time() + self._longest
        self._replies.write(pack(op.commands))
        return reading

    async def _connect(self, target: Target) -> None:
        self._lost = None
        self._target = target
        self._server.attach(self)
        self._connection = target.async_connection(self._connect_timeout)
        await target.connect(self._connection)
        payload = pack([Command(("CLIENT", "ID"))])
        await self._connection.send_packed_command(payload, check_health=False)
        self.client_id = await self._connection.read_response()
        self._replies = Replies(self._connection, self._take, self._end)

    def _take(self, replies: list[Any]) -> None:
        """The read has ended."""
        reading = self._reading
        if len(replies) != 1 or reading is None or reading.done():
            self._end(exceptions.ConnectionError("a reply that nobody asked for"))
        elif isinstance(replies[0], Exception):
            self._fail(reading, replies[0])
        else:
            if self._hear is not None:
                self._hear(replies[0])
            reading.set_result(replies[0])
            self._wake()

    def _end(self, reason: BaseException) -> None:
        """The connection is lost."""
        self._lost = reason
        if self._reading is not None and not self._reading.done():
            self._fail(self._reading, reason)

    def _fail(self, reading: asyncio.Future[Any], error: BaseException) -> None:
        reading.set_exception(error)
        # It may never be taken; that is no news for the log.
        reading.exception()
        self._wake()

    def _wake(self) -> None:
        if self._poller is not None and not self._poller.done():
            self._poller.set_result(None)
        if self.on_end is not None:
            self.on_end()

    async def check(self) -> None:
        """Give up a connection that has been silent for too long.

        Raises:
            TimedOut: it was.
        """
        silent = self._reading is not None and not self._reading.done()
        if silent and asyncio.get_running_loop().time() >= self._overdue:
            await self.close()
            raise translate(TimeoutError("a sleeping read did not end"), self._url)

    async def take(self, op: Op[T]) -> T:
        """Return the result of the outstanding read, which must be done.

        Raises:
            NotConnected: the connection is lost.
            ServerRefused: the server answered with an error.
        """
        reading, self._reading = self._reading, None
        assert reading is not None  # noqa: S101 - listen() comes first
        try:
            return op.decode([reading.result()])
        except ERROR_REPLIES as error:
            raise self._server.explain(error, op) from error
        except (exceptions.RedisError, OSError) as error:
            await self.close()
            raise self._server.explain(error, op) from error

    async def poll(self, op: Op[T], timeout: float) -> T | None:  # noqa: ASYNC109 - it leaves the read outstanding, a cancellation would not
        """Wait for a read's result; None if the time is over, and the read stays outstanding.

        Raises:
            NotConnected, TimedOut, ServerRefused: as for ``listen`` and ``take``.
        """
        reading = await self.listen(op)
        if reading.done():
            # A wait would take another turn of the event loop: a message is here.
            return await self.take(op)
        return await self.take(op) if await self._ends(reading, timeout) else None

    async def tell(self, op: Op[T], timeout: float, hear: Callable[[T], None]) -> None:  # noqa: ASYNC109 - see ``poll``
        """Do the same, but call a function with the result in the turn in which it comes.

        So whoever waits for what it brings goes on before the next read begins, and what they send
        then leaves before it.

        Args:
            op: the read.
            timeout: seconds to wait; the read stays outstanding then.
            hear: called with the result. What it raises is raised here.

        Raises:
            NotConnected, TimedOut, ServerRefused: as for ``listen`` and ``take``.
        """
        reading = await self.listen(op)
        if reading.done():
            hear(await self.take(op))
            return
        problems: list[Exception] = []

        def hear_reply(reply: Any) -> None:
            try:
                hear(op.decode([reply]))
            except Exception as error:  # noqa: BLE001 - it is no business of the connection
                problems.append(error)

        self._hear = hear_reply
        try:
            ended = await self._ends(reading, timeout)
        finally:
            self._hear = None
        if ended:
            await self.take(Op(op.commands, decode=_heard))
            # They have gone on in this turn of the event loop, and what they send leaves in the next.
            await asyncio.sleep(0)
        for problem in problems:
            raise problem

    async def _ends(self, reading: asyncio.Future[Any], timeout: float) -> bool:  # noqa: ASYNC109 - see ``poll``
        """Wait until a read has ended, and tell whether it has; no longer than so many seconds.

        Raises:
            NotConnected, TimedOut: the connection was closed, or is dead.
        """
        loop = asyncio.get_running_loop()
        # A timeout may be hours; a connection that is dead is to be noticed before.
        patience = max(0.0, self._overdue - loop.time())
        poller = self._poller = loop.create_future()
        self._alarm.set(min(timeout, patience), poller)
        try:
            await poller
        finally:
            self._poller = None
        if reading is not self._reading:
            raise translate(ConnectionError("the connection was closed"), self._url)
        if reading.done():
            return True
        await self.check()
        return False

    def leave(self, nodes: Sequence[Target]) -> None:
        """Give the connection up unless it is to one of these: the outstanding read fails."""
        if self._connection is not None and self._target not in nodes:
            self._end(exceptions.ConnectionError("the cluster has another master there"))

    async def close(self) -> None:
        """Disconnect, whatever is outstanding."""
        reading, self._reading = self._reading, None
        connection, self._connection = self._connection, None
        replies, self._replies = self._replies, None
        if replies is not None:
            replies.abort()
        if reading is not None and reading.cancel():
            self._wake()
        if connection is not None:
            await connection.disconnect(nowait=True)


def _heard(_: list[Any]) -> None:
    """It was read when it came."""
