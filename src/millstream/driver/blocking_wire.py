"""One connection for threads. The twin of ``aio_wire``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from redis import exceptions

from millstream.driver.faults import CONNECTION_LOSS, ERROR_REPLIES
from millstream.driver.target import Target

__all__ = ["BlockingWire"]


class BlockingWire:
    """One connection that threads use in turn.

    Args:
        target: the server.
        connect_timeout: seconds to connect and log in.
        timeout: seconds to wait for a reply.
    """

    def __init__(self, target: Target, *, connect_timeout: float, timeout: float) -> None:
        self._target = target
        self._connection = target.blocking_connection(connect_timeout, timeout)
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._lock = threading.Lock()
        self._connected = self._closed = False
        self.silence: tuple[float, Callable[[], bool]] | None = None
        """After so many seconds without a reply, and again: what tells whether to wait no longer."""
        self.losses = 0
        """How many connections it has lost so far: the next may be to another server."""

    def call(self, payload: bytes, replies: int, patience: float | None = None) -> list[Any]:
        """Send packed commands in one write and return their replies.

        Args:
            payload: the commands.
            replies: how many they have.
            patience: seconds to wait for the first of them; None: the timeout.

        An error that the server answers stands in the place of its reply.

        Raises:
            redis-py's connection errors, or TimeoutError; the connection is closed, and the next
            call opens it.
        """
        # Those who wait for a server that hangs give up together, not one after the other.
        if not self._lock.acquire(timeout=self._timeout if patience is None else patience):
            message = "calls of other threads wait for it, too"
            raise TimeoutError(message)
        try:
            self._connect()
            self._connection.send_packed_command([payload], check_health=False)
            self._wait(patience)
            return [self._reply() for _ in range(replies)]
        except BaseException:
            # Half a reply would make every later one belong to another call.
            self._drop()
            raise
        finally:
            self._lock.release()

    def _wait(self, patience: float | None) -> None:
        """Wait for the first reply, if not as long as the connection does by itself."""
        if self.silence is None:
            if patience is not None and not self._connection.can_read(patience):
                message = "no reply"
                raise TimeoutError(message)
            return
        step, is_over = self.silence
        end = time.monotonic() + (self._timeout if patience is None else patience)
        while not self._connection.can_read(max(0.0, min(step, end - time.monotonic()))):
            if time.monotonic() >= end or is_over():
                message = "no reply"
                raise TimeoutError(message)

    def _connect(self) -> None:
        if self._closed:
            message = "the client is closed"
            raise exceptions.ConnectionError(message)
        if self._connected and self._is_stale():
            self._drop()
        if self._connected:
            return
        try:
            self._target.connect_blocking(self._connection)
        except CONNECTION_LOSS:
            if self._target.embedded is not None:
                # The next try finds it, also when all that kept it was killed.
                self._target.embedded.revive(timeout=self._connect_timeout)
            raise
        self._connected = True

    def _is_stale(self) -> bool:
        """Tell whether the server has closed the connection while nobody looked.

        Found out by a call, it would cost one that is not repeatable.
        """
        try:
            # Whatever there is to read before a call is no reply to it.
            return bool(self._connection.can_read(0))
        except (exceptions.RedisError, OSError):
            return True

    def _reply(self) -> Any:
        try:
            return self._connection.read_response(disable_decoding=True, disconnect_on_error=False)
        except ERROR_REPLIES as error:
            return error

    def reset(self) -> None:
        """Give the connection up; the next call makes a new one."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        self._connected = False
        self.losses += 1
        self._connection.disconnect()

    def retire(self) -> None:
        """Disconnect, unless a thread waits for a reply; it does so by itself then."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._lock.release()

    def close(self) -> None:
        """Disconnect. Later calls fail."""
        self._closed = True
        # A signal handler that raises can leave the lock taken for ever; closing must not hang.
        taken = self._lock.acquire(timeout=self._timeout)
        try:
            self._drop()
        finally:
            if taken:
                self._lock.release()
