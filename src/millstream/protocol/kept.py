"""What a queue keeps of the messages that were handled: how it is kept, and sent again.

A kept message is an entry of the stream ``kept``, whose id is the time at which it was handled. The
script that acknowledges it puts it there, so it is kept once for each acknowledgement.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from millstream.errors import UsageError
from millstream.policy import Retain
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Argument, Command, Op, Pause, Plan, load_script
from millstream.protocol.partitions import declared
from millstream.protocol.replay import Span, span
from millstream.protocol.send import REMEMBERED_MS
from millstream.protocol.settlement import Settlement

__all__ = ["ends_of", "purge_kept", "resend", "span_of"]

_RESEND = load_script("resend")

ENTRIES_A_CALL = 500
"""Bounds the time that one call keeps the server busy: a few milliseconds at most."""


def ends_of(
    acks: Sequence[bytes],
    settlements: Sequence[Settlement],
    keep: Retain | None,
    results_at: int = 0,
) -> list[Argument]:
    """Return the ends of deliveries as the scripts take them (see ``lua/lib/round.lua``).

    Args:
        acks: tokens of plain acks, all of the ready lane.
        settlements: the others.
        keep: what is kept of what is acknowledged; None: nothing.
        results_at: the number of the first key of results; 0: none is kept.
    """
    if keep is None:
        ends: list[Argument] = [len(acks), *acks]
    else:
        # What is kept has to be read, so there are no plain acks.
        settlements = [*(Settlement("finish", token) for token in acks), *settlements]
        bounds = (keep.max_age_ms, keep.max_length, keep.max_bytes)
        ends = [0, "keep", *("" if one is None else one for one in bounds), ""]
    if results_at:
        ends += ["results", results_at, "", "", ""]
    for end in settlements:
        verb = "finish" if keep is not None and end.verb == "ack" else end.verb
        ends += [verb, end.token, end.delay_ms, int(end.failed), end.note]
    return ends


def span_of(since: datetime | str | None, until: datetime | str | None) -> Span:
    """Say which kept messages of a partition somebody wants.

    Args:
        since: handled at this time or later; None: from the first on.
        until: handled before this time; None: to the last.

    Raises:
        UsageError: one of them is no time with a zone.
    """
    for name, moment in (("since", since), ("until", until)):
        if moment is not None and not isinstance(moment, datetime):
            message = (
                f"{name} must be a datetime for a queue, not {moment!r}: what it keeps is in the order "
                "of handling, and an id tells when a message was sent"
            )
            raise UsageError(message)
    return span(since, until, 0)


def resend(keys: QueueKeys, wanted: Span, *, producer: str, rate: float | None) -> Plan[int]:
    """Send kept messages again; the result is how many. Those that are kept meanwhile are left out.

    Args:
        keys: of the queue, partition 0.
        wanted: which of them.
        producer: a name that nobody else has: a call whose answer was lost is told by it.
        rate: most messages a second; None: as fast as the server can.
    """
    count: int = yield declared(keys)
    # All of the ends first: what is sent again may be handled, and kept, while we are at it.
    lasts: list[bytes | None] = []
    for partition in range(count):
        kept = keys.at(partition).kept
        look = Command(("XREVRANGE", kept, wanted.last, wanted.first, "COUNT", 1))
        newest = yield Op((look,), decode=_first)
        lasts.append(newest[0][0] if newest else None)
    total = 0
    for partition, last in enumerate(lasts):
        if last is not None:
            part = (wanted.first, last)
            total += yield from _resend(keys.at(partition), part, producer, rate)
    return total


def _resend(
    keys: QueueKeys, part: tuple[str, bytes], producer: str, rate: float | None
) -> Plan[int]:
    # A tenth of a second's worth a step, so that a low rate does not come in bursts.
    most = ENTRIES_A_CALL if rate is None else max(1, min(ENTRIES_A_CALL, round(rate / 10)))
    script_keys = [*keys.common, keys.producer(producer), keys.kept]
    start: bytes | str = part[0]
    number = total = 0
    while start:
        number += 1
        arguments: list[Argument] = [number, REMEMBERED_MS, "", start, part[1], most]
        start, sent = yield Op((_RESEND.call(script_keys, arguments),), decode=_first)
        total += sent
        if start and sent and rate is not None:
            yield Pause(sent / rate)
    return total


def purge_kept(keys: QueueKeys) -> Plan[int]:
    """Delete what one partition keeps; the result is how many messages."""
    deleted: int = yield Op((Command(("XTRIM", keys.kept, "MAXLEN", 0)),), decode=_first)
    return deleted


def _first(replies: list[Any]) -> Any:
    return replies[0]
