"""Commits on one connection, on asyncio (see ``protocol/confirm.py``)."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from redis import exceptions

from millstream.driver.aio_cluster import AsyncCluster
from millstream.driver.aio_home import elsewhere
from millstream.driver.aio_server import AsyncServer
from millstream.driver.aio_wire import AsyncWire
from millstream.driver.faults import ERROR_REPLIES, Tries, forked, is_demotion
from millstream.driver.packing import missing_scripts, pack
from millstream.driver.server_check import check_probe
from millstream.driver.target import Target
from millstream.errors import BrokerError
from millstream.protocol.confirm import Commits, at_home, still_at_home
from millstream.protocol.op import Command, Op
from millstream.protocol.probe import probe

__all__ = ["AsyncCommitter"]

MOMENT = 0.0005
"""Seconds between looks whether all have sent again."""


class AsyncCommitter:
    """One durability of a client, in one slot: a connection of its own, and what is to be confirmed on it.

    It follows the slot: each commit goes to the node that has it, with all that is not confirmed yet.

    Args:
        server: the server, or the cluster.
        slot: of the cluster; None: it is a single server.
        durability: ``fsync`` or ``replicas:N``.
        way: by which errors recognise the client that has sent them.
        connect_timeout: seconds to connect and log in.
        timeout: seconds that a send may take in all.
    """

    def __init__(
        self,
        server: AsyncServer | AsyncCluster,
        slot: int | None,
        durability: str,
        *,
        way: object,
        connect_timeout: float,
        timeout: float,
    ) -> None:
        self._server = server
        self._moves = slot is not None
        # For questions about the slot.
        self._place: Op[Any] = Op((), tuple, near=slot)
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._wire: AsyncWire | None = None
        # Where that leads to, and whether it is known to confirm what is asked for.
        self._target: Target | None = None
        self._asked = False
        self._commits = Commits(durability, timeout, way)
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._serving: asyncio.Task[None] | None = None
        self._cutting: asyncio.Task[None] | None = None
        self._resting: asyncio.Task[None] | None = None
        self._closed = False

    async def run(self, op: Op[Any]) -> Sequence[Any]:
        """Send a batch, and wait until it is confirmed or its time is over.

        Returns:
            What came of each message: a receipt (or a list of them), or ``NotConfirmed``, or why it
            is not stored.

        Raises:
            BrokerError: it is not known to be stored.
        """
        if os.getpid() != self._pid:
            # Two processes on one connection, with the same batch numbers, would lose messages.
            raise forked()
        if asyncio.get_running_loop() is not self._loop:
            raise elsewhere()
        ended = self._loop.create_future()
        pending = self._commits.join(op, self._loop.time(), partial(_tell, ended))
        if self._serving is None:
            self._serving = self._loop.create_task(self._serve(), name="millstream-confirming")
        await ended
        return pending.result()

    async def _serve(self) -> None:
        """Commit what is there, until nothing is left."""
        tries = Tries(math.inf)
        try:
            # Tasks that are ready to run now still join the first commit.
            await asyncio.sleep(0)
            while (commands := await self._next()) is not None:
                if await self._commit(commands):
                    await asyncio.sleep(tries.next_pause(self._loop.time()) or 0)
                else:
                    tries = Tries(math.inf)
        except BaseException as error:
            # A bug, or the end of the event loop: nobody would wait for anything any more.
            self._commits.end_all(error)
            raise
        finally:
            self._serving = None

    async def _next(self) -> tuple[Command, ...] | None:
        while self._commits.gathering(self._loop.time()):  # noqa: ASYNC110 - nobody tells who comes
            await asyncio.sleep(MOMENT)
        return self._commits.step(self._loop.time())

    async def _commit(self, commands: Sequence[Command]) -> bool:
        """Send a commit; return whether the server cannot serve at the moment."""
        try:
            replies = await self._exchange(commands)
        except BrokerError as problem:
            self._commits.failed(problem, self._loop.time())
            return True
        return self._commits.took(replies, self._loop.time())

    async def _exchange(self, commands: Sequence[Command]) -> Sequence[Any]:
        """Return the replies to a commit; errors of the server are ours among them.

        Raises:
            BrokerError: the connection is lost, or the server can never confirm it.
        """
        if self._moves:
            commands = (*commands, still_at_home(commands))
        try:
            wire = await self._reach()
            replies = await _call(wire, commands)
        except BrokerError:
            raise
        except (exceptions.RedisError, OSError) as loss:
            raise self._server.explain(loss, self._place) from loss
        if any(is_demotion(reply) for reply in replies):
            await wire.reset()
        told = [
            self._server.explain(one, self._place) if isinstance(one, ERROR_REPLIES) else one
            for one in replies
        ]
        return at_home(told) if self._moves else told

    async def _reach(self) -> AsyncWire:
        """Return the connection to where the slot is now; who is new is asked whether it can confirm.

        Raises:
            UnsupportedServer, ServerRefused: it can never.
            redis-py's errors, or TimeoutError.
        """
        target = await self._server.target_for(self._place)
        wire = self._wire
        if wire is None or target is not self._target:
            if wire is not None:
                await wire.close()
            wire = self._wire = self._new_wire(target)
        if not self._asked:
            question = probe(self._commits.durability, target.url)
            replies = await wire.call(pack(question.commands), len(question.commands))
            check_probe(question, replies, target.url)
            self._asked = True
        return wire

    def _new_wire(self, target: Target) -> AsyncWire:
        if self._closed:
            message = "the client is closed"
            raise exceptions.ConnectionError(message)
        self._target, self._asked = target, False
        self._server.attach(self)
        return AsyncWire(target, connect_timeout=self._connect_timeout, timeout=self._timeout)

    def leave(self, nodes: Sequence[Target]) -> None:
        """Give the connection up unless it is to one of these: a commit on its way goes again."""
        if self._wire is not None and self._target not in nodes:
            self._cutting = self._loop.create_task(self._wire.reset())

    def rest(self, seconds: float) -> None:
        """Disconnect if nothing was sent for so long; the next send connects anew."""
        if self._wire is None or self._commits.idle_for(self._loop.time()) < seconds:
            return
        if self._serving is None:
            wire, self._wire = self._wire, None
            self._resting = self._loop.create_task(wire.close())

    async def close(self) -> None:
        """Disconnect. Whoever still waits is told what is known."""
        self._closed = True
        self._commits.close()
        if self._wire is not None:
            await self._wire.close()
        if ending := [task for task in (self._serving, self._resting) if task is not None]:
            await asyncio.wait(ending)


async def _call(wire: AsyncWire, commands: Sequence[Command]) -> list[Any]:
    payload = pack(commands)
    replies = await wire.call(payload, len(commands))
    if missing := missing_scripts(commands, replies):
        # All of it again: what was confirmed did not have these.
        await wire.call(pack(missing), len(missing))
        replies = await wire.call(payload, len(commands))
    return replies


def _tell(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
