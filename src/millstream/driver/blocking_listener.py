"""A connection for reads that sleep at the server, blocking. The twin of ``aio_listener``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from redis import exceptions

from millstream.driver.blocking_cluster import BlockingCluster
from millstream.driver.blocking_server import BlockingServer
from millstream.driver.cluster import GLANCE
from millstream.driver.faults import ERROR_REPLIES
from millstream.driver.packing import pack
from millstream.driver.target import Target
from millstream.protocol.op import Op

__all__ = ["BlockingListener"]

T = TypeVar("T")


class BlockingListener:
    """One sleeping read at a time, on a connection of its own, for one thread.

    Args:
        server: the server, or the cluster.
        connect_timeout: seconds to connect and log in.
        longest: seconds after which a read without a reply means that the connection is dead.
    """

    def __init__(
        self, server: BlockingServer | BlockingCluster, *, connect_timeout: float, longest: float
    ) -> None:
        self._server = server
        self._url = server.target.url
        # Where it is connected to.
        self._target: Target | None = None
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

    @property
    def done(self) -> bool:
        """Whether there is something to read, if only that the connection is lost."""
        try:
            return bool(self._connection is None or self._connection.can_read(0))
        except (exceptions.RedisError, OSError):
            return True

    @property
    def socket(self) -> Any:
        """What to wait for, together with others."""
        return self._connection._sock  # noqa: SLF001 - redis-py waits for one socket only

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
            raise self._server.explain(error, op) from error
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
        end = min(time.monotonic() + timeout, self._overdue)
        try:
            while not self._connection.can_read(max(0.0, min(GLANCE, end - time.monotonic()))):
                now = time.monotonic()
                if now >= self._overdue or (self._target and self._server.has_left(self._target)):
                    message = "a sleeping read did not end"
                    raise TimeoutError(message)
                if now >= end:
                    return None
            self._listening = False
            reply = self._connection.read_response(disable_decoding=True, disconnect_on_error=False)
            return op.decode([reply])
        except ERROR_REPLIES as error:
            raise self._server.explain(error, op) from error
        except (exceptions.RedisError, OSError) as error:
            self.close()
            raise self._server.explain(error, op) from error

    def tell(self, op: Op[T], timeout: float, hear: Callable[[T], None]) -> None:
        """Do the same, but call a function with the result."""
        result = self.poll(op, timeout)
        if result is not None:
            hear(result)

    def _begin(self, op: Op[Any]) -> None:
        target = self._server.target_for(op)
        if target is not self._target and self._connection is not None:
            # What it reads has moved to another node.
            self.close()
        if self._connection is None:
            self._target = target
            # A reply that has begun to arrive comes at once; only its beginning may take long.
            self._connection = target.blocking_connection(
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
