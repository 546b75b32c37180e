"""Queues with a bound: sends that are stored whole, or refused for lack of room.

How producers wait for room is in ``line``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from millstream.errors import QueueFull, UsageError
from millstream.message import Receipt
from millstream.policy import Bound
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Op
from millstream.protocol.place import Placement, call, receipts
from millstream.protocol.send import Batch

__all__ = ["Outcome", "Unit", "bounding", "check_fits", "place_units", "queue_full"]


class Unit(msgspec.Struct, frozen=True):
    """Messages that are stored together or not at all."""

    placements: Sequence[Placement]

    def __len__(self) -> int:
        """How many bytes they have, roughly: batches are bounded by it."""
        return sum(len(placement) for placement in self.placements)

    @property
    def unique(self) -> bool:
        """Whether another message may stand for it: messages with a unique key are sent alone."""
        return bool(self.placements[0].unique)


MOST_TOGETHER = 100_000
"""Messages of one unit, which goes in one call: it keeps the server busy for about a second, and
Redis 6.2 takes no more than a million arguments."""

Outcome = list[Receipt] | QueueFull
"""What came of a unit."""


def place_units(
    keys: QueueKeys,
    bound: Bound,
    producer: str,
    number: int,
    units: Sequence[Unit],
    *,
    ticket: str = "",
    now_ms: int | None = None,
) -> Op[list[Outcome]]:
    """Accept units of messages, as far as there is room for them.

    Args:
        keys: of the queue.
        bound: of the queue.
        producer: who sends; it has one batch on the wire at a time.
        number: of the batch; a repeated one stores nothing and returns its first result.
        units: at least one, none of them empty or larger than the bound (see ``check_fits``).
        ticket: that the producer has, if it waits for room; empty: none.
        now_ms: the time, for tests; None: the server's clock.

    Guarantee: each unit is stored whole or not at all, and the queue is not longer than its bound
    after it. With ``wait``, the first unit that is not stored has the producer's ticket, in the
    same moment, and no later one is stored before it.
    """
    sizes = [len(unit.placements) for unit in units]
    line = (bound.length, bound.on_full, keys.group, producer, ticket)
    placements = [unit.placements for unit in units]
    command = call(keys, producer, number, placements, bound=line, now_ms=now_ms)

    def decode(replies: Sequence[Any]) -> list[Outcome]:
        answers: Sequence[bytes] = replies[0]
        outcomes: list[Outcome] = []
        end = 0
        for size in sizes:
            of_unit, end = answers[end : end + size], end + size
            full = next((one for one in of_unit if one.startswith(b"!")), None)
            outcomes.append(
                receipts(of_unit)
                if full is None
                else queue_full(keys.name, bound, int(full[1:]), size)
            )
        return outcomes

    return Op((command,), decode)


def bounding(keys: QueueKeys, bound: Bound) -> Batch[list[Receipt]]:
    """Return how units are sent to a queue with a bound whose sends do not wait."""

    def batch(
        producer: str, number: int, units: Sequence[Unit], _: Sequence[bytes] | None
    ) -> Op[list[Outcome]]:
        return place_units(keys, bound, producer, number, units)

    return batch


def check_fits(queue: str, bound: Bound, size: int) -> None:
    """Refuse what no queue with this bound ever has room for, and what is too much for one call.

    Raises:
        UsageError: so many messages are more than that.
    """
    if size > bound.length:
        message = (
            f"queue {queue!r} can never take {size} messages at once: its bound is {bound.length}, "
            "and send_many sends all of them or none. Send fewer at a time"
        )
        raise UsageError(message)
    if size > MOST_TOGETHER:
        message = (
            f"queue {queue!r} has a bound, so that {size} messages would go in one call, which "
            f"takes {MOST_TOGETHER} at most. Send fewer at a time"
        )
        raise UsageError(message)


def queue_full(
    queue: str, bound: Bound, length: int, size: int, *, waited: float | None = None
) -> QueueFull:
    """Say that there is no room.

    Args:
        queue: its name.
        bound: of it.
        length: how many messages it has.
        size: how many were to be sent.
        waited: for so many seconds; None: not at all.
    """
    what = "nothing was sent" if size == 1 else f"none of {size} messages were sent"
    if waited is not None:
        what += f" within {waited:.3g} s"
    why = {
        "reject": "try again when the workers have caught up",
        "wait": "there was no room in time: let the workers catch up, or wait longer (Bound.timeout)",
        "drop_oldest": "not enough of them could be dropped, for the workers have begun with the others",
    }[bound.on_full]
    message = f"queue {queue!r} is full, it has {length} messages and its bound is {bound.length}; {what}; {why}"
    return QueueFull(message, queue=queue, length=length, bound=bound.length)
