"""A queue as ``receive`` reads it when what is taken is gone: at most once."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from msgspec.structs import replace

from millstream.aio.delivery import Delivery
from millstream.driver.aio import AsyncDriver
from millstream.errors import ServerRefused, Undecodable
from millstream.policy import AtMostOnce
from millstream.protocol import consume, control
from millstream.protocol.consume import Fetched
from millstream.protocol.draft import Draft
from millstream.protocol.envelope import Envelope, read_body
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Op
from millstream.protocol.reading import Reading
from millstream.protocol.recover import leave
from millstream.protocol.settlement import Settlement, expire, reject, release
from millstream.topic import Source

__all__ = ["PoppedPart"]

T = TypeVar("T")

logger = logging.getLogger("millstream.receive")

LOOK_AGAIN = 0.1
"""Seconds after which to ask, before the next message of the buffer, whether the queue is paused."""

RETURNED_AT_ONCE = 100
"""Bounds the time that one call keeps the server busy: about a millisecond."""


class PoppedPart(Generic[T]):
    """Takes from a queue, as ``Part`` does from those that want to hear how it ended.

    It does not remember what it has handed out: whoever has a delivery need not settle it.

    Args:
        driver: of the client.
        queue: to read.
        keys: of the queue.
        consumer: a name that nobody else has.
        prefetch: most messages to take at once.
    """

    def __init__(
        self,
        driver: AsyncDriver,
        *,
        queue: Source[T],
        keys: QueueKeys,
        consumer: str,
        prefetch: int,
    ) -> None:
        self._driver = driver
        self._queue = queue
        self.keys = keys
        self.partition = keys.partition
        self._consumer = consumer
        self._prefetch = prefetch
        self.reading = Reading.of(queue)
        self._buffer: deque[Envelope] = deque()
        # The server knows by the last number what it has done, so one call follows the other.
        self._numbers = itertools.count(1)
        self._returning = driver.lock()
        self._sure_until = 0.0

    async def register(self) -> None:
        """Make the queue and this consumer known to the server."""
        queue = self._queue
        op = consume.register(self.keys, self._consumer, queue.lease_ms, source=queue)
        await self._driver.run(op)

    def keep_leases(self) -> None:
        """There are none."""

    # Fetching

    def wants(self, now: float) -> bool:
        """Tell whether a fetch may bring something."""
        return self.reading.may_read(now) or self.reading.is_due(now)

    async def fetch(self) -> None:
        """Take what is there."""
        reading = self.reading
        reads = reading.reads(self._prefetch)
        asked = time.monotonic()
        found = await self._driver.run(self._pop((), reads, urgent=reading.urgent))
        reading.heard(found.now_ms, asked)
        reading.fetched(found, reads, time.monotonic())
        if not self._buffer:
            self._sure_until = time.monotonic() + LOOK_AGAIN
        self._buffer.extend(found.envelopes)

    def _pop(
        self,
        returns: Sequence[Settlement],
        reads: Sequence[tuple[str, int]] = (),
        *,
        urgent: str = "",
    ) -> Op[Fetched]:
        return consume.fetch(
            *(self.keys, self._consumer, returns, reads), urgent=urgent, limits=AtMostOnce()
        )

    def woke(self, found: Fetched, since: float) -> None:  # noqa: ARG002 - nothing is delivered yet
        """It is time to look."""
        self.reading.woke(found)

    async def pass_on(self) -> None:
        """Nobody else has missed what woke this one."""

    async def look_after(self, now: float) -> None:
        """Nothing of what is taken can be lost to others."""

    async def recover(self) -> None:
        """After a loss: what was on its way here is gone."""
        await self.register()
        self.reading.more = True

    # Handing out

    async def take(self) -> Delivery[T] | None:
        """Return the next delivery of what was fetched; None when there is none."""
        decode = self._queue.codec.decode
        while self._buffer:
            if time.monotonic() > self._sure_until and await self._is_paused():
                break
            envelope = self._buffer.popleft()
            if envelope.expired(self.reading.server_ms(time.monotonic())):
                await self._return([replace(expire(envelope.token), envelope=envelope)])
                continue
            try:
                body = read_body(envelope, decode, self._queue, self.partition)
            except Undecodable as error:
                logger.warning("%s", error)
                end = reject(envelope.token, error.reason, error=str(error))
                await self._return([replace(end, envelope=envelope)])
                continue
            return Delivery(body, envelope, self._queue, self._queue.retry, self)
        return None

    async def _is_paused(self) -> bool:
        """Look whether the queue is paused; then it gets back what nobody has seen."""
        paused = await self._driver.run(control.is_paused(self.keys))
        self._sure_until = time.monotonic() + LOOK_AGAIN
        if paused:
            await self._return_buffer()
        return paused

    def make_unsure(self) -> None:
        """Look again before the next message is handed out: something has changed."""
        self._sure_until = 0.0

    # What deliveries ask (see delivery.Owner)

    def holds(self, token: bytes) -> bool:  # noqa: ARG002 - as of every owner
        """Nobody else can have what was handed out."""
        return True

    async def settle(self, end: Settlement) -> bool:
        """End a delivery, which says what it is of."""
        if end.verb not in ("ack", "finish"):
            await self._return([end])
        return True

    async def commit(self, end: Settlement, draft: Draft) -> None:
        """There is nothing at the server that could be acknowledged."""

    async def extend(self, token: bytes, lease_ms: int) -> bool:  # noqa: ARG002 - as of every owner
        """There is no lease that could end."""
        return True

    async def _return(self, ends: Sequence[Settlement]) -> None:
        """Hand messages back, some a call; what was done of a call that is repeated is left out."""
        for start in range(0, len(ends), RETURNED_AT_ONCE):
            some = ends[start : start + RETURNED_AT_ONCE]
            async with self._returning:
                numbered = [replace(end, number=next(self._numbers)) for end in some]
                found = await self._driver.run(
                    dataclasses.replace(self._pop(numbered), repeatable=True)
                )
            if found.kept:
                problem = next(iter(found.kept.values()))
                message = f"{self.keys.title}: the server could not store the message: {problem}"
                raise ServerRefused(message, code=problem.partition(" ")[0])

    # The end

    async def _return_buffer(self) -> None:
        returned = [replace(release(one.token), envelope=one) for one in self._buffer]
        self._buffer.clear()
        await self._return(returned)

    async def hand_back(self, *, unsure: bool) -> None:  # noqa: ARG002 - what did not arrive is gone
        """Give messages back that nobody has seen, and leave."""
        await self._return_buffer()
        plan = leave(self.keys, self._consumer, max_crashes=self._queue.retry.max_crashes)
        await self._driver.drive(plan)

    def let_go(self) -> None:
        """Forget what could not be handed back."""
        self._buffer.clear()
