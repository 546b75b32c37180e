"""A connection for reads that sleep at the server, blocking. The twin of ``aio_listener``."""

from __future__ import annotations

import time
from typing import Any, TypeVar

from redis import exceptions

from millstream.driver.faults import ERROR_REPLIES, refusal, translate
from millstream.driver.packing import pack
from millstream.driver.target import Target
from millstream.protocol.op import Op

__all__ = ["BlockingListener"]

T = TypeVar("T")


class BlockingListener:
    """One sleeping read at a time, on a connection of its own, for one thread.

    Args:
        target: the server.
        connect_timeout: seconds to connect and log in.
        longest: seconds after which a read without a reply means that the connection is dead.
    """

    def __init__(self, target: Target, *, connect_timeout: float, longest: float) -> None:
        self._target = target
        self._connect_timeout = connect_timeout
        self._longest = longest
        self._overdue = 0.0
        self._connection: Any = None
        self._listening = False
        self.client_id = 0

    @property
    def listening(self) -> bool:
        """Whether a read is outstanding."""
        return self._listening

    def listen(self, op: Op[Any]) -> None:
        """Begin a read unless one is outstanding.

        Raises:
            NotConnected, TimedOut: the server cannot be reached.
        """
        if self._listening:
            return
        try:
            self._begin(op)
        except (exceptions.RedisError, OSError) as error:
            self.close()
            raise translate(error, self._target.url) from error
        except BaseException:
            # Interrupted between a command and its reply, it would be out of step.
            self.close()
            raise

    def poll(self, op: Op[T], timeout: float) -> T | None:
        """Wait for a read's result; None if the time is over, and the read stays outstanding.

        Raises:
            NotConnected, TimedOut: the connection is lost, or cannot be made.
            ServerRefused: the server answered with an error.
        """
        self.listen(op)
        # A timeout may be hours; a connection that is dead is to be noticed before.
        patience = min(timeout, self._overdue - time.monotonic())
        try:
            if not self._connection.can_read(max(0.0, patience)):
                if time.monotonic() < self._overdue:
                    return None
                message = "a sleeping read did not end"
                raise TimeoutError(message)
            self._listening = False
            reply = self._connection.read_response(disable_decoding=True, disconnect_on_error=False)
            return op.decode([reply])
        except ERROR_REPLIES as error:
            raise refusal(error, self._target.url) from error
        except (exceptions.RedisError, OSError) as error:
            self.close()
            raise translate(error, self._target.url) from error

    def _begin(self, op: Op[Any]) -> None:
        if self._connection is None:
            # A reply that has begun to arrive comes at once; only its beginning may take long.
            self._connection = self._target.blocking_connection(
                self._connect_timeout, self._connect_timeout
            )
            self._target.connect_blocking(self._connection)
            self._connection.send_command("CLIENT", "ID", check_health=False)
            self.client_id = self._connection.read_response()
        self._connection.send_packed_command([pack(op.commands)], check_health=False)
        self._listening = True
        self._overdue = time.monotonic() + self._longest

    def close(self) -> None:
        """Disconnect, whatever is outstanding."""
        connection, self._connection, self._listening = self._connection, None, False
        if connection is not None:
            connection.disconnect()
