# GENERATED from src/millstream/aio/requests.py by tools/unasync.py - do not edit
"""Requests that a client has sent, from the send to the reply."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from millstream.codec import NotDecodable
from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_letterbox import BlockingLetterbox
from millstream.driver.blocking_sender import BlockingSender
from millstream.endpoint import Endpoint
from millstream.errors import (
    BrokerError,
    DeliveryError,
    NoResponders,
    ResponderLost,
    TimedOut,
    Undecodable,
)
from millstream.message import Receipt
from millstream.protocol.keys import QueueKeys, queue_keys
from millstream.protocol.mailbox import Item
from millstream.protocol.remote import read_error
from millstream.protocol.requests import (
    ENTRIES_A_CALL,
    NOT_THERE,
    WAITING,
    Address,
    Outgoing,
    count_late,
    deaths,
    inquire,
    requesting,
    withdrawing,
)
from millstream.sync.mailbox import Mailbox

__all__ = ["Pending", "Requests", "decoded", "lost"]

logger = logging.getLogger("millstream.requests")

ASKED_AFTER = 1.0
"""Seconds without a reply after which to ask what has become of a request."""

REMEMBERED = 10_000
"""Requests that were given up, to know whose reply comes too late."""


class Pending:
    """A request that waits for its reply.

    Attributes:
        endpoint: that was asked.
        keys: of its queue.
        slot: of the client's mailbox.
        box: where the reply comes.
        window: how many parts of a stream may be on their way; 0: one reply is wanted.
        since: of ``time.monotonic``: when it was sent; of a stream, when the last part was taken.
        deadline: of ``time.monotonic``.
        id: of the request; empty until the server has it.
        running_since: of ``time.monotonic``, as far as is known; None: nobody has begun with it.
    """

    __slots__ = (
        "box",
        "deadline",
        "endpoint",
        "id",
        "keys",
        "looks",
        "running_since",
        "since",
        "slot",
        "window",
    )

    def __init__(
        self,
        endpoint: Endpoint[Any, Any],
        keys: QueueKeys,
        slot: int,
        box: BlockingLetterbox[Item | Exception],
        timeout_ms: int,
        window: int,
    ) -> None:
        self.endpoint = endpoint
        self.keys = keys
        self.slot = slot
        self.box = box
        self.window = window
        self.since = time.monotonic()
        self.deadline = self.since + timeout_ms / 1000
        self.id = ""
        self.running_since: float | None = None
        # How often it was not found.
        self.looks = 0


class _Way:
    """The way to an endpoint."""

    __slots__ = ("keys", "requests", "stopping", "withdrawals")

    def __init__(self, driver: BlockingDriver, keys: QueueKeys) -> None:
        self.keys = keys
        self.requests: BlockingSender[Receipt] = driver.sender(requesting(keys))
        self.withdrawals: BlockingSender[int] = driver.sender(withdrawing(keys, stop=False))
        self.stopping: BlockingSender[int] = driver.sender(withdrawing(keys, stop=True))


class Requests:
    """Sends requests and hands each its reply; all share one mailbox.

    Args:
        driver: of the client.
        namespace: first part of all keys.
    """

    def __init__(self, driver: BlockingDriver, namespace: str) -> None:
        self._driver = driver
        self._namespace = namespace
        self._ways: dict[str, _Way] = {}
        self._pending: dict[int, Pending] = {}
        # Those that were given up, the oldest first, and how many late replies are not yet counted.
        self._given_up: dict[int, QueueKeys] = {}
        self._late: dict[str, int] = {}
        self.mailbox = Mailbox(driver, namespace, on_tick=self._tick, on_stray=self._stray)

    def send(
        self,
        endpoint: Endpoint[Any, Any],
        body: bytes,
        headers: bytes,
        *,
        timeout_ms: int,
        progress: bool = False,
        window: int = 0,
    ) -> Pending:
        """Send a request; its reply comes into the box of the result. ``release`` it in the end.

        Args:
            endpoint: to ask.
            body: encoded.
            headers: encoded, or empty.
            timeout_ms: until its deadline.
            progress: whether notes of progress are wanted.
            window: how many parts of a stream may be on their way; 0: one reply is wanted.

        Raises:
            NoResponders: nobody serves the endpoint.
            BrokerError: it may or may not be on its way; its reply will be dropped.
        """
        if not self.mailbox.is_open:
            self.mailbox.open()
        way = self._ways.get(endpoint.name)
        if way is None:
            keys = queue_keys(self._namespace, endpoint.name)
            way = self._ways.setdefault(endpoint.name, _Way(self._driver, keys))
        slot, box = self.mailbox.slot()
        pending = Pending(endpoint, way.keys, slot, box, timeout_ms, window)
        address = str(Address(self.mailbox.client, slot, progress, window))
        try:
            receipt = way.requests.send(Outgoing(body, headers, timeout_ms, address))
        except BaseException:
            self.release(pending)
            raise
        pending.id = receipt.id
        self._pending[slot] = pending
        return pending

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

    def reply(self, pending: Pending, on_progress: Callable[[Any], object] | None) -> Any:
        """Wait for the one reply to a request.

        Raises:
            TimedOut: the deadline has passed.
            Exception: what came instead of a reply.
        """
        try:
            while True:
                item = self.next(pending, pending.deadline)
                if item.kind == "reply":
                    self.answered(pending)
                    return decoded(pending, item.content)
                if item.kind == "note" and on_progress is not None:
                    on_progress(msgspec.json.decode(item.content))
        except DeliveryError:
            self.answered(pending)
            raise
        except TimedOut:
            raise
        except BaseException:
            self.give_up(pending)
            raise
        finally:
            self.release(pending)

    def next(self, pending: Pending, deadline: float) -> Item:
        """Wait for whatever comes of a request next.

        Args:
            pending: the request.
            deadline: until when, of ``time.monotonic``.

        Raises:
            TimedOut: nothing has come.
            Exception: the handler's, or that nobody will answer.
        """
        item = pending.box.take(deadline - time.monotonic())
        if item is None:
            raise self.timed_out(pending)
        if isinstance(item, Exception):
            self.answered(pending)
            raise item
        if item.kind == "error":
            self.answered(pending)
            name, known = pending.endpoint.name, pending.endpoint.errors
            raise read_error(item.content, known, endpoint=name, id=pending.id)
        found: Item = item
        return found

    def give_up(self, pending: Pending) -> None:
        """Have nobody work on a request any more, unless it must be finished; do not wait for that."""
        if pending.slot not in self._pending:
            return
        way = self._ways[pending.endpoint.name]
        sender = way.withdrawals if pending.endpoint.must_finish else way.stopping
        # Whoever gives up has other worries. At its deadline it is over in any case.
        with contextlib.suppress(BrokerError):
            sender.send(pending.id)
        self.release(pending)

    def timed_out(self, pending: Pending, *, stop: bool = False) -> TimedOut:
        """Tell what is known of a request whose time is over; if it waits still, it is deleted.

        Args:
            pending: the request.
            stop: whether a handler that runs is to be stopped. Of one reply its worker knows the
                deadline, too, and does so by itself.
        """
        found, state, seconds = None, "unknown", 0.0
        way = self._ways[pending.endpoint.name]
        with contextlib.suppress(BrokerError):
            found = (way.stopping if stop else way.withdrawals).send(pending.id)
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
        self.release(pending)
        what = "part of the stream of" if pending.window else "reply to"
        message = (
            f"{pending.endpoint.title}: no {what} request {pending.id} within "
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

    def count_late(self, keys: QueueKeys, count: int = 1) -> None:
        """Count replies that nobody waited for any more."""
        with contextlib.suppress(BrokerError):
            self._driver.run(count_late(keys, count))

    def _tick(self) -> None:
        """Ask after requests that have waited for long, and count late replies."""
        now = time.monotonic()
        by_endpoint: dict[str, list[Pending]] = {}
        for pending in list(self._pending.values()):
            if now - pending.since >= ASKED_AFTER:
                by_endpoint.setdefault(pending.endpoint.name, []).append(pending)
        for overdue in by_endpoint.values():
            for start in range(0, len(overdue), ENTRIES_A_CALL):
                self._ask_after(overdue[start : start + ENTRIES_A_CALL])
        for name in list(self._late):
            self.count_late(self._ways[name].keys, self._late.pop(name))

    def _ask_after(self, overdue: list[Pending]) -> None:
        keys = overdue[0].keys
        served, found = self._driver.run(inquire(keys, [one.id for one in overdue]))
        now = time.monotonic()
        missing: list[Pending] = []
        for pending, state in zip(overdue, found, strict=True):
            if state >= 0 and pending.running_since is None:
                pending.running_since = now - state / 1000
            if state == NOT_THERE:
                missing.append(pending)
            elif state == WAITING and not served:
                pending.box.put(_unserved(pending))
                # Should a worker come after all, nobody waits for what it would do.
                self._ways[keys.name].withdrawals.send(pending.id)
        if missing:
            self._tell_lost(keys, missing)

    def _tell_lost(self, keys: QueueKeys, missing: Iterable[Pending]) -> None:
        """A request that is not there any more has died, or its reply is on its way."""
        reasons = self._driver.drive(deaths(keys, [one.id for one in missing]))
        for pending in missing:
            reason = reasons.get(pending.id)
            pending.looks += 1
            # Replies are there before the request is gone, but they may not be read yet; of one
            # that has died, there are only parts of a stream.
            if pending.looks > 1 or (reason is not None and not pending.window):
                # Who takes a stream may be slow; it is told once.
                self._pending.pop(pending.slot, None)
                pending.box.put(lost(pending, reason or "unknown"))

    def close(self) -> None:
        """Wait for what is on its way out, and read no more replies."""
        for way in list(self._ways.values()):
            for sender in (way.requests, way.withdrawals, way.stopping):
                sender.close()
        self.mailbox.close()


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


def _unserved(pending: Pending) -> NoResponders:
    message = (
        f"{pending.endpoint.title}: the last worker that served it is gone, and nobody has begun with "
        f"request {pending.id}, which is deleted now"
    )
    return NoResponders(message, queue=pending.endpoint.name, id=pending.id)


def lost(pending: Pending, reason: str) -> ResponderLost:
    """Return what the caller of a request gets that nobody will answer."""
    what = {
        "crashed": "the worker that had it died",
        "stopped": "the worker that had it was stopped",
        "cancelled": "somebody has cancelled it",
        "unknown": "it is gone without a reply: purged, or its reply was lost",
    }.get(reason, f"it went to the dead letters ({reason})")
    message = (
        f"{pending.endpoint.title}: request {pending.id} will not be answered: {what}. Whether its work "
        "was done is not known"
    )
    return ResponderLost(message, queue=pending.endpoint.name, id=pending.id, reason=reason)
