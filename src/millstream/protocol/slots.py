"""Which of a cluster's 16,384 slots a key, a command or an operation belongs to."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import Any

from millstream.protocol.op import Argument, Command, Op

__all__ = ["SLOTS", "keys_of", "slot_of", "slot_of_command", "slot_of_op"]

SLOTS = 16384

_KEYLESS = frozenset(
    {
        *(
            "ACL",
            "ASKING",
            "CLIENT",
            "CLUSTER",
            "CONFIG",
            "DBSIZE",
            "ECHO",
            "EXEC",
            "HELLO",
            "INFO",
        ),
        *("LATENCY", "MULTI", "PING", "ROLE", "SCAN", "SCRIPT", "SELECT", "SENTINEL", "SLOWLOG"),
        *("TIME", "WAIT", "WAITAOF"),
    }
)
_IN_GROUPS = frozenset({"MEMORY", "XGROUP", "XINFO"})
"""Commands whose second word says what they do."""

_MANY = frozenset({"EXISTS", "DEL", "UNLINK"})
_READS = frozenset({"XREAD", "XREADGROUP"})


def slot_of(key: Argument) -> int:
    """Return the slot of a key: that of what stands between its first braces, if anything does."""
    name = key if isinstance(key, bytes) else str(key).encode()
    begin = name.find(b"{")
    if begin >= 0:
        end = name.find(b"}", begin + 1)
        if end > begin + 1:
            name = name[begin + 1 : end]
    # The same CRC16 as the server's.
    return binascii.crc_hqx(name, 0) % SLOTS


def keys_of(command: Command) -> Sequence[Argument]:
    """Return the keys, or the channel, that a command names."""
    arguments = command.arguments
    verb = arguments[0]
    if verb == "EVALSHA":
        return arguments[3 : 3 + int(arguments[2])]
    if verb in _READS:
        named = arguments[arguments.index("STREAMS") + 1 :]
        return named[: len(named) // 2]
    if verb in _KEYLESS:
        return ()
    if verb in _IN_GROUPS:
        return arguments[2:3]
    return arguments[1:] if verb in _MANY else arguments[1:2]


def slot_of_command(command: Command) -> int | None:
    """Return the slot of a command's first key; None: it has none, so any node can run it."""
    keys = keys_of(command)
    return slot_of(keys[0]) if keys else None


def slot_of_op(op: Op[Any]) -> int | None:
    """Return the slot that an operation is for; None: any node can run it."""
    if op.near is not None:
        return op.near if isinstance(op.near, int) else slot_of(op.near)
    for command in op.commands:
        if (slot := slot_of_command(command)) is not None:
            return slot
    return None
