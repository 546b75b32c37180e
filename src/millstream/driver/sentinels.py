"""Sentinels: they know where the primary is, and its replicas; and when it is another one.

One thread for each target asks all of them: when a connection is to be made, and twice a second while
any is open. A server that hangs says nothing for as long as it hangs, so whoever waits for it, in a
call or in a read that sleeps, could only wait for a timeout. The thread cuts such connections as soon
as the Sentinels name another server, and their owners connect anew, as after any other loss. Drivers
for asyncio use the same thread: what blocks their event loop, or its executor, does not keep it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import msgspec
from redis import exceptions

from millstream.driver.faults import CONNECTION_LOSS, ERROR_REPLIES, is_connection_loss
from millstream.driver.packing import pack
from millstream.driver.sentinel import ANSWER_TIMEOUT, Address, Sentinel, Sight, best, shown
from millstream.protocol.op import Command

__all__ = ["Place", "Sentinels"]

logger = logging.getLogger("millstream.sentinel")

EVERY = 0.5
"""Seconds between two questions while a connection is open."""

_HELLO = pack([Command(("HELLO",))])
"""Tells the role as ROLE does, but every user may ask."""


class Place(Protocol):
    """Where one Sentinel is, and how to reach it."""

    @property
    def url(self) -> str:
        """Its host and port, for people."""
        ...

    def blocking_connection(self, connect_timeout: float, timeout: float | None) -> Any:
        """Make a connection; it is not connected yet."""
        ...


class Link(msgspec.Struct, eq=False):
    """A connection to a server that the Sentinels have named."""

    address: Address
    epoch: int
    replica: bool
    loop: asyncio.AbstractEventLoop | None
    connected: bool = False


class Sentinels:
    """All that is asked of the Sentinels of one primary.

    Args:
        name: under which they know it.
        places: where they are; at least one.
    """

    def __init__(self, name: str, places: Sequence[Place]) -> None:
        self.name = name
        self.places = places
        self._sentinels = [Sentinel(name, place) for place in places]
        # Each is connected, and asked.
        self._longest = 2 * ANSWER_TIMEOUT * len(places) + 1
        self._changed = threading.Condition()
        self._asking: list[Future[Sight]] = []
        self._links: weakref.WeakKeyDictionary[Any, Link] = weakref.WeakKeyDictionary()
        self._thread: threading.Thread | None = None
        self._closed = False

    def connect(self, connection: Any, *, replica: bool, until: float | None = None) -> None:
        """Connect to the primary, or to a replica; to the primary, if none is well.

        Args:
            connection: a blocking one of redis-py, not connected; its address is set here.
            replica: which of the two.
            until: time on the monotonic clock up to which to wait for an answer; None: as long as it
                may take.

        Raises:
            redis-py's errors, OSError: as for any connection; there was nobody to connect to, or
                somebody who is no primary any more.
        """
        left = math.inf if until is None else max(0.0, until - time.monotonic())
        sight = self._ask().result(min(self._longest, left))
        with self._attempt(connection, sight, replica=replica) as link:
            connection.connect()
            connection.send_packed_command([_HELLO], check_health=False)
            try:
                reply = connection.read_response(disable_decoding=True, disconnect_on_error=False)
            except ERROR_REPLIES:
                reply = []
            _check_role(reply, link)

    async def connect_async(self, connection: Any, *, replica: bool) -> None:
        """Connect a connection for asyncio in the same way."""
        sight = await asyncio.wrap_future(self._ask())
        loop = asyncio.get_running_loop()
        with self._attempt(connection, sight, replica=replica, loop=loop) as link:
            await connection.connect()
            await connection.send_packed_command(_HELLO, check_health=False)
            try:
                reply = await connection.read_response(
                    disable_decoding=True, disconnect_on_error=False
                )
            except ERROR_REPLIES:
                reply = []
            _check_role(reply, link)

    @contextlib.contextmanager
    def _attempt(
        self,
        connection: Any,
        sight: Sight,
        *,
        replica: bool,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Iterator[Link]:
        """Have a connection cut as soon as it should lead elsewhere, also while it is being made."""
        address = sight.any_replica() if replica else sight.primary
        link = Link(address, sight.epoch, replica, loop)
        connection.host, connection.port = address
        with self._changed:
            self._links[connection] = link
        try:
            yield link
            with self._changed:
                if self._links.get(connection) is not link:
                    message = "the Sentinels name another one by now"
                    raise exceptions.ConnectionError(message)  # noqa: TRY301 - as any other loss
                link.connected = True
        except BaseException as error:
            with self._changed:
                self._links.pop(connection, None)
            if isinstance(error, CONNECTION_LOSS) and is_connection_loss(error):
                raise _explained(error, address, sight) from error
            raise

    def _ask(self) -> Future[Sight]:
        """Have them asked; the answer is no older than this call."""
        answer: Future[Sight] = Future()
        with self._changed:
            if self._closed:
                raise _closed()
            self._asking.append(answer)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="millstream-sentinels", daemon=True
                )
                self._thread.start()
            self._changed.notify()
        return answer

    def _work(self) -> None:
        """Ask while anybody wants to know, or has a connection."""
        while (asking := self._next()) is not None:
            # A future that was cancelled takes no answer.
            waiting = [one for one in asking if one.set_running_or_notify_cancel()]
            try:
                sight = best(self._sentinels, self.name)
                self._cut_outdated(sight)
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must know
                for one in waiting:
                    one.set_exception(error)
            else:
                for one in waiting:
                    one.set_result(sight)

    def _next(self) -> list[Future[Sight]] | None:
        """Wait until it is time to ask; return who wants to know. None: nobody any more."""
        with self._changed:
            if not self._asking and not self._closed:
                self._changed.wait(EVERY)
            asking, self._asking = self._asking, []
            if not self._closed and (asking or any(map(_is_open, self._links.items()))):
                return asking
            for one in asking:
                if one.set_running_or_notify_cancel():
                    one.set_exception(_closed())
            # The next who asks starts another thread.
            for sentinel in self._sentinels:
                sentinel.close()
            self._thread = None
            return None

    def _cut_outdated(self, sight: Sight) -> None:
        with self._changed:
            outdated = {
                connection: link
                for connection, link in self._links.items()
                if not sight.suits(link.address, link.epoch, replica=link.replica)
            }
            for connection in outdated:
                del self._links[connection]
        for connection, link in outdated.items():
            _cut(connection, link)
        for address, replica in sorted(
            {(link.address, link.replica) for link in outdated.values()}
        ):
            should = sight.replicas if replica and sight.replicas else [sight.primary]
            told = shown(address), ", ".join(map(shown, should))
            logger.info("connections to %r go from %s to %s", self.name, *told)

    def close(self) -> None:
        """Ask no more. Safe to repeat; connections stay as they are."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            # It may be waiting for one that hangs.
            thread.join(ANSWER_TIMEOUT * (len(self._sentinels) + 1))


