"""What handlers leave behind, on its way: a reply. Its delivery ends when that has arrived."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple

from millstream.protocol.envelope import Envelope

__all__ = ["Again", "Departing", "Departure"]

Again = Callable[[], Coroutine[Any, Any, None]]
"""Sends it again, and again."""


class Departure(NamedTuple):
    """What the handler of one delivery has left behind.

    Attributes:
        arrived: whether it has; False: there is no mailbox any more. Or why it could not be sent.
        again: sends it again and sees to what follows, unless it has arrived.
    """

    arrived: asyncio.Future[bool]
    again: Again


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

    def add(self, envelope: Envelope, departure: Departure) -> None:
        """See to it that something arrives."""
        self._departures[envelope.token] = departure
        departure.arrived.add_done_callback(partial(self._ended, envelope))

    def _ended(self, envelope: Envelope, arrived: asyncio.Future[bool]) -> None:
        departure = self._departures.pop(envelope.token, None)
        if departure is None:
            return  # it was taken back meanwhile
        if not arrived.cancelled() and arrived.exception() is None and arrived.result():
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
