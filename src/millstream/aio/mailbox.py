"""What comes back to a client: one mailbox, one sleeping read, a slot for each who waits."""

from __future__ import annotations

import itertools
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from millstream.driver.aio import AsyncDriver
from millstream.driver.aio_background import AsyncBackground
from millstream.driver.aio_letterbox import AsyncLetterbox
from millstream.driver.aio_listener import AsyncListener
from millstream.driver.aio_sender import AsyncSender
from millstream.errors import BrokerError, UsageError
from millstream.protocol.mailbox import (
    Item,
    attend,
    delivering,
    discard,
    mail_to,
    make,
    nudge,
    read,
)
from millstream.protocol.reading import BLOCK_MS

__all__ = ["TICK", "Mailbox", "Recipient"]

logger = logging.getLogger("millstream.requests")

TICK = 1.0
"""Seconds after which to see to what is overdue."""

ATTEND = 15.0
"""Seconds after which to show that the mailbox is read: a quarter of its life."""

TRIMMED_AFTER = 1000
"""Entries read after which to delete them."""

PAUSE = 0.2
"""Seconds until the next try, when the connection is lost."""

LAST_MOMENT = 2.0
"""Seconds that the reader has to end when the client is closed, and what is to go out aside to leave."""


class Recipient(Protocol):
    """Who gets what comes to a slot."""

    def put(self, item: Item) -> None:
        """Get something. It does not wait."""
        ...


