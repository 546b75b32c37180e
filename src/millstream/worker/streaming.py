"""A stream of replies at its worker: parts leave as the generator yields them, with room for them only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from millstream.aio.mailbox import Mailbox
from millstream.endpoint import Endpoint
from millstream.errors import BrokerError, UsageError
from millstream.protocol.mailbox import Item, Mail
from millstream.protocol.requests import Address
from millstream.protocol.stream import Sending, count_in

__all__ = ["Stream", "open_stream"]

logger = logging.getLogger("millstream.worker")

ASK_AFTER, ASK_SELDOM = 2.0, 30.0
"""Seconds without a sign of the consumer after which to ask whether it is there; twice as many each
time, up to the second number."""


async def open_stream(
    endpoint: Endpoint[Any, Any], address: Address | None, mailbox: Mailbox
) -> Stream:
    """Begin a stream.

    Args:
        endpoint: that was asked.
        address: of its caller; None: nobody waits.
        mailbox: of the worker's client, where its caller answers.

    Raises:
        UsageError: the caller wants one reply.
        BrokerError: nothing would come from the caller.
    """
    if address is not None and not address.window:
        message = f"{endpoint.title} streams its replies: ask it by request_stream, not by request"
        raise UsageError(message)
    if address is not None and not mailbox.is_open:
        await mailbox.open()
    return Stream(endpoint, address, mailbox)


class Stream:
    """What a generator yields, on its way to one caller. ``finish``, ``stop`` or ``close`` it.

    Args:
        endpoint: that was asked.
        address: of the caller; None: nobody waits, and parts are dropped.
        mailbox: of the worker's client.

    Attributes:
        left: whether nobody takes parts any more.
        on_leave: called when that comes to be while the generator is at work; None: it ends by
            itself soon.
    """

    def __init__(
        self, endpoint: Endpoint[Any, Any], address: Address | None, mailbox: Mailbox
    ) -> None:
        self._endpoint = endpoint
        self._address = address
        self._mailbox = mailbox
        # Whether the generator is to come to its end, though nobody takes its parts.
        self._to_the_end = address is None or endpoint.must_finish
        self._sending = Sending(address.window if address else 1)
        self._slot = mailbox.attach(self)
        self._own = f"{mailbox.client} {self._slot}"
        # The number of the last part that was sent. A thread may have numbered more.
        self._last = 0
        self._error: BaseException | None = None
        self._over = False
        self._waiting = False
        self._told = asyncio.Event()
        self.left = address is None
        self.on_leave: Callable[[], object] | None = None

    def put(self, item: Item | Exception) -> None:
        """Hear what the consumer says, or that it will not be heard any more."""
        if isinstance(item, Exception):
            self._leave()
        elif item.kind == "taken":
            self._sending.taken(count_in(item.content))
            self._told.set()
        elif item.kind == "cancel":
            self._leave()

    def _leave(self) -> None:
        """Nobody takes parts any more."""
        if self.left:
            return
        logger.debug("%s: a caller has left its stream", self._endpoint.title)
        self.left = True
        self._told.set()
        if self.on_leave is not None and not self._waiting and not self._to_the_end:
            self.on_leave()

    async def part(self, value: Any) -> bool:
        """Send a part, and wait until there is room for another; False: there must be none.

        Raises:
            UsageError: it has the wrong type or is too large.
            BrokerError: parts are lost.
        """
        self.send(*self.numbered(value))
        return self.has_room or await self.room()

    def numbered(self, value: Any) -> tuple[bytes, int]:
        """Return a part as it leaves, and its number; in any thread, but only in one.

        Raises:
            UsageError: it has the wrong type or is too large.
        """
        return self._endpoint.encode_reply(value), self._sending.part()

    def send(self, content: bytes, number: int) -> None:
        """Send a part behind those before it; it does not wait for that."""
        if not self.left and not self._over:
            self._last = number
            self._post("part", content, number).add_done_callback(self._posted)

    @property
    def has_room(self) -> bool:
        """Whether the generator may go on; else ask ``room``. In any thread."""
        return self._sending.has_room and not self._is_off

    @property
    def _is_off(self) -> bool:
        """Whether it makes no sense to wait for room."""
        return self.left or self._over or self._error is not None

    async def room(self) -> bool:
        """Wait until there is room for another part; False: there must be none.

        Raises:
            BrokerError: parts are lost.
        """
        if self.left:
            # A generator that does not wait for anything must not hold up the others.
            await asyncio.sleep(0)
        await self._wait()
        if self._error is not None:
            raise self._error
        return not self._over and (self._to_the_end or not self.left)

    async def _wait(self) -> None:
        """Wait for room, or for a reason to wait no longer."""
        self._waiting, seconds = True, ASK_AFTER
        try:
            while not self.has_room and not self._is_off:
                self._told.clear()
                try:
                    async with asyncio.timeout(seconds):
                        await self._told.wait()
                except TimeoutError:
                    # Perhaps it is gone; or what it has said is lost, and it says it again; or it
                    # sees by the number that a part is.
                    with contextlib.suppress(BrokerError):
                        if not await self._post("waiting", b"", self._last + 1):
                            self._leave()
                    seconds = min(2 * seconds, ASK_SELDOM)
        finally:
            self._waiting = False

    def _post(self, kind: str, content: bytes, number: int) -> asyncio.Future[bool]:
        """Send something behind all that was sent; the result is whether the caller is there."""
        address = self._address
        assert address is not None  # noqa: S101 - nothing is sent to nobody
        mail = Mail(address.client, address.slot, kind, content, number, self._own)
        return self._mailbox.in_order.send(mail)

    def _posted(self, posted: asyncio.Future[bool]) -> None:
        if posted.cancelled():
            return
        if error := posted.exception():
            self._error = error
            self._told.set()
        elif not posted.result():
            self._leave()

    async def finish(self, kind: str, content: bytes) -> bool:
        """Send what ends the stream; False: the caller is gone."""
        if self._over:
            return True
        self.close()
        return self.left or await self._post(kind, content, self._last + 1)

    async def stop(self, *, tell: bool) -> None:
        """The handler is stopped, and there will be no more parts.

        Args:
            tell: whether it is the worker that stops: the caller is told, unless it has nothing yet
                and another worker may begin.
        """
        if self._over:
            return
        self.close()
        if tell and not self.left and (self._last or not self._endpoint.idempotent):
            with contextlib.suppress(BrokerError):
                await self._post("lost", b"stopped", self._last + 1)

    def close(self) -> None:
        """Send nothing more, and hear nothing. Safe to repeat."""
        self._over = True
        self._told.set()
        self._mailbox.close_slot(self._slot)
