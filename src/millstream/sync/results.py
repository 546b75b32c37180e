# GENERATED from src/millstream/aio/results.py by tools/unasync.py - do not edit
"""Results of messages, and those who wait for them.

Nobody asks again and again: who waits leaves its address, and the worker that ends the message writes
to it. Once a second all who have waited for that long ask together, so that a word that was lost, or a
message that died without a worker, is noticed.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any

from msgspec.structs import replace

from millstream.declare import Queue
from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_letterbox import BlockingLetterbox
from millstream.driver.blocking_sender import BlockingSender
from millstream.errors import BrokerError, NotConnected, TimedOut, one_more
from millstream.message import Receipt
from millstream.policy import Duration, milliseconds
from millstream.protocol.keys import QueueKeys
from millstream.protocol.mailbox import Item
from millstream.protocol.partitions import bare_id
from millstream.protocol.requests import ENTRIES_A_CALL, INQUIRING, dead_among
from millstream.protocol.results import (
    Look,
    Question,
    ask,
    asking,
    failure_of,
    nothing_known,
    value_of,
)
from millstream.sync.abreast import layers, run_abreast
from millstream.sync.mailbox import Mailbox
from millstream.sync.ways import forget_first

__all__ = ["Results", "SyncHandle"]

logger = logging.getLogger("millstream.requests")

ASKED_AFTER = 1.0
"""Seconds of waiting after which to ask again, once a second."""

SENDERS = 1000
"""Partitions whose senders of questions are kept; one for another partition is made anew."""

MOMENT = 1.0
"""Seconds for an answer of the server, at the least."""


class _Wait:
    """One who waits for a result.

    Attributes:
        question: what it asks.
        keys: of the partition that has the message.
        box: where word comes, or what a look has found.
        since: of ``time.monotonic``.
    """

    __slots__ = ("box", "keys", "question", "since")

    def __init__(
        self,
        question: Question,
        keys: QueueKeys,
        box: BlockingLetterbox[Item | Look | Exception],
    ) -> None:
        self.question = question
        self.keys = keys
        self.box = box
        self.since = time.monotonic()


class Results:
    """Waits for results; all who wait share the client's mailbox.

    Args:
        driver: of the client.
        mailbox: of the client.
    """

    def __init__(self, driver: BlockingDriver, mailbox: Mailbox) -> None:
        self._driver = driver
        self._mailbox = mailbox
        self._senders: dict[str, BlockingSender[Look]] = {}
        self._waiting: dict[int, _Wait] = {}
        self._closed = False
        mailbox.rounds.add(self)

    def get(self, queue: Queue[Any], keys: QueueKeys, id: str, seconds: float) -> Any:
        """Wait for a result, and return it.

        Args:
            queue: as declared.
            keys: of its first partition.
            id: of the message.
            seconds: how long; inf: for ever.

        Raises:
            TimedOut: it is not finished yet.
            DeliveryError: there is none.
        """
        bare, partition = bare_id(id)
        keys = keys.at(partition)
        begun = time.monotonic()
        for _ in range(2):
            look = self._look(keys, bare, begun + seconds)
            if look.kind == "done":
                return value_of(queue, id, look.content)
            if look.kind == "waits":
                raise _timed_out(queue, id, look.state, time.monotonic() - begun)
            dead = self._driver.drive(dead_among(keys, [bare]))
            if bare in dead:
                raise failure_of(queue, id, dead[bare])
            # Somebody may have sent a dead letter back in between.
        raise nothing_known(queue, id)

    def _look(self, keys: QueueKeys, id: str, deadline: float) -> Look:
        """Look until a message is finished, or the time is over."""
        sender = self._sender(keys)
        # Most of those that are done need no mailbox.
        look = _answer(sender, Question(id), deadline)
        if look.kind != "waits" or deadline <= time.monotonic():
            return look
        if not self._mailbox.is_open:
            self._mailbox.open(max(0.0, deadline - time.monotonic()))
        slot, box = self._mailbox.slot()
        wait = _Wait(Question(id, f"{self._mailbox.client} {slot}"), keys, box)
        self._waiting[slot] = wait
        try:
            if self._closed:
                # Whoever closes says so first, and then tells those who are there.
                raise _closed()
            while True:
                look = _answer(sender, wait.question, deadline)
                if look.kind != "waits":
                    return look
                item = box.take(deadline - time.monotonic())
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, Look):
                    return item
                if item is None and time.monotonic() >= deadline:
                    return _answer(sender, Question(id), deadline)
        finally:
            del self._waiting[slot]
            self._mailbox.close_slot(slot)

    def _sender(self, keys: QueueKeys) -> BlockingSender[Look]:
        """Return what asks about the messages of a partition."""
        sender = self._senders.get(keys.ready)
        if sender is None:
            if len(self._senders) >= SENDERS:
                forget_first(self._senders)
            sender = self._senders.setdefault(keys.ready, self._driver.sender(asking(keys)))
        return sender

    # What ``Rounds`` looks after

    @property
    def is_waiting(self) -> bool:
        """Whether anybody waits for a result."""
        return bool(self._waiting)

    def look_after(self) -> None:
        """Ask for all who have waited for long, those of a partition together."""
        now = time.monotonic()
        overdue: dict[str, list[_Wait]] = {}
        for wait in list(self._waiting.values()):
            if now - wait.since >= ASKED_AFTER:
                overdue.setdefault(wait.keys.ready, []).append(wait)
        for chunks in layers([*overdue.values()], ENTRIES_A_CALL):
            asked = [
                ask(some[0].keys, [wait.question for wait in some], patience=INQUIRING)
                for some in chunks
            ]
            answers = run_abreast(self._driver, asked)
            for some, looks in zip(chunks, answers, strict=True):
                if isinstance(looks, BrokerError):
                    logger.debug("cannot ask for results: %s", looks)
                    continue
                for wait, look in zip(some, looks, strict=True):
                    if look.kind != "waits":
                        wait.box.put(look)

    def fail(self, error: BrokerError) -> None:
        """Tell all who wait for a result that no word of it can come."""
        for wait in list(self._waiting.values()):
            wait.box.put(one_more(error))

    def close(self) -> None:
        """Have nobody wait any more."""
        self._closed = True
        self.fail(_closed())
        for sender in list(self._senders.values()):
            sender.close()


class SyncHandle:
    """A message whose result can be had; in any process, by its id (``mq.handle``).

    Attributes:
        receipt: what the send returned. Of a handle that was made by an id: that id, and no more.
        queue: as declared.
    """

    __slots__ = ("_keys", "_results", "queue", "receipt")

    def __init__(
        self, receipt: Receipt, queue: Queue[Any], keys: QueueKeys, results: Results
    ) -> None:
        self.receipt = receipt
        self.queue = queue
        self._keys = keys
        self._results = results

    def __repr__(self) -> str:
        """Name the message."""
        return f"<SyncHandle of message {self.id} of {self.queue.title}>"

    @property
    def id(self) -> str:
        """Id of the message; with it, ``mq.handle(queue, id)`` makes the same handle elsewhere."""
        return self.receipt.id

    def result(self, *, timeout: Duration | None = None) -> Any:
        """Wait until the message is done, and return what its handler has returned. Safe to repeat.

        Args:
            timeout: seconds; 0: look once. Default: as long as it takes, retries included.

        Returns:
            What the handler has returned, of the type that the queue declares; None if the message was
            acknowledged by hand (``delivery.ack()``).

        Raises:
            TimedOut: it is not done yet; the work goes on. It says whether the message is queued,
                running or delayed.
            RemoteError: it has failed for good: its attempts are used up, or its handler has rejected
                it; or what its handler has returned cannot be a result.
            ResponderLost: its workers died, more often than the queue allows.
            NoResult: it has expired, somebody has cancelled it, or nothing is known of a result.
            Undecodable: its body did not fit the queue's type, or its result does not.
            BrokerError: the server could not be used, or the client was closed meanwhile.

        Guarantee: there is a result if, and only if, the message was acknowledged, for as long as
        ``Results(keep=)`` says.
        """
        seconds = math.inf if timeout is None else milliseconds(timeout, "timeout") / 1000
        return self._results.get(self.queue, self._keys, self.id, seconds)


def _closed() -> NotConnected:
    return NotConnected("the client was closed while somebody waited for a result")


def _answer(sender: BlockingSender[Look], question: Question, deadline: float) -> Look:
    """Ask; the server has a moment for it, even if the time of who asks is over."""
    seconds = max(MOMENT, deadline - time.monotonic())
    if seconds == math.inf:
        return sender.send(question)
    return sender.send(replace(question, patience=seconds), seconds=seconds)


def _timed_out(queue: Queue[Any], id: str, state: str, after: float) -> TimedOut:
    known = {
        "queued": "it waits for a worker",
        "running": "a worker has it",
        "delayed": "it waits for its time",
    }.get(state, "it is not finished")
    message = f"{queue.title}: no result of message {id} within {after:.1f} s: {known}"
    return TimedOut(message, id=id, state=state)
