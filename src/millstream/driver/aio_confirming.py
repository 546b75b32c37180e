"""Sends that return when the server has confirmed them, on asyncio (see ``protocol/confirm.py``)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from millstream.driver.aio_cluster import AsyncCluster
from millstream.driver.aio_committer import AsyncCommitter
from millstream.driver.aio_server import AsyncServer
from millstream.errors import NotConfirmed, UsageError
from millstream.message import Receipt
from millstream.protocol import confirm
from millstream.protocol.op import Op
from millstream.protocol.unconfirmed import results_of, to_confirm

__all__ = ["AsyncConfirming"]

T = TypeVar("T")


class AsyncConfirming:
    """One durability of a client: what commits for a single server, or for each slot of a cluster.

    Args:
        server: the server, or the cluster.
        durability: ``fsync`` or ``replicas:N``.
        connect_timeout: seconds to connect and log in.
        timeout: seconds that a send may take in all.
    """

    def __init__(
        self,
        server: AsyncServer | AsyncCluster,
        durability: str,
        *,
        connect_timeout: float,
        timeout: float,
    ) -> None:
        self._server = server
        self._durability = durability
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        # WAIT is about one connection, to one node, and each slot may move by itself.
        self._committers: dict[int | None, AsyncCommitter] = {}
        self._looked = 0.0
        self._closed = False

    async def run(self, op: Op[Any]) -> Sequence[Any]:
        """Send a batch, and wait until it is confirmed or its time is over.

        Returns:
            What came of each message: a receipt (or a list of them), or ``NotConfirmed``, or why it
            is not stored.

        Raises:
            UnsupportedServer, ServerRefused: the server can never confirm it.
            BrokerError: it is not known to be stored.
        """
        return await self._committer(op).run(op)

    def _committer(self, op: Op[Any]) -> AsyncCommitter:
        slot = self._server.slot_of(op)
        if slot is not None:
            self._give_up_idle(slot, asyncio.get_running_loop().time())
        found = self._committers.get(slot)
        if found is None:
            if self._closed:
                message = "this client is closed"
                raise UsageError(message)
            found = self._committers[slot] = AsyncCommitter(
                *(self._server, slot, self._durability),
                way=self,
                connect_timeout=self._connect_timeout,
                timeout=self._timeout,
            )
        return found

    def _give_up_idle(self, but: int, now: float) -> None:
        """Now and then, disconnect from where nothing is sent any more."""
        if now - self._looked >= confirm.IDLE / 2:
            self._looked = now
            for slot, committer in self._committers.items():
                if slot != but:
                    committer.rest(confirm.IDLE)

    async def confirm(self, error: NotConfirmed) -> list[Receipt]:
        """Repeat what a send has stored, and wait until it is confirmed.

        Raises:
            NotConfirmed: it is still not.
            UsageError: another client has sent it, or too long ago.
            BrokerError: the server cannot be reached.
        """
        ops = to_confirm(error, self, asyncio.get_running_loop().time())
        # Together: those of one slot are in one commit.
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

    async def close(self) -> None:
        """Disconnect. Whoever still waits is told what is known."""
        self._closed = True
        await asyncio.gather(*(one.close() for one in self._committers.values()))
