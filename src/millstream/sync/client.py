# GENERATED from src/millstream/aio/client.py by tools/unasync.py - do not edit
"""The client: sends, receives, and answers what operators ask."""

from __future__ import annotations

import math
import os
import socket
import threading
import uuid
from collections.abc import Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from millstream.checks import (
    check_confirmed,
    check_cursor,
    check_headers,
    check_id,
    check_ids,
    check_limit,
    check_prefetch,
    check_queue,
    check_rate,
)
from millstream.declare import Queue, check_name
from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_sender import BlockingSender
from millstream.driver.lease_keeper import CALL_TIMEOUT, LeaseKeeper
from millstream.message import DeadLetter, Message, QueueStats, Receipt
from millstream.policy import Duration, milliseconds
from millstream.protocol import admin, control, discovery, shown
from millstream.protocol.envelope import encode_headers
from millstream.protocol.keys import QueueKeys, queue_keys
from millstream.sync.delivery import SyncDelivery
from millstream.sync.reader import QueueReader

__all__ = ["Client"]

T = TypeVar("T")


class Client:
    """A connection to one server. Use it as a context manager, from any number of threads.

    Args:
        source: a URL (``redis://``, ``rediss://``, ``valkey://``, ``valkeys://``, ``unix://``,
            ``embedded://[dir]``), or a ready-made redis-py client whose address and credentials
            are taken. Default: ``$MILLSTREAM_URL``, else ``embedded://``.
        namespace: first part of all keys; separates applications on one server.
        connect_timeout: seconds within which the first connection succeeds or fails. Default 5.
        timeout: seconds that one operation may take, reconnects included. Default 10.

    Raises:
        NotConnected: on entry, when no server answers; the error names the URL.
        UnsupportedServer: on entry, when it is older than Redis 6.2.
    """

    def __init__(
        self,
        source: object = None,
        *,
        namespace: str = "ms",
        connect_timeout: Duration = 5.0,
        timeout: Duration = 10.0,
    ) -> None:
        check_name(namespace, "namespace")
        self._namespace = namespace
        self._driver = BlockingDriver(
            source,
            connect_timeout=milliseconds(connect_timeout, "connect_timeout", minimum=0.001) / 1000,
            timeout=milliseconds(timeout, "timeout", minimum=0.001) / 1000,
        )
        self._keys: dict[str, QueueKeys] = {}
        self._senders: dict[str, BlockingSender] = {}
        # Receivers may start at the same time, in threads even: all get the same keeper.
        self._guard = threading.Lock()
        self._keeper: LeaseKeeper | None = None
        self._readers: set[QueueReader[Any]] = set()

    @property
    def url(self) -> str:
        """The server's address, its password hidden."""
        return self._driver.url

    @property
    def namespace(self) -> str:
        """First part of all keys."""
        return self._namespace

    @property
    def driver(self) -> BlockingDriver:
        """What runs operations; for the worker, and for tools that add their own."""
        return self._driver

    def connect(self) -> Self:
        """Connect now, and check the server. The first operation does so, too.

        Raises:
            NotConnected, UnsupportedServer: see the class.
        """
        self._driver.open()
        return self

    def __enter__(self) -> Self:
        """Connect."""
        return self.connect()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Hand back what was fetched ahead, and disconnect. Safe to repeat."""
        for sender in self._senders.values():
            sender.close()
        for reader in list(self._readers):
            reader.close()
        with self._guard:
            keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.close()
        self._driver.close()

    # Sending

    def send(
        self, queue: Queue[T], body: T, *, headers: Mapping[str, str] | None = None
    ) -> Receipt:
        """Send one message. Concurrent sends share round trips; alone, a send waits for nothing.

        Args:
            queue: where to.
            body: of the queue's type.
            headers: metadata, strings to strings.

        Returns:
            The receipt, once the server has the message.

        Raises:
            UsageError: the body has the wrong type or is too large. Nothing was sent.
            BrokerError: the message may or may not be stored. A repeated call sends a second one.

        Guarantee: stored once, also when the connection breaks on the way; from then on it is
        delivered at least once.
        """
        if not isinstance(queue, Queue):
            check_queue(queue)
        sender = self._senders.get(queue.name) or self._sender(queue)
        return sender.send(queue.encode(body), _encoded(headers) if headers else b"")

    def send_many(
        self,
        queue: Queue[T],
        bodies: Iterable[T],
        *,
        headers: Mapping[str, str] | None = None,
    ) -> list[Receipt]:
        """Send many messages, in chunks of some hundred, one script call a chunk.

        Args:
            queue: where to.
            bodies: of the queue's type. All are encoded before the first is sent.
            headers: metadata, the same for all.

        Returns:
            A receipt for each, in order.

        Raises:
            UsageError: a body has the wrong type or is too large. Nothing was sent.
            BrokerError: some chunks may be stored, others not.

        Guarantee: as for ``send``. A chunk is stored whole or not at all. The order is kept,
        unless a connection breaks on the way.
        """
        check_queue(queue)
        encoded = [queue.encode(body) for body in bodies]
        if not encoded:
            return []
        sender = self._senders.get(queue.name) or self._sender(queue)
        same = [_encoded(headers)] * len(encoded) if headers else None
        return sender.send_many(encoded, same)

    def _sender(self, queue: Queue[Any]) -> BlockingSender:
        keys = self._queue_keys(queue)
        self._driver.open()
        return self._senders.setdefault(queue.name, self._driver.sender(keys))

    # Receiving

    def receive(
        self, queue: Queue[T], *, prefetch: int = 10, wait: Duration | None = None
    ) -> Generator[SyncDelivery[T], None, None]:
        """Iterate over deliveries. Settle each: ``ack``, ``retry``, ``reject`` or ``release``.

        A delivery is yours for the queue's lease from the moment you get it; ``extend`` it for
        longer work. What waits in the buffer keeps its lease, and is handed back at the end.

        Args:
            queue: where from.
            prefetch: how many messages to fetch ahead, 1 to 10,000. Less is fairer to other
                consumers, more is faster.
            wait: stop when no message came for so many seconds; 0: stop when there is none now.
                None: go on until the client is closed.

        Raises:
            UsageError: prefetch or wait is out of bounds.
            NotConnected, TimedOut: the server was lost and did not come back within the timeout.

        Guarantee: each message is delivered at least once. Bodies that do not decode go to the
        dead letters and are not yielded.
        """
        check_queue(queue)
        check_prefetch(prefetch)
        seconds = math.inf if wait is None else milliseconds(wait, "wait") / 1000
        self._driver.open()
        reader = QueueReader(
            self._driver,
            self.lease_keeper(),
            self._driver.listener(),
            queue=queue,
            keys=[self._queue_keys(queue)],
            consumer=self.consumer_name(),
            prefetch=prefetch,
        )
        reader.open()
        self._readers.add(reader)
        try:
            while (delivery := reader.next(seconds)) is not None:
                yield delivery
        finally:
            # It stays in the set until it is closed, so that the client waits for it.
            reader.close()
            self._readers.discard(reader)

    def consumer_name(self) -> str:
        """Return a name for a consumer that nobody else has."""
        return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    def lease_keeper(self) -> LeaseKeeper:
        """Return the thread that extends leases for all consumers of this client."""
        with self._guard:
            if self._keeper is None:
                self._keeper = LeaseKeeper(self._driver.blocking(timeout=CALL_TIMEOUT))
            return self._keeper

    # Operating

    def queues(self) -> list[str]:
        """List the queues of the namespace by name, each from its first message or consumer on.

        It looks at every key of the server, without holding others up.
        """
        return self._driver.drive(discovery.list_queues(self._namespace))

    def stats(self, queue: Queue[Any]) -> QueueStats:
        """Count a queue's messages by state, at one moment."""
        return self._driver.run(admin.stats(self._queue_keys(queue)))

    def peek(self, queue: Queue[T], *, limit: int = 10, delayed: bool = False) -> list[Message]:
        """Look at the next messages without delivering them.

        Args:
            queue: where.
            limit: how many at most.
            delayed: those that wait for their time, instead of those that are ready.
        """
        keys = self._queue_keys(queue)
        check_limit(limit)
        if delayed:
            waiting = self._driver.run(admin.peek_delayed(keys, limit))
            return [shown.message(queue, envelope, due) for envelope, due in waiting]
        ready = self._driver.run(admin.peek_ready(keys, limit))
        return [shown.message(queue, envelope, None) for envelope in ready]

    def dead(
        self, queue: Queue[T], *, limit: int = 100, after: str | None = None
    ) -> list[DeadLetter]:
        """List dead letters, the oldest first, a page at a time.

        Args:
            queue: whose.
            limit: how many at most.
            after: the ``cursor`` of the last one of the page before.
        """
        check_limit(limit)
        check_cursor(after)
        letters = self._driver.run(admin.dead(self._queue_keys(queue), after, limit))
        return [shown.dead_letter(queue, envelope) for envelope in letters]

    def redrive(
        self,
        queue: Queue[Any],
        *,
        ids: Sequence[str] | None = None,
        reason: str | None = None,
        rate: float | None = None,
    ) -> int:
        """Send dead letters back to their queue, with their counts at zero and the same ids.

        Args:
            queue: whose.
            ids: of messages. Default: all.
            reason: only those with this reason; ``*`` stands for any text.
            rate: most messages a second. Default: as fast as possible.

        Returns:
            How many were sent back.

        Raises:
            UsageError: the rate is not above zero, or the ids are no list.
        """
        check_rate(rate)
        check_ids(ids)
        if ids is not None and not ids:
            return 0
        keys = self._queue_keys(queue)
        return self._driver.drive(admin.redrive(keys, ids=ids, reason=reason, rate=rate))

    def purge(self, queue: Queue[Any], *, confirm: bool = False, dead: bool = False) -> int:
        """Delete messages for good: the ready and delayed ones, or the dead letters.

        Messages in flight are not touched: a consumer has them.

        Args:
            queue: whose.
            confirm: must be True.
            dead: the dead letters, instead of what waits.

        Returns:
            How many were deleted.

        Raises:
            UsageError: it was not confirmed.
        """
        keys = self._queue_keys(queue)
        check_confirmed(confirm, queue)
        return self._driver.drive(admin.purge_dead(keys) if dead else admin.purge(keys))

    def pause(self, queue: Queue[Any]) -> None:
        """Have no consumer begin a message from now on, until ``resume``. Safe to repeat.

        Sends go on, what runs goes on and is settled, and delayed messages become ready. What
        workers have fetched ahead they hand back; a ``receive`` loop does so at its next message.

        Args:
            queue: which one. It need not have been used before.
        """
        self._driver.run(control.pause(self._queue_keys(queue)))
        self._look_again()

    def resume(self, queue: Queue[Any]) -> None:
        """Let a paused queue go on at once, where it stood. Safe to repeat."""
        self._driver.run(control.resume(self._queue_keys(queue)))

    def cancel(self, queue: Queue[Any], id: str) -> bool:
        """Put a message that runs with the dead letters, reason ``cancelled``; stop its handler.

        A coroutine is cancelled. In a thread ``asyncio.CancelledError`` is raised, at its next
        line of Python. A delivery from ``receive`` raises ``LeaseLost`` when it is settled.

        Args:
            queue: whose.
            id: of the message.

        Returns:
            Whether it was there; False: it is done, dead, or unknown.

        Raises:
            UsageError: the id is no id of a message.
        """
        keys = self._queue_keys(queue)
        over = self._driver.drive(control.cancel_running(keys, check_id(id)))
        self._look_again()
        return over

    def _look_again(self) -> None:
        """Have this client's own receivers notice at once; others look every tenth of a second."""
        for reader in list(self._readers):
            reader.make_unsure()

    def _queue_keys(self, queue: Queue[Any]) -> QueueKeys:
        check_queue(queue)
        keys = self._keys.get(queue.name)
        if keys is None:
            keys = self._keys[queue.name] = queue_keys(self._namespace, queue.name)
        return keys


def _encoded(headers: Mapping[str, str]) -> bytes:
    check_headers(headers)
    return encode_headers(headers)
