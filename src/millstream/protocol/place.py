"""Sending messages that are more than a body: later, in order, urgent, once, or not for long.

The plain message has a script of its own (see ``send``), which knows of none of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from millstream.message import Receipt
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Argument, Command, Op, load_script
from millstream.protocol.send import REMEMBERED_MS, Batch

__all__ = ["Placement", "call", "place", "placing", "receipts"]

_PLACE = load_script("place")
_PLACE_LIST = load_script("list_place")


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """One message, and where it belongs.

    Args:
        body: encoded.
        headers: encoded; empty: none.
        key: of which messages; empty: none.
        gate: ``ordered``: the messages of the key run one after the other; a number: so many at
            a time; empty: they have nothing to do with each other.
        priority: 0 to 9.
        time: ``+`` and a delay in ms, or the ms since 1970; empty: now.
        ttl: ms within which a handler must begin, and `` drop`` if nobody misses it; empty: any.
        unique: its unique key; empty: none.
        unique_for: how long it has that key: until ``done``, ``started``, or ``window:<ms>``.
        result_ms: for how long to keep what its handler returns; 0: nobody wants it.
    """

    body: bytes
    headers: bytes = b""
    key: str = ""
    gate: str = ""
    priority: int = 0
    time: str = ""
    ttl: str = ""
    unique: str = ""
    unique_for: str = "done"
    result_ms: int = 0

    def __len__(self) -> int:
        """How many bytes it has, roughly: batches are bounded by it."""
        return len(self.body) + len(self.headers) + len(self.key) + len(self.unique)

    def arguments(self) -> tuple[Argument, ...]:
        """Return it as the script takes it."""
        priority = self.priority or ""
        unique = f"{self.unique_for}:{self.unique}" if self.unique else ""
        return (
            *(self.body, self.headers, self.key, self.gate),
            *(priority, self.time, self.ttl, unique, self.result_ms or ""),
        )


def place(
    keys: QueueKeys,
    producer: str,
    number: int,
    placements: Sequence[Placement],
    *,
    now_ms: int | None = None,
) -> Op[list[Receipt]]:
    """Accept a batch of messages.

    Args:
        keys: of the queue.
        producer: who sends; it has one batch on the wire at a time.
        number: of the batch; a repeated one stores nothing and returns its first result.
        placements: at least one.
        now_ms: the time, for tests; None: the server's clock.

    Guarantee: the messages are stored together, in this order, once.
    """
    if keys.store == "list":
        arguments: list[Argument] = [number, REMEMBERED_MS, "" if now_ms is None else now_ms]
        for one in placements:
            arguments += (one.body, one.headers, one.key, one.time, one.ttl)
        command = _PLACE_LIST.call([*keys.listed, keys.producer(producer)], arguments)
    else:
        command = call(keys, producer, number, [placements], now_ms=now_ms)
    return Op((command,), decode=_receipts)


def call(
    keys: QueueKeys,
    producer: str,
    number: int,
    units: Sequence[Sequence[Placement]],
    *,
    bound: Sequence[Argument] = ("", "", "", "", ""),
    now_ms: int | None = None,
) -> Command:
    """Return the command that accepts messages; those of a unit together or not at all.

    Args:
        keys, producer, number, now_ms: as for ``place``.
        units: at least one, none of them empty.
        bound: of the queue, as the script takes it.
    """
    arguments: list[Argument] = [number, REMEMBERED_MS, "" if now_ms is None else now_ms]
    arguments += [*bound, len(units), *(len(unit) for unit in units)]
    windows: list[str] = []
    for unit in units:
        for placement in unit:
            arguments += placement.arguments()
            if placement.unique:
                windows.append(keys.window(placement.unique))
    line = (*keys.queueing, keys.alive)
    return _PLACE.call([*keys.common, *line, keys.producer(producer), *windows], arguments)


def placing(keys: QueueKeys) -> Batch[Receipt]:
    """Return how a queue's other messages are sent."""

    def batch(
        producer: str, number: int, placements: Sequence[Placement], _: Sequence[bytes] | None
    ) -> Op[list[Receipt]]:
        return place(keys, producer, number, placements)

    return batch


def receipts(answers: Sequence[bytes]) -> list[Receipt]:
    """Read what the script says of messages that it has accepted."""
    return [
        Receipt(answer[1:].decode(), duplicate=True)
        if answer.startswith(b"=")
        else Receipt(answer.decode())
        for answer in answers
    ]


def _receipts(replies: Sequence[Any]) -> list[Receipt]:
    return receipts(replies[0])
