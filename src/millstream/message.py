"""What is sent and what comes back: frozen values without behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import msgspec

__all__ = [
    "LAST_MS",
    "Answer",
    "ConsumerStats",
    "DeadLetter",
    "Heard",
    "InFlight",
    "Message",
    "Missed",
    "QueueStats",
    "Receipt",
    "Schedule",
    "SubscriptionStats",
    "TopicStats",
    "time_of",
]


T = TypeVar("T")

LAST_MS = 253_402_300_799_000
"""The end of the year 9999, where datetime ends."""


def time_of(message_id: str) -> datetime:
    """Return when a message was accepted: its id begins with the server's milliseconds.

    A foreign producer may have given an id that is no time; far ones are cut to the year 9999.
    """
    return datetime.fromtimestamp(min(int(message_id.partition("-")[0]), LAST_MS) / 1000, UTC)


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What a send returns once the server has the message.

    Attributes:
        id: of the message; it stays the same through delays, retries, dead letters and redrive.
            Empty for an ephemeral topic: its messages have none.
        duplicate: whether an earlier message has the unique key, and nothing was stored; then id
            is that of the earlier one.
        durability: how far the message is known to have got: ``memory`` means the server has it,
            and its persistence settings decide what a crash of the server costs. ``none``: it has
            reached who listened, and nobody keeps it (an ephemeral topic).
        listeners: to how many connections the server has sent it, for an ephemeral topic. A client
            that listens to the topic and to patterns counts once for each. On a cluster with
            sharded Pub/Sub it counts connections to the publisher's node. Otherwise None.
    """

    id: str
    duplicate: bool = False
    durability: str = "memory"
    listeners: int | None = None


