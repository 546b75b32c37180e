# GENERATED from src/millstream/aio/ephemeral.py by tools/unasync.py - do not edit
"""Topics that keep nothing (``durable=False``). Functions with ``mq`` are the client's methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from millstream.checks import check_ephemeral
from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_sender import BlockingSender
from millstream.errors import ServerRefused, UsageError
from millstream.message import Receipt
from millstream.policy import Duration, check_count, milliseconds
from millstream.protocol.ephemeral import channel_of, explained, payload_of, publishing
from millstream.protocol.listening import OnFull, check_on_full
from millstream.sync.feed import SyncFeed
from millstream.topic import Topic

__all__ = ["Ephemeral", "publish", "publish_many", "subscribe"]

T = TypeVar("T")

MOST_SENDERS = 1000
"""Topics that are remembered by who publishes on them; the names of topics may have no end."""


class Ephemeral:
    """Publishes and listens.

    Args:
        driver: of the client.
        namespace: of the client.
    """

    def __init__(self, driver: BlockingDriver, namespace: str) -> None:
        self._driver = driver
        self._namespace = namespace
        self._senders: dict[str, BlockingSender[Receipt]] = {}

    def publish(
        self,
        topic: Topic[T],
        body: T,
        *,
        key: str | None,
        headers: Mapping[str, str] | None,
        subject: str | None,
    ) -> Receipt:
        """Publish one message, in one write with those of other tasks."""
        _refuse_key(topic, key)
        payload = payload_of(topic.encode(body), headers, subject)
        sender = self._senders.get(topic.name) or self._sender(topic)
        try:
            return sender.send(payload)
        except ServerRefused as error:
            raise explained(error, channel_of(self._namespace, topic).name) from error

    def publish_many(
        self,
        topic: Topic[T],
        bodies: Iterable[T],
        *,
        key: str | Callable[[T], str] | None,
        headers: Mapping[str, str] | None,
        subject: str | Callable[[T], str] | None,
    ) -> list[Receipt]:
        """Publish many messages, some hundred in one write."""
        _refuse_key(topic, key)
        payloads = [
            payload_of(topic.encode(body), headers, subject(body) if callable(subject) else subject)
            for body in bodies
        ]
        sender = self._senders.get(topic.name) or self._sender(topic)
        try:
            return sender.send_many(payloads)
        except ServerRefused as error:
            raise explained(error, channel_of(self._namespace, topic).name) from error

    def _sender(self, topic: Topic[Any]) -> BlockingSender[Receipt]:
        if topic.is_pattern:
            message = f"topic {topic.name!r} is a pattern: it can be listened to, not published on"
            raise UsageError(message)
        self._driver.open()
        if len(self._senders) >= MOST_SENDERS:
            self._senders.pop(next(iter(self._senders))).close()
        sender = self._driver.sender(publishing(self._namespace, topic))
        return self._senders.setdefault(topic.name, sender)

    def subscribe(
        self, topic: Topic[T], *, buffer: int, on_full: OnFull, wait: Duration | None
    ) -> SyncFeed[T]:
        """Return an iterator that listens."""
        check_count(buffer, "buffer")
        check_on_full(on_full)
        seconds = math.inf if wait is None else milliseconds(wait, "wait") / 1000
        return SyncFeed(
            self._driver,
            self._namespace,
            topic,
            buffer=buffer,
            on_full=on_full,
            wait=seconds,
        )

    def close(self) -> None:
        """Wait for what is on its way."""
        for sender in self._senders.values():
            sender.close()


def _refuse_key(topic: Topic[Any], key: object) -> None:
    if key is not None:
        message = (
            f"{topic.title}: key orders messages that are kept, and this topic keeps none "
            "(durable=False): leave it out, or say it in a header"
        )
        raise UsageError(message)


class Connected(Protocol):
    """What these functions need of a client."""

    @property
    def ephemeral(self) -> Ephemeral:
        """What publishes and listens."""
        ...


def publish(
    mq: Connected,
    topic: Topic[T],
    body: T,
    *,
    key: str | None = None,
    subject: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Receipt:
    """Publish one message. Concurrent calls share round trips; alone, a call waits for nothing.

    Args:
        topic: where to; an ephemeral one (``durable=False``).
        body: of the topic's type.
        key: of durable topics only: an ephemeral one has nothing to order.
        subject: what it is about: tokens with dots between them (``eu.paid``).
        headers: metadata, strings to strings.

    Returns:
        The receipt; ``listeners`` says how many got it.

    Raises:
        UsageError: the body or an option makes no sense. Nothing was published.
        BrokerError: it may or may not have been published.

    Guarantee: of an ephemeral topic, none. Who listens at this moment gets it, and may get it
    twice when the connection breaks on the way.
    """
    check_ephemeral(topic)
    return mq.ephemeral.publish(topic, body, key=key, headers=headers, subject=subject)


def publish_many(
    mq: Connected,
    topic: Topic[T],
    bodies: Iterable[T],
    *,
    key: str | Callable[[T], str] | None = None,
    subject: str | Callable[[T], str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> list[Receipt]:
    """Publish many messages, in chunks of some hundred, one write a chunk.

    Args:
        topic: where to.
        bodies: of the topic's type. All are encoded before the first is published.
        key: of durable topics only.
        subject: the same for all, or a function that tells the subject of a body.
        headers: metadata, the same for all.

    Returns:
        A receipt for each, in order.

    Raises:
        UsageError: as for ``publish``. Nothing was published.
        BrokerError: some may have been published, others not.
    """
    check_ephemeral(topic)
    return mq.ephemeral.publish_many(topic, bodies, key=key, headers=headers, subject=subject)


def subscribe(
    mq: Connected,
    topic: Topic[T],
    *,
    buffer: int = 1000,
    on_full: OnFull = "drop_oldest",
    wait: Duration | None = None,
) -> SyncFeed[T]:
    """Listen to an ephemeral topic, or to all that a pattern stands for.

    The result is an iterator of ``Heard`` (a message: nothing to settle) and ``Missed`` (what
    came in between was lost: the buffer was full, or the connection is new). It listens from
    the first step on; as a context manager, from the beginning of the block. All of a client's
    listeners share one connection.

    Args:
        topic: an ephemeral one (``durable=False``).
        buffer: most messages that wait for a slow listener. Default 1000.
        on_full: which message has to go when there is one more: ``drop_oldest`` (default) or
            ``drop_newest``; or ``disconnect``: the listener gets those that wait, and then the
            error SlowListener.
        wait: stop when no message came for so many seconds. Default: go on until the client is
            closed.

    Raises:
        UsageError: a parameter makes no sense.
        NotConnected, TimedOut: by the iterator: the server was lost and did not come back
            within the client's timeout.
        ServerRefused: by the iterator: the user may not listen to this channel.

    Guarantee: none for a message; but a gap that Millstream can know of is told.
    """
    check_ephemeral(topic)
    return mq.ephemeral.subscribe(topic, buffer=buffer, on_full=on_full, wait=wait)