def _closed() -> Exception:
    return exceptions.ConnectionError("the client is closed")


def _is_open(item: tuple[Any, Link]) -> bool:
    connection, link = item
    end = "_sock" if link.loop is None else "_writer"
    return not link.connected or getattr(connection, end) is not None


def _cut(connection: Any, link: Link) -> None:
    """End a connection that others use: they find that the server has closed it."""
    if link.loop is not None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            link.loop.call_soon_threadsafe(_abort, connection)
        return
    end = connection._sock  # noqa: SLF001 - redis-py's own way would free it while it is in use
    if end is not None:
        with contextlib.suppress(OSError):
            # Not that of a TLS socket, which would take away what its reader is using.
            socket.socket.shutdown(end, socket.SHUT_RDWR)


def _abort(connection: Any) -> None:
    writer = connection._writer  # noqa: SLF001 - as the wire does
    if writer is not None:
        writer.transport.abort()


def _check_role(reply: Sequence[Any], link: Link) -> None:
    """See that a primary is one: it may have been one when it was named, or before it died."""
    told = dict(zip(reply[::2], reply[1::2], strict=False))
    role = told.get(b"role", b"master")
    if role != b"master" and not link.replica:
        message = "it is a replica by now: a failover is on its way"
        raise exceptions.ConnectionError(message)


def _explained(error: BaseException, address: Address, sight: Sight) -> Exception:
    """Say what the Sentinels have to do with it."""
    state = ""
    if address == sight.primary:
        state = ", the primary by the word of the Sentinels"
        if sight.down:
            state += ", who know that it is down"
    message = f"{str(error) or 'no reply'} ({shown(address)}{state})"
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return exceptions.TimeoutError(message)
    return exceptions.ConnectionError(message)
