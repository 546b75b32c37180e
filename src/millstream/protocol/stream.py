"""A stream of replies, as either side counts it.

Parts have numbers from 1, and what ends a stream (``end``, ``error``, ``lost``) has the next one; so has
``waiting``, by which a producer says that it has heard nothing for long. They leave one behind the other,
so a number that was seen is a repetition, and one that is skipped tells of a loss. The producer may be ahead of what its consumer has taken by a window of parts, and no further.
"""

from __future__ import annotations

from enum import Enum

from millstream.checks import MOST_WINDOW

__all__ = ["Arrival", "Receiving", "Sending", "count_in"]


class Arrival(Enum):
    """What something with a number is to its consumer."""

    NEXT = "next"
    REPEATED = "repeated"
    MISSED = "missed"
    """It is not the next: something between is lost."""
    RESTARTED = "restarted"
    """Another producer has begun from the start, when parts of the first had been taken."""


class Sending:
    """What a producer has sent, and what its consumer has taken of that.

    Args:
        window: how far it may be ahead.
    """

    __slots__ = ("_taken", "_window", "sent")

    def __init__(self, window: int) -> None:
        self._window = max(1, min(window, MOST_WINDOW))
        self._taken = 0
        self.sent = 0

    @property
    def has_room(self) -> bool:
        """Whether one more part may leave."""
        return self.sent - self._taken < self._window

    def part(self) -> int:
        """Return the number of a part that leaves now."""
        self.sent += 1
        return self.sent

    def taken(self, count: int) -> None:
        """The consumer says how many it has taken in all. It may say so late, or twice."""
        self._taken = max(self._taken, min(count, self.sent))


class Receiving:
    """What a consumer has taken, and what its producer knows of that.

    Args:
        window: how far the producer may be ahead.

    Attributes:
        sender: who sends, as far as is known.
        taken: how many parts.
    """

    __slots__ = ("_step", "_told", "sender", "taken")

    def __init__(self, window: int) -> None:
        # Half a window: the producer hears of it before it has to wait, and not for every part.
        self._step = max(1, window // 2)
        self._told = 0
        self.sender = ""
        self.taken = 0

    def arrive(self, number: int, sender: str) -> Arrival:
        """Tell what to do with a part, or with what ends the stream.

        Args:
            number: of it; 0: it is all there is, from a handler that does not stream.
            sender: its producer; empty with number 0.
        """
        if sender != self.sender:
            if self.taken:
                return Arrival.RESTARTED
            self.sender = sender
        if number == 0 and not sender:
            return Arrival.NEXT
        if number <= self.taken:
            return Arrival.REPEATED
        return Arrival.NEXT if number == self.taken + 1 else Arrival.MISSED

    def take(self) -> bool:
        """Take the next part; the result is whether the producer is to be told."""
        self.taken += 1
        return self.taken - self._told >= self._step

    def told(self) -> int:
        """Return how many were taken; the producer is told now."""
        self._told = self.taken
        return self.taken


def count_in(content: bytes) -> int:
    """Read how many parts were taken; 0 for what is no number."""
    return int(content) if content.isdigit() and len(content) <= _MOST_DIGITS else 0


_MOST_DIGITS = 15
