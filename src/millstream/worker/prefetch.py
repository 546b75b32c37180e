"""How many messages to hold: enough to keep the handlers busy, no more than they need.

What one worker holds, another cannot have. So with slow handlers a worker holds what it handles
and little else; with fast ones, what they handle in a few round trips.
"""

from __future__ import annotations

__all__ = ["Prefetch"]

AHEAD = 0.02
"""Seconds of work to fetch ahead: some dozens of round trips on a local network."""

PARTS = 3
"""Of what is held, one part is handled, one is on its way here, and one is on its way back."""

MOST_AHEAD = 1000
MEASURED_OVER = 0.02


class Prefetch:
    """The bound on what a reader holds, and how much of it is worth a round trip.

    Args:
        least: messages to hold at the least.
        fixed: the bound when it was declared; None: adapt to the speed of the handlers.
    """

    __slots__ = ("_count", "_fixed", "_least", "_since", "batch", "limit")

    def __init__(self, least: int, fixed: int | None) -> None:
        self._least = least
        self._fixed = fixed is not None
        self._count = 0
        self._since = 0.0
        self.limit = fixed or least
        self.batch = max(1, self.limit // PARTS)

    def handled(self, count: int, now: float) -> None:
        """Take note of handled messages.

        Args:
            count: since the last call.
            now: seconds.
        """
        if self._fixed:
            return
        self._count += count
        elapsed = now - self._since
        if elapsed < MEASURED_OVER:
            return
        ahead = min(MOST_AHEAD, round(self._count / elapsed * AHEAD))
        self._count, self._since = 0, now
        self.limit = self._least + ahead
        self.batch = max(1, self.limit // PARTS)
