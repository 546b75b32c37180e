"""Ids of messages: those of stream entries, with the partition behind them where there are several."""

from __future__ import annotations

import re
from typing import TypeGuard

from millstream.errors import UsageError

__all__ = ["check_id", "is_id"]

_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})(/[0-9]{1,4})?")
_END_OF_IDS = 1 << 64
"""The server refuses larger numbers in an id as no id at all."""


def is_id(value: object) -> TypeGuard[str]:
    """Tell whether a message may have this id."""
    match = _ID.fullmatch(value) if isinstance(value, str) else None
    return match is not None and all(int(part) < _END_OF_IDS for part in match.group(1, 2))


def check_id(id: object, name: str = "id") -> str:
    """Refuse what no message has as its id.

    Args:
        id: what was given.
        name: the parameter's name, for the error.

    Raises:
        UsageError: it is none.
    """
    if is_id(id):
        return id
    message = f"{name} must be the id of a message, such as 1718000000000-0, not {id!r}"
    raise UsageError(message)
