"""Every key name. No other module spells one.

All keys of one partition of a queue share a hash tag, so that scripts may use them together on a
cluster. A queue that is not divided is its own partition 0.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "GROUP",
    "LANES",
    "QueueKeys",
    "TopicKeys",
    "in_special_lane",
    "is_suspect",
    "mailbox_key",
    "queue_keys",
    "subscription_keys",
    "topic_keys",
]

GROUP = "workers"
"""The consumer group of a queue's streams: all consumers of the queue share the work."""

LANES = {"": "ready", "f": "front", "s": "suspect"}
"""Prefix of a delivery's token -> the stream that it was read from.

``front`` holds messages that were handed back or taken over: they are read before ``ready``.
``suspect`` holds messages whose consumers died twice: each worker reads one at a time, so that
a message that kills workers cannot drag its neighbours along (docs/adr/0004).
"""


def in_special_lane(token: bytes) -> bool:
    """Tell whether a delivery was read from another lane than ready: its token has a prefix."""
    return token[0] > _NINE


def is_suspect(token: bytes) -> bool:
    """Tell whether a delivery was read from the lane that is read one message at a time."""
    return token.startswith(b"s")


_NINE = ord("9")


class QueueKeys(msgspec.Struct, frozen=True):
    """The keys of one partition of a queue, or of a topic's subscription, which is a queue, too.

    Attributes:
        namespace: first part of the keys.
        name: of the queue, or of the topic.
        subscription: of the topic; empty for a queue.
        group: the consumer group on all streams.
        partition: which one, from 0.
        store: what keeps the messages that wait: ``stream`` or ``list`` (see ``listed``).
        ready: stream of messages that wait for a consumer; of a subscription the topic's log, which
            it shares with the others.
        front: stream that is read before ready.
        suspect: stream that is read one message at a time.
        wake: stream whose entries wake a sleeping reader, when a message is due earlier than
            the reader knows.
        due: sorted set, message id -> the time in ms at which it becomes ready.
        delayed: hash, message id -> its fields, while it waits in ``due``, ``priority`` or
            ``lines``.
        dead: stream of dead letters.
        kept: stream of what was handled, in a queue that keeps it.
        priority: sorted set of messages above the normal priority, the highest first.
        lines: sorted set, the messages of each key that wait for their turn.
        holders: hash, key -> the messages of it that have their turn.
        unique: hash, unique key -> the message that has it. Also, of each unfinished message whose
            result is wanted, a zero byte and its id -> its id.
        counters: hash of totals.
        consumers: hash, consumer -> its lease in ms.
        sweeper: hash, who takes over expired leases at present, and how far it got.
        paused: hash, lane -> where its group stood; it exists while the queue is paused.
        control: stream that tells live workers of pauses, cancellations and moved partitions; it
            expires.
        config: hash, what an ordered queue is declared with; in partition 0 only. Of a
            subscription that of its topic.
        members: sorted set, worker -> when its share of the partitions goes to others unless it
            is heard of; in partition 0 only. Of an endpoint: the workers that serve it.
        schedules: hash, name of a schedule -> JSON: when it ticks, and its next tick; in
            partition 0 only.
        senders: sorted set, the tickets of producers that wait for room in a full queue -> their
            place; it expires.
        alive: sorted set, the same tickets -> until when, in ms, their producers count as alive;
            it expires.
        room: stream that tells them whose turn it is; it expires.
        rate: hash, the token bucket of a queue with a rate; it expires when the bucket is full.
        prefix: of all of them.
    """

    namespace: str
    name: str
    subscription: str
    group: str
    partition: int
    store: str
    ready: str
    front: str
    suspect: str
    wake: str
    due: str
    delayed: str
    dead: str
    kept: str
    counters: str
    priority: str
    lines: str
    holders: str
    unique: str
    consumers: str
    sweeper: str
    paused: str
    control: str
    config: str
    members: str
    schedules: str
    rate: str
    senders: str
    alive: str
    room: str
    prefix: str

    def at(self, partition: int) -> QueueKeys:
        """Return the keys of a partition of the same queue or subscription."""
        if self.subscription:
            return subscription_keys(self.namespace, self.name, self.subscription, partition)
        return queue_keys(self.namespace, self.name, partition, self.store)

    @property
    def all(self) -> tuple[str, ...]:
        """All keys, but those that expire by themselves and whose names have further parts."""
        parts = {"namespace", "name", "subscription", "group", "partition", "store", "prefix"}
        return tuple(getattr(self, one) for one in self.__struct_fields__ if one not in parts)

    @property
    def full_name(self) -> str:
        """Of the queue, or of the topic and its subscription: no name has a slash."""
        return f"{self.name}/{self.subscription}" if self.subscription else self.name

    @property
    def title(self) -> str:
        """What logs and errors call it."""
        return f"{'subscription' if self.subscription else 'queue'} {self.full_name!r}"

    @property
    def own(self) -> tuple[str, ...]:
        """Those of a subscription that are not its topic's."""
        return tuple(key for key in self.all if key.startswith(f"{self.prefix}:"))

    def producer(self, producer: str) -> str:
        """Return the key that remembers the last batch of one producer; it expires."""
        return f"{self.prefix}:producer:{producer}"

    def window(self, unique: str) -> str:
        """Return the key that stands for a unique key for some time; it expires."""
        return f"{self.prefix}:window:{unique}"

    @property
    def common(self) -> tuple[str, ...]:
        """The first KEYS of every script that moves messages, in the order that they expect."""
        return (
            *self.lanes,
            self.dead,
            self.counters,
            self.due,
            self.delayed,
            self.wake,
            self.priority,
            self.lines,
            self.holders,
            self.unique,
            self.paused,
        )

    @property
    def listed(self) -> tuple[str, ...]:
        """The first KEYS of the scripts of a list queue, in the order that they expect.

        ``ready`` is a list there; ``list-front`` another one, of messages that were handed back, and
        ``list-suspect`` one of messages that are taken one at a time. ``leases`` is a sorted set, delivery -> when its lease ends; ``landing`` a list, where
        a sleeping read puts what woke it; ``seen`` a sorted set, consumer -> when it was heard of.
        Each consumer has a hash of its own, ``processing:NAME``, token -> element.
        """
        return (
            self.ready,
            f"{self.prefix}:list-suspect",
            f"{self.prefix}:leases",
            *(self.dead, self.counters, self.due, self.delayed),
            self.landing,
            self.consumers,
            f"{self.prefix}:seen",
            *(self.paused, self.control, f"{self.prefix}:list-front"),
        )

    def returned(self, consumer: str) -> str:
        """Return the key with the number of the last message that a consumer handed back; it expires.

        Only what was taken at most once comes back in this way.
        """
        return f"{self.prefix}:returned:{consumer}"

    @property
    def landing(self) -> str:
        """The list where the sleeping reads of a list queue put what woke them."""
        return f"{self.prefix}:landing"

    def processing(self, consumer: str) -> str:
        """Return the hash of what a consumer of a list queue has in hand."""
        return f"{self.prefix}:processing:{consumer}"

    def removed(self, schedule: str) -> str:
        """Return the key that says for a while that people have removed a schedule; it expires."""
        return f"{self.prefix}:removed:{schedule}"

    @property
    def queueing(self) -> tuple[str, str]:
        """The KEYS of a script in which messages end: who waits for their room, and how to tell."""
        return self.senders, self.room

    @property
    def resulting(self) -> tuple[str, str, str]:
        """The KEYS of what handlers return to senders that want it; all of them expire.

        ``results`` is a hash, message id -> its result; ``result-ends`` a sorted set, the same ids ->
        when their results are dropped; ``waiters`` a hash, message id -> whose mailboxes hear of it.
        """
        return f"{self.prefix}:results", f"{self.prefix}:result-ends", f"{self.prefix}:waiters"

    @property
    def topic(self) -> TopicKeys:
        """The keys of a subscription's topic, in the same partition."""
        return topic_keys(self.namespace, self.name, self.partition)

    def lane(self, prefix: str) -> str:
        """Return the stream of a lane, by the prefix of its tokens."""
        name: str = getattr(self, LANES[prefix])
        return name

    @property
    def lanes(self) -> tuple[str, str, str]:
        """The streams that messages are read from, in the order of ``LANES``."""
        return self.ready, self.front, self.suspect


