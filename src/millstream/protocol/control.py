"""Flow control by people: pause and resume a queue, cancel what runs, and how workers hear of it.

A pause costs nothing on the way of a message: it moves the consumer groups behind the last
possible entry (docs/adr/0007).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from millstream.errors import NotConnected, TimedOut, UsageError
from millstream.protocol import consume, lists, waiting
from millstream.protocol.envelope import Envelope
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Command, Op, Plan, load_script

__all__ = [
    "Word",
    "cancel",
    "cancel_running",
    "hear",
    "is_paused",
    "look",
    "now",
    "pause",
    "resume",
]

_PAUSE = load_script("pause")
_RESUME = load_script("resume")
_CANCEL = load_script("cancel_running")

MOST_WOKEN = 1000
"""Sleeping readers that a resume wakes at once. More are woken by the next messages."""

_TEXTS = (b"op", b"id")

ENTRIES_A_CALL = 200
"""Bounds the time that one call keeps the server busy: about a millisecond."""

WORDS_A_READ = 200
"""Of each stream: a call to all workers of an endpoint may be 64 KiB long."""

LOOKS = 4
"""A message may go from one place to the other under our eyes: begin while we look among those that
wait, and be handed back or tried again while we look among those that run."""


class Word(msgspec.Struct, frozen=True):
    """What live workers are told.

    Attributes:
        queue: key of the control stream that said it.
        op: ``pause``, ``resume``, ``seek``, ``members``, ``cancel``, ``call``, or ``withdrawn``: the
            caller of a request waits no more.
        id: for ``cancel``: of the message.
        token: for ``cancel`` and ``withdrawn``: the delivery that is over.
        call: for ``call``: what all workers of an endpoint are asked.
    """

    queue: str
    op: str
    id: str = ""
    token: bytes = b""
    call: Envelope | None = None


def pause(keys: QueueKeys) -> Op[None]:
    """Have no consumer get a message any more. Safe to repeat.

    Raises:
        UsageError: of a subscription: it does not exist.
    """
    if keys.store == "list":
        return lists.switch(keys, "pause")
    command = _PAUSE.call([*keys.lanes, keys.paused, keys.control], [keys.group])

    def decode(replies: list[Any]) -> None:
        if replies[0] == b"NONE":
            message = f"topic {keys.name!r} has no subscription {keys.subscription!r} to pause"
            raise UsageError(message)

    return Op((command,), decode)


def resume(keys: QueueKeys) -> Op[None]:
    """Go on where the queue was paused. Safe to repeat."""
    if keys.store == "list":
        return lists.switch(keys, "resume")
    command = _RESUME.call(
        [*keys.lanes, keys.paused, keys.control, keys.wake, keys.consumers],
        [keys.group, MOST_WOKEN],
    )
    return Op((command,), decode=_nothing)


def is_paused(keys: QueueKeys) -> Op[bool]:
    """Tell whether a queue is paused."""
    return Op((Command(("EXISTS", keys.paused)),), decode=_truth)


def look(keys: QueueKeys, consumer: str, tokens: Sequence[bytes]) -> Op[tuple[list[bytes], bool]]:
    """Begin the leases of deliveries anew; the result is the lost tokens, and whether it is paused.

    Args:
        keys: of the queue.
        consumer: who has fetched them and not begun.
        tokens: which deliveries.
    """
    extend, paused = consume.extend(keys, consumer, tokens), is_paused(keys)

    def decode(replies: list[Any]) -> tuple[list[bytes], bool]:
        return extend.decode(replies[:-1]), paused.decode(replies[-1:])

    return Op((*extend.commands, *paused.commands), decode)


def cancel(keys: QueueKeys, id: str, *, now_ms: int | None = None) -> Plan[bool]:
    """End a message that waits or runs; the result is whether it was there.

    Args:
        keys: of the queue.
        id: of the message.
        now_ms: the time, for tests; None: the server's clock.
    """
    for _ in range(LOOKS):
        for look in (waiting.cancel, cancel_running):
            if (yield from look(keys, id, now_ms=now_ms)):
                return True
    return False


def cancel_running(keys: QueueKeys, id: str, *, now_ms: int | None = None) -> Plan[bool]:
    """Move a message in flight to the dead letters and tell its consumer; False: none has this id.

    Args:
        keys: of the queue.
        id: of the message.
        now_ms: the time, for tests; None: the server's clock.

    Guarantee: it is done before a worker hears of it. So its late acknowledgement is refused, and
    it is over also when its consumer never hears.
    """
    if keys.store == "list":
        return (yield from lists.cancel_running(keys, id, now_ms=now_ms))
    lane: int = 1
    start: str | bytes = "-"
    again = 0
    script_keys = [*keys.common, keys.control, *keys.queueing]
    time = "" if now_ms is None else now_ms
    while True:
        arguments = [keys.group, id, time, lane, start, ENTRIES_A_CALL, again]
        # Repeated as it is, it would not find what it has cancelled.
        op = Op((_CANCEL.call(script_keys, arguments),), decode=_first, repeatable=False)
        try:
            answer = yield op
        except (NotConnected, TimedOut):
            if again:
                raise
            again = 1
            yield is_paused(keys)  # waits until the server is back
            continue
        if isinstance(answer, int):
            return bool(answer)
        lane, start = answer


def now(stream: str) -> Op[str]:
    """Return the id behind which a control stream tells what happens from now on.

    Args:
        stream: its key. Nodes of a cluster have clocks of their own.
    """

    def decode(replies: list[Any]) -> str:
        seconds, microseconds = replies[0]
        # What was said within this millisecond is heard once more.
        return f"{int(seconds) * 1000 + int(microseconds) // 1000 - 1}-0"

    return Op((Command(("TIME",)),), decode, near=stream)


def hear(heard: Mapping[str, str], block_ms: int) -> Op[tuple[list[Word], dict[str, str]]]:
    """Sleep at the server until somebody pauses, resumes, cancels or calls.

    Args:
        heard: keys of control streams -> id of the last entry heard.
        block_ms: the longest sleep.

    Returns:
        What was said, and the ids to go on from.
    """
    keys = (*heard.keys(), *heard.values())
    command = Command(("XREAD", "COUNT", WORDS_A_READ, "BLOCK", block_ms, "STREAMS", *keys))

    def decode(replies: list[Any]) -> tuple[list[Word], dict[str, str]]:
        words: list[Word] = []
        last = dict(heard)
        for stream, entries in replies[0] or ():
            queue = stream.decode()
            for entry, flat in entries:
                last[queue] = entry.decode()
                fields = dict(zip(flat[::2], flat[1::2], strict=True))
                op, id = (fields.get(name, b"").decode("ascii", "replace") for name in _TEXTS)
                if op == "withdrawn":
                    tokens = fields.get(b"tokens", b"").split()
                    words += [Word(queue, op, token=token) for token in tokens]
                    continue
                # The slash: a message of the queue may have the same id.
                call = Envelope(entry + b"/", flat) if op == "call" else None
                words.append(Word(queue, op, id, fields.get(b"token", b""), call))
        return words, last

    return Op((command,), decode)


def _nothing(_: list[Any]) -> None:
    return None


def _first(replies: list[Any]) -> Any:
    return replies[0]


def _truth(replies: list[Any]) -> bool:
    return bool(replies[0])
