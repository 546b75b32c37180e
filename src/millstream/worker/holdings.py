"""What a reader has in hand: deliveries, from their coming until the server has confirmed the end.

Their leases are extended (in another thread) for as long. Slots run the handlers and tell here how
each delivery ended; the reader takes the ends along to the server.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from millstream.aio.commits import Commits
from millstream.driver.aio import AsyncDriver
from millstream.driver.lease_keeper import TOKENS_A_CALL, Held, LeaseKeeper
from millstream.errors import BrokerError
from millstream.protocol import consume, settlement
from millstream.protocol.consume import Fetched
from millstream.protocol.draft import Draft
from millstream.protocol.envelope import Envelope
from millstream.protocol.keys import QueueKeys
from millstream.protocol.reading import Reading
from millstream.protocol.settlement import Settlement, release
from millstream.protocol.transaction import Committed
from millstream.topic import Source
from millstream.worker.committing import Committing
from millstream.worker.early import Early
from millstream.worker.insist import insist
from millstream.worker.outbox import Outbox, Parcel
from millstream.worker.prefetch import Prefetch
from millstream.worker.repeats import Repeats
from millstream.worker.resulting import Resulting
from millstream.worker.slots import Slots
from millstream.worker.unstored import STORE_AGAIN, Unstored

__all__ = ["Holdings"]

logger = logging.getLogger("millstream.worker")

LINGER = 0.005
"""Seconds that an end may wait for company while other messages are in hand."""


class Holdings:
    """The deliveries of one consumer; the ``Holder`` of its slots.

    Args:
        driver: of the client.
        keeper: extends leases from its own thread.
        reading: learns of suspects that have ended.
        wake: called when the reader has something to do.
        queue: where the deliveries come from.
        keys: of the queue.
        consumer: who holds them.
        prefetch: how many ends are worth a round trip.
        lingers: whether ends wait for company although nothing else is in hand: they make room that
            nobody needs.
    """

    def __init__(
        self,
        driver: AsyncDriver,
        keeper: LeaseKeeper,
        reading: Reading,
        wake: Callable[[], None],
        *,
        queue: Source[Any],
        keys: QueueKeys,
        consumer: str,
        prefetch: Prefetch,
        lingers: bool = False,
    ) -> None:
        self._driver = driver
        self._keeper = keeper
        self._reading = reading
        self._wake = wake
        self._queue = queue
        self._keys = keys
        self.partition = keys.partition
        self._consumer = consumer
        self._prefetch = prefetch
        self._lingers = lingers
        self._loop = asyncio.get_running_loop()
        self.outbox = Outbox(keeps=queue.keep is not None)
        self.held = Held(keys, consumer, queue.lease_ms, until={}, on_lost=self._lost_in_thread)
        self.holds = self.held.until.__contains__
        # Their ends are on the wire, and will be refused.
        self._cancelled: set[bytes] = set()
        self._early = Early()
        moves = bool(keys.subscription)
        self._repeats = Repeats(self.held, self.outbox, self._lost, moves=moves)
        self._left_behind = self._repeats.left_behind
        self.unstored = Unstored(self._settle_again, queue.title)
        self._lingering: asyncio.TimerHandle | None = None
        self._asking = asyncio.Lock()
        self.slots: Slots
        # Of a queue with results.
        self.results: Resulting | None = None
        self._committing = Committing(Commits(driver, queue, keys, consumer))
        # The deliveries whose commits are on the wire, and what waits for these.
        self.committing = self._committing.ends
        self.decided = self._committing.decided

    # What slots tell (see handling.Holder)

    async def make_sure(self) -> None:
        """Ask what is still ours, unless that is certain.

        A process that was stopped for longer than a lease must not begin with messages that others
        have by now, and may have done.
        """
        async with self._asking:
            if time.monotonic() < self.held.sure_until:
                return
            question, sure = self.held.ask(), False
            tokens, lost = list(self.held.until), list[bytes]()
            try:
                for start in range(0, len(tokens), TOKENS_A_CALL):
                    some = tokens[start : start + TOKENS_A_CALL]
                    lost += await self._driver.run(consume.extend(self._keys, self._consumer, some))
            except BrokerError as error:
                # After a flush there is no group any more: the reader finds out, and sees to it.
                logger.warning("%s: %s; trying again", self._queue.title, error)
                await asyncio.sleep(STORE_AGAIN)
                return
            else:
                self._lost_to_keeper(lost)
                sure = True
            finally:
                self.held.answered(question, sure=sure)
        # Who asks for a message that is lost is cancelled here, and not later, in the next one.
        await asyncio.sleep(0)

    def unsettled(self, token: bytes) -> bool:
        """Tell whether the delivery is ours, and its handler has not begun to end it."""
        begun = token in self.outbox.waiters or token in self.committing
        return token in self.held.until and not begun

    def ack(self, envelope: Envelope) -> None:
        """A handler is done with a message."""
        # Nearly all are a body and nothing else: this is what every single message goes through.
        if len(envelope.fields) == 2 or envelope.plain:  # noqa: PLR2004 - name and value
            self._ended(self.outbox.ack(envelope.token))
        else:
            end = settlement.ack(envelope.token, plain=False)
            self._ended(self.outbox.add(end if self.results is None else self.results.onto(end)))

    def server_ms(self) -> float:
        """Return the server's time."""
        return self._reading.server_ms(time.monotonic())

    async def begin(self, message_id: str, unique: str) -> None:
        """A handler is about to begin: its message gives up its unique key.

        What is sent with this key from now on is a message of its own, so the handler must not
        begin before the server has done this.
        """
        op = consume.started(self._keys, message_id, unique)
        await insist(self._driver, op, title=self._queue.title, pause=STORE_AGAIN)

    def end(self, end: Settlement) -> None:
        """A delivery ends in another way."""
        if self.unsettled(end.token):
            self._ended(self.outbox.add(end if self.results is None else self.results.onto(end)))

    def abandon(self, token: bytes) -> None:
        """A delivery is over without a settlement."""
        if self.held.until.pop(token, None) is not None:
            self._left_behind.add(token)
        if self.results is not None:
            self.results.forget(token)
        self._reading.settled(token)
        self._wake()

    async def settle(self, end: Settlement) -> bool:
        """End a delivery at once and tell whether it was ours; TimedOut: nobody can tell."""
        if not self.unsettled(end.token):
            return False
        self.outbox.add(end if self.results is None else self.results.onto(end))
        ended = self.outbox.expect(end.token)
        self._wake()
        if (owned := await ended) is None:
            raise settlement.unclear(self._queue.title, self._driver.url)
        return owned

    async def commit(self, end: Settlement, draft: Draft) -> Committed | None:
        """Do what a draft says and end its delivery; None: it was not ours any more."""
        if not self.unsettled(end.token):
            return None
        done = await self._committing.commit(end, draft)
        self._let_go([end.token])
        if done is not None and done.awaited and self.results is not None:
            self.results.tell(done.awaited)
        return done

    async def extend(self, token: bytes, lease_ms: int) -> bool:  # noqa: ARG002 - of every owner
        """Begin a lease anew, all of it: a shorter one may end before the keeper's next round."""
        if not self.holds(token):
            return False
        return not await self._driver.run(consume.extend(self._keys, self._consumer, [token]))

    def _ended(self, count: int) -> None:
        """Wake the reader when its ends are worth a round trip."""
        if self._hurries or count >= self._prefetch.batch:
            self._wake()
        elif count == 1 and self._lingering is None:
            self._lingering = self._loop.call_later(LINGER, self._linger_over)

    @property
    def _hurries(self) -> bool:
        """Whether an end is to go out at once: a handler is free, and could have another message."""
        return self.slots.hungry and not (self._lingers and self.count < self._prefetch.limit)

    def _linger_over(self) -> None:
        self._lingering = None
        self._wake()

    # What the reader asks

    @property
    def count(self) -> int:
        """Deliveries whose end the server has not confirmed."""
        return len(self.held.until)

    @property
    def idle(self) -> bool:
        """Whether no message is with a handler, or waits for one."""
        return self.count <= len(self.outbox)

    @property
    def keeps_leases(self) -> bool:
        """Whether something has to stay ours: in hand, or with a thread that we left."""
        return bool(self.held.until or self._left_behind)

    def flush_in(self, now: float) -> float:
        """Return the seconds until ends must go out, at a monotonic time; inf: there are none."""
        outbox = self.outbox
        if not outbox:
            return math.inf
        if outbox.urgent or self._hurries or len(outbox) >= self._prefetch.batch:
            return 0.0
        return max(0.0, outbox.since + LINGER - now)

    # What the reader tells

    def keep(self) -> None:
        """Extend leases from now on."""
        self._keeper.keep(self.held)

    def drop(self) -> None:
        """Extend no lease any more. Safe to repeat."""
        self.stop_lingering()
        self._keeper.drop(self.held)

    def stop_lingering(self) -> None:
        """Wake nobody any more for ends that wait for company."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def take(self, envelopes: Sequence[Envelope], *, begin: bool, since: float) -> None:
        """Own what was read, and hand it to the slots; or back, if nothing is to begin.

        Args:
            envelopes: what was read.
            begin: whether handlers may begin with it.
            since: time on the monotonic clock before which it cannot have been delivered.
        """
        envelopes = self._early.leave_out(envelopes, self._reading.settled)
        tokens = [envelope.token for envelope in envelopes]
        if again := self._repeats.among(tokens, self.slots):
            self._repeats.take(again, self.slots, since)
            envelopes = [envelope for envelope in envelopes if envelope.token not in again]
            tokens = [envelope.token for envelope in envelopes]
        if not tokens:
            return
        self.held.arrived(tokens, since)
        if begin:
            self.slots.add(envelopes)
        else:
            for token in tokens:
                self.end(release(token))

    def release_waiting(self) -> None:
        """Hand back what no handler has begun with."""
        for token in self.slots.drop_waiting():
            self.end(release(token))

    def confirm(self, parcel: Parcel, found: Fetched) -> int:
        """Let go of what the server has settled, and say what it refused; return how many ended."""
        until = self.held.until
        for token in parcel.acks:
            until.pop(token, None)
        for end in parcel.others:
            if end.token not in found.kept:
                until.pop(end.token, None)
                self._reading.settled(end.token)
        for token in set(found.lost) - self._cancelled - self.outbox.doubtful:
            logger.warning(
                "%s: lost the lease of delivery %s before it was settled; unless somebody "
                "has cancelled it, it is handled again",
                *(self._queue.title, token.decode()),
            )
        self._cancelled.clear()
        if found.awaited and self.results is not None:
            self.results.tell(found.awaited)
        if kept := self.outbox.confirmed(parcel, found, sure=self.held.sure):
            self.unstored.add(kept, found.kept)
        return len(parcel)

    def _settle_again(self, kept: list[Settlement]) -> None:
        for end in kept:
            if end.token in self.held.until:
                self._ended(self.outbox.add(end))

    def begin_to_ask(self) -> set[bytes]:
        """Name what is in hand when the server is asked what is ours (see ``reconcile``)."""
        # What was said before is in its answer.
        self._early.forget()
        return set(self.held.until)

    def reconcile(self, pending: Sequence[Envelope], before: set[bytes]) -> list[Envelope]:
        """After a loss: believe the server in what is ours; return what has not arrived here.

        Args:
            pending: everything that this consumer owned when the server was asked.
            before: what was here then. What has ended since, by a commit, say, is not new.
        """
        owned = {envelope.token for envelope in pending}
        for token in self.outbox.arrived(owned, sure=self.held.sure):
            self.held.until.pop(token, None)
            self._reading.settled(token)
        # Of a commit that is on its way, its own answer tells.
        known = owned | self.committing.keys()
        self._lost([token for token in list(self.held.until) if token not in known])
        known = before.union(self.held.until, self._left_behind, self.outbox.parcel.tokens())
        return [one for one in pending if one.token not in known]

    def _lost_in_thread(self, tokens: list[bytes]) -> None:
        self._loop.call_soon_threadsafe(self._lost_to_keeper, tokens)

    def _lost_to_keeper(self, tokens: list[bytes]) -> None:
        # What its handler is ending may be gone because it has ended; the answer will tell.
        self._lost([token for token in tokens if self.unsettled(token)])

    def cancelled(self, id: str, token: bytes) -> None:
        """Somebody has cancelled a message, and the server has settled it: stop its handler.

        Args:
            id: of the message; empty: it is a request whose caller waits no more.
            token: of the delivery.
        """
        if token not in self.held.until:
            self._early.note(token)
            return
        if id:
            logger.warning("%s: message %s was cancelled", self._queue.title, id)
        else:
            logger.info("%s: nobody waits for %s any more", self._queue.title, token.decode())
        self._cancelled.add(token)
        self.outbox.forget(token)
        self._let_go([token])
        self.slots.cancelled(token)

    def _lost(self, tokens: list[bytes]) -> None:
        """Others own these by now: do not begin with them, and stop those that run."""
        if tokens:
            self._let_go(tokens)
            self.slots.lost(tokens)

    def _let_go(self, tokens: list[bytes]) -> None:
        for token in tokens:
            self.held.until.pop(token, None)
            if self.results is not None:
                self.results.forget(token)
            self._reading.settled(token)
            self.outbox.ended(token, owned=False)
        self._wake()
