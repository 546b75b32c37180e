"""A connection for reads that sleep at the server, on asyncio.

A read stays outstanding while its reader does other things, such as serving a message that is
due: the server's own timers are only as fine as its cron (100 ms), ours are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from redis import exceptions

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
        self._reading: asyncio.Task[Any] | None = None
        self.client_id = 0
        # Called when a read has ended, before anybody has asked for its result.
        self.on_end: Callable[[], None] | None = None

    @property
    def listening(self) -> bool:
        """Whether a read is outstanding."""
        return self._reading is not None

    @property
    def reading(self) -> asyncio.Task[Any] | None:
        """The outstanding read, if there is one."""
        return self._reading

    @property
    def done(self) -> bool:
        """Whether the outstanding read has ended, so that its result can be taken."""
        return self._reading is not None and self._reading.done()

    async def listen(self, op: Op[Any]) -> asyncio.Task[Any]:
        """Begin a read unless one is outstanding; the task is done when its reply is there.

        Raises:
            NotConnected, TimedOut: the server cannot be reached.
        """
        if self._reading is None:
            try:
                async with asyncio.timeout(self._connect_timeout):
                    await self._begin(op)
            except (exceptions.RedisError, OSError) as error:
                await self.close()
                raise self._server.explain(error, op) from error
            except BaseException:
                # Cancelled between a command and its reply, it would be out of step.
                await self.close()
                raise
            self._reading = asyncio.create_task(
                self._connection.read_response(disable_decoding=True, disconnect_on_error=False),
                name="millstream-listener",
            )
            if (on_end := self.on_end) is not None:
                self._reading.add_done_callback(lambda _: on_end())
        return self._reading

    async def _begin(self, op: Op[Any]) -> None:
        target = await self._server.target_for(op)
        if target is not self._target and self._connection is not None:
            # What it reads has moved to another node.
            await self.close()
        if self._connection is None:
            self._target = target
            self._server.attach(self)
            self._connection = target.async_connection(self._connect_timeout)
            await self._connection.connect()
            payload = pack([Command(("CLIENT", "ID"))])
            await self._connection.send_packed_command(payload, check_health=False)
            self.client_id = await self._connection.read_response()
        await self._connection.send_packed_command(pack(op.commands), check_health=False)
        self._overdue = asyncio.get_running_loop().time() + self._longest

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
        if reading.cancelled():
            # With all tasks of this event loop; what it was to bring is not known.
            await self.close()
            raise translate(ConnectionError("the read was cancelled"), self._url)
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
        # A timeout may be hours; a connection that is dead is to be noticed before.
        patience = max(0.0, self._overdue - asyncio.get_running_loop().time())
        done, _ = await asyncio.wait([reading], timeout=min(timeout, patience))
        if done:
            return await self.take(op)
        await self.check()
        return None

    def leave(self, nodes: Sequence[Target]) -> None:
        """Give the connection up unless it is to one of these: the outstanding read fails."""
        if self._connection is not None and self._target not in nodes:
            writer = self._connection._writer  # noqa: SLF001 - as the wire does
            if writer is not None:
                writer.transport.abort()

    async def close(self) -> None:
        """Disconnect, whatever is outstanding."""
        reading, self._reading = self._reading, None
        connection, self._connection = self._connection, None
        if reading is not None:
            reading.cancel()
            await asyncio.wait([reading])
        if connection is not None:
            await connection.disconnect(nowait=True)
