"""Commands to bytes, with hiredis: a fifth of what redis-py's own packing costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hiredis

from millstream.protocol.op import Command

__all__ = ["pack"]

# Its type hints know only tuples of one.
_pack: Any = hiredis.pack_command


def pack(commands: Sequence[Command]) -> bytes:
    """Turn commands into what goes over the wire, in one piece."""
    if len(commands) == 1:
        return _packed(commands[0])
    return b"".join([_packed(command) for command in commands])


def _packed(command: Command) -> bytes:
    # hiredis 3.5 crashes when a signal handler raises while it turns a number into text.
    texts = [b"%d" % part if type(part) is int else part for part in command.arguments]
    packed: bytes = _pack(tuple(texts))
    return packed
