"""One connection for all that a client listens to, on asyncio.

It always reads, whatever listeners do: a server cuts off who leaves too much unread.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any, NoReturn

from redis import exceptions

from millstream.driver.aio_cluster import AsyncCluster
from millstream.driver.aio_server import AsyncServer
from millstream.driver.faults import (
    CONNECTION_LOSS,
    ERROR_REPLIES,
    Tries,
    is_connection_loss,
    translate,
)
from millstream.driver.packing import pack
from millstream.driver.target import Target
from millstream.errors import NotConnected, ServerRefused, TimedOut
from millstream.protocol.ephemeral import Channel, explained, sharding
from millstream.protocol.listening import Box, Item, Switchboard

__all__ = ["AsyncInbox", "AsyncPubSub"]

BEAT = 5.0
"""Seconds of silence after which the server is asked for a sign of life; without one for as long
again, the connection is given up."""


class AsyncInbox:
    """What has come for one listener.

    Args:
        box: its bounds.
    """

    def __init__(self, box: Box) -> None:
        self.box = box
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Have the listener look."""
        self._changed.set()

    async def joined(self) -> None:
        """Wait until the server sends what is published.

        Raises:
            BrokerError: it does not.
        """
        while not self.box.joined and not self.box.over:
            self._changed.clear()
            await self._changed.wait()
        if not self.box.joined:
            self.box.take()

    async def take(self, seconds: float) -> Item | None:
        """Wait for the next; None: the time is over, or nothing comes any more (``box.ended``).

        Raises:
            SlowListener, BrokerError: behind the last item.
        """
        while (item := self.box.take()) is None and not self.box.ended:
            self._changed.clear()
            try:
                async with asyncio.timeout(None if seconds == math.inf else seconds):
                    await self._changed.wait()
            except TimeoutError:
                return None
        return item


