"""Which queues and topics are there? Nobody registers them: their keys are the only witnesses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from millstream.declare import Store, check_place
from millstream.protocol.keys import queue_keys, topic_keys
from millstream.protocol.op import Command, Nodes, Op, Plan

__all__ = ["Found", "list_names", "list_queues", "list_topics", "look"]

KEYS_A_CALL = 1000
"""Bounds the time that one call keeps the server busy: well below a millisecond."""


def list_queues(namespace: str) -> Plan[list[str]]:
    """Find the queues of a namespace; the result is their names, sorted.

    A queue is known from its first message or its first consumer on. It looks at every key of the
    server, some a call: for people and dashboards, not for the way of a message.

    Args:
        namespace: first part of all keys.
    """
    return (yield from _list(namespace, _is_of_queue))


def list_topics(namespace: str) -> Plan[list[str]]:
    """Find the durable topics of a namespace in the same way; the result is their names, sorted.

    Args:
        namespace: first part of all keys.
    """
    return (yield from _list(namespace, _is_of_topic))


def list_names(namespace: str, *, calls: int) -> Plan[list[str]]:
    """Find queues and durable topics, as many as so many calls come by on each node.

    Args:
        namespace: first part of all keys.
        calls: how many at most: a server may have any number of keys.
    """
    return (yield from _list(namespace, _is_of_any, calls))


class Found(msgspec.Struct, frozen=True):
    """What the server knows by a name; a queue and a topic may share it.

    Attributes:
        queue: whether there is a trace of such a queue.
        topic: whether there is a trace of such a durable topic.
        partitions: how many the queue has; None: it is not ordered, as far as the server knows.
        store: where the queue keeps its messages, as far as its traces tell; of one without any, a
            stream.
        in_use: whether there are messages or consumers in that store now.
    """

    queue: bool
    topic: bool
    partitions: int | None
    store: Store
    in_use: bool


_HANDLED = ("acked", "retried", "died", "crashed")


def look(namespace: str, name: str) -> Op[Found]:
    """Ask what there is of a name.

    Args:
        namespace: first part of all keys.
        name: of a queue or a topic, or of both.
    """
    keys = queue_keys(namespace, name)
    listed = [
        key for key in queue_keys(namespace, name, store="list").listed if key not in keys.all
    ]
    commands = (
        Command(("EXISTS", *keys.all)),
        Command(("EXISTS", *listed)),
        Command(("EXISTS", *_of_topic(namespace, name, 0))),
        Command(("HGET", keys.config, "partitions")),
        Command(("EXISTS", keys.ready)),
        Command(("XLEN", keys.ready)),
        Command(("HMGET", keys.counters, *_HANDLED)),
    )

    def decode(replies: list[Any]) -> Found:
        queue, in_list, topic, partitions, stream, length, handled = replies
        # Whoever consumes a stream makes it, and it stays when it is empty; a list does not. So
        # what was handled without a stream came from a list.
        drained = not stream and any(handled)
        return Found(
            queue=bool(queue or in_list),
            topic=bool(topic),
            partitions=None if partitions is None else int(partitions),
            store="list" if in_list or drained else "stream",
            in_use=bool(in_list or length),
        )

    return Op(commands, decode)


def _list(
    namespace: str, is_one: Callable[[str, str, str, int], bool], calls: int | None = None
) -> Plan[list[str]]:
    # Namespaces may have characters that mean something in a pattern.
    literal = "".join(f"\\{char}" if char in "*?[]^-\\" else char for char in namespace)
    pattern = f"{queue_keys(literal, '*').prefix}*:*"
    found: set[str] = set()
    for node in (yield Nodes()):
        cursor: bytes | str = "0"
        called = 0
        while cursor != b"0" and called != calls:
            called += 1
            command = Command(("SCAN", cursor, "MATCH", pattern, "COUNT", KEYS_A_CALL))
            cursor, keys = yield Op((command,), decode=_first, readonly=True, near=node)
            names = (_owner(namespace, key, is_one) for key in keys)
            found.update(name for name in names if name is not None)
    return sorted(found)


def _owner(namespace: str, key: bytes, is_one: Callable[[str, str, str, int], bool]) -> str | None:
    """Return the queue or topic that a key belongs to; None when it belongs to none."""
    prefix = queue_keys(namespace, "").prefix  # ms:{}
    try:
        text = key.decode()
        tag, _, rest = text.removeprefix(prefix[:-1]).partition(prefix[-1])
        inner, slash, partition = tag.partition("/")
        # Behind a tag that others share stands the rest of the name.
        own = rest.partition(":")[0]
        name = check_place(f"{{{inner}}}{own}" if own else inner, "queue")
        return name if is_one(text, namespace, name, int(partition) if slash else 0) else None
    except (UnicodeDecodeError, ValueError):  # a UsageError is one
        return None  # somebody else's key of a similar shape


def _is_of_queue(key: str, namespace: str, name: str, partition: int) -> bool:
    listed = queue_keys(namespace, name, store="list").ready
    return key in queue_keys(namespace, name, partition).all or key == listed


def _is_of_topic(key: str, namespace: str, name: str, partition: int) -> bool:
    return key in _of_topic(namespace, name, partition)


def _is_of_any(key: str, namespace: str, name: str, partition: int) -> bool:
    return _is_of_queue(key, namespace, name, partition) or _is_of_topic(
        key, namespace, name, partition
    )


def _of_topic(namespace: str, name: str, partition: int) -> tuple[str, ...]:
    keys = topic_keys(namespace, name, partition)
    return keys.log, keys.counters, keys.subscriptions, keys.config


def _first(replies: list[Any]) -> Any:
    return replies[0]
