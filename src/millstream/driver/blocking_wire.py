"""One connection for threads. The twin of ``aio_wire``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from redis import exceptions

from millstream.driver.blocking_turn import BlockingTurn
from millstream.driver.faults import CONNECTION_LOSS, ERROR_REPLIES, NoTurn
from millstream.driver.target import Target

__all__ = ["BlockingWire"]

AT_ONCE = 16 * 1024
"""Bytes that an idle connection takes without waiting for the server."""


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
        # The target may allow less.
        self._step_timeout = self._connection.socket_connect_timeout
        self._turn = BlockingTurn()
        self._connected = self._closed = False
        self.silence: tuple[float, Callable[[], bool]] | None = None
        """After so many seconds without a reply, and again: what tells whether to wait no longer."""
        self.losses = 0
        """How many connections it has lost so far: the next may be to another server."""

    def call(self, payload: bytes, replies: int, until: float | None = None) -> list[Any]:
        """Send packed commands in one write and return their replies.

        Args:
            payload: the commands.
            replies: how many they have.
            until: time on the monotonic clock at which all of it is given up; None: each step takes its
                own time at most.

        An error that the server answers stands in the place of its reply.

        Raises:
            NoTurn: other threads have used the connection all the time.
            redis-py's connection errors, or TimeoutError; the connection is closed, and the next
            call opens it.
        """
        self._turn.check()
        try:
            # Those who wait for a server that hangs give up together, not one after the other.
            self._turn.take(self._timeout if until is None else until - time.monotonic())
            return self._exchange(payload, replies, until)
        finally:
            if self._closed and self._turn.is_mine():
                self._drop()
            self._turn.leave()

    def _exchange(self, payload: bytes, replies: int, until: float | None) -> list[Any]:
        try:
            self._connect(until)
            self._send(payload, until)
            received = []
            for _ in range(replies):
                self._wait(until)
                received.append(self._reply())
        except BaseException:
            # Half a reply would make every later one belong to another call.
            self._drop()
            raise
        return received

    def _send(self, payload: bytes, until: float | None) -> None:
        connection = self._connection
        if until is None or len(payload) <= AT_ONCE:
            connection.send_packed_command([payload], check_health=False)
            return
        connection._sock.settimeout(_left(until))  # noqa: SLF001 - redis-py has one timeout for all
        connection.send_packed_command([payload], check_health=False)
        connection._sock.settimeout(self._timeout)  # noqa: SLF001 - redis-py has one timeout for all

    def _wait(self, until: float | None) -> None:
        """Wait for a reply, if not as long as the connection does by itself."""
        if self.silence is None:
            if until is not None and not self._connection.can_read(_left(until)):
                raise TimeoutError(_SILENT)
            return
        step, is_over = self.silence
        end = time.monotonic() + self._timeout if until is None else until
        while not self._connection.can_read(max(0.0, min(step, end - time.monotonic()))):
            if time.monotonic() >= end or is_over():
                raise TimeoutError(_SILENT)

    def _connect(self, until: float | None) -> None:
        if self._closed:
            message = "the client is closed"
            raise exceptions.ConnectionError(message)
        if self._connected and self._is_stale():
            self._drop()
        if self._connected:
            return
        try:
            self._set_timeouts(None if until is None else _left(until))
            self._target.connect_blocking(self._connection, until)
            if until is not None:
                self._set_timeouts(None)
        except CONNECTION_LOSS:
            if self._target.embedded is not None:
                # The next try finds it, also when all that kept it was killed.
                self._target.embedded.revive(timeout=self._connect_timeout)
            raise
        self._connected = True

    def _set_timeouts(self, seconds: float | None) -> None:
        """Have no step of the connection take longer than so many seconds; None: than it may by itself."""
        connection = self._connection
        left = math.inf if seconds is None else seconds
        connection.socket_connect_timeout = min(self._step_timeout, left)
        connection.socket_timeout = min(self._timeout, left)
        if connection._sock is not None:  # noqa: SLF001 - redis-py reads these before it connects only
            connection._sock.settimeout(connection.socket_timeout)  # noqa: SLF001 - as above
            connection._parser._socket_timeout = connection.socket_timeout  # noqa: SLF001 - as above

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
        try:
            self._turn.take(self._timeout)
            self._drop()
        except NoTurn:
            # A server that was demoted answers; who uses it all the time hears of that, too.
            return
        finally:
            self._turn.leave()

    def _drop(self) -> None:
        self._connected = False
        self.losses += 1
        self._connection.disconnect()

    def retire(self) -> None:
        """Disconnect, unless a thread waits for a reply; it does so by itself then."""
        self._end(0.0)

    def close(self) -> None:
        """Disconnect. Later calls fail."""
        self._end(self._timeout)

    def _end(self, seconds: float) -> None:
        """Disconnect, after a call that is on its way, or before it, if it takes longer than so many seconds."""
        self._closed = True
        if self._turn.is_mine():
            # In a signal handler, in the middle of a call: that disconnects when it has ended.
            return
        try:
            if not self._turn.is_foreign:
                self._turn.take(seconds)
            self._drop()
        except NoTurn:
            if seconds:
                self._drop()
        finally:
            self._turn.leave()


def _left(until: float) -> float:
    """Return the seconds that are left.

    Raises:
        TimeoutError: none.
    """
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError(_SILENT)
    return left


_SILENT = "no reply"
