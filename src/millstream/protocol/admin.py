"""What operators ask: counts, listings, redrive and purge. Never used on the way of a message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from millstream.message import ConsumerStats, QueueStats
from millstream.protocol.envelope import Envelope, entries_of
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Command, Op, Pause, Plan, load_script

__all__ = [
    "age_of",
    "consumers_of",
    "dead",
    "in_flight",
    "order_of",
    "peek_delayed",
    "peek_ready",
    "purge",
    "purge_dead",
    "redrive",
    "stats",
]

_STATS = load_script("stats")
_PEEK = load_script("peek")
_PEEK_DELAYED = load_script("peek_delayed")
_IN_FLIGHT = load_script("in_flight")
_REDRIVE = load_script("redrive")
_PURGE = load_script("purge")
_STATS_LIST = load_script("list_stats")
_PEEK_LIST = load_script("list_peek")
_IN_FLIGHT_LIST = load_script("list_in_flight")
_REDRIVE_LIST = load_script("list_redrive")
_PURGE_LIST = load_script("list_purge")

ENTRIES_A_CALL = 500

_NO_BODY = (b"", b"")
"""Fields of a message that a topic does not keep any more."""


def stats(keys: QueueKeys) -> Op[QueueStats]:
    """Count a queue's messages by state, at one moment."""
    if keys.store == "list":
        command = _STATS_LIST.call(keys.listed, [])
    else:
        command = _STATS.call([*keys.common, keys.kept], [keys.group])

    def decode(replies: list[Any]) -> QueueStats:
        ready, in_flight, delayed, dead, oldest, now, counters, consumers, *rest = replies[0]
        paused, kept = rest if len(rest) > 1 else (*rest, 0)  # a list queue keeps nothing
        totals = dict(zip(counters[::2], counters[1::2], strict=True))
        return QueueStats(
            name=keys.full_name,
            ready=ready,
            delayed=delayed,
            in_flight=in_flight,
            dead=dead,
            oldest_ready=age_of(oldest, now),
            sent=int(totals.get(b"sent", 0)),
            acked=int(totals.get(b"acked", 0)),
            retried=int(totals.get(b"retried", 0)),
            died=int(totals.get(b"died", 0)),
            crashed=int(totals.get(b"crashed", 0)),
            dropped=int(totals.get(b"dropped", 0)),
            cancelled=int(totals.get(b"cancelled", 0)),
            failed=int(totals.get(b"failed", 0)),
            consumers=consumers_of(consumers),
            paused=bool(paused),
            kept=kept,
            late=int(totals.get(b"late", 0)),
            expired=int(totals.get(b"expired", 0)),
        )

    return Op((command,), decode, readonly=True)


def age_of(id: bytes, now_ms: int) -> float | None:
    """Return how many seconds old a message is; None for an empty id."""
    return max(0, now_ms - int(id.partition(b"-")[0])) / 1000 if id else None


def consumers_of(rows: Sequence[tuple[bytes, int, int]]) -> tuple[ConsumerStats, ...]:
    """Merge what the lanes say of each consumer."""
    merged: dict[bytes, tuple[int, int]] = {}
    for name, in_flight, idle in rows:
        before, shortest = merged.get(name, (0, idle))
        merged[name] = (before + in_flight, min(shortest, idle))
    return tuple(
        ConsumerStats(name=name.decode("utf-8", "replace"), in_flight=in_flight, idle=idle / 1000)
        for name, (in_flight, idle) in sorted(merged.items())
    )


def peek_ready(keys: QueueKeys, limit: int) -> Op[list[Envelope]]:
    """Return the next messages without delivering them."""
    if keys.store == "list":
        command = _PEEK_LIST.call(keys.listed, [limit])
    else:
        command = _PEEK.call(keys.common, [keys.group, limit])
    return Op((command,), decode=_entries, readonly=True)


def peek_delayed(keys: QueueKeys, limit: int) -> Op[list[tuple[Envelope, int]]]:
    """Return delayed messages with their due times in ms, the next one first."""
    command = _PEEK_DELAYED.call([keys.due, keys.delayed], [limit])

    def decode(replies: list[Any]) -> list[tuple[Envelope, int]]:
        return [(Envelope(message, fields), due) for message, fields, due in replies[0]]

    return Op((command,), decode, readonly=True)


