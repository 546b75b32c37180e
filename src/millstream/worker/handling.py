"""Handlers at work: each call gets what it is for, and what comes of it ends its deliveries."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from typing import Any, Protocol

from millstream.aio.delivery import Delivery, Owner
from millstream.driver.lease_keeper import Held
from millstream.errors import Undecodable, UsageError
from millstream.protocol import settlement
from millstream.protocol.envelope import Envelope, read_body
from millstream.protocol.settlement import Settlement
from millstream.worker.departing import Again, Departing
from millstream.worker.functions import check_done
from millstream.worker.handler import Handler
from millstream.worker.outcome import ends_of

__all__ = ["Call", "Handling", "Holder"]

logger = logging.getLogger("millstream.worker")

_PLAIN = 2
"""Fields of a message that is a body and nothing else: its name and its value."""

Call = Callable[[Any, Any], Coroutine[Any, Any, Any]]
"""Runs the handler, middleware included, for a body and its delivery, or for lists of them."""


class Holder(Owner, Protocol):
    """Who owns the deliveries: the reader's holdings."""

    @property
    def held(self) -> Held:
        """What is ours, and until when that is certain."""
        ...

    async def make_sure(self) -> None:
        """Ask what is still ours, unless that is certain."""
        ...

    def unsettled(self, token: bytes) -> bool:
        """Tell whether the delivery is ours, and its handler has not begun to end it."""
        ...

    @property
    def committing(self) -> Collection[bytes]:
        """The deliveries whose commits are on the wire."""
        ...

    async def decided(self, tokens: Sequence[bytes]) -> None:
        """Wait for the commits of these that their handler has left; raise what one has failed with."""
        ...

    def ack(self, envelope: Envelope) -> None:
        """A handler is done with a message."""
        ...

    def server_ms(self) -> float:
        """Return the server's time."""
        ...

    async def begin(self, message_id: str, unique: str) -> None:
        """A handler is about to begin: its message gives up its unique key."""
        ...

    def end(self, end: Settlement) -> None:
        """A delivery ends in another way."""
        ...

    def abandon(self, token: bytes) -> None:
        """A delivery is over without a settlement: it is not ours any more."""
        ...


