"""Subscriptions of a topic: made, listed, counted and removed.

A subscription is a consumer group on the log of its topic, and what a queue has beside its ready lane
(docs/wire-format.md). It is the same in each partition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from millstream.errors import UsageError
from millstream.message import SubscriptionStats, TopicStats
from millstream.protocol import partitions
from millstream.protocol.admin import age_of, consumers_of
from millstream.protocol.keys import QueueKeys, TopicKeys
from millstream.protocol.op import Argument, Command, Op, Plan, load_script
from millstream.protocol.retention import text_of
from millstream.protocol.whole import merged
from millstream.topic import EARLIEST, LATEST, Start, Subscription

__all__ = [
    "Declared",
    "behind",
    "register_at",
    "subscribe",
    "subscriptions",
    "topic_stats",
    "unsubscribe",
]

_SUBSCRIBE = load_script("subscribe")
_UNSUBSCRIBE = load_script("unsubscribe")
_TOPIC_STATS = load_script("topic_stats")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LAST_SEQUENCE = (1 << 64) - 1


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """How a subscription is declared, as the server knows it.

    Attributes:
        filter: only messages whose subject matches; None: all.
        expires: ms without any consumer after which it is removed; None: never.
    """

    filter: str | None = None
    expires: int | None = None


_decode = msgspec.json.Decoder(Declared).decode


def subscribe(keys: TopicKeys, subscription: Subscription[Any]) -> Plan[None]:
    """Make a subscription where it starts; one that exists keeps its place. Safe to repeat.

    Args:
        keys: of partition 0 of the topic.
        subscription: as declared.

    Raises:
        UsageError: the topic has another number of partitions, or the subscription another filter.
    """
    if subscription.ordered or subscription.partitions > 1:
        own = keys.subscription(subscription.own_name)
        yield partitions.declare(own, subscription.partitions)
    for number in range(subscription.partitions):
        own = keys.at(number).subscription(subscription.own_name)
        yield register_at(own, subscription, "", 0)


def register_at(
    own: QueueKeys, subscription: Subscription[Any], consumer: str, lease_ms: int
) -> Op[None]:
    """Make a subscription in one partition, and a consumer of it. Safe to repeat.

    Args:
        own: keys of the subscription in this partition.
        subscription: as declared.
        consumer: who; empty: nobody.
        lease_ms: of the consumer.

    Raises:
        UsageError: the topic has another number of partitions, or the subscription another filter.
    """
    topic = own.topic
    declared = {"filter": subscription.filter, "expires": subscription.expires_ms}
    start = behind(subscription.start, own.partition)
    text = msgspec.json.encode({name: one for name, one in declared.items() if one is not None})
    streams = (*own.lanes, own.wake, own.consumers, own.paused, own.config)
    command = _SUBSCRIBE.call(
        [*streams, topic.subscriptions, topic.idle],
        [own.group, consumer, lease_ms, start, text, text_of(subscription.topic.retain)],
    )

    def decode(replies: list[Any]) -> None:
        stored, found, agreed = replies[0]
        if stored is not None:
            partitions.check_number(own.name, subscription.partitions, int(stored))
        if not agreed:
            _refuse(subscription, found.decode())

    return Op((command,), decode)


def _refuse(subscription: Subscription[Any], found: str) -> None:
    exists = f"the filter {found!r}" if found else "no filter"
    declared = f"filter={subscription.filter!r}" if subscription.filter else "none"
    message = (
        f"subscription {subscription.name} exists with {exists}, here it is declared with "
        f"{declared}: its consumers would disagree on which messages are for it. Declare it as it "
        "is, give the new one another name, or remove the old one first (unsubscribe)"
    )
    raise UsageError(message)


def behind(start: Start | datetime | str, partition: int) -> str:
    """Return the id behind which a subscription starts, as the scripts take it.

    Args:
        start: as declared.
        partition: where.
    """
    if start is EARLIEST:
        return "0-0"
    if start is LATEST:
        return "$"
    if isinstance(start, str):
        id, at = partitions.bare_id(start)
        ms, sequence = (int(part) for part in id.split("-"))
        # In other partitions it is a time.
        return _before(ms, sequence if at == partition else 0)
    assert isinstance(start, datetime)  # noqa: S101 - as the declaration has checked
    # Rounded up: the first message that is not before it.
    return _before(max(0, -((_EPOCH - start) // _MILLISECOND)), 0)


def _before(ms: int, sequence: int) -> str:
    if sequence:
        return f"{ms}-{sequence - 1}"
    return f"{ms - 1}-{_LAST_SEQUENCE}" if ms else "0-0"


def subscriptions(keys: TopicKeys) -> Op[dict[str, Declared]]:
    """Return the subscriptions of a topic by their names, in order, and how they are declared.

    Args:
        keys: of the topic.
    """
    command = Command(("HGETALL", keys.subscriptions))

    def decode(replies: list[Any]) -> dict[str, Declared]:
        flat: Sequence[bytes] = replies[0]
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return {name.decode(): _decode(text) for name, text in sorted(pairs)}

    return Op((command,), decode, readonly=True)


def unsubscribe(keys: TopicKeys, name: str) -> Plan[bool]:
    """Remove a subscription with all that waits for it; the result is whether there was one.

    Args:
        keys: of partition 0 of the topic.
        name: of the subscription. A consumer that runs makes it again.
    """
    own = keys.subscription(name)
    count: int = yield partitions.declared(own)
    existed = False
    for number in range(count):
        at = keys.at(number)
        script_keys = [at.log, at.subscriptions, at.idle, *at.subscription(name).own]
        done: int = yield Op((_UNSUBSCRIBE.call(script_keys, [name]),), decode=_first)
        existed = existed or bool(done)
    return existed


class _Part(msgspec.Struct, frozen=True):
    """What topic_stats.lua says of one partition."""

    length: int
    size: int
    published: int
    subscriptions: Mapping[str, SubscriptionStats]


def topic_stats(keys: TopicKeys) -> Plan[TopicStats]:
    """Count what a topic has and what each subscription has to do; each partition at one moment.

    Args:
        keys: of partition 0 of the topic.
    """
    count: int = yield partitions.declared(keys.subscription("-"))
    parts: list[_Part] = []
    for number in range(count):
        at = keys.at(number)
        declared: dict[str, Declared] = yield subscriptions(at)
        parts.append((yield _part_stats(at, declared)))
    names = sorted({name for part in parts for name in part.subscriptions})
    found = [[p.subscriptions[name] for p in parts if name in p.subscriptions] for name in names]
    return TopicStats(
        name=keys.name,
        length=sum(part.length for part in parts),
        bytes=sum(part.size for part in parts),
        published=sum(part.published for part in parts),
        subscriptions=tuple(_together(rows) for rows in found),
    )


_SUMS = (
    *("lag", "delayed", "in_flight", "dead"),
    *("acked", "retried", "died", "crashed", "filtered", "trimmed"),
)


def _together(rows: Sequence[SubscriptionStats]) -> SubscriptionStats:
    if len(rows) == 1:
        return rows[0]
    changes: dict[str, Any] = {name: sum(getattr(row, name) for row in rows) for name in _SUMS}
    for name in ("lag_seconds", "oldest_unhandled"):
        ages = (getattr(row, name) for row in rows)
        changes[name] = max((age for age in ages if age is not None), default=None)
    changes["consumers"] = merged(one for row in rows for one in row.consumers)
    return msgspec.structs.replace(rows[0], **changes)


def _part_stats(at: TopicKeys, declared: Mapping[str, Declared]) -> Op[_Part]:
    script_keys = [at.log, at.counters]
    for name in declared:
        own = at.subscription(name)
        script_keys += (*own.lanes, own.dead, own.counters, own.due, own.priority, own.lines)
        script_keys.append(own.paused)
    names: list[Argument] = [*declared]
    command = _TOPIC_STATS.call(script_keys, names)

    def decode(replies: list[Any]) -> _Part:
        length, size, published, now_ms, *rows = replies[0]
        found = {
            name: _row(name, declared[name], row, now_ms)
            for name, row in zip(declared, rows, strict=True)
        }
        return _Part(length, size, published, found)

    return Op((command,), decode, readonly=True)


def _row(name: str, declared: Declared, row: Sequence[Any], now_ms: int) -> SubscriptionStats:
    lag, in_flight, delayed, dead, waits, counters, consumers, paused, oldest = row
    totals = dict(zip(counters[::2], counters[1::2], strict=True))
    counted = ("acked", "retried", "died", "crashed", "filtered", "trimmed")
    return SubscriptionStats(
        name=name,
        lag=lag,
        lag_seconds=age_of(waits, now_ms),
        delayed=delayed,
        in_flight=in_flight,
        dead=dead,
        oldest_unhandled=age_of(oldest, now_ms),
        consumers=consumers_of(consumers),
        paused=bool(paused),
        filter=declared.filter,
        expires=None if declared.expires is None else declared.expires / 1000,
        **{one: int(totals.get(one.encode(), 0)) for one in counted},
    )


def _first(replies: list[Any]) -> Any:
    return replies[0]
