"""Topics and their subscriptions, as declared: values without a connection."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, overload

from millstream.codec import Codec, CodecName, codec_for
from millstream.declare import DEFAULT_MAX_BODY, Queue, check_name, check_partitions, check_place
from millstream.durability import check_durability
from millstream.errors import UsageError
from millstream.frozen import immutable
from millstream.message_id import check_id
from millstream.policy import Duration, Retain, Retry, Sieve, check_count, milliseconds
from millstream.subject import check_filter

__all__ = ["EARLIEST", "LATEST", "Source", "Start", "Subscription", "Topic", "check_start"]

T = TypeVar("T")

_SIGNS = "*>"

EXPIRES = 31 * 86_400.0
"""Seconds that a forgotten subscription lives by default: those of Google Cloud Pub/Sub
(cloud.google.com/pubsub/docs/subscription-properties)."""


class Start(enum.Enum):
    """Where a new subscription begins."""

    EARLIEST = "earliest"
    LATEST = "latest"


EARLIEST = Start.EARLIEST
"""With the oldest message that the topic has."""

LATEST = Start.LATEST
"""With the next message that is published."""


class TopicOptions(TypedDict, total=False):
    """The keyword parameters of ``Topic``, for type checkers."""

    durable: bool
    retry: Retry | None
    lease: Duration
    retain: Retain | None
    ordered: bool
    partitions: int
    codec: CodecName
    max_body: int
    durability: str | None


@immutable
@dataclass(frozen=True, slots=True, init=False)
class Topic(Generic[T]):
    """Publish/subscribe: each subscription gets every message, at least once.

    Args:
        name: 1 to 200 characters; publishers and subscribers in any language share it. With
            ``durable=False`` it may be a pattern to listen to many topics: ``*`` stands for one
            token between dots, ``>`` at the end for all the rest (``ticks.*``).
        body_type: what a body is, as for ``Queue``. Default: any JSON value.
        durable: whether messages are kept until every subscription has handled them (default), or
            reach only those who listen at that moment (Redis Pub/Sub).
        retry: attempts, backoff and crash limit of subscriptions that declare none of their own.
        lease: seconds that a consumer owns a delivery, in the same way. Default 30.
        retain: what is kept once it is handled (``Retain``). The last one that is declared counts, for
            all who use the topic. Default: what others declare; if nobody does, nothing is kept
            that all subscriptions have handled.
        ordered: each subscription handles the messages of one key one at a time, in the order of
            publishing. All users of a topic must agree. Default: no.
        partitions: of an ordered topic, 1 (default) to 1024, as for ``Queue``.
        codec: ``json`` (default) or ``msgpack``. All users of a topic must agree.
        max_body: the largest body in bytes; a larger one is a UsageError at the publisher.
        durability: how far a message has to get before ``publish`` returns, as for ``Queue``.
            Default: what the client says.

    Raises:
        UsageError: a parameter does not make sense; it names the parameter.
    """

    name: str
    body_type: Any
    durable: bool
    retry: Retry
    lease_ms: int
    retain: Retain | None
    ordered: bool
    partitions: int
    max_body: int
    durability: str | None
    codec: Codec[T] = field(repr=False, compare=False)

    @overload
    def __init__(self, name: str, body_type: type[T], **options: Unpack[TopicOptions]) -> None: ...

    # Unions and other types that are no class, which type checkers cannot express yet.
    @overload
    def __init__(
        self: Topic[Any], name: str, body_type: Any = ..., **options: Unpack[TopicOptions]
    ) -> None: ...

    def __init__(  # noqa: PLR0913 - a declaration says all about a topic in one place
        self,
        name: str,
        body_type: Any = Any,
        *,
        durable: bool = True,
        retry: Retry | None = None,
        lease: Duration = 30.0,
        retain: Retain | None = None,
        ordered: bool = False,
        partitions: int = 1,
        codec: CodecName = "json",
        max_body: int = DEFAULT_MAX_BODY,
        durability: str | None = None,
    ) -> None:
        # Slots of a cluster are for what has keys.
        check = check_place if durable else check_name
        check(name, "the topic's name")
        where = f"topic {name!r}"
        _check_type(durable, bool, f"{where}: durable must be True or False")
        _check_type(ordered, bool, f"{where}: ordered must be True or False")
        if retry is not None:
            _check_type(retry, Retry, f"{where}: retry must be a Retry")
        if retain is not None:
            _check_type(retain, Retain, f"{where}: retain must be a Retain")
        check_partitions(where, ordered, partitions)
        check_count(max_body, f"{where}: max_body")
        _check_pattern(where, name, durable=durable)
        if durability is not None:
            check_durability(durability, f"{where}: durability")
        if not durable:
            kept = {"retry": retry, "retain": retain, "ordered": ordered or None}
            _check_ephemeral(where, {**kept, "durability": durability})
        # The dataclass is frozen, so its own constructor sets fields in this way, too.
        put = object.__setattr__
        put(self, "name", name)
        put(self, "body_type", body_type)
        put(self, "durable", durable)
        put(self, "retry", retry or Retry())
        put(self, "lease_ms", milliseconds(lease, f"{where}: lease", minimum=0.1))
        put(self, "retain", retain)
        put(self, "ordered", ordered)
        put(self, "partitions", partitions)
        put(self, "max_body", max_body)
        put(self, "durability", durability)
        put(self, "codec", codec_for(body_type, where, codec))

    @property
    def title(self) -> str:
        """What logs and errors call it."""
        return f"topic {self.name!r}"

    @property
    def place(self) -> str:
        """What a client remembers its way to it by."""
        return f"{self.name}/{self.partitions}" if self.ordered else self.name

    def encode(self, body: T) -> bytes:
        """Turn a body into the bytes that are stored.

        Raises:
            UsageError: it has the wrong type or is too large.
        """
        data = self.codec.encode(body)
        if len(data) > self.max_body:
            message = (
                f"topic {self.name!r}: the body has {len(data)} bytes, "
                f"{self.max_body} are allowed (max_body)"
            )
            raise UsageError(message)
        return data

    @property
    def is_pattern(self) -> bool:
        """Whether it stands for many topics, and can only be listened to."""
        return any(sign in self.name for sign in _SIGNS)

    def subscription(self, name: str, **options: Unpack[SubscriptionOptions]) -> Subscription[T]:
        """Declare a subscription; the parameters are those of ``Subscription``."""
        return Subscription(self, name, **options)


class SubscriptionOptions(TypedDict, total=False):
    """The keyword parameters of ``Subscription``, for type checkers."""

    start: Start | datetime | str
    filter: str | None
    retry: Retry | None
    lease: Duration | None
    expires: Duration | None


@immutable
@dataclass(frozen=True, slots=True, init=False)
class Subscription(Generic[T]):
    """One subscription of a durable topic: its consumers share the work.

    It stands wherever a queue does: ``receive``, ``stats``, ``peek``, ``dead``, ``redrive``,
    ``purge``, ``pause``, ``resume``.

    Args:
        topic: whose messages.
        name: 1 to 200 characters; consumers of the same name share the work.
        start: where it begins when it is new: ``LATEST`` (default), ``EARLIEST``, a time with a
            time zone, or the id of the first message. An existing one keeps its place.
        filter: only messages whose subject matches: ``eu.*``, ``eu.>`` (docs/topics.md). All
            consumers must agree. Default: all messages.
        retry: attempts, backoff and crash limit. Default: the topic's.
        lease: seconds that a consumer owns a delivery. Default: the topic's.
        expires: seconds without any consumer after which it is removed, so that a forgotten one
            does not hold memory for ever. Default 31 days; None: never.

    Raises:
        UsageError: a parameter does not make sense; it names the parameter.
    """

    topic: Topic[T]
    own_name: str
    start: Start | datetime | str
    filter: str | None
    retry: Retry
    lease_ms: int
    expires_ms: int | None

    def __init__(
        self,
        topic: Topic[T],
        name: str,
        *,
        start: Start | datetime | str = LATEST,
        filter: str | None = None,  # noqa: A002 - the field's word
        retry: Retry | None = None,
        lease: Duration | None = None,
        expires: Duration | None = EXPIRES,
    ) -> None:
        _check_type(topic, Topic, "topic must be a Topic")
        check_name(name, "the subscription's name")
        where = f"subscription '{topic.name}/{name}'"
        if not topic.durable:
            message = (
                f"{where}: a topic with durable=False has no subscriptions, it reaches who listens"
            )
            raise UsageError(message)
        check_start(start, f"{where}: start")
        if retry is not None:
            _check_type(retry, Retry, f"{where}: retry must be a Retry")
        put = object.__setattr__
        put(self, "topic", topic)
        put(self, "own_name", name)
        put(self, "start", start)
        put(self, "filter", None if filter is None else check_filter(filter))
        put(self, "retry", retry or topic.retry)
        lease_ms = topic.lease_ms
        if lease is not None:
            lease_ms = milliseconds(lease, f"{where}: lease", minimum=0.1)
        put(self, "lease_ms", lease_ms)
        if expires is not None:
            expires = milliseconds(expires, f"{where}: expires", minimum=1)
        put(self, "expires_ms", expires)

    # What a queue has, too, for all that works with either.

    @property
    def name(self) -> str:
        """Topic and subscription, as logs and errors name it: no name has a slash."""
        return f"{self.topic.name}/{self.own_name}"

    @property
    def title(self) -> str:
        """What logs and errors call it."""
        return f"subscription {self.name!r}"

    @property
    def place(self) -> str:
        """What a client remembers its way to it by."""
        return self.name

    @property
    def codec(self) -> Codec[T]:
        """The topic's."""
        return self.topic.codec

    @property
    def ordered(self) -> bool:
        """The topic's."""
        return self.topic.ordered

    @property
    def partitions(self) -> int:
        """The topic's."""
        return self.topic.partitions

    @property
    def priorities(self) -> Literal["strict"]:
        """Messages of a topic have no priorities."""
        return "strict"

    @property
    def delivery(self) -> Literal["at_least_once"]:
        """Messages of a subscription are acknowledged."""
        return "at_least_once"

    @property
    def limits(self) -> Sieve | None:
        """What its readers are not given; None: they are given everything."""
        if self.filter is None and not self.topic.ordered:
            return None
        return Sieve(self.filter, self.topic.ordered)

    @property
    def max_running(self) -> int | None:
        """Subscriptions have none."""
        return None

    @property
    def keep(self) -> Retain | None:
        """None: what it has handled is in the log of its topic."""
        return None

    @property
    def results(self) -> None:
        """None: each subscription has handlers of its own, so a message has no one result."""
        return


