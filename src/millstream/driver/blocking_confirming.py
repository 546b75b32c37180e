"""Sends that return when the server has confirmed them, from threads. The twin of ``aio_confirming``.

The thread that finds nobody at work commits for all, until its own batches are through; then one of
those that still wait goes on.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from redis import exceptions

from millstream.driver.blocking_guard import take_back
from millstream.driver.blocking_wire import BlockingWire
from millstream.driver.faults import ERROR_REPLIES, Tries, is_demotion, refusal, translate
from millstream.driver.packing import missing_scripts, pack
from millstream.driver.target import Target
from millstream.errors import NotConfirmed, UsageError
from millstream.message import Receipt
from millstream.protocol.confirm import Commits, Pending
from millstream.protocol.op import Command, Op
from millstream.protocol.unconfirmed import results_of, to_confirm

__all__ = ["BlockingConfirming"]

LOOK_AGAIN = 1.0
"""Seconds after which a thread looks by itself whether it is its turn to talk to the server."""


MOMENT = 0.001
"""Seconds between looks whether all have sent again."""

THREADS = 64
"""Most calls that one thread makes at the same time: one for each partition."""

T = TypeVar("T")


class BlockingConfirming:
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
        self._wire = BlockingWire(target, connect_timeout=connect_timeout, timeout=timeout)
        self._commits = Commits(durability, timeout)
        self._pid = os.getpid()
        self._guard = threading.Condition()
        self._at_work = False

    def run(self, op: Op[Any]) -> Sequence[Any]:
        """Send a batch, and wait until it is confirmed or its time is over.

        Returns:
            What came of each message: a receipt (or a list of them), or ``NotConfirmed``, or why it
            is not stored.

        Raises:
            BrokerError: it is not known to be stored.
        """
        return self.run_all([op])[0]

    def run_all(self, ops: Sequence[Op[Any]]) -> list[Sequence[Any]]:
        """Send batches in one commit, in their order; they are those of different producers.

        Raises:
            BrokerError: one is not known to be stored; others may be.
        """
        if os.getpid() != self._pid:
            # Locks that another thread held at the fork stay locked for ever.
            message = "this client was made before a fork: make one in each process"
            raise UsageError(message)
        with self._guard:
            mine = [self._commits.join(op, time.monotonic()) for op in ops]
            try:
                while any(one.outcome is None for one in mine):
                    if self._at_work:
                        # Ctrl-C may come between the end of another's turn and its word of it.
                        self._guard.wait(LOOK_AGAIN)
                    else:
                        self._work(mine)
            finally:
                # Ctrl-C: nobody waits for them any more.
                for one in mine:
                    self._commits.leave(one)
        return [one.result() for one in mine]

    def confirm(self, error: NotConfirmed) -> list[Receipt]:
        """Repeat what a send has stored, and wait until it is confirmed.

        Raises:
            NotConfirmed: it is still not.
            UsageError: another client has sent it, or too long ago.
            BrokerError: the server cannot be reached.
        """
        ops = to_confirm(error, self._commits, time.monotonic())
        return results_of(error, ops, self.run_all(ops))

    def together(self, calls: Sequence[Callable[[], T]]) -> list[T | BaseException]:
        """Make several calls at the same time, so that they share commits; errors are among the results."""
        with ThreadPoolExecutor(min(len(calls), THREADS), "millstream-confirming") as threads:
            futures = [threads.submit(call) for call in calls]
        return [future.exception() or future.result() for future in futures]

    def _work(self, mine: Sequence[Pending]) -> None:
        """Commit for all until our own batches are through; the caller holds the guard."""
        self._at_work = True
        tries = Tries(math.inf)
        try:
            while any(one.outcome is None for one in mine):
                while self._commits.gathering(time.monotonic()):
                    self._guard.wait(MOMENT)
                commands = self._commits.step(time.monotonic())
                if commands is None:
                    return
                pause = self._commit(commands)
                self._guard.notify_all()
                if pause:
                    # Without the guard: others join meanwhile.
                    self._guard.wait(tries.next_pause(time.monotonic()))
                else:
                    tries = Tries(math.inf)
        finally:
            self._at_work = False
            self._guard.notify_all()

    def _commit(self, commands: Sequence[Command]) -> bool:
        """Send a commit while others may join the next; return whether to pause before it."""
        try:
            replies = self._unguarded(commands)
        except (exceptions.RedisError, OSError) as loss:
            self._commits.failed(translate(loss, self._url), time.monotonic())
            return True
        if any(is_demotion(reply) for reply in replies):
            self._wire.reset()
        told = [
            refusal(one, self._url) if isinstance(one, ERROR_REPLIES) else one for one in replies
        ]
        return self._commits.took(told, time.monotonic())

    def _unguarded(self, commands: Sequence[Command]) -> list[Any]:
        try:
            self._guard.release()
            return self._call(commands)
        finally:
            take_back(self._guard)

    def _call(self, commands: Sequence[Command]) -> list[Any]:
        payload = pack(commands)
        replies = self._wire.call(payload, len(commands))
        if missing := missing_scripts(commands, replies):
            # All of it again: what was confirmed did not have these.
            self._wire.call(pack(missing), len(missing))
            replies = self._wire.call(payload, len(commands))
        return replies

    def close(self) -> None:
        """Disconnect. Whoever still waits is told what is known."""
        self._commits.close()
        self._wire.close()
