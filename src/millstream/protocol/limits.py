"""Limits: reading no more than the rate and the number of running deliveries of a queue allow.

One script settles, computes how much may be delivered, and reads it. What it reads is converted
twice, which a queue without limits is spared (docs/adr/0002).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from millstream.policy import Limits
from millstream.protocol.envelope import Envelope, entries_of
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Argument, Command, load_script

__all__ = ["Outlook", "envelopes_of", "take"]

_TAKE = load_script("take")

_ANSWERED = ("s", "f", "")
"""The lanes by the prefix of their tokens, in the order of the script's answer."""


class Outlook(msgspec.Struct, frozen=True):
    """What a look at a queue with limits tells of the next one.

    Attributes:
        kind: ``more``: there is more, look again; ``tokens``: the rate is used up; ``slots``: as
            many run as may; ``empty``: nothing waits; ``paused``: the queue is, which only a
            list queue says.
        wait_ms: for ``tokens``: when to look again.
        since: for ``empty``: the last ids of wake, ready, front and suspect; for ``paused``: that
            of control.
    """

    kind: Literal["more", "tokens", "slots", "empty", "paused"]
    wait_ms: int = 0
    since: tuple[bytes, ...] = ()


def take(
    keys: QueueKeys,
    limits: Limits,
    reads: Sequence[tuple[str, int]],
    *,
    head: Sequence[Argument],
    tail: Sequence[Argument],
    further: Sequence[str] = (),
) -> Command:
    """Return the command that settles, and reads as much as the limits allow.

    Args:
        keys: of the queue.
        limits: of the queue.
        reads: prefixes of lanes, each with how many messages to read at most; all but suspects
            together, whatever the lane.
        head: the script's arguments before the limits.
        tail: its arguments behind them: what to settle.
        further: keys of results, if the queue has any, and of what it keeps, if it does.
    """
    rate = limits.rate
    bucket = (rate.count, rate.per_ms, rate.most_at_once) if rate else (0, 0, 0)
    most = max((count for prefix, count in reads if prefix != "s"), default=0)
    suspects = any(prefix == "s" for prefix, _ in reads)
    arguments = [*head, limits.max_running or 0, *bucket, most, int(suspects), *tail]
    return _TAKE.call([*keys.common, keys.rate, *keys.queueing, *further], arguments)


def envelopes_of(lanes: Sequence[Sequence[Any]]) -> list[Envelope]:
    """Read the entries that the script has answered with, lane by lane."""
    return [
        envelope
        for prefix, entries in zip(_ANSWERED, lanes, strict=True)
        for envelope in entries_of(entries, prefix.encode())
    ]
