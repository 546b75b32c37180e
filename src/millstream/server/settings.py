"""What a server keeps on disk and in memory, and what that means for messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from millstream.errors import UsageError

__all__ = [
    "Aof",
    "SavePoint",
    "Settings",
    "parse_save",
    "parse_size",
    "persistence_warning",
    "size",
]

Aof = Literal["everysec", "always", "no"]

MB = 1024 * 1024
LEAST_MEMORY = MB
"""An empty server needs about as much, so that less refuses every send."""

_UNITS = {"": 1, "b": 1, "k": 1000, "kb": 1024, "m": 1000**2, "mb": MB}
_UNITS |= {"g": 1000**3, "gb": 1024**3}
_BINARY = (("gb", 1024**3), ("mb", MB), ("kb", 1024))

LARGEST = 2**31 - 1
"""The server keeps the numbers of a save point as C's int."""


@dataclass(frozen=True, slots=True, order=True)
class SavePoint:
    """A snapshot is written after so many seconds, if there were so many changes by then."""

    seconds: int
    changes: int


# What Redis and Valkey have by themselves.
USUAL_SAVE_POINTS = (SavePoint(3600, 1), SavePoint(300, 100), SavePoint(60, 10_000))


@dataclass(frozen=True, slots=True)
class Settings:
    """The same for every data node of a set-up.

    Attributes:
        save: when snapshots are written; none: never.
        aof: how often the append-only file is flushed to disk; ``no``: there is none.
        rewrite_percentage: it is rewritten when it has grown by so much since the last time; 0: never.
        rewrite_min_size: bytes below which it is not.
        maxmemory: bytes above which sends are refused; 0: no limit.
    """

    save: tuple[SavePoint, ...] = ()
    aof: Aof = "everysec"
    rewrite_percentage: int = 100
    rewrite_min_size: int = 64 * MB
    maxmemory: int = 0

    def __post_init__(self) -> None:
        if 0 < self.maxmemory < LEAST_MEMORY:
            message = f"{self.maxmemory} bytes of memory hold no message: give maxmemory as in 512mb or 2gb"
            raise UsageError(message)


def parse_save(words: Sequence[str], aof: Aof) -> tuple[SavePoint, ...]:
    """Read save points.

    Args:
        words: each ``SECONDS:CHANGES``, or one ``""`` for none at all. Nothing: none beside an
            append-only file, else those that the server has by itself.
        aof: whether there is such a file.

    Raises:
        UsageError: one is neither.
    """
    if not words:
        return () if aof != "no" else USUAL_SAVE_POINTS
    if list(words) == [""]:
        return ()
    return tuple(_save_point(word) for word in words)


def _save_point(word: str) -> SavePoint:
    found = re.fullmatch(r"([0-9]{1,10}):([0-9]{1,10})", word)
    numbers = [int(number) for number in found.groups()] if found else []
    if not numbers or not all(0 < number <= LARGEST for number in numbers):
        message = (
            f'a save point is SECONDS:CHANGES, such as 100:1, or "" alone for none, not {word!r}'
        )
        raise UsageError(message)
    return SavePoint(*numbers)


def parse_size(text: str) -> int:
    """Read a size in bytes, as the server writes it: ``1kb`` is 1024, ``1k`` is 1000.

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"([0-9]{1,19})([a-z]{0,2})", text.strip().lower())
    factor = _UNITS.get(found[2]) if found else None
    if found is None or factor is None or (number := int(found[1]) * factor) >= 2**63:
        message = (
            f"a size is a number of bytes or one with kb, mb or gb, such as 64mb, not {text!r}"
        )
        raise UsageError(message)
    return number


def size(number: int) -> str:
    """Write a size in the largest unit in which it is whole."""
    for unit, factor in _BINARY:
        if number and number % factor == 0:
            return f"{number // factor}{unit}"
    return str(number)


def persistence_warning(settings: Settings) -> str | None:
    """Say what these settings lose that a user may not expect; None: they keep it all but a second."""
    if settings.aof != "no":
        return None
    if not settings.save:
        return (
            "nothing is written to disk: a restart of the server loses every queued message. "
            "Leave out --aof no, or give --save SECONDS:CHANGES"
        )
    soonest = min(settings.save)
    return (
        "there are only snapshots: when the server is killed or its machine fails, all messages "
        f"since the last one are lost (after {soonest.changes} changes in {soonest.seconds} s the next "
        "begins; an orderly stop writes one). --aof everysec loses a second at most"
    )
