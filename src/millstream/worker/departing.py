"""What handlers leave behind, on its way: a reply. Its delivery ends when that has arrived."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from millstream.protocol.envelope import Envelope

__all__ = ["Again", "Departing", "Departure"]

Again = Callable[[], Coroutine[Any, Any, None]]
"""Sends it again, and again."""


class Departure:
    """What the handler of one delivery has left behind.

    No future: its end would be known a turn of the event loop later, and there is one for each request.

    Args:
        again: sends it again and sees to what follows, unless it has arrived.
    """

    __slots__ = ("_on_end", "_outcome", "again")

    def __init__(self, again: Again) -> None:
        self.again = again
        self._outcome: bool | BaseException | None = None
        self._on_end: Callable[[bool], None] | None = None

    def end(self, outcome: bool | BaseException) -> None:  # noqa: FBT001 - a callback, given to a sender
        """Hear whether it has arrived; False: there is no mailbox any more. Or why it could not be sent."""
        self._outcome = outcome
        if self._on_end is not None:
            self._on_end(outcome is True)

    def then(self, on_end: Callable[[bool], None]) -> None:
        """Have a function called with whether it has arrived, at once if that is known."""
        self._on_end = on_end
        if self._outcome is not None:
            on_end(self._outcome is True)

    async def has_arrived(self) -> bool:
        """Wait until that is known."""
        known: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.then(lambda arrived: None if known.done() else known.set_result(arrived))
        return await known


class Departing:
    """What the handlers of one queue have left behind that has not arrived. No slot waits for it.

    Args:
        on_arrival: called with the delivery that ends now.
        insist: handles a delivery by another call, for what could not be sent.
    """

    def __init__(
        self,
        on_arrival: Callable[[Envelope], None],
        insist: Callable[[Envelope, asyncio.Task[Any], Again], Awaitable[None]],
    ) -> None:
        self._on_arrival = on_arrival
        self._insist = insist
        self._departures: dict[bytes, Departure] = {}
        # Those that have not begun: what they begin with is the business of ``insist``.
        self._insisting: dict[asyncio.Task[None], bytes] = {}

    def __len__(self) -> int:
        """Return how many deliveries wait for it, but for those that ``insist`` has begun with."""
        return len(self._departures) + len(self._insisting)

    def __contains__(self, token: bytes) -> bool:
        """Tell whether a delivery is one of these."""
        return token in self._departures or token in self._insisting.values()

    def add(self, envelope: Envelope, departure: Departure) -> None:
        """See to it that something arrives."""
        self._departures[envelope.token] = departure
        departure.then(partial(self._ended, envelope))

    def _ended(self, envelope: Envelope, arrived: bool) -> None:  # noqa: FBT001 - a callback, given to ``then``
        departure = self._departures.pop(envelope.token, None)
        if departure is None:
            return  # it was taken back meanwhile
        if arrived:
            self._on_arrival(envelope)
            return
        insisting = asyncio.ensure_future(self._send_again(envelope, departure.again))
        self._insisting[insisting] = envelope.token

    async def _send_again(self, envelope: Envelope, again: Again) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it is one
        del self._insisting[task]
        await self._insist(envelope, task, again)

    def take_back(self) -> list[bytes]:
        """Wait for nothing of it any more, and return the deliveries that have waited."""
        tokens = [*self._departures, *self._insisting.values()]
        for insisting in self._insisting:
            insisting.cancel()
        self._departures.clear()
        self._insisting.clear()
        return tokens
