"""A stream of replies at its caller: parts are taken one by one, and their producer hears of it."""

from __future__ import annotations

import contextlib
import time

from millstream.aio.pending import Pending, lost
from millstream.aio.requests import Requests
from millstream.errors import UsageError
from millstream.protocol.mailbox import Item
from millstream.protocol.remote import read_error
from millstream.protocol.stream import Arrival, Receiving

__all__ = ["Stream"]

OF_A_STREAM = frozenset(("part", "end", "error", "lost", "waiting"))
ALONE = frozenset(("reply", "error"))
"""What a handler sends that does not stream: it says no sender."""


class Stream:
    """What comes of one request. ``leave`` it in the end.

    Args:
        requests: of the client.
        pending: the request.
        seconds: the longest wait for a part.
    """

    def __init__(self, requests: Requests, pending: Pending, seconds: float) -> None:
        self._requests = requests
        self._pending = pending
        self._seconds = seconds
        self._receiving = Receiving(pending.window)
        self._over = False

    async def next(self) -> bytes | None:
        """Wait for the next part; None: that was all.

        Raises:
            TimedOut: none has come in time.
            ResponderLost: there will be no more, or not all of them.
            Exception: what the handler raised after the parts that came.
        """
        if self._over:
            return None
        pending, receiving = self._pending, self._receiving
        deadline = pending.deadline
        if receiving.taken:
            pending.since = time.monotonic()
            deadline = pending.since + self._seconds
        while True:
            item = await self._requests.take(pending, deadline)
            if item is None:
                stop = not receiving.sender and not pending.endpoint.must_finish
                raise await self._requests.timed_out(pending, stop=stop)
            if isinstance(item, BaseException):
                self._end()
                raise item
            if item.kind not in (OF_A_STREAM if item.sender else ALONE):
                continue
            arrival = receiving.arrive(item.number, item.sender)
            if arrival is Arrival.NEXT and item.kind == "waiting":
                self._tell()
            elif arrival is Arrival.NEXT:
                return self._take(item)
            elif arrival is not Arrival.REPEATED:
                # Whoever it is that sends now: nobody takes it.
                self._requests.mailbox.tell(item.sender, "cancel")
                raise lost(pending, "crashed" if arrival is Arrival.RESTARTED else "unknown")

    def _take(self, item: Item) -> bytes | None:
        pending = self._pending
        if item.kind == "part":
            if self._receiving.take():
                self._tell()
            return item.content
        self._end()
        if item.kind == "reply":
            return item.content
        if item.kind == "error":
            endpoint = pending.endpoint
            raise read_error(item.content, endpoint.errors, endpoint=endpoint.name, id=pending.id)
        if item.kind == "lost":
            raise lost(pending, item.content.decode("ascii", "replace"))
        return None

    def _tell(self) -> None:
        """Tell the producer how much was taken. Should that be lost, it asks."""
        count = str(self._receiving.told()).encode()
        self._requests.mailbox.tell(self._receiving.sender, "taken", count)

    def _end(self) -> None:
        self._over = True
        self._requests.answered(self._pending)

    def leave(self) -> None:
        """Take no more: the generator is closed, unless it is at its end or must finish. Safe to repeat."""
        if self._over:
            return
        self._over = True
        # A client that was closed has no mailbox any more, which says the same.
        with contextlib.suppress(UsageError):
            if sender := self._receiving.sender:
                self._requests.answered(self._pending)
                self._requests.mailbox.tell(sender, "cancel")
            else:
                # Whether anybody has begun with it is not known.
                self._requests.give_up(self._pending)
        self._requests.release(self._pending)
