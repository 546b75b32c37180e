"""One partition of a queue as ``receive`` reads it; a queue without partitions is one."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Generic, TypeVar

from millstream.aio.commits import Commits
from millstream.aio.delivery import Delivery
from millstream.aio.retention import tend
from millstream.driver.aio import AsyncDriver
from millstream.driver.lease_keeper import Held, LeaseKeeper
from millstream.errors import ServerRefused, Undecodable
from millstream.protocol import consume, control, ending
from millstream.protocol.consume import Fetched
from millstream.protocol.draft import Draft
from millstream.protocol.envelope import Envelope, read_body
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Op
from millstream.protocol.reading import Reading
from millstream.protocol.recover import leave, sweep
from millstream.protocol.settlement import Settlement, expire, reject, release, unclear
from millstream.protocol.transaction import Committed
from millstream.topic import Source

__all__ = ["Part"]

T = TypeVar("T")

logger = logging.getLogger("millstream.receive")

LOOK_AGAIN = 0.1
"""Seconds after which what waits in the buffer is made sure of: somebody may have paused the queue
or cancelled a message meanwhile."""

LOOKED_AT = 100
"""How many of them one look makes sure of."""

RELEASED_AT_ONCE = 100
"""Bounds the time that one call keeps the server busy: about a millisecond."""


class Part(Generic[T]):
    """Fetches from one partition, and owns what it has fetched. Its reader does the waiting.

    Args:
        driver: of the client.
        keeper: extends the leases of what waits in the buffer.
        queue: to read.
        keys: of the partition.
        consumer: a name that nobody else has.
        prefetch: most messages to fetch at once.
    """

    def __init__(
        self,
        driver: AsyncDriver,
        keeper: LeaseKeeper,
        *,
        queue: Source[T],
        keys: QueueKeys,
        consumer: str,
        prefetch: int,
    ) -> None:
        self._driver = driver
        self._keeper = keeper
        self._queue = queue
        self.keys = keys
        self.partition = keys.partition
        self._consumer = consumer
        self._prefetch = prefetch
        self.reading = Reading.of(queue)
        self._buffer: deque[Envelope] = deque()
        # How many of the next messages in the buffer are known to be ours, and until when.
        self._sure_of = 0
        self._sure_until = 0.0
        # Time before which the leases of those have not ended.
        self._leased_until = 0.0
        # Each with the same, for the deliveries that our user has.
        self._handed_out: dict[bytes, float] = {}
        # Came a second time, under the name of a delivery that is over (see _rename).
        self._again: list[bytes] = []
        self._left = False
        self._suspect_until = 0.0
        self._held = Held(keys, consumer, queue.lease_ms, until={}, on_lost=self._forget)
        self._commits = Commits(driver, queue, keys, consumer)

    async def register(self) -> None:
        """Make the partition and this consumer known to the server."""
        queue = self._queue
        op = consume.register(
            self.keys, self._consumer, queue.lease_ms, queue.partitions, source=queue
        )
        await self._driver.run(op)

    def keep_leases(self) -> None:
        """Extend the leases of what waits in the buffer, from now on."""
        self._keeper.keep(self._held)

    # Fetching

    def wants(self, now: float) -> bool:
        """Tell whether a fetch may bring something."""
        return self.reading.may_read(now) or self.reading.is_due(now)

    async def fetch(self) -> None:
        """Fetch what is there."""
        reading = self.reading
        allowed = reading.tokens_at <= time.monotonic()
        reads = reading.reads(self._prefetch if allowed else 0)
        woken = [Settlement("woken", entry) for entry in reading.woken]
        asked = time.monotonic()
        found = await self._driver.run(self._fetch(woken, reads, urgent=reading.urgent))
        reading.woken.clear()
        reading.heard(found.now_ms, asked)
        reading.fetched(found, reads, time.monotonic())
        self._keep(found, asked)
        if self._again:
            await self._rename()

    def _fetch(
        self,
        ends: Sequence[Settlement],
        reads: Sequence[tuple[str, int]] = (),
        *,
        urgent: str = "",
    ) -> Op[Fetched]:
        queue = self._queue
        return consume.fetch(
            *(self.keys, self._consumer, ends, reads),
            urgent=urgent,
            limits=queue.limits,
            keep=queue.keep,
            results=queue.results is not None,
        )

    def woke(self, found: Fetched, since: float) -> None:
        """Take what a sleeping read has brought.

        Args:
            found: what it has brought.
            since: time on the monotonic clock before which it cannot have been delivered.
        """
        self.reading.woke(found)
        self._keep(found, since)

    async def pass_on(self) -> None:
        """Leave a wake-up that came at the last moment to a reader that waits for a slot."""
        if self.reading.follows and self.reading.woken:
            woken, self.reading.woken = self.reading.woken, []
            await self._driver.run(self._fetch([Settlement("woken", entry) for entry in woken]))

    def _keep(self, found: Fetched, since: float) -> None:
        envelopes = found.envelopes
        if self.keys.subscription:
            # Only a seek has an entry of a log read twice: the delivery that is here is over.
            self._again += [one.token for one in envelopes if self._has(one.token)]
            envelopes = [one for one in envelopes if one.token not in self._again]
        if not self._buffer:
            self._be_sure_of(len(envelopes), since)
        for envelope in envelopes:
            self._held.until[envelope.token] = math.inf
            self._buffer.append(envelope)

    async def look_after(self, now: float) -> None:
        """Take over expired leases when it is time, and let go of a suspect that is lost."""
        reading = self.reading
        if now >= reading.sweep_at:
            await self._sweep()
        held = reading.suspect_held
        if held and held not in self._held.until and now >= self._suspect_until:
            # Its user let the lease run out. That is no reason to leave all others alone.
            reading.settled(held)

    async def _sweep(self) -> None:
        queue = self._queue
        swept = await self._driver.run(
            sweep(
                self.keys,
                self._consumer,
                lease_ms=queue.lease_ms,
                max_crashes=queue.retry.max_crashes,
            )
        )
        wait = swept.wait_ms / 1000
        if swept.elected and self.keys.subscription:
            wait = min(wait, await tend(self._driver, self.keys.topic))
        self.reading.sweep_at = time.monotonic() + wait

    async def recover(self) -> None:
        """After a loss: find what was delivered to us without arriving."""
        known = {envelope.token for envelope in self._buffer} | self._handed_out.keys()
        queue, asked = self._queue, time.monotonic()
        plan = consume.rejoin(
            self.keys, self._consumer, queue.lease_ms, queue.partitions, source=queue
        )
        pending = await self._driver.drive(plan)
        self.woke(Fetched(envelopes=[one for one in pending if one.token not in known]), asked)

    # Handing out

    async def take(self) -> Delivery[T] | None:
        """Return the next delivery of what was fetched; None when there is none."""
        if self._again:
            await self._rename()
        decode = self._queue.codec.decode
        while self._buffer:
            if self._sure_of <= 0 or time.monotonic() > self._sure_until:
                await self._look_again()
                continue
            self._sure_of -= 1
            envelope = self._buffer.popleft()
            token = envelope.token
            if token not in self._held.until:
                continue
            self._held.until.pop(token, None)
            # Most are a body and nothing else: no time to live, no unique key.
            plain = len(envelope.fields) == 2  # noqa: PLR2004 - name and value
            if not plain and envelope.expired(self.reading.server_ms(time.monotonic())):
                await self._end_unseen(expire(token))
                continue
            try:
                body = read_body(envelope, decode, self._queue, self.partition)
            except Undecodable as error:
                logger.warning("%s", error)
                await self._end_unseen(reject(token, error.reason, error=str(error)))
                continue
            if not plain and (unique := envelope.unique_until_started):
                await self._driver.run(consume.started(self.keys, envelope.state.id, unique))
            self._handed_out[token] = self._leased_until
            if token == self.reading.suspect_held:
                self._suspect_until = time.monotonic() + self._queue.lease_ms / 1000
            return Delivery(body, envelope, self._queue, self._queue.retry, self)
        return None

    async def _end_unseen(self, end: Settlement) -> None:
        """End a message that is not for the user; the next one of its key may be ready by that."""
        await self._end(end)
        self.reading.more = True

    def make_unsure(self) -> None:
        """Look again before the next message is handed out: something has changed."""
        self._sure_of = 0

    def _has(self, token: bytes) -> bool:
        return token in self._held.until or token in self._handed_out

    async def _rename(self) -> None:
        """Hand back what has come under the name of a delivery that is over: it gets another name."""
        while self._again:
            token = self._again.pop()
            self._buffer = deque(one for one in self._buffer if one.token != token)
            self._forget([token])
            await self._release([token])
            self.reading.more = True

    def _be_sure_of(self, count: int, since: float) -> None:
        lease, now = self._queue.lease_ms / 1000, time.monotonic()
        self._sure_of, self._leased_until = count, since + lease
        # A process that was stopped while it slept may have been given something long ago.
        self._sure_until = min(now + min(LOOK_AGAIN, lease / 4), self._leased_until)

    async def _look_again(self) -> None:
        """Make sure of what comes next in the buffer. A paused queue gets back what is there.

        Their owner also gets most of a lease, however long they have waited here.
        """
        tokens = [envelope.token for envelope in islice(self._buffer, LOOKED_AT)]
        asked = time.monotonic()
        try:
            lost, paused = await self._driver.run(control.look(self.keys, self._consumer, tokens))
        except ServerRefused as error:
            # After a FLUSHALL nothing is left of them.
            if error.code != "NOGROUP":
                raise
            lost, paused = tokens, False
        self._forget(lost)
        self._be_sure_of(len(tokens), asked)
        if paused:
            tokens = [envelope.token for envelope in self._buffer]
            self._buffer.clear()
            self._forget(tokens)
            await self._release(tokens)

    # What deliveries ask (see delivery.Owner)

    def holds(self, token: bytes) -> bool:
        """Tell whether a delivery is still ours, as far as is known."""
        return token in self._handed_out

    async def settle(self, end: Settlement) -> bool:
        """End a delivery; False: it was not ours any more.

        Raises:
            TimedOut: a reply was lost, and its lease may have ended before it was settled.
        """
        leased_until = self._handed_out.get(end.token, 0.0)
        owned = await self._end(end)
        if owned is None and time.monotonic() >= leased_until:
            raise unclear(self._queue.title, self._driver.url)
        return owned is not False

    async def _end(self, end: Settlement) -> bool | None:
        """Try to end a delivery, and let go of it; None: it is over, in one way or another."""
        queue = self._queue
        op = ending.settle(
            *(self.keys, self._consumer, end),
            limits=queue.limits,
            keep=queue.keep,
            results=queue.results is not None,
        )
        owned = await self._driver.drive(op)
        self._forget([end.token])
        return owned

    async def commit(self, end: Settlement, draft: Draft) -> Committed | None:
        """Do what a draft says and end its delivery; None: it was not ours any more."""
        done = await self._commits.commit(end, draft)
        self._forget([end.token])
        return done

    async def extend(self, token: bytes, lease_ms: int) -> bool:
        """Begin a lease anew, and keep it up when it is to last longer than the queue's."""
        idle_ms = max(0, self._queue.lease_ms - lease_ms)
        op, asked = (
            consume.extend(self.keys, self._consumer, [token], idle_ms=idle_ms),
            time.monotonic(),
        )
        if await self._driver.run(op):
            self._forget([token])
            return False
        if token in self._handed_out:
            self._handed_out[token] = asked + min(lease_ms, self._queue.lease_ms) / 1000
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
            self._handed_out.pop(token, None)
            self.reading.settled(token)

    # The end

    async def hand_back(self, *, unsure: bool) -> None:
        """Give messages back that nobody has seen; leave for good unless others are in use.

        Args:
            unsure: whether messages may have been delivered to us without arriving.
        """
        driver, keys, consumer = self._driver, self.keys, self._consumer
        if not self._handed_out:
            crashes = self._queue.retry.max_crashes
            await driver.drive(leave(keys, consumer, max_crashes=crashes))
            return
        tokens = [envelope.token for envelope in self._buffer]
        if unsure:
            pending = await driver.drive(consume.own_pending(keys, consumer))
            tokens = [one.token for one in pending if one.token not in self._handed_out]
        await self._release(tokens)

    async def _release(self, tokens: list[bytes]) -> None:
        for start in range(0, len(tokens), RELEASED_AT_ONCE):
            ends = [release(token) for token in tokens[start : start + RELEASED_AT_ONCE]]
            op = self._fetch(ends)
            # It reads nothing, and what is not ours any more is not released a second time.
            await self._driver.run(replace(op, repeatable=True))

    def let_go(self) -> None:
        """Extend the leases of what nobody has seen no more."""
        self._left = True
        for envelope in self._buffer:
            self._held.until.pop(envelope.token, None)
        self._buffer.clear()
        # What was extended on purpose is kept for as long as that.
        self._keeper.drop(self._held, when_empty=True)