class Answer(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """What one worker of an endpoint has answered to ``gather``.

    Attributes:
        responder: the worker, by its name in the endpoint: ``host:pid:random``.
        reply: what its handler returned; None if there is an error.
        error: what ``request`` would have raised; None if there is a reply.
    """

    responder: str
    reply: T | None = None
    error: Exception | None = None

    def result(self) -> T:
        """Return the reply.

        Raises:
            Exception: the error, if there is one.
        """
        if self.error is not None:
            raise self.error
        # None may be the reply.
        reply: Any = self.reply
        result: T = reply
        return result


class Heard(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A message of an ephemeral topic, as a listener gets it. There is nothing to settle.

    Attributes:
        body: the decoded body.
        topic: the name of the topic that it was published on; interesting with a pattern.
        headers: the metadata that the publisher gave.
        subject: what it is about, if the publisher said so.
    """

    body: T
    topic: str
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    subject: str | None = None


class Missed(msgspec.Struct, frozen=True, kw_only=True):
    """Stands between messages of an ephemeral topic where a listener did not get all of them.

    Attributes:
        dropped: how many messages its buffer had no room for.
        reconnected: whether the connection was lost: what was published until it was back is gone,
            and nobody knows how much. It may be nothing.
    """

    dropped: int = 0
    reconnected: bool = False


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message as ``peek`` and ``replay`` show it.

    Attributes:
        id: of the message.
        body: the decoded body, or the raw bytes if they do not fit the type of the queue.
        headers: the metadata that the sender gave.
        attempts: how often a handler has failed with it.
        crashes: how many of its deliveries were lost to dead consumers.
        due: when it becomes ready, for a delayed message.
        key: of which messages it is one, if the sender gave one.
        subject: what it is about, for a message of a topic, if the publisher said so.
        priority: 0 (normal) to 9.
        expires: when its time to live is over, if it has one.
        handled_at: when it was acknowledged, for a message that a queue has kept.
    """

    id: str
    body: Any
    headers: Mapping[str, str]
    attempts: int = 0
    crashes: int = 0
    due: datetime | None = None
    key: str | None = None
    subject: str | None = None
    priority: int = 0
    expires: datetime | None = None
    handled_at: datetime | None = None

    @property
    def sent_at(self) -> datetime:
        """When the server accepted the message."""
        return time_of(self.id)


class InFlight(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a consumer owns, as ``in_flight`` shows it.

    Attributes:
        id: of the message.
        body: the decoded body, or the raw bytes if they do not fit the type of the queue; None of a
            message that its topic does not keep any more.
        headers: the metadata that the sender gave.
        consumer: who has it: ``host:pid:random``.
        idle: seconds since the consumer has last shown that it has it: since the delivery, or since the
            lease was last extended, as a live consumer does every third of it.
        attempts: how often a handler has failed with it before.
        crashes: how many of its deliveries were lost to dead consumers.
        key: of which messages it is one, if the sender gave one.
        subject: what it is about, for a message of a topic, if the publisher said so.
        priority: 0 (normal) to 9.
    """

    id: str
    body: Any
    headers: Mapping[str, str]
    consumer: str
    idle: float
    attempts: int = 0
    crashes: int = 0
    key: str | None = None
    subject: str | None = None
    priority: int = 0

    @property
    def sent_at(self) -> datetime:
        """When the server accepted the message."""
        return time_of(self.id)


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that will not be delivered again unless it is redriven.

    Attributes:
        id: of the message.
        body: the decoded body, or the raw bytes if they do not fit the type of the queue.
        headers: the metadata that the sender gave.
        reason: ``attempts`` (the handler failed too often), ``crashed`` (its consumers died),
            ``expired``, ``cancelled``, ``undecodable``, ``malformed``, or what the handler said
            when it rejected it.
        error: the last error as one line, or None.
        traceback: the last lines of its traceback, or None.
        attempts: how often a handler failed with it.
        crashes: how many of its deliveries were lost to dead consumers.
        died_at: when it came here.
        key: of which messages it is one, if the sender gave one.
        subject: what it is about, for a message of a topic, if the publisher said so.
        cursor: where the next page of a listing starts (``after=``).
    """

    id: str
    body: Any
    headers: Mapping[str, str]
    reason: str
    error: str | None
    traceback: str | None
    attempts: int
    crashes: int
    died_at: datetime
    cursor: str
    key: str | None = None
    subject: str | None = None

    @property
    def sent_at(self) -> datetime:
        """When the server accepted the message."""
        return time_of(self.id)


class ConsumerStats(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer of a queue.

    Attributes:
        name: ``host:pid:random``.
        in_flight: deliveries that it owns.
        idle: seconds since it last asked for messages.
    """

    name: str
    in_flight: int
    idle: float


class QueueStats(msgspec.Struct, frozen=True, kw_only=True):
    """A queue at one moment. Every unhandled message is in exactly one of the first four.

    Attributes:
        name: of the queue.
        ready: messages that wait for a consumer, those with a priority and those that wait for
            their key included.
        delayed: messages that wait for their time, retries included.
        in_flight: messages that a consumer owns.
        dead: messages in the dead letters.
        oldest_ready: age in seconds of the message that has been ready longest, for how far
            consumers are behind; None if none is. What waits for its key is left out: it waits for
            another message, and not for a consumer.
        sent: accepted by the queue so far (foreign XADDs are not counted).
        acked: handled so far.
        retried: sent back after a failure so far.
        died: moved to the dead letters so far.
        crashed: deliveries lost to dead consumers so far.
        dropped: deleted so far because their time to live was over (``Queue(expired="drop")``), or
            to make room (``Bound(on_full="drop_oldest")``).
        cancelled: deleted by ``cancel`` so far, before a handler had them.
        failed: lost with a handler that failed so far, in a queue with ``delivery="at_most_once"``.
            There, ``acked`` counts what was handed out and has neither failed nor come back, and
            nothing is ever in flight.
        consumers: who reads from the queue.
        paused: whether it is paused, so that nobody gets a message.
        partitions: the same of each partition, when the queue has several; they are counted one
            after the other.
        kept: messages that were handled and are kept (``Queue(keep=)``).
        late: replies to requests so far for which nobody waited any more, of an endpoint.
        expired: messages so far whose time to live was over before a handler began with them; they
            have died, or are among the dropped. Of an endpoint: requests whose deadline had passed.
    """

    name: str
    ready: int
    delayed: int
    in_flight: int
    dead: int
    oldest_ready: float | None
    sent: int
    acked: int
    retried: int
    died: int
    crashed: int
    dropped: int
    cancelled: int
    consumers: tuple[ConsumerStats, ...]
    failed: int = 0
    paused: bool = False
    partitions: tuple[QueueStats, ...] = ()
    kept: int = 0
    late: int = 0
    expired: int = 0


class SubscriptionStats(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription of a topic at one moment.

    Attributes:
        name: of the subscription.
        lag: messages that it has not begun with: those of the topic that it has not read, whether
            they match its filter or not, and those that came back to it.
        lag_seconds: how far it is behind in time: the age of the oldest of these, from when it was
            published or came back; None if there are none. What waits for its key is left out.
        delayed: messages that wait for another try.
        in_flight: messages that a consumer owns.
        dead: messages in its dead letters.
        oldest_unhandled: age in seconds of the oldest message that it has not handled, wherever that
            is but in the dead letters; None if there is none.
        acked: handled so far.
        retried: tried again after a failure so far.
        died: moved to the dead letters so far.
        crashed: deliveries lost to dead consumers so far.
        filtered: passed over so far because they do not match its filter.
        trimmed: deleted by retention so far before it had handled them, whether they match its
            filter or not (``Retain(until_consumed=False)``).
        consumers: who reads from it.
        paused: whether it is paused, so that nobody gets a message.
        filter: that it was made with, if any.
        expires: seconds without a consumer after which it is removed; None: never.
    """

    name: str
    lag: int
    lag_seconds: float | None
    delayed: int
    in_flight: int
    dead: int
    oldest_unhandled: float | None
    acked: int
    retried: int
    died: int
    crashed: int
    filtered: int
    trimmed: int
    consumers: tuple[ConsumerStats, ...]
    paused: bool = False
    filter: str | None = None
    expires: float | None = None


class TopicStats(msgspec.Struct, frozen=True, kw_only=True):
    """A topic at one moment; of one in partitions, each partition is counted after the other.

    Attributes:
        name: of the topic.
        length: messages that it keeps.
        bytes: about how much memory they take at the server.
        published: so far (foreign XADDs are not counted).
        subscriptions: each of them, by name.
    """

    name: str
    length: int
    bytes: int
    published: int
    subscriptions: tuple[SubscriptionStats, ...]


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule of a queue, as workers have declared it.

    Attributes:
        name: of the schedule; unique in its queue.
        spec: a cron expression, or an interval in seconds.
        tz: the time zone that a cron expression is read in.
        missed: what becomes of missed ticks: ``skip``, ``one`` or ``all``.
        next: the next tick; None while the schedule is paused.
        last: the last tick that was sent; None if none was yet.
        paused: whether people have paused it.
    """

    name: str
    spec: str | float
    tz: str
    missed: str
    next: datetime | None
    last: datetime | None
    paused: bool