class TopicKeys(msgspec.Struct, frozen=True):
    """The keys of one partition of a topic; each subscription has further ones.

    Attributes:
        namespace: first part of the keys.
        name: of the topic.
        partition: which one, from 0.
        log: stream of what is published; each subscription is a consumer group of it.
        counters: hash of totals; a queue may have the same name.
        subscriptions: hash, name of a subscription -> JSON: how it is declared; the same in each
            partition.
        config: hash, what it keeps; in partition 0 also, into how many partitions it is divided.
        sleepers: hash, name of a subscription with a reader that sleeps -> until when, and for what
            subjects; it expires.
        idle: hash, name of a subscription without a consumer -> since when; the empty name: when
            to look again.
        channel: of Pub/Sub, for a topic that keeps nothing; no key.
        prefix: of all of them.
    """

    namespace: str
    name: str
    partition: int
    log: str
    counters: str
    subscriptions: str
    config: str
    sleepers: str
    idle: str
    channel: str
    prefix: str

    @property
    def title(self) -> str:
        """What logs and errors call it."""
        return f"topic {self.name!r}"

    def at(self, partition: int) -> TopicKeys:
        """Return the keys of a partition of the same topic."""
        return topic_keys(self.namespace, self.name, partition)

    def producer(self, producer: str) -> str:
        """Return the key that remembers the last batch of one producer; it expires."""
        return f"{self.prefix}:producer:{producer}"

    def subscription(self, name: str) -> QueueKeys:
        """Return the keys of a subscription in this partition."""
        return subscription_keys(self.namespace, self.name, name, self.partition)


