"""What a reader has in hand that is gone from its queue: taken at most once.

Nothing of it has a lease, and what is done needs no word to the server. What comes back (rejected,
expired, or never begun with) goes with the reader's next fetch, message and all; what has failed is
counted in the same way.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from msgspec.structs import replace

from millstream.driver.lease_keeper import Held
from millstream.protocol import popping, settlement
from millstream.protocol.consume import Fetched
from millstream.protocol.draft import Draft
from millstream.protocol.envelope import Envelope
from millstream.protocol.keys import QueueKeys
from millstream.protocol.reading import Reading
from millstream.protocol.settlement import Settlement
from millstream.topic import Source
from millstream.worker.holdings import LINGER
from millstream.worker.outbox import Outbox, Parcel
from millstream.worker.prefetch import Prefetch
from millstream.worker.slots import Slots
from millstream.worker.unstored import Unstored

__all__ = ["Popped"]

logger = logging.getLogger("millstream.worker")


class Popped:
    """The messages of one consumer; the ``Holder`` of its slots, as ``Holdings`` is elsewhere.

    Args:
        reading: what the reader knows of the queue.
        wake: called when the reader has something to do.
        queue: where the messages come from.
        keys: of the queue.
        consumer: who has taken them.
        prefetch: how many that are done are worth a round trip for others.
    """

    keeps_leases = False

    def __init__(
        self,
        reading: Reading,
        wake: Callable[[], None],
        *,
        queue: Source[Any],
        keys: QueueKeys,
        consumer: str,
        prefetch: Prefetch,
    ) -> None:
        self._reading = reading
        self._wake = wake
        self._queue = queue
        self._keys = keys
        self.partition = keys.partition
        self._prefetch = prefetch
        self._loop = asyncio.get_running_loop()
        self.outbox = Outbox()
        self._in_hand: dict[bytes, Envelope] = {}
        self.holds = self._in_hand.__contains__
        # There are no transactions.
        self.committing: Collection[bytes] = ()
        # Nothing is ever added to it, so all is certain for ever.
        self.held = Held(keys, consumer, queue.lease_ms, until={}, on_lost=lambda _: None)
        self.unstored = Unstored(self._give_back_again, queue.title)
        self._numbers = itertools.count(1)
        # How many were done since the last fetch.
        self._done = 0
        self._lingering: asyncio.TimerHandle | None = None
        self.slots: Slots

    # What slots tell (see handling.Holder)

    async def make_sure(self) -> None:
        """Nobody else can have what is here."""

    def unsettled(self, token: bytes) -> bool:
        """Tell whether the delivery is ours, and its handler has not begun to end it."""
        return token in self._in_hand and token not in self.outbox.waiters

    def ack(self, envelope: Envelope) -> None:
        """A handler is done with a message: there is room for another one, and no more to say."""
        del self._in_hand[envelope.token]
        self._done += 1
        if self._reading.more and (self.slots.hungry or self._done >= self._prefetch.batch):
            self._wake()

    def server_ms(self) -> float:
        """Return the server's time."""
        return self._reading.server_ms(time.monotonic())

    async def begin(self, message_id: str, unique: str) -> None:
        """Its unique key has been free since it was taken."""

    def end(self, end: Settlement) -> None:
        """A delivery ends in another way than by its handler's success."""
        if not self.unsettled(end.token):
            return
        if end.verb == "release":
            # Its handler was stopped, and may have done its work: nobody else gets the message.
            id = self._in_hand[end.token].state.id
            logger.warning("%s: message %s was not finished: lost", self._queue.title, id)
            end = settlement.fail(end.token)
        self._give_back(end)

    def abandon(self, token: bytes) -> None:
        """A thread that we do not wait for works on it: whether it succeeds, nobody will know."""
        if self.unsettled(token):
            self._give_back(settlement.fail(token))

    async def settle(self, end: Settlement) -> bool:
        """End a delivery at once and tell whether it was ours."""
        if not self.unsettled(end.token):
            return False
        if end.verb in ("ack", "finish"):
            self.ack(self._in_hand[end.token])
            return True
        self._give_back(end)
        ended = self.outbox.expect(end.token)
        self._wake()
        return bool(await ended)

    async def commit(self, end: Settlement, draft: Draft) -> None:
        """There is nothing at the server that could be acknowledged."""

    async def decided(self, tokens: Sequence[bytes]) -> None:
        """Nothing is on its way that could be waited for."""

    async def extend(self, token: bytes, lease_ms: int) -> bool:  # noqa: ARG002 - as of every owner
        """There is no lease that could end."""
        return self.holds(token)

    def _give_back(self, end: Settlement) -> None:
        envelope = self._in_hand[end.token]
        count = self.outbox.add(replace(end, envelope=envelope, number=next(self._numbers)))
        if self.slots.hungry or count >= self._prefetch.batch:
            self._wake()
        elif self._lingering is None:
            self._lingering = self._loop.call_later(LINGER, self._linger_over)

    def _linger_over(self) -> None:
        self._lingering = None
        self._wake()

    # What the reader asks

    @property
    def count(self) -> int:
        """Messages that no handler is done with, or whose end the server has not confirmed."""
        return len(self._in_hand)

    @property
    def idle(self) -> bool:
        """Whether no message is with a handler, or waits for one."""
        return self.count <= len(self.outbox)

    def flush_in(self, now: float) -> float:
        """Return the seconds until ends must go out; inf: there are none.

        Args:
            now: seconds, of the monotonic clock.
        """
        outbox = self.outbox
        if not outbox:
            return math.inf
        if outbox.urgent or self.slots.hungry or len(outbox) >= self._prefetch.batch:
            return 0.0
        return max(0.0, outbox.since + LINGER - now)

    # What the reader tells

    def keep(self) -> None:
        """There are no leases."""

    def drop(self) -> None:
        """Say nothing any more. Safe to repeat."""
        self.stop_lingering()

    def stop_lingering(self) -> None:
        """Wake nobody any more for ends that wait for company."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def take(self, envelopes: Sequence[Envelope], *, begin: bool, since: float) -> None:  # noqa: ARG002 - no lease has begun
        """Have what was taken, and hand it to the slots; or back, if nothing is to begin.

        Args:
            envelopes: what was taken.
            begin: whether handlers may begin with it.
            since: of no use here.
        """
        envelopes = self._new(envelopes)
        if not envelopes:
            return
        popping.hold(self._in_hand, envelopes)
        if begin:
            self.slots.add(envelopes)
        else:
            self._release([envelope.token for envelope in envelopes])

    def _new(self, envelopes: Sequence[Envelope]) -> Sequence[Envelope]:
        """Leave out what has come before, from a server that was back with older data.

        In a list it may be another message, if somebody else has pushed a copy: it gets a name of its own.
        """
        busy = self.slots.busy_with([one.token for one in envelopes])
        if self._keys.store == "list":
            for envelope in envelopes if busy else ():
                while self.slots.busy_with([envelope.token]):
                    envelope.token += b"/"
            return envelopes
        here = self._in_hand
        return [one for one in envelopes if one.token not in here and one.token not in busy]

    def release_waiting(self) -> None:
        """Hand back what no handler has begun with."""
        self._release(self.slots.drop_waiting())

    def _release(self, tokens: Sequence[bytes]) -> None:
        for token in tokens:
            self._give_back(settlement.release(token))

    def confirm(self, parcel: Parcel, found: Fetched) -> int:
        """Let go of what the server has taken back; return how many have ended since the last time."""
        for end in parcel.others:
            if end.token not in found.kept:
                self._in_hand.pop(end.token, None)
        ended, self._done = self._done + len(parcel), 0
        if kept := self.outbox.confirmed(parcel, found, sure=True):
            self.unstored.add(kept, found.kept)
        return ended

    def _give_back_again(self, kept: list[Settlement]) -> None:
        for end in kept:
            # A new number: the server knows that it has not done this one.
            self._give_back(end)

    def begin_to_ask(self) -> set[bytes]:
        """Name what a server could name again, which is nothing."""
        return set()

    def reconcile(
        self,
        pending: Sequence[Envelope],  # noqa: ARG002 - nothing is pending
        before: set[bytes],  # noqa: ARG002 - and nothing comes back
    ) -> list[Envelope]:
        """After a loss: what was on its way here is gone, and what was on its way back goes again."""
        return []

    def cancelled(self, id: str, token: bytes) -> None:
        """What has been taken cannot be cancelled; this is about another consumer's message."""