class AsyncPubSub:
    """Listens for any number of inboxes.

    Args:
        server: the server, or the cluster.
        slot: of all channels; None: the server has no slots.
        connect_timeout: seconds to connect and log in.
        timeout: seconds in which a lost connection must be back.
        beat: see ``BEAT``.
    """

    def __init__(
        self,
        server: AsyncServer | AsyncCluster,
        slot: int | None = None,
        *,
        connect_timeout: float,
        timeout: float,
        beat: float = BEAT,
    ) -> None:
        self._server = server
        self._url = server.target.url
        # It stands for all that is asked here.
        self._op = replace(sharding(), near=slot)
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._beat = beat
        self._clustered = slot is not None
        self._board = Switchboard()
        self._connection: Any = None
        self._running: asyncio.Task[None] | None = None
        self._served = self._alive = False
        self._closed = False

    def inbox(self, box: Box) -> AsyncInbox:
        """Return what a listener needs."""
        return AsyncInbox(box)

    async def join(self, channel: Channel, inbox: AsyncInbox) -> None:
        """Listen to a channel. When it returns, nothing that is published is missed.

        Raises:
            NotConnected, TimedOut: the server cannot be reached.
            ServerRefused: the user may not listen to it, or another node of the cluster has it.
            UsageError: it is a pattern, and the server shards channels.
        """
        if self._closed:
            inbox.box.ended = True
            return
        self._board.join(channel, inbox)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(), name="millstream-pubsub")
        self._flush()
        try:
            async with asyncio.timeout(self._timeout + 1):
                await inbox.joined()
        except TimedOut:
            raise
        except TimeoutError as error:
            # It is connected, and the server does not answer.
            raise translate(error, self._url) from error
        finally:
            if not inbox.box.joined:
                self.leave(channel, inbox)

    def leave(self, channel: Channel, inbox: AsyncInbox) -> None:
        """Listen no more."""
        inbox.box.close()
        inbox.wake()
        self._board.leave(channel, inbox)
        if self._clustered and not self._board.busy and self._connection is not None:
            # There is one for each slot: those of topics that nobody listens to must not add up.
            self._connection._writer.transport.abort()  # noqa: SLF001 - redis-py has no other way
            return
        self._flush()

    async def close(self) -> None:
        """Let all listeners go, and disconnect. Safe to repeat."""
        self._closed = True
        self._board.end()
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        """Stay connected while anybody listens."""
        clock = asyncio.get_running_loop().time
        tries = Tries(clock() + self._timeout)
        try:
            while self._board.busy:
                self._served = False
                try:
                    await self._serve()
                except (exceptions.RedisError, OSError) as error:
                    if self._served:
                        tries = Tries(clock() + self._timeout)
                    problem = self._server.explain(error, self._op)
                    again = isinstance(problem, NotConnected | TimedOut)
                    pause = tries.next_pause(clock()) if again else None
                    if pause is None:
                        raise problem from error
                    await asyncio.sleep(pause)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who listen must know
            self._board.fail(error)
        except asyncio.CancelledError:
            # By close(), or with all tasks of this event loop.
            self._board.end()
            raise

    async def _serve(self) -> None:
        """Connect, and read until the connection is lost."""
        target = await self._server.target_for(self._op)
        connection = target.async_connection(self._connect_timeout)
        beating: asyncio.Task[None] | None = None
        try:
            await self._connect(connection, target)
            async with asyncio.timeout(self._connect_timeout):
                sharded = await self._ask_sharded(connection)
            self._connection = connection
            self._board.connect(sharded=sharded)
            self._flush()
            beating = asyncio.create_task(self._watch(connection), name="millstream-pubsub-beat")
            await self._read(connection)
        finally:
            self._connection = None
            if beating is not None:
                beating.cancel()
            self._board.cut()
            if connection._writer is not None:  # noqa: SLF001 - redis-py has no other way
                # Closing would first write out what is buffered, and TLS would say goodbye.
                connection._writer.transport.abort()  # noqa: SLF001 - see above
            await connection.disconnect(nowait=True)

    async def _connect(self, connection: Any, target: Target) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout):
                await target.connect(connection)
        except CONNECTION_LOSS as error:
            embedded = target.embedded
            if embedded is not None and is_connection_loss(error):
                await asyncio.to_thread(embedded.revive, timeout=self._connect_timeout)
            raise

    async def _ask_sharded(self, connection: Any) -> bool:
        # Each connection may be to another server.
        op = self._op
        connection._writer.write(pack(op.commands))  # noqa: SLF001 - redis-py has no other way
        try:
            reply = await connection.read_response(disable_decoding=True, disconnect_on_error=False)
        except ERROR_REPLIES as error:
            reply = error
        return op.decode([reply])

    async def _read(self, connection: Any) -> NoReturn:
        while True:
            try:
                reply = await connection.read_response(
                    disable_decoding=True, disconnect_on_error=False
                )
                self._served = self._alive = True
                crowded = self._board.heard(reply)
            except ERROR_REPLIES as error:
                self._refused(error)
                crowded = False
            except IndexError as error:
                message = "an answer that nobody asked for"
                raise exceptions.ConnectionError(message) from error
            if crowded:
                # A burst that is in the socket's buffer comes without another turn of the loop:
                # whoever waits for messages would have them dropped before.
                await asyncio.sleep(0)
            self._flush()

    def _refused(self, error: Exception) -> None:
        try:
            channel = self._board.refused()
        except IndexError:
            message = f"a refusal of what nobody asked for: {error}"
            raise exceptions.ConnectionError(message) from error
        if channel is None:
            return
        problem = self._server.explain(error, self._op)
        if isinstance(problem, NotConnected) and (self._clustered or not self._served):
            # A node of a cluster that has just started serves no channel for some seconds, and
            # one that has given the slot away will not again.
            raise error
        if isinstance(problem, ServerRefused):
            problem = explained(problem, channel.name)
        self._board.fail(problem, channel)

    def _flush(self) -> None:
        """Write what the board wants to be sent."""
        if self._connection is not None and (commands := self._board.to_send()):
            self._connection._writer.write(pack(commands))  # noqa: SLF001 - redis-py has no other way

    async def _watch(self, connection: Any) -> None:
        """Give up a connection that shows no sign of life."""
        self._alive = True
        while self._alive:
            self._alive = False
            await asyncio.sleep(self._beat)
            if not self._alive:
                self._board.ping()
                self._flush()
                await asyncio.sleep(self._beat)
        connection._writer.transport.abort()  # noqa: SLF001 - redis-py has no other way