def in_flight(keys: QueueKeys, limit: int) -> Op[list[tuple[Envelope, str, int]]]:
    """Return messages that consumers own, the oldest first, with the consumer and the idle time in ms."""
    if keys.store == "list":
        command = _IN_FLIGHT_LIST.call(keys.listed, [limit, ""])
    else:
        command = _IN_FLIGHT.call(keys.lanes, [keys.group, limit])

    def decode(replies: list[Any]) -> list[tuple[Envelope, str, int]]:
        rows = [
            (Envelope(token, fields or _NO_BODY), consumer.decode("utf-8", "replace"), idle)
            for token, fields, consumer, idle in replies[0]
        ]
        return sorted(rows, key=lambda row: order_of(row[0].state.id))[:limit]

    return Op((command,), decode, readonly=True)


def order_of(id: str) -> tuple[int, int]:
    """Return what orders messages by age."""
    ms, _, sequence = id.partition("-")
    return int(ms), int(sequence)


def dead(
    keys: QueueKeys, after: str | None, limit: int, *, inclusive: bool = False
) -> Op[list[Envelope]]:
    """Return a page of dead letters, the oldest first; the tokens are the cursors.

    Args:
        keys: of the queue.
        after: where the page before ended; None: this is the first.
        limit: how many at most.
        inclusive: whether the one at ``after`` belongs to this page.
    """
    start = "-" if after is None else after if inclusive else f"({after}"
    command = Command(("XRANGE", keys.dead, start, "+", "COUNT", limit))
    return Op((command,), decode=_entries, readonly=True)


def redrive(
    keys: QueueKeys,
    *,
    ids: Sequence[str] | None,
    reason: str | None,
    rate: float | None,
) -> Plan[int]:
    """Send dead letters back to the queue; the result is how many.

    Args:
        keys: of the queue.
        ids: of messages; None: all.
        reason: only those with this reason; ``*`` stands for any text.
        rate: most messages a second; None: as fast as the server can.

    What dies again meanwhile is not redriven a second time.
    """
    last = yield Op((Command(("XREVRANGE", keys.dead, "+", "-", "COUNT", 1)),), decode=_first)
    if not last:
        return 0
    # A tenth of a second's worth a step, so that a low rate does not come in bursts.
    most = ENTRIES_A_CALL if rate is None else max(1, min(ENTRIES_A_CALL, round(rate / 10)))
    start: bytes | str = "-"
    total = 0
    while start:
        glob = "*" if reason is None else reason
        arguments = [start, last[0][0], ENTRIES_A_CALL, most, glob, "", *(ids or ())]
        script, names = _REDRIVE, keys.common
        if keys.store == "list":
            script, names = _REDRIVE_LIST, keys.listed
        command = script.call(names, arguments)
        start, moved = yield Op((command,), decode=_first)
        total += moved
        if start and moved and rate is not None:
            yield Pause(moved / rate)
    return total


def purge(keys: QueueKeys) -> Plan[int]:
    """Delete what is ready or delayed; the result is how many messages."""
    if keys.store == "list":
        command = _PURGE_LIST.call(keys.listed, [ENTRIES_A_CALL])
    else:
        command = _PURGE.call([*keys.common, *keys.queueing], [keys.group, ENTRIES_A_CALL, ""])
    total = 0
    while True:
        deleted: int = yield Op((command,), decode=_first)
        total += deleted
        if deleted < ENTRIES_A_CALL:
            return total


def purge_dead(keys: QueueKeys) -> Plan[int]:
    """Delete all dead letters; the result is how many."""
    trim = Command(("XTRIM", keys.dead, "MAXLEN", 0))
    deleted: int = yield Op((trim,), decode=_first)
    return deleted


def _first(replies: list[Any]) -> Any:
    return replies[0]


def _entries(replies: list[Any]) -> list[Envelope]:
    return entries_of(replies[0])
