# GENERATED from src/millstream/aio/client.py by tools/unasync.py - do not edit
"""The client: sends, receives, and answers what operators ask."""

from __future__ import annotations

import math
import os
import socket
import threading
import uuid
from collections.abc import Generator
from types import TracebackType
from typing import Any, Self, TypeVar

from millstream.checks import check_prefetch, check_read_from, check_security, check_source
from millstream.declare import check_name
from millstream.driver.blocking import BlockingDriver
from millstream.driver.lease_keeper import CALL_TIMEOUT, LeaseKeeper
from millstream.driver.target import check_server
from millstream.durability import MEMORY, check_durability
from millstream.policy import Duration, ReadFrom, milliseconds
from millstream.protocol.keys import QueueKeys, queue_keys, subscription_keys, topic_keys
from millstream.protocol.partitions import declare
from millstream.protocol.subscriptions import subscribe
from millstream.security import Security
from millstream.sync import confirm as _confirm
from millstream.sync import endpoints as _endpoints
from millstream.sync import gathering as _gathering
from millstream.sync import operate
from millstream.sync import replay as _replay
from millstream.sync import schedules as _schedules
from millstream.sync import sending as _sending
from millstream.sync import topics as _topics
from millstream.sync.delivery import SyncDelivery
from millstream.sync.ephemeral import Ephemeral
from millstream.sync.publishers import Publishers
from millstream.sync.reader import QueueReader
from millstream.sync.requests import Requests
from millstream.sync.results import Results
from millstream.sync.sending import Senders
from millstream.topic import Source, Subscription

__all__ = ["Client"]

T = TypeVar("T")


