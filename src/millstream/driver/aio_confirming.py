"""Sends that return when the server has confirmed them, on asyncio (see ``protocol/confirm.py``)."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from redis import exceptions

from millstream.driver.aio_wire import AsyncWire
from millstream.driver.faults import ERROR_REPLIES, Tries, is_demotion, refusal, translate
from millstream.driver.packing import missing_scripts, pack
from millstream.driver.target import Target
from millstream.errors import NotConfirmed, UsageError
from millstream.message import Receipt
from millstream.protocol.confirm import Commits
from millstream.protocol.op import Command, Op
from millstream.protocol.unconfirmed import results_of, to_confirm

__all__ = ["AsyncConfirming"]


T = TypeVar("T")

MOMENT = 0.0005
"""Seconds between looks whether all have sent again."""


class AsyncConfirming:
    """One durability of a client: a connection of its own, and what is to be confirmed on it.

    Args:
        target: the server.
        durability: ``fsync`` or ``replicas:N``.
        connect_timeout: seconds to connect and log in.
        timeout: seconds that a send may take in all.
    """

    def __init__(
        self, target: Target, durability: str, *, connect_timeout: float, timeout: float
    ) -> None:
        self._url = target.url
        self._wire = AsyncWire(target, connect_timeout=connect_timeout, timeout=timeout)
        self._commits = Commits(durability, timeout)
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._server: asyncio.Task[None] | None = None

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
            message = "this client was made before a fork: make one in each process"
            raise UsageError(message)
        ended = self._loop.create_future()
        pending = self._commits.join(op, self._loop.time(), partial(_tell, ended))
        if self._server is None:
            self._server = self._loop.create_task(self._serve(), name="millstream-confirming")
        await ended
        return pending.result()

    async def confirm(self, error: NotConfirmed) -> list[Receipt]:
        """Repeat what a send has stored, and wait until it is confirmed.

        Raises:
            NotConfirmed: it is still not.
            UsageError: another client has sent it, or too long ago.
            BrokerError: the server cannot be reached.
        """
        ops = to_confirm(error, self._commits, self._loop.time())
        # Together: they are in one commit.
        outcomes = await asyncio.gather(*map(self.run, ops), return_exceptions=True)
        known: list[Sequence[Any]] = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            known.append(outcome)
        return results_of(error, ops, known)

    async def together(
        self, calls: Sequence[Callable[[], Awaitable[T]]]
    ) -> list[T | BaseException]:
        """Make several calls at the same time, so that they share commits; errors are among the results."""
        return await asyncio.gather(*(call() for call in calls), return_exceptions=True)

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
            self._server = None

    async def _next(self) -> tuple[Command, ...] | None:
        while self._commits.gathering(self._loop.time()):  # noqa: ASYNC110 - nobody tells who comes
            await asyncio.sleep(MOMENT)
        return self._commits.step(self._loop.time())

    async def _commit(self, commands: Sequence[Command]) -> bool:
        """Send a commit; return whether the server cannot serve at the moment."""
        try:
            replies = await self._call(commands)
        except (exceptions.RedisError, OSError) as loss:
            self._commits.failed(translate(loss, self._url), self._loop.time())
            return True
        if any(is_demotion(reply) for reply in replies):
            await self._wire.reset()
        told = [
            refusal(one, self._url) if isinstance(one, ERROR_REPLIES) else one for one in replies
        ]
        return self._commits.took(told, self._loop.time())

    async def _call(self, commands: Sequence[Command]) -> list[Any]:
        payload = pack(commands)
        replies = await self._wire.call(payload, len(commands))
        if missing := missing_scripts(commands, replies):
            # All of it again: what was confirmed did not have these.
            await self._wire.call(pack(missing), len(missing))
            replies = await self._wire.call(payload, len(commands))
        return replies

    async def close(self) -> None:
        """Disconnect. Whoever still waits is told what is known."""
        self._commits.close()
        await self._wire.close()
        if self._server is not None:
            await asyncio.wait([self._server])


def _tell(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
