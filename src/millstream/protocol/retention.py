"""Retention: what a topic keeps of what is handled, and which subscriptions nobody needs.

Nobody is there only to trim. Who publishes does it on the way, in the write that carries a batch; who
sweeps for a subscription does it, too, so that a topic to which nobody publishes is cleaned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from millstream.message import Receipt
from millstream.policy import Retain
from millstream.protocol import partitions
from millstream.protocol.keys import TopicKeys
from millstream.protocol.op import Command, Op, Plan, load_script
from millstream.protocol.send import Batch

__all__ = ["Removed", "Trimmed", "Trims", "remove_forgotten", "retain", "text_of", "trim"]

_RETAIN = load_script("retain")
_TRIM = load_script("trim")
_EXPIRE = load_script("expire_subscription")

ENTRIES_A_CALL = 10_000
"""Bounds the time that one call keeps the server busy: entries go by whole nodes, a hundred at a
time, so it is less than a millisecond."""

MESSAGES_BETWEEN = 1000
SECONDS_BETWEEN = 1.0
"""How many messages, or how long, a publisher lets pass between two looks."""

QUIET_MS = 1000
"""A look that is due by time alone is left out when somebody has had one just before."""

LIVING_MS = 60_000
"""A consumer that lives asks every twenty seconds."""


def text_of(policy: Retain | None) -> bytes:
    """Return a declaration as the server keeps it; empty: nothing is declared."""
    if policy is None:
        return b""
    bounds = {
        "max_age": policy.max_age_ms,
        "max_length": policy.max_length,
        "max_bytes": policy.max_bytes,
    }
    declared: dict[str, Any] = {name: one for name, one in bounds.items() if one is not None}
    if not policy.until_consumed:
        declared["until_consumed"] = False
    return msgspec.json.encode(declared)


def retain(keys: TopicKeys, policy: Retain) -> Op[None]:
    """Say what a topic keeps; the last one who says it counts.

    Args:
        keys: of one partition.
        policy: as declared.
    """
    command = _RETAIN.call([keys.config], [text_of(policy)])
    return Op((command,), decode=lambda _: None)


class Trimmed(msgspec.Struct, frozen=True):
    """What a look at a partition has done and found.

    Attributes:
        deleted: how many messages.
        more: whether there may be more to delete.
        forgotten: subscriptions that nobody has consumed for longer than they live.
    """

    deleted: int
    more: bool
    forgotten: tuple[str, ...]


def trim(
    keys: TopicKeys,
    *,
    quiet_ms: int = 0,
    limit: int = ENTRIES_A_CALL,
    living_ms: int = LIVING_MS,
    now_ms: int | None = None,
) -> Op[Trimmed]:
    """Delete what the topic does not keep, some messages a call. Safe to repeat.

    Args:
        keys: of one partition.
        quiet_ms: nothing is done when somebody has looked so short a time ago.
        limit: most messages to delete, from 1000.
        living_ms: in which a consumer that lives is heard of.
        now_ms: the time, for tests; None: the server's clock.

    Guarantee: without ``until_consumed=False``, no message goes that a subscription has not handled,
    unless it has a copy of its own.
    """
    streams = [keys.log, keys.config, keys.counters, keys.subscriptions, keys.idle]
    time = "" if now_ms is None else now_ms
    command = _TRIM.call(streams, [time, limit, quiet_ms, living_ms])
    return Op((command,), decode=lambda replies: _trimmed(replies[0]))


def _trimmed(reply: Sequence[Any]) -> Trimmed:
    deleted, more, names = reply
    return Trimmed(deleted, bool(more), tuple(name.decode() for name in names))


class Trims:
    """When a client that publishes to a partition looks what can go.

    Args:
        keys: of the partition.
        clock: tells the time in seconds.

    Attributes:
        forgotten: subscriptions that were found and have not been taken care of.
        problem: why the last look failed; None: it did not.
    """

    def __init__(self, keys: TopicKeys, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._published = 0
        self._due_at = 0.0
        [self._at_once] = _beside(trim(keys))
        [self._in_time] = _beside(trim(keys, quiet_ms=QUIET_MS))
        self.forgotten: list[str] = []
        self.problem: Exception | None = None

    def beside(self, batch: Batch[Receipt]) -> Batch[Receipt]:
        """Have a look go before a batch whenever one is due: what it deletes makes room for it."""

        def both(
            producer: str, number: int, messages: Sequence[Any], headers: Sequence[bytes] | None
        ) -> Op[Any]:
            op = batch(producer, number, messages, headers)
            look = self._due(len(messages))
            if look is None:
                return op

            def decode(replies: list[Any]) -> Any:
                self._hear(replies[0])
                return op.decode(replies[1:])

            return Op((look, *op.commands), decode)

        return both

    def _due(self, count: int) -> Command | None:
        """Return the command to send along; None: it is too early."""
        now = self._clock()
        many = self._published >= MESSAGES_BETWEEN
        if not many and now < self._due_at:
            self._published += count
            return None
        self._published = count
        self._due_at = now + SECONDS_BETWEEN
        return self._at_once if many else self._in_time

    def _hear(self, reply: Any) -> None:
        if isinstance(reply, Exception):
            self.problem = reply
            return
        self.problem = None
        found = _trimmed(reply)
        self.forgotten += found.forgotten
        if found.more:
            self._published = MESSAGES_BETWEEN


def _beside(op: Op[Trimmed]) -> list[Command]:
    """Return the commands of a look that must not make what goes with it fail."""
    return [Command(one.arguments, one.script, optional=True) for one in op.commands]


class Removed(msgspec.Struct, frozen=True):
    """A subscription that is gone because nobody needed it.

    Attributes:
        idle_ms: for how long nobody had consumed it.
        unhandled: messages that it had not handled.
        dead: its dead letters.
    """

    idle_ms: int
    unhandled: int
    dead: int


def remove_forgotten(
    keys: TopicKeys, name: str, *, living_ms: int = LIVING_MS, now_ms: int | None = None
) -> Plan[Removed | None]:
    """Remove a subscription whose time is over, unless it is in use after all. Safe to repeat.

    Args:
        keys: of the partition that was looked at.
        name: of the subscription.
        living_ms: in which a consumer that lives is heard of.
        now_ms: the time, for tests; None: the server's clock.

    The result is None when it stays: in that partition its time must be over, and in no other one
    may a consumer live.
    """
    time = "" if now_ms is None else now_ms

    def step(number: int, *, over: bool, remove: bool) -> Op[Removed | None]:
        at = keys.at(number)
        own = at.subscription(name)
        streams = [*own.lanes, own.dead, own.counters, own.due, own.priority, own.lines, own.paused]
        command = _EXPIRE.call(
            [*streams, at.subscriptions, at.idle, *own.own],
            [name, time, living_ms, int(over), int(remove)],
        )
        return Op((command,), decode=_removed)

    count: int = yield partitions.declared(keys.at(0))
    others = [number for number in range(count) if number != keys.partition]
    for number in others:
        if (yield step(number, over=False, remove=False)) is None:
            return None
    done: Removed | None = yield step(keys.partition, over=True, remove=True)
    if done is None:
        return None
    unhandled, dead = done.unhandled, done.dead
    for number in others:
        more: Removed | None = yield step(number, over=False, remove=True)
        if more is not None:
            unhandled, dead = unhandled + more.unhandled, dead + more.dead
    return Removed(done.idle_ms, unhandled, dead)


def _removed(replies: list[Any]) -> Removed | None:
    return None if replies[0] is None else Removed(*replies[0])