class Client:
    """A connection to one server, or to a cluster. Use it as a context manager, from any number of threads.

    Args:
        source: a URL (``redis://``, ``rediss://``, ``valkey://``, ``valkeys://``, ``unix://``,
            ``redis+sentinel://h1,h2/name``, ``redis+cluster://h1,h2``, ``embedded://[dir]``), or a
            ready-made redis-py client whose address and credentials are taken. Default:
            ``$MILLSTREAM_URL``, else ``embedded://``.
        namespace: first part of all keys; separates applications on one server.
        connect_timeout: seconds within which the first connection succeeds or fails. Default 5.
        timeout: seconds that one operation may take, reconnects included. Default 10.
        durability: how far messages have to get before a send or publish returns, unless the call or
            the declaration says it: ``memory`` (default), ``fsync`` or ``replicas:N``
            (docs/durability.md).
        read_from: ``"replica"``: what only looks (``stats``, ``peek``, ``dead``, ``replay`` and the
            lists of names) asks a replica that the Sentinels hold for well, and the primary if there
            is none. Its answer may be a moment old. Without Sentinels there is one server to ask.
            Default ``"primary"``.
        security: user, password and certificates, if they are not to be in the URL.

    Raises:
        UsageError: an option makes no sense, or there can be no such server.
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
        durability: str = MEMORY,
        read_from: ReadFrom = "primary",
        security: Security | None = None,
    ) -> None:
        check_name(namespace, "namespace")
        check_durability(durability, "durability")
        check_read_from(read_from)
        check_security(security)
        check_server(source)
        self._namespace = namespace
        self._driver = BlockingDriver(
            source,
            connect_timeout=milliseconds(connect_timeout, "connect_timeout", minimum=0.001) / 1000,
            timeout=milliseconds(timeout, "timeout", minimum=0.001) / 1000,
            security=security,
            read_from=read_from,
        )
        self._ephemeral = Ephemeral(self._driver, namespace)
        self._senders = Senders(self._driver, self.declare, durability)
        self._publishers = Publishers(self._driver, namespace, durability)
        self._requests = Requests(self._driver, namespace)
        self._results = Results(self._driver, self._requests.mailbox)
        # Receivers may start at the same time, in threads even: all get the same keeper. A signal handler
        # may close what its own thread uses.
        self._guard = threading.RLock()
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

    @property
    def ephemeral(self) -> Ephemeral:
        """What publishes and listens to topics that keep nothing."""
        return self._ephemeral

    @property
    def publishers(self) -> Publishers:
        """What publishes to topics."""
        return self._publishers

    @property
    def senders(self) -> Senders:
        """What sends to queues."""
        return self._senders

    @property
    def requests(self) -> Requests:
        """What sends requests, and mail to other clients."""
        return self._requests

    @property
    def results(self) -> Results:
        """What waits for results of messages."""
        return self._results

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
        if self._driver.is_elsewhere:
            # What is on its way is the business of those who have begun it.
            self._driver.close()
            return
        self._senders.close()
        self._ephemeral.close()
        self._publishers.close()
        self._results.close()
        self._requests.close()
        for reader in list(self._readers):
            reader.close()
        with self._guard:
            keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.close()
        self._driver.close()

    send = _sending.send
    send_many = _sending.send_many
    handle = _sending.handle

    def declare(self, queue: Source[Any]) -> list[QueueKeys]:
        """Make a new subscription, without reading from it. Receivers and workers do so, too.

        It begins where it is declared to start; one that exists keeps its place. Of an ordered queue
        it makes known how it is divided; of any other queue the server need not know anything.

        Args:
            queue: the subscription, or a queue.

        Returns:
            The keys of each partition, for tools that add their own operations.

        Raises:
            UsageError: others declare it with another number of partitions, or another filter.
            BrokerError: it may be made or not; the call can be repeated.
        """
        keys = self.keys_of(queue)
        self._driver.open()
        if isinstance(queue, Subscription):
            self._driver.drive(subscribe(topic_keys(self._namespace, keys.name), queue))
        elif queue.ordered:
            self._driver.run(declare(keys, queue.partitions))
        return [keys.at(number) for number in range(queue.partitions)]

    publish = _topics.publish
    publish_many = _topics.publish_many
    confirm = _confirm.confirm

    request = _endpoints.request
    gather = _gathering.gather
    request_stream = _endpoints.request_stream

    # Receiving

    def receive(
        self, queue: Source[T], *, prefetch: int = 10, wait: Duration | None = None
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

        Guarantee: each message is delivered at least once, or, from a queue with
        ``delivery="at_most_once"``, at most once: what was taken dies with this process, the buffer
        included, and the deliveries need not be settled. Bodies that do not decode go to the
        dead letters and are not yielded.
        """
        check_source(queue)
        check_prefetch(prefetch)
        seconds = math.inf if wait is None else milliseconds(wait, "wait") / 1000
        keys = self.declare(queue)
        reader = QueueReader(
            self._driver,
            self.lease_keeper(),
            self._driver.listener(),
            queue=queue,
            keys=keys,
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

    subscribe = _topics.subscribe

    def consumer_name(self) -> str:
        """Return a name for a consumer that nobody else has."""
        return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    def lease_keeper(self) -> LeaseKeeper:
        """Return the thread that extends leases for all consumers of this client."""
        with self._guard:
            if self._keeper is None:
                self._keeper = LeaseKeeper(self._driver.blocking(timeout=CALL_TIMEOUT))
            return self._keeper

    # Reading again what is kept

    replay = _replay.replay
    resend = _replay.resend

    # Operating

    queues = operate.queues
    stats = operate.stats
    peek = operate.peek
    in_flight = operate.in_flight
    dead = operate.dead
    redrive = operate.redrive
    repartition = operate.repartition
    cancel = operate.cancel
    reschedule = operate.reschedule
    purge = operate.purge
    pause = operate.pause
    resume = operate.resume

    topics = _topics.topics
    subscriptions = _topics.subscriptions
    unsubscribe = _topics.unsubscribe
    seek = _topics.seek

    schedules = _schedules.schedules
    pause_schedule = _schedules.pause_schedule
    resume_schedule = _schedules.resume_schedule
    remove_schedule = _schedules.remove_schedule

    def look_again(self) -> None:
        """Have this client's own receivers notice at once; others look every tenth of a second."""
        for reader in list(self._readers):
            reader.make_unsure()

    def keys_of(self, queue: Source[Any]) -> QueueKeys:
        """Return the keys of a queue or subscription, for tools that add their own operations."""
        check_source(queue)
        if isinstance(queue, Subscription):
            return subscription_keys(self._namespace, queue.topic.name, queue.own_name)
        return queue_keys(self._namespace, queue.name, store=queue.store)
