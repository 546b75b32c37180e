"""Whose turn it is to use something that threads use one after the other."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from millstream.driver.faults import NoTurn

__all__ = ["BlockingTurn"]


class BlockingTurn:
    """A lock that knows who has it.

    Use it so::

        turn.check()
        try:
            turn.take(seconds)
            ...
        finally:
            turn.leave()

    A plain lock has two faults here. A signal handler runs in the middle of what its own thread does, and
    would wait for itself. And if it raises (Ctrl-C), that may be between the lock and the block that lets it go.
    """

    __slots__ = ("_acquire", "_pid", "_release", "is_mine")

    def __init__(self) -> None:
        lock = threading.RLock()
        self._acquire, self._release = lock.acquire, lock.release
        # Condition asks its lock in the same way. These are called with each send, so nothing is around them.
        self.is_mine: Callable[[], bool] = lock._is_owned  # type: ignore[attr-defined] # noqa: SLF001 - see above
        """Tells whether this thread has it."""
        self._pid = os.getpid()

    @property
    def is_foreign(self) -> bool:
        """Whether it was made before a fork: what another thread held then stays locked for ever."""
        return os.getpid() != self._pid

    def check(self) -> None:
        """Make sure that this thread does not have it.

        Raises:
            NoTurn: it does.
        """
        if self.is_mine():
            message = (
                "this thread is in the middle of another call (a signal handler must not make one)"
            )
            raise NoTurn(message)

    def take(self, seconds: float) -> None:
        """Wait for it, but no longer than so many seconds.

        Raises:
            NoTurn: the time is over.
        """
        if self._acquire(blocking=False):
            return
        if not self._acquire(timeout=min(max(0.0, seconds), threading.TIMEOUT_MAX)):
            message = "calls of other threads were before it all the time"
            raise NoTurn(message)

    def leave(self) -> None:
        """Let the next one have it, if this thread has it."""
        if self.is_mine():
            self._release()
