"""The order of the tests: the long ones begin first, or the end of a run would be waiting for the last of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import pytest

__all__ = ["is_long", "long_first"]


def is_long(item: pytest.Item) -> bool:
    """True of a test that is marked `slow`, or has a time limit of its own."""
    return any(item.get_closest_marker(name) for name in ("slow", "timeout"))


def long_first(
    items: Sequence[pytest.Item], long: Sequence[pytest.Item], workers: int
) -> list[pytest.Item]:
    """Return the tests in as many blocks as there are workers, each with its part of the long ones first.

    Each worker begins with a block, and takes from the end of another's when it is done (`--dist worksteal`).

    Args:
        items: all tests, in the order in which they would be run.
        long: those that take long.
        workers: their number.
    """
    known = {*map(id, long)}
    others = iter([item for item in items if id(item) not in known])
    ordered: list[pytest.Item] = []
    for number in range(workers):
        # As pytest-xdist divides them.
        end = len(ordered) + (len(items) - len(ordered)) // (workers - number)
        ordered += long[number::workers]
        ordered += islice(others, max(0, end - len(ordered)))
    return [*ordered, *others]
