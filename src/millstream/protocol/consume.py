"""Consuming: settle what is done, promote what is due and read the next batch in one round trip.

The settling is a script; the reading is a plain XREADGROUP behind it in the same write, since a
batch that a script returns costs a third of the throughput (docs/adr/0002).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from millstream.policy import AtMostOnce, Limits, Retain, Sieve
from millstream.protocol import lists, popping
from millstream.protocol.envelope import Envelope, entries_of
from millstream.protocol.fetched import Fetched, fetched, taken
from millstream.protocol.kept import ends_of
from millstream.protocol.keys import LANES, QueueKeys
from millstream.protocol.limits import take
from millstream.protocol.op import Argument, Command, Op, Plan, load_script
from millstream.protocol.partitions import check_number
from millstream.protocol.results import ends_waits
from millstream.protocol.seek import extend_in_log
from millstream.protocol.settlement import Settlement
from millstream.protocol.sift import sift
from millstream.protocol.subscriptions import register_at
from millstream.topic import Source, Subscription

__all__ = [
    "Fetched",
    "extend",
    "fetch",
    "have_another_look",
    "own_pending",
    "register",
    "rejoin",
    "started",
    "unblock",
    "wait",
    "wait_any",
]

_REGISTER = load_script("register")
_SETTLE = load_script("settle")
_START = load_script("start")

PROMOTED_AT_ONCE = 200
"""Bounds the time that one call keeps the server busy: about a millisecond."""


def register(
    keys: QueueKeys,
    consumer: str,
    lease_ms: int,
    partitions: int | None = None,
    *,
    source: Source[Any] | None = None,
) -> Op[None]:
    """Create what a consumer needs, and make its lease known. Safe to repeat.

    The groups of a queue start at the first entry: what was sent before the first consumer came is
    delivered, too. A subscription that does not exist is made, and starts as it is declared; one
    that exists keeps its place.

    Args:
        keys: of the queue.
        consumer: who.
        lease_ms: its lease.
        partitions: how many the consumer takes the queue to have; None: that does not matter.
        source: what the keys are of, as declared: a subscription must be given, a queue need not.

    Raises:
        UsageError: the queue has another number of partitions, or the subscription another filter.
    """
    if isinstance(source, Subscription):
        return register_at(keys, source, consumer, lease_ms)
    if keys.store == "list":
        return lists.register(keys, consumer, lease_ms)
    pops = source is not None and isinstance(source.limits, AtMostOnce)
    command = _REGISTER.call(
        [*keys.lanes, keys.wake, keys.consumers, keys.paused, keys.config],
        [keys.group, consumer, lease_ms],
    )

    def decode(replies: list[Any]) -> None:
        stored = replies[0]
        if partitions is not None and stored is not None:
            check_number(keys.title, partitions, int(stored))

    # Nobody sweeps where nothing is in flight: who starts looks for those that are gone.
    tidying = (popping.tidy(keys, consumer),) if pops else ()
    return Op((command, *tidying), decode)


def fetch(  # noqa: PLR0913 - one round trip: all that goes with it
    keys: QueueKeys,
    consumer: str,
    settlements: Sequence[Settlement] = (),
    reads: Sequence[tuple[str, int]] = (),
    *,
    acks: Sequence[bytes] = (),
    wake: bool = False,
    urgent: str = "",
    limits: Limits | Sieve | AtMostOnce | None = None,
    keep: Retain | None = None,
    results: bool = False,
    now_ms: int | None = None,
) -> Op[Fetched]:
    """Settle, promote and read, in one round trip.

    Args:
        keys, consumer: of the queue; who owns the deliveries.
        settlements: ends of deliveries, other than plain acks of the ready lane.
        reads: prefixes of lanes, each with how many messages to read from it.
        acks: tokens of the ready lane to acknowledge: the fast path.
        wake: whether to wake a sleeper for a retry that is due before all else. Who reads need not.
        urgent: which messages of higher priority to move to the front before: how many (``"12"``),
            from the highest on, or of each priority (``"9=3 5=2"``). With limits: as many as may be
            read (``"all"``), or those and a place in the rounding (``"9 5 0 +0.6"``).
        limits: of the queue, or what a subscription lets through; with them, less may come than was
            asked for. ``AtMostOnce``: what is read is gone, and ``settlements`` bring some back.
        keep, results: what the queue keeps of what is acknowledged, and whether it has results.
        now_ms: the time, for tests; None: the server's clock.

    Guarantee: a delivery that this consumer does not own any more is not settled, but reported
    as lost. It is not repeatable: a lost reply may have brought messages (see ``own_pending``).
    """
    if isinstance(limits, AtMostOnce):
        return popping.pop(keys, consumer, settlements, reads, urgent=urgent, now_ms=now_ms)
    if keys.store == "list":
        return lists.fetch(keys, consumer, settlements, reads, acks=acks, wake=wake, now_ms=now_ms)
    time = "" if now_ms is None else now_ms
    head: list[Argument] = [keys.group, consumer, time, PROMOTED_AT_ONCE, int(wake), urgent]
    further = [*(keys.resulting if results and ends_waits(settlements) else ())]
    first = len(keys.common) + len(keys.queueing) + (2 if limits is not None else 1)
    ends = ends_of(acks, settlements, keep, first if further else 0)
    further += [keys.kept] if keep is not None else []
    if limits is not None:
        return _read_by_script(keys, limits, reads, head, ends, further)
    commands = [_SETTLE.call([*keys.common, *keys.queueing, *further], [*head, *ends])]
    read = ("XREADGROUP", "GROUP", keys.group, consumer, "COUNT")
    commands += (Command((*read, n, "STREAMS", keys.lane(lane), ">")) for lane, n in reads)
    decode = partial(fetched, [prefix.encode() for prefix, _ in reads])
    return Op(tuple(commands), decode, repeatable=False)


def _read_by_script(
    keys: QueueKeys,
    limits: Limits | Sieve,
    reads: Sequence[tuple[str, int]],
    head: Sequence[Argument],
    ends: Sequence[Argument],
    further: Sequence[str],
) -> Op[Fetched]:
    """Settle and read in one script: what may be read is known only there."""
    if isinstance(limits, Sieve):
        command = sift(keys, limits, reads, head=head, tail=ends)
    else:
        command = take(keys, limits, reads, head=head, tail=ends, further=further)
    return Op((command,), decode=taken, repeatable=False)


def wait(keys: QueueKeys, consumer: str, block_ms: int, *, suspects: bool) -> Op[Fetched]:
    """Sleep at the server until a message comes, and bring one.

    Args:
        keys: of the queue.
        consumer: who sleeps.
        block_ms: the longest sleep.
        suspects: whether the consumer may take a suspect.
    """
    lanes = [prefix for prefix in LANES if suspects or prefix != "s"]
    sleep = wait_any([(keys, lanes)], consumer, block_ms)
    return Op(sleep.commands, decode=lambda replies: sleep.decode(replies)[0], repeatable=False)


def wait_any(
    places: Sequence[tuple[QueueKeys, Sequence[str]]], consumer: str, block_ms: int
) -> Op[list[Fetched]]:
    """Sleep until a message comes in any of some partitions, or a wake-up; bring one of each.

    Args:
        places: keys of each partition, and prefixes of the lanes to read there.
        consumer: who sleeps.
        block_ms: the longest sleep.

    The result is what came, one for each place.
    """
    names: list[str] = []
    # All lanes: the reply may belong to a read that was begun with another choice.
    sources: dict[str, tuple[int, bytes | None]] = {}
    for place, (keys, lanes) in enumerate(places):
        names += [keys.wake, *(keys.lane(prefix) for prefix in lanes)]
        sources[keys.wake] = (place, None)
        sources.update({keys.lane(prefix): (place, prefix.encode()) for prefix in LANES})
    read: tuple[Argument, ...] = (
        "XREADGROUP",
        "GROUP",
        places[0][0].group,
        consumer,
        "COUNT",
        1,
        "BLOCK",
        block_ms,
        "STREAMS",
    )
    command = Command((*read, *names, *(">" for _ in names)))

    def decode(replies: list[Any]) -> list[Fetched]:
        envelopes: list[list[Envelope]] = [[] for _ in places]
        woken: list[list[bytes]] = [[] for _ in places]
        for name, entries in replies[0] or ():
            place, prefix = sources[name.decode()]
            if prefix is None:
                woken[place] += [entry_id for entry_id, _ in entries]
            else:
                envelopes[place] += entries_of(entries, prefix)
        return [
            Fetched(envelopes=some, woken=ids) for some, ids in zip(envelopes, woken, strict=True)
        ]

    return Op((command,), decode, repeatable=False)


def own_pending(keys: QueueKeys, consumer: str) -> Plan[list[Envelope]]:
    """Return everything that a consumer owns, bodies included.

    After a lost reply it tells what was delivered without being received, and which
    settlements arrived. Entries that were deleted meanwhile are left out.
    """
    if keys.store == "list":
        found: list[Envelope] = yield lists.pending(keys, consumer)
        return found
    found = []
    for prefix in LANES:
        start: bytes | None = b"0"
        while start is not None:
            read = ("XREADGROUP", "GROUP", keys.group, consumer, "COUNT", 500, "STREAMS")
            op = Op((Command((*read, keys.lane(prefix), start)),), decode=_first)
            reply = yield op
            entries = reply[0][1] if reply else []
            found += entries_of(entries, prefix.encode())
            start = entries[-1][0] if entries else None
    return found


def rejoin(
    keys: QueueKeys,
    consumer: str,
    lease_ms: int,
    partitions: int | None = None,
    *,
    source: Source[Any] | None = None,
) -> Plan[list[Envelope]]:
    """Make sure of what a consumer needs, and return everything that it owns.

    After a start, a lost reply, or a FLUSHALL. The parameters are those of ``register``.
    """
    yield register(keys, consumer, lease_ms, partitions, source=source)
    return (yield from own_pending(keys, consumer))


def extend(
    keys: QueueKeys, consumer: str, tokens: Sequence[bytes], *, idle_ms: int = 0
) -> Op[list[bytes]]:
    """Begin the leases of deliveries anew; the result is the tokens that are lost.

    Args:
        keys: of the queue.
        consumer: who owns them.
        tokens: at most some thousand.
        idle_ms: how much of the lease counts as used up already.

    XCLAIM would take a delivery from another consumer, too, but a message that changes hands
    gets a new entry, so an entry that is pending at all is pending for its one owner. Only in a log
    that is not so, after a seek.
    """
    if keys.store == "list":
        return lists.extend(keys, consumer, tokens, idle_ms)
    by_lane: dict[bytes, list[bytes]] = {}
    for token in tokens:
        prefix = token[:1] if token[:1] in (b"f", b"s") else b""
        by_lane.setdefault(prefix, []).append(token[len(prefix) :])
    options = ("IDLE", idle_ms, "JUSTID")
    commands = tuple(
        extend_in_log(keys, consumer, ids, idle_ms)
        if keys.subscription and not prefix
        else Command(
            ("XCLAIM", keys.lane(prefix.decode()), keys.group, consumer, 0, *ids, *options)
        )
        for prefix, ids in by_lane.items()
    )

    def decode(replies: list[Any]) -> list[bytes]:
        held = {
            prefix + entry_id
            for prefix, reply in zip(by_lane, replies, strict=True)
            for entry_id in reply
        }
        return [token for token in tokens if token not in held]

    return Op(commands, decode)


def started(keys: QueueKeys, message_id: str, unique: str) -> Op[None]:
    """Give up a unique key, for a handler begins with the message that has it. Safe to repeat."""
    command = _START.call([keys.unique], [unique, message_id])
    return Op((command,), decode=_nothing)


def unblock(client_id: int, key: str) -> Op[bool]:
    """End the sleep of a connection at once, as if its time had passed.

    The result is whether it slept.

    Args:
        client_id: what the server calls the connection.
        key: that it reads, or one beside it.
    """
    return Op((Command(("CLIENT", "UNBLOCK", client_id)),), decode=_whether, near=key)


def have_another_look(keys: QueueKeys) -> Op[None]:
    """Wake a sleeping reader, for it to learn when the next message is due."""
    if keys.store == "list":
        return lists.nudge(keys)
    command = ("XADD", keys.wake, "NOMKSTREAM", "MAXLEN", 16, "*", "due", "unknown")
    return Op((Command(command),), decode=_nothing)


def _nothing(_: list[Any]) -> None:
    return None


def _whether(replies: list[Any]) -> bool:
    return bool(replies[0])


def _first(replies: list[Any]) -> Any:
    return replies[0]
