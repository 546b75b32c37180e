"""Requests that a client has sent, from the send to the reply."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from millstream.aio.inquiries import Inquiries
from millstream.aio.mailbox import Mailbox
from millstream.aio.notes import Notes
from millstream.aio.pending import Pending, closed, overdue
from millstream.aio.ways import Ways, forget_first
from millstream.codec import NotDecodable
from millstream.driver.aio import AsyncDriver
from millstream.endpoint import Endpoint
from millstream.errors import (
    BrokerError,
    NoResponders,
    TimedOut,
    Undecodable,
    UsageError,
    one_more,
)
from millstream.message import Receipt
from millstream.protocol.keys import QueueKeys
from millstream.protocol.mailbox import Item
from millstream.protocol.remote import read_error
from millstream.protocol.requests import (
    WITHDRAWING,
    Address,
    How,
    Outgoing,
    Withdrawal,
    count_late,
)
from millstream.text import text_of

__all__ = ["AGAIN_AFTER", "STALLED", "Requests", "decoded"]

logger = logging.getLogger("millstream.requests")

SLOW = 0.1
"""Seconds that a send may take for the server's deadline to be as good as the caller's."""

SENT_WITHIN = 0.2
"""Seconds past its deadline in which a request is told why it could not be sent."""

REMEMBERED = 10_000
"""Requests that were given up, to know whose reply comes too late."""

STALLED = 1.5
"""Seconds that a send may take until workers that live may count as gone: their signs of life waited, too."""

RECENTLY = 3.0
"""Seconds since then in which not to believe at once that nobody serves an endpoint."""

AGAIN_AFTER = 1.5
"""Seconds until it is asked once more then: workers show that they live as often."""


class Requests:
    """Sends requests and hands each its reply; all share one mailbox.

    Args:
        driver: of the client.
        namespace: first part of all keys.
    """

    def __init__(self, driver: AsyncDriver, namespace: str) -> None:
        self._driver = driver
        self._namespace = namespace
        self._ways = Ways(driver, namespace)
        self._pending: dict[int, Pending] = {}
        # Those that were given up, the oldest first, and where late replies are not yet counted.
        self._given_up: dict[int, QueueKeys] = {}
        self._late: deque[QueueKeys] = deque()
        # When a send has taken long last.
        self._stalled_at = -math.inf
        self._closed = False
        self.mailbox = Mailbox(driver, namespace, on_stray=self._stray)
        self.mailbox.rounds.add(self)
        self._inquiries = Inquiries(driver, self.mailbox)

    async def send(
        self,
        endpoint: Endpoint[Any, Any],
        body: bytes,
        headers: bytes,
        *,
        timeout_ms: int,
        progress: bool = False,
        window: int = 0,
    ) -> Pending:
        """Send a request, and do not wait for that: its reply, or why there will be none, comes into
        the box of the result. ``release`` it in the end.

        Args:
            endpoint: to ask.
            body: encoded.
            headers: encoded, or empty.
            timeout_ms: until its deadline.
            progress: whether notes of progress are wanted.
            window: how many parts of a stream may be on their way; 0: one reply is wanted.

        Raises:
            BrokerError: there is no mailbox for its reply.
            UsageError: the client is closed.
        """
        since, left_ms = time.monotonic(), timeout_ms
        if not self.mailbox.is_open:
            await self.mailbox.open(timeout_ms / 1000)
            left_ms -= int(1000 * (time.monotonic() - since))
        way = self._ways.to(endpoint.name)
        box = self._driver.letterbox()
        notes = Notes(box) if progress else None
        slot = self.mailbox.attach(box if notes is None else notes)
        pending = Pending(endpoint, way.keys, slot, box, timeout_ms, window, since)
        pending.notes = notes
        address = str(Address(self.mailbox.client, slot, progress, window))
        self._pending[slot] = pending
        if self._closed:
            # Whoever closes says so first, and then tells those who are there.
            self.answered(pending)
            message = "this client is closed"
            raise UsageError(message)
        self._post(pending, Outgoing(body, headers, max(1, left_ms), address))
        return pending

    def _post(self, pending: Pending, outgoing: Outgoing, *, again: bool = False) -> None:
        sent = partial(self._sent, pending, None if again else outgoing)
        requests = self._ways.to(pending.endpoint.name).requests
        try:
            requests.post(outgoing, b"", sent, seconds=outgoing.left_ms / 1000)
        except BaseException:
            # It may be on its way all the same.
            self.release(pending)
            raise

    def _sent(
        self, pending: Pending, outgoing: Outgoing | None, outcome: Receipt | BaseException
    ) -> None:
        """Hear whether the server has a request, which may be sent once more unless that is None."""
        now = time.monotonic()
        if outgoing is not None and now - pending.since > STALLED:
            self._stalled_at = now
        if isinstance(outcome, Receipt):
            pending.id = outcome.id
            pending.slow = now - pending.since > SLOW
            if pending.given_up is not None:
                self._withdraw(pending, pending.given_up)
            if pending.unnamed:
                pending.box.put(Item("receipt", b""))
            return
        if not isinstance(outcome, NoResponders):
            # It may be on its way all the same.
            self.release(pending)
        elif outgoing is not None and now - self._stalled_at < RECENTLY:
            pending.doubted = outgoing
        else:
            self.answered(pending)
        pending.box.put(outcome)

    def release(self, pending: Pending) -> None:
        """Wait for nothing of it any more. Safe to repeat."""
        self.mailbox.close_slot(pending.slot)
        if self._pending.pop(pending.slot, None) is not None:
            self._given_up[pending.slot] = pending.keys
            if len(self._given_up) > REMEMBERED:
                forget_first(self._given_up)

    def answered(self, pending: Pending) -> None:
        """All of it has come."""
        self._pending.pop(pending.slot, None)
        self.mailbox.close_slot(pending.slot)

    async def reply(self, pending: Pending, on_progress: Callable[[Any], object] | None) -> Any:
        """Wait for the one reply to a request, and pass on the notes that come before it.

        Raises:
            TimedOut: the deadline has passed.
            Exception: what came instead of a reply, or what the callback raised.
        """
        try:
            while True:
                item = await self.next(pending, pending.deadline)
                if item.kind == "reply":
                    self.answered(pending)
                    return decoded(pending, item.content)
                if pending.notes is not None and on_progress is not None:
                    await self._pass_on(pending, pending.notes, on_progress)
        finally:
            # Unless it is over already: what the callback raised, or a cancellation.
            self.give_up(pending)

    async def _pass_on(
        self, pending: Pending, notes: Notes, on_progress: Callable[[Any], object]
    ) -> None:
        """Tell a callback the notes that wait, until the deadline: it must not put off the end."""
        for content in notes.take():
            if time.monotonic() >= pending.deadline:
                return
            try:
                note = msgspec.json.decode(content)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                logger.warning("a note of request %s is unreadable: %s", pending.id, error)
                continue
            await self._driver.tell(on_progress, note)

    async def next(self, pending: Pending, deadline: float) -> Item:
        """Wait for whatever comes of a request next.

        Args:
            pending: the request.
            deadline: until when, of ``time.monotonic``.

        Raises:
            TimedOut: nothing has come.
            Exception: the handler's, or that nobody will answer.
        """
        item = await self.take(pending, deadline)
        if item is None:
            raise await self.timed_out(pending)
        if isinstance(item, BaseException):
            self.answered(pending)
            raise item
        if item.kind == "error":
            self.answered(pending)
            await self._named(pending)
            name, known = pending.endpoint.name, pending.endpoint.errors
            raise read_error(item.content, known, endpoint=name, id=pending.id)
        found: Item = item
        return found

    async def _named(self, pending: Pending) -> None:
        """Wait a moment for the id of a request whose answer was quicker than its receipt."""
        if not pending.id:
            pending.unnamed = True
            await pending.box.take(SENT_WITHIN)

    async def take(self, pending: Pending, deadline: float) -> Item | BaseException | None:
        """Take what has come of a request; None: nothing has until then, of ``time.monotonic``."""
        item = await pending.box.take(deadline - time.monotonic())
        if item is None and not pending.id:
            # Why it could not be sent says more than that its time is over.
            item = await pending.box.take(SENT_WITHIN)
        if isinstance(item, NoResponders) and pending.doubted is not None:
            return await self._once_more(pending, pending.doubted, item)
        found: Item | BaseException | None = item
        return found

    async def _once_more(
        self, pending: Pending, outgoing: Outgoing, error: NoResponders
    ) -> Item | BaseException | None:
        """Ask again whether anybody serves an endpoint: the server stood still, and they may live."""
        pending.doubted = None
        left = pending.deadline - time.monotonic() - AGAIN_AFTER
        if left <= 0:
            return error
        # Nothing comes, unless the client is closed.
        item: Item | BaseException | None = await pending.box.take(AGAIN_AFTER)
        if item is not None:
            return item
        self._post(pending, replace(outgoing, left_ms=max(1, int(1000 * left))), again=True)
        return await self.take(pending, pending.deadline)

    def give_up(self, pending: Pending) -> None:
        """Have nobody work on a request any more, unless it must be finished; do not wait for that."""
        if pending.slot in self._pending:
            self.release(pending)
            self._withdraw(pending, "leave" if pending.endpoint.must_finish else "stop")

    def _withdraw(self, pending: Pending, how: How) -> None:
        if not pending.id:
            # As soon as it has one.
            pending.given_up = how
            return
        # Whoever gives up has other worries. At its deadline it is over in any case.
        withdrawals = self._ways.to(pending.endpoint.name).withdrawals
        self.mailbox.aside.send(withdrawals, Withdrawal(pending.id, how))

    async def timed_out(self, pending: Pending, *, stop: bool = False) -> TimedOut:
        """Tell what is known of a request whose time is over; if it waits still, it is deleted.

        Args:
            pending: the request.
            stop: whether a handler that runs is to be stopped. Of one reply its worker knows the
                deadline, too, and does so by itself.
        """
        found: int | None = None
        # What comes from now on is late.
        self.release(pending)
        how: How = "expire"
        if (stop or pending.slow) and not pending.endpoint.must_finish:
            how = "stop"
        if not pending.id:
            self._withdraw(pending, how)
        else:
            with contextlib.suppress(BrokerError):
                withdrawals = self._ways.to(pending.endpoint.name).withdrawals
                found = await withdrawals.send(Withdrawal(pending.id, how), seconds=WITHDRAWING)
        return overdue(pending, found, time.monotonic())

    def _stray(self, slot: int) -> None:
        """Something came for a request that nobody waits for any more."""
        keys = self._given_up.pop(slot, None)
        if keys is not None:
            self._late.append(keys)

    async def count_late(self, keys: QueueKeys, count: int = 1) -> None:
        """Count replies that nobody waited for any more."""
        with contextlib.suppress(BrokerError):
            await self._driver.run(count_late(keys, count))

    # What ``Rounds`` looks after

    @property
    def is_waiting(self) -> bool:
        """Whether anybody waits for a reply, or one was late."""
        return bool(self._pending or self._late)

    async def look_after(self) -> None:
        """Ask after requests that have waited for long, and count late replies."""
        now = time.monotonic()
        waiting: dict[str, list[Pending]] = {}
        for pending in list(self._pending.values()):
            if pending.is_asked_after(now):
                waiting.setdefault(pending.endpoint.name, []).append(pending)
        if waiting:
            # Nothing would come, were it lost.
            with contextlib.suppress(BrokerError):
                await self.mailbox.attend()
            withdrawals = {name: self._ways.to(name).withdrawals for name in waiting}
            await self._inquiries.ask(waiting, withdrawals)
        late: dict[QueueKeys, int] = {}
        while self._late:
            keys = self._late.popleft()
            late[keys] = late.get(keys, 0) + 1
        for keys, count in late.items():
            await self.count_late(keys, count)

    def fail(self, error: BrokerError) -> None:
        """Tell all who wait that no reply can come, and give their requests up."""
        for pending in list(self._pending.values()):
            pending.tell(one_more(error))
            self.give_up(pending)

    async def aclose(self) -> None:
        """Give up what waits for a reply, wait for what is on its way out, and read no more."""
        self._closed = True
        for pending in list(self._pending.values()):
            pending.box.put(closed(pending))
            self.give_up(pending)
        await self.mailbox.end()
        await self._ways.close()
        await self.mailbox.aclose()


def decoded(pending: Pending, content: bytes) -> Any:
    """Return a reply as the endpoint declares it.

    Raises:
        Undecodable: it does not fit.
    """
    try:
        return pending.endpoint.reply_codec.decode(content)
    except NotDecodable as error:
        title, text = pending.endpoint.title, text_of(error)
        message = f"{title}: the reply to request {pending.id} is undecodable: {text}"
        raise Undecodable(
            message, queue=pending.endpoint.name, id=pending.id, reason="undecodable"
        ) from error