class Handling:
    """What the handlers of one queue are busy with.

    Args:
        handler: as declared.
        call: runs it.
        holder: gets the outcomes.
        interrupt: stops what a thread does for a delivery, or for a batch that begins with it;
            False: none is at it. None: handlers do not run in threads.
    """

    def __init__(
        self,
        handler: Handler,
        call: Call,
        holder: Holder,
        interrupt: Callable[[bytes], bool] | None = None,
    ) -> None:
        self._handler = handler
        self._call = call
        self.holder = holder
        self._interrupt = interrupt
        self._decode = handler.queue.codec.decode
        # What handlers of an endpoint have left behind; those of a queue return what nobody wants.
        self._departing = Departing(self._arrived, self._insist)
        self._answers = handler.endpoint is not None
        self._running: dict[bytes, tuple[asyncio.Task[Any], Delivery[Any]]] = {}
        # How deliveries end that were taken from their handler; None: they are not ours any more.
        self._stopped: dict[bytes, Settlement | None] = {}
        self._cancelled: set[asyncio.Task[Any]] = set()
        self._quiet: asyncio.Event | None = None
        # The task that reads the messages, and ends after their handlers; None: none does.
        self.reading: asyncio.Task[Any] | None = None

    async def one(
        self, envelope: Envelope, task: asyncio.Task[Any], call: Call | None = None
    ) -> None:
        """Handle one message; whatever happens becomes its end, nothing leaves.

        Args:
            envelope: the message.
            task: the slot that this runs in.
            call: what to run; None: the handler.
        """
        # As ``many``, but without a list: this is what every single message goes through.
        delivery = self._open(envelope, begun=call is not None)
        if delivery is None:
            return
        token, holder = envelope.token, self.holder
        self._running[token] = (task, delivery)
        try:
            if len(envelope.fields) > _PLAIN and envelope.unique_until_started:
                await self._begin([delivery])
            try:
                left = await (call or self._call)(delivery.body, delivery)
            finally:
                if holder.committing:
                    await holder.decided([token])
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if self._raised([delivery], error, task):
                raise
        else:
            if left is None:
                self._done(envelope)
            else:
                self._returned(delivery, left, task)
        finally:
            del self._running[token]
            if self._stopped or self._cancelled or self._quiet is not None:
                self._over([token], task)

    def _returned(self, delivery: Delivery[Any], left: Any, task: asyncio.Task[Any]) -> None:
        """A handler has returned something: what is still to leave, or a value that nobody wants."""
        if self._answers:
            if delivery.envelope.token not in self._stopped:
                self._departing.add(delivery.envelope, left)
                return
        else:
            try:
                check_done(self._handler.function, left)
            except UsageError as error:
                self._raised([delivery], error, task)
                return
        self._done(delivery.envelope)

    def _done(self, envelope: Envelope) -> None:
        """A handler has come to its end; unless it has settled its message, or it was lost meanwhile."""
        token = envelope.token
        if self.holder.unsettled(token) and token not in self._stopped:
            self.holder.ack(envelope)

    def _arrived(self, envelope: Envelope) -> None:
        """What a handler has left behind is where it belongs."""
        self._done(envelope)
        self._calm()

    async def _insist(self, envelope: Envelope, task: asyncio.Task[Any], again: Again) -> None:
        """What a handler has left behind could not be sent."""
        await self.one(envelope, task, lambda _, __: again())
        self._calm()

    async def many(self, envelopes: Sequence[Envelope], task: asyncio.Task[Any]) -> None:
        """Handle a batch; whatever happens becomes the end of each message, nothing leaves.

        Args:
            envelopes: the messages.
            task: the slot that this runs in.
        """
        opened = [self._open(envelope) for envelope in envelopes]
        deliveries = [delivery for delivery in opened if delivery is not None]
        if not deliveries:
            return
        tokens = [delivery.envelope.token for delivery in deliveries]
        self._running.update(zip(tokens, ((task, one) for one in deliveries), strict=True))
        try:
            await self._begin(deliveries)
            # The handler may do with its lists what it likes.
            try:
                left = await self._call([one.body for one in deliveries], list(deliveries))
                if left is not None:
                    check_done(self._handler.function, left)
            finally:
                await self.holder.decided(tokens)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if self._raised(deliveries, error, task):
                raise
        else:
            for delivery in deliveries:
                if self._left(delivery.envelope.token):
                    self.holder.ack(delivery.envelope)
        finally:
            for token in tokens:
                del self._running[token]
            self._over(tokens, task)

    def _open(self, envelope: Envelope, *, begun: bool = False) -> Delivery[Any] | None:
        """Make a delivery of an entry; None: there is nothing to handle.

        Args:
            envelope: the entry.
            begun: whether its handler has run already, so that it cannot be too late for that.
        """
        handler, holder = self._handler, self.holder
        if not holder.holds(envelope.token):
            return None
        plain = len(envelope.fields) == _PLAIN
        if not plain and not begun and handler.is_too_late(envelope, holder.server_ms()):
            holder.end(settlement.expire(envelope.token))
            return None
        try:
            body = read_body(envelope, self._decode, handler.queue, holder.partition)
        except Undecodable as error:
            logger.warning("%s", error)
            holder.end(settlement.reject(envelope.token, error.reason, error=str(error)))
            return None
        return Delivery(body, envelope, handler.queue, handler.retry, holder)

    async def _begin(self, deliveries: Sequence[Delivery[Any]]) -> None:
        """Do what comes before the handler: free unique keys that are for waiting messages only."""
        found = [(one, one.envelope.unique_until_started) for one in deliveries]
        begin = self.holder.begin
        if begun := [begin(one.id, unique) for one, unique in found if unique]:
            await asyncio.gather(*begun)

    def _left(self, token: bytes) -> bool:
        """Tell whether a message is still its handler's to end."""
        return self.holder.unsettled(token) and token not in self._stopped

    def _raised(
        self, deliveries: Sequence[Delivery[Any]], error: BaseException, task: asyncio.Task[Any]
    ) -> bool:
        """Turn what the handler raised into the ends of what it has not settled.

        Returns:
            Whether the slot is to end, too.
        """
        cancelled = isinstance(error, asyncio.CancelledError)
        left = [delivery for delivery in deliveries if self._left(delivery.envelope.token)]
        if cancelled and task.cancelling() and task not in self._cancelled and self._loop_ends():
            for delivery in left:
                token = delivery.envelope.token
                self._stopped[token] = self._handed_back(token)
            return True
        if left:
            for end in ends_of(left, error, self._handler.retry):
                self.holder.end(end)
        elif not cancelled:
            logger.warning(
                "%s: the handler of message %s raised after its end",
                *(self._handler.queue.title, deliveries[0].id),
                exc_info=error,
            )
        return False

    def _loop_ends(self) -> bool:
        """Tell whether somebody cancels all tasks of this event loop, and not just that of a handler.

        A handler that cancels its own task has failed. So has one that awaits a cancelled one.
        """
        reading = self.reading
        return reading is None or reading.done() or reading.cancelling() > 0

    def _handed_back(self, token: bytes) -> Settlement:
        """Return how a delivery ends whose handler is stopped before it could finish."""
        if self._handler.once:
            return settlement.reject(token, "stopped")
        return settlement.release(token)

    def _over(self, tokens: Iterable[bytes], task: asyncio.Task[Any]) -> None:
        """A handler has come to its end; so do the messages that were taken from it."""
        if task in self._cancelled:
            self._cancelled.remove(task)
            while task.uncancel():
                # The next message of this slot has not been told to stop.
                continue
        for token in tokens:
            if token in self._stopped:
                end = self._stopped.pop(token)
                if end is None:
                    self.holder.abandon(token)
                else:
                    self.holder.end(end)
        self._calm()

    def _calm(self) -> None:
        """Tell who waits for it that no handler runs."""
        if self._quiet is not None and not self._running and not self._departing:
            self._quiet.set()

    def busy_with(self, tokens: Collection[bytes]) -> list[bytes]:
        """Return those that handlers run for, over or not, or whose replies are on their way."""
        running, departing = self._running, self._departing
        if not departing and running.keys().isdisjoint(tokens):
            return []
        return [token for token in tokens if token in running or token in departing]

    def regain(self, token: bytes) -> bool:
        """A delivery that we are busy with is ours again: the server had lost that it was.

        What runs goes on. A coroutine that was cancelled meanwhile hands it back at its end.

        Returns:
            Whether it ends by its handler; False: that has ended it already, by hand.
        """
        running = self._running.get(token)
        if running is None or token not in self._stopped:
            return running is None or self._answers
        if running[0] not in self._cancelled:
            del self._stopped[token]
        elif self._handler.is_async:
            self._stopped[token] = self._handed_back(token)
        return True

    def lost(self, tokens: Iterable[bytes]) -> None:
        """Take messages from their handlers that others own by now.

        A coroutine is cancelled when nothing is left to it. A thread cannot be: its delivery says
        so (``lease_lost``).
        """
        told: set[asyncio.Task[Any]] = set()
        for token in tokens:
            running = self._running.get(token)
            if running is None or token in self._stopped:
                continue
            task, delivery = running
            self._stopped[token] = None
            told.add(task)
            logger.warning(
                "%s: lost the lease of message %s while its handler ran",
                self._handler.queue.title,
                delivery.id,
            )
        if told and self._handler.is_async:
            busy = {task for token, (task, _) in self._running.items() if self._left(token)}
            self._cancel(told - busy)

    def cancelled(self, token: bytes) -> None:
        """Take a message from its handler that is over; stop it when nothing is left to it.

        A coroutine is cancelled. In a thread CancelledError is raised, at its next line of Python.
        """
        running = self._running.get(token)
        if running is None or token in self._stopped:
            return
        task = running[0]
        self._stopped[token] = None
        batch = [one for one, (busy, _) in self._running.items() if busy is task]
        if any(map(self._left, batch)):
            return
        if self._interrupt is None or not any(map(self._interrupt, batch)):
            self._cancel([task])

    async def quiet(self) -> None:
        """Wait until no handler runs. Call it when none will begin any more."""
        if self._running or self._departing:
            self._quiet = asyncio.Event()
            await self._quiet.wait()

    def cancel(self) -> None:
        """Cancel what runs, and hand its messages back.

        A thread goes on. Its messages are left to their leases, for a second copy must not run
        beside it; unless there will be none, for nobody gets them again.
        """
        for token in self._departing.take_back():
            if self.holder.unsettled(token):
                self.holder.end(self._handed_back(token))
        for token in self._running:
            if self._left(token):
                is_left = not (self._handler.is_async or self._handler.once)
                self._stopped[token] = None if is_left else self._handed_back(token)
        self._cancel({task for task, _ in self._running.values()})

    def _cancel(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        for task in tasks:
            if task not in self._cancelled:
                self._cancelled.add(task)
                task.cancel()
