"""An operation on its way through a cluster: what is left of it, and where that goes.

It is the same for both drivers, and knows no socket. A node refuses a command before it has run
any of it, so refused commands are sent again one by one, whatever else their operation has done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from millstream.driver.cluster import REFUSED, Address, SlotMap, unsettled
from millstream.driver.faults import ERROR_REPLIES, code_of
from millstream.protocol.op import Op
from millstream.protocol.slots import slot_of_command, slot_of_op

__all__ = ["Errand", "Parcel", "told_by"]

HOPS = 3
"""How often in a row a redirection is followed at once; then there is a pause before."""


class Parcel(msgspec.Struct, frozen=True):
    """A part of an operation, for one node.

    Attributes:
        node: where it goes; None: nobody has its slot, as far as is known.
        asking: whether that node is still being given the slot.
        op: the part.
        indices: of its commands in the whole.
    """

    node: Address | None
    asking: bool
    op: Op[Any]
    indices: Sequence[int]


class Errand:
    """One operation, and what has come of it so far.

    Args:
        op: the operation.
    """

    def __init__(self, op: Op[Any]) -> None:
        self._op = op
        self.replies: list[Any] = [None] * len(op.commands)
        self._left: Sequence[int] = range(len(op.commands))
        self._next: list[int] = []
        self._asked: dict[int, Address] = {}
        self._hops = 0
        self._waits = False
        self.outdated = False
        """Whether the last round has shown that slots are not where they were thought to be."""
        self._refused: Exception | None = None
        self.touched = False
        """Whether any of it was sent to a node."""
        self.lost: Exception | None = None
        """What a part was lost by in the last round: nobody knows whether it was run."""
        self.moved: list[tuple[int, Address]] = []
        """What nodes have told in the last round about who has a slot."""

    @property
    def done(self) -> bool:
        """Whether all replies are there."""
        return not self._left

    def parcels(self, slots: SlotMap) -> list[Parcel]:
        """Begin a round: return what is to be sent."""
        op, left, asked = self._op, self._left, self._asked
        self._next, self._asked, self.moved, self.lost = [], {}, [], None
        self._waits = self.outdated = False
        if not op.scattered and not asked:
            node = _owner(slots, slot_of_op(op))
            return [Parcel(node, asking=False, op=self._part(left), indices=left)]
        by_node: dict[tuple[Address | None, bool], list[int]] = {}
        for index in left:
            node = asked.get(index)
            asking = node is not None
            if not asking:
                slot = slot_of_command(op.commands[index]) if op.scattered else slot_of_op(op)
                node = _owner(slots, slot)
            by_node.setdefault((node, asking), []).append(index)
        return [
            Parcel(node, asking=asking, op=self._part(some), indices=some)
            for (node, asking), some in by_node.items()
        ]

    def _part(self, indices: Sequence[int]) -> Op[Any]:
        op = self._op
        if op.scattered and op.atomic:
            # One transaction is for one slot, and a node has many.
            op = replace(op, atomic=False)
        if len(indices) == len(op.commands):
            return op
        return replace(op, commands=tuple(op.commands[index] for index in indices))

    def answered(self, parcel: Parcel, replies: Sequence[Any]) -> None:
        """Take the replies to a part."""
        self.touched = True
        if len(replies) < len(parcel.indices):
            # A refused transaction has one reply.
            replies = [*replies] * len(parcel.indices)
        for index, reply in zip(parcel.indices, replies, strict=True):
            code = code_of(reply) if isinstance(reply, ERROR_REPLIES) else ""
            if code not in REFUSED:
                self.replies[index] = reply
                continue
            self._next.append(index)
            self._refused = reply
            self.outdated = self.outdated or code in ("MOVED", "CLUSTERDOWN")
            told = told_by(reply, parcel.node)
            if told is None:
                self._waits = True
            elif code == "ASK":
                self._asked[index] = told[1]
            else:
                self.moved.append(told)

    def failed(self, parcel: Parcel, error: Exception | None) -> None:
        """Note that a part was lost; None: there was no node to send it to."""
        self._next += parcel.indices
        self._waits = self.outdated = True
        self.lost = self.lost or error
        self.touched = self.touched or error is not None

    def must_end(self) -> bool:
        """End a round; tell whether what was lost may not be sent again."""
        self._left = sorted(self._next)
        self._hops += 1
        return self.lost is not None and not self._op.repeatable

    def may_go_on(self) -> bool:
        """Tell whether the next round may begin without a pause."""
        return not self._waits and self._hops % (HOPS + 1) != 0

    def problem(self) -> Exception:
        """Return what to say when there is no more time."""
        return self.lost or unsettled(self._refused)


def told_by(reply: Exception, asked: Address | None) -> tuple[int, Address] | None:
    """Return slot and node of a redirection, MOVED or ASK.

    Args:
        reply: an error.
        asked: who has said so; a node that does not know the other's host leaves it out.
    """
    slot, host, port = (getattr(reply, name, None) for name in ("slot_id", "host", "port"))
    if slot is None or port is None:
        return None
    return int(slot), (str(host) or (asked[0] if asked else ""), int(port))


def _owner(slots: SlotMap, slot: int | None) -> Address | None:
    if slot is not None:
        return slots.owners[slot]
    return next((owner for owner in slots.owners if owner is not None), None)
