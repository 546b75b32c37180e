# GENERATED from src/millstream/aio/mailbox.py by tools/unasync.py - do not edit
"""What comes back to a client: one mailbox, one sleeping read, a slot for each who waits."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Protocol

from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_background import BlockingBackground
from millstream.driver.blocking_letterbox import BlockingLetterbox
from millstream.driver.blocking_listener import BlockingListener
from millstream.driver.blocking_sender import BlockingSender
from millstream.errors import (
    BrokerError,
    NotConnected,
    ServerRefused,
    TimedOut,
    UsageError,
    one_more,
)
from millstream.protocol.mailbox import (
    ATTENDING,
    BEGINNING,
    ENTRIES_A_READ,
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
from millstream.sync.rounds import Rounds
from millstream.sync.unwanted import Unwanted

__all__ = ["Mailbox", "Recipient"]

logger = logging.getLogger("millstream.requests")

TICK = 1.0
"""Seconds after which to look whether anything else is to be done."""

ATTEND = 15.0
"""Seconds after which to show that the mailbox is read: a quarter of its life."""

TRIMMED_AFTER = 1000
"""Entries read after which to delete them."""

PAUSE = 0.2
"""Seconds until the next try, when the connection is lost."""

FOR_GOOD = frozenset({"NOPERM"})
"""Answers that do not pass by themselves: somebody has to give this user a right."""

LAST_MOMENT = 2.0
"""Seconds that the reader has to end when the client is closed, and what is to go out aside to leave."""


class Recipient(Protocol):
    """Who gets what comes to a slot."""

    def put(self, item: Item | Exception) -> None:
        """Get something, or hear that nothing will come any more. It does not wait."""
        ...


class Mailbox:
    """One for each client, made when it is needed first.

    Args:
        driver: of the client.
        namespace: first part of its key.
        on_stray: called with the slot of what nobody waits for.

    Attributes:
        client: name of the client, as others know it.
        rounds: looks after those who wait for long.
    """

    def __init__(
        self,
        driver: BlockingDriver,
        namespace: str,
        *,
        on_stray: Callable[[int], None],
    ) -> None:
        self._driver = driver
        self._namespace = namespace
        self._on_stray = on_stray
        self.client = uuid.uuid4().hex[:16]
        self.aside = driver.aside()
        """What sends that for which nobody waits, once the mailbox is open."""
        self.rounds = Rounds(driver)
        self._numbers = itertools.count(1)
        self._slots: dict[int, Recipient] = {}
        self._unwanted = Unwanted(driver, namespace)
        self.rounds.add(self._unwanted)
        self._opening = driver.lock()
        # Who waits for it to be made.
        self._openers: list[BlockingLetterbox[Any]] = []
        self._reader: BlockingBackground | None = None
        self._is_there = False
        # Whether it may be there: who was cancelled while making it does not know.
        self._made = False
        self._listener: BlockingListener | None = None
        self._closed = False
        # The last entry that was handed out, and the one behind which the sleeping read was begun. A round
        # reads, too; who comes second has read in vain.
        self._seen = self._read_behind = BEGINNING
        self._handing_out = threading.Lock()
        self._read = 0
        self._attending = driver.lock()
        self._attend_at = 0.0
        # Tries to read that have failed in a row.
        self._failures = 0
        self._sender: BlockingSender[bool] | None = None
        self._in_order: BlockingSender[bool] | None = None

    @property
    def sender(self) -> BlockingSender[bool]:
        """What puts mail (``Mail``) into the mailboxes of others."""
        # Not before: clients are made where no event loop runs, too.
        if self._sender is None:
            self._sender = self._driver.sender(delivering(self._namespace))
        return self._sender

    @property
    def in_order(self) -> BlockingSender[bool]:
        """What puts mail into the mailboxes of others one behind the other."""
        if self._in_order is None:
            self._in_order = self._driver.sender(delivering(self._namespace), in_order=True)
        return self._in_order

    def open(self, seconds: float = math.inf) -> None:
        """Make the mailbox and begin to read it, once. Who asks meanwhile shares the attempt and its outcome.

        Args:
            seconds: to wait for that. The attempt goes on, for others may have more time.

        Raises:
            BrokerError: it is not known to be there.
            UsageError: the client is closed, or at home elsewhere.
        """
        self._driver.check_home()
        box = self._driver.letterbox()
        with self._opening:
            if self._closed:
                message = "this client is closed"
                raise UsageError(message)
            if self.is_open:
                return
            self._openers.append(box)
            if self._reader is None or not self._reader.is_running:
                self._made = True
                self.aside.begin()
                self._reader = self._driver.background(self._begin, "millstream-mailbox")
        outcome = box.take(seconds)
        if outcome is None:
            message = f"the server has not made a mailbox for replies within {seconds:.1f} s"
            raise TimedOut(message)
        if isinstance(outcome, BaseException):
            raise one_more(outcome)

    @property
    def is_open(self) -> bool:
        """Whether it is read."""
        return self._is_there and self._reader is not None and self._reader.is_running

    def _begin(self) -> None:
        """Make the mailbox, tell those who wait for that, and read it."""
        try:
            if self._is_there:
                # Somebody has cancelled its reader, perhaps long ago.
                self.attend()
            else:
                self._seen = self._driver.run(make(self._namespace, self.client))
                self._attend_at = time.monotonic() + ATTEND
        except BaseException as error:
            self._opened(error if isinstance(error, Exception) else _closed())
            if not isinstance(error, Exception):
                raise
        else:
            self._opened(None)
            self._run()

    def _opened(self, error: Exception | None) -> None:
        """Tell those who wait whether it is there; who comes after a failure begins anew."""
        with self._opening:
            if error is None:
                self._is_there = True
            elif not self._closed:
                self._reader = None
            openers, self._openers = self._openers, []
        for box in openers:
            box.put(True if error is None else error)

    def slot(self) -> tuple[int, BlockingLetterbox[Any]]:
        """Return a number that others write to, and where that comes."""
        box = self._driver.letterbox()
        return self.attach(box), box

    def attach(self, recipient: Recipient) -> int:
        """Return a number that others write to; what comes goes to the recipient."""
        number = next(self._numbers)
        self._slots[number] = recipient
        if self._closed:
            recipient.put(_closed())
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

    def _run(self) -> None:
        """Read until closed. It outlives restarts of the server and lost connections."""
        try:
            while not self._closed:
                self.rounds.begin()
                try:
                    self._step()
                except BrokerError as error:
                    self._driver.sleep(self._failed(error))
                except Exception:
                    # A bug: whoever waits has a time limit, and others may have better luck.
                    logger.exception("cannot read replies")
                    self._driver.sleep(TICK)
                else:
                    if self._failures > 1:
                        logger.info("replies are read again")
                    self._failures = 0
        finally:
            if not self._closed:
                message = "the task that reads the replies of this client was cancelled"
                self.rounds.fail(NotConnected(message))
            if self._listener is not None:
                self._listener.close()

    def _failed(self, error: BrokerError) -> float:
        """Note that a try to read has failed; return seconds until the next one."""
        # A server that was restarted may have lost it.
        self._attend_at = 0.0
        self._failures += 1
        # A connection that was lost is there again with the next try, as a rule. Once is enough.
        level = logging.WARNING if self._failures == 2 else logging.DEBUG  # noqa: PLR2004 - see above
        logger.log(level, "cannot read replies: %s; trying again", error)
        if isinstance(error, ServerRefused) and error.code in FOR_GOOD:
            self.rounds.fail(error)
            return TICK
        return PAUSE

    def _step(self) -> None:
        if time.monotonic() >= self._attend_at or self._read >= TRIMMED_AFTER:
            self.attend()
        if self._listener is None:
            self._listener = self._driver.listener()
        elif self._listener.listening and self._read_behind != self._seen:
            # Its connection is dead, perhaps: a round was quicker. Or it is to be read from elsewhere.
            self._listener.close()
        if not self._listener.listening:
            self._read_behind = self._seen
        op = read(self._namespace, self.client, self._read_behind, BLOCK_MS)
        self._listener.tell(op, TICK, self._hear)

    def _hear(self, found: tuple[str, list[Any]]) -> None:
        self._hand_out(self._read_behind, found)

    def _hand_out(self, behind: str, found: tuple[str, list[Any]]) -> bool:
        """Give each what is for it, unless another read has brought that; tell which.

        Args:
            behind: which entry it was read.
            found: by a read.
        """
        seen, mails = found
        with self._handing_out:
            if behind != self._seen:
                return False
            self._seen = seen
            self._read += len(mails)
            for number, item in mails:
                box = self._slots.get(number)
                if box is not None:
                    box.put(item)
                elif item.sender and item.kind != "note":
                    # Its producer has begun late, or has not heard that the caller left.
                    self._unwanted.add(item.sender)
                elif item.kind != "note":
                    self._on_stray(number)
        return True

    def catch_up(self) -> None:
        """Hand out all that is there; for a round.

        The connection of the sleeping read may be dead without anybody knowing.

        Raises:
            BrokerError: there may be more.
        """
        is_all = False
        while not is_all:
            behind = self._seen
            found = self._driver.run(read(self._namespace, self.client, behind, None))
            is_all = self._hand_out(behind, found) and len(found[1]) < ENTRIES_A_READ

    def attend(self) -> None:
        """Show that the mailbox is read, and make it again if it is lost."""
        with self._attending:
            standing = self._driver.run(attend(self._namespace, self.client, self._seen))
            self._attend_at, self._read = time.monotonic() + ATTEND, 0
            if standing == "older":
                # A replica has taken over, and its clock may be behind: new entries may have ids that this
                # client is past. What it hands out twice does no harm.
                self._go_on_behind(BEGINNING)
            elif standing == "gone" and not self._closed:
                # It has expired, or the server has lost it, and what was in it. What comes now is for it.
                logger.warning("the mailbox of this client was lost, and perhaps replies with it")
                made = make(self._namespace, self.client, ATTENDING)
                self._go_on_behind(self._driver.run(made))

    def _go_on_behind(self, entry: str) -> None:
        with self._handing_out:
            self._seen = entry

    def end(self) -> None:
        """Tell all who wait for something that the client is closed. Safe to repeat."""
        self._closed = True
        self._opened(_closed())
        for recipient in list(self._slots.values()):
            recipient.put(_closed())

    def close(self) -> None:
        """Read no more. Safe to repeat."""
        self.end()
        self.aside.close(LAST_MOMENT)
        for sender in (self._sender, self._in_order):
            if sender is not None:
                sender.close()
        reader, self._reader = self._reader, None
        made, self._made = self._made, False
        try:
            if reader is not None:
                # A reader that is about to sleep would miss a CLIENT UNBLOCK.
                self._driver.run(nudge(self._namespace, self.client))
                reader.join(LAST_MOMENT)
            self.rounds.close()
            if made:
                self._driver.run(discard(self._namespace, self.client))
        except (BrokerError, UsageError) as error:
            # It expires by itself; who closes at the same time may have been quicker.
            logger.debug("cannot close the mailbox: %s", error)
            if reader is not None:
                reader.join(LAST_MOMENT)
            self.rounds.close()


def _closed() -> NotConnected:
    return NotConnected("the client was closed meanwhile")
