"""Seek: a subscription goes on from another place in the log of its topic.

It is what no other operation does: a log's entries may be delivered a second time, under the ids that
they had. So what settles or extends a delivery of a log looks who owns it, once there was a seek.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from millstream.errors import UsageError
from millstream.protocol import partitions
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Command, Op, Plan, load_script
from millstream.protocol.subscriptions import behind
from millstream.topic import Start

__all__ = ["extend_in_log", "move", "running", "seek"]

_SEEK = load_script("seek")
_EXTEND = load_script("extend")

GONE_AFTER_MS = 60_000
"""Every consumer that lives asks for messages within this time."""

MOST_WOKEN = 1000
"""Sleeping readers that are woken at once. More are woken by the next messages."""

MOST_NAMED = 5
"""Consumers that an error names."""


def seek(keys: QueueKeys, to: Start | datetime | str, *, force: bool) -> Plan[int]:
    """Have a subscription go on from another place; the result is how many messages are ahead of it.

    Args:
        keys: of the subscription in partition 0.
        to: where to, as a subscription starts.
        force: whether to do it while consumers run.

    Raises:
        UsageError: there is no such subscription, or consumers of it run.
    """
    count: int = yield partitions.declared(keys)
    places = [keys.at(number) for number in range(count)]
    found: set[str] = set()
    for one in places:
        found.update((yield running(one)))
    if found and not force:
        raise UsageError(_in_use(keys.title, sorted(found)))
    ahead = 0
    for one in places:
        ahead += yield move(one, behind(to, one.partition))
    return ahead


def running(keys: QueueKeys, *, gone_after_ms: int = GONE_AFTER_MS) -> Op[list[str]]:
    """Return the names of the consumers that run, in one partition.

    Args:
        keys: of the subscription.
        gone_after_ms: when one counts as gone that has not asked; it does not before its lease is over.

    Raises:
        UsageError: there is no such subscription.
    """

    def decode(replies: list[Any]) -> list[str]:
        names, _ = _answer(keys, replies)
        # Those of partitions have names that begin like that of their worker.
        return [name.decode("utf-8", "replace").partition("/")[0] for name in names]

    return Op((_command(keys, "", gone_after_ms),), decode)


def move(keys: QueueKeys, position: str, *, gone_after_ms: int = GONE_AFTER_MS) -> Op[int]:
    """Have a subscription go on behind an entry, in one partition; the result is what is ahead of it.

    Args:
        keys: of the subscription.
        position: id of the entry, ``$`` for the last one there is.
        gone_after_ms: as for ``running``. Who is gone is forgotten.

    Raises:
        UsageError: there is no such subscription.
    """

    def decode(replies: list[Any]) -> int:
        _, ahead = _answer(keys, replies)
        return ahead

    return Op((_command(keys, position, gone_after_ms),), decode)


def _command(keys: QueueKeys, position: str, gone_after_ms: int) -> Command:
    return _SEEK.call(
        [*keys.common, keys.control, keys.consumers],
        [keys.group, position, gone_after_ms, MOST_WOKEN],
    )


def _answer(keys: QueueKeys, replies: list[Any]) -> tuple[list[bytes], int]:
    if replies[0] == b"NONE":
        message = f"topic {keys.name!r} has no subscription {keys.subscription!r} to move"
        raise UsageError(message)
    names, ahead = replies[0]
    return names, ahead


def _in_use(title: str, running: Sequence[str]) -> str:
    names = ", ".join(running[:MOST_NAMED]) + ", …" * (len(running) > MOST_NAMED)
    return (
        f"{title} has consumers that run, or have been heard of in the last minute ({names}): stop "
        "them first, or pass force=True: what they have in hand then ends without effect"
    )


def extend_in_log(keys: QueueKeys, consumer: str, ids: Sequence[bytes], idle_ms: int) -> Command:
    """Return the command that begins leases of a log anew; it answers with the ids that are owned."""
    return _EXTEND.call([keys.ready, keys.counters], [keys.group, consumer, idle_ms, *ids])
