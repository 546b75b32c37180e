"""Sends to the partitions of one queue or topic: each key has its own, the rest is spread evenly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from millstream.aio.bounded import BoundedSender
from millstream.declare import Queue
from millstream.driver.aio import AsyncDriver
from millstream.driver.aio_confirming import AsyncConfirming
from millstream.driver.aio_sender import AsyncSender
from millstream.errors import NotConfirmed
from millstream.message import Receipt
from millstream.protocol.keys import QueueKeys
from millstream.protocol.partitions import in_partition, partition_of
from millstream.protocol.place import Placement, placing
from millstream.protocol.publish import Publication
from millstream.protocol.send import sending
from millstream.protocol.unconfirmed import all_of

__all__ = ["Placer", "QueueSender", "placer_of", "publisher_of", "sender_of"]


class Router:
    """The sender of a queue with several partitions.

    Args:
        senders: one for each partition.
        name_of: what a message's partition follows from; empty: any will do.
        confirming: by what messages are to be confirmed; None: not at all.
    """

    def __init__(
        self,
        senders: Sequence[AsyncSender[Receipt]],
        name_of: Callable[[Any], str],
        confirming: AsyncConfirming | None,
    ) -> None:
        self._confirming = confirming
        self._senders = senders
        self._name_of = name_of
        self._next = itertools.count()

    async def send(self, message: Any, headers: bytes = b"") -> Receipt:
        """Send one message.

        Raises:
            BrokerError: it is not known to be stored.
        """
        return await self._senders[self._choose(message)].send(message, headers)

    async def send_many(
        self, messages: Sequence[Any], headers: Sequence[bytes] | None = None
    ) -> list[Receipt]:
        """Send messages, some hundred at a time of each partition; the receipts are in their order.

        Raises:
            BrokerError: a chunk is not known to be stored; others may be.
            NotConfirmed: all are stored, some are not confirmed.
        """
        groups: dict[int, list[int]] = {}
        for index, message in enumerate(messages):
            groups.setdefault(self._choose(message), []).append(index)
        calls = [
            partial(
                self._senders[partition].send_many,
                [messages[index] for index in indexes],
                [headers[index] for index in indexes] if headers else None,
            )
            for partition, indexes in groups.items()
        ]
        results: list[Sequence[Any]]
        if self._confirming is None:
            results = [await call() for call in calls]
        else:
            # One after the other, each would wait for a commit of its own.
            results = [_known(one) for one in await self._confirming.together(calls)]
        placed: dict[int, Receipt] = {}
        for indexes, receipts in zip(groups.values(), results, strict=True):
            placed.update(zip(indexes, receipts, strict=True))
        return all_of([placed[index] for index in range(len(messages))])

    def _choose(self, message: Any) -> int:
        count = len(self._senders)
        name = self._name_of(message)
        return partition_of(name, count) if name else next(self._next) % count

    async def close(self) -> None:
        """Wait for what is on its way."""
        for sender in self._senders:
            await sender.close()


QueueSender = AsyncSender[Receipt] | Router
"""What sends plain messages to a queue."""

Placer = QueueSender | BoundedSender
"""What sends other messages to it."""


def sender_of(
    driver: AsyncDriver, keys: Sequence[QueueKeys], confirming: AsyncConfirming | None
) -> QueueSender:
    """Return what sends plain messages to a queue with these partitions.

    Args:
        driver: of the client.
        keys: of each partition.
        confirming: by what they are to be confirmed; None: not at all.
    """
    batches = [in_partition(sending(one), one.partition) for one in keys]
    senders = [driver.sender(batch, confirming=confirming) for batch in batches]
    return _routed(senders, _nothing, confirming)


def placer_of(
    driver: AsyncDriver,
    keys: Sequence[QueueKeys],
    queue: Queue[Any],
    confirming: AsyncConfirming | None,
) -> Placer:
    """Return what sends other messages to a queue with these partitions; see ``sender_of``."""
    in_order = queue.ordered
    if queue.bound is not None:
        return BoundedSender(
            *(driver, keys[0], queue.bound), in_order=in_order, confirming=confirming
        )
    batches = [in_partition(placing(one), one.partition) for one in keys]
    senders = [driver.sender(batch, in_order=in_order, confirming=confirming) for batch in batches]
    return _routed(senders, _key_of, confirming)


def publisher_of(
    senders: Sequence[AsyncSender[Receipt]], *, keyed: bool, confirming: AsyncConfirming | None
) -> QueueSender:
    """Return what publishes to a topic.

    Args:
        senders: one for each partition.
        keyed: whether messages may have keys.
        confirming: as for ``sender_of``.
    """
    return _routed(senders, _key if keyed else _nothing, confirming)


def _routed(
    senders: Sequence[AsyncSender[Receipt]],
    name_of: Callable[[Any], str],
    confirming: AsyncConfirming | None,
) -> QueueSender:
    return senders[0] if len(senders) == 1 else Router(senders, name_of, confirming)


def _known(result: list[Receipt] | BaseException) -> Sequence[Any]:
    """Return what came of each message of a partition."""
    if isinstance(result, NotConfirmed):
        return result.parts
    if isinstance(result, BaseException):
        raise result
    return result


def _nothing(_: bytes) -> str:
    return ""


def _key_of(message: Placement) -> str:
    # A key must find its kind in one place, and so must a unique key that has no other.
    return message.key or message.unique


def _key(message: Publication) -> str:
    return message.key
