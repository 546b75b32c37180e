"""The reader of one queue in a worker: settles, reads and waits, one round trip a batch.

What it brings goes into its holdings, which give it to the slots and gather how it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from typing import Any

from millstream.aio.sleeper import Sleeper
from millstream.driver.aio import AsyncDriver
from millstream.driver.aio_listener import AsyncListener
from millstream.driver.lease_keeper import LeaseKeeper
from millstream.errors import BrokerError, NotConnected, ServerRefused, TimedOut
from millstream.protocol import consume, control
from millstream.protocol.consume import Fetched
from millstream.protocol.control import Word
from millstream.protocol.keys import QueueKeys
from millstream.protocol.reading import BLOCK_MS, Reading
from millstream.protocol.recover import leave
from millstream.protocol.settlement import Settlement
from millstream.topic import Source
from millstream.worker.holdings import Holdings
from millstream.worker.pausing import wait_for_event
from millstream.worker.popped import Popped
from millstream.worker.prefetch import Prefetch

__all__ = ["Reader"]

logger = logging.getLogger("millstream.worker")

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
"""Seconds before the next try after a failure; the pause doubles until something works."""

SOON = 0.001
"""Seconds to the next due message for which ends wait, and new messages: one round trip has all.
It is as fine as timers of asyncio are; what is left of it is waited for without one."""

TURNS = 8
"""Of the event loop, in which it has seen what came on a connection: more than enough."""

HEAD_START = 3
"""Turns of the event loop in which a handler that does not wait ends, and a reply is on its way."""

SILENCE = BLOCK_MS / 1000 + 6
"""Seconds after which to look whether a read is overdue."""


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
        answers: whether it reads requests. Their ends have time, for their callers have the reply.
    """

    def __init__(
        self,
        driver: AsyncDriver,
        keeper: LeaseKeeper,
        listener: AsyncListener,
        *,
        queue: Source[Any],
        keys: QueueKeys,
        consumer: str,
        prefetch: Prefetch,
        answers: bool = False,
    ) -> None:
        self._driver = driver
        self._listener = listener
        self._queue = queue
        self.keys = keys
        self.consumer = consumer
        self._prefetch = prefetch
        self._reading = Reading.of(queue)
        self._event = asyncio.Event()
        listener.on_end = self._event.set
        self._sleeper = Sleeper(driver, listener, keys=[keys], consumer=consumer)
        self.holdings: Holdings | Popped
        if self._reading.popping:
            self.holdings = Popped(
                *(self._reading, self._event.set),
                queue=queue,
                keys=keys,
                consumer=consumer,
                prefetch=prefetch,
            )
        else:
            self.holdings = Holdings(
                *(driver, keeper, self._reading, self._event.set),
                queue=queue,
                keys=keys,
                consumer=consumer,
                prefetch=prefetch,
                lingers=answers,
            )
        self._stopping = False
        # Whether we know what we own: not at the start, and not after a lost reply.
        self._sure = False
        # Whether there was a seek since we asked.
        self._sought = False
        self._pause = 0.0
        # What a fetch brings was not delivered before the first, and what a sleep has brought not before
        # the second: between two steps the event loop has looked at the connection.
        self._since = self._earlier = 0.0

    @property
    def idle(self) -> bool:
        """Whether nothing is in hand, nothing is to be settled, and nothing was found last."""
        return not (self.holdings.count or self.holdings.outbox or self._reading.more)

    async def run(self) -> None:
        """Read until stopped. It outlives restarts of the server and lost connections."""
        self.holdings.keep()
        self.holdings.slots.begin()
        try:
            while not self._stopping:
                try:
                    if not self._sure:
                        await self._recover()
                    await self._step()
                except BrokerError as error:
                    self._sure = False
                    logger.warning("%s: %s; trying again", self._queue.title, error)
                    # What fails again and again must not be asked for as fast as can be.
                    self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
                    await asyncio.sleep(self._pause)
        finally:
            # What is in hand keeps its leases until ``finish`` has seen to it.
            self.holdings.stop_lingering()

    def stop(self) -> None:
        """Stop reading. What is in hand goes on."""
        self._stopping = True
        self._event.set()

    # What people want (see control.Hearer)

    def pause(self) -> None:
        """Begin with no message any more: hand back what no handler has begun with."""
        self._reading.paused = True
        self._event.set()
        self.holdings.release_waiting()

    def resume(self) -> None:
        """Look for messages again."""
        self._reading.resumed()
        self._event.set()

    def sought(self) -> None:
        """Ask again what is ours, and let go of the rest: the subscription goes on elsewhere."""
        self._sure, self._sought = False, True
        self._event.set()

    def cancelled(self, word: Word) -> None:
        """Stop the handler of a message that the server has ended."""
        self.holdings.cancelled(word.id, word.token)

    def told(self, id: str) -> None:
        """Learn the server's time from a word of it: a call may come before the first message."""
        self._reading.told(int(id.partition("-")[0]), time.monotonic())

    async def _step(self) -> None:
        """Do one round trip, or wait until there is something to do."""
        self._event.clear()
        reading, holdings, now = self._reading, self.holdings, time.monotonic()
        await self._catch_up(now)
        if self._listener.done:
            # What it brought is ours, whether there is room or not.
            await self._wake_up()
            return
        self._earlier, self._since = self._since, now
        free = self._prefetch.limit - holdings.count + holdings.outbox.leaving
        due, due_in = reading.is_due(now), reading.due_at - now
        flush_in = self._flush_in(now, due_in)
        reading.more = reading.more or due
        # Without room for what is due, another consumer may have some: promote it all the same.
        # And nobody else was woken.
        urgent = due or flush_in <= 0 or bool(reading.woken)
        worth = reading.may_read(now) and self._worth_reading(free)
        if urgent or worth:
            allowed = reading.may_read(now, settling=bool(holdings.outbox))
            # A limit may have room for a message that is of no use here now: it is for another.
            leave = reading.follows and bool(reading.woken) and not worth
            await self._fetch(free if allowed and not leave else 0)
            return
        # A read that sleeps at the server ends sooner, unless its connection is dead.
        wait = min(SILENCE, due_in)
        if reading.more and free > 0 and reading.tokens_at > now:
            wait = min(wait, reading.tokens_at - now)
        elif not reading.more and free > 0 and due_in > SOON:
            await self._sleeper.begin([reading.watch()])
            await self._listener.check()
        if reading.more and free > 0:
            # There are enough for the next to begin. When they have, others may be free for a long time.
            self.holdings.slots.on_hungry = self._event.set
        await self._wait(min(wait, flush_in), soon=wait < SOON)

    def _flush_in(self, now: float, due_in: float) -> float:
        """Return the seconds until ends must go out: with what is due soon, if that suits."""
        flush_in = self.holdings.flush_in(now)
        if due_in > SOON or self.holdings.outbox.urgent or self._reading.slot:
            return flush_in
        return max(flush_in, due_in)

    async def _wait(self, seconds: float, *, soon: bool) -> None:
        """Wait until there is something to do, or for so long: ``soon`` there is something to read."""
        # Handlers that run could use the processor better.
        exactly = soon and self.holdings.idle
        await wait_for_event(self._event, seconds, exactly=exactly)
        await self._listener.check()

    def _worth_reading(self, free: int) -> bool:
        return free >= self._prefetch.batch or (free > 0 and self.holdings.slots.hungry)

    async def _fetch(self, free: int) -> None:
        """Settle and read, in one round trip."""
        reading, outbox = self._reading, self.holdings.outbox
        parcel = outbox.take()
        reads = reading.reads(free)
        woken, reading.woken = reading.woken, []
        ends = [*parcel.others, *(Settlement("woken", entry) for entry in woken)]
        op = consume.fetch(
            *(self.keys, self.consumer, ends, reads),
            acks=parcel.acks,
            # Who stops will not be there when a retry is due.
            wake=self._stopping,
            urgent=reading.urgent,
            limits=self._queue.limits,
            keep=self._queue.keep,
            results=self._queue.results is not None,
        )
        asked = time.monotonic()
        try:
            found = await self._driver.run(op)
        except BrokerError:
            outbox.put_back(parcel)
            raise
        now = time.monotonic()
        if parcel or found.envelopes:
            self._pause = 0.0
        self._prefetch.handled(self.holdings.confirm(parcel, found), now)
        reading.heard(found.now_ms, asked)
        reading.fetched(found, reads, now)
        await self._take(found, self._since)

    async def _catch_up(self, now: float) -> None:
        """Let the event loop see what came while this process stood still, before anything is done.

        The sleep may have ended long ago, and others may have by now what it has brought.
        """
        if self._listener.listening and now - self._since > self._queue.lease_ms / 4000:
            for _ in range(TURNS):
                await asyncio.sleep(0)

    async def _take(self, found: Fetched, since: float) -> None:
        reading = self._reading
        if found.envelopes and reading.paused and not self._stopping:
            # Read before the pause, or after a resume that we have not heard of yet.
            reading.paused = await self._driver.run(control.is_paused(self.keys))
        begin = not (self._stopping or reading.paused)
        self.holdings.take(found.envelopes, begin=begin, since=since)

    async def _wake_up(self) -> None:
        """Take what the sleep has brought."""
        for found in await self._sleeper.poll(0) or ():
            self._pause = 0.0
            # When it brings nothing, look all the same: a wake-up may have died with another
            # consumer, and delayed messages come back by nothing but a look.
            self._reading.woke(found)
            await self._take(found, self._earlier)
            self._event.set()
            # What comes of it may be on its way before we ask for more; the end goes along.
            for _ in range(HEAD_START if found.envelopes else 0):
                await asyncio.sleep(0)

    # Recovery and the end

    async def _recover(self) -> None:
        """Make sure of the queue, and of what we own: a lost reply may have brought or ended some."""
        self._sought = False
        await self._sleeper.close()
        queue, self._since = self._queue, time.monotonic()
        plan = consume.rejoin(
            self.keys, self.consumer, queue.lease_ms, queue.partitions, source=queue
        )
        before = self.holdings.begin_to_ask()
        pending = await self._driver.drive(plan)
        unknown = Fetched(envelopes=self.holdings.reconcile(pending, before))
        self._reading.woke(unknown)
        # We may have missed a pause, or the end of one.
        self._reading.paused = await self._driver.run(control.is_paused(self.keys))
        await self._take(unknown, self._since)
        self._sure = not self._sought

    def hurry(self) -> None:
        """Give handlers that run no more time: ``finish`` has waited long enough."""
        self.holdings.slots.hurry()

    async def let_go(self) -> None:
        """Cancel handlers, disconnect, and extend no lease any more. Safe to repeat."""
        self.holdings.slots.close()
        self.holdings.drop()
        await self._sleeper.disconnect()

    async def finish(self, timeout: float | None) -> None:  # noqa: ASYNC109 - passed on to the handlers
        """End in order: hand back what was not begun, wait for handlers, settle, leave.

        Call it after ``run`` has ended.

        Args:
            timeout: seconds that running handlers may take.
        """
        self.holdings.keep()
        self.holdings.release_waiting()
        draining = asyncio.create_task(self.holdings.slots.drain(timeout))
        try:
            await self._stop_listening()
            await self._pass_on()
            await self._settle_until(draining)
            await self._leave()
        except BrokerError as error:
            logger.warning("%s: cannot leave in order: %s", self._queue.title, error)
            if not draining.done():
                # Handlers get their time, whatever the server does; then it may be back.
                await asyncio.wait([draining])
                with contextlib.suppress(BrokerError):
                    await self._flush()
                    await self._leave()
        finally:
            draining.cancel()
            await self.let_go()

    async def _pass_on(self) -> None:
        """Have another reader look when the next message is due: we promote nothing any more."""
        if self._sure and self._reading.due_at < math.inf:
            # Without memory it learns of it when its sleep is over, or we have left.
            with contextlib.suppress(ServerRefused):
                await self._driver.run(consume.have_another_look(self.keys))

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
        await self.holdings.unstored.insist(self._flush)

    async def _leave(self) -> None:
        """Remove this consumer, unless its leases have to run out."""
        if not self.holdings.keeps_leases:
            crashes = self._queue.retry.max_crashes
            await self._driver.drive(leave(self.keys, self.consumer, max_crashes=crashes))

    async def _flush(self) -> None:
        """Settle what has ended; what a lost connection leaves open is looked up."""
        try:
            while self._sure and self.holdings.outbox:
                await self._fetch(0)
        except (NotConnected, TimedOut):
            self._sure = False
        if not self._sure:
            await self._recover()
            await self._fetch(0)
            while self.holdings.outbox:
                await self._fetch(0)

    async def _stop_listening(self) -> None:
        try:
            brought = await self._sleeper.stop()
        except BrokerError:
            # Cut, or not allowed: look for what it may have brought.
            self._sure = False
            await self._sleeper.disconnect()
        else:
            for found in brought or ():
                await self._take(found, self._earlier)
