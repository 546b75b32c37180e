# GENERATED from src/millstream/aio/delivery.py by tools/unasync.py - do not edit
"""A message in the hands of a consumer."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from msgspec.structs import replace

from millstream.errors import LeaseLost, UsageError
from millstream.message import time_of
from millstream.policy import Duration, Retry, milliseconds
from millstream.protocol import settlement
from millstream.protocol.draft import Draft
from millstream.protocol.envelope import Envelope
from millstream.protocol.partitions import public_id
from millstream.protocol.requests import address_of
from millstream.protocol.settlement import Settlement
from millstream.protocol.transaction import Committed
from millstream.sync.transaction import SyncTransaction
from millstream.topic import Source

__all__ = ["Owner", "SyncDelivery"]

T = TypeVar("T")


class Owner(Protocol):
    """Who read the message, and so must settle it."""

    @property
    def partition(self) -> int:
        """Where in the queue it was read."""
        ...

    def holds(self, token: bytes) -> bool:
        """Tell whether the delivery is still ours, as far as is known."""
        ...

    def settle(self, end: Settlement) -> bool:
        """End a delivery; False: it was not ours any more."""
        ...

    def commit(self, end: Settlement, draft: Draft) -> Committed | None:
        """Do what a draft says and end the delivery, in one step; None: it was not ours any more."""
        ...

    def extend(self, token: bytes, lease_ms: int) -> bool:
        """Begin the lease anew; False: it is lost."""
        ...


class SyncDelivery(Generic[T]):
    """One hand-over of a message: settle it by exactly one of ack, retry, reject and release.

    Whoever does not settle it loses it when the lease runs out; then it is delivered again, and
    counts as a crash.

    From a queue with ``delivery="at_most_once"`` it is done already: ``ack`` says nothing to the
    server, ``reject`` still moves it to the dead letters, and the others are refused.

    Attributes:
        body: the decoded body.
        envelope: the entry as the server sent it.
    """

    __slots__ = ("_owner", "_queue", "_retry", "_settled", "body", "envelope")

    def __init__(
        self, body: T, envelope: Envelope, queue: Source[T], retry: Retry, owner: Owner
    ) -> None:
        self.body = body
        self.envelope = envelope
        self._settled = False
        self._queue = queue
        self._retry = retry
        self._owner = owner

    def __repr__(self) -> str:
        """Name the message without its body, which may be large or secret."""
        return f"<SyncDelivery {self.id} of {self._queue.title}, attempt {self.attempt}>"

    @property
    def id(self) -> str:
        """Id of the message; the same in every delivery of it."""
        return public_id(self.envelope.state.id, self._owner.partition)

    @property
    def queue(self) -> Source[T]:
        """The queue, or the subscription of a topic, that it came from."""
        return self._queue

    @property
    def attempt(self) -> int:
        """Which attempt this is; 1 is the first."""
        return self.envelope.state.attempts + 1

    @property
    def crashes(self) -> int:
        """How many earlier deliveries were lost to dead consumers."""
        return self.envelope.state.crashes

    @property
    def key(self) -> str | None:
        """Of which messages it is one; None when the sender gave no key."""
        return self.envelope.key

    @property
    def subject(self) -> str | None:
        """What it is about; None when the publisher did not say, and for a queue's messages."""
        return self.envelope.subject

    @property
    def headers(self) -> Mapping[str, str]:
        """The metadata that the sender gave."""
        return self.envelope.headers

    @property
    def sent_at(self) -> datetime:
        """When the server accepted the message."""
        return time_of(self.id)

    @property
    def lease_lost(self) -> bool:
        """Whether another consumer may have the message by now, as far as is known here.

        Also when somebody has cancelled it. A handler that runs in a thread may look at it in
        long work; an async one is cancelled.
        """
        return not self._settled and not self._owner.holds(self.envelope.token)

    def ack(self) -> None:
        """The message is done: remove it. A sender that wants its result gets None.

        Raises:
            LeaseLost: another consumer owns it by now; nothing was done.
            BrokerError: the connection was lost, for longer than the lease perhaps: it may be done,
                or another consumer has it. So it is with the other settlements.
        """
        self._settle(settlement.ack(self.envelope.token, plain=self.envelope.plain))

    def transaction(self) -> SyncTransaction:
        """Return a block in which outputs and writes are gathered; its end acknowledges the message.

        ``with delivery.transaction() as tx: tx.send(...); tx.incrby(...)``: all of it and the
        acknowledgement are one step at the server. When the block raises, nothing is done, and the
        delivery is as it was before. Blocking deliveries have it without ``async``.

        Raises:
            UsageError: the queue delivers at most once, or it is a request, whose reply goes elsewhere.

        Guarantee: what it does is done once for each message, whatever happens: only the owner of the
        delivery can commit, and a commit that is repeated after a lost reply changes nothing.
        """
        self._check_kept("transaction")
        if address_of(self.envelope) is not None:
            message = (
                f"{self._queue.title}: {self.id} is a request: its reply goes to its caller, which is in "
                "another slot, so there is no transaction(). Send a message to a queue for what must "
                "happen once"
            )
            raise UsageError(message)
        return SyncTransaction(self._queue, self._commit)

    def retry(self, *, delay: Duration | None = None, reason: str = "retried") -> None:
        """Have it delivered again later. It counts as a failed attempt.

        After the last attempt it goes to the dead letters. The wait is kept at the server.

        Args:
            delay: seconds to wait; None: the backoff of the retry policy.
            reason: why, kept with the message.

        Raises:
            UsageError: the delay is no duration, or the queue delivers at most once.
            LeaseLost: another consumer owns it by now; nothing was done.
        """
        self._check_kept("retry")
        delay_ms = None if delay is None else milliseconds(delay, "delay")
        self._settle(
            settlement.failure(
                self.envelope,
                self._retry,
                reason=reason,
                # Should this be the last attempt, its reason is `attempts`, and this the error.
                error=reason,
                luck=random.random(),  # noqa: S311 - jitter, no secret
                delay_ms=delay_ms,
            )
        )

    def reject(self, reason: str | BaseException) -> None:
        """Move it to the dead letters.

        Args:
            reason: why, kept with the dead letter; an exception is its text.

        Raises:
            LeaseLost: another consumer owns it by now; nothing was done.
        """
        self._settle(settlement.reject(self.envelope.token, reason))

    def release(self) -> None:
        """Hand it back at once, without blame: another consumer gets it next.

        Raises:
            UsageError: the queue delivers at most once.
            LeaseLost: another consumer owns it by now; nothing was done.
        """
        self._check_kept("release")
        self._settle(settlement.release(self.envelope.token))

    def extend(self, seconds: Duration) -> None:
        """Own the message for so long from now on.

        A worker extends leases by itself while the handler runs, and has the whole lease at least
        after this, so this is for deliveries from ``receive``. Beyond the queue's lease it is kept up from this process, so that a crash
        does not hold the message for longer than one lease.

        Args:
            seconds: from now; may be shorter than the rest of the lease.

        Raises:
            UsageError: seconds is no duration, or the queue delivers at most once.
            LeaseLost: another consumer owns it by now.
        """
        self._check_kept("extend")
        lease_ms = milliseconds(seconds, "seconds")
        if not self._owner.extend(self.envelope.token, lease_ms):
            raise self._lost()

    def _check_kept(self, verb: str) -> None:
        """Refuse what needs a message that the server still has."""
        if self._queue.delivery == "at_most_once":
            message = (
                f'{self._queue.title} is declared with delivery="at_most_once": message {self.id} is '
                f"gone from it, and nobody else may get it, so there is no {verb}()"
            )
            raise UsageError(message)

    def _settle(self, end: Settlement) -> None:
        if self._queue.delivery == "at_most_once":
            if self._settled:
                raise self._lost()
            # The server does not have it any more.
            end = replace(end, envelope=self.envelope)
        if not self._owner.settle(end):
            raise self._lost()
        self._settled = True

    def _commit(self, draft: Draft) -> Committed:
        end = settlement.ack(self.envelope.token, plain=self.envelope.plain)
        done = self._owner.commit(end, draft)
        if done is None:
            raise self._lost()
        self._settled = True
        return done

    def _lost(self) -> LeaseLost:
        message = (
            f"{self._queue.title}: message {self.id} is not ours any more: it was settled "
            "already, somebody has cancelled it, or its lease ran out and another consumer has it"
        )
        return LeaseLost(message, queue=self._queue.name, id=self.id)
