"""Topics: publish, subscribe, and what operators ask. Functions with ``mq`` are the client's methods."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol, TypedDict, TypeVar, Unpack, overload

from millstream.aio.delivery import Delivery
from millstream.aio.ephemeral import Ephemeral
from millstream.aio.feed import Feed
from millstream.aio.publishers import Publishers
from millstream.checks import check_options, check_topic, list_of
from millstream.driver.aio import AsyncDriver
from millstream.durability import check_durability
from millstream.errors import UsageError
from millstream.message import Receipt
from millstream.policy import Duration
from millstream.protocol import discovery
from millstream.protocol import seek as _seek
from millstream.protocol import subscriptions as protocol
from millstream.protocol.envelope import encode_headers
from millstream.protocol.keys import topic_keys
from millstream.protocol.listening import OnFull
from millstream.protocol.publish import publication
from millstream.topic import (
    Source,
    Start,
    Subscription,
    SubscriptionOptions,
    Topic,
    check_start,
)

__all__ = [
    "publish",
    "publish_many",
    "seek",
    "subscribe",
    "subscriptions",
    "topics",
    "unsubscribe",
]

T = TypeVar("T")


class Publishing(Protocol):
    """What these functions need of a client."""

    @property
    def namespace(self) -> str:
        """First part of all keys."""
        ...

    @property
    def driver(self) -> AsyncDriver:
        """What runs operations."""
        ...

    @property
    def publishers(self) -> Publishers:
        """What publishes to durable topics."""
        ...

    @property
    def ephemeral(self) -> Ephemeral:
        """What publishes and listens to topics that keep nothing."""
        ...

    def receive(
        self, queue: Source[T], *, prefetch: int = 10, wait: Duration | None = None
    ) -> AsyncGenerator[Delivery[T], None]:
        """Iterate over deliveries."""
        ...

    def look_again(self) -> None:
        """Have the client's receivers make sure of what they have fetched ahead."""
        ...


async def publish(
    mq: Publishing,
    topic: Topic[T],
    body: T,
    *,
    key: str | None = None,
    subject: str | None = None,
    headers: Mapping[str, str] | None = None,
    durability: str | None = None,
) -> Receipt:
    """Publish one message. Concurrent calls share round trips; alone, one waits for nothing.

    Args:
        topic: where to.
        body: of the topic's type.
        key: of which messages it is one: an ordered topic keeps their order. Others only hand it
            to the handler (``delivery.key``). Default: none.
        subject: what it is about, such as ``eu.paid``: tokens with dots between them, for the
            filters of subscriptions. Default: nothing; then no filter wants it.
        headers: metadata, strings to strings.
        durability: how far it has to get before this returns: ``memory``, ``fsync`` or
            ``replicas:N`` (docs/durability.md). Default: the topic's, else the client's.

    Returns:
        The receipt, once the server has the message, as durably as was asked for. Of an ephemeral topic (``durable=False``)
        its ``listeners`` says how many got it.

    Raises:
        UsageError: the body or an option makes no sense, or others declare the topic with another
            order or number of partitions. Nothing was published.
        NotConfirmed: it is stored, but the durability was not confirmed in time: see ``confirm``.
        UnsupportedServer, ServerRefused: the server can never confirm it. Nothing was published.
        BrokerError: the message may or may not be stored. A repeated call publishes a second one.

    Guarantee: stored once, also when the connection breaks on the way; from then on each
    subscription that exists gets it at least once, unless retention drops what it has not read
    (``until_consumed=False``). Of an ephemeral topic, none: who listens at
    this moment gets it, and may get it twice when the connection breaks on the way.
    """
    if not isinstance(topic, Topic):
        check_topic(topic)
    level = _durability(mq, topic, durability)
    if not topic.durable:
        return await mq.ephemeral.publish(topic, body, key=key, headers=headers, subject=subject)
    encoded = encode_headers(headers) if headers else b""
    if key is None and subject is None:
        return await (await mq.publishers.plain(topic, level)).send(topic.encode(body), encoded)
    one = publication(topic, topic.encode(body), encoded, key=key, subject=subject)
    return await (await mq.publishers.special(topic, level)).send(one)


