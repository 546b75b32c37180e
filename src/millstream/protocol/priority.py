"""Which priorities to read how much of, when low ones must not starve."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["shares"]


def shares(levels: Sequence[int], free: int, luck: float) -> dict[int, int]:
    """Divide what a consumer can take among the priorities that have messages.

    A message of priority p has p + 1 times the chance of a normal one.

    Args:
        levels: the priorities; 0 is the normal one.
        free: how many messages the consumer can take.
        luck: a number from 0 to 1 that places the roundings; over many calls with evenly spread
            ones, each priority gets its share, also when there is room for one message a call.
    """
    total = sum(level + 1 for level in levels)
    taken: dict[int, int] = {}
    before, weights = math.floor(luck), 0
    for level in levels:
        weights += level + 1
        # Systematic sampling: whoever has the next multiple of 1 / free in his stretch gets it.
        after = math.floor(free * weights / total + luck)
        taken[level] = after - before
        before = after
    return taken
