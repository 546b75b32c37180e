"""Sends that wait for room in a full queue, from threads. The twin of ``aio_waiting``.

The thread that finds nobody at work does it for all, until its own messages are through; then one
of those that still wait goes on.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from millstream.driver.blocking_guard import take_back
from millstream.driver.blocking_listener import BlockingListener
from millstream.driver.faults import forked
from millstream.errors import BrokerError, NotConnected, UsageError
from millstream.message import Receipt
from millstream.policy import Bound
from millstream.protocol.bound import Unit
from millstream.protocol.consume import unblock
from millstream.protocol.keys import QueueKeys
from millstream.protocol.line import Line, Waiting
from millstream.protocol.op import Op

__all__ = ["BlockingWaitingSender"]

T = TypeVar("T")

Run = Callable[[Op[Any]], Any]
Connect = Callable[[], BlockingListener]

PAUSE = 0.5
"""Seconds without a listener after it was lost. The tickets are confirmed meanwhile."""

LOOK_AGAIN = 1.0
"""Seconds after which a thread looks by itself whether it is its turn to talk to the server."""


class BlockingWaitingSender:
    """Sends units of messages to one queue, in their order; each waits until there is room.

    Args:
        run: the driver's way to run an operation, with its repetitions.
        connect: makes a connection for reads that sleep at the server.
        keys: of the queue.
        bound: of the queue.
    """

    def __init__(self, run: Run, connect: Connect, keys: QueueKeys, bound: Bound) -> None:
        self._run = run
        self._connect = connect
        self._key = keys.ready
        self._line = Line(keys, bound, uuid.uuid4().hex[:16])
        self._pid = os.getpid()
        self._guard = threading.Condition()
        # The thread that talks to the server.
        self._at_work: int | None = None
        self._listener: BlockingListener | None = None
        self._closed = False

    def send(self, unit: Unit) -> list[Receipt]:
        """Send messages that are stored together, and wait until there is room for them.

        Raises:
            QueueFull: there was none in time.
            BrokerError: they are not known to be stored.
            UsageError: there will never be room, or the client is closed.
        """
        if os.getpid() != self._pid:
            # Locks that another thread held at the fork stay locked for ever.
            raise forked()
        with self._guard:
            if self._closed:
                raise _closed()
            waiting = self._line.join(unit, time.monotonic())
            try:
                while waiting.outcome is None:
                    if self._at_work is not None:
                        # Ctrl-C may come between the end of another's turn and its word of it.
                        self._guard.wait(LOOK_AGAIN)
                    else:
                        self._work(waiting)
            except BaseException as error:
                # Ctrl-C: it gives up its place, and those behind it go on.
                waiting.end(error)
                raise
        return waiting.result()

    def _work(self, mine: Waiting) -> None:
        """Do what is to be done until our own unit is through; the caller holds the guard."""
        self._at_work = threading.get_ident()
        try:
            # The last one leaves nothing behind; as long as others wait, they go on with it.
            while mine.outcome is None or not self._line.busy:
                step = self._line.step(time.monotonic())
                if step is None:
                    return
                if isinstance(step, Op):
                    self._do(step)
                elif mine.outcome is None:
                    self._listen(step)
                self._guard.notify_all()
        except BaseException:
            # Ctrl-C in the middle of a call: what came of the others' messages nobody knows.
            self._line.interrupted(NotConnected("the thread that sent this batch was interrupted"))
            self._disconnect()
            raise
        finally:
            self._at_work = None
            self._guard.notify_all()
            if self._closed:
                self._disconnect()

    def _do(self, op: Op[Any]) -> None:
        try:
            result = self._unguarded(partial(self._run, op))
        except BrokerError as error:
            self._line.failed(error)
        else:
            self._line.took(result, time.monotonic())

    def _listen(self, seconds: float) -> None:
        """Sleep until our turn has come, or the time is over."""
        op = self._line.listening()
        try:
            self._line.heard(self._unguarded(partial(self._poll, op, seconds)))
        except BrokerError:
            # Whoever is called stays called, and hears of it then.
            self._guard.wait(min(seconds, PAUSE))

    def _poll(self, op: Op[Any], seconds: float) -> Any:
        if self._listener is None:
            self._listener = self._connect()
        return self._listener.poll(op, seconds)

    def _unguarded(self, call: Callable[[], T]) -> T:
        """Call a function while other threads may join the line."""
        try:
            self._guard.release()
            return call()
        finally:
            take_back(self._guard)

    def close(self) -> None:
        """Wait for what is on its way; what waits for room is not sent."""
        if os.getpid() != self._pid:
            # See ``send``. There is nothing of ours to wait for.
            self._closed = True
            return
        with self._guard:
            self._closed = True
            self._line.close(_closed())
            while self._at_work is not None:
                if self._at_work == threading.get_ident():
                    # In a signal handler, in the middle of a send: that ends behind it.
                    return
                listener = self._listener
                if listener is not None and listener.listening:
                    with contextlib.suppress(BrokerError):
                        self._run(unblock(listener.client_id, self._key))
                self._guard.wait(PAUSE)
            # A thread that was interrupted may have left its ticket.
            while isinstance(step := self._line.step(time.monotonic()), Op):
                self._do(step)
            self._disconnect()

    def _disconnect(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()


def _closed() -> UsageError:
    return UsageError("this client was closed before there was room: nothing was sent")
