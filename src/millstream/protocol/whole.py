"""What operators ask of a whole queue: each question goes to all of its partitions.

How many there are, the server tells: who looks at a queue need not know how it is declared.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, TypeVar

import msgspec

from millstream.errors import UsageError
from millstream.message import ConsumerStats, QueueStats
from millstream.protocol import admin, control, kept
from millstream.protocol.envelope import Envelope
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Command, Op, Plan, load_script
from millstream.protocol.partitions import by_partition, declare, declared

__all__ = [
    "dead",
    "in_flight",
    "merged",
    "pause",
    "peek_delayed",
    "peek_ready",
    "purge",
    "purge_dead",
    "purge_kept",
    "redrive",
    "repartition",
    "resume",
    "stats",
]

T = TypeVar("T")

_VACATE = load_script("vacate")

HEARD_OF = 60.0
"""Seconds within which every consumer that lives asks for messages."""

SUMS = (
    *("ready", "delayed", "in_flight", "dead", "kept"),
    *("sent", "acked", "retried", "died", "crashed", "dropped", "cancelled", "failed"),
)


def stats(keys: QueueKeys) -> Plan[QueueStats]:
    """Count a queue's messages by state; one partition after the other."""
    found = yield from _each(keys, admin.stats)
    if len(found) == 1:
        return found[0]
    ages = [one.oldest_ready for one in found if one.oldest_ready is not None]
    changes: dict[str, Any] = {name: sum(getattr(one, name) for one in found) for name in SUMS}
    changes["oldest_ready"] = max(ages, default=None)
    changes["consumers"] = merged(one for each in found for one in each.consumers)
    changes["partitions"] = tuple(
        msgspec.structs.replace(one, name=f"{keys.full_name}/{number}")
        for number, one in enumerate(found)
    )
    return msgspec.structs.replace(found[0], **changes)


def merged(rows: Iterable[ConsumerStats]) -> tuple[ConsumerStats, ...]:
    """Put together what the partitions say of each worker: its consumers' names begin alike."""
    merged: dict[str, ConsumerStats] = {}
    for row in rows:
        name = row.name.partition("/")[0]
        so_far = merged.get(name)
        merged[name] = ConsumerStats(
            name=name,
            in_flight=row.in_flight + (so_far.in_flight if so_far else 0),
            idle=min(row.idle, so_far.idle) if so_far else row.idle,
        )
    return tuple(merged[name] for name in sorted(merged))


def peek_ready(keys: QueueKeys, limit: int) -> Plan[list[tuple[int, Envelope]]]:
    """Return the next messages, the oldest first as far as partitions allow, with the partition."""
    found = yield from _each(keys, lambda one: admin.peek_ready(one, limit))
    return _oldest(found, limit, lambda envelope: admin.order_of(envelope.state.id))


def peek_delayed(keys: QueueKeys, limit: int) -> Plan[list[tuple[int, tuple[Envelope, int]]]]:
    """Return delayed messages with their due times, the next one first, with the partition."""
    found = yield from _each(keys, lambda one: admin.peek_delayed(one, limit))
    return _oldest(found, limit, lambda pair: (pair[1], 0))


def in_flight(keys: QueueKeys, limit: int) -> Plan[list[tuple[int, tuple[Envelope, str, int]]]]:
    """Return messages that consumers own, the oldest first, with the partition; see ``admin.in_flight``."""
    found = yield from _each(keys, lambda one: admin.in_flight(one, limit))
    return _oldest(found, limit, lambda row: admin.order_of(row[0].state.id))


def dead(keys: QueueKeys, after: str | None, limit: int) -> Plan[list[tuple[int, Envelope]]]:
    """Return a page of dead letters, the oldest first, with the partition.

    Args:
        keys: of partition 0.
        after: the cursor of the last one of the page before: its entry, and its partition.
        limit: how many at most.
    """
    [(last, entries)] = by_partition([after]).items() if after else [(0, [None])]

    def page(one: QueueKeys) -> Op[list[Envelope]]:
        # Two that died in the same millisecond stand in the order of their partitions.
        same = after is not None and one.partition > last
        return admin.dead(one, entries[0], limit, inclusive=same)

    found = yield from _each(keys, page)
    return _oldest(found, limit, lambda envelope: admin.order_of(envelope.token.decode()))


def redrive(
    keys: QueueKeys, *, ids: Sequence[str] | None, reason: str | None, rate: float | None
) -> Plan[int]:
    """Send dead letters back to their partitions; the result is how many. See ``admin.redrive``."""
    if ids is not None:
        total = 0
        for partition, some in by_partition(ids).items():
            total += yield from admin.redrive(
                keys.at(partition), ids=some, reason=reason, rate=rate
            )
        return total
    return (
        yield from _all(keys, lambda one: admin.redrive(one, ids=None, reason=reason, rate=rate))
    )


