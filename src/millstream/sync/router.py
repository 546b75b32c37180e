# GENERATED from src/millstream/aio/router.py by tools/unasync.py - do not edit
"""Sends to the partitions of one queue or topic: each key has its own, the rest is spread evenly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from millstream.declare import Queue
from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_sender import BlockingSender
from millstream.message import Receipt
from millstream.protocol.keys import QueueKeys
from millstream.protocol.partitions import partition_of, public_id
from millstream.protocol.place import Placement, placing
from millstream.protocol.publish import Publication
from millstream.protocol.send import sending
from millstream.sync.bounded import BoundedSender

__all__ = ["Placer", "QueueSender", "placer_of", "publisher_of", "sender_of"]


class Router:
    """The sender of a queue with several partitions.

    Args:
        senders: one for each partition.
        name_of: what a message's partition follows from; empty: any will do.
    """

    def __init__(
        self, senders: Sequence[BlockingSender[Receipt]], name_of: Callable[[Any], str]
    ) -> None:
        self._senders = senders
        self._name_of = name_of
        self._next = itertools.count()

    def send(self, message: Any, headers: bytes = b"") -> Receipt:
        """Send one message.

        Raises:
            BrokerError: it is not known to be stored.
        """
        partition = self._choose(message)
        receipt = self._senders[partition].send(message, headers)
        return _in(partition, receipt)

    def send_many(
        self, messages: Sequence[Any], headers: Sequence[bytes] | None = None
    ) -> list[Receipt]:
        """Send messages, some hundred at a time of each partition; the receipts are in their order.

        Raises:
            BrokerError: a chunk is not known to be stored; others may be.
        """
        groups: dict[int, list[int]] = {}
        for index, message in enumerate(messages):
            groups.setdefault(self._choose(message), []).append(index)
        placed: dict[int, Receipt] = {}
        for partition, indexes in groups.items():
            receipts = self._senders[partition].send_many(
                [messages[index] for index in indexes],
                [headers[index] for index in indexes] if headers else None,
            )
            for index, receipt in zip(indexes, receipts, strict=True):
                placed[index] = _in(partition, receipt)
        return [placed[index] for index in range(len(messages))]

    def _choose(self, message: Any) -> int:
        count = len(self._senders)
        name = self._name_of(message)
        return partition_of(name, count) if name else next(self._next) % count

    def close(self) -> None:
        """Wait for what is on its way."""
        for sender in self._senders:
            sender.close()


QueueSender = BlockingSender[Receipt] | Router
"""What sends plain messages to a queue."""

Placer = QueueSender | BoundedSender
"""What sends other messages to it."""


def sender_of(driver: BlockingDriver, keys: Sequence[QueueKeys]) -> QueueSender:
    """Return what sends plain messages to a queue with these partitions."""
    return _routed([driver.sender(sending(one)) for one in keys], _nothing)


def placer_of(driver: BlockingDriver, keys: Sequence[QueueKeys], queue: Queue[Any]) -> Placer:
    """Return what sends other messages to a queue with these partitions."""
    if queue.bound is not None:
        return BoundedSender(driver, keys[0], queue.bound, in_order=queue.ordered)
    senders = [driver.sender(placing(one), in_order=queue.ordered) for one in keys]
    return _routed(senders, _key_of)


def publisher_of(senders: Sequence[BlockingSender[Receipt]], *, keyed: bool) -> QueueSender:
    """Return what publishes to a topic.

    Args:
        senders: one for each partition.
        keyed: whether messages may have keys.
    """
    return _routed(senders, _key if keyed else _nothing)


def _routed(
    senders: Sequence[BlockingSender[Receipt]], name_of: Callable[[Any], str]
) -> QueueSender:
    return senders[0] if len(senders) == 1 else Router(senders, name_of)


def _nothing(_: bytes) -> str:
    return ""


def _key_of(message: Placement) -> str:
    # A key must find its kind in one place, and so must a unique key that has no other.
    return message.key or message.unique


def _key(message: Publication) -> str:
    return message.key


def _in(partition: int, receipt: Receipt) -> Receipt:
    return msgspec.structs.replace(receipt, id=public_id(receipt.id, partition))
