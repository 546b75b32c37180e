"""Transactions: what a handler has gathered and the end of its delivery, in one script call.

The script runs others as they are, each with its own keys, behind one look at who owns the delivery. So
there is one way to send, and one to acknowledge, in a transaction and outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from millstream.declare import Queue
from millstream.errors import ServerRefused, UsageError
from millstream.message import Receipt
from millstream.policy import Bound
from millstream.protocol import consume, partitions
from millstream.protocol.bound import Unit, check_fits, place_units, queue_full
from millstream.protocol.draft import Draft, Output, Write
from millstream.protocol.keys import QueueKeys, TopicKeys, queue_keys, topic_keys
from millstream.protocol.op import Argument, Op, Plan, load_script
from millstream.protocol.partitions import partition_of, public_id
from millstream.protocol.place import Placement, place
from millstream.protocol.publish import Publication, publish_some
from millstream.protocol.retention import retain
from millstream.protocol.send import REMEMBERED_MS
from millstream.protocol.settlement import Settlement
from millstream.protocol.slots import slot_of
from millstream.topic import Source, Topic

__all__ = ["Commit", "Committed", "commit", "topics_of"]

_TRANSACT = load_script("transact")


class Committed(msgspec.Struct, frozen=True):
    """What a transaction has done.

    Attributes:
        receipts: of its messages, in the order in which it got them.
        awaited: who waits for the result of the delivery's message (see ``Fetched.awaited``).
    """

    receipts: list[Receipt]
    awaited: Sequence[bytes] = ()


class Commit(msgspec.Struct, frozen=True):
    """Who commits what.

    Args:
        source: where the delivery came from, as declared.
        keys: of its partition.
        consumer: who owns the delivery.
        end: its acknowledgement.
        draft: what goes with it.
        lane: a name under which one commit is on the wire at a time.
        number: of the commit; they only grow in a lane.
    """

    source: Source[Any]
    keys: QueueKeys
    consumer: str
    end: Settlement
    draft: Draft
    lane: str
    number: int


class _Part(msgspec.Struct, frozen=True):
    """One script of the transaction.

    Attributes:
        title: what errors call it.
        name: of the script.
        keys, arguments: of its call.
        decode: reads its answer.
        outputs: which of the draft's outputs it stores.
        partition: where.
        queue: whose bound it keeps, if any.
    """

    title: str
    name: str
    keys: Sequence[str]
    arguments: Sequence[Argument]
    decode: Callable[[Any], Any]
    outputs: Sequence[int] = ()
    partition: int = 0
    queue: Queue[Any] | None = None


def commit(asked: Commit, known: set[object]) -> Plan[Committed | None]:
    """Do all that a transaction has gathered, and acknowledge its delivery; None: it is not ours any more.

    Args:
        asked: who commits what.
        known: outputs whose declarations the server has been told; it grows.

    Raises:
        UsageError: a key is Millstream's own, an output is declared in another way by others, or the
            keys cannot be used together on this cluster.
        QueueFull: an output has no room.
        ServerRefused: a write makes no sense for what its key holds, or the server has no memory.

    Guarantee: all of it or, whatever is raised but a lost connection, nothing; once, also when it is
    repeated after a lost reply; and nothing at all when another consumer owns the delivery by now.
    """
    draft, namespace = asked.draft, asked.keys.namespace
    for one in draft.writes:
        if one.key.startswith(f"{namespace}:{{"):
            message = (
                f"{draft.title}: {one}: this key is Millstream's own, or looks as if it were. Choose one "
                f"that does not begin with '{namespace}:{{'; nothing was done"
            )
            raise UsageError(message)
    for output in draft.outputs:
        yield from _declare(namespace, output.target, known)
    parts = _parts_of(asked)
    try:
        done: Committed | None = yield _together(asked, parts)
    except ServerRefused as error:
        if error.code != "CROSSSLOT":
            raise
        raise _apart(asked, parts) from error
    return done


def topics_of(keys: QueueKeys, draft: Draft) -> list[TopicKeys]:
    """Return the partitions of topics that a draft publishes to: somebody has to trim them."""
    found: dict[str, TopicKeys] = {}
    for one in draft.outputs:
        if isinstance(one.target, Topic):
            topic = topic_keys(keys.namespace, one.target.name).at(_partition(keys, one))
            found[topic.prefix] = topic
    return list(found.values())


def _declare(namespace: str, target: Queue[Any] | Topic[Any], known: set[object]) -> Plan[None]:
    """Say how an output is declared, once, as whoever sends to it does."""
    is_topic = isinstance(target, Topic)
    name = (is_topic, target.place, target.retain if isinstance(target, Topic) else None)
    if name in known:
        return
    make = topic_keys if is_topic else queue_keys
    keys: Any = make(namespace, target.name)
    if target.ordered:
        yield partitions.declare(keys, target.partitions)
    else:
        yield partitions.check_not_ordered(keys)
    if isinstance(target, Topic) and target.retain is not None:
        for number in range(target.partitions):
            yield retain(keys.at(number), target.retain)
    known.add(name)


def _partition(keys: QueueKeys, output: Output) -> int:
    """Return the partition of an output; without a key that of the delivery, which is as good as any."""
    message, count = output.message, output.target.partitions
    name = message.key or (message.unique if isinstance(message, Placement) else "")
    return partition_of(name, count) if name else keys.partition % count


def _parts_of(asked: Commit) -> list[_Part]:
    """Return the parts in the order of the script."""
    groups: dict[tuple[bool, str, int], list[int]] = {}
    for index, one in enumerate(asked.draft.outputs):
        place = (isinstance(one.target, Topic), one.target.place, _partition(asked.keys, one))
        groups.setdefault(place, []).append(index)
    parts = [
        _output(asked, f"{asked.lane}-{number}", partition, indexes)
        for number, ((_, _, partition), indexes) in enumerate(groups.items())
    ]
    source, end = asked.source, asked.end
    if asked.draft.result:
        end = replace(end, verb="finish", note=asked.draft.result)
    ending = consume.fetch(
        *(asked.keys, asked.consumer, [end]),
        wake=True,
        limits=source.limits,
        keep=source.keep,
        results=source.results is not None,
    )
    return [*_plain(asked.draft.writes), *parts, _part(asked.keys.title, ending)]


def _output(asked: Commit, producer: str, partition: int, indexes: Sequence[int]) -> _Part:
    """Return the part that stores some messages of one place."""
    outputs = [asked.draft.outputs[index] for index in indexes]
    target, namespace = outputs[0].target, asked.keys.namespace
    bounded: Queue[Any] | None = None
    op: Op[Any]
    if isinstance(target, Topic):
        publications = [one.message for one in outputs if isinstance(one.message, Publication)]
        topic = topic_keys(namespace, target.name, partition)
        op = publish_some(topic, producer, asked.number, publications)
    else:
        keys = queue_keys(namespace, target.name, partition, target.store)
        placements = [one.message for one in outputs if isinstance(one.message, Placement)]
        if target.bound is None:
            op = place(keys, producer, asked.number, placements)
        else:
            bounded = target
            check_fits(target.name, target.bound, len(placements))
            op = place_units(keys, target.bound, producer, asked.number, [Unit(placements)])
    part = _part(target.title, op)
    return replace(part, outputs=indexes, partition=partition, queue=bounded)


def _part(title: str, op: Op[Any]) -> _Part:
    """Return an operation of one script call as a part."""
    (command,) = op.commands
    assert command.script is not None  # noqa: S101 - they all are scripts
    count = int(command.arguments[2])
    rest = command.arguments[3:]
    keys = [str(key) for key in rest[:count]]
    return _Part(title, command.script.name, keys, rest[count:], lambda reply: op.decode([reply]))


def _plain(writes: Sequence[Write]) -> list[_Part]:
    if not writes:
        return []
    arguments: list[Argument] = []
    for one in writes:
        arguments += (one.verb, len(one.arguments), *one.arguments)
    keys = [one.key for one in writes]
    return [_Part("plain writes", "writes", keys, arguments, decode=lambda count: count)]


def _together(asked: Commit, parts: Sequence[_Part]) -> Op[Committed | None]:
    keys, token = asked.keys, asked.end.token
    if keys.store == "list":
        owner: tuple[str, str, bytes] = (keys.processing(asked.consumer), "", token)
    else:
        prefix = token[:1] if token[:1] in (b"f", b"s") else b""
        owner = (keys.lane(prefix.decode()), keys.group, token[len(prefix) :])
    arguments: list[Argument] = [asked.number, REMEMBERED_MS, owner[1], asked.consumer, owner[2]]
    arguments.append(len(parts))
    for part in parts:
        arguments += (part.name, len(part.keys), len(part.arguments))
    for part in parts:
        arguments += part.arguments
    script_keys = [keys.producer(asked.lane), owner[0]]
    for part in parts:
        script_keys += part.keys

    def decode(replies: list[Any]) -> Committed | None:
        return _decoded(asked, parts, replies[0])

    return Op((_TRANSACT.call(script_keys, arguments),), decode)


def _decoded(asked: Commit, parts: Sequence[_Part], reply: list[Any]) -> Committed | None:
    verdict, *rest = reply
    if verdict == b"lost":
        return None
    if verdict == b"full":
        part, length = parts[rest[0] - 1], rest[1]
        queue = part.queue
        assert queue is not None  # noqa: S101 - only such a part can be full
        assert queue.bound is not None  # noqa: S101 - as above
        # A transaction does not wait for room: the delivery would wait with it.
        bound = Bound(queue.bound.length) if queue.bound.on_full == "wait" else queue.bound
        raise queue_full(queue.name, bound, length, len(part.outputs))
    if verdict == b"refused":
        write, problem = asked.draft.writes[rest[0] - 1], rest[1].decode("utf-8", "replace")
        message = f"{asked.draft.title}: {write}: {problem}; nothing of the transaction was done"
        raise ServerRefused(message, code=problem.partition(" ")[0])
    receipts: dict[int, Receipt] = {}
    for part, answer in zip(parts, rest, strict=True):
        if part.outputs:
            found = part.decode(answer)
            stored: list[Receipt] = found if part.queue is None else found[0]
            for index, receipt in zip(part.outputs, stored, strict=True):
                id = public_id(receipt.id, part.partition)
                receipts[index] = msgspec.structs.replace(receipt, id=id)
    ended = parts[-1].decode(rest[-1])
    return Committed([receipts[index] for index in sorted(receipts)], ended.awaited)


def _apart(asked: Commit, parts: Sequence[_Part]) -> UsageError:
    """Say which keys are in different slots."""
    keys, slot = asked.keys, slot_of(asked.keys.ready)
    # What the server has refused together is not in one slot, so there is one.
    what, key = next(
        (f"the key {key!r}" if part.name == "writes" else part.title, key)
        for part in parts
        for key in part.keys
        if slot_of(key) != slot
    )
    tag = keys.prefix.partition("{")[2].partition("}")[0]
    # The number of the partition belongs to the tag, and not to the name.
    name = tag.partition("/")[0]
    message = (
        f"{keys.title} is in slot {slot} of this cluster, and {what} in slot {slot_of(key)}: a transaction "
        "is one step in one slot, so nothing was done. Keys are together that have the same tag in braces: "
        f"call a queue or topic '{{{name}}}.NAME', and a key of your own '{{{tag}}}:NAME'"
    )
    return UsageError(message)
