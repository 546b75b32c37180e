"""How far a message has to get before its send returns: the words for it, and what they ask for."""

from __future__ import annotations

import re

from millstream.errors import UsageError

__all__ = ["FSYNC", "MEMORY", "check_durability", "replicas_of"]

MEMORY = "memory"
"""The server has it; its persistence settings decide what a crash costs."""

FSYNC = "fsync"
"""The server's append-only file is on disk up to it."""

_REPLICAS = re.compile(r"replicas:([1-9][0-9]{0,2})")


def check_durability(durability: object, name: str) -> str:
    """Return a durability: ``memory``, ``fsync`` or ``replicas:N`` with N from 1 to 999.

    Args:
        durability: what was given.
        name: the parameter's name, for the error.

    Raises:
        UsageError: it is none.
    """
    known = isinstance(durability, str) and (
        durability in (MEMORY, FSYNC) or _REPLICAS.fullmatch(durability) is not None
    )
    if not known:
        message = (
            f"{name} must be 'memory', 'fsync' or 'replicas:N' with N from 1 to 999 "
            f"(such as 'replicas:1'), not {durability!r}"
        )
        raise UsageError(message)
    return str(durability)


def replicas_of(durability: str) -> int:
    """Return how many replicas must have a message; 0: it is not about replicas."""
    found = _REPLICAS.fullmatch(durability)
    return int(found[1]) if found else 0
