"""Reads a queue for ``receive``: one delivery at a time, some of them fetched ahead."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from typing import Generic, TypeVar

from millstream.aio.delivery import Delivery
from millstream.aio.sleeper import Sleeper
from millstream.declare import Queue
from millstream.driver.aio import AsyncDriver
from millstream.driver.aio_listener import AsyncListener
from millstream.driver.lease_keeper import Held, LeaseKeeper
from millstream.errors import BrokerError, NotConnected, ServerRefused, TimedOut, Undecodable
from millstream.protocol import consume
from millstream.protocol.consume import Fetched
from millstream.protocol.envelope import Envelope, read_body
from millstream.protocol.keys import QueueKeys
from millstream.protocol.reading import Reading
from millstream.protocol.recover import leave, sweep
from millstream.protocol.settlement import Settlement, reject, release

__all__ = ["QueueReader"]

T = TypeVar("T")

logger = logging.getLogger("millstream.receive")

FAILED_PAUSE = 0.1
"""Seconds before the next try when reading fails although the server answers."""

RELEASED_AT_ONCE = 100
"""Bounds the time that one call keeps the server busy: about a millisecond."""


class QueueReader(Generic[T]):
    """One consumer of a queue. Use ``open`` and ``aclose``.

    Args:
        driver: of the client.
        keeper: extends the leases of what waits in the buffer.
        listener: a connection for this reader alone; it is closed with the reader.
        queue: to read.
        keys: of the queue.
        consumer: a name that nobody else has.
        prefetch: most messages to hold, those in the buffer.
    """

    def __init__(
        self,
        driver: AsyncDriver,
        keeper: LeaseKeeper,
        listener: AsyncListener,
        *,
        queue: Queue[T],
        keys: QueueKeys,
        consumer: str,
        prefetch: int,
    ) -> None:
        self._driver = driver
        self._keeper = keeper
        self._sleeper = Sleeper(driver, listener, keys=keys, consumer=consumer)
        self._queue = queue
        self._keys = keys
        self._consumer = consumer
        self._prefetch = prefetch
        self._reading = Reading()
        self._buffer: deque[tuple[Envelope, float]] = deque()
        self._handed_out: set[bytes] = set()
        # One of `next` and `aclose` at a time: a client may be closed while a receiver waits.
        self._turn = driver.lock()
        self._closed = self._left = False
        self._suspect_until = 0.0
        # Whether messages may have been delivered to us without arriving: a read was given up.
        self._unsure = False
        self._unreachable = False
        self._held = Held(keys, consumer, queue.lease_ms, until={}, on_lost=self._forget)

    async def open(self) -> None:
        """Make the queue and this consumer known to the server."""
        await self._register()
        self._keeper.keep(self._held)

    async def _register(self) -> None:
        op = consume.register(self._keys, self._consumer, self._queue.lease_ms)
        await self._driver.run(op)

    async def next(self, wait: float) -> Delivery[T] | None:
        """Return the next delivery; None when there is none, or the reader is closed.

        Args:
            wait: seconds to wait for one.

        Raises:
            NotConnected, TimedOut: the server does not come back.
        """
        deadline = time.monotonic() + wait
        async with self._turn:
            if wait <= 0:
                # What was sent since the last fetch is there now.
                self._reading.more = True
            while not self._closed:
                delivery = await self._from_buffer()
                if delivery is not None:
                    # A message that arrives while its user works must not lie about unseen.
                    await self._stop_listening()
                    return delivery
                if not await self._try_to_fill(deadline):
                    return None
        return None

    async def _try_to_fill(self, deadline: float) -> bool:
        """Fill the buffer, and recover when that fails; False: the deadline has passed."""
        try:
            if self._unsure:
                await self._recover()
            return await self._fill(deadline)
        except (NotConnected, TimedOut) as error:
            logger.warning("queue %r: %s; connecting again", self._queue.name, error)
            self._unreachable = True
            await self._recover()
            self._unreachable = False
            # The server answers, but something else fails again and again: do not spin.
            await self._driver.sleep(FAILED_PAUSE)
        except ServerRefused as error:
            # After a FLUSHALL the consumer group is gone.
            if error.code != "NOGROUP":
                raise
            await self._register()
        return True

    async def _from_buffer(self) -> Delivery[T] | None:
        while self._buffer:
            envelope, since = self._buffer.popleft()
            token = envelope.token
            if token not in self._held.until:
                continue
            # Its owner gets most of a lease, however long it has waited here.
            old = time.monotonic() - since > self._queue.lease_ms / 4000
            if old and not await self.extend(token, self._queue.lease_ms):
                continue
            self._held.until.pop(token, None)
            try:
                body = read_body(envelope, self._queue.codec.decode, self._queue.name)
            except Undecodable as error:
                logger.warning("%s", error)
                await self.settle(reject(token, error.reason, error=str(error)))
                continue
            self._handed_out.add(token)
            if token == self._reading.suspect_held:
                self._suspect_until = time.monotonic() + self._queue.lease_ms / 1000
            return Delivery(body, envelope, self._queue, self._queue.retry, self)
        return None

    async def _fill(self, deadline: float) -> bool:
        """Fetch messages, or wait for some; False: the deadline has passed without any."""
        now = time.monotonic()
        reading = self._reading
        if now >= reading.sweep_at:
            await self._sweep()
        held = reading.suspect_held
        if held and held not in self._held.until and now >= self._suspect_until:
            # Its user let the lease run out. That is no reason to leave all others alone.
            reading.settled(held)
        if reading.more or reading.is_due(now):
            reads = reading.reads(self._prefetch)
            woken = [Settlement("woken", entry) for entry in reading.woken]
            self._unsure = True
            found = await self._driver.run(consume.fetch(self._keys, self._consumer, woken, reads))
            self._unsure = False
            reading.woken.clear()
            reading.fetched(found, reads, time.monotonic())
            self._keep(found)
            return True
        if now >= deadline:
            return False
        await self._sleeper.begin(suspects=reading.suspect_held is None)
        if self._closed:
            # Who closes ends the read from now on, and has looked whether there is one before.
            return True
        came = await self._sleeper.poll(min(reading.sleep(now), deadline - now))
        if came is not None:
            reading.woke(came)
            self._keep(came)
        return True

    def _keep(self, found: Fetched) -> None:
        now = time.monotonic()
        for envelope in found.envelopes:
            self._held.until[envelope.token] = math.inf
            self._buffer.append((envelope, now))

    async def _sweep(self) -> None:
        queue = self._queue
        swept = await self._driver.run(
            sweep(
                self._keys,
                self._consumer,
                lease_ms=queue.lease_ms,
                max_crashes=queue.retry.max_crashes,
            )
        )
        self._reading.sweep_at = time.monotonic() + swept.wait_ms / 1000

    async def _recover(self) -> None:
        """After a loss: find what was delivered to us without arriving."""
        self._unsure = True
        await self._sleeper.close()
        known = {envelope.token for envelope, _ in self._buffer} | self._handed_out
        lease_ms = self._queue.lease_ms
        pending = await self._driver.drive(consume.rejoin(self._keys, self._consumer, lease_ms))
        found = Fetched(envelopes=[one for one in pending if one.token not in known])
        self._unsure = False
        self._reading.woke(found)
        self._keep(found)

    def holds(self, token: bytes) -> bool:
        """Tell whether a delivery is still ours, as far as is known."""
        return token in self._handed_out

    async def settle(self, end: Settlement) -> bool:
        """End a delivery; False: it was not ours any more."""
        owned = await self._driver.drive(consume.settle(self._keys, self._consumer, end))
        self._forget([end.token])
        return owned

    async def extend(self, token: bytes, lease_ms: int) -> bool:
        """Begin a lease anew, and keep it up when it is to last longer than the queue's."""
        idle_ms = max(0, self._queue.lease_ms - lease_ms)
        op = consume.extend(self._keys, self._consumer, [token], idle_ms=idle_ms)
        if await self._driver.run(op):
            self._forget([token])
            return False
        self._held.keep_for(token, lease_ms)
        if self._left:
            # A delivery may outlive the loop that brought it.
            self._keeper.keep(self._held)
            self._keeper.drop(self._held, when_empty=True)
        return True

    def _forget(self, tokens: list[bytes]) -> None:
        """Let go of what is settled or lost; the keeper calls it in its thread."""
        for token in tokens:
            self._held.until.pop(token, None)
            self._handed_out.discard(token)
            self._reading.settled(token)

    async def aclose(self) -> None:
        """Hand back what nobody has seen, and leave. Deliveries in use keep their leases."""
        self._closed = True
        try:
            # Another task or thread may be inside `next`: it sees the end once its sleep is over.
            await self._sleeper.wake()
        except BrokerError as error:
            logger.warning("queue %r: could not end a read: %s", self._queue.name, error)
            self._unreachable = not isinstance(error, ServerRefused)
        async with self._turn:
            if not self._left:
                self._left = True
                await self._leave()

    async def _leave(self) -> None:
        try:
            if not self._unreachable:
                await self._stop_listening()
                await self._hand_back()
        except BrokerError as error:
            # The leases run out; then others take over.
            logger.warning("queue %r: could not leave in order: %s", self._queue.name, error)
        finally:
            for envelope, _ in self._buffer:
                self._held.until.pop(envelope.token, None)
            self._buffer.clear()
            # What was extended on purpose is kept for as long as that.
            self._keeper.drop(self._held, when_empty=True)
            await self._sleeper.disconnect()

    async def _stop_listening(self) -> None:
        """End the sleeping read, which may bring a message at the last moment."""
        try:
            came = await self._sleeper.stop()
        except BrokerError:
            # Cut, or not allowed. What it may have brought is at the server.
            self._unsure = True
            await self._sleeper.disconnect()
        else:
            if came is not None:
                self._keep(came)

    async def _hand_back(self) -> None:
        """Give messages back that nobody has seen; leave for good unless others are in use."""
        driver, keys, consumer = self._driver, self._keys, self._consumer
        if not self._handed_out:
            crashes = self._queue.retry.max_crashes
            await driver.drive(leave(keys, consumer, max_crashes=crashes))
            return
        tokens = [envelope.token for envelope, _ in self._buffer]
        if self._unsure:
            pending = await driver.drive(consume.own_pending(keys, consumer))
            tokens = [one.token for one in pending if one.token not in self._handed_out]
        for start in range(0, len(tokens), RELEASED_AT_ONCE):
            ends = [release(token) for token in tokens[start : start + RELEASED_AT_ONCE]]
            await driver.run(consume.fetch(keys, consumer, ends))