def _prefix(namespace: str, name: str, partition: int) -> str:
    """Return the part that all keys of a partition share; the cluster hashes what is in braces."""
    tag, rest = name, ""
    if name.startswith("{"):
        tag, brace, rest = name[1:].partition("}")
        rest = rest if brace else ""
    return (
        f"{namespace}:{{{tag}/{partition}}}{rest}" if partition else f"{namespace}:{{{tag}}}{rest}"
    )


def topic_keys(namespace: str, name: str, partition: int = 0) -> TopicKeys:
    """Return the keys of a topic in a namespace, or of one of its partitions."""
    prefix = _prefix(namespace, name, partition)
    return TopicKeys(
        namespace=namespace,
        name=name,
        partition=partition,
        log=f"{prefix}:log",
        counters=f"{prefix}:log-counters",
        subscriptions=f"{prefix}:subscriptions",
        config=f"{prefix}:log-config",
        sleepers=f"{prefix}:sleepers",
        idle=f"{prefix}:idle",
        channel=f"{prefix}:channel",
        prefix=prefix,
    )


def queue_keys(namespace: str, name: str, partition: int = 0, store: str = "stream") -> QueueKeys:
    """Return the keys of a queue in a namespace, or of one of its partitions."""
    prefix = _prefix(namespace, name, partition)
    ready = f"{prefix}:list" if store == "list" else f"{prefix}:ready"
    place = (namespace, name, "", GROUP, partition)
    return _queue_keys(prefix, ready, f"{prefix}:config", place, store)


def subscription_keys(
    namespace: str, name: str, subscription: str, partition: int = 0
) -> QueueKeys:
    """Return the keys of a topic's subscription in a namespace, or in one partition.

    Its own streams have its name as their group, too, as one read has one group.
    """
    prefix = _prefix(namespace, name, partition)
    place = (namespace, name, subscription, subscription, partition)
    own = f"{prefix}:subscription:{subscription}"
    return _queue_keys(own, f"{prefix}:log", f"{prefix}:log-config", place)


def _queue_keys(
    prefix: str,
    ready: str,
    config: str,
    place: tuple[str, str, str, str, int],
    store: str = "stream",
) -> QueueKeys:
    namespace, name, subscription, group, partition = place
    return QueueKeys(
        namespace=namespace,
        name=name,
        subscription=subscription,
        group=group,
        partition=partition,
        store=store,
        ready=ready,
        front=f"{prefix}:front",
        suspect=f"{prefix}:suspect",
        wake=f"{prefix}:wake",
        due=f"{prefix}:due",
        delayed=f"{prefix}:delayed",
        dead=f"{prefix}:dead",
        kept=f"{prefix}:kept",
        counters=f"{prefix}:counters",
        priority=f"{prefix}:priority",
        lines=f"{prefix}:lines",
        holders=f"{prefix}:holders",
        unique=f"{prefix}:unique",
        consumers=f"{prefix}:consumers",
        sweeper=f"{prefix}:sweeper",
        paused=f"{prefix}:paused",
        control=f"{prefix}:control",
        config=config,
        members=f"{prefix}:members",
        schedules=f"{prefix}:schedules",
        rate=f"{prefix}:rate",
        senders=f"{prefix}:senders",
        alive=f"{prefix}:alive",
        room=f"{prefix}:room",
        prefix=prefix,
    )


def mailbox_key(namespace: str, client: str) -> str:
    """Return the stream where a client gets the replies to its requests; it expires.

    No queue has such a prefix: a partition is a number.
    """
    return f"{namespace}:{{client/{client}}}:mailbox"
