# GENERATED from src/millstream/aio/sending.py by tools/unasync.py - do not edit
"""Sending to queues. Functions with ``mq`` are the client's methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol, TypeVar, Unpack, overload

from millstream.checks import check_options, check_results, check_sendable, list_of
from millstream.declare import Queue
from millstream.driver.blocking import BlockingDriver
from millstream.durability import check_durability
from millstream.message import Receipt
from millstream.message_id import check_id
from millstream.protocol.envelope import encode_headers
from millstream.protocol.keys import QueueKeys
from millstream.protocol.options import (
    SendManyOptions,
    SendOptions,
    check_for_many,
    placement,
)
from millstream.protocol.partitions import check_not_ordered
from millstream.queue_checks import check_confirmable
from millstream.sync.confirm import confirming_of
from millstream.sync.results import Results, SyncHandle
from millstream.sync.router import Placer, QueueSender, placer_of, sender_of
from millstream.topic import Source

__all__ = ["Senders", "handle", "send", "send_many"]

T = TypeVar("T")


class Senders:
    """What a client sends to queues by, made for each queue when it is needed first.

    Args:
        driver: of the client.
        declare: makes a queue known, and returns the keys of its partitions.

    Attributes:
        durability: of the client.
        plain: place of a queue, durability -> what sends a body and headers.
        placers: the same -> what sends messages with options, or within a bound.
    """

    def __init__(
        self,
        driver: BlockingDriver,
        declare: Callable[[Queue[Any]], list[QueueKeys]],
        durability: str,
    ) -> None:
        self._driver = driver
        self._declare = declare
        self.durability = durability
        self.plain: dict[tuple[str, str], QueueSender] = {}
        self.placers: dict[tuple[str, str], Placer] = {}

    def way(self, queue: Queue[Any], asked: str | None) -> tuple[str, str]:
        """Return by what to look for a sender: the place, and the durability that holds for a send.

        Raises:
            UsageError: there is no such durability.
        """
        if asked is not None:
            return queue.place, check_durability(asked, "durability")
        return queue.place, queue.durability or self.durability

    def sender(self, queue: Queue[Any], way: tuple[str, str]) -> QueueSender:
        """Return what sends plain messages.

        Raises:
            UsageError: others declare the queue in another way.
        """
        keys = self._declare(queue)
        confirming = confirming_of(self._driver, way[1])
        return self.plain.setdefault(way, sender_of(self._driver, keys, confirming))

    def placer(self, queue: Queue[Any], way: tuple[str, str]) -> Placer:
        """Return what sends other messages.

        Raises:
            UsageError: others declare the queue in another way, or a send that waits for room is to
                be confirmed.
        """
        check_confirmable(queue.name, queue.bound, way[1])
        keys = self._declare(queue)
        if not queue.ordered:
            self._driver.run(check_not_ordered(keys[0]))
        confirming = confirming_of(self._driver, way[1])
        return self.placers.setdefault(way, placer_of(self._driver, keys, queue, confirming))

    def close(self) -> None:
        """Wait for what is on its way."""
        for sender in [*self.plain.values(), *self.placers.values()]:
            sender.close()


class Sending(Protocol):
    """What these functions need of a client."""

    @property
    def senders(self) -> Senders:
        """What sends to queues."""
        ...

    @property
    def results(self) -> Results:
        """What waits for results."""
        ...

    def keys_of(self, queue: Source[Any]) -> QueueKeys:
        """Return the keys of a queue."""
        ...


@overload
def send(
    mq: Sending,
    queue: Queue[T],
    body: T,
    *,
    result: Literal[False] = ...,
    headers: Mapping[str, str] | None = ...,
    durability: str | None = ...,
    **options: Unpack[SendOptions],
) -> Receipt: ...


@overload
def send(
    mq: Sending,
    queue: Queue[T],
    body: T,
    *,
    result: Literal[True],
    headers: Mapping[str, str] | None = ...,
    durability: str | None = ...,
    **options: Unpack[SendOptions],
) -> SyncHandle: ...


@overload
def send(
    mq: Sending,
    queue: Queue[T],
    body: T,
    *,
    result: bool,
    headers: Mapping[str, str] | None = ...,
    durability: str | None = ...,
    **options: Unpack[SendOptions],
) -> Receipt | SyncHandle: ...


def send(
    mq: Sending,
    queue: Queue[T],
    body: T,
    *,
    result: bool = False,
    headers: Mapping[str, str] | None = None,
    durability: str | None = None,
    **options: Unpack[SendOptions],
) -> Receipt | SyncHandle:
    """Send one message. Concurrent sends share round trips; alone, a send waits for nothing.

    Args:
        queue, body: where to; of its type.
        result: whether to keep what its handler returns (``Queue(results=)``). Default: no.
        headers: metadata, strings to strings.
        delay, at: seconds until it may run, or the time, with a time zone. Default: at once.
        key: of which messages it is one (``Queue(ordered=, max_running_per_key=)``). Default: none.
        priority: 0 (normal, default) to 9 (highest): see ``Queue(priorities=)``.
        unique: while this is taken, sends with it store nothing and return the first's receipt.
        unique_for: until when it is taken: ``done`` (default: acknowledged, dead, cancelled or
            expired), ``started`` (a handler begins with it), or so many seconds from now.
        ttl: seconds within which a handler must begin with it (``Queue(expired=)``). Default: any.
        durability: ``memory``, ``fsync`` or ``replicas:N``. Default: the queue's, else the client's.

    Returns:
        The receipt, once the message is that safe; with ``result=True`` a handle that has it.

    Raises:
        UsageError: the call makes no sense, or others divide the queue differently. Nothing was sent.
        QueueFull: the queue has reached its bound. Nothing was sent.
        NotConfirmed: it is stored, but not confirmed to be that safe: see ``confirm``.
        BrokerError: the message may or may not be stored. A repeated call sends a second one.

    Guarantee: stored once, also when the connection breaks on the way; from then on delivered at
    least once, never before its time and never after its time to live, by the server's clock.
    """
    senders = mq.senders
    if not isinstance(queue, Queue):
        check_sendable(queue)
    encoded = encode_headers(headers) if headers else b""
    way = senders.way(queue, durability)
    if options or result or queue.bound is not None:
        check_options("send", options, SendOptions.__optional_keys__)
        placed = placement(queue, queue.encode(body), encoded, result=result, **options)
        placer = senders.placers.get(way) or senders.placer(queue, way)
        receipt = placer.send(placed)
        return SyncHandle(receipt, queue, mq.keys_of(queue), mq.results) if result else receipt
    sender = senders.plain.get(way) or senders.sender(queue, way)
    return sender.send(queue.encode(body), encoded)


def send_many(
    mq: Sending,
    queue: Queue[T],
    bodies: Iterable[T],
    *,
    headers: Mapping[str, str] | None = None,
    key: str | Callable[[T], str] | None = None,
    durability: str | None = None,
    **options: Unpack[SendManyOptions],
) -> list[Receipt]:
    """Send many messages, in chunks of some hundred, one script call a chunk.

    Args:
        queue, bodies: where to; of its type. All are encoded before the first is sent.
        key: the same for all, or a function that tells that of a body.
        headers, durability: as in ``send``, the same for all.
        options: as in ``send``, but without ``unique``: all but the first would be duplicates.

    Returns:
        A receipt for each, in order.

    Raises:
        UsageError: as for ``send``, or they are more than the bound. Nothing was sent.
        QueueFull: they do not all fit into a queue with a bound. Nothing was sent.
        NotConfirmed: all are stored, some are not confirmed; it has a receipt of each.
        BrokerError: some chunks may be stored, others not.

    Guarantee: as for ``send``. With a bound they go in one call; else a chunk is stored whole or not
    at all. The order is kept; for messages without a key, unless a connection breaks on the way.
    """
    senders = mq.senders
    check_sendable(queue)
    way = senders.way(queue, durability)
    check_for_many(options)
    bodies = list_of(bodies, "send_many")
    encoded = [queue.encode(body) for body in bodies]
    if not encoded:
        return []
    if options or key is not None or queue.bound is not None:
        keys = (key(body) if callable(key) else key for body in bodies)
        metadata = encode_headers(headers) if headers else b""
        placed = [
            placement(queue, data, metadata, key=one, **options)
            for data, one in zip(encoded, keys, strict=True)
        ]
        placer = senders.placers.get(way) or senders.placer(queue, way)
        return placer.send_many(placed)
    same = [encode_headers(headers)] * len(encoded) if headers else None
    sender = senders.plain.get(way) or senders.sender(queue, way)
    return sender.send_many(encoded, same)


def handle(mq: Sending, queue: Queue[Any], id: str) -> SyncHandle:
    """Return the handle of a message that was sent with ``result=True``, here or in any other process.

    Nothing is asked of the server yet.

    Args:
        queue: where it was sent to.
        id: of the message, as its receipt or its handle has it.

    Raises:
        UsageError: the id is none, or the queue is declared without results.
    """
    check_results(queue)
    return SyncHandle(Receipt(check_id(id)), queue, mq.keys_of(queue), mq.results)