async def publish_many(
    mq: Publishing,
    topic: Topic[T],
    bodies: Iterable[T],
    *,
    key: str | Callable[[T], str] | None = None,
    subject: str | Callable[[T], str] | None = None,
    headers: Mapping[str, str] | None = None,
    durability: str | None = None,
) -> list[Receipt]:
    """Publish many messages, in chunks of some hundred, one script call a chunk.

    Args:
        topic, bodies: where to; of its type. All are encoded before the first is published.
        key: the same for all, or a function that tells the key of a body.
        subject: the same for all, or a function that tells the subject of a body.
        headers, durability: as for ``publish``, the same for all.

    Returns:
        A receipt for each, in order.

    Raises:
        UsageError: as for ``publish``. Nothing was published.
        NotConfirmed: all are stored, some were not confirmed in time; it has a receipt of each.
        BrokerError: some chunks may be stored, others not.

    Guarantee: as for ``publish``; a chunk is stored whole or not at all. The order is kept; for
    messages without a key, unless a connection breaks on the way.
    """
    check_topic(topic)
    level = _durability(mq, topic, durability)
    bodies = list_of(bodies, "publish_many")
    if not topic.durable:
        return await mq.ephemeral.publish_many(
            topic, bodies, key=key, headers=headers, subject=subject
        )
    encoded = [topic.encode(body) for body in bodies]
    if not encoded:
        return []
    metadata = encode_headers(headers) if headers else b""
    if key is None and subject is None:
        same = [metadata] * len(encoded) if headers else None
        return await (await mq.publishers.plain(topic, level)).send_many(encoded, same)
    keys = (key(body) if callable(key) else key for body in bodies)
    subjects = (subject(body) if callable(subject) else subject for body in bodies)
    many = [
        publication(topic, data, metadata, key=one, subject=about)
        for data, one, about in zip(encoded, keys, subjects, strict=True)
    ]
    return await (await mq.publishers.special(topic, level)).send_many(many)


def _durability(mq: Publishing, topic: Topic[Any], asked: str | None) -> str:
    """Return what holds for a message: the word of the call, the topic, or the client."""
    if asked is None:
        return topic.durability or mq.publishers.durability
    if not topic.durable:
        message = (
            f"{topic.title} keeps nothing (durable=False), so there is nothing to confirm: leave out "
            f"durability={asked!r}"
        )
        raise UsageError(message)
    return check_durability(asked, "durability")


class SubscribeOptions(SubscriptionOptions, total=False):
    """The keyword parameters of ``subscribe`` to a durable topic, for type checkers."""

    prefetch: int
    wait: Duration | None


class ListenOptions(TypedDict, total=False):
    """The keyword parameters of ``subscribe`` to an ephemeral topic, for type checkers."""

    buffer: int
    on_full: OnFull
    wait: Duration | None


@overload
def subscribe(
    mq: Publishing, topic: Topic[T], name: str, **options: Unpack[SubscribeOptions]
) -> AsyncGenerator[Delivery[T], None]: ...
@overload
def subscribe(
    mq: Publishing, topic: Topic[T], name: None = ..., **options: Unpack[ListenOptions]
) -> Feed[T]: ...
def subscribe(
    mq: Publishing, topic: Topic[T], name: str | None = None, **options: Any
) -> AsyncGenerator[Delivery[T], None] | Feed[T]:
    """Iterate over what is published: the deliveries of a subscription, or what is heard.

    Of a durable topic it is ``receive(topic.subscription(name, ...))``, and the first step makes the
    subscription if it is new: settle each delivery, and consumers of the same name share the work.
    The subscription stays when the loop ends, and keeps its place.

    Of an ephemeral topic, or of all that a pattern stands for, it is an iterator of ``Heard`` (a
    message: nothing to settle) and ``Missed`` (what came in between was lost: the buffer was full,
    or the connection is new). It listens from the first step on; as a context manager, from the
    beginning of the block. All of a client's listeners share one connection.

    Args:
        topic: whose messages.
        name: of the subscription; an ephemeral topic has none.
        options: ``wait``: stop when no message came for so many seconds; default: go on until the
            client is closed. Of a durable topic ``prefetch`` (messages to fetch ahead, 1 to 10,000,
            default 10), and ``start``, ``filter``, ``retry``, ``lease``, ``expires``: see
            ``Subscription``. Of an ephemeral one ``buffer`` (most messages that wait for a slow
            listener, default 1000) and ``on_full``, which message has to go when there is one more:
            ``drop_oldest`` (default) or ``drop_newest``; or ``disconnect``: the listener gets those
            that wait, and then the error SlowListener.

    Raises:
        UsageError: a parameter makes no sense, or the subscription exists with another filter. By
            the iterator: a pattern, where a cluster has sharded Pub/Sub, which knows none.
        NotConnected, TimedOut: by the iterator: the server was lost and did not come back within
            the client's timeout.
        ServerRefused: by the iterator: the user may not read there, or another node of a cluster
            has the topic.

    Guarantee: each message of a durable topic is delivered at least once; bodies that do not decode
    go to the subscription's dead letters and are not yielded. None for a message of an ephemeral
    one; but a gap that Millstream can know of is told.
    """
    check_topic(topic)
    if topic.durable:
        if name is None:
            message = f"{topic.title} is durable: name the subscription"
            raise UsageError(message)
        check_options("subscribe", options, SubscribeOptions.__optional_keys__)
        receiving = {key: options.pop(key) for key in ("prefetch", "wait") if key in options}
        return mq.receive(Subscription(topic, name, **options), **receiving)
    if name is not None:
        message = f"{topic.title} keeps nothing, so it has no subscriptions: leave out {name!r}"
        raise UsageError(message)
    check_options("subscribe", options, ListenOptions.__optional_keys__)
    return _listen(mq, topic, **options)


