# GENERATED from src/millstream/aio/reader.py by tools/unasync.py - do not edit
"""Reads a queue for ``receive``: one delivery at a time, some of them fetched ahead."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Generic, TypeVar

from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_listener import BlockingListener
from millstream.driver.lease_keeper import LeaseKeeper
from millstream.errors import BrokerError, NotConnected, ServerRefused, TimedOut
from millstream.protocol.consume import Fetched
from millstream.protocol.keys import QueueKeys
from millstream.sync.delivery import SyncDelivery
from millstream.sync.part import Part
from millstream.sync.popped import PoppedPart
from millstream.sync.sleepers import Sleepers
from millstream.topic import Source

__all__ = ["QueueReader"]

T = TypeVar("T")

logger = logging.getLogger("millstream.receive")

FAILED_PAUSE = 0.1
"""Seconds before the next try when reading fails although the server answers."""


class QueueReader(Generic[T]):
    """One consumer of a queue. Use ``open`` and ``close``.

    One read that sleeps at the server waits for the messages of all partitions.

    Args:
        driver: of the client.
        keeper: extends the leases of what waits in the buffer.
        listener: a connection for this reader alone; it is closed with the reader.
        queue: to read.
        keys: of its partitions, of which there is at least one.
        consumer: a name that nobody else has.
        prefetch: most messages to hold, those in the buffer.
    """

    def __init__(
        self,
        driver: BlockingDriver,
        keeper: LeaseKeeper,
        listener: BlockingListener,
        *,
        queue: Source[T],
        keys: Sequence[QueueKeys],
        consumer: str,
        prefetch: int,
    ) -> None:
        self._driver = driver
        self._sleeper = Sleepers(driver, listener, keys=keys, consumer=consumer)
        self._title = queue.title
        self._parts: list[Part[T] | PoppedPart[T]]
        if queue.delivery == "at_most_once":
            self._parts = [
                PoppedPart(driver, queue=queue, keys=one, consumer=consumer, prefetch=prefetch)
                for one in keys
            ]
        else:
            self._parts = [
                Part(driver, keeper, queue=queue, keys=one, consumer=consumer, prefetch=prefetch)
                for one in keys
            ]
        # Where to look first: behind the partition that the last fetch was from.
        self._first = 0
        # One of `next` and `close` at a time: a client may be closed while a receiver waits.
        self._turn = driver.lock()
        self._closed = self._left = False
        # Whether messages may have been delivered to us without arriving: a read was given up.
        self._unsure = False
        self._unreachable = False
        # What a sleep brings was not delivered before this time; inf: it has not begun.
        self._asleep_since = math.inf

    def open(self) -> None:
        """Make the queue and this consumer known to the server."""
        self._register()
        for part in self._parts:
            part.keep_leases()

    def _register(self) -> None:
        for part in self._parts:
            part.register()

    def next(self, wait: float) -> SyncDelivery[T] | None:
        """Return the next delivery; None when there is none, or the reader is closed.

        Args:
            wait: seconds to wait for one.

        Raises:
            NotConnected, TimedOut: the server does not come back.
        """
        deadline = time.monotonic() + wait
        with self._turn:
            if wait <= 0:
                # What was sent since the last fetch is there now.
                for part in self._parts:
                    part.reading.more = True
            while not self._closed:
                delivery = self._from_buffer()
                if delivery is not None:
                    # A message that arrives while its user works must not lie about unseen.
                    self._stop_listening()
                    return delivery
                if not self._try_to_fill(deadline):
                    return None
        return None

    def _try_to_fill(self, deadline: float) -> bool:
        """Fill the buffer, and recover when that fails; False: the deadline has passed."""
        try:
            if self._unsure:
                self._recover()
            return self._fill(deadline)
        except (NotConnected, TimedOut) as error:
            logger.warning("%s: %s; connecting again", self._title, error)
            self._unreachable = True
            self._recover()
            self._unreachable = False
            # The server answers, but something else fails again and again: do not spin.
            self._driver.sleep(FAILED_PAUSE)
        except ServerRefused as error:
            # After a FLUSHALL the consumer group is gone.
            if error.code != "NOGROUP":
                raise
            self._register()
        return True

    def _from_buffer(self) -> SyncDelivery[T] | None:
        for part in self._parts:
            delivery = part.take()
            if delivery is not None:
                return delivery
        return None

    def make_unsure(self) -> None:
        """Look again before the next message is handed out: somebody has paused or cancelled."""
        for part in self._parts:
            part.make_unsure()

    def _fill(self, deadline: float) -> bool:
        """Fetch messages, or wait for some; False: the deadline has passed without any."""
        now = time.monotonic()
        for part in self._parts:
            part.look_after(now)
        count = len(self._parts)
        for step in range(count):
            index = (self._first + step) % count
            if self._parts[index].wants(now):
                self._first = index + 1
                self._unsure = True
                self._parts[index].fetch()
                self._unsure = False
                return True
        if now >= deadline:
            return False
        self._asleep_since = min(self._asleep_since, now)
        self._sleeper.begin([part.reading.watch() for part in self._parts])
        if self._closed:
            # Who closes ends the read from now on, and has looked whether there is one before.
            return True
        sleep = min(part.reading.sleep(now) for part in self._parts)
        looked = time.monotonic()
        came = self._sleeper.poll(min(sleep, deadline - now))
        self._woke(came)
        if came is None:
            self._asleep_since = looked
        return True

    def _woke(self, came: list[Fetched] | None) -> None:
        """Take what the sleep has brought; None: it goes on."""
        if came is None:
            return
        # When it brings nothing, look everywhere all the same: a wake-up may have died with
        # another consumer, and delayed messages come back by nothing but a look.
        nothing = not any(found.envelopes or found.woken for found in came)
        for part, found in zip(self._parts, came, strict=True):
            if nothing or found.envelopes or found.woken:
                part.woke(found, self._asleep_since)
        self._asleep_since = math.inf

    def _recover(self) -> None:
        """After a loss: find what was delivered to us without arriving."""
        self._unsure, self._asleep_since = True, math.inf
        self._sleeper.close()
        for part in self._parts:
            part.recover()
        self._unsure = False

    def close(self) -> None:
        """Hand back what nobody has seen, and leave. Deliveries in use keep their leases."""
        self._closed = True
        try:
            # Another task or thread may be inside `next`: it sees the end once its sleep is over.
            self._sleeper.wake()
        except BrokerError as error:
            logger.warning("%s: could not end a read: %s", self._title, error)
            self._unreachable = not isinstance(error, ServerRefused)
        with self._turn:
            if not self._left:
                self._left = True
                self._leave()

    def _leave(self) -> None:
        try:
            if not self._unreachable:
                self._stop_listening()
                for part in self._parts:
                    part.hand_back(unsure=self._unsure)
        except BrokerError as error:
            # The leases run out; then others take over.
            logger.warning("%s: could not leave in order: %s", self._title, error)
        finally:
            for part in self._parts:
                part.let_go()
            self._sleeper.disconnect()

    def _stop_listening(self) -> None:
        """End the sleeping read, which may bring a message at the last moment."""
        try:
            self._woke(self._sleeper.stop())
            for part in self._parts:
                part.pass_on()
        except BrokerError:
            # Cut, or not allowed. What it may have brought is at the server.
            self._unsure = True
            self._sleeper.disconnect()