class Mailbox:
    """One for each client, made when it is needed first.

    Args:
        driver: of the client.
        namespace: first part of its key.
        on_tick: called each second, to see to those who wait for long (see ``each_second``, too).
        on_stray: called with the slot of what nobody waits for.
    """

    def __init__(
        self,
        driver: AsyncDriver,
        namespace: str,
        *,
        on_tick: Callable[[], Awaitable[None]],
        on_stray: Callable[[int], None],
    ) -> None:
        self._driver = driver
        self._namespace = namespace
        self._ticks = [on_tick]
        self._on_stray = on_stray
        self.client = uuid.uuid4().hex[:16]
        self.aside = driver.aside()
        """What sends that for which nobody waits, once the mailbox is open."""
        self._numbers = itertools.count(1)
        self._slots: dict[int, Recipient] = {}
        # Producers of streams that nobody takes.
        self._unwanted: set[str] = set()
        self._opening = driver.lock()
        self._reader: AsyncBackground | None = None
        # Whether it may be there: who was cancelled while making it does not know.
        self._made = False
        self._listener: AsyncListener | None = None
        self._closed = False
        self._seen = "0-0"
        self._read = 0
        self._attend_at = self._tick_at = 0.0
        self._sender: AsyncSender[bool] | None = None
        self._in_order: AsyncSender[bool] | None = None

    @property
    def sender(self) -> AsyncSender[bool]:
        """What puts mail (``Mail``) into the mailboxes of others."""
        # Not before: clients are made where no event loop runs, too.
        if self._sender is None:
            self._sender = self._driver.sender(delivering(self._namespace))
        return self._sender

    @property
    def in_order(self) -> AsyncSender[bool]:
        """What puts mail into the mailboxes of others one behind the other."""
        if self._in_order is None:
            self._in_order = self._driver.sender(delivering(self._namespace), in_order=True)
        return self._in_order

    async def open(self, seconds: float | None = None) -> None:
        """Make the mailbox and begin to read it, once.

        Args:
            seconds: that it may take; None: the client's timeout.

        Raises:
            BrokerError: it is not known to be there.
            UsageError: the client is closed, or at home elsewhere.
        """
        self._driver.check_home()
        async with self._opening:
            if self._closed:
                message = "this client is closed"
                raise UsageError(message)
            if self._reader is None:
                self._made = True
                self._seen = await self._driver.run(make(self._namespace, self.client, seconds))
                self._attend_at = time.monotonic() + ATTEND
                self.aside.begin()
                self._reader = self._driver.background(self._run, "millstream-mailbox")

    @property
    def is_open(self) -> bool:
        """Whether it is read."""
        return self._reader is not None

    def each_second(self, on_tick: Callable[[], Awaitable[None]]) -> None:
        """Call this, too, each second that the mailbox is read."""
        self._ticks.append(on_tick)

    def slot(self) -> tuple[int, AsyncLetterbox[Any]]:
        """Return a number that others write to, and where that comes."""
        box = self._driver.letterbox()
        return self.attach(box), box

    def attach(self, recipient: Recipient) -> int:
        """Return a number that others write to; what comes goes to the recipient."""
        number = next(self._numbers)
        self._slots[number] = recipient
        return number

    def close_slot(self, number: int) -> None:
        """Wait for nothing there any more. Safe to repeat."""
        self._slots.pop(number, None)

    def tell(self, sender: str, kind: str, content: bytes = b"") -> None:
        """Tell the other side of a stream something; do not wait for that, nor make sure of it.

        Args:
            sender: as it stands in an item; empty: it has not said what it is called.
            kind: of what it is; see ``protocol.mailbox.Mail``.
            content: depends on the kind.
        """
        mail = mail_to(sender, kind, content)
        if mail is not None:
            self.aside.send(self.sender, mail)

    async def _run(self) -> None:
        """Read until closed. It outlives restarts of the server and lost connections."""
        try:
            while not self._closed:
                try:
                    await self._step()
                except BrokerError as error:
                    logger.debug("cannot read replies: %s", error)
                    # A server that was restarted may have lost it.
                    self._attend_at = 0.0
                    await self._driver.sleep(PAUSE)
                except Exception:
                    # A bug: whoever waits has a time limit, and others may have better luck.
                    logger.exception("cannot read replies")
                    await self._driver.sleep(TICK)
        finally:
            if self._listener is not None:
                await self._listener.close()

    async def _step(self) -> None:
        now = time.monotonic()
        if now >= self._attend_at or self._read >= TRIMMED_AFTER:
            await self.attend()
        if self._listener is None:
            self._listener = await self._driver.listener()
        op = read(self._namespace, self.client, self._seen, BLOCK_MS)
        await self._listener.tell(op, TICK, self._hand_out)
        if time.monotonic() >= self._tick_at:
            while self._unwanted:
                self.tell(self._unwanted.pop(), "cancel")
            for tick in self._ticks:
                await tick()
            self._tick_at = time.monotonic() + TICK

    def _hand_out(self, found: tuple[str, list[Any]]) -> None:
        self._seen, mails = found
        self._read += len(mails)
        for number, item in mails:
            box = self._slots.get(number)
            if box is not None:
                box.put(item)
            elif item.sender:
                # Its producer has begun late, or has not heard that the caller left.
                self._unwanted.add(item.sender)
            elif item.kind != "note":
                self._on_stray(number)

    async def catch_up(self) -> None:
        """Take what is there; for the reader.

        The connection of its sleeping read may be dead without anybody knowing.
        """
        found = await self._driver.run(read(self._namespace, self.client, self._seen, None))
        if found[1]:
            if self._listener is not None:
                # It would bring the same.
                await self._listener.close()
            self._hand_out(found)

    async def attend(self) -> None:
        """Show that the mailbox is read, and make it again if it is lost; for the reader."""
        self._attend_at, self._read = time.monotonic() + ATTEND, 0
        if not await self._driver.run(attend(self._namespace, self.client, self._seen)):
            # It has expired, or the server has lost it, and what was in it. What comes now is for it.
            logger.warning("the mailbox of this client was lost, and perhaps replies with it")
            self._seen = await self._driver.run(make(self._namespace, self.client))

    async def aclose(self) -> None:
        """Read no more. Safe to repeat."""
        self._closed = True
        await self.aside.close(LAST_MOMENT)
        for sender in (self._sender, self._in_order):
            if sender is not None:
                await sender.close()
        reader, self._reader = self._reader, None
        made, self._made = self._made, False
        try:
            if reader is not None:
                # A reader that is about to sleep would miss a CLIENT UNBLOCK.
                await self._driver.run(nudge(self._namespace, self.client))
                await reader.join(LAST_MOMENT)
            if made:
                await self._driver.run(discard(self._namespace, self.client))
        except (BrokerError, UsageError) as error:
            # It expires by itself; who closes at the same time may have been quicker.
            logger.debug("cannot close the mailbox: %s", error)
            if reader is not None:
                await reader.join(LAST_MOMENT)
