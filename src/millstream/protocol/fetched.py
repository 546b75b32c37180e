"""What a fetch brings, and how the scripts tell it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from millstream.protocol.envelope import Envelope, entries_of
from millstream.protocol.limits import Outlook, envelopes_of

__all__ = ["Fetched", "fetched", "taken"]


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """What a fetch or a wait brings.

    Attributes:
        envelopes: messages that this consumer owns from now on.
        lost: tokens whose settlement was refused: another consumer owns the message by now.
        kept: token -> why it could not be settled now (the server is out of memory). This
            consumer still owns it and has to settle it again.
        next_due_ms: time to the next due message, to the microsecond; None: none waits.
        front: unread messages in the lane that is read first.
        suspect: unread messages in the lane that is read one at a time.
        now_ms: the server's time, when it did this.
        priorities: above the normal, which have messages that wait, the highest first.
        woken: ids of wake entries, to be settled with the next fetch.
        outlook: of a queue with limits, when something was to be read: what comes next.
        awaited: ids of messages that have ended and whose results somebody waits for, each followed
            by who does (see ``results``).
    """

    envelopes: list[Envelope]
    lost: Sequence[bytes] = ()
    kept: Mapping[bytes, str] = msgspec.field(default_factory=dict)
    next_due_ms: float | None = None
    front: int = 0
    suspect: int = 0
    now_ms: int = 0
    priorities: Sequence[int] = ()
    woken: Sequence[bytes] = ()
    outlook: Outlook | None = None
    awaited: Sequence[bytes] = ()


def fetched(prefixes: Sequence[bytes], replies: list[Any]) -> Fetched:
    """Read what settle.lua and the reads behind it answered."""
    lost, kept, due, front, suspect, now, priorities, *awaited = replies[0]
    envelopes: list[Envelope] = []
    for prefix, reply in zip(prefixes, replies[1:], strict=True):
        if reply:
            envelopes += entries_of(reply[0][1], prefix)
    return Fetched(
        envelopes=envelopes,
        lost=lost,
        kept=_problems(kept),
        next_due_ms=None if due < 0 else due / 1000,
        front=front,
        suspect=suspect,
        now_ms=now,
        priorities=priorities,
        awaited=awaited[0] if awaited else (),
    )


def taken(replies: list[Any]) -> Fetched:
    """Read what take.lua answered."""
    lost, kept, due, now_ms, levels, kind, wait_ms, since, *rest = replies[0]
    lanes, awaited = rest[:3], rest[3:]
    return Fetched(
        envelopes=envelopes_of(lanes),
        lost=lost,
        kept=_problems(kept),
        next_due_ms=None if due < 0 else due / 1000,
        now_ms=now_ms,
        priorities=levels,
        outlook=Outlook(kind.decode(), wait_ms, tuple(since)) if kind else None,
        awaited=awaited[0] if awaited else (),
    )


def _problems(kept: Iterable[tuple[bytes, bytes]]) -> dict[bytes, str]:
    return {token: problem.decode("utf-8", "replace") for token, problem in kept}
