"""Requests that a client has sent, from the send to the reply."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from millstream.aio.inquiries import Inquiries
from millstream.aio.mailbox import Mailbox
from millstream.aio.pending import Pending, closed
from millstream.codec import NotDecodable
from millstream.driver.aio import AsyncDriver
from millstream.driver.aio_sender import AsyncSender
from millstream.endpoint import Endpoint
from millstream.errors import (
    BrokerError,
    NoResponders,
    TimedOut,
    Undecodable,
    UsageError,
)
from millstream.message import Receipt
from millstream.protocol.keys import QueueKeys, queue_keys
from millstream.protocol.mailbox import Item
from millstream.protocol.remote import read_error
from millstream.protocol.requests import (
    WAITING,
    WITHDRAWING,
    Address,
    How,
    Outgoing,
    Withdrawal,
    count_late,
    requesting,
    withdrawing,
)

__all__ = ["Requests", "decoded"]

logger = logging.getLogger("millstream.requests")

SLOW = 0.1
"""Seconds that a send may take for the server's deadline to be as good as the caller's."""

SENT_WITHIN = 0.2
"""Seconds past its deadline in which a request is told why it could not be sent."""

ASKED_AFTER = 1.0
"""Seconds without a reply after which to ask what has become of a request."""

REMEMBERED = 10_000
"""Requests that were given up, to know whose reply comes too late."""


class _Way:
    """The way to an endpoint."""

    __slots__ = ("keys", "requests", "withdrawals")

    def __init__(self, driver: AsyncDriver, keys: QueueKeys) -> None:
        self.keys = keys
        self.withdrawals: AsyncSender[int] = driver.sender(withdrawing(keys))
        self.requests: AsyncSender[Receipt] = driver.sender(requesting(keys))


class Requests:
    """Sends requests and hands each its reply; all share one mailbox.

    Args:
        driver: of the client.
        namespace: first part of all keys.
    """

    def __init__(self, driver: AsyncDriver, namespace: str) -> None:
        self._driver = driver
        self._namespace = namespace
        self._ways: dict[str, _Way] = {}
        self._pending: dict[int, Pending] = {}
        # Those that were given up, the oldest first, and how many late replies are not yet counted.
        self._given_up: dict[int, QueueKeys] = {}
        self._late: dict[str, int] = {}
        self._closed = False
        self.mailbox = Mailbox(driver, namespace, on_tick=self._tick, on_stray=self._stray)
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
        if not self.mailbox.is_open:
            await self.mailbox.open(timeout_ms / 1000)
        if self._closed:
            message = "this client is closed"
            raise UsageError(message)
        way = self._ways.get(endpoint.name) or self._way_to(endpoint)
        slot, box = self.mailbox.slot()
        pending = Pending(endpoint, way.keys, slot, box, timeout_ms, window)
        address = str(Address(self.mailbox.client, slot, progress, window))
        self._pending[slot] = pending
        outgoing = Outgoing(body, headers, timeout_ms, address)
        try:
            seconds = timeout_ms / 1000
            way.requests.post(outgoing, b"", partial(self._sent, pending), seconds=seconds)
        except BaseException:
            # It may be on its way all the same.
            self.release(pending)
            raise
        return pending

    def _way_to(self, endpoint: Endpoint[Any, Any]) -> _Way:
        way = _Way(self._driver, queue_keys(self._namespace, endpoint.name))
        return self._ways.setdefault(endpoint.name, way)

    def _sent(self, pending: Pending, outcome: Receipt | BaseException) -> None:
        """Hear whether the server has a request."""
        if isinstance(outcome, Receipt):
            pending.id = outcome.id
            pending.slow = time.monotonic() - pending.since > SLOW
            if pending.given_up is not None:
                self._withdraw(pending, pending.given_up)
            return
        if isinstance(outcome, NoResponders):
            self.answered(pending)
        else:
            # It may be on its way all the same.
            self.release(pending)
        pending.box.put(outcome)

    def release(self, pending: Pending) -> None:
        """Wait for nothing of it any more. Safe to repeat."""
        self.mailbox.close_slot(pending.slot)
        if self._pending.pop(pending.slot, None) is not None:
            self._given_up[pending.slot] = pending.keys
            if len(self._given_up) > REMEMBERED:
                with contextlib.suppress(KeyError, StopIteration, RuntimeError):
                    del self._given_up[next(iter(self._given_up))]

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
        noted = 0
        try:
            while True:
                item = await self.next(pending, pending.deadline)
                if item.kind == "reply":
                    self.answered(pending)
                    return decoded(pending, item.content)
                if item.kind != "note" or on_progress is None or 0 < item.number <= noted:
                    continue
                noted = item.number
                try:
                    note = msgspec.json.decode(item.content)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                    logger.warning("a note of request %s is unreadable: %s", pending.id, error)
                    continue
                await self._driver.tell(on_progress, note)
        finally:
            # Unless it is over already: what the callback raised, or a cancellation.
            self.give_up(pending)

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
            name, known = pending.endpoint.name, pending.endpoint.errors
            raise read_error(item.content, known, endpoint=name, id=pending.id)
        found: Item = item
        return found

    async def take(self, pending: Pending, deadline: float) -> Item | BaseException | None:
        """Take what has come of a request; None: nothing has until then, of ``time.monotonic``."""
        item = await pending.box.take(deadline - time.monotonic())
        if item is None and not pending.id:
            # Why it could not be sent says more than that its time is over.
            item = await pending.box.take(SENT_WITHIN)
        found: Item | BaseException | None = item
        return found

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
        withdrawals = self._ways[pending.endpoint.name].withdrawals
        self.mailbox.aside.send(withdrawals, Withdrawal(pending.id, how))

    async def timed_out(self, pending: Pending, *, stop: bool = False) -> TimedOut:
        """Tell what is known of a request whose time is over; if it waits still, it is deleted.

        Args:
            pending: the request.
            stop: whether a handler that runs is to be stopped. Of one reply its worker knows the
                deadline, too, and does so by itself.
        """
        found, state, seconds = None, "unknown", 0.0
        # What comes from now on is late.
        self.release(pending)
        how: How = "expire"
        if (stop or pending.slow) and not pending.endpoint.must_finish:
            how = "stop"
        if not pending.id:
            self._withdraw(pending, how)
        else:
            with contextlib.suppress(BrokerError):
                withdrawals = self._ways[pending.endpoint.name].withdrawals
                found = await withdrawals.send(Withdrawal(pending.id, how), seconds=WITHDRAWING)
        now = time.monotonic()
        if found == WAITING:
            state = "queued"
        elif found is not None and found >= 0:
            state = "running"
            seconds = now - pending.running_since if pending.running_since else found / 1000
        known = {
            "queued": "it was still waiting for a worker, and is deleted now",
            "running": f"a worker has had it for {seconds:.1f} s",
            "unknown": "what has become of it is not known",
        }[state]
        what = "part of the stream of" if pending.window else "reply to"
        message = (
            f"{pending.endpoint.title}: no {what} {pending.title} within "
            f"{now - pending.since:.1f} s: {known}"
        )
        return TimedOut(
            message, endpoint=pending.endpoint.name, id=pending.id, state=state, seconds=seconds
        )

    # What is overdue

    def _stray(self, slot: int) -> None:
        """Something came for a request that nobody waits for any more."""
        keys = self._given_up.pop(slot, None)
        if keys is not None:
            self._late[keys.name] = self._late.get(keys.name, 0) + 1

    async def count_late(self, keys: QueueKeys, count: int = 1) -> None:
        """Count replies that nobody waited for any more."""
        with contextlib.suppress(BrokerError):
            await self._driver.run(count_late(keys, count))

    async def _tick(self) -> None:
        """Ask after requests that have waited for long, and count late replies."""
        now = time.monotonic()
        by_endpoint: dict[str, list[Pending]] = {}
        for pending in list(self._pending.values()):
            if pending.id and not pending.told and now - pending.since >= ASKED_AFTER:
                by_endpoint.setdefault(pending.endpoint.name, []).append(pending)
        if by_endpoint:
            # Nothing would come, were it lost.
            await self.mailbox.attend()
        for name, overdue in by_endpoint.items():
            await self._inquiries.ask(overdue, self._ways[name].withdrawals)
        for name in list(self._late):
            await self.count_late(self._ways[name].keys, self._late.pop(name))

    async def aclose(self) -> None:
        """Give up what waits for a reply, wait for what is on its way out, and read no more."""
        self._closed = True
        for pending in list(self._pending.values()):
            pending.box.put(closed(pending))
            self.give_up(pending)
        for way in list(self._ways.values()):
            await way.requests.close()
            await way.withdrawals.close()
        await self.mailbox.aclose()


def decoded(pending: Pending, content: bytes) -> Any:
    """Return a reply as the endpoint declares it.

    Raises:
        Undecodable: it does not fit.
    """
    try:
        return pending.endpoint.reply_codec.decode(content)
    except NotDecodable as error:
        message = (
            f"{pending.endpoint.title}: the reply to request {pending.id} is undecodable: {error}"
        )
        raise Undecodable(
            message, queue=pending.endpoint.name, id=pending.id, reason="undecodable"
        ) from error
