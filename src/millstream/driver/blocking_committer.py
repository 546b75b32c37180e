"""Commits on one connection, from threads. The twin of ``aio_committer``.

The thread that finds nobody at work commits for all, until its own batches are through; then one of
those that still wait goes on.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from redis import exceptions

from millstream.driver.blocking_cluster import BlockingCluster
from millstream.driver.blocking_guard import take_back
from millstream.driver.blocking_server import BlockingServer
from millstream.driver.blocking_wire import BlockingWire
from millstream.driver.cluster import SILENCE
from millstream.driver.faults import ERROR_REPLIES, Tries, forked, is_demotion
from millstream.driver.packing import missing_scripts, pack
from millstream.driver.server_check import check_probe
from millstream.driver.target import Target
from millstream.errors import BrokerError
from millstream.protocol.confirm import Commits, Pending, at_home, still_at_home
from millstream.protocol.op import Command, Op
from millstream.protocol.probe import probe

__all__ = ["BlockingCommitter"]

LOOK_AGAIN = 1.0
"""Seconds after which a thread looks by itself whether it is its turn to talk to the server."""

MOMENT = 0.001
"""Seconds between looks whether all have sent again."""


class BlockingCommitter:
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
        server: BlockingServer | BlockingCluster,
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
        self._wire: BlockingWire | None = None
        # Where that leads to, and whether it is known to confirm what is asked for.
        self._target: Target | None = None
        self._asked = False
        self._commits = Commits(durability, timeout, way)
        self._pid = os.getpid()
        self._guard = threading.Condition()
        self._at_work = self._closed = False

    def run_all(self, ops: Sequence[Op[Any]]) -> list[Sequence[Any]]:
        """Send batches in one commit, in their order, and wait until they are confirmed or their time is over.

        Args:
            ops: of different producers.

        Returns:
            What came of each message of each: a receipt (or a list of them), or ``NotConfirmed``, or
            why it is not stored.

        Raises:
            BrokerError: one is not known to be stored; others may be.
        """
        if os.getpid() != self._pid:
            # Locks that another thread held at the fork stay locked for ever.
            raise forked()
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
        except BrokerError as problem:
            self._commits.failed(problem, time.monotonic())
            return True
        return self._commits.took(replies, time.monotonic())

    def _unguarded(self, commands: Sequence[Command]) -> Sequence[Any]:
        try:
            self._guard.release()
            return self._exchange(commands)
        finally:
            take_back(self._guard)

    def _exchange(self, commands: Sequence[Command]) -> Sequence[Any]:
        """Return the replies to a commit; errors of the server are ours among them.

        Raises:
            BrokerError: the connection is lost, or the server can never confirm it.
        """
        if self._moves:
            commands = (*commands, still_at_home(commands))
        try:
            wire = self._reach()
            replies = _call(wire, commands)
        except BrokerError:
            raise
        except (exceptions.RedisError, OSError) as loss:
            raise self._server.explain(loss, self._place) from loss
        if any(is_demotion(reply) for reply in replies):
            wire.reset()
        told = [
            self._server.explain(one, self._place) if isinstance(one, ERROR_REPLIES) else one
            for one in replies
        ]
        return at_home(told) if self._moves else told

    def _reach(self) -> BlockingWire:
        """Return the connection to where the slot is now; who is new is asked whether it can confirm.

        Raises:
            UnsupportedServer, ServerRefused: it can never.
            redis-py's errors, or TimeoutError.
        """
        target = self._server.target_for(self._place)
        wire = self._wire
        if wire is None or target is not self._target:
            if wire is not None:
                wire.close()
            wire = self._wire = self._new_wire(target)
            if self._closed:
                # Another thread has closed the one before.
                wire.close()
        if not self._asked:
            question = probe(self._commits.durability, target.url)
            replies = wire.call(pack(question.commands), len(question.commands))
            check_probe(question, replies, target.url)
            self._asked = True
        return wire

    def _new_wire(self, target: Target) -> BlockingWire:
        self._target, self._asked = target, False
        wire = BlockingWire(target, connect_timeout=self._connect_timeout, timeout=self._timeout)
        if isinstance(self._server, BlockingCluster):
            # A node may hang, and its replica take over meanwhile.
            wire.silence = SILENCE, partial(self._server.has_left, target)
        return wire

    def rest(self, seconds: float) -> None:
        """Disconnect if nothing was sent for so long; the next send connects anew."""
        if not self._guard.acquire(blocking=False):
            return
        try:
            idle = self._commits.idle_for(time.monotonic()) >= seconds
            if self._wire is not None and idle and not self._at_work:
                wire, self._wire = self._wire, None
                wire.close()
        finally:
            self._guard.release()

    def close(self) -> None:
        """Disconnect. Whoever still waits is told what is known."""
        self._closed = True
        self._commits.close()
        if self._wire is not None:
            self._wire.close()


def _call(wire: BlockingWire, commands: Sequence[Command]) -> list[Any]:
    payload = pack(commands)
    replies = wire.call(payload, len(commands))
    if missing := missing_scripts(commands, replies):
        # All of it again: what was confirmed did not have these.
        wire.call(pack(missing), len(missing))
        replies = wire.call(payload, len(commands))
    return replies