Source = Queue[T] | Subscription[T]
"""What deliveries come from."""


def _check_type(value: object, kind: type, problem: str) -> None:
    if not isinstance(value, kind):
        message = f"{problem}, not {value!r}"
        raise UsageError(message)


def _check_pattern(where: str, name: str, *, durable: bool) -> None:
    """Refuse signs of patterns where they cannot stand for anything."""
    if not any(sign in name for sign in _SIGNS):
        return
    if durable:
        message = f"{where}: * and > make a pattern, which can only be listened to: durable=False"
        raise UsageError(message)
    try:
        check_filter(name)
    except UsageError as error:
        message = (
            f"{where}: in a pattern * stands for one token between dots, and > for all the rest, "
            "at the end"
        )
        raise UsageError(message) from error


def _check_ephemeral(where: str, declared: dict[str, object]) -> None:
    """Refuse what needs messages that are kept."""
    for name, value in declared.items():
        if value is not None:
            message = (
                f"{where}: {name} needs messages that are kept: leave it out, or durable=False"
            )
            raise UsageError(message)


def check_start(start: object, name: str) -> None:
    """Refuse what is no place in a topic's log.

    Args:
        start: what was given.
        name: the parameter's name, for the error.

    Raises:
        UsageError: it is none, or a time without a zone.
    """
    if isinstance(start, Start):
        return
    if isinstance(start, str):
        if start in (Start.EARLIEST.value, Start.LATEST.value):
            message = f"{name} must be ms.{start.upper()}, not {start!r}"
            raise UsageError(message)
        check_id(start, name)
    elif not isinstance(start, datetime):
        message = f"{name} must be EARLIEST, LATEST, a datetime or an id, not {start!r}"
        raise UsageError(message)
    elif start.tzinfo is None:
        message = f"{name} must have a time zone, {start!r} has none"
        raise UsageError(message)
