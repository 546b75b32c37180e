"""What a transaction has gathered: outputs and plain writes, checked as they come, sent at the commit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from millstream.declare import Queue
from millstream.errors import UsageError
from millstream.policy import Duration, milliseconds
from millstream.protocol.op import Argument
from millstream.protocol.place import Placement
from millstream.protocol.publish import Publication
from millstream.topic import Topic

__all__ = [
    "MOST",
    "Draft",
    "Output",
    "Write",
    "amount_of",
    "encode_value",
    "encode_values",
    "lifetime_of",
    "pairs_of",
]

MOST = 1000
"""Outputs, and arguments of writes, in one transaction: it is one call, and the server does nothing else
meanwhile. A thousand messages take it some ten milliseconds."""

_LARGEST = 2**62
"""Amounts of a counter: two of them still fit into 64 bits."""


class Output(msgspec.Struct, frozen=True):
    """One message that a transaction sends or publishes."""

    target: Queue[Any] | Topic[Any]
    message: Placement | Publication


class Write(msgspec.Struct, frozen=True):
    """One plain write to a key of the user's own."""

    verb: str
    key: str
    arguments: tuple[Argument, ...]

    def __repr__(self) -> str:
        """Name it without its values, which may be secret."""
        return f"{self.verb} {self.key!r}"


class Draft:
    """The content of a transaction, in the order in which it was asked for.

    Args:
        title: of the source of the delivery, for errors.

    Attributes:
        outputs: messages to send or publish.
        writes: to other keys.
        result: of the delivery's message, encoded; empty: none was given.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._size = 0
        self.outputs: list[Output] = []
        self.writes: list[Write] = []
        self.result = b""

    def put(self, target: Queue[Any] | Topic[Any], message: Placement | Publication) -> None:
        """Add a message.

        Raises:
            UsageError: it is one too many.
        """
        self._grow(1)
        self.outputs.append(Output(target, message))

    def write(self, verb: str, key: str, *arguments: Argument) -> None:
        """Add a write.

        Raises:
            UsageError: the key is none, or it is one too many.
        """
        if not isinstance(key, str) or not key:
            message = f"a key must be a text, and not empty, not {key!r}"
            raise UsageError(message)
        encode_value(key, "a key")
        self._grow(max(1, len(arguments)))
        self.writes.append(Write(verb, key, arguments))

    def _grow(self, count: int) -> None:
        if self._size + count > MOST:
            message = (
                f"{self.title}: a transaction takes {MOST} messages and values at most, for the server "
                "does nothing else meanwhile. Do the rest in further steps: send a message that says "
                "where to go on"
            )
            raise UsageError(message)
        self._size += count


def encode_value(value: object, name: str = "value") -> bytes:
    """Return a value as the server keeps it: a text in UTF-8, a number by its digits.

    Raises:
        UsageError: it is none of ``str``, ``bytes``, ``int`` and ``float``.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            message = f"{name} cannot be encoded: {error}"
            raise UsageError(message) from error
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value).encode()
    message = (
        f"{name} must be str, bytes, int or float, not {type(value).__name__}: encode it first"
    )
    raise UsageError(message)


def encode_values(values: tuple[object, ...], verb: str) -> list[bytes]:
    """Return the values of a write.

    Raises:
        UsageError: there are none, or one of them cannot be stored.
    """
    if not values:
        message = f"{verb} needs one value at least"
        raise UsageError(message)
    return [encode_value(value) for value in values]


def pairs_of(mapping: Mapping[Any, object], verb: str, *, scores: bool = False) -> list[bytes]:
    """Return the pairs of a mapping as the server takes them.

    Args:
        mapping: field -> value, or member -> score.
        verb: for errors.
        scores: whether its values are scores, which the server wants first.

    Raises:
        UsageError: it is empty, no mapping, or has something in it that cannot be stored.
    """
    if not isinstance(mapping, Mapping) or not mapping:
        message = f"{verb} needs a mapping with one pair at least, not {mapping!r}"
        raise UsageError(message)
    pairs: list[bytes] = []
    for name, value in mapping.items():
        if scores and (not isinstance(value, int | float) or math.isnan(value)):
            message = f"{verb}: a score must be a number, not {value!r}"
            raise UsageError(message)
        pair = [encode_value(name, "field"), encode_value(value)]
        pairs += reversed(pair) if scores else pair
    return pairs


def amount_of(amount: object) -> int:
    """Return what is added to a counter.

    Raises:
        UsageError: it is no whole number, or too large for a counter of 64 bits.
    """
    if not isinstance(amount, int) or isinstance(amount, bool) or abs(amount) > _LARGEST:
        message = f"amount must be a whole number of 63 bits at most, not {amount!r}"
        raise UsageError(message)
    return amount


def lifetime_of(seconds: Duration, name: str) -> int:
    """Return a time to live in ms.

    Raises:
        UsageError: it is no duration, or less than a millisecond.
    """
    return milliseconds(seconds, name, minimum=0.001)