def _listen(
    mq: Publishing,
    topic: Topic[T],
    *,
    buffer: int = 1000,
    on_full: OnFull = "drop_oldest",
    wait: Duration | None = None,
) -> Feed[T]:
    return mq.ephemeral.subscribe(topic, buffer=buffer, on_full=on_full, wait=wait)


async def topics(mq: Publishing) -> list[str]:
    """List the durable topics of the namespace by name, each from its first message or subscription.

    It looks at every key of the server, without holding others up.
    """
    return await mq.driver.drive(discovery.list_topics(mq.namespace), stale=True)


async def subscriptions(mq: Publishing, topic: Topic[T]) -> list[str]:
    """List the subscriptions of a topic by name; ``stats`` of the topic tells more of each."""
    check_topic(topic)
    known = protocol.subscriptions(topic_keys(mq.namespace, topic.name))
    return list(await mq.driver.run(known, stale=True))


async def unsubscribe(mq: Publishing, topic: Topic[T], name: str) -> bool:
    """Remove a subscription for good, its dead letters and all that waits for it included.

    Stop its consumers before: one that runs makes it anew.

    Args:
        topic: whose.
        name: of the subscription.

    Returns:
        Whether it was there.

    Raises:
        BrokerError: it may be removed or not; the call can be repeated.
    """
    check_topic(topic)
    own = topic.subscription(name)
    return await mq.driver.drive(
        protocol.unsubscribe(topic_keys(mq.namespace, topic.name), own.own_name)
    )


async def seek(
    mq: Publishing,
    topic: Topic[T],
    name: str,
    *,
    to: Start | datetime | str,
    force: bool = False,
) -> int:
    """Have a subscription go on from another place in the topic's history, back or forward.

    The place decides what comes next, and nothing else: what the subscription had not finished
    (in flight, waiting for another try or for its key, handed back) is forgotten, and comes again
    if it is behind the place. Dead letters stay, and so does a pause: it goes on from there.

    Args:
        topic: whose.
        name: of the subscription.
        to: ``EARLIEST``: the oldest message that the topic has; ``LATEST``: the next one that is
            published; a time with a time zone: the first that was published then or later; or the
            id of a message: that one. Before the oldest that is kept, it is the oldest.
        force: also while consumers of it run. Their deliveries are over: workers drop what they
            have not begun and stop handlers that are coroutines, receive loops drop what they have
            fetched ahead within a tenth of a second, and a late end is refused (``LeaseLost``).

    Returns:
        How many messages of the topic are ahead of it now, whether they match its filter or not.

    Raises:
        UsageError: a parameter makes no sense, there is no such subscription, or consumers of it
            run, or were heard of in the last minute, and ``force`` is not given. Nothing was done.
        BrokerError: it may have moved or not, or in some partitions; the call can be repeated.

    Guarantee: what comes after it is what the log has from that place on, each message at least
    once, in an ordered topic in the order of its key. Who had one of them before cannot end the new
    delivery of it.
    """
    check_topic(topic)
    own = topic.subscription(name)
    check_start(to, "to")
    if not isinstance(force, bool):
        message = f"force must be True or False, not {force!r}"
        raise UsageError(message)
    keys = topic_keys(mq.namespace, topic.name).subscription(own.own_name)
    ahead = await mq.driver.drive(_seek.seek(keys, to, force=force))
    mq.look_again()
    return ahead
