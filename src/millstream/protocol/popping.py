"""At most once: what is taken is deleted in the same step, and gone from the queue.

A stream is read by a plain XREADGROUP that leaves nothing pending, in one transaction with the
script that deletes what it has read: what a script returns by itself costs three quarters of the
throughput (docs/adr/0015). A list is popped by a script, whose flat answer costs next to nothing.

What a consumer hands back goes with the message, since the server has it no more. Each such end
has a number; a call that is repeated after a lost reply does nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any

from millstream.protocol.envelope import Envelope, entries_of
from millstream.protocol.fetched import Fetched
from millstream.protocol.keys import QueueKeys
from millstream.protocol.limits import Outlook
from millstream.protocol.op import Argument, Command, Op, load_script
from millstream.protocol.settlement import Settlement

__all__ = ["hold", "pop", "tidy"]

_BEGIN = load_script("pop_begin")
_END = load_script("pop_end")
_LIST = load_script("list_pop")
_TIDY = load_script("tidy")

PROMOTED_AT_ONCE = 200
"""Bounds the time that one call keeps the server busy: about a millisecond."""

FORGOTTEN_AFTER_MS = 300_000
"""A consumer that has not asked for messages this long is removed, as by a sweep."""


def pop(
    keys: QueueKeys,
    consumer: str,
    returns: Sequence[Settlement],
    reads: Sequence[tuple[str, int]],
    *,
    urgent: str = "",
    now_ms: int | None = None,
) -> Op[Fetched]:
    """Take messages for good; before that, hand back some that were taken, and promote what is due.

    Args:
        keys: of the queue.
        consumer: who takes them.
        returns: what comes back of earlier ones, with their envelopes and numbers: ``release`` (to
            the front), ``reject``, ``expire``, or ``fail`` (it is only counted). What has a number
            up to that of the last call is done already, and left out.
        reads, urgent, now_ms: as for ``consume.fetch``.

    Guarantee: a message comes to one consumer, once. It is not repeatable: what a lost reply
    brought is gone.
    """
    ends: list[Argument] = []
    for end in returns:
        ends += _told(end)
    tokens = {end.number: end.token for end in returns}
    time: Argument = "" if now_ms is None else now_ms
    if keys.store == "list":
        return _pop_list(keys, consumer, reads, [consumer, time, PROMOTED_AT_ONCE], ends, tokens)
    arguments = [keys.group, consumer, time, PROMOTED_AT_ONCE, urgent, *ends]
    commands = [_BEGIN.call([*keys.common, keys.returned(consumer)], arguments)]
    for prefix, count in reads:
        read = ("XREADGROUP", "GROUP", keys.group, consumer, "COUNT", count, "NOACK", "STREAMS")
        commands.append(Command((*read, keys.lane(prefix), ">")))
    commands.append(_END.call([*keys.common, *keys.queueing], [keys.group, time]))
    decode = partial(_popped, [prefix.encode() for prefix, _ in reads], tokens)
    return Op(tuple(commands), decode, repeatable=False, atomic=True)


def _popped(prefixes: Sequence[bytes], tokens: Mapping[int, bytes], replies: list[Any]) -> Fetched:
    """Read what the scripts answered, and the reads between them."""
    (kept, refused), *read, told = replies
    due, front, suspect, ready, now, priorities, since = told
    envelopes: list[Envelope] = []
    for prefix, reply in zip(prefixes, read, strict=True):
        if reply:
            envelopes += entries_of(reply[0][1], prefix)
    # Without memory for what is due or urgent the consumer must not spin.
    due_ms = 1000 if refused else None if due < 0 else due / 1000
    more = front or suspect or ready or (priorities and not refused)
    return Fetched(
        envelopes=envelopes,
        kept=_kept(kept, tokens),
        next_due_ms=due_ms,
        front=front,
        suspect=suspect,
        now_ms=now,
        priorities=() if refused else priorities,
        outlook=Outlook("more" if more else "empty", 0, tuple(since)),
    )


def _pop_list(
    keys: QueueKeys,
    consumer: str,
    reads: Sequence[tuple[str, int]],
    head: Sequence[Argument],
    ends: Sequence[Argument],
    tokens: Mapping[int, bytes],
) -> Op[Fetched]:
    most = sum(count for _, count in reads)
    command = _LIST.call([*keys.listed, keys.returned(consumer)], [*head, most, *ends])

    def decode(replies: list[Any]) -> Fetched:
        kept, due, now, paused, elements = replies[0]
        return Fetched(
            envelopes=[_element(one) for one in elements],
            kept=_kept(kept, tokens),
            next_due_ms=None if due < 0 else due / 1000,
            now_ms=now,
            outlook=Outlook("paused", 0, (paused,)) if paused else None,
        )

    return Op((command,), decode, repeatable=False)


def _element(element: Any) -> Envelope:
    """Read an element of a list: most are a line with the id, and a body behind it."""
    if isinstance(element, bytes):
        ends = element.index(b"\n")
        return Envelope(element[4:ends], (b"b", element[ends + 1 :]))
    id, fields = element
    return Envelope(id, fields)


def _told(end: Settlement) -> tuple[Argument, ...]:
    """Return an end as the scripts take it."""
    envelope = end.envelope
    if envelope is None:
        message = f"{end.verb} of {end.token!r}: what is gone from the queue comes back by itself"
        raise ValueError(message)
    if end.verb == "fail":
        return end.number, end.verb, "", "", 0
    fields = envelope.fields
    return end.number, end.verb, envelope.state.id, end.note, len(fields), *fields


def _kept(kept: Sequence[tuple[int, bytes]], tokens: Mapping[int, bytes]) -> dict[bytes, str]:
    return {tokens[number]: problem.decode("utf-8", "replace") for number, problem in kept}


def hold(in_hand: MutableMapping[bytes, Envelope], envelopes: Iterable[Envelope]) -> None:
    """Put what was taken to what is in hand already, by its token.

    In a list, two elements may have one id, if somebody else has pushed a copy. No two deliveries
    that are in hand at a time have the same token.
    """
    for envelope in envelopes:
        while envelope.token in in_hand:
            envelope.token += b"/"
        in_hand[envelope.token] = envelope


def tidy(keys: QueueKeys, consumer: str) -> Command:
    """Return the command that removes consumers of a stream queue that are long gone."""
    return _TIDY.call([*keys.common, keys.consumers], [keys.group, consumer, FORGOTTEN_AFTER_MS])