def purge(keys: QueueKeys) -> Plan[int]:
    """Delete what is ready or delayed; the result is how many messages."""
    return (yield from _all(keys, admin.purge))


def purge_dead(keys: QueueKeys) -> Plan[int]:
    """Delete all dead letters; the result is how many."""
    return (yield from _all(keys, admin.purge_dead))


def purge_kept(keys: QueueKeys) -> Plan[int]:
    """Delete what was handled and kept; the result is how many messages."""
    return (yield from _all(keys, kept.purge_kept))


def pause(keys: QueueKeys, partitions: int = 1) -> Plan[None]:
    """Have no consumer get a message any more. Safe to repeat.

    Args:
        keys: of partition 0.
        partitions: into how many the queue is divided if nobody has used it yet.
    """
    if partitions > 1:
        yield Op((Command(("HSETNX", keys.config, "partitions", partitions)),), decode=_first)
    yield from _each(keys, control.pause)


def resume(keys: QueueKeys) -> Plan[None]:
    """Go on where the queue was paused. Safe to repeat."""
    yield from _each(keys, control.resume)


def repartition(keys: QueueKeys, partitions: int) -> Plan[None]:
    """Divide an ordered queue anew.

    Args:
        keys: of partition 0.
        partitions: into how many.

    Raises:
        UsageError: it is in use; the error says by whom or what.
    """
    stored: int | None = yield declared(keys, None)
    if stored is None or stored == partitions:
        yield declare(keys, partitions)
        if (yield control.is_paused(keys)):
            yield from pause(keys)
        return
    found: QueueStats = yield from stats(keys)
    members: int = yield Op((Command(("ZCARD", keys.members)),), decode=_first)
    readers = sum(one.idle < HEARD_OF for one in found.consumers)
    _check_unused(keys.title, found, max(members, readers))
    for number in range(stored, partitions) if found.paused else ():
        yield control.pause(keys.at(number))
    # New users come with the new number from now on, and do not touch what goes away.
    yield Op((Command(("HSET", keys.config, "partitions", partitions)),), decode=_first)
    for number in range(partitions, stored):
        gone = keys.at(number)
        first = (*gone.lanes, gone.dead, gone.due, gone.priority, gone.lines, gone.kept)
        others = [key for key in gone.all if key not in first]
        held: int = yield Op((_VACATE.call([*first, *others], []),), decode=_first)
        if held:
            yield Op((Command(("HSET", keys.config, "partitions", stored)),), decode=_first)
            message = (
                f"{keys.title} stays as it is: {held} messages came into partition "
                f"{number} meanwhile. Stop whoever sends to it, and let workers drain it"
            )
            raise UsageError(message)


def _check_unused(title: str, found: QueueStats, readers: int) -> None:
    names = ("ready", "delayed", "in_flight", "dead", "kept")
    held = {name: getattr(found, name) for name in names}
    what = [f"{count} {name.replace('_', ' ')}" for name, count in held.items() if count]
    if readers:
        what.append(f"{readers} workers or receivers")
    if what:
        message = (
            f"{title} is in use ({', '.join(what)}), so it cannot be divided anew. Stop "
            "whoever sends to it, let workers drain it, redrive or purge its dead letters, purge what "
            "it keeps, and stop the workers"
        )
        raise UsageError(message)


def _first(replies: list[Any]) -> Any:
    return replies[0]


def _each(keys: QueueKeys, ask: Callable[[QueueKeys], Op[T]]) -> Plan[list[T]]:
    """Ask every partition; a queue that is not divided costs one round trip."""
    first = ask(keys)
    number = Command(("HGET", keys.config, "partitions"))

    def decode(replies: list[Any]) -> tuple[int, T]:
        return int(replies[0] or 1), first.decode(replies[1:])

    count, answer = yield Op((number, *first.commands), decode, readonly=first.readonly)
    answers = {0: answer}
    for partition in range(1, count):
        answers[partition] = yield ask(keys.at(partition))
    return [*answers.values()]


def _all(keys: QueueKeys, work: Callable[[QueueKeys], Plan[int]]) -> Plan[int]:
    """Do something in every partition, and add up how much it was."""
    count: int = yield declared(keys)
    total = 0
    for partition in range(count):
        total += yield from work(keys.at(partition))
    return total


def _oldest(
    found: Sequence[Sequence[T]], limit: int, age: Callable[[T], tuple[int, int]]
) -> list[tuple[int, T]]:
    """Merge what the partitions have; the order within each is kept."""
    if len(found) == 1:
        return [(0, one) for one in found[0]]
    rows = [[(age(one), number, one) for one in some] for number, some in enumerate(found)]
    merged = heapq.merge(*rows, key=lambda row: row[:2])
    return [(number, one) for _, number, one in islice(merged, limit)]
