"""The partitions of an ordered queue: which one a key is in, who reads it, and what ids look like.

Order does not hang on any of this: it is kept at the server, in each partition. Workers share the
partitions out to share the work, and two that read the same one for a moment do no harm.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol, overload

from millstream.errors import MillstreamError, UsageError
from millstream.message import Receipt
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Command, Op, load_script
from millstream.protocol.send import Batch

__all__ = [
    "EXPIRY_MS",
    "bare_id",
    "by_partition",
    "check_not_ordered",
    "check_number",
    "declare",
    "declared",
    "in_partition",
    "join",
    "leave",
    "partition_of",
    "public_id",
    "share_of",
]

_JOIN = load_script("join")

EXPIRY_MS = 3200
"""How long a worker that is not heard of keeps its share: two beats, and a little."""


def partition_of(key: str, count: int) -> int:
    """Return the partition of a key: all messages of a key are in the same one.

    It is part of the wire format: CRC-32 of the key's UTF-8 bytes, modulo the number of partitions.
    """
    return zlib.crc32(key.encode()) % count


def share_of(member: str, members: Iterable[str], count: int) -> frozenset[int]:
    """Return the partitions that a worker reads.

    Args:
        member: the worker; when it is no member, as far as it knows, it acts as one.
        members: all workers.
        count: of partitions.

    Each partition is in the share of exactly one member, and shares differ by one at most.
    """
    ranked = sorted({member, *members})
    return frozenset(range(ranked.index(member), count, len(ranked)))


# Ids: unique in a partition. Beyond partition 0 the public one says which: 1795471878000-0/3.


def public_id(id: str, partition: int) -> str:
    """Return the id of a message as users see it."""
    return f"{id}/{partition}" if partition else id


def in_partition(batch: Batch[Receipt], partition: int) -> Batch[Receipt]:
    """Have receipts name their messages as users see them."""
    if not partition:
        return batch

    def named(
        producer: str, number: int, messages: Sequence[Any], headers: Sequence[bytes] | None
    ) -> Op[Sequence[Receipt | MillstreamError]]:
        op = batch(producer, number, messages, headers)

        def decode(replies: list[Any]) -> list[Receipt | MillstreamError]:
            return [_named(one, partition) for one in op.decode(replies)]

        return replace(op, decode=decode)

    return named


def _named(outcome: Receipt | MillstreamError, partition: int) -> Receipt | MillstreamError:
    if isinstance(outcome, Receipt):
        return Receipt(public_id(outcome.id, partition), outcome.duplicate)
    return outcome


def bare_id(id: str) -> tuple[str, int]:
    """Return the id of a message in its partition, and the partition."""
    bare, slash, number = id.partition("/")
    if slash and number.isascii() and number.isdecimal():
        return bare, int(number)
    return id, 0


def by_partition(ids: Iterable[str]) -> dict[int, list[str]]:
    """Group ids as users see them; the result has those of each partition, as they are there."""
    groups: dict[int, list[str]] = {}
    for one in ids:
        bare, partition = bare_id(one)
        groups.setdefault(partition, []).append(bare)
    return groups


# The number of partitions: the first user of an ordered queue says it, all others must agree.


class Divided(Protocol):
    """The keys of a queue, a topic or a subscription, as far as its partitions go."""

    @property
    def config(self) -> str:
        """Hash, what it is declared with."""
        ...

    @property
    def title(self) -> str:
        """What errors call it."""
        ...


def check_number(title: str, declared: int, stored: int) -> None:
    """Refuse a number of partitions that is not the queue's.

    Raises:
        UsageError: it explains how the number can be changed.
    """
    if declared == stored:
        return
    anew = (
        "stop whoever sends to it, let workers drain it, stop them, and call repartition(queue) with "
        "the new declaration. A queue that cannot stop gets a successor with another name"
        if title.startswith("queue ")
        else "publish to a new topic with another name, and move its subscriptions there"
    )
    message = (
        f"{title} has {stored} partition{'s'[: stored != 1]}, here it is declared with "
        f"partitions={declared}. A key's messages would go to another partition than those before "
        f"them. Declare it as it is; or, to change the number: {anew}."
    )
    raise UsageError(message)


def declare(keys: Divided, partitions: int) -> Op[None]:
    """Say how many partitions an ordered queue or topic has; from then on, everybody must agree.

    Args:
        keys: of its partition 0.
        partitions: how many.

    Raises:
        UsageError: it has another number.
    """
    commands = (
        Command(("HSETNX", keys.config, "partitions", partitions)),
        Command(("HGET", keys.config, "partitions")),
    )

    def decode(replies: list[Any]) -> None:
        check_number(keys.title, partitions, int(replies[1]))

    return Op(commands, decode)


def check_not_ordered(keys: Divided) -> Op[None]:
    """See that a queue or topic is not an ordered one, as somebody takes for granted who sends to it.

    A key would be no more than a label to that producer: its messages would be outside the
    order that all others keep, and a unique key would be looked up in the wrong partition.

    Args:
        keys: of its partition 0.

    Raises:
        UsageError: it is ordered; it says how to declare it.
    """

    def decode(stored: int | None) -> None:
        if stored is None:
            return
        parts = "" if stored == 1 else f", partitions={stored}"
        message = (
            f"{keys.title} is ordered: declare it with ordered=True{parts}, as the others "
            "do. Without that, only messages that ask for nothing (no key, no other option but "
            "headers) can be sent to it"
        )
        raise UsageError(message)

    op = declared(keys, None)
    return Op(op.commands, lambda replies: decode(op.decode(replies)))


@overload
def declared(keys: Divided, default: int = 1) -> Op[int]: ...
@overload
def declared(keys: Divided, default: None) -> Op[int | None]: ...
def declared(keys: Divided, default: int | None = 1) -> Op[Any]:
    """Ask how many partitions a queue or topic has.

    Args:
        keys: of its partition 0.
        default: the result when nobody has said it, as for every unordered queue.
    """
    command = Command(("HGET", keys.config, "partitions"))

    def decode(replies: list[Any]) -> int | None:
        return default if replies[0] is None else int(replies[0])

    return Op((command,), decode, readonly=True)


# Membership: the workers that share the partitions.


def join(
    keys: QueueKeys, member: str, partitions: int | None, *, now_ms: int | None = None
) -> Op[list[str]]:
    """Become a member, or go on as one; the result is all members.

    Args:
        keys: of partition 0.
        member: a worker.
        partitions: of the queue; None: of an endpoint, whose members only show that they live.
        now_ms: the time, for tests; None: the server's clock.

    Raises:
        UsageError: the queue has another number of partitions.
    """
    return _join(keys, member, partitions, EXPIRY_MS, now_ms)


def leave(keys: QueueKeys, member: str, *, now_ms: int | None = None) -> Op[list[str]]:
    """Be a member no more; the others are told at once. The result is who is left."""
    return _join(keys, member, None, 0, now_ms)


def _join(
    keys: QueueKeys, member: str, partitions: int | None, stay_ms: int, now_ms: int | None
) -> Op[list[str]]:
    command = _JOIN.call(
        [keys.members, keys.control, keys.config],
        [member, "" if now_ms is None else now_ms, stay_ms, partitions or 0],
    )

    def decode(replies: list[Any]) -> list[str]:
        stored, *members = replies[0]
        if partitions is not None:
            check_number(keys.title, partitions, int(stored))
        return [one.decode() for one in members]

    return Op((command,), decode)
