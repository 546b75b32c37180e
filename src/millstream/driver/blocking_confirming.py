"""Sends that return when the server has confirmed them, from threads. The twin of ``aio_confirming``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from millstream.driver.blocking_cluster import BlockingCluster
from millstream.driver.blocking_committer import BlockingCommitter
from millstream.driver.blocking_server import BlockingServer
from millstream.errors import NotConfirmed, UsageError
from millstream.message import Receipt
from millstream.protocol import confirm
from millstream.protocol.op import Op
from millstream.protocol.unconfirmed import results_of, to_confirm

__all__ = ["BlockingConfirming"]

THREADS = 64
"""Most calls that one thread makes at the same time: one for each partition."""

T = TypeVar("T")


class BlockingConfirming:
    """One durability of a client: what commits for a single server, or for each slot of a cluster.

    Args:
        server: the server, or the cluster.
        durability: ``fsync`` or ``replicas:N``.
        connect_timeout: seconds to connect and log in.
        timeout: seconds that a send may take in all.
    """

    def __init__(
        self,
        server: BlockingServer | BlockingCluster,
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
        self._committers: dict[int | None, BlockingCommitter] = {}
        # A signal handler may close what its own thread uses.
        self._making = threading.RLock()
        self._looked = 0.0
        self._closed = False

    def run(self, op: Op[Any]) -> Sequence[Any]:
        """Send a batch, and wait until it is confirmed or its time is over; see ``run_all``."""
        return self.run_all([op])[0]

    def run_all(self, ops: Sequence[Op[Any]]) -> list[Sequence[Any]]:
        """Send batches of one slot in one commit, in their order; they are those of different producers.

        Returns:
            What came of each message of each: a receipt (or a list of them), or ``NotConfirmed``, or
            why it is not stored.

        Raises:
            UnsupportedServer, ServerRefused: the server can never confirm it.
            BrokerError: one is not known to be stored; others may be.
        """
        return self._committer(self._server.slot_of(ops[0])).run_all(ops)

    def _committer(self, slot: int | None) -> BlockingCommitter:
        if slot is not None:
            self._give_up_idle(slot, time.monotonic())
        found = self._committers.get(slot)
        if found is not None:
            return found
        with self._making:
            if self._closed:
                message = "this client is closed"
                raise UsageError(message)
            if slot not in self._committers:
                self._committers[slot] = BlockingCommitter(
                    *(self._server, slot, self._durability),
                    way=self,
                    connect_timeout=self._connect_timeout,
                    timeout=self._timeout,
                )
            return self._committers[slot]

    def _give_up_idle(self, but: int, now: float) -> None:
        """Now and then, disconnect from where nothing is sent any more."""
        if now - self._looked >= confirm.IDLE / 2:
            self._looked = now
            for slot, committer in [*self._committers.items()]:
                if slot != but:
                    committer.rest(confirm.IDLE)

    def confirm(self, error: NotConfirmed) -> list[Receipt]:
        """Repeat what a send has stored, and wait until it is confirmed.

        Raises:
            NotConfirmed: it is still not.
            UsageError: another client has sent it, or too long ago.
            BrokerError: the server cannot be reached.
        """
        ops = to_confirm(error, self, time.monotonic())
        groups: dict[int | None, list[int]] = {}
        for index, op in enumerate(ops):
            groups.setdefault(self._server.slot_of(op), []).append(index)
        calls = [
            partial(self.run_all, [ops[index] for index in indexes]) for indexes in groups.values()
        ]
        results = [calls[0]()] if len(calls) == 1 else self.together(calls)
        known: dict[int, Sequence[Any]] = {}
        for indexes, result in zip(groups.values(), results, strict=True):
            if isinstance(result, BaseException):
                raise result
            known.update(zip(indexes, result, strict=True))
        return results_of(error, ops, [known[index] for index in range(len(ops))])

    def together(self, calls: Sequence[Callable[[], T]]) -> list[T | BaseException]:
        """Make several calls at the same time, so that they share commits; errors are among the results."""
        with ThreadPoolExecutor(min(len(calls), THREADS), "millstream-confirming") as threads:
            futures = [threads.submit(call) for call in calls]
        return [future.exception() or future.result() for future in futures]

    def close(self) -> None:
        """Disconnect. Whoever still waits is told what is known."""
        with self._making:
            self._closed = True
        for committer in [*self._committers.values()]:
            committer.close()
