"""The list store: operations of queues that keep their messages in a Redis list.

They mean the same as those of their names in ``consume``, ``control`` and ``waiting``, which call
them. A read that sleeps takes nothing: what wakes it lands in a list that belongs to nobody, and the
next script call puts it back and takes messages for its consumer (docs/adr/0016).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from millstream.errors import NotConnected, TimedOut
from millstream.protocol.envelope import Envelope, entries_of
from millstream.protocol.fetched import Fetched
from millstream.protocol.keys import QueueKeys
from millstream.protocol.limits import Outlook
from millstream.protocol.op import Argument, Command, Op, Plan, load_script
from millstream.protocol.settlement import Settlement

__all__ = [
    "cancel",
    "cancel_running",
    "extend",
    "fetch",
    "nudge",
    "owns",
    "pending",
    "register",
    "reschedule",
    "sleep",
    "switch",
]

_REGISTER = load_script("list_register")
_FETCH = load_script("list_fetch")
_PENDING = load_script("list_pending")
_EXTEND = load_script("list_extend")
_NUDGE = load_script("list_nudge")
_PAUSE = load_script("list_pause")
_FIND = load_script("list_find")
_CANCEL = load_script("list_cancel_running")

PROMOTED_AT_ONCE = 200
ELEMENTS_A_CALL = 1000
"""Bounds the time that one call keeps the server busy: about a millisecond."""


def register(keys: QueueKeys, consumer: str, lease_ms: int) -> Op[None]:
    """Make a consumer known, with its lease. Safe to repeat."""
    return Op((_REGISTER.call(keys.listed, [consumer, lease_ms, ""]),), decode=_nothing)


def fetch(
    keys: QueueKeys,
    consumer: str,
    settlements: Sequence[Settlement],
    reads: Sequence[tuple[str, int]],
    *,
    acks: Sequence[bytes],
    wake: bool,
    now_ms: int | None,
) -> Op[Fetched]:
    """Settle, promote and take, in one script call."""
    most = sum(count for lane, count in reads if lane != "s")
    suspect = any(lane == "s" for lane, _ in reads)
    arguments: list[Argument] = [consumer, _time(now_ms), PROMOTED_AT_ONCE, int(wake)]
    arguments += [most, int(suspect), len(acks), *acks]
    for end in settlements:
        # A wake-up of a list has no entry that would have to be settled.
        if end.verb != "woken":
            arguments += [end.verb, end.token, end.delay_ms, int(end.failed), end.note]

    def decode(replies: list[Any]) -> Fetched:
        lost, kept, due, suspects, now, paused, entries = replies[0]
        return Fetched(
            envelopes=entries_of(entries),
            lost=lost,
            kept={token: problem.decode("utf-8", "replace") for token, problem in kept},
            next_due_ms=None if due < 0 else due / 1000,
            suspect=suspects,
            now_ms=now,
            outlook=Outlook("paused", 0, (paused,)) if paused else None,
        )

    return Op((_FETCH.call(keys.listed, arguments),), decode, repeatable=False)


def pending(keys: QueueKeys, consumer: str) -> Op[list[Envelope]]:
    """Return everything that a consumer owns, and begin the leases anew."""
    return Op(
        (_PENDING.call(keys.listed, [consumer, ""]),), decode=lambda replies: entries_of(replies[0])
    )


def extend(
    keys: QueueKeys, consumer: str, tokens: Sequence[bytes], idle_ms: int
) -> Op[list[bytes]]:
    """Begin the leases of deliveries anew; the result is the tokens that are lost."""
    command = _EXTEND.call(keys.listed, [consumer, "", idle_ms, *tokens])
    return Op((command,), decode=_first)


def owns(keys: QueueKeys, consumer: str, token: bytes) -> Op[bool]:
    """Tell whether a consumer owns a delivery."""
    command = Command(("HEXISTS", keys.processing(consumer), token))
    return Op((command,), decode=lambda replies: bool(replies[0]))


def nudge(keys: QueueKeys) -> Op[None]:
    """Wake a sleeping reader, for it to learn when the next message is due."""
    return Op((_NUDGE.call(keys.listed, []),), decode=_nothing)


def sleep(keys: QueueKeys, since: Sequence[bytes], block_ms: int) -> Op[list[Fetched]]:
    """Sleep until there is something to take, or, in a paused queue, until it goes on.

    Args:
        keys: of the queue.
        since: of a paused queue: the last id of its control stream.
        block_ms: the longest sleep.
    """
    if since:
        read: tuple[Argument, ...] = ("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS")
        command = Command((*read, keys.control, since[0]))
    else:
        command = Command(
            ("BLMOVE", keys.ready, keys.landing, "RIGHT", "RIGHT", f"{block_ms / 1000:.3f}")
        )
    # Sent again it may only move one more, for others to find; but it would sleep longer.
    return Op((command,), decode=lambda _: [Fetched(envelopes=[])], repeatable=False)


def switch(keys: QueueKeys, word: str) -> Op[None]:
    """Pause the queue, or resume it, as the word says. Safe to repeat."""
    return Op((_PAUSE.call(keys.listed, [word]),), decode=_nothing)


def cancel(keys: QueueKeys, message_id: str, *, now_ms: int | None) -> Plan[bool]:
    """Delete a message that nobody has taken; the result is whether it was there."""
    try:
        return (yield from _find(keys, message_id, "cancel", again=False, now_ms=now_ms))
    except (NotConnected, TimedOut):
        # Repeated as it is, it would not find what it has deleted.
        return (yield from _find(keys, message_id, "cancel", again=True, now_ms=now_ms))


def reschedule(keys: QueueKeys, message_id: str, time: str, *, now_ms: int | None) -> Plan[bool]:
    """Give a message that nobody has taken another time; the result is whether it was there."""
    return _find(keys, message_id, time, again=True, now_ms=now_ms)


def _find(
    keys: QueueKeys, message_id: str, verb: str, *, again: bool, now_ms: int | None
) -> Plan[bool]:
    at: Any = 0
    while True:
        arguments: list[Argument] = [
            message_id,
            _time(now_ms),
            verb,
            int(again and verb == "cancel"),
        ]
        command = _FIND.call(keys.listed, [*arguments, at, ELEMENTS_A_CALL])
        answer = yield Op((command,), decode=_first, repeatable=again)
        if isinstance(answer, int):
            return bool(answer)
        (at,) = answer


def cancel_running(keys: QueueKeys, message_id: str, *, now_ms: int | None) -> Plan[bool]:
    """Move a message in flight to the dead letters and tell its consumer; False: none has this id."""
    try:
        done: bool = yield _cancel_running(keys, message_id, again=False, now_ms=now_ms)
    except (NotConnected, TimedOut):
        # Repeated as it is, it would not find what it has cancelled.
        done = yield _cancel_running(keys, message_id, again=True, now_ms=now_ms)
    return done


def _cancel_running(
    keys: QueueKeys, message_id: str, *, again: bool, now_ms: int | None
) -> Op[bool]:
    command = _CANCEL.call(keys.listed, [message_id, _time(now_ms), int(again)])
    return Op((command,), decode=lambda replies: bool(replies[0]), repeatable=again)


def _time(now_ms: int | None) -> int | str:
    return "" if now_ms is None else now_ms


def _nothing(_: list[Any]) -> None:
    return None


def _first(replies: list[Any]) -> Any:
    return replies[0]
