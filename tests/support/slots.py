"""No operation touches keys that two nodes of a cluster could have; all tests together prove it."""

from __future__ import annotations

from typing import Any

from millstream.protocol.op import Command, Op
from millstream.protocol.slots import keys_of, slot_of


def watch_slots() -> None:
    """Have every operation that is made from now on in this process say so if it does."""
    make = Op.__init__

    def checked(self: Op[Any], *arguments: Any, **named: Any) -> None:
        make(self, *arguments, **named)
        scattered = stray(self)
        assert not scattered, f"keys in several slots: {scattered}"

    Op.__init__ = checked  # type: ignore[method-assign]


def stray(op: Op[Any]) -> list[Any]:
    """The keys of an operation, or of one of its commands, that do not share a slot."""
    groups = [[one] for one in op.commands] if op.scattered else [[*op.commands]]
    for commands in groups:
        keys = [key for one in commands if not _parts(one) for key in keys_of(one)]
        if len({slot_of(key) for key in keys}) > 1:
            return keys
    return []


def _parts(command: Command) -> bool:
    # A sleeping read may ask for what is in several slots: a cluster refuses it before it sleeps, and
    # then there is one for each (worker/control.py, aio/sleepers.py). So may a transaction: there is
    # nothing that could be done for it instead, and its user is told (protocol/transaction.py).
    transacts = command.script is not None and command.script.name == "transact"
    return transacts or "BLOCK" in command.arguments
