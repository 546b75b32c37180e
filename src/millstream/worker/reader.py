"""The reader of one queue in a worker: settles, reads and waits, one round trip a batch.

It owns the deliveries: what it holds has its lease extended (in another thread) until the server
has confirmed the end. Slots run the handlers and tell it how each delivery ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from typing import Any

from millstream.declare import Queue
from millstream.driver.aio import AsyncDriver
from millstream.driver.aio_listener import AsyncListener
from millstream.driver.lease_keeper import Held, LeaseKeeper
from millstream.errors import BrokerError, NotConnected, TimedOut
from millstream.protocol import consume
from millstream.protocol.consume import Fetched
from millstream.protocol.keys import QueueKeys
from millstream.protocol.reading import Reading
from millstream.protocol.recover import leave
from millstream.protocol.settlement import Settlement, release
from millstream.worker.outbox import Outbox, Parcel
from millstream.worker.prefetch import Prefetch
from millstream.worker.sleeper import SILENCE, Sleeper
from millstream.worker.slots import Slots

__all__ = ["Reader"]

logger = logging.getLogger("millstream.worker")

LINGER = 0.005
"""Seconds that an end may wait for company while other messages are in hand."""

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
"""Seconds before the next try after a failure; the pause doubles until something works."""

STORE_AGAIN = 1.0
"""Seconds until an end is tried again that a server without memory could not store."""


class Reader:
    """Reads one queue for its slots. Start it with ``run``; ``stop`` makes ``run`` come to an end.

    Args:
        driver: of the client.
        keeper: extends leases from its own thread.
        listener: a connection for this reader alone.
        queue: to read.
        keys: of the queue.
        consumer: a name that nobody else has.
        prefetch: how much to hold.
    """

    def __init__(
        self,
        driver: AsyncDriver,
        keeper: LeaseKeeper,
        listener: AsyncListener,
        *,
        queue: Queue[Any],
        keys: QueueKeys,
        consumer: str,
        prefetch: Prefetch,
    ) -> None:
        self._driver = driver
        self._keeper = keeper
        self._queue = queue
        self._keys = keys
        self.consumer = consumer
        self._prefetch = prefetch
        self._loop = asyncio.get_running_loop()
        self._reading = Reading()
        self._outbox = Outbox()
        self._held = Held(keys, consumer, queue.lease_ms, until={}, on_lost=self._lost_in_thread)
        self._event = asyncio.Event()
        self._sleeper = Sleeper(driver, listener, self._event.set, keys=keys, consumer=consumer)
        self._stopping = False
        # Whether we know what we own: not at the start, and not after a lost reply.
        self._sure = False
        self._pause = 0.0
        # Ours, but nobody may have it before its lease ends: a thread works on it that we left.
        self._left_behind: set[bytes] = set()
        self._lingering: asyncio.TimerHandle | None = None
        self.slots: Slots

    # What slots tell (see slots.Holder)

    def holds(self, token: bytes) -> bool:
        """Tell whether the delivery is still ours."""
        return token in self._held.until

    def unsettled(self, token: bytes) -> bool:
        """Tell whether the delivery is ours, and its handler has not begun to end it."""
        return token in self._held.until and token not in self._outbox.waiters

    def ack(self, token: bytes) -> None:
        """A handler is done with a message."""
        self._ended(self._outbox.ack(token))

    def end(self, end: Settlement) -> None:
        """A delivery ends in another way."""
        if self.unsettled(end.token):
            self._ended(self._outbox.add(end))

    def abandon(self, token: bytes) -> None:
        """A delivery is over without a settlement."""
        if self._held.until.pop(token, None) is not None:
            self._left_behind.add(token)
        self._reading.settled(token)
        self._event.set()

    async def settle(self, end: Settlement) -> bool:
        """End a delivery at once and tell whether it was ours."""
        if not self.unsettled(end.token):
            return False
        self._outbox.add(end)
        ended = self._outbox.expect(end.token)
        self._event.set()
        return await ended

    async def extend(self, token: bytes, lease_ms: int) -> bool:
        """Begin a lease anew. It is extended for as long as the handler runs, anyway."""
        idle_ms = max(0, self._queue.lease_ms - lease_ms)
        op = consume.extend(self._keys, self.consumer, [token], idle_ms=idle_ms)
        return not await self._driver.run(op)

    def _ended(self, count: int) -> None:
        """Wake the reader when its ends are worth a round trip."""
        if not self.slots.waiting or count >= self._prefetch.batch:
            self._event.set()
        elif count == 1 and self._lingering is None:
            self._lingering = self._loop.call_later(LINGER, self._linger_over)

    def _linger_over(self) -> None:
        self._lingering = None
        self._event.set()

    # Its own life

    @property
    def idle(self) -> bool:
        """Whether nothing is in hand, nothing is to be settled, and nothing was found last."""
        return not (self._held.until or self._outbox or self._reading.more)

    async def run(self) -> None:
        """Read until stopped. It outlives restarts of the server and lost connections."""
        self._keeper.keep(self._held)
        try:
            while not self._stopping:
                try:
                    if not self._sure:
                        await self._recover()
                    await self._step()
                except BrokerError as error:
                    self._sure = False
                    logger.warning("queue %r: %s; trying again", self._queue.name, error)
                    # What fails again and again must not be asked for as fast as can be.
                    self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
                    await asyncio.sleep(self._pause)
        finally:
            # What is in hand keeps its leases until ``finish`` has seen to it.
            if self._lingering is not None:
                self._lingering.cancel()

    def stop(self) -> None:
        """Stop reading. What is in hand goes on."""
        self._stopping = True
        self._event.set()

    async def _step(self) -> None:
        """Do one round trip, or wait until there is something to do."""
        self._event.clear()
        reading, now = self._reading, time.monotonic()
        if self._sleeper.over:
            # What it brought is ours, whether there is room or not.
            await self._listen()
            return
        free = self._prefetch.limit - len(self._held.until) + len(self._outbox)
        due = reading.is_due(now)
        reading.more = reading.more or due
        # Without room for what is due, another consumer may have some: promote it all the same.
        if due or self._flushes(now) or (reading.more and self._worth_reading(free)):
            await self._fetch(free if reading.more else 0)
            return
        # A read that sleeps at the server ends sooner, unless its connection is dead.
        wait = min(SILENCE, reading.due_at - now)
        if not reading.more and free > 0:
            await self._listen()
            if self._event.is_set():
                return
        if self._outbox:
            wait = min(wait, self._outbox.since + LINGER - now)
        try:
            async with asyncio.timeout(max(0.0, wait)):
                await self._event.wait()
        except TimeoutError:
            await self._sleeper.check()

    def _flushes(self, now: float) -> bool:
        """Tell whether ends must go out now."""
        outbox = self._outbox
        return bool(outbox) and (
            outbox.urgent
            or not self.slots.waiting
            or len(outbox) >= self._prefetch.batch
            or now - outbox.since >= LINGER
        )

    def _worth_reading(self, free: int) -> bool:
        return free >= self._prefetch.batch or (free > 0 and not self.slots.waiting)

    async def _fetch(self, free: int) -> None:
        """Settle and read, in one round trip."""
        parcel = self._outbox.take()
        reading = self._reading
        reads = reading.reads(free)
        woken, reading.woken = reading.woken, []
        ends = [*parcel.others, *(Settlement("woken", entry) for entry in woken)]
        op = consume.fetch(self._keys, self.consumer, ends, reads, acks=parcel.acks)
        try:
            found = await self._driver.run(op)
        except BrokerError:
            self._outbox.put_back(parcel)
            raise
        now = time.monotonic()
        if parcel or found.envelopes:
            self._pause = 0.0
        self._confirm(parcel, found)
        self._prefetch.handled(len(parcel), now)
        reading.fetched(found, reads, now)
        self._take(found)

    def _confirm(self, parcel: Parcel, found: Fetched) -> None:
        """Let go of what the server has settled, and say what it refused."""
        until = self._held.until
        for token in parcel.acks:
            until.pop(token, None)
        for end in parcel.others:
            if end.token not in found.kept:
                until.pop(end.token, None)
                self._reading.settled(end.token)
        for token in found.lost:
            logger.warning(
                "queue %r: lost the lease of delivery %s before it was settled; it is handled again",
                self._queue.name,
                token.decode(),
            )
        if kept := self._outbox.confirmed(parcel, found):
            problem = next(iter(found.kept.values()))
            logger.warning(
                "queue %r: cannot settle %d deliveries yet: %s",
                *(self._queue.name, len(kept), problem),
            )
            self._loop.call_later(STORE_AGAIN, self._settle_again, kept)

    def _settle_again(self, kept: list[Settlement]) -> None:
        for end in kept:
            if end.token in self._held.until:
                self._ended(self._outbox.add(end))

    def _take(self, found: Fetched) -> None:
        """Own what was read and hand it to the slots."""
        if not found.envelopes:
            return
        until = self._held.until
        for envelope in found.envelopes:
            until[envelope.token] = math.inf
        if self._stopping:
            for envelope in found.envelopes:
                self.end(release(envelope.token))
        else:
            self.slots.add(found.envelopes)

    async def _listen(self) -> None:
        """Sleep at the server, or take what the sleep has brought."""
        found = await self._sleeper.sleep(suspects=self._reading.suspect_held is None)
        if found is not None:
            self._pause = 0.0
            # When it brings nothing, look all the same: a wake-up may have died with another
            # consumer, and delayed messages come back by nothing but a look.
            self._reading.woke(found)
            self._take(found)
            self._event.set()

    # Recovery and the end

    async def _recover(self) -> None:
        """Make sure of the queue, and of what we own: after a start, a loss, or a flush.

        A reply that was lost may have brought messages, and may have confirmed ends.
        """
        await self._sleeper.close()
        register = consume.register(self._keys, self.consumer, self._queue.lease_ms)
        await self._driver.run(register)
        pending = await self._driver.drive(consume.own_pending(self._keys, self.consumer))
        owned = {envelope.token for envelope in pending}
        for token in self._outbox.arrived(owned):
            self._held.until.pop(token, None)
            self._reading.settled(token)
        self._lost([token for token in list(self._held.until) if token not in owned])
        known = self._held.until.keys() | self._left_behind
        unknown = Fetched(envelopes=[one for one in pending if one.token not in known])
        self._reading.woke(unknown)
        self._take(unknown)
        self._sure = True

    def _lost_in_thread(self, tokens: list[bytes]) -> None:
        self._loop.call_soon_threadsafe(self._lost_to_keeper, tokens)

    def _lost_to_keeper(self, tokens: list[bytes]) -> None:
        # What its handler is ending may be gone because it has ended; the answer will tell.
        self._lost([token for token in tokens if self.unsettled(token)])

    def _lost(self, tokens: list[bytes]) -> None:
        """Others own these by now: do not begin with them, and stop those that run."""
        for token in tokens:
            self._held.until.pop(token, None)
            self._reading.settled(token)
            self._outbox.ended(token, owned=False)
        self.slots.lost(tokens)
        self._event.set()

    async def let_go(self) -> None:
        """Cancel handlers, disconnect, and extend no lease any more. Safe to repeat."""
        self.slots.close()
        self._keeper.drop(self._held)
        await self._sleeper.disconnect()

    async def finish(self, timeout: float) -> None:  # noqa: ASYNC109 - passed on to the handlers
        """End in order: hand back what was not begun, wait for handlers, settle, leave.

        Call it after ``run`` has ended.

        Args:
            timeout: seconds that running handlers may take.
        """
        self._keeper.keep(self._held)
        for token in self.slots.drop_waiting():
            self.end(release(token))
        draining = asyncio.create_task(self.slots.drain(timeout))
        try:
            await self._stop_listening()
            await self._settle_until(draining)
            await self._leave()
        except BrokerError as error:
            logger.warning("queue %r: cannot leave in order: %s", self._queue.name, error)
            if not draining.done():
                # Handlers get their time, whatever the server does; then it may be back.
                await asyncio.wait([draining])
                with contextlib.suppress(BrokerError):
                    await self._flush()
                    await self._leave()
        finally:
            draining.cancel()
            await self.let_go()

    async def _settle_until(self, draining: asyncio.Task[None]) -> None:
        """Settle what handlers come to, until all of them have ended."""
        while not draining.done():
            self._event.clear()
            await self._flush()
            wake = asyncio.create_task(self._event.wait())
            try:
                await asyncio.wait([draining, wake], return_when=asyncio.FIRST_COMPLETED)
            finally:
                wake.cancel()
        await self._flush()

    async def _leave(self) -> None:
        """Remove this consumer, unless its leases have to run out."""
        if not self._held.until and not self._left_behind:
            crashes = self._queue.retry.max_crashes
            await self._driver.drive(leave(self._keys, self.consumer, max_crashes=crashes))

    async def _flush(self) -> None:
        """Settle what has ended; what a lost connection leaves open is looked up."""
        try:
            if self._sure and self._outbox:
                await self._fetch(0)
        except (NotConnected, TimedOut):
            self._sure = False
        if not self._sure:
            await self._recover()
            await self._fetch(0)

    async def _stop_listening(self) -> None:
        try:
            found = await self._sleeper.stop()
        except BrokerError:
            # Cut, or not allowed: look for what it may have brought.
            self._sure = False
        else:
            if found is not None:
                self._take(found)
